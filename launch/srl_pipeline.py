"""Train several representations on a dataset: `python launch/srl_pipeline.py --data-folder data/mobile`; see `--help`.

Nothing heavy is imported at the top: an answer to `--help` or to a mistyped flag needs none of it.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # started as a script: Python has put launch/ there, not the repository
    sys.path.insert(0, ROOT)

from launch.runtime.errors import HelpRequested, UsageError, hint, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser, UnknownFlag  # noqa: E402
from launch.runtime.huge_pages import restart_with_huge_pages  # noqa: E402
from launch.runtime.srl_flags import (  # noqa: E402
    FREE_ON_RESUME,
    models_of,
    parse_srl_args,
    saved_flags,
    srl_flags,
)

_USAGE = "python launch/srl_pipeline.py --data-folder DIR --log-folder DIR [--flag value ...]"
_DESCRIPTION = (
    "Train one representation after the other, each in a process of its own, as a YAML table says: NAME: {flag: "
    "value}, with the flags of launch/train_srl.py; then judge each and write a table. Flags of launch/train_srl.py on "
    "this command line hold for all models, in place of the table's. The same command goes on where it was "
    "interrupted; a model that is there already is not trained again."
)
_DEFAULT = Path(ROOT, "config", "srl_pipeline.yaml")
_OURS = ("data_folder", "log_folder", "log_dir", "resume", "force", "verbose", "help")  # not for the table


def pipeline_flags() -> FlagParser:
    """Return the parser of this command's own flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is trained"):
        add = parser.add_argument
        add("--data-folder", metavar="DIR", help="The dataset.")
        add("-c", "--exp-config", metavar="FILE", help="The table. Without this flag: config/srl_pipeline.yaml.")
        add("--models", nargs="+", metavar="NAME", help="Names of the table. Without this flag: all.")
        add("--log-folder", metavar="DIR", help="The models' folders are made here, by name.")
        add("-f", "--force", action="store_true", help="Train anew what is there already.")
        add("--verbose", action="store_true", help="Show the traceback of an error.")
        add("-h", "--help", action="store_true", help="Show this text.")
    return parser


def parse_pipeline_args(argv: Sequence[str]) -> Namespace:
    """Read the command line and the table.

    Returns:
        The flags, and `trainings`: {name: flags of launch/train_srl.py}, all checked. Those of a model that is
        complete have no `words`; the others are trained by them.

    Raises:
        HelpRequested: `--help` was given.
        ValueError: One line that says what is wrong.
    """
    own = pipeline_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(own.format_help())
    ours, theirs = _share_out(argv, own)
    args = own.parse(ours)
    if not args.data_folder or not args.log_folder:
        raise UsageError(f"{'--log-folder' if args.data_folder else '--data-folder'} is missing")
    table = _read_table(Path(args.exp_config) if args.exp_config else _DEFAULT)
    for name in args.models:
        if name not in table:
            raise UsageError(f"--models: the table has no {name}{hint(name, table)}")
    args.run_folder = None
    args.trainings = {name: _training(args, name, table[name], theirs) for name in args.models or table}
    return args


def _share_out(argv: Sequence[str], own: FlagParser) -> tuple[list[str], list[str]]:
    """Split a command line into words `--name=value` of this command and of launch/train_srl.py."""
    further, ours, theirs, waiting = srl_flags(), list[str](), list[str](), deque(argv)
    while waiting:
        try:
            ours += own.take(waiting)
        except UnknownFlag as unknown:
            try:
                theirs += further.take(waiting)
            except UnknownFlag:
                known = [word for parser in (own, further) for name in parser.names for word in parser[name].spellings]
                raise UnknownFlag(unknown.spelling, known) from None
    further.parse(theirs)  # their values are judged before any model's
    taken = sorted(further.given & set(_OURS))
    if taken:
        raise UsageError(f"--{taken[0].replace('_', '-')} is not for all models: leave it out")
    return ours, theirs


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The table of models."""
    import yaml

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--exp-config={path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"--exp-config={path} is not YAML") from None
    if not isinstance(table, dict) or not table or not all(isinstance(flags, dict) for flags in table.values()):
        raise UsageError(f"--exp-config={path}: expected lines NAME: {{flag: value}}")
    return {str(name): flags for name, flags in table.items()}


def _training(args: Namespace, name: str, flags: dict[str, Any], given: Sequence[str]) -> Namespace:
    """The flags of one model's training, and by which words it is begun or continued."""
    folder = Path(args.log_folder, name)
    if name != folder.name:
        raise UsageError(f"model {name}: that is no name of a folder")
    words = [*_words(name, flags, given), *given, f"--data-folder={args.data_folder}", f"--log-folder={folder}"]
    there = folder.is_dir() and any(folder.iterdir())
    begun = there and (folder / "args.json").is_file() and not args.force
    try:
        training = parse_srl_args([*words, *(["--force"] if args.force or begun else [])])
        training.words = _left(folder, training, words) if begun else words + ["--force"] * args.force
    except ValueError as error:
        raise UsageError(f"model {name}: {error}") from None
    return training


def _words(name: str, flags: dict[str, Any], given: Sequence[str]) -> list[str]:
    """A model's line of the table as words of a command line, without what that says already."""
    words: list[str] = []
    replaced = {word.partition("=")[0] for word in given}
    for flag, value in flags.items():
        key = str(flag).replace("-", "_")
        if key in _OURS:
            raise UsageError(f"model {name}: --{flag} is not for the table")
        if f"--{key}" not in replaced:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}={str(item).lower() if isinstance(item, bool) else item}" for item in values]
    return words


def _left(folder: Path, training: Namespace, words: list[str]) -> list[str]:
    """What is left to be done of a training that was begun: words of launch/train_srl.py, none if it is complete."""
    from launch.runtime.files import read_json
    from launch.runtime.run_folder import CHECKPOINTS_FOLDER, compare_args

    flags = saved_flags(training)
    asked = {flag: flags[flag] for flag in training.given if flag in flags and flag != "log_folder"}
    try:
        compare_args(read_json(folder / "args.json", f"folder {folder}"), asked, ignore=FREE_ON_RESUME - {"epochs"})
    except ValueError as error:
        raise UsageError(f"{error}; --force trains it anew") from None
    runs = training.num_seeds * math.prod(map(len, training.sweep.values()))
    if len(models_of(folder)) == runs:
        return []
    if any(path.name.isdecimal() for path in (folder / CHECKPOINTS_FOLDER).glob("*")):
        free = [word for word in words if word[2:].partition("=")[0].replace("-", "_") in {*FREE_ON_RESUME, "plugin"}]
        return [f"--resume={folder}", *free]
    return [*words, "--force"]  # it was ended before its first checkpoint


def run(args: Namespace) -> None:
    """Train the models that are not there yet, and judge all."""
    from launch.runtime.experiments.representations import train_and_judge

    train_and_judge(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was started; 3: a model failed; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_pipeline_args(words), run)


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.exit(main())
