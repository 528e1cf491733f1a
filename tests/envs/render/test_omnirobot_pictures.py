"""Pictures of the Omnirobot's room, against the original's order of work done slowly, and where things are in them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates, uniform_filter

from envs import omnirobot_arena as arena
from envs.render import omnirobot_art as art
from envs.render.cielab import recoloured, responses
from envs.render.omnirobot_device import OmniRobotDeviceRenderer
from envs.render.omnirobot_scene import ROBOT, TARGET, OmniRobotRenderer, background
from envs.render.sampling import undistorted

PLACES = [
    # robot, its heading and size, target, its heading and size
    ((0.0, 0.0), (0.0, 1.0), (0.5, -0.3), (0.0, 1.0)),
    ((0.85, 0.85), (0.1, 1.05), (-0.7, 0.7), (1.0, 0.9)),
    ((-0.85, -0.85), (-0.1, 0.95), (0.7, -0.7), (-2.5, 1.04)),
    ((0.313, -0.217), (0.05, 1.0), (0.3, -0.11), (2.0, 1.0)),
]


def float32(*values) -> tuple[np.ndarray, ...]:
    return tuple(np.array(value, np.float32) for value in values)


def draw(renderer: OmniRobotRenderer, place, colour=None) -> np.ndarray:
    """A picture without noise on the markers."""
    robot, robot_pose, target, target_pose = float32(*place)
    patch = renderer.target_patch(target, target_pose, None)
    return np.asarray(renderer.picture(patch, robot, robot_pose, None, colour))


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two grey pictures of 0 to 255, mean over windows of 7 by 7."""
    a, b = first.astype(float).mean(-1), second.astype(float).mean(-1)
    mean_a, mean_b = uniform_filter(a, 7), uniform_filter(b, 7)
    var_a, var_b = uniform_filter(a * a, 7) - mean_a**2, uniform_filter(b * b, 7) - mean_b**2
    both = uniform_filter(a * b, 7) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top, bottom = (2 * mean_a * mean_b + c1) * (2 * both + c2), (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float((top / bottom).mean())


def warp(picture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return map_coordinates(picture, [rows, columns], order=1, mode="grid-constant")


def paste(scene: np.ndarray, marker: art.MarkerArt, column: float, row: float, pose) -> np.ndarray:
    """The camera's full picture with a marker: turned, scaled and shifted about its middle, then blended by weight."""
    yaw, scale = pose
    rows, columns = np.mgrid[: scene.shape[0], : scene.shape[1]].astype(float)
    right, below = columns - column, rows - row
    # Counterclockwise as one sees it, rows pointing down.
    x = (np.cos(yaw) * right - np.sin(yaw) * below) / scale + (marker.rgb.shape[1] - 1) / 2
    y = (np.sin(yaw) * right + np.cos(yaw) * below) / scale + (marker.rgb.shape[0] - 1) / 2
    weight = warp(marker.weight, y, x)[..., None]
    rgb = np.stack([warp(marker.rgb[..., channel], y, x) for channel in range(3)], axis=-1)
    return np.floor(rgb * weight + scene * (1 - weight))


def original_order(size: int, place, factors: np.ndarray) -> np.ndarray:
    """Straighten the floor, paste both markers into the full picture, crop, change colours, and resize last."""
    robot, robot_pose, target, target_pose = place
    seen = np.zeros((480, 640, 3), np.float32)
    seen[:, 80:560] = art.floor(480)
    picture = np.floor(undistorted(seen, arena.FOCAL_LENGTH, arena.OPTICAL_CENTRE, arena.DISTORTION))
    for marker, (x, y), pose in ((TARGET, target, target_pose), (ROBOT, robot, robot_pose)):
        picture = paste(picture, marker, 513.251745 * -x / 2.9 + 325.813473, 514.199291 * y / 2.9 + 251.889606, pose)
    picture = recoloured(responses(picture[:, 80:560], np), factors, np).astype(float)
    middle = (np.arange(size) + 0.5) * 480 / size - 0.5
    rows, columns = np.meshgrid(middle, middle, indexing="ij")
    return np.stack(
        [map_coordinates(picture[..., c], [rows, columns], order=1, mode="nearest") for c in range(3)], axis=-1
    )


@pytest.mark.parametrize(
    ("place", "colour"), list(zip(PLACES, [None, (1.0, -1.5, 2.0), (-2.0, 1.0, 0.5), None], strict=True))
)
def test_pictures_are_those_of_the_original_order_of_work(place, colour) -> None:
    normals = None if colour is None else np.array(colour, np.float32)
    factors = np.ones(3) if colour is None else 1 + 0.03 * np.array(colour)
    theirs, ours = original_order(224, place, factors), draw(OmniRobotRenderer(224), place, normals)
    # Most of the difference is that the original rounds down three times.
    assert np.abs(ours - theirs).mean() < 0.75
    assert similarity(ours, theirs) > 0.99


def area_means(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture [480, 480, 3] resized by averaging the area that each pixel covers."""
    edges = np.linspace(0, 480, size + 1)
    for _ in range(2):
        sums = np.concatenate([np.zeros((1, *picture.shape[1:])), np.cumsum(picture, axis=0)])
        whole = np.minimum(edges.astype(int), 479)
        part = (edges - whole)[:, None, None]
        picture = (np.diff(sums[whole] * (1 - part) + sums[whole + 1] * part, axis=0) * size / 480).swapaxes(0, 1)
    return picture


@pytest.mark.parametrize("size", [36, 64, 100])
def test_small_pictures_are_means_of_large_ones(size) -> None:
    for place in PLACES[:2]:
        wanted = area_means(original_order(480, place, np.ones(3)), size)
        ours = draw(OmniRobotRenderer(size), place)
        assert np.abs(ours - wanted).mean() < 1
        assert similarity(ours, wanted) > 0.99


@pytest.mark.parametrize("size", [36, 64, 224])
def test_jax_draws_what_numpy_draws(size) -> None:
    host, device = OmniRobotRenderer(size), OmniRobotDeviceRenderer(size)
    rng = np.random.default_rng(size)
    noise = [np.round(2 * rng.standard_normal((4, *marker.rgb.shape))).astype(np.float32) for marker in (ROBOT, TARGET)]
    colour = rng.standard_normal((4, 3)).astype(np.float32)
    colour[0] = 0

    def both(renderer, robot, robot_pose, target, target_pose, robot_noise, target_noise, colour):
        patch = renderer.target_patch(target, target_pose, target_noise)
        return renderer.picture(patch, robot, robot_pose, robot_noise, colour)

    places = [np.stack(leaves) for leaves in zip(*(float32(*place) for place in PLACES), strict=True)]
    arguments = (*places, *noise, colour)
    batch = np.asarray(jax.jit(jax.vmap(lambda *values: both(device, *values)))(*map(jnp.asarray, arguments)))
    for i in range(4):
        alone = both(host, *(leaf[i] for leaf in arguments))
        difference = np.abs(batch[i].astype(int) - alone)
        assert batch.dtype == alone.dtype == np.uint8
        assert difference.max() <= 2 and difference.mean() < 0.02
        assert similarity(batch[i], alone) > 0.999


def centre_of(mask: np.ndarray) -> np.ndarray:
    """(column, row) of the middle of a mask's box."""
    rows, columns = np.nonzero(mask)
    return np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (-0.7, 0.5), (0.85, -0.85)])
def test_markers_are_where_the_camera_projects_them(x, y) -> None:
    # 82.59 pixels to a metre at 224; the middle of the floor at (114.7, 117.5); +x to the left, +y downwards.
    picture = draw(OmniRobotRenderer(224), ((x, y), (0.0, 1.0), (x, y - 0.6 if y > 0 else y + 0.6), (0.0, 1.0)))
    empty = background(224).astype(int)
    changed = np.abs(picture.astype(int) - empty).max(-1) > 60
    near = np.zeros_like(changed)
    expected = np.array([114.7 - 82.59 * x, 117.5 + 82.74 * y])
    column, row = expected.astype(int)
    near[row - 17 : row + 18, column - 15 : column + 16] = True
    np.testing.assert_allclose(centre_of(changed & near), expected - 0.5, atol=0.8)


def test_a_marker_turns_counterclockwise() -> None:
    for yaw in (0.4, -0.4):
        place = ((0.8, 0.8), (0.0, 1.0), (0.0, 0.0), (yaw, 1.0))
        paper = np.argwhere(draw(OmniRobotRenderer(480), place)[200:300, 200:300].min(-1) > 190)
        # The paper is longer than wide: turned counterclockwise, its upper end lies to the left of its lower one.
        assert np.sign(np.cov(paper.T.astype(float))[0, 1]) == np.sign(yaw)


def test_only_the_windows_of_the_markers_differ_from_the_floor() -> None:
    picture = draw(OmniRobotRenderer(224), PLACES[0])
    changed = np.any(picture != background(224), axis=-1)
    assert 0.015 < changed.mean() < 0.05


def test_margins_fade() -> None:
    for marker, margin in ((ROBOT, 3), (TARGET, 4)):
        steps = np.arange(margin) / margin * 0.3
        middle = marker.weight.shape[0] // 2
        np.testing.assert_allclose(marker.weight[middle, :margin], steps, atol=1e-6)
        np.testing.assert_allclose(marker.weight[middle, -margin:], steps[::-1], atol=1e-6)
        assert np.all(marker.weight[margin:-margin, margin:-margin] == 1)


def test_the_room_looks_as_described() -> None:
    floor = art.floor(480)
    assert np.abs(floor.mean((0, 1)) - (85, 85, 83)).max() < 6
    blue = (floor[..., 2] - floor[..., 0]) > 40
    assert blue[240:].sum() > 480 and not blue[:240].any(), "a blue line in the lower half"
    assert floor[430:, 430:].mean() < 0.75 * floor[:50, :50].mean()
    assert (floor.mean(-1) < 60)[:300, :300].mean() > 0.001, "dark spots"
    robot, target = ROBOT.rgb, TARGET.rgb
    assert robot.shape == (56, 48, 3) and target.shape == (66, 49, 3)
    assert (robot.max(-1) < 60).sum() > 400
    assert ((robot[..., 0] > 200) & (robot[..., 2] < 80)).sum() > 60, "yellow tape"
    assert ((target[..., 0] > 180) & (target[..., 1] < 90)).sum() > 400, "red"


def test_the_background_is_drawn_once() -> None:
    assert OmniRobotRenderer(64).background is OmniRobotDeviceRenderer(64).background
    before = background(64).copy()
    draw(OmniRobotRenderer(64), PLACES[1], np.ones(3, np.float32))
    np.testing.assert_array_equal(background(64), before)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)])
def test_tiny_pictures_are_drawn(size) -> None:
    assert draw(OmniRobotRenderer(size), PLACES[1]).shape == (size, size, 3)
    assert draw(OmniRobotDeviceRenderer(size), PLACES[1]).shape == (size, size, 3)
