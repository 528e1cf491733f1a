"""Gather results into a table: `python launch/gather_results.py -i logs/ENV`; see `--help`.

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

from launch.results.tools import add_common_flags, parse_args, tell  # noqa: E402
from launch.runtime.errors import UsageError, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser  # noqa: E402

_USAGE = "python launch/gather_results.py -i DIR [--flag value ...]"
_DESCRIPTION = (
    "Gather the results of all runs of one environment into <log-dir>/results.csv: mean, standard error and "
    "interquartile mean of the last training episodes, by representation and algorithm."
)


def gather_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    add("-i", "--log-dir", metavar="DIR", help="Folder of one environment: logs/ENV.")
    add("--timestep-budget", type=int, nargs="+", metavar="N", help="Budgets to compare at, instead of the whole runs.")
    add("--min-timestep", type=int, metavar="N", help="Leave out runs that ended before.")
    add("--episode-window", type=int, default=100, minimum=1, help="Last episodes that count.")
    add("--welch-test", nargs="+", metavar="METHOD", help="Test whether each method differs from these.")
    add_common_flags(parser)
    return parser


def parse_gather_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line.

    Raises:
        UsageError: It cannot be carried out.
        HelpRequested: It asks for help.
    """
    args = parse_args(gather_flags(), argv)
    if args.log_dir is None:
        raise UsageError("--log-dir is missing: the folder of one environment, logs/ENV")
    for budget in args.timestep_budget:
        if budget < 1:
            raise UsageError(f"--timestep-budget={budget}: must be at least 1")
    return args


def run(args: Namespace) -> None:
    """Gather, print, write."""
    from launch.results.gather import RESULTS_FILE, as_csv, as_text, check_budgets, collect, gather
    from launch.results.read import check_folder, read_runs
    from launch.runtime.files import write_atomic

    folder = check_folder(args.log_dir)
    collection = read_runs(folder, metrics=())
    environments = sorted({run.args["env"] for run in collection.runs})
    if len(environments) > 1:
        raise ValueError(f"{folder} holds several environments ({', '.join(environments)}): give the folder of one")
    groups = collect(collection, args.min_timestep)
    check_budgets(groups, args.timestep_budget, collection.notices)
    header, rows = gather(groups, args.episode_window, args.timestep_budget, args.welch_test)
    tell(collection.notices)
    print(as_text(header, rows))
    write_atomic(folder / RESULTS_FILE, as_csv(header, rows))
    print(f"table {folder / RESULTS_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_gather_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
