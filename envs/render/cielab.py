"""sRGB and CIE L*a*b* (D65), and the change of light and tint that a scaling of its channels makes.

The same code runs on NumPy and on JAX: a function that takes `xp` uses that array module. Planes are kept apart, and
the channels of a picture come from one broadcast: XLA would work out a plane anew for every part of a stack.

A picture in between is held as the three cube-root responses f(X/Xn), f(Y/Yn), f(Z/Zn) from which L* = 116 f_y - 16,
a* = 500 (f_x - f_y) and b* = 200 (f_y - f_z) are made: scaling L*, a* and b* is an affine map of them, so that colours
which stay what they are from frame to frame need no cube root per frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # of the array module in use
Planes = tuple[Array, Array, Array]

# IEC 61966-2-1: linear sRGB to CIE XYZ.
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_TO_WHITE = _TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)  # white is (1, 1, 1)
_FROM_WHITE = np.linalg.inv(_TO_WHITE)
_DELTA = 6.0 / 29.0  # where CIE's cube root goes over into a straight line
_OFFSET = 16.0 / 116.0
# Best approximations that are exact at 1, where the curves are no straight lines: square roots and products are many
# times faster than powers. Of x^2.4 by powers 4 to 8 of the square root of x; of x^(1/3) by powers 0 to 5 and of
# 1.055 x^(1/2.4) - 0.055 by powers 0 to 4 of the fourth root of x.
_LINEAR = (0.04554323, 1.24992406, -0.51156396, 0.29196047, -0.07586380)
_CUBE_ROOT = (-0.01404091, 0.50154796, 0.86357581, -0.57405750, 0.28830138, -0.06532674)
_ENCODED = (-0.0648017, 0.1978196, 1.1175315, -0.3290166, 0.0784673)


def responses(rgb: Array, xp: Any) -> Planes:
    """Cube-root responses, three times float32 [...], of sRGB pictures [..., 3] of 0 to 255."""
    value = rgb.astype(xp.float32) / 255.0
    base = (value + 0.055) / 1.055
    linear = xp.where(value <= 0.04045, value / 12.92, base * base * _polynomial(_LINEAR, xp.sqrt(base)))
    # A matrix product is worked out once, while XLA would repeat a sum of channels for each of its readers.
    exactly = {} if xp is np else {"precision": "highest"}
    ratios = xp.einsum("ij,...j->i...", _TO_WHITE.astype(np.float32), linear, **exactly)
    toe = ratios / (3 * _DELTA**2) + _OFFSET
    f_x, f_y, f_z = xp.where(ratios > _DELTA**3, _polynomial(_CUBE_ROOT, xp.sqrt(xp.sqrt(ratios))), toe)
    return f_x, f_y, f_z


def recoloured(response: Planes, factors: Array, xp: Any) -> Array:
    """A picture whose 8-bit LAB channels (255/100 L*, a* + 128, b* + 128) are multiplied by factors.

    Args:
        response: float32 [...] three times, from `responses`.
        factors: float32 [3], of L, a and b.
        xp: Array module.

    Returns:
        uint8 [..., 3], sRGB; what lies beyond its gamut is cut off.
    """
    f_x, f_y, f_z = response
    light, green, blue = factors[0], factors[1], factors[2]
    y = light * f_y + _OFFSET * (1.0 - light)
    x = y + green * (f_x - f_y) + (green - 1.0) * (128.0 / 500.0)
    z = y + blue * (f_z - f_y) - (blue - 1.0) * (128.0 / 200.0)
    ratios = [xp.where(t > _DELTA, t * t * t, (t - _OFFSET) * (3 * _DELTA**2)) for t in (x, y, z)]
    linear = sum(
        ratio[..., None] * column for ratio, column in zip(ratios, _FROM_WHITE.T.astype(np.float32), strict=True)
    )
    # By way of int32, which every processor converts several of at a time.
    return (encoded(linear, xp) * 255.0 + 0.5).astype(xp.int32).astype(xp.uint8)


def encoded(linear: Array, xp: Any) -> Array:
    """sRGB values of linear light, both from 0 to 1; what lies outside is cut off. Exact to 0.01 of an 8-bit step."""
    linear = xp.clip(linear, 0.0, 1.0)
    curve = _polynomial(_ENCODED, xp.sqrt(xp.sqrt(linear)))
    return xp.where(linear <= 0.0031308, 12.92 * linear, xp.minimum(curve, 1.0))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """The sum of coefficients times powers 0, 1, ... of x."""
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
