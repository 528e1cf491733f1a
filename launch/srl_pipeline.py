"""Train several representations on a dataset: `python launch/srl_pipeline.py --data-folder data/mobile`; see `--help`.

Nothing heavy is imported at the top: an answer to `--help` or to a mistyped flag needs none of it.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # started as a script: Python has put launch/ there, not the repository
    sys.path.insert(0, ROOT)

from launch.runtime.errors import HelpRequested, RunError, UsageError, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser  # noqa: E402
from launch.runtime.srl_flags import parse_srl_args  # noqa: E402

_USAGE = "python launch/srl_pipeline.py --data-folder DIR [--flag value ...]"
_DESCRIPTION = (
    "Train one representation after the other, each in a process of its own, as a YAML table says: NAME: {flag: "
    "value}, with the flags of launch/train_srl.py. A model that is there already is not trained again."
)
_DEFAULT = Path(ROOT, "config", "srl_pipeline.yaml")


def pipeline_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is trained"):
        add = parser.add_argument
        add("--data-folder", metavar="DIR", help="The dataset.")
        add("-c", "--exp-config", metavar="FILE", help="The table. Without this flag: config/srl_pipeline.yaml.")
        add("--models", nargs="+", metavar="NAME", help="Names of the table. Without this flag: all.")
        add("--log-folder", metavar="DIR", help="The models' folders are made here, by name.")
        add("--epochs", type=int, minimum=1, help="Passes over the data, in place of the table's.")
        add("--seed", type=int, default=1, minimum=0, help="Seed of all models.")
        add("--verbose", action="store_true", help="Show the traceback of an error.")
    return parser


def parse_pipeline_args(argv: Sequence[str]) -> Namespace:
    """Read the command line and the table; `args.commands` is {name: words of launch/train_srl.py}, all checked.

    Raises:
        HelpRequested: `--help` was given.
        ValueError: One line that says what is wrong.
    """
    parser = pipeline_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    if not args.data_folder or not args.log_folder:
        raise UsageError(f"{'--log-folder' if args.data_folder else '--data-folder'} is missing")
    table = _read_table(Path(args.exp_config) if args.exp_config else _DEFAULT)
    unknown = [name for name in args.models if name not in table]
    if unknown:
        raise UsageError(f"--models: the table has no {unknown[0]}; it has {', '.join(table)}")
    args.commands = {}
    for name in args.models or table:
        folder = Path(args.log_folder, name)
        words = [*_words(name, table[name]), f"--data-folder={args.data_folder}", f"--seed={args.seed}"]
        words += [f"--log-folder={folder}", *([f"--epochs={args.epochs}"] if args.epochs else [])]
        if (folder / "srl_model.json").is_file():
            continue
        try:
            parse_srl_args(words)
        except ValueError as error:
            raise UsageError(f"model {name}: {error}") from None
        args.commands[name] = words
    return args


def _read_table(path: Path) -> dict[str, Any]:
    """The table of models."""
    import yaml

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--exp-config={path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"--exp-config={path} is not YAML") from None
    if not isinstance(table, dict) or not all(isinstance(flags, dict) for flags in table.values()):
        raise UsageError(f"--exp-config={path}: expected lines NAME: {{flag: value}}")
    return table


def _words(name: str, flags: dict[str, Any]) -> list[str]:
    """A model's line of the table as words of a command line."""
    words: list[str] = []
    for flag, value in flags.items():
        if flag in ("data-folder", "log-folder", "seed", "resume", "force"):
            raise UsageError(f"model {name}: --{flag} is not for the table")
        words += [f"--{flag}", *map(str, value)] if isinstance(value, list) else [f"--{flag}={value}"]
    return words


def run(args: Namespace) -> None:
    """Train the models that are not there yet.

    Raises:
        RunError: One of them failed; those before it are kept.
    """
    program = str(Path(ROOT, "launch", "train_srl.py"))
    for number, (name, words) in enumerate(args.commands.items()):
        print(f"[{number + 1}/{len(args.commands)}] {name}", flush=True)
        code = subprocess.run([sys.executable, program, *words], check=False).returncode
        if code in (130, -2):
            raise KeyboardInterrupt
        if code:
            raise RunError(f"model {name} failed with exit code {code}; the models before it are kept")
    print(f"models in {args.log_folder}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was started; 3: a model failed; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_pipeline_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
