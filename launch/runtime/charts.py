"""What a play looks like: video, chart of the actions, plot of the states; each a window or a file.

matplotlib and imageio are imported when the first of them is made.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.types import Discrete, Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_FRAMES = 1000
MIN_SIDE = 224  # pixels; smaller pictures are enlarged
REDRAW_EVERY = 5  # steps between two pictures of a state plot in a window
DISTINCT_COLOURS = 10
GREY = "0.55"


def has_display() -> bool:
    """Whether a window can be opened: on Linux, whether an X server answers; elsewhere always.

    A window of PyBullet without one ends the process, so a DISPLAY that is set but dead must be found out before.
    """
    if not sys.platform.startswith("linux"):
        return True
    if not os.environ.get("DISPLAY"):
        return False
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.argtypes, x11.XOpenDisplay.restype = [ctypes.c_char_p], ctypes.c_void_p
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    display = x11.XOpenDisplay(None)
    if display:
        x11.XCloseDisplay(display)
    return bool(display)


def can_open_windows() -> bool:
    """Whether matplotlib has a display and a toolkit for windows."""
    if not has_display():
        return False
    import matplotlib
    from matplotlib.backends import BackendFilter, backend_registry

    return matplotlib.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)


def wait_for_windows() -> None:
    """Return when the user has closed all of matplotlib's windows."""
    from matplotlib import pyplot

    print("close the windows to end", flush=True)
    pyplot.show()


class Drawing(ABC):
    """A matplotlib figure that is a window while it plays (`path` None), or a picture at the end."""

    def __init__(self, path: Path | None, size: tuple[float, float]) -> None:
        self.path = path
        self.figure: Figure
        if path is None:
            from matplotlib import pyplot

            self.figure = pyplot.figure(figsize=size, layout="constrained")
            pyplot.show(block=False)
        else:
            from matplotlib.figure import Figure

            self.figure = Figure(figsize=size, layout="constrained")

    @abstractmethod
    def _draw(self) -> None:
        """Draw what was collected onto the empty figure."""

    def refresh(self) -> None:
        """Bring the window up to date, unless the user has closed it."""
        from matplotlib import pyplot

        if pyplot.fignum_exists(self.figure.number):  # type: ignore[attr-defined]  # pyplot's figures have one
            self.figure.clear()
            self._draw()
            self.figure.canvas.draw()
            self.figure.canvas.flush_events()

    def finish(self) -> None:
        """Show the last state in the window, or write the picture and say where."""
        if self.path is None:
            self.refresh()
            return
        self._draw()
        self.figure.savefig(self.path, dpi=150)
        print(f"picture {self.path}")


class FrameWindow(Drawing):
    """A window with pictures of an environment that has no window of its own."""

    def __init__(self) -> None:
        super().__init__(None, (5.0, 5.0))
        self._frame: np.ndarray | None = None

    full = False

    def add(self, frame: np.ndarray) -> None:
        """Show a picture, uint8 [height, width, 3]."""
        self._frame = frame
        self.refresh()

    def _draw(self) -> None:
        if self._frame is not None:
            axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
            axes.imshow(self._frame)
            axes.set_axis_off()


class Video:
    """A video file of at most `MAX_FRAMES` pictures: video.mp4, or video.gif where there is no ffmpeg.

    Args:
        folder: Where it is written.
        frame_rate: Pictures per second.
    """

    def __init__(self, folder: Path, frame_rate: float) -> None:
        self._rate, self._count = frame_rate, 0
        self._writer: Any = None
        self.path = folder / ("video.mp4" if _has_ffmpeg() else "video.gif")

    @property
    def full(self) -> bool:
        """Whether further pictures are left out."""
        return self._count >= MAX_FRAMES

    def add(self, frame: np.ndarray) -> None:
        """Append a picture, uint8 [height, width, 3]."""
        if self._writer is None:
            self._writer = self._open()
        self._writer.append_data(_for_video(frame))
        self._count += 1

    def finish(self) -> None:
        """Complete the file and say where it is."""
        if self._writer is not None:
            self._writer.close()
            print(f"video {self.path}" + (f" (the first {MAX_FRAMES:,} frames)" if self.full else ""))

    def _open(self) -> Any:
        import imageio.v2 as imageio

        if self.path.suffix == ".gif":
            return imageio.get_writer(self.path, duration=1000.0 / self._rate, loop=0)
        return imageio.get_writer(self.path, fps=self._rate, macro_block_size=2)


