"""Flags of one algorithm: declared from its `Config` and `Hyper`, or by its own `customArguments`.

A built-in algorithm is registered as "module:Class" and its options are read without importing it, so that `--help`
and errors are quick; a class in the registry is asked directly.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from agents.options import Option, declared, options_of, validate
from agents.registry import algorithm_class, registered_rl
from launch.runtime.errors import UsageError, hint
from launch.runtime.flag_parser import FlagParser, UnknownFlag

_declared = functools.cache(declared)  # a parse asks several times


def option_classes(algo: str) -> tuple[Any, Any] | None:
    """Return (`Config`, `Hyper`) of a registered algorithm, None where its class declares none."""
    entry = registered_rl[algo][0]
    if isinstance(entry, str):
        try:
            return _declared(entry.partition(":")[0])
        except (ValueError, NameError):  # a module of another shape: its class must be imported and asked
            entry = algorithm_class(algo)
    if hasattr(entry, "Config") and hasattr(entry, "Hyper"):
        return entry.Config, entry.Hyper
    return None


def algorithm_options(algo: str) -> list[Option]:
    """Return the declared options of a registered algorithm, none where its class declares none."""
    classes = option_classes(algo)
    return options_of(*classes) if classes else []


def config_and_hyper(args: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of the algorithm's `Config` and `Hyper` fields, by name; a sweep's values are in `args.sweep`.

    Raises:
        ValueError: A value is invalid.
    """
    config: dict[str, Any] = {}
    hyper: dict[str, Any] = {}
    for option in algorithm_options(args.algo):
        (hyper if option.traced else config)[option.name] = validate(option, getattr(args, option.name))
    return config, hyper


def check_options(args: Namespace) -> None:
    """Check the values of the algorithm's options, and together where its `Config` does so in `__post_init__`.

    Raises:
        ValueError: A value is invalid, or the `Config` refuses the combination.
    """
    classes = option_classes(args.algo)
    if classes:
        classes[0](**config_and_hyper(args)[0])


def add_algorithm_flags(parser: FlagParser, algo: str) -> list[str]:
    """Declare the flags of a registered algorithm and return their names."""
    common = set(parser.names)
    options = algorithm_options(algo)
    if options and isinstance(registered_rl[algo][0], str):
        with parser.group(f"Options of {algo}"):
            parser.add_options([option for option in options if not option.traced])
        with parser.group(f"Hyperparameters of {algo} (these can be swept)"):
            parser.add_options([option for option in options if option.traced])
    else:
        with parser.group(f"Options of {algo}"):
            algorithm_class(algo)().customArguments(parser)
    return [name for name in parser.names if name not in common]


def explain_unknown(error: UnknownFlag, algo: str, value: str | None = None) -> UsageError:
    """Return a better error where the unknown flag is one of other algorithms, else the same one.

    Args:
        error: The flag as typed.
        algo: The algorithm.
        value: What was given with it, or None.
    """
    name = error.spelling[2:].replace("-", "_")
    if accepting := _accepting(name, value):
        return UsageError(f"{error.spelling}={value} belongs to {' and '.join(accepting)}, not {algo}")
    owners = []
    for other in registered_rl:
        parser = FlagParser("", "")
        if name in add_algorithm_flags(parser, other):
            owners.append(other)
    return UsageError(f"{error.spelling} belongs to {' and '.join(owners)}, not {algo}") if owners else error


def check_choices(algo: str, value_of: Callable[[str], str | None]) -> None:
    """Name the algorithms that have what is asked of this one, where a choice is one of theirs only.

    Args:
        algo: The algorithm.
        value_of: (flag) -> its value in the command line, or None.

    Raises:
        UsageError: A choice is another algorithm's.
    """
    for option in algorithm_options(algo):
        value = value_of(option.flag)
        if value is None or option.choices is None or value in option.choices:
            continue
        if accepting := _accepting(option.name, value):
            raise UsageError(
                f"{option.flag}={value} belongs to {' and '.join(accepting)}, not {algo}; choose one of them or "
                f"{option.flag}={option.choices[0]}"
            )


