"""Draw the learning curves of one run folder: `python launch/plots.py --log-dir RUN`; see `--help`.

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

from launch.results.tools import add_common_flags, add_picture_flags, parse_args, present, tell  # noqa: E402
from launch.runtime.errors import UsageError, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser  # noqa: E402

_USAGE = "python launch/plots.py --log-dir DIR [--flag value ...]"
_DESCRIPTION = (
    "Draw what a run learned: the mean return of its training episodes over episodes and over environment steps, and "
    "its evaluations. Several seeds are drawn as their interquartile mean with its 95 % interval."
)


def plots_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    add("--log-dir", metavar="DIR", help="Run folder.")
    add("--episode-window", type=int, default=40, minimum=1, help="Episodes in the moving average.")
    add("--timesteps", action="store_true", help="Leave out the curve over episodes.")
    add("--title", metavar="TEXT", help="Title. Without this flag: learner and environment")
    add_picture_flags(parser)
    add_common_flags(parser)
    return parser


def parse_plots_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line; `args.picture` is a path that can be written, or None.

    Raises:
        UsageError: It cannot be carried out.
        HelpRequested: It asks for help.
    """
    from launch.results.figures import check_picture

    args = parse_args(plots_flags(), argv)
    if args.log_dir is None:
        raise UsageError("--log-dir is missing: the run folder, as launch/train.py prints it")
    args.picture = check_picture(args.picture, "--picture")
    return args


def run(args: Namespace) -> None:
    """Draw the run's curves."""
    from launch.results.one_run import draw_run, read_one
    from launch.results.read import check_folder

    folder = check_folder(args.log_dir)
    collection = read_one(folder)
    panels, title = draw_run(collection, args.episode_window, args.timesteps)
    tell(collection.notices)

    from launch.results.figures import draw_curves

    present(
        lambda figure: draw_curves(panels, args.title or title, figure),
        args.picture,
        folder / "curves.png",
        not args.no_display,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_plots_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
