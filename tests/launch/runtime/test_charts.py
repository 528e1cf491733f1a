"""Videos, plots and charts by themselves, and windows on an X server without a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
import pytest

from envs.types import Box, Discrete, Spec
from launch.runtime import charts
from tests.launch.play import frames_of

ROOT = Path(__file__).resolve().parents[3]


def test_small_and_odd_pictures_are_enlarged(tmp_path):
    video = charts.Video(tmp_path, 10.0)
    video.add(np.full((65, 64, 3), 200, np.uint8))
    video.finish()
    assert frames_of(tmp_path / "video.mp4").shape == (1, 196, 192, 3)


def test_a_video_that_cannot_be_written_is_one_line(tmp_path):
    folder = tmp_path / "removed"
    video = charts.Video(folder, 10.0)
    with pytest.raises(OSError, match=r"removed/video.mp4 cannot be written: .*No such file"):
        for _ in range(100):
            video.add(np.zeros((224, 224, 3), np.uint8))


def test_without_ffmpeg_the_video_is_a_gif(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    video = charts.Video(tmp_path, 10.0)
    for step in range(3):
        video.add(np.full((224, 224, 3), 80 * step, np.uint8))
    video.finish()
    np.testing.assert_array_equal(iio.imread(tmp_path / "video.gif")[:, 0, 0, 0], [0, 80, 160])


def test_state_plot_has_a_line_per_episode(tmp_path):
    for dimensions, episodes in ((2, 3), (3, 3), (2, 25)):
        plot = charts.StatePlot(tmp_path / "states.png", "title", ["a", "b", "c"][:dimensions], target=True)
        for episode in range(episodes):
            for step in range(4):
                plot.add(np.full(dimensions, episode + 0.1 * step), first=step == 0, last=step == 3)
        plot.finish()
        axes = plot.figure.axes[0]
        assert axes.name == ("3d" if dimensions == 3 else "rectilinear")
        assert axes.get_title() == f"title, {episodes} episodes" and axes.get_ylabel() == "b"
        colours = [line.get_color() for line in axes.lines]
        assert len({tuple(np.round(colour, 4)) for colour in colours}) == episodes
        if dimensions == 2:
            np.testing.assert_allclose(axes.lines[1].get_xdata(), [1.0, 1.1, 1.2, 1.3])
        assert len(plot.figure.axes) == 1 + (episodes > 10)  # many episodes have a scale of colours


def test_bars_are_the_probabilities_themselves(tmp_path):
    spec = Spec("x", (2,), "float32", Discrete(3))
    chart = charts.ActionChart(tmp_path / "a.png", "title", spec)
    steps = np.array([[0.7, 0.2, 0.1], [0.5, 0.2, 0.3]])
    for number, values in enumerate([*steps, [0.0, 0.0, 1.0]]):  # the last one is of the second episode
        chart.add(np.asarray(values), first=number in (0, 2))
    assert chart.full
    chart.finish()
    bars = next(axes for axes in chart.figure.axes if axes.patches and len(axes.patches) == 3)
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], steps.mean(axis=0))
    assert bars.get_ylim() == (0.0, 1.0)
    viridis = matplotlib.colormaps["viridis"](steps.mean(axis=0))
    np.testing.assert_allclose([bar.get_facecolor() for bar in bars.patches], viridis)
    (image,) = chart.figure.axes[0].images
    np.testing.assert_allclose(image.get_array(), steps.T)
    assert image.get_clim() == (0.0, 1.0)


def test_continuous_actions_are_shown_between_their_bounds(tmp_path):
    chart = charts.ActionChart(tmp_path / "a.png", "title", Spec("x", (2,), "float32", Box((-2.0, 0.0), (2.0, np.inf))))
    actions = np.array([[-1.0, 0.5], [2.0, 8.0]])
    for number, action in enumerate(actions):
        chart.add(action, first=number == 0)
    chart.finish()
    first, second, bars = chart.figure.axes
    np.testing.assert_allclose(first.lines[0].get_ydata(), actions[:, 0])
    assert [line.get_ydata()[0] for line in first.lines[1:]] == [-2.0, 2.0]
    assert [line.get_ydata()[0] for line in second.lines[1:]] == [0.0, 8.0]  # no bound: the largest value
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], actions.mean(axis=0))


WINDOWS = """
import numpy as np, sys
sys.path.insert(0, ".")
from envs.types import Discrete, Spec
from launch.runtime import charts
assert charts.has_display() and charts.can_open_windows()
plot = charts.StatePlot(None, "states", ["x", "y"], True)
chart = charts.ActionChart(None, "actions", Spec("x", (2,), "float32", Discrete(2)))
frames = charts.FrameWindow()
from matplotlib import pyplot
for step in range(3):
    plot.add(np.full(2, step), step == 0, step == 2)
    chart.add(np.array([0.2 * step, 1 - 0.2 * step]), step == 0)
    frames.add(np.full((8, 8, 3), step, np.uint8))
    if step == 1:
        pyplot.close(frames.figure)  # as a user does
for window in (plot, chart, frames):
    window.finish()
assert [bar.get_height() for bar in chart.figure.axes[0].patches] == [0.4, 0.6]
assert plot.figure.axes[0].get_title() == "states, 1 episode"
assert len(pyplot.get_fignums()) == 2
plot.figure.canvas.get_tk_widget().after(200, pyplot.close, "all")
charts.wait_for_windows()
print("closed")
"""


@pytest.fixture
def display() -> Iterator[str]:
    """An X server without a screen."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-noreset", "-screen", "0", "800x600x24"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with open(reading) as numbers:
        yield f":{numbers.readline().strip()}"
    server.terminate()
    server.wait()


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs an X server")
def test_windows_follow_the_play_and_end_when_they_are_closed(display):
    pytest.importorskip("tkinter")
    command = [sys.executable, "-c", WINDOWS]
    environment = os.environ | {"DISPLAY": display, "MPLBACKEND": "tkagg"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "close the windows to end\nclosed\n"), result.stderr


def test_a_dead_display_is_none(monkeypatch):
    assert not charts.has_display()
    monkeypatch.setenv("DISPLAY", ":64999")
    assert not charts.has_display() and not charts.can_open_windows()
