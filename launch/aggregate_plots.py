"""Average runs into one learning curve: `python launch/aggregate_plots.py -i logs/ENV/MODEL/ALGO`; see `--help`.

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

_USAGE = "python launch/aggregate_plots.py -i DIR [--flag value ...]"
_DESCRIPTION = (
    "Average the learning curves of all runs in a folder: mean and standard error over runs. -o writes x [points] and "
    "y [runs, points] to an .npz file, which launch/compare_plots.py draws beside others."
)
# Limits of y by the first word of the environment's id: (sparse, shaped reward).
_LIMITS = {"MobileRobot": ((-3.0, 250.0), (-150.0, -50.0)), "Kuka": ((0.0, 5.0), None)}


def aggregate_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    add("-i", "--log-dir", metavar="DIR", help="Folder whose sub-folders are runs: logs/ENV/MODEL/ALGO.")
    add("-o", "--output-file", metavar="STEM", help="Write STEM.npz.")
    add("--episode-window", type=int, default=40, minimum=1, help="Points in the moving average.")
    add("--min-x", type=int, default=-1, help="Leave out runs with fewer points.")
    add("--shape-reward", action="store_true", help="Take the runs with shaped reward, not the others.")
    add_limit_flags(parser)
    add_picture_flags(parser)
    add_common_flags(parser)
    return parser


def parse_aggregate_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line; `args.y_lim` is a pair or None, the files are paths or None.

    Raises:
        UsageError: It cannot be carried out.
        HelpRequested: It asks for help.
    """
    from launch.results.figures import check_picture

    args = parse_args(aggregate_flags(), argv)
    if args.log_dir is None:
        raise UsageError("--log-dir is missing: the folder whose sub-folders are runs")
    args.y_lim = check_limits(args.y_lim)
    args.picture = check_picture(args.picture, "--picture")
    if args.output_file is not None:
        args.output_file = Path(args.output_file.removesuffix(".npz") + ".npz")
        if not args.output_file.parent.is_dir():
            raise UsageError(f"--output-file {args.output_file}: there is no folder {args.output_file.parent}")
    return args


def run(args: Namespace) -> None:
    """Average, write, draw."""
    import numpy as np

    from launch.results.episodes import aggregate
    from launch.results.figures import Panel, Series, draw_curves
    from launch.results.read import Collection, check_folder, read_runs
    from launch.results.statistics import standard_error

    folder = check_folder(args.log_dir)
    everything = read_runs(folder, metrics=())
    wanted = [run for run in everything.runs if bool(run.args.get("shape_reward")) == args.shape_reward]
    if not wanted:
        have, flag = ("sparse", "without") if args.shape_reward else ("shaped", "with")
        raise ValueError(f"all {len(everything.runs)} runs in {folder} have {have} reward: call {flag} --shape-reward")
    collection = Collection(wanted, everything.notices)
    x, y = aggregate(collection, args.episode_window, args.min_x, args.timesteps)
    tell(collection.notices)
    if args.output_file is not None:
        with args.output_file.open("wb") as file:
            np.savez(file, x=x, y=y)
        print(f"curves {args.output_file}: {len(y)} runs of {len(x)} points")
    mean, error = y.mean(axis=0), standard_error(y)
    word = "Timesteps" if args.timesteps else "Episodes"
    task = wanted[0].args
    line = Series(f"{task['algo']}, mean ± standard error of {len(y)} runs", 0, x, mean, mean - error, mean + error)
    limits = args.y_lim or _default_limits(task["env"], args.shape_reward)
    panel = Panel("", "Environment steps" if args.timesteps else "Episodes", "Return", [line], limits)
    title = f"{task['srl_model']} on {task['env']} [{word}]"
    otherwise = folder / f"learning_curve_{word.lower()}.png"
    present(lambda figure: draw_curves([panel], title, figure), args.picture, otherwise, not args.no_display)


def _default_limits(env: str, shaped: bool) -> tuple[float, float] | None:
    """The original's limits of y for its environments, None for others."""
    for prefix, limits in _LIMITS.items():
        if env.startswith(prefix):
            return limits[shaped]
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_aggregate_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
