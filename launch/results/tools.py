"""What the entry points of plots and reports share: their command lines, notices, and windows or files of pictures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.runtime.errors import HelpRequested, UsageError
from launch.runtime.files import warn
from launch.runtime.flag_parser import FlagParser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NOTICES = 8


def parse_args(parser: FlagParser, argv: Sequence[str]) -> Namespace:
    """Parse a command line strictly; `--help` helps with the rest of the line too.

    Raises:
        HelpRequested: It asks for help.
        UsageError: It is not understood.
    """
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    return parser.parse(argv)


def add_common_flags(parser: FlagParser) -> None:
    """Declare --verbose and --help."""
    parser.add_argument("-v", "--verbose", action="store_true", help="Show where an error came from.")
    parser.add_argument("-h", "--help", action="store_true", help="Show this text.")


def add_picture_flags(parser: FlagParser) -> None:
    """Declare where a picture goes."""
    add = parser.add_argument
    add("--picture", metavar="FILE", help="Write the picture to this .png, .svg or .pdf, and open no window")
    add("--no-display", action="store_true", help="Open no window.")


def add_limit_flags(parser: FlagParser) -> None:
    """Declare the axes of the original's curve tools."""
    add = parser.add_argument
    add("--y-lim", type=float, nargs="+", default=(-1.0, -1.0), metavar="Y", help="Limits of y; equal ones: automatic.")
    add("--timesteps", action="store_true", help="x is environment steps instead of episodes.")


def check_limits(values: Sequence[float]) -> tuple[float, float] | None:
    """The two limits of `--y-lim`, None where they are equal.

    Raises:
        UsageError: They are not two, or the first is larger.
    """
    if len(values) != 2:
        raise UsageError(f"--y-lim needs two numbers, LOW HIGH, not {len(values)}")
    low, high = values
    if low > high:
        raise UsageError(f"--y-lim {low:g} {high:g}: the lower limit comes first")
    return None if low == high else (low, high)


def tell(notices: Sequence[str]) -> None:
    """Print what was left out or only partly used, one line each; of many the first few and their number."""
    for notice in notices[:MOST_NOTICES]:
        warn(notice)
    if len(notices) > MOST_NOTICES:
        warn(f"{len(notices) - MOST_NOTICES} more of this kind")


def present(draw: Callable[[Any], Figure], picture: Path | None, otherwise: Path, display: bool) -> None:
    """Show a picture in a window where there is a display and no file is asked for; else write it, and say where.

    Args:
        draw: Draws on the figure that it is given, or on a new one where that is None, and returns it.
        picture: The file that was asked for.
        otherwise: The file where none was.
        display: Whether a window is wanted.
    """
    from launch.runtime import charts

    if picture is None and display and charts.can_open_windows():
        from matplotlib import pyplot

        draw(pyplot.figure(figsize=(9.0, 4.8), layout="constrained"))
        pyplot.show(block=False)
        charts.wait_for_windows()
        return
    from launch.results.figures import save_figure

    target = picture or otherwise
    save_figure(draw(None), target)
    print(f"picture {target}")
