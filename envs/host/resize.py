"""Pictures of a camera in the size of an observation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def _weights(old: int, new: int) -> np.ndarray:
    """Share of each of `old` pixels in each of `new` pixels along one axis, float32 [new, old]; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * (new / old)).astype(np.float32)


def resize_area(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize by area: each new pixel is the mean of what it covers of the old ones.

    Args:
        picture: uint8 [height, width, channels].
        size: New height and width in pixels; the aspect is not kept.

    Returns:
        uint8 [size, size, channels].
    """
    height, width, channels = picture.shape
    if (height, width) == (size, size):
        return picture.copy()
    rows = _weights(height, size) @ picture.reshape(height, -1).astype(np.float32)
    columns = _weights(width, size) @ rows.reshape(size, width, channels)
    return np.rint(columns).clip(0, 255).astype(np.uint8)
