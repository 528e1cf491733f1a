"""Pictures of results: curves with interval bands, scores, aggregates. Colour-blind safe, readable without colour.

Colours are those of Okabe and Ito (2008) without yellow, which is too pale on paper; every line has a dash pattern as
well, every point a marker. matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.runtime import files
from launch.runtime.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_SPAN = 1e-2  # of y, as a share of its values
MOST_MARKERS = 10  # of a line
INK, GRID = "#1b1f24", "#d8dce1"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (8, 1.4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*")
SUFFIXES = (".png", ".svg", ".pdf")
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Series:
    """One line with its band.

    Attributes:
        label: Its name in the legend.
        style: Number of its colour, dashes and marker; the same method has the same in every picture.
        x: [points]
        y: [points]
        low, high: Bounds of the band [points]; None, or NaN, where there is none.
        points: Whether to mark the points: few, measured ones.
        faint: Single runs [runs, points] to draw thinly behind.
    """

    label: str
    style: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    points: bool = False
    faint: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title, xlabel, ylabel: Its texts.
        series: What is drawn.
        ylim: Limits of y, None for those of the data.
        compact: Whether x is in thousands and millions: environment steps.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    ylim: tuple[float, float] | None = None
    compact: bool = True


@dataclass(frozen=True)
class Estimate:
    """A row of a picture of intervals: its label, style, value, bounds (NaN: none) and single runs."""

    label: str
    style: int
    value: float
    low: float
    high: float
    runs: np.ndarray | None = None


def colour(style: int) -> str:
    """Colour number `style`, in turn."""
    return COLOURS[style % len(COLOURS)]


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure in the style of this module that needs no display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        return Figure(figsize=size, layout="constrained")


def draw_curves(panels: Sequence[Panel], title: str | None = None, figure: Any = None) -> Figure:
    """Draw panels beside each other with one legend below."""
    import matplotlib

    labels = list(dict.fromkeys((s.label, s.style) for panel in panels for s in panel.series))
    longest = max(len(label) for label, _ in labels)
    columns = max(1, min(len(labels), int(60 * len(panels) / (longest + 8))))
    rows = -(-len(labels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = figure or new_figure((5.2 * len(panels) + 0.4, 3.5 + 0.22 * rows))
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            _draw_panel(axes, panel)
        if len(labels) > 1 or labels[0][0]:
            lines = [_legend_line(label, style) for label, style in labels]
            figure.legend(handles=lines, loc="outside lower center", ncols=columns, handlelength=2.6, fontsize=9)
        if title:
            figure.suptitle(title, fontsize=11.5, fontweight="bold")
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw the lines of one pair of axes."""
    for line in panel.series:
        shade = colour(line.style)
        tag = f"series-{line.style}"
        if line.faint is not None:
            for run in line.faint:
                axes.plot(line.x, run, color=shade, linewidth=0.6, alpha=0.35, gid=f"{tag}-runs")
        if line.low is not None and line.high is not None and np.isfinite(line.low).any():
            axes.fill_between(line.x, line.low, line.high, color=shade, alpha=0.18, linewidth=0, gid=f"{tag}-band")
        marker = MARKERS[line.style % len(MARKERS)] if line.points else None
        every = max(1, len(line.x) // MOST_MARKERS)
        axes.plot(
            line.x,
            line.y,
            color=shade,
            linestyle=DASHES[line.style % len(DASHES)],
            linewidth=1.8,
            marker=marker,
            markersize=4.5,
            markevery=(line.style % every, every),
            gid=f"{tag}-line",
        )
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.015)
    axes.ticklabel_format(axis="y", useOffset=False)
    low, high = panel.ylim or axes.get_ylim()
    least = LEAST_SPAN * max(abs(low), abs(high), 1.0)  # a constant is a line, not the noise of its rounding
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    axes.set_ylim(low, high)
    if panel.compact:
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend_line(label: str, style: int) -> Any:
    """What stands for a method in the legend."""
    from matplotlib.lines import Line2D

    line = Line2D([], [], color=colour(style), linestyle=DASHES[style % len(DASHES)], linewidth=1.8, label=label)
    line.set_gid(f"series-{style}-key")
    return line


def draw_estimates(columns: Sequence[tuple[str, Sequence[Estimate]]], title: str | None = None) -> Figure:
    """Draw estimates with their intervals, one column per quantity, one row per method, the first row on top."""
    import matplotlib

    count = max(len(estimates) for _, estimates in columns)
    with matplotlib.rc_context(_STYLE):
        widest = max(len(estimate.label) for _, estimates in columns for estimate in estimates)
        size = (3.0 * len(columns) + 0.08 * widest + 0.6, 0.34 * count + 1.0 + (0.3 if title else 0.0))
        figure = new_figure(size)
        first = None
        for place, (name, estimates) in enumerate(columns):
            axes = figure.add_subplot(1, len(columns), place + 1, sharey=first)
            first = first or axes
            for row, estimate in enumerate(estimates):
                _draw_estimate(axes, row, estimate)
            axes.set_title(name)
            axes.margins(x=0.06)
            axes.set_yticks(range(count), [estimate.label for estimate in estimates])
            axes.tick_params(axis="y", length=0, labelleft=place == 0)
            axes.set_ylim(count - 0.5, -0.5)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        if title:
            figure.suptitle(title, fontsize=11.5, fontweight="bold")
    return figure


def _draw_estimate(axes: Axes, row: int, estimate: Estimate) -> None:
    """Draw an interval as a bar, the estimate as a marker on it, single runs as small rings."""
    shade, tag = colour(estimate.style), f"series-{estimate.style}"
    if np.isfinite([estimate.low, estimate.high]).all():
        width = estimate.high - estimate.low
        axes.barh(row, width, left=estimate.low, height=0.52, color=shade, alpha=0.35, gid=f"{tag}-bar")
    if estimate.runs is not None:
        spots = np.full(len(estimate.runs), float(row))
        axes.plot(estimate.runs, spots, "o", color=shade, markersize=3, fillstyle="none", gid=f"{tag}-dots")
    marker = MARKERS[estimate.style % len(MARKERS)]
    axes.plot([estimate.value], [row], marker, color=shade, markersize=6, clip_on=False, gid=f"{tag}-mark")


def check_picture(path: str | None, flag: str) -> Path | None:
    """The file that a flag names, None where it is not given.

    Raises:
        UsageError: It is no kind of picture, or its folder does not exist.
    """
    if path is None:
        return None
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise UsageError(f"{flag} {path}: the file's name must end in {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise UsageError(f"{flag} {path}: there is no folder {target.parent}")
    return target


def rendered(figure: Figure, kind: str, text: bool = False) -> bytes:
    """A figure as the bytes of a "png", "svg" or "pdf" file; `text` keeps an SVG's words as text in the reader's font.

    Nothing in them depends on the time, so that the same results give the same file.
    """
    import matplotlib

    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context({"svg.fonttype": "none" if text else "path", "svg.hashsalt": "srl", "savefig.dpi": 160}):
        figure.savefig(buffer, format=kind, metadata=metadata, transparent=text)
    figure.set_layout_engine("none")  # it has been laid out: the next file need not compute it again
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the kind of file that the path names.

    Raises:
        OSError: It cannot be written.
    """
    files.write_atomic(path, rendered(figure, path.suffix[1:]))
