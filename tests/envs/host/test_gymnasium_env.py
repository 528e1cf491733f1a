"""Observation wrappers and specs of Gymnasium environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from faulty_envs import CountingEnv, PictureEnv, SwitchableEnv
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from envs.host.gymnasium_env import adapt, spec_of
from envs.types import Box, Discrete, Spec


def test_states_become_float32() -> None:
    env = adapt(SwitchableEnv(), 1, "Switchable-v0")
    assert env.observation_space.dtype == np.float32 and np.isinf(env.observation_space.high).all()
    assert env.reset(seed=1)[0].dtype == np.float32
    assert env.step(0)[0].dtype == np.float32
    assert spec_of(env, "Switchable-v0") == Spec("Switchable-v0", (3,), "float32", Box((-2.0,), (2.0,)), None)


def test_pictures_and_float32_states_are_not_wrapped() -> None:
    picture, state = PictureEnv(), CountingEnv()
    assert adapt(picture, 1, "picture") is picture
    assert adapt(state, 1, "state") is state


def test_bytes_that_are_no_picture_become_float32() -> None:
    env = CountingEnv()
    env.observation_space = spaces.Box(0, 255, (3,), np.uint8)
    assert spec_of(adapt(env, 1, "ram"), "ram").obs_dtype == "float32"


def test_stack_of_states_is_newest_last_and_starts_from_zeros() -> None:
    env = adapt(CountingEnv(length=3), 3, "Counting-v0")
    assert env.observation_space.shape == (9,)
    first, _ = env.reset(seed=5)
    assert first.tolist() == [0, 0, 0, 0, 0, 0, 5, 0, -1]
    seen = [env.step(action)[0] for action in (7, 8, 9)]
    assert seen[0].tolist() == [0, 0, 0, 5, 0, -1, 5, 1, 7]
    assert seen[2].tolist() == [5, 1, 7, 5, 2, 8, 5, 3, 9]
    assert first.tolist() == [0, 0, 0, 0, 0, 0, 5, 0, -1]  # earlier observations stay as they were
    assert env.reset(seed=6)[0].tolist() == [0, 0, 0, 0, 0, 0, 6, 0, -1]


def test_stack_of_pictures() -> None:
    env = adapt(PictureEnv(), 2, "Picture-v0")
    spec = spec_of(env, "Picture-v0")
    assert spec.pixels and spec.obs_shape == (4, 4, 6)
    env.reset(seed=0)
    observation = env.step(np.zeros(2, np.float32))[0]
    assert observation.dtype == np.uint8
    assert (observation[..., :3] == 10).all() and (observation[..., 3:] == 11).all()


@pytest.mark.filterwarnings("ignore:.*(observation space|different from the unwrapped)")
def test_gymnasium_accepts_the_wrapped_environment() -> None:
    check_env(adapt(gymnasium.make("CartPole-v1").unwrapped, 2, "CartPole-v1"), skip_render_check=True)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.Dict({"a": spaces.Box(0, 1)}), spaces.Box(0, 1, ()), spaces.MultiBinary(3)]
)
def test_other_observations_are_refused(space: spaces.Space) -> None:
    env = CountingEnv()
    env.observation_space = space
    with pytest.raises(ValueError, match=r"^Odd-v0: observations of type .* are not supported, only Box arrays"):
        adapt(env, 1, "Odd-v0")


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 3]), spaces.Discrete(3, start=1), spaces.Box(0, 1, (2, 2)), spaces.Text(4)]
)
def test_other_actions_are_refused(space: spaces.Space) -> None:
    env = CountingEnv()
    env.action_space = space
    with pytest.raises(ValueError, match=r"^Odd-v0: actions of type .* are not supported, only Discrete"):
        spec_of(env, "Odd-v0")


def test_longest_episode() -> None:
    assert spec_of(gymnasium.make("CartPole-v1", max_episode_steps=7), "CartPole-v1").max_episode_steps == 7
    env = CountingEnv()
    env.max_episode_steps = 5
    assert spec_of(env, "Counting-v0") == Spec("Counting-v0", (3,), "float32", Discrete(10), 5)
