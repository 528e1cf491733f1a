"""Draw several averaged learning curves: `python launch/compare_plots.py -i DIR_WITH_NPZ`; see `--help`.

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

from launch.results.tools import (  # noqa: E402
    add_common_flags,
    add_limit_flags,
    add_picture_flags,
    check_limits,
    parse_args,
    present,
    tell,
)
from launch.runtime.errors import UsageError, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser  # noqa: E402

_USAGE = "python launch/compare_plots.py -i DIR [--flag value ...]"
_DESCRIPTION = (
    "Draw the curves of all .npz files in a folder, as launch/aggregate_plots.py writes them: mean and standard error "
    "over runs, named after their files."
)


def compare_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    add("-i", "--input-dir", metavar="DIR", help="Folder with .npz files.")
    add("-t", "--title", default="Learning Curve", metavar="TEXT", help="Title.")
    add("--episode-window", type=int, default=0, minimum=0, help="Smooth the curves once more; 0 does not.")
    add("--shape-reward", action="store_true", help="Say so in the label of y.")
    add("--truncate-x", type=int, default=-1, help="Draw the first N points only.")
    add_limit_flags(parser)
    add_picture_flags(parser)
    add_common_flags(parser)
    return parser


def parse_compare_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line; `args.y_lim` is a pair or None, `args.picture` a path or None.

    Raises:
        UsageError: It cannot be carried out.
        HelpRequested: It asks for help.
    """
    from launch.results.figures import check_picture

    args = parse_args(compare_flags(), argv)
    if args.input_dir is None:
        raise UsageError("--input-dir is missing: the folder with the .npz files")
    args.y_lim = check_limits(args.y_lim)
    args.picture = check_picture(args.picture, "--picture")
    return args


def run(args: Namespace) -> None:
    """Read and draw."""
    from launch.results.episodes import moving_average, read_npz
    from launch.results.figures import Panel, Series, draw_curves
    from launch.results.read import check_folder
    from launch.results.statistics import standard_error

    folder = check_folder(args.input_dir, "--input-dir")
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise ValueError(
            f"--input-dir {folder} has no .npz file: launch/aggregate_plots.py -o {folder}/NAME writes one"
        )
    curves, notices = {}, []
    for path in paths:
        try:
            curves[path.stem] = read_npz(path)
        except ValueError as damage:
            notices.append(f"{damage}: left out")
    if not curves:
        raise ValueError(notices[0])
    lengths = {name: len(x) for name, (x, _) in curves.items()}
    shortest = min(lengths, key=lambda name: lengths[name])
    count = lengths[shortest] if args.truncate_x < 0 else min(lengths[shortest], args.truncate_x)
    window = max(args.episode_window, 1)
    if count < window:
        raise ValueError(
            f"only {count} points are left to draw: take a larger --truncate-x, a smaller --episode-window"
        )
    if max(lengths.values()) > 2 * lengths[shortest]:
        notices.append(f"budgets differ: all curves are cut to the {lengths[shortest]} points of {shortest}")
    tell(notices)
    x = next(iter(curves.values()))[0][window - 1 : count]
    series = []
    for style, (name, (_, y)) in enumerate(curves.items()):
        mean, error = (moving_average(column[:count], window) for column in (y.mean(axis=0), standard_error(y)))
        series.append(Series(name, style, x, mean, mean - error, mean + error))
    xlabel = "Environment steps" if args.timesteps else "Episodes"
    ylabel = "Shaped return" if args.shape_reward else "Return"
    panel = Panel("", xlabel, f"{ylabel}, mean ± standard error", series, args.y_lim)
    otherwise = folder / "comparison.png"
    present(lambda figure: draw_curves([panel], args.title, figure), args.picture, otherwise, not args.no_display)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_compare_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
