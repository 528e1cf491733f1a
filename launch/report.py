"""Write a report of many runs: `python launch/report.py --log-dir logs/`; see `--help`.

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

_USAGE = "python launch/report.py --log-dir DIR [--flag value ...]"
_DESCRIPTION = (
    "Write a report of all runs in a folder: an HTML page that needs no network, with learning curves, final scores, "
    "comparisons with intervals, settings, commands and versions; and its pictures as PNG and SVG."
)


def report_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    add("-i", "--log-dir", metavar="DIR", help="Folder with run folders at any depth, or one run folder.")
    add("-o", "--output", metavar="DIR", help="Where the report goes. Without this flag: report/ in that folder")
    add("-t", "--title", metavar="TEXT", help="Title. Without this flag: the folder's name")
    add("--env", nargs="+", metavar="ID", help="Only these environments.")
    add("--srl-model", nargs="+", metavar="NAME", help="Only these representations.")
    add("--algo", nargs="+", metavar="NAME", help="Only these learners.")
    add(
        "--score-range",
        nargs="+",
        metavar="ENV:LOW,HIGH",
        help="Scores that count as 0 and 1 when tasks are compared. Without this flag: random actions and the highest",
    )
    add("--wandb", action="store_true", help="A report on the wandb server, too; a file where none is configured.")
    add("--wandb-project", default="srl-jax", metavar="NAME", help="wandb project.")
    add("--wandb-entity", metavar="NAME", help="wandb user or team. Without this flag: the account's own")
    add_common_flags(parser)
    return parser


def parse_report_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line; `args.score_range` is {environment: (low, high)}.

    Raises:
        UsageError: It cannot be carried out.
        HelpRequested: It asks for help.
    """
    args = parse_args(report_flags(), argv)
    if args.log_dir is None:
        raise UsageError("--log-dir is missing: the folder with the runs, as launch/train.py was given it")
    args.score_range = dict(_read_range(text) for text in args.score_range)
    return args


def _read_range(text: str) -> tuple[str, tuple[float, float]]:
    """One ENV:LOW,HIGH."""
    env, _, numbers = text.rpartition(":")
    try:
        low, high = (float(number) for number in numbers.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not env or not low < high:
        raise UsageError(f"--score-range {text}: write ENV:LOW,HIGH with LOW < HIGH, such as CartPole-v1:22,500")
    return env, (low, high)


def run(args: Namespace) -> None:
    """Read, compare, write."""
    from launch.results.read import check_folder, read_runs
    from launch.results.report import Report, select

    folder = check_folder(args.log_dir)
    collection = read_runs(folder)
    title = args.title or f"Report on {folder.resolve().name}"
    report = Report(select(collection, args), collection.notices, title, args.score_range)
    target = Path(args.output) if args.output else folder / "report"
    report.notices[:] = [notice.replace(f"{folder}/", "") for notice in report.notices]
    path = report.write(target)
    tell(report.notices)
    print(f"report {path}")
    if args.wandb:
        from launch.results.wandb_report import publish

        print(f"wandb report {publish(report, args.wandb_project, args.wandb_entity, target)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_report_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
