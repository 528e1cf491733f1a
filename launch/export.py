"""Export a policy: `python launch/export.py --log-dir logs/ENV/MODEL/ALGO/DATE`; see `--help`.

Nothing heavy is imported at the top: an answer to `--help` or to a mistyped flag needs none of it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # started as a script: Python has put launch/ there, not the repository
    sys.path.insert(0, ROOT)

from launch.results.tools import add_common_flags, parse_args  # noqa: E402
from launch.runtime.errors import UsageError, run_command  # noqa: E402
from launch.runtime.files import warn  # noqa: E402
from launch.runtime.flag_parser import FlagParser, peek  # noqa: E402
from launch.runtime.plugin import load_plugin  # noqa: E402

_USAGE = "python launch/export.py --log-dir DIR [--flag value ...]"
_DESCRIPTION = (
    "Write the deterministic policy of a run as files that need no srl-jax: policy.jaxexport for JAX, and "
    "policy.safetensors with policy.py, which plays it with NumPy alone."
)


def export_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    add("--log-dir", metavar="DIR", help="Run folder, or a model folder inside it.")
    add("--plugin", metavar="MODULE", help="Import this module first, as in the training.")
    add("--model", choices=("best", "final"), metavar="NAME", help="Without this flag: the best where there is one.")
    add("--run", type=int, default=0, minimum=0, metavar="K", help="Which run of a sweep or of several seeds.")
    add("-o", "--output", metavar="DIR", help="Where the files go. Without this flag: export/ in the folder")
    add_common_flags(parser)
    return parser


def parse_export_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line.

    Raises:
        UsageError: It cannot be carried out.
        HelpRequested: It asks for help.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    args = parse_args(export_flags(), argv)
    if args.log_dir is None:
        raise UsageError("--log-dir is missing: the run folder, as launch/train.py prints it")
    return args


def run(args: Namespace) -> None:
    """Load and export."""
    from launch.runtime.export import write_export
    from launch.runtime.policy import find_model, load_policy

    algorithm = load_policy(find_model(args.log_dir, args.model), run=args.run)
    paths, why_not = write_export(algorithm, Path(args.output) if args.output else Path(args.log_dir) / "export")
    if why_not:
        warn(f"no files for NumPy: {why_not}")
    for path in paths:
        print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_export_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
