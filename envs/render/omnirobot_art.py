"""The floor and the markers of the Omnirobot's room, drawn here. NumPy only.

The room of the original was photographed; these are drawings of what there is to see in it: a grey floor with dark
spots and a blue line, a tag on paper that the robot carries, and another that marks the target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_WHITE, _BLACK = (228.0, 226.0, 220.0), (24.0, 24.0, 28.0)
_YELLOW, _RED, _CREAM = (226.0, 190.0, 44.0), (208.0, 66.0, 44.0), (240.0, 208.0, 190.0)
_GREY, _BLUE = (88.0, 88.0, 86.0), (38.0, 62.0, 150.0)
_CELL = 4  # pixels; a tag has 8x8 cells, of which the inner 6x6 show a figure: 32 pixels are its 0.18 m
_MARGIN_WEIGHT = 0.3

_ROBOT_FIGURE = ("111111", "110000", "111110", "110000", "110000", "111111")
_TARGET_FIGURE = ("001100", "011110", "110011", "110011", "011110", "001100")


class MarkerArt(NamedTuple):
    """A marker lying on the floor, as the camera sees it from its usual height.

    Attributes:
        rgb: float32 [height, width, 3] of 0 to 255.
        weight: float32 [height, width], how far it covers the floor: 1, but fading in its margins.
    """

    rgb: np.ndarray
    weight: np.ndarray


def robot_marker() -> MarkerArt:
    """Black tag on white paper, yellow tape at the corners, 48 pixels wide and 56 high."""
    rgb = _tag(56, 48, _BLACK, _WHITE, _ROBOT_FIGURE)
    margin, tape = 3, 7
    rows, columns = np.arange(56)[:, None], np.arange(48)[None, :]
    from_edge = np.minimum(rows, 55 - rows) + np.minimum(columns, 47 - columns) - 2 * margin
    rgb[from_edge < tape] = _YELLOW
    return MarkerArt(rgb, _weights(56, 48, margin))


def target_marker() -> MarkerArt:
    """Red tag on white paper, 49 pixels wide and 66 high."""
    return MarkerArt(_tag(66, 49, _RED, _CREAM, _TARGET_FIGURE), _weights(66, 49, 4))


def floor(size: int) -> np.ndarray:
    """The floor, float32 [size, size, 3] of 0 to 255."""
    rows, columns = (np.arange(size)[:, None] + 0.5) / size, (np.arange(size)[None, :] + 0.5) / size
    light = 1.0 + 0.05 * np.sin(5.1 * columns + 2.3 * rows + 0.4) + 0.03 * np.sin(11.7 * rows - 7.3 * columns)
    light = light + 0.02 * np.sin(83.0 * columns + 41.0 * rows) * np.sin(67.0 * rows - 29.0 * columns)
    corner = np.clip((columns + rows - 1.35) / 0.65, 0.0, 1.0)  # the right bottom corner lies in the shade
    light = light * (1.0 - 0.45 * corner * corner * (3.0 - 2.0 * corner))
    for row, column, radius in _spots(70):
        square = ((rows - row) ** 2 + (columns - column) ** 2) / radius**2
        light = light * (1.0 - 0.5 * np.exp(-square * square))
    picture = light[..., None] * np.array(_GREY)
    line = 0.66 + 0.13 * np.sin(2.6 * columns + 0.5) + 0.1 * (columns - 0.4) ** 2
    cover = np.clip(1.5 - np.abs(rows - line) * size / 2.0, 0.0, 1.0)[..., None]
    picture = picture * (1.0 - cover) + light[..., None] * np.array(_BLUE) * cover
    return np.clip(picture, 0.0, 255.0).astype(np.float32)


def _spots(count: int) -> list[tuple[float, float, float]]:
    """Row, column and radius of dark spots on a floor of size 1, spread evenly by a quasi-random sequence."""
    return [
        (0.7548776662 * i % 1.0, 0.5698402910 * i % 1.0, 0.003 + 0.007 * (0.6180339887 * i % 1.0) ** 2)
        for i in range(1, count + 1)
    ]


def _tag(
    height: int, width: int, dark: tuple[float, ...], light: tuple[float, ...], figure: tuple[str, ...]
) -> np.ndarray:
    """A square tag with a figure in the middle of white paper, float32 [height, width, 3]."""
    cells = np.zeros((8, 8))
    cells[1:7, 1:7] = [[float(cell) for cell in row] for row in figure]
    pixels = np.kron(cells, np.ones((_CELL, _CELL)))[..., None]
    rgb = np.full((height, width, 3), _WHITE, np.float32)
    top, left = (height - len(pixels)) // 2, (width - len(pixels)) // 2
    rgb[top : top + len(pixels), left : left + len(pixels)] = pixels * np.array(light) + (1 - pixels) * np.array(dark)
    return rgb


def _weights(height: int, width: int, margin: int) -> np.ndarray:
    """1 inside, i/margin * 0.3 in the i-th row or column of the margin, i from 0: float32 [height, width]."""
    weight = np.ones((height, width), np.float32)
    for i in range(margin):
        fade = i / margin * _MARGIN_WEIGHT
        weight[i, :] = weight[:, i] = weight[-i - 1, :] = weight[:, -i - 1] = fade
    return weight
