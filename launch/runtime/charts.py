"""What a play looks like: video, chart of the actions, plot of the states; each a window or a file.

matplotlib and imageio are imported when the first of them is made.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
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
SECONDS_BETWEEN_DRAWINGS = 0.1  # of a chart in a window, at least
DISTINCT_COLOURS = 10
LONG = 2000  # steps; with more, lines are thin
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
    """Return when the user has closed all of matplotlib's windows.

    Not by `pyplot.show`: in Tk's main loop Ctrl-C would wait for the next event of a window.
    """
    from matplotlib import pyplot

    print("close the windows to end", flush=True)
    while numbers := pyplot.get_fignums():
        pyplot.figure(numbers[0]).canvas.flush_events()
        time.sleep(0.05)


class Drawing(ABC):
    """A matplotlib figure that is a window while it plays (`path` None), or a picture at the end."""

    def __init__(self, path: Path | None, size: tuple[float, float]) -> None:
        self.path = path
        self.figure: Figure
        self._next = 0.0
        if path is None:
            from matplotlib import pyplot

            self.figure = pyplot.figure(figsize=size, layout="constrained")
            pyplot.show(block=False)
        else:
            from matplotlib.figure import Figure

            self.figure = Figure(figsize=size, layout="constrained")

    @abstractmethod
    def _draw(self) -> None:
        """Draw what was collected onto the figure."""

    def refresh(self, at_once: bool = True) -> None:
        """Bring the window up to date, unless the user has closed it.

        With `at_once` False only now and then, so that drawing takes a quarter of the time at most.
        """
        from matplotlib import pyplot

        closed = not pyplot.fignum_exists(self.figure.number)  # type: ignore[attr-defined]  # pyplot's have a number
        start = time.monotonic()
        if closed or (start < self._next and not at_once):
            return
        self._draw()
        self.figure.canvas.draw()
        self.figure.canvas.flush_events()
        end = time.monotonic()
        self._next = end + max(SECONDS_BETWEEN_DRAWINGS, 3.0 * (end - start))

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

    full = False

    def __init__(self) -> None:
        super().__init__(None, (5.0, 5.0))
        self._frame = np.zeros((1, 1, 3), np.uint8)
        self._image: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Show a picture, uint8 [height, width, 3]."""
        self._frame = frame
        self.refresh()

    def _draw(self) -> None:
        if self._image is None:
            axes = self.figure.add_subplot()
            axes.set_axis_off()
            self._image = axes.imshow(self._frame)
        self._image.set_data(self._frame)


