"""Join datasets, or make their positions relative: `python launch/dataset_tools.py --merge SRC1 SRC2 DEST`.

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

_USAGE = "python launch/dataset_tools.py --merge SRC1 SRC2 DEST, or --data-src SRC --data-dst DEST"
_DESCRIPTION = (
    "--merge joins datasets into a new one; --data-src and --data-dst copy one with positions relative to the target. "
    "Sources are left as they are, in either layout."
)


def tools_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is done"):
        add = parser.add_argument
        add("--merge", nargs="+", metavar="DIR", help="Datasets to join, and last the folder of the new one.")
        add("--data-src", metavar="DIR", help="Dataset whose positions are made relative to the target.")
        add("--data-dst", metavar="DIR", help="Folder of the new one.")
        add(
            "--format",
            default="compact",
            choices=("compact", "original"),
            metavar="NAME",
            help="Layout of the new one: compact, or original as the S-RL Toolbox reads it.",
        )
        add("-v", "--verbose", action="store_true", help="Show where an error came from.")
        add("-h", "--help", action="store_true", help="Show this text.")
    return parser


def parse_tools_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line (without the program name).

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    parser = tools_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    relative = args.data_src or args.data_dst
    if bool(args.merge) == bool(relative):
        raise UsageError("give either --merge SRC1 SRC2 DEST, or --data-src SRC --data-dst DEST")
    if args.merge and len(args.merge) < 3:
        raise UsageError("--merge needs at least two datasets and the folder of the new one")
    if relative and not (args.data_src and args.data_dst):
        raise UsageError("--data-src and --data-dst go together: give both")
    return args


def run(args: Namespace) -> None:
    """Write the new dataset."""
    from representations.dataset_tools import merge, to_relative

    if args.merge:
        *sources, destination = args.merge
        dataset = merge(sources, destination, args.format)
    else:
        dataset = to_relative(args.data_src, args.data_dst, args.format)
    print(f"{dataset.folder}: {len(dataset.targets)} episodes, {len(dataset)} frames")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was written; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_tools_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
