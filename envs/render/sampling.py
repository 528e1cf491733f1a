"""Pictures read between their pixels. Pixel centres lie at whole numbers, as in OpenCV.

The same code runs on NumPy and on JAX: a function that takes `xp` uses that array module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # of the array module in use


def corners(
    rows: Array, columns: Array, height: int, width: int, xp: Any
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The four pixels around each of some points, and how much each counts in bilinear interpolation.

    Args:
        rows, columns: Coordinates, float32 [...].
        height, width: Of the picture; beyond its edges it counts as zero, towards which it falls within a pixel.
        xp: Array module.

    Returns:
        (indices int32 [...] four times, into the rows of the picture framed by `framed`, laid end to end;
        weights float32 [...] four times)
    """
    down, right = xp.clip(rows + 1.0, 0.0, height + 1.0), xp.clip(columns + 1.0, 0.0, width + 1.0)
    top, left = xp.floor(down), xp.floor(right)
    below, beside = down - top, right - left
    above, before = 1.0 - below, 1.0 - beside
    first = (top * (width + 3) + left).astype(xp.int32)
    indices = (first, first + 1, first + (width + 3), first + (width + 4))
    return indices, (above * before, above * beside, below * before, below * beside)


def framed(picture: Array, xp: Any) -> Array:
    """A picture [height, width, ...] with a frame of zeros, as `corners` counts its pixels."""
    return xp.pad(picture, ((1, 2), (1, 2), *((0, 0),) * (picture.ndim - 2)))


def bilinear(picture: Array, rows: Array, columns: Array, xp: Any) -> Array:
    """Values of a picture [height, width, channels] at points [...], float32 [..., channels]; zero outside."""
    height, width, channels = picture.shape
    indices, weights = corners(rows, columns, height, width, xp)
    pixels = framed(picture, xp).reshape(-1, channels)
    return sum(pixels[index] * weight[..., None] for index, weight in zip(indices, weights, strict=True))


def resize_positions(pixels: Array, source: int, size: int, samples: int) -> Array:
    """Where on a line lie the samples whose mean is a pixel of the line resized, float32 [n, samples].

    Args:
        pixels: Indices of pixels of the resized line, [n].
        source: Length of the line.
        size: Its length when resized.
        samples: Their number; 1 is what OpenCV's bilinear resizing takes.
    """
    within = (np.arange(samples, dtype=np.float32) + np.float32(0.5)) / np.float32(samples)
    return (pixels[:, None] + within) * np.float32(source / size) - np.float32(0.5)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A square picture [source, source, channels] as float32 [size, size, channels].

    Bilinear, as OpenCV resizes, down to about half; below, a pixel is the mean of as many samples as it takes not to
    leave more than three pixels between two.
    """
    source = len(picture)
    samples = max(1, round(source / size / 2))
    position = resize_positions(np.arange(size, dtype=np.float32), source, size, samples)
    position = np.clip(position, 0, source - 1)
    values = bilinear(picture, position[:, None, :, None], position[:, None, :], np)
    return values.mean((2, 3))


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