class Video:
    """A video file of at most `MAX_FRAMES` pictures: video.mp4, or video.gif where there is no ffmpeg.

    Args:
        folder: Where it is written.
        frame_rate: Pictures per second.
    """

    def __init__(self, folder: Path, frame_rate: float) -> None:
        self._rate, self._count = frame_rate, 0
        self._ffmpeg = _find_ffmpeg()
        self._process: subprocess.Popen[bytes] | None = None
        self._gif: Any = None
        self.path = folder / ("video.mp4" if self._ffmpeg else "video.gif")

    @property
    def full(self) -> bool:
        """Whether further pictures are left out."""
        return self._count >= MAX_FRAMES

    def add(self, frame: np.ndarray) -> None:
        """Append a picture, uint8 [height, width, 3], all of one size.

        Raises:
            OSError: The file cannot be written.
        """
        frame = _for_video(frame)
        if self._ffmpeg is None:
            self._gif = self._gif or _open_gif(self.path, self._rate)
            self._gif.append_data(frame)
        else:
            self._process = self._process or self._start_ffmpeg(frame.shape[0], frame.shape[1])
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(frame.tobytes())
            except BrokenPipeError:
                self._end_ffmpeg()
        self._count += 1

    def finish(self) -> None:
        """Complete the file and say where it is.

        Raises:
            OSError: The file cannot be written.
        """
        if self._gif is not None:
            self._gif.close()
        if self._process is not None:
            self._end_ffmpeg()
        if self._count:
            print(f"video {self.path}" + (f" (the first {MAX_FRAMES:,} frames)" if self.full else ""))

    def _start_ffmpeg(self, height: int, width: int) -> subprocess.Popen[bytes]:
        """Start the encoder.

        Not by imageio's writer: that forks, which jax warns may deadlock. A process group of its own keeps Ctrl-C away
        from it, so that the video is complete then, too.
        """
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self._rate), "-i", "-"]
        encode = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p"]
        command = [str(self._ffmpeg), "-y", "-loglevel", "error", *raw, *encode, "-movflags", "+faststart"]
        return subprocess.Popen(
            [*command, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def _end_ffmpeg(self) -> None:
        """Wait for the encoder; OSError with its own words where it failed."""
        assert self._process is not None
        _, said = self._process.communicate()
        if self._process.returncode:
            words = said.decode(errors="replace").split("\n")[0]
            raise OSError(f"{self.path} cannot be written: {words}")


def _find_ffmpeg() -> str | None:
    """The ffmpeg program, None where there is none that can be started."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        subprocess.run([program, "-version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError):
        return None
    return program


def _open_gif(path: Path, frame_rate: float) -> Any:
    """Open an animated picture that repeats for ever."""
    import imageio.v2 as imageio

    return imageio.get_writer(path, duration=1000.0 / frame_rate, loop=0)


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
        self._steps = self._ended = 0

    def add(self, position: np.ndarray, first: bool, last: bool) -> None:
        """Append a state [2 or 3]; `first` begins an episode, `last` ends it."""
        if first:
            self._tracks.append([])
        self._tracks[-1].append(position)
        self._steps += 1
        self._ended += last
        if self.path is None:
            self.refresh(at_once=False)

    def _draw(self) -> None:
        self.figure.clear()
        axes: Any = self.figure.add_subplot(projection="3d" if len(self._labels) == 3 else None)
        colours = self._colours(axes, len(self._tracks))
        for number, (states, colour) in enumerate(zip(self._tracks, colours, strict=True)):
            track = np.asarray(states)
            axes.plot(*track.T, color=colour, linewidth=1.2 if self._steps < LONG else 0.6, alpha=0.85)
            axes.scatter(*track[:1].T, s=26, facecolors="white", edgecolors=[colour], zorder=3)
            if number < self._ended:
                axes.scatter(*track[-1:].T, s=30, color=[colour], edgecolors="black", linewidths=0.6, zorder=4)
        self._explain(axes)
        axes.set(title=f"{self._title}, {self._ended} episode{'s' * (self._ended != 1)}")
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
        rows = 1 if isinstance(spec.action, Discrete) else spec.action.size
        super().__init__(path, (5.0, 4.0) if path is None else (11.0, max(4.0, 0.9 * rows + 1.0)))
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
            self.refresh(at_once=False)
        elif not self.full:
            self._rows.append(values)

    def _draw(self) -> None:
        self.figure.clear()
        if not self._rows:
            return
        values = np.asarray(self._rows)
        if self.path is None:
            self._bars(self.figure.add_subplot(), values[-1], self._title)
            return
        self.figure.suptitle(f"{self._title}, first episode ({len(values)} steps)")
        rows = 1 if self._discrete else values.shape[1]
        grid = self.figure.add_gridspec(rows, 2, width_ratios=(3, 1))
        over_time = [self.figure.add_subplot(grid[row, 0]) for row in range(rows)]
        if self._discrete:
            self._heat(over_time[0], values)
        else:
            self._lines(over_time, values)
        self._bars(self.figure.add_subplot(grid[:, 1]), values.mean(axis=0), "mean of the episode")

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
        for edge in range(1, count):
            axes.axhline(edge - 0.5, color="white", linewidth=2.0)
        axes.set(title="probability of each action", xlabel="step", ylabel="action", yticks=range(count))
        self.figure.colorbar(image, ax=axes, pad=0.01)

    def _lines(self, rows: Sequence[Axes], values: np.ndarray) -> None:
        """Components of the actions [T, size] over time, each between its bounds."""
        lows, highs = self._limits(values)
        steps = np.arange(1, len(values) + 1)
        for i, (axes, low, high) in enumerate(zip(rows, lows, highs, strict=True)):
            axes.plot(steps, values[:, i], linewidth=0.9, color=f"C{i % DISTINCT_COLOURS}")
            for bound in (low, high):
                axes.axhline(bound, color=GREY, linestyle="--", linewidth=0.8)
            margin = 0.08 * (high - low)
            axes.set(ylabel=f"[{i}]", xlim=(0, len(values) + 1), ylim=(low - margin, high + margin))
            axes.label_outer()
        rows[0].set_title("components of the action, and their bounds")
        rows[-1].set_xlabel("step")

    def _limits(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the action space, and of the values where it has none."""
        largest = max(float(np.max(np.abs(values))), 1e-6)
        low = np.where(np.isfinite(self._low), self._low, -largest)
        return low, np.where(np.isfinite(self._high), self._high, largest)