def _has_ffmpeg() -> bool:
    """Whether ffmpeg can be started."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_version()
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError):
        return False
    return True


def _for_video(frame: np.ndarray) -> np.ndarray:
    """Enlarge a small picture by a whole factor, and give it even sides, which H.264 needs."""
    factor = max(1, MIN_SIDE // min(frame.shape[:2]))
    frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class StatePlot(Drawing):
    """The states of all episodes as lines in two or three dimensions, with dots where they begin and end.

    Args:
        path: Picture to write; None for a window.
        title: First part of the title.
        labels: Axis labels, two or three.
        target: Whether the target is at the origin.
    """

    def __init__(self, path: Path | None, title: str, labels: Sequence[str], target: bool) -> None:
        super().__init__(path, (7.0, 6.0))
        self._title, self._labels, self._target = title, labels, target
        self._tracks: list[list[np.ndarray]] = []
        self._steps = 0

    def add(self, position: np.ndarray, first: bool) -> None:
        """Append a state [2 or 3]; `first` begins an episode."""
        if first:
            self._tracks.append([])
        self._tracks[-1].append(position)
        self._steps += 1
        if self.path is None and self._steps % REDRAW_EVERY == 0:
            self.refresh()

    def _draw(self) -> None:
        axes: Any = self.figure.add_subplot(projection="3d" if len(self._labels) == 3 else None)
        # In a picture the last episode, which was begun and not ended, is left out unless it is the only one.
        shown = self._tracks if self.path is None else self._tracks[:-1] or self._tracks
        tracks = [np.asarray(track) for track in shown]
        colours = self._colours(axes, len(tracks))
        for track, colour in zip(tracks, colours, strict=True):
            axes.plot(*track.T, color=colour, linewidth=1.2, alpha=0.85)
            axes.scatter(*track[:1].T, s=26, facecolors="white", edgecolors=[colour], zorder=3)
            axes.scatter(*track[-1:].T, s=30, color=[colour], edgecolors="black", linewidths=0.6, zorder=4)
        self._explain(axes)
        axes.set(title=f"{self._title}, {len(tracks)} episode{'s' * (len(tracks) != 1)}")
        for axis, label in zip("xyz", self._labels, strict=False):
            getattr(axes, f"set_{axis}label")(label)
        if self._target:
            axes.set_aspect("equal", adjustable="datalim")
        axes.grid(alpha=0.3)

    def _colours(self, axes: Axes, count: int) -> list[Any]:
        """One colour per episode: distinct ones for a few, shades with a scale beside the plot for many."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        if count <= DISTINCT_COLOURS:
            return list(colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]  # tab10 is a list of colours
        scale = ScalarMappable(Normalize(1, count), "viridis")
        self.figure.colorbar(scale, ax=axes, label="episode", shrink=0.8, pad=0.1 if len(self._labels) == 3 else 0.02)
        return list(scale.to_rgba(np.arange(1, count + 1)))

    def _explain(self, axes: Any) -> None:
        """Mark the target, and say what the dots mean."""
        if self._target:
            origin = [[0.0]] * len(self._labels)
            axes.scatter(*origin, s=170, marker="*", color="crimson", edgecolors="white", zorder=5, label="target")
        nothing: list[list[float]] = [[]] * len(self._labels)
        axes.scatter(*nothing, s=26, facecolors="white", edgecolors="black", label="start")
        axes.scatter(*nothing, s=30, color="black", label="end")
        axes.legend(loc="best", framealpha=0.9)


