"""The top-down renderer's shortcuts and the solids it draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.host.mobile_robot import (
    MobileRobot1DGymEnv,
    MobileRobot2TargetGymEnv,
    MobileRobotGymEnv,
    MobileRobotLineTargetGymEnv,
)
from envs.render.mobile_scene import LINE_TARGET, ONE_DIMENSION, ONE_TARGET, ROBOT, TWO_TARGETS
from envs.render.solids import Box, Disc, Rays, Wheel, brightness, moved, pack, trace, unpack
from envs.render.top_down import TopDownRenderer

LOW, HIGH = (0.425, 0.2), (3.575, 3.8)


def draw_without_windows(renderer: TopDownRenderer, robot: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The picture, with every pixel traced through target and robot, in float64."""
    pixels = np.arange(renderer.size)
    rays = renderer._rays(pixels[:, None], pixels[None, :])
    frame = renderer._background
    for position, solids in ((target, (ONE_TARGET.targets[0].solid,)), (robot, ROBOT)):
        shape = frame.shape[:2]
        distance, colour = trace(solids, moved(rays, *position), np.zeros(shape, np.uint32), np.full(shape, np.inf), np)
        frame = np.where(np.isfinite(distance)[..., None], unpack(colour), frame)
    return frame


@pytest.mark.parametrize("size", [33, 64, 224])
def test_windows_hold_the_whole_robot_and_target(size) -> None:
    renderer = TopDownRenderer(size)
    draw = jax.jit(renderer.__call__)
    corners = [(x, y) for x in (LOW[0], HIGH[0]) for y in (LOW[1], HIGH[1])]
    rng = np.random.default_rng(size)
    robots = np.array([*corners, *rng.uniform(LOW, HIGH, (8, 2))], np.float32)
    targets = np.array([*np.clip(corners, 0.4, 3.6), *rng.uniform(0.4, 3.6, (8, 2))], np.float32)
    for robot, target in zip(robots, targets, strict=True):
        ours, whole = draw(robot, target[None]), draw_without_windows(renderer, robot, target)
        # float32 may round a ray to the other side of an edge; colours may differ by a unit.
        different = np.abs(np.asarray(ours).astype(int) - whole).max(axis=-1) > 1
        assert different.sum() <= 3


def test_only_the_windows_differ_between_situations() -> None:
    draw = jax.jit(TopDownRenderer(64).__call__)
    first = np.asarray(draw(jnp.array([1.0, 1.0]), jnp.array([[3.0, 1.0]])))
    second = np.asarray(draw(jnp.array([3.0, 3.0]), jnp.array([[1.0, 3.0]])))
    changed = np.any(first != second, axis=-1)
    assert 0 < changed.mean() < 0.1


def test_top_faces_have_the_measured_brightness() -> None:
    up = brightness((0.0, 0.0, 1.0), np)
    assert [int(255 * value * up) for value in (1.0, 0.8)] == [239, 191]
    sides = [
        brightness(normal, np) for normal in ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0))
    ]
    np.testing.assert_allclose(sides, [0.6, 0.75, 0.69, 0.6], atol=0.003)


def test_colours_survive_packing() -> None:
    packed = pack((1.0, 0.5, 0.0), np.array([1.0, 0.5]), np)
    np.testing.assert_array_equal(unpack(packed), [(255, 127, 0), (127, 63, 0)])


@pytest.mark.parametrize("xp", [np, jnp])
def test_nearest_solid_wins_and_what_lies_behind_is_missed(xp) -> None:
    low, high = Box((-1, -1, 0), (1, 1, 1), (1.0, 0.0, 0.0)), Box((-0.5, -0.5, 0), (0.5, 0.5, 2), (0.0, 1.0, 0.0))
    slopes = xp.asarray(np.array([1e-6, 0.1, 0.5]))
    rays = Rays((0.0, 0.0, 10.0), (slopes, 1e-6, -1.0))
    distance, colour = trace((low, high), rays, xp.zeros(3, xp.uint32), xp.full(3, xp.inf), xp)
    np.testing.assert_allclose(distance, [8.0, 9.0, np.inf], atol=1e-5)
    np.testing.assert_array_equal(unpack(colour), [(0, 239, 0), (239, 0, 0), (0, 0, 0)])
    upwards = Rays((0.0, 0.0, 10.0), (slopes, 1e-6, 1.0))
    assert np.all(np.isinf(trace((low, high), upwards, xp.zeros(3, xp.uint32), xp.full(3, xp.inf), xp)[0]))


def test_round_solids_are_hit_where_geometry_says() -> None:
    beside = Rays((np.array([0.0, 0.9, 1.1]), 1e-6, 10.0), (1e-9, 1e-9, -1.0))
    disc, _ = Disc(1.0, 0.5, (1.0, 1.0, 0.0)).hit(beside, np)
    np.testing.assert_allclose(disc, [9.5, 9.5, np.inf])
    wheel = Wheel(0.0, 1.0, 1.0, -0.5, 0.5, 0x111111, 0.5, 0x222222)
    distance, _ = wheel.hit(beside, np)
    np.testing.assert_allclose(distance, [8.0, 9.0 - np.sqrt(1 - 0.81), np.inf], atol=1e-6)
    from_the_side = Rays((1e-9, 10.0, np.array([1.1, 1.8])), (1e-9, -1.0, 1e-9))
    np.testing.assert_array_equal(wheel.hit(from_the_side, np)[1], [0x222222, 0x111111])


@pytest.mark.parametrize(
    ("env_class", "scene"),
    [
        (MobileRobotGymEnv, ONE_TARGET),
        (MobileRobot2TargetGymEnv, TWO_TARGETS),
        (MobileRobot1DGymEnv, ONE_DIMENSION),
        (MobileRobotLineTargetGymEnv, LINE_TARGET),
    ],
)
def test_the_poses_that_a_simulator_reports_give_its_picture(env_class, scene) -> None:
    env = env_class(srl_model="raw_pixels", image_size=64, random_target=True)
    draw = jax.jit(TopDownRenderer(64, scene).__call__)
    for seed in range(3):
        theirs, _ = env.reset(seed=seed)
        poses = env.scene_poses()
        assert poses.shape == (1 + len(scene.targets), 2) and poses.dtype == np.float32
        assert np.abs(theirs.astype(int) - np.asarray(draw(poses[0], poses[1:]))).mean() <= 3
    env.close()
