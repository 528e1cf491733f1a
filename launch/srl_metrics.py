"""Judge a learned representation: `python launch/srl_metrics.py --log-dir MODEL --data-folder DATASET`.

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

_USAGE = "python launch/srl_metrics.py --log-dir MODEL --data-folder DATASET [--flag value ...]"
_DESCRIPTION = (
    "Judge a learned representation on a dataset: KNN-MSE, ground-truth correlation and reward prediction, with "
    "pictures of nearest neighbours and of the latent space."
)


def metrics_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is judged"):
        add = parser.add_argument
        add("--data-folder", metavar="DIR", help="Dataset, of either layout.")
        add("-i", "--log-dir", metavar="DIR", help="Folder of the model.")
        add("--ground-truth", action="store_true", help="Judge the true positions of robot and target.")
        add("--training-set-size", type=int, default=-1, metavar="N", help="Look at the first N frames; -1 is all.")
        add("--seed", type=int, default=1, minimum=0, help="Seed of the sampled frames and of the reward predictor.")
        add("-k", "--n-neighbors", type=int, default=5, minimum=1, help="Neighbours of each frame.")
        add("-n", "--n-samples", type=int, default=200, minimum=1, help="Frames whose neighbours are looked at.")
        add("--n-to-plot", type=int, default=5, minimum=1, help="Frames whose neighbours are drawn.")
        add("--absolute", action="store_true", help="KNN-MSE of absolute positions, not relative to the target.")
    with parser.group("Records"):
        add("--output", metavar="DIR", help="Folder for files. Without this flag: metrics/ in the model's folder")
        add("-v", "--verbose", action="store_true", help="Show where an error came from.")
        add("-h", "--help", action="store_true", help="Show this text.")
    return parser


def parse_metrics_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line (without the program name).

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    parser = metrics_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    if args.data_folder is None:
        raise UsageError("--data-folder is missing: the dataset that the states are compared on")
    if (args.log_dir is None) != args.ground_truth:
        raise UsageError("give either --log-dir with a model's folder, or --ground-truth")
    if args.training_set_size != -1 and args.training_set_size < 1:
        raise UsageError(f"--training-set-size={args.training_set_size}: at least 1, or -1 for all frames")
    return args


def run(args: Namespace) -> None:
    """Judge as the flags say."""
    from launch.runtime.judging import judge

    judge(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was written; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_metrics_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
