"""Walk through a latent space: `python launch/enjoy_latent.py --log-dir MODEL --data-folder DATASET`.

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

from launch.runtime.errors import HelpRequested, UsageError, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser  # noqa: E402

_USAGE = "python launch/enjoy_latent.py --log-dir MODEL --data-folder DATASET [--flag value ...]"
_DESCRIPTION = (
    "Show what places of a latent space look like, decoded, or by the pictures of the nearest known states. A window "
    "with a slider for each component where there is a display, otherwise a picture of a grid; with --frames a path."
)


def latent_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is shown"):
        add = parser.add_argument
        add("-i", "--log-dir", metavar="DIR", help="Folder of the model.")
        add("--data-folder", metavar="DIR", help="Dataset whose states say how far each component goes.")
        add("--num-frames", type=int, default=2000, minimum=2, help="Frames of it that are looked at.")
        add(
            "--components",
            type=int,
            nargs="+",
            metavar="I",
            help="Two components for the grid; else the first.",
        )
        add("--frames", type=int, nargs="+", metavar="T", help="Two frames: walk from the one's state to the other's.")
        add("--steps", type=int, default=8, minimum=2, help="Places along each side of the grid, or of the path.")
    with parser.group("Records"):
        add("--output", metavar="DIR", help="Folder for files. Without this flag: latent/ in the model's folder")
        add("-v", "--verbose", action="store_true", help="Show where an error came from.")
        add("-h", "--help", action="store_true", help="Show this text.")
    return parser


def parse_latent_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line (without the program name).

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    parser = latent_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    for name in ("log_dir", "data_folder"):
        if getattr(args, name) is None:
            raise UsageError(f"--{name.replace('_', '-')} is missing")
    args.components, args.frames = args.components or None, args.frames or None
    for name in ("components", "frames"):
        values = getattr(args, name)
        if values is not None and (len(values) != 2 or min(values) < 0):
            raise UsageError(f"--{name} takes two numbers from 0 on")
    return args


def run(args: Namespace) -> None:
    """Walk as the flags say."""
    from launch.runtime.judging import walk

    walk(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was written; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_latent_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
