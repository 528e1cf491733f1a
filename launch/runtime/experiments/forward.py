"""Which words of a command line go to which training: flags of several algorithms in one line."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from agents.registry import algorithm_class
from launch.runtime.algorithm_flags import add_algorithm_flags, algorithm_options, explain_unknown
from launch.runtime.errors import UsageError, hint
from launch.runtime.flag_parser import FlagParser, UnknownFlag
from launch.runtime.flags import common_flags

_ITEMS = ("hyperparam", "sweep")  # flags whose values name options of an algorithm


def share_out(argv: Sequence[str], own: FlagParser, algos: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Split a command line into the words of this command and those of the training of each algorithm.

    A flag, or an item of `--hyperparam` or `--sweep`, goes to every algorithm that has it.

    Args:
        argv: The command line, in any spelling.
        own: Flags of this command; they come first.
        algos: Algorithms that are trained.

    Returns:
        Words `--name=value` of this command, and of each algorithm by its name.

    Raises:
        UsageError: A flag or an item that nothing here has, or a value that is missing.
    """
    parsers, options = {}, {}
    for algo in algos:
        parsers[algo] = common_flags()
        options[algo] = add_algorithm_flags(parsers[algo], algo)
    ours: list[str] = []
    theirs: dict[str, list[str]] = {algo: [] for algo in algos}
    waiting = deque(argv)
    while waiting:
        try:
            ours += own.take(waiting)
        except UnknownFlag as error:
            waiting = _give(waiting, parsers, theirs, error)
    _sort_items(theirs, options)
    return ours, theirs


def _give(
    waiting: deque[str], parsers: dict[str, FlagParser], theirs: dict[str, list[str]], error: UnknownFlag
) -> deque[str]:
    """Give the first flag to every training that has it; return the rest of the command line."""
    rest: deque[str] | None = None
    for algo, parser in parsers.items():
        after = deque(waiting)
        try:
            words = parser.take(after)
        except UnknownFlag as unknown:
            error = unknown
            continue
        if rest is not None and after != rest:
            raise UsageError(f"{error.spelling} takes a value in one of {', '.join(parsers)} and none in another")
        theirs[algo] += words
        rest = after
    if rest is None:
        raise explain_unknown(error, " or ".join(parsers))
    return rest


def _sort_items(theirs: dict[str, list[str]], options: dict[str, list[str]]) -> None:
    """Leave each `--hyperparam` and `--sweep` item with the algorithms that know its name; one alone keeps all."""
    if len(theirs) < 2:
        return
    known = {algo: {*names, *_further(algo)} for algo, names in options.items()}
    everywhere = sorted(set().union(*known.values()))
    for algo, words in theirs.items():
        kept = []
        for word in words:
            flag, _, item = word[2:].partition("=")
            name = item.partition(":")[0].replace("-", "_")
            if flag in _ITEMS and name not in everywhere:
                raise UsageError(f"--{flag} {item}: none of {', '.join(theirs)} has {name}{hint(name, everywhere)}")
            if flag not in _ITEMS or name in known[algo]:
                kept.append(word)
        theirs[algo] = kept


def _further(algo: str) -> list[str]:
    """Hyperparameters that a learner without declared options names by `getOptParam`."""
    return [] if algorithm_options(algo) else list(algorithm_class(algo)().getOptParam() or {})
