"""The PyBullet mobile robot: spaces, motion, rewards, resets and cameras."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pybullet as p
import pytest

import envs  # noqa: F401  registers the ids
from envs.host.mobile_robot import MobileRobotGymEnv

TOWARDS_MINUS_X, TOWARDS_PLUS_X, TOWARDS_MINUS_Y, TOWARDS_PLUS_Y = range(4)


@pytest.fixture
def make():
    """Build environments that are closed when the test ends."""
    opened = []

    def build(**options):
        opened.append(MobileRobotGymEnv(**options))
        return opened[-1]

    yield build
    for env in opened:
        env.close()


def yellow(picture: np.ndarray) -> np.ndarray:
    """Pixels that show the target."""
    return (picture[..., 0] > 100) & (picture[..., 1] > 100) & (picture[..., 2] < 60)


def test_gymnasium_makes_it_by_id() -> None:
    env = gym.make("MobileRobotGymEnv-v0", fpv=True, srl_model="raw_pixels", image_size=16)
    assert isinstance(env.unwrapped, MobileRobotGymEnv)
    assert env.reset(seed=0)[0].shape == (16, 16, 6)
    env.close()


@pytest.mark.parametrize(
    ("options", "shape", "dtype"),
    [
        ({}, (2,), np.float32),
        ({"fpv": True}, (2,), np.float32),
        ({"srl_model": "raw_pixels"}, (224, 224, 3), np.uint8),
        ({"srl_model": "raw_pixels", "fpv": True, "image_size": 40}, (40, 40, 6), np.uint8),
    ],
)
def test_observation_is_what_the_space_declares(make, options, shape, dtype) -> None:
    env = make(**options)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.shape == obs.shape == shape
    assert env.observation_space.dtype == obs.dtype == dtype
    assert env.step(0)[0].shape == shape


def test_discrete_moves_and_relative_state(make) -> None:
    env = make()
    obs, _ = env.reset(seed=0, options={"robot": (2.0, 2.0), "target": (3.0, 1.0)})
    np.testing.assert_allclose(obs, (-1.0, 1.0), atol=1e-6)
    for action, position in (
        (TOWARDS_PLUS_X, (2.1, 2.0)),
        (TOWARDS_PLUS_Y, (2.1, 2.1)),
        (TOWARDS_MINUS_X, (2.0, 2.1)),
        (TOWARDS_MINUS_Y, (2.0, 2.0)),
    ):
        obs, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_allclose(env.getGroundTruth(), position, atol=1e-6)
        np.testing.assert_allclose(obs, np.subtract(position, (3.0, 1.0)), atol=1e-6)
        assert (reward, terminated, truncated) == (0.0, False, False)


def test_continuous_actions_are_clipped(make) -> None:
    env = make(is_discrete=False)
    env.reset(seed=0, options={"robot": (2.0, 2.0)})
    env.step(np.array([5.0, -0.5], np.float32))
    np.testing.assert_allclose(env.getGroundTruth(), (2.1, 1.95), atol=1e-6)


@pytest.mark.parametrize(
    ("start", "action"),
    [
        ((0.45, 2.0), TOWARDS_MINUS_X),
        ((3.55, 2.0), TOWARDS_PLUS_X),
        ((2.0, 0.25), TOWARDS_MINUS_Y),
        ((2.0, 3.75), TOWARDS_PLUS_Y),
    ],
)
def test_a_bump_is_undone_and_punished_even_at_the_target(make, start, action) -> None:
    env = make()
    env.reset(seed=0, options={"robot": start, "target": start})
    before = env.getGroundTruth()
    assert env.step(action)[1] == -1.0
    np.testing.assert_array_equal(env.getGroundTruth(), before)
    assert env.step(action ^ 1)[1] == 1.0


def test_reward_reaches_as_far_as_forty_centimetres(make) -> None:
    env = make()
    for distance, reward in ((0.49, 1.0), (0.51, 0.0)):
        env.reset(seed=0, options={"robot": (2.0 - distance, 2.0), "target": (2.0, 2.0)})
        assert env.step(TOWARDS_PLUS_X)[1] == reward


def test_shaped_reward_is_the_distance_even_in_a_bump(make) -> None:
    env = make(shape_reward=True)
    env.reset(seed=0, options={"robot": (0.45, 1.0), "target": (3.45, 5.0)})
    assert env.step(TOWARDS_MINUS_X)[1] == pytest.approx(-5.0, abs=1e-6)


def test_episode_is_truncated_by_its_251st_step(make) -> None:
    env = make(random_target=True)
    env.reset(seed=0)
    flags = [env.step(step % 4)[2:4] for step in range(env.max_episode_steps)]
    assert flags == [(False, False)] * 250 + [(False, True)]


def test_seed_fixes_episodes_and_reset_covers_the_ranges(make) -> None:
    first, second = make(random_target=True), make(random_target=True)
    np.testing.assert_array_equal(first.reset(seed=5)[0], second.reset(seed=5)[0])
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    robots, targets = [], []
    for _ in range(500):
        first.reset()
        robots.append(first.getGroundTruth())
        targets.append(first.getTargetPos())
    np.testing.assert_allclose(np.min(robots, axis=0), 2 - 4 / 3, atol=0.05)
    np.testing.assert_allclose(np.max(robots, axis=0), 2 + 4 / 3, atol=0.05)
    np.testing.assert_allclose(np.min(targets, axis=0), 0.4, atol=0.05)
    np.testing.assert_allclose(np.max(targets, axis=0), 3.6, atol=0.05)


def test_fixed_target(make) -> None:
    env = make()
    env.reset(seed=1)
    np.testing.assert_allclose(env.getTargetPos(), (3.6, 3.0), atol=1e-6)


def test_reset_moves_the_bodies_of_a_scene_loaded_once(make) -> None:
    env = make()
    env.reset(seed=0, options={"robot": (1.0, 2.0), "target": (3.0, 1.5)})
    client = env._require_client()
    bodies = p.getNumBodies(physicsClientId=client)
    for position in ((1.5, 2.5), (3.0, 0.5)):
        env.reset(options={"robot": position, "target": (3.0, 1.0)})
        env.step(TOWARDS_MINUS_X)
        robot, _ = p.getBasePositionAndOrientation(env._robot, physicsClientId=client)
        np.testing.assert_allclose(robot[:2], np.subtract(position, (0.1, 0.0)), atol=1e-6)
        target, _ = p.getBasePositionAndOrientation(env._targets[0], physicsClientId=client)
        np.testing.assert_allclose(target[:2], (3.0, 1.0), atol=1e-6)
    assert p.getNumBodies(physicsClientId=client) == bodies


def test_states_are_observed_without_a_picture(make, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(p, "getCameraImage", refuse)
    env = make(fpv=True)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(AssertionError, match="a picture was drawn"):
        make(srl_model="raw_pixels").reset(seed=0)


def test_first_person_camera_looks_along_the_heading(make) -> None:
    env = make(srl_model="raw_pixels", fpv=True, image_size=96)
    ahead, _ = env.reset(seed=0, options={"robot": (1.0, 2.0), "target": (2.5, 2.3)})
    behind, _ = env.reset(options={"robot": (2.5, 2.0), "target": (1.0, 2.3)})
    assert yellow(ahead[..., 3:]).sum() > 20
    assert yellow(behind[..., 3:]).sum() == 0
    assert yellow(ahead[..., :3]).sum() > 20 and yellow(behind[..., :3]).sum() > 20


def test_rows_follow_x_and_columns_follow_y(make) -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0, options={"robot": (2.0, 1.0), "target": (3.5, 3.0)})
    rows, columns = np.nonzero(yellow(env.render()))
    assert rows.mean() == pytest.approx(111 + 1.5 * 44.09, abs=1.5)
    assert columns.mean() == pytest.approx(112 + 1.0 * 44.09, abs=1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"srl_model": "joints"}, "unknown srl_model 'joints': choose one of ground_truth, raw_pixels"),
        ({"action_repeat": 2}, "action_repeat is 2"),
        ({"image_size": 0}, "image_size is 0"),
        ({"render_mode": "ascii"}, "unknown render_mode 'ascii'"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        MobileRobotGymEnv(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, "unknown reset option 'speed'"),
        ({"robot": (1.0,)}, "reset option robot"),
        ({"target": (1.0, float("nan"))}, "reset option target"),
    ],
)
def test_bad_reset_options_are_named(make, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make().reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("is_discrete", "action"),
    [(True, 4), (True, -1), (True, 1.5), (True, np.array([1])), (False, 1), (False, [0.0, 0.0, 0.0])],
)
def test_bad_actions_are_refused(make, is_discrete, action) -> None:
    env = make(is_discrete=is_discrete)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


@pytest.mark.parametrize("name", ["getTargetPos", "getGroundTruth", "getSRLState"])
def test_nothing_is_told_before_the_first_reset(make, name) -> None:
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) first"):
        getattr(make(), name)()
