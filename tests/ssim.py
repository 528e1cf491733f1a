"""How alike two pictures are: structural similarity (Wang et al., 2004, "Image quality assessment")."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

LUMA = (0.299, 0.587, 0.114)
RADIUS, SIGMA = 5, 1.5  # of the Gaussian window, 11 pixels wide
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Mean structural similarity of the luma of two pictures uint8 [height, width, 3], where the window fits."""
    offsets = np.arange(-RADIUS, RADIUS + 1)
    window = np.exp(-(offsets**2) / (2 * SIGMA**2))
    window /= window.sum()

    def blurred(values: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            values = correlate1d(values, window, axis=axis)
        return values[RADIUS:-RADIUS, RADIUS:-RADIUS]

    a, b = (picture.astype(np.float64) @ LUMA for picture in (first, second))
    mean_a, mean_b = blurred(a), blurred(b)
    variances = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return float(np.mean(similarity / ((mean_a**2 + mean_b**2 + C1) * (variances + C2))))
