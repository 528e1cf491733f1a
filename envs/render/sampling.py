"""Pictures read between their pixels. Pixel centres lie at whole numbers, as in OpenCV.

The same code runs on NumPy and on JAX: a function that takes `xp` uses that array module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # of the array module in use


def neighbours(picture: Array, rows: Array, columns: Array, xp: Any) -> tuple[Array, Array]:
    """The four pixels around each of some points, and how much each counts in bilinear interpolation.

    A picture is zero beyond its edges, towards which it falls linearly within a pixel.

    Args:
        picture: float32 [height, width, channels].
        rows, columns: Coordinates, float32 [...].
        xp: Array module.

    Returns:
        (pixels float32 [..., 4, channels], weights float32 [..., 4])
    """
    height, width, channels = picture.shape
    framed = xp.pad(picture, ((1, 2), (1, 2), (0, 0)))
    # All four lie side by side, so that one look-up finds them.
    cells = xp.concatenate([framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]], axis=-1)
    down, right = xp.clip(rows + 1.0, 0.0, height + 1.0), xp.clip(columns + 1.0, 0.0, width + 1.0)
    top, left = xp.floor(down), xp.floor(right)
    below, beside = down - top, right - left
    above, before = 1.0 - below, 1.0 - beside
    index = (top * (width + 2) + left).astype(xp.int32)
    pixels = xp.take(cells.reshape(-1, 4 * channels), index, axis=0, mode="clip")
    weights = xp.stack([above * before, above * beside, below * before, below * beside], axis=-1)
    return pixels.reshape(*index.shape, 4, channels), weights


def bilinear(picture: Array, rows: Array, columns: Array, xp: Any) -> Array:
    """Values of a picture at points, float32 [..., channels]; see `neighbours`."""
    pixels, weights = neighbours(picture, rows, columns, xp)
    return (pixels * weights[..., None]).sum(-2)


def resize_positions(pixels: Array, source: int, size: int) -> Array:
    """Where on a line lie the samples whose mean is a pixel of the line resized, float32 [n, samples].

    One sample, as OpenCV's bilinear resizing takes, down to about half of the length; below, as many as it takes not to
    skip a pixel.

    Args:
        pixels: Indices of pixels of the resized line, [n].
        source: Length of the line.
        size: Its length when resized.
    """
    scale = source / size
    samples = max(1, round(scale / 2))
    within = (np.arange(samples, dtype=np.float32) + np.float32(0.5)) / np.float32(samples)
    return (pixels[:, None] + within) * np.float32(scale) - np.float32(0.5)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A square picture [source, source, channels] as float32 [size, size, channels]; see `resize_positions`."""
    source = len(picture)
    position = np.clip(resize_positions(np.arange(size, dtype=np.float32), source, size), 0, source - 1)
    samples = bilinear(picture, position[:, None, :, None], position[:, None, :], np)
    return samples.mean((2, 3))


def undistorted(
    picture: np.ndarray, focal: tuple[float, float], centre: tuple[float, float], coefficients: tuple[float, ...]
) -> np.ndarray:
    """What a camera without distortion would have seen, the same camera otherwise; black where nothing was seen.

    Args:
        picture: float32 [height, width, channels], seen through a lens.
        focal: Focal length along a row and along a column (pixels).
        centre: Column and row of the optical axis.
        coefficients: k1, k2, p1, p2, k3 of Brown's model: radial and tangential.

    Returns:
        float32, of the same shape.
    """
    height, width, _ = picture.shape
    k1, k2, p1, p2, k3 = coefficients
    x = (np.arange(width)[None, :] - centre[0]) / focal[0]
    y = (np.arange(height)[:, None] - centre[1]) / focal[1]
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    seen_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    seen_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return bilinear(picture, seen_y * focal[1] + centre[1], seen_x * focal[0] + centre[0], np).astype(np.float32)
