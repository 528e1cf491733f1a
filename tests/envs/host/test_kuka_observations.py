"""KukaButtonGymEnv: spaces, options, refused input, observations and when pictures are drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pybullet as p
import pytest

import envs
from envs.host.kuka_button import KukaButtonGymEnv

JOINTS = {"is_discrete": False, "action_joints": True}
DOWN = 4


@pytest.fixture
def make():
    """Builds environments and closes them after the test."""
    made = []

    def build(**options):
        made.append(KukaButtonGymEnv(**options))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture
def pictures(monkeypatch):
    """A list that grows by one at each picture that PyBullet draws."""
    calls, draw = [], p.getCameraImage

    def counting(*args, **kwargs):
        calls.append(1)
        return draw(*args, **kwargs)

    monkeypatch.setattr(p, "getCameraImage", counting)
    return calls


# Spaces and options


@pytest.mark.parametrize(
    ("options", "obs_shape", "dtype", "action_space"),
    [
        ({}, (3,), np.float32, gym.spaces.Discrete(6)),
        ({"is_discrete": False, "random_target": True}, (3,), np.float32, gym.spaces.Box(-1, 1, (3,))),
        ({**JOINTS, "srl_model": "joints"}, (14,), np.float32, gym.spaces.Box(-1, 1, (7,))),
        ({"srl_model": "joints_position", "shape_reward": True}, (17,), np.float32, gym.spaces.Discrete(6)),
        ({"srl_model": "raw_pixels", "image_size": 24}, (24, 24, 3), np.uint8, gym.spaces.Discrete(6)),
        (
            {"srl_model": "raw_pixels", "image_size": 24, "multi_view": True, "action_repeat": 3},
            (24, 24, 6),
            np.uint8,
            gym.spaces.Discrete(6),
        ),
    ],
)
def test_spaces_follow_the_options(make, options, obs_shape, dtype, action_space):
    env = make(**options)
    assert env.observation_space.shape == obs_shape
    assert env.observation_space.dtype == dtype
    assert env.action_space == action_space
    assert env.reset(seed=0)[0].shape == obs_shape


def test_registered_by_id():
    assert "KukaButtonGymEnv-v0" in envs.registered_env
    env = gym.make("KukaButtonGymEnv-v0", srl_model="joints", is_discrete=False, disable_env_checker=True)
    assert env.reset(seed=0)[0].shape == (14,)
    assert isinstance(env.unwrapped, KukaButtonGymEnv)
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_joints": True}, "is_discrete=False"),
        ({"srl_model": "pixels"}, "raw_pixels"),
        ({"action_repeat": 0}, "action_repeat is 0"),
        ({"max_distance": 0.0}, "max_distance is 0.0"),
        ({"max_distance": float("nan")}, "max_distance is nan"),
        ({"image_size": 0}, "image_size is 0"),
        ({"render_mode": "gui"}, "human"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        KukaButtonGymEnv(**options)


def test_unknown_keyword():
    with pytest.raises(TypeError, match="fpv"):
        KukaButtonGymEnv(fpv=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only X11 announces its display by a variable")
def test_window_without_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match="rgb_array"):
        KukaButtonGymEnv(render_mode="human")


@pytest.mark.parametrize(
    ("options", "action"),
    [({}, 6), ({}, -1), ({}, 0.5), ({"is_discrete": False}, np.zeros(7)), (JOINTS, np.zeros(3))],
)
def test_action_outside_the_space(make, options, action):
    env = make(**options)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


def test_needs_reset_and_closes_twice(make):
    env = make(render_mode="rgb_array", image_size=8)
    for call in (lambda: env.step(0), env.render, env.getGroundTruth, env.getTargetPos, env.getSRLState):
        with pytest.raises(gym.error.ResetNeeded):
            call()
    env.close()
    first, _ = env.reset(seed=1)
    client = env._client
    env.close()
    env.close()
    assert not p.isConnected(client)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    np.testing.assert_array_equal(env.reset(seed=1)[0], first)


def test_worker_side_imports_no_jax():
    code = "import sys, envs.host.kuka_button; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], capture_output=True)


# Observations


@pytest.mark.parametrize("options", [{}, JOINTS])
def test_joints_are_the_present_joints(make, options):
    env = make(srl_model="joints_position", **options)
    env.action_space.seed(0)
    first, _ = env.reset(seed=0)
    for _ in range(60):
        obs = env.step(env.action_space.sample())[0]
    states = p.getJointStates(env._arm.body, range(14), physicsClientId=env._client)
    np.testing.assert_allclose(obs[3:], [state[0] for state in states], atol=1e-6)
    np.testing.assert_allclose(obs[:3], env.getGroundTruth() - env.getTargetPos(), atol=1e-6)
    assert np.abs(obs[3:10] - first[3:10]).max() > 0.02
    alone = make(srl_model="joints", **options)
    np.testing.assert_array_equal(alone.reset(seed=0)[0], first[3:])


@pytest.mark.parametrize("srl_model", ["ground_truth", "joints", "joints_position"])
def test_states_draw_no_picture(make, pictures, srl_model):
    env = make(srl_model=srl_model, render_mode="rgb_array", image_size=16)
    env.reset(seed=0)
    for _ in range(5):
        env.step(DOWN)
    assert len(pictures) == 0
    assert env.render().shape == (16, 16, 3)
    assert len(pictures) == 1
    assert make().render_mode is None


@pytest.mark.parametrize("cameras", [1, 2])
def test_pictures_are_drawn_once_per_observation(make, pictures, cameras):
    env = make(srl_model="raw_pixels", image_size=16, multi_view=cameras == 2)
    env.reset(seed=0)
    env.step(DOWN)
    assert len(pictures) == 2 * cameras


def test_two_views(make):
    env = make(srl_model="raw_pixels", image_size=64, multi_view=True, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs[..., :3], env.render())
    first, second = obs[..., :3].astype(int), obs[..., 3:].astype(int)
    assert np.abs(first - second).mean() > 20
    for view in (first, second):
        red, green, blue = view[..., 0], view[..., 1], view[..., 2]
        assert ((red > 120) & (green > 120) & (blue < 60)).sum() > 20, "the yellow cap is in sight"
    for _ in range(100):
        moved = env.step(DOWN)[0]
    assert (moved[..., :3] != obs[..., :3]).any() and (moved[..., 3:] != obs[..., 3:]).any()