def _accepting(name: str, value: str | None) -> list[str]:
    """Algorithms that have `value` among the choices of the option `name`."""
    options = {algo: [o for o in algorithm_options(algo) if o.name == name] for algo in registered_rl}
    return [algo for algo, found in options.items() if any(value in (o.choices or ()) for o in found)]


def read_hyperparam(args: Namespace, parser: FlagParser, own: Sequence[str]) -> dict[str, Any]:
    """Apply `--hyperparam name:value ...` and return {name: value}.

    Each item sets the algorithm's flag of that name. A learner that declares no options may name further parameters
    by `getOptParam`; those reach its `train` through the result only.

    Args:
        args: Parsed flags; set here.
        parser: The parser that made them.
        own: Names of the algorithm's flags.

    Raises:
        UsageError: An unknown name, an invalid value, or a flag that is given as well.
    """
    further: dict[str, Any] = {}
    if args.hyperparam and not algorithm_options(args.algo):
        further = algorithm_class(args.algo)().getOptParam() or {}
    result = {}
    for name, text in _items("--hyperparam", args.hyperparam).items():
        if name in own:
            if name in parser.given:
                raise UsageError(f"{name} is given twice, by {parser[name].option.flag} and by --hyperparam")
            result[name] = parser[name].read(text)
            setattr(args, name, result[name])
        elif name in further:
            result[name] = _convert(name, text, further[name][0])
        else:
            raise UsageError(f"{args.algo} has no hyperparameter {name}{hint(name, [*own, *further])}")
    return result


def read_sweep(args: Namespace, parser: FlagParser) -> dict[str, list[Any]]:
    """Read `--sweep name:v1,v2 ...` into {name: [v1, v2]}; `args.hyperparam` must have been read.

    Raises:
        UsageError: An unknown or static name, an invalid or repeated value, or a value given by flag as well.
    """
    options = {option.name: option for option in algorithm_options(args.algo)}
    traced = [name for name, option in options.items() if option.traced]
    result: dict[str, list[Any]] = {}
    for name, text in _items("--sweep", args.sweep).items():
        if name not in options:
            raise UsageError(f"{args.algo} has no hyperparameter {name} to sweep{hint(name, traced)}")
        if name not in traced:
            raise UsageError(
                f"{name} of {args.algo} is static and cannot be swept in one run; start one run per value, "
                f"or sweep one of {', '.join(traced)}"
            )
        if name in parser.given or name in args.hyperparam:
            raise UsageError(f"{name} is both swept and given a single value")
        values = [parser[name].read(part) for part in text.split(",")]
        if len(set(values)) < len(values):
            raise UsageError(f"--sweep {name}:{text}: the same value appears twice")
        result[name] = values
    return result


def apply_simulator_defaults(args: Namespace, parser: FlagParser) -> None:
    """Give options that were not set their default for the simulator, where it differs.

    Args:
        args: Parsed flags, `hyperparam` read and `simulator` resolved; set here.
        parser: The parser that made them.
    """
    given = {*parser.given, *args.hyperparam}
    for option in algorithm_options(args.algo):
        value = option.default_in(args.simulator)
        if value != option.default and option.name not in given:
            setattr(args, option.name, value)


def _items(flag: str, items: Sequence[str]) -> dict[str, str]:
    """Split `name:value` items; names are returned with underscores."""
    result: dict[str, str] = {}
    for item in items:
        name, colon, text = item.partition(":")
        name = name.replace("-", "_")
        if not (name and colon and text):
            raise UsageError(f"{flag} {item}: expected name:value")
        if result.setdefault(name, text) != text:
            raise UsageError(f"{flag}: {name} is given twice, as {result[name]} and as {text}")
    return result


def _convert(name: str, text: str, kind: type) -> Any:
    """Convert a value that only `getOptParam` declares."""
    try:
        return kind(text)
    except (TypeError, ValueError):
        raise UsageError(f"--hyperparam {name}:{text}: expected {kind.__name__}") from None
