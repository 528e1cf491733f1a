"""Sampling, resizing and straightening of pictures, against scipy and against the formulas."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from envs.render.sampling import bilinear, resize_positions, resized, undistorted


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@pytest.mark.parametrize("xp", [np, jnp])
def test_samples_of_a_turned_grid_are_those_of_scipy(xp) -> None:
    picture = noise(17, 23, 3)
    across, down = np.meshgrid(np.linspace(-20, 20, 60), np.linspace(-18, 18, 50))
    rows, columns = 8 + 0.8 * down + 0.5 * across, 11 - 0.5 * down + 0.8 * across  # a good part lies outside
    ours = np.asarray(bilinear(xp.asarray(picture), xp.asarray(rows), xp.asarray(columns), xp))
    theirs = [map_coordinates(picture[..., c], [rows, columns], order=1, mode="grid-constant") for c in range(3)]
    assert np.mean(ours == 0) > 0.3
    np.testing.assert_allclose(ours, np.stack(theirs, axis=-1), atol=0.01)


@pytest.mark.parametrize("size", [224, 300, 480])
def test_resizing_takes_one_bilinear_sample_at_the_middle_of_a_pixel(size) -> None:
    picture = noise(480, 480, 1)
    middle = (np.arange(size) + 0.5) * 480 / size - 0.5
    grid = np.meshgrid(middle, middle, indexing="ij")
    theirs = map_coordinates(picture[..., 0], grid, order=1, mode="nearest")
    np.testing.assert_allclose(resized(picture, size)[..., 0], theirs, atol=0.02)


@pytest.mark.parametrize("size", [8, 36, 64, 84, 100, 160])
def test_small_pictures_sample_every_other_pixel_at_least(size) -> None:
    positions = resize_positions(np.arange(size, dtype=np.float32), 480, size)
    assert np.diff(positions.ravel()).max() <= 3.01
    np.testing.assert_allclose(positions.mean(axis=1), (np.arange(size) + 0.5) * 480 / size - 0.5, atol=1e-3)
    ramp = np.broadcast_to(np.arange(480, dtype=np.float32)[:, None, None], (480, 480, 1))
    inside = slice(1, -1)  # at the edges samples beyond the picture repeat its last pixel
    np.testing.assert_allclose(resized(ramp, size)[inside, 0, 0], positions.mean(axis=1)[inside], atol=1e-3)


def test_a_straightened_picture_shows_what_the_lens_bent() -> None:
    focal, centre, lens = (110.0, 115.0), (49.0, 38.0), (0.08, -0.13, 0.004, 0.0006, 0.02)
    k1, k2, p1, p2, k3 = lens
    # A picture whose colours are the places at which the lens would show each point of the straight one.
    place = np.stack(np.meshgrid(np.arange(100.0), np.arange(80.0)), axis=-1).astype(np.float32)
    straight = undistorted(place, focal, centre, lens)
    for column, row in ((20, 10), (50, 39), (80, 60), (49, 70)):
        x, y = (column - centre[0]) / focal[0], (row - centre[1]) / focal[1]
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        bent_y = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        seen = (bent_x * focal[0] + centre[0], bent_y * focal[1] + centre[1])
        np.testing.assert_allclose(straight[row, column], seen, atol=1e-3)
    np.testing.assert_array_equal(undistorted(place, focal, centre, (0.0,) * 5), place)
