"""Colours against the definitions of sRGB (IEC 61966-2-1) and CIE L*a*b*."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from envs.render.cielab import encoded, recoloured, responses

WHITE = np.array([0.950456, 1.0, 1.089058])  # D65


def lab(rgb: np.ndarray) -> np.ndarray:
    """L*, a*, b* of sRGB 0 to 255 [..., 3], written down from the definitions, in float64."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    t = linear @ np.array(matrix).T / WHITE
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def colours() -> np.ndarray:
    """Colours all over the cube, its corners and greys, uint8 [n, 3]."""
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, -1).T
    greys = np.repeat(np.arange(256)[:, None], 3, axis=1)
    return np.concatenate([corners, greys, np.random.default_rng(0).integers(0, 256, (2000, 3))]).astype(np.uint8)


@pytest.mark.parametrize("xp", [np, jnp])
def test_responses_make_the_lab_of_the_definition(xp) -> None:
    rgb = colours()
    x, y, z = np.asarray(responses(xp.asarray(rgb), xp))
    ours = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    np.testing.assert_allclose(ours, lab(rgb), atol=0.02)


@pytest.mark.parametrize("xp", [np, jnp])
def test_factors_of_one_change_nothing(xp) -> None:
    rgb = colours()
    same = np.asarray(recoloured(responses(xp.asarray(rgb), xp), xp.ones(3, xp.float32), xp))
    assert same.dtype == np.uint8
    np.testing.assert_array_equal(same, rgb)


@pytest.mark.parametrize("xp", [np, jnp])
def test_factors_scale_the_eight_bit_channels(xp) -> None:
    rgb = np.random.default_rng(1).integers(70, 180, (500, 3)).astype(np.uint8)  # stays within the gamut
    factors = np.array([1.04, 0.97, 1.05], np.float32)
    got = np.asarray(recoloured(responses(xp.asarray(rgb), xp), xp.asarray(factors), xp))
    shift = np.array([0.0, 128.0, 128.0])
    wanted = (lab(rgb) + shift) * factors - shift
    inside = np.all((got > 0) & (got < 255), axis=-1)
    assert inside.mean() > 0.9
    # Rounding to whole numbers moves L*, a* and b* by up to about one.
    np.testing.assert_allclose(lab(got)[inside], wanted[inside], atol=1.5)
    assert np.abs(lab(got)[inside] - wanted[inside]).mean() < 0.3


def test_what_leaves_the_gamut_is_cut_off() -> None:
    extremes = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
    brighter = recoloured(responses(extremes, np), np.array([1.2, 1.0, 1.0], np.float32), np)
    np.testing.assert_array_equal(brighter, extremes)


def test_square_roots_make_the_curve_of_srgb() -> None:
    linear = np.linspace(-0.1, 1.1, 100_001, dtype=np.float32)
    kept = np.clip(linear.astype(np.float64), 0, 1)
    wanted = np.where(kept <= 0.0031308, 12.92 * kept, 1.055 * kept ** (1 / 2.4) - 0.055)
    assert np.abs(encoded(linear, np) - wanted).max() * 255 < 0.011