class ActionChart(Drawing):
    """The probability of each discrete action, or the components of continuous actions.

    The window shows those of the present step as bars; the picture those of the first episode over time, and their
    mean as bars.

    Args:
        path: Picture to write; None for a window.
        title: First part of the title.
        spec: Its action space gives names and bounds.
    """

    def __init__(self, path: Path | None, title: str, spec: Spec) -> None:
        super().__init__(path, (5.0, 4.0) if path is None else (11.0, 4.0))
        self._title = title
        self._discrete = isinstance(spec.action, Discrete)
        self._rows: list[np.ndarray] = []
        self._episodes = 0
        low, high = ([0.0], [1.0]) if isinstance(spec.action, Discrete) else (spec.action.low, spec.action.high)
        self._low, self._high = np.asarray(low), np.asarray(high)

    @property
    def full(self) -> bool:
        """Whether further steps are left out: a picture is of the first episode only."""
        return self.path is not None and self._episodes > 1

    def add(self, values: np.ndarray, first: bool) -> None:
        """Take the probabilities [n] or the action [size] of a step; `first` begins an episode."""
        self._episodes += first
        if self.path is None:
            self._rows = [values]
            self.refresh()
        elif not self.full:
            self._rows.append(values)

    def _draw(self) -> None:
        values = np.asarray(self._rows)
        if self.path is None:
            self._bars(self.figure.add_subplot(), values[-1], "this step")
            return
        self.figure.suptitle(f"{self._title}, first episode ({len(values)} steps)")
        over_time, mean = self.figure.subplots(1, 2, width_ratios=(3, 1))
        if self._discrete:
            self._heat(over_time, values)
        else:
            self._lines(over_time, values)
        self._bars(mean, values.mean(axis=0), "mean")

    def _bars(self, axes: Axes, values: np.ndarray, title: str) -> None:
        """One bar per action or component; heights are the values themselves, colours their share of the bound."""
        from matplotlib import colormaps

        low, high = self._limits(values)
        share = np.abs(values) / np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-12)
        places = np.arange(len(values))
        axes.bar(places, values, color=colormaps["viridis"](share), edgecolor=GREY, linewidth=0.6)
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set(title=title, xlabel="action" if self._discrete else "component", ylim=(np.min(low), np.max(high)))
        axes.set_xticks(places)
        axes.set_ylabel("probability" if self._discrete else "value")

    def _heat(self, axes: Axes, values: np.ndarray) -> None:
        """Probabilities [T, n] as colours."""
        steps, count = values.shape
        extent = (0.5, steps + 0.5, count - 0.5, -0.5)
        image = axes.imshow(
            values.T, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest", extent=extent
        )
        axes.set(xlabel="step", ylabel="action", yticks=range(count))
        self.figure.colorbar(image, ax=axes, label="probability", pad=0.01)

    def _lines(self, axes: Axes, values: np.ndarray) -> None:
        """Components of the actions [T, size] over time, between their bounds."""
        low, high = self._limits(values)
        steps = np.arange(1, len(values) + 1)
        for i, component in enumerate(values.T):
            axes.plot(steps, component, linewidth=1.0, label=f"component {i}")
        for bound in {*low.tolist(), *high.tolist()}:
            axes.axhline(bound, color=GREY, linestyle="--", linewidth=0.8)
        margin = 0.05 * (np.max(high) - np.min(low))
        axes.set(xlabel="step", ylabel="action", ylim=(np.min(low) - margin, np.max(high) + margin))
        axes.legend(loc="upper right", ncols=min(4, values.shape[1]), fontsize="small", framealpha=0.9)

    def _limits(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the action space, and of the values where it has none."""
        largest = max(float(np.max(np.abs(values))), 1e-6)
        low, high = np.where(np.isfinite(self._low), self._low, -largest), self._high
        return low, np.where(np.isfinite(high), high, largest)
