"""The contract checker: what it accepts, and each fault that an author could make."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import assert_twin

import envs  # noqa: F401  registers the ids
from envs.checker import check_device_env, check_device_types, check_host_env
from envs.device.cartpole import CartPole
from envs.device.mobile_robot import MobileRobotTwin
from envs.types import Box, Discrete, Spec, TimeStep


class Walk(NamedTuple):
    place: Any
    steps: Any


class Walker:
    """A correct device environment: a random walk of 5 steps."""

    spec = Spec("Walk-v0", (1,), "float32", Discrete(2), 5)

    def reset(self, key):
        state = Walk(jax.random.uniform(key, (1,)), jnp.int32(0))
        return state, state.place

    def step(self, state, action):
        state = Walk(state.place + 0.1 * (2 * action - 1), state.steps + 1)
        return state, TimeStep(state.place, state.place[0], jnp.zeros((), bool), state.steps >= 5)


class WrongSpec(Walker):
    spec: Any = "Walk-v0"


class EmptyBox(Walker):
    spec = dataclasses.replace(Walker.spec, action=Box((1.0,), (-1.0,)))


class Bytes(Walker):
    spec = dataclasses.replace(Walker.spec, obs_dtype="uint8")


class OtherShape(Walker):
    spec = dataclasses.replace(Walker.spec, obs_shape=(2,))


class OneResult(Walker):
    def reset(self, key):
        return super().reset(key)[0].place


class PythonBranch(Walker):
    def step(self, state, action):
        return super().step(state, 0 if state.place[0] > 3 else action)


class IntegerReward(Walker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state, step._replace(reward=state.steps)


class NumberFlag(Walker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state, step._replace(terminated=step.reward)


class Untyped(Walker):
    def reset(self, key):
        state, obs = super().reset(key)
        return state._replace(steps=0), obs

    def step(self, state, action):
        after, step = super().step(state, action)
        return after._replace(steps=state.steps + jnp.int32(1)), step


class Widening(Walker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state._replace(steps=state.steps.astype(jnp.float32)), step


class Counter(Walker):
    """Counts its calls in itself."""

    calls = 0

    def step(self, state, action):
        self.calls += 1
        return super().step(state, action)


class NumpyDraw(Walker):
    def step(self, state, action):
        return super().step(state._replace(place=state.place + np.float32(np.random.default_rng().uniform())), action)


class ReusedKey(Walker):
    def reset(self, key):
        state = Walk(jax.random.uniform(key, (1,)) + jax.random.normal(key, (1,)), jnp.int32(0))
        return state, state.place


class Endless(Walker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state, step._replace(truncated=jnp.zeros((), bool))


class NotANumber(Walker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state, step._replace(reward=jnp.where(state.steps == 3, jnp.nan, step.reward))


TYPES = {
    WrongSpec: r"WrongSpec\.spec is 'Walk-v0': it must be an envs\.types\.Spec",
    EmptyBox: "each low of the actions must be below its high",
    Bytes: r"uint8 observations are pictures \(height, width, channels\), not \(1,\)",
    OtherShape: r"OtherShape\.reset: the observation is float32 \[1\]: it must be float32 \[2\]",
    OneResult: r"OneResult\.reset\(key\) must return \(state, observation\)",
    PythonBranch: r"PythonBranch\.step\(state, action\) cannot be traced: TracerBoolConversionError",
    IntegerReward: r"IntegerReward\.step: reward is int32 \[\]: it must be float32 \[\]",
    NumberFlag: r"NumberFlag\.step: terminated is float32 \[\]: it must be bool \[\]",
    Untyped: r"state\.steps is a Python number once: give it its type, jnp\.int32",
    Widening: r"state\.steps is int32 \[\] after reset and float32 \[\] after step: it must stay the same",
}
BEHAVIOUR = {
    Counter: r"Counter\.step changes self\.calls: what changes belongs into the state",
    NumpyDraw: r"NumpyDraw\.step is another program each time",
    ReusedKey: r"ReusedKey: its random keys \(split a key before each use\): KeyReuseError",
    Endless: "an episode has not ended after max_episode_steps, 5: set truncated then",
    NotANumber: "observation or reward of step 2 is not a finite number",
}


@pytest.mark.parametrize("cls", [Walker, CartPole, MobileRobotTwin])
def test_sound_device_environments_pass(cls) -> None:
    check_device_env(cls())


@pytest.mark.parametrize("cls", TYPES)
def test_faults_that_tracing_finds(cls) -> None:
    with pytest.raises(ValueError, match=TYPES[cls]) as caught:
        check_device_types(cls())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", BEHAVIOUR)
def test_faults_that_playing_finds(cls) -> None:
    check_device_types(cls())
    with pytest.raises(ValueError, match=BEHAVIOUR[cls]) as caught:
        check_device_env(cls())
    assert "\n" not in str(caught.value)


class HostWalker(gymnasium.Env):
    """A correct host environment: a random walk of 5 steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 1}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    max_episode_steps: Any = 5
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(size=1).astype(np.float32)
        self.steps = 0
        return self.place, {}

    def step(self, action):
        self.place = self.place + np.float32(0.1 * (2 * action - 1))
        self.steps += 1
        return self.place, float(self.place[0]), False, self.steps >= 5, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


class HostMutates(HostWalker):
    def step(self, action):
        place = self.place
        _, *rest = super().step(action)
        place[:] = self.place
        self.place = place
        return place, *rest


class HostNumberFlag(HostWalker):
    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, 0, truncated, info


class HostTextReward(HostWalker):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, np.ones(1), *rest


class HostEndless(HostWalker):
    max_episode_steps = 3


class HostRemembers(HostWalker):
    """An episode depends on the number of those before it."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + self.episodes * (self.steps == 4), *rest


class HostOutside(HostWalker):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


class HostFractions(HostWalker):
    max_episode_steps = 4.5


class HostNoPicture(HostWalker):
    def render(self):
        return np.zeros((4, 4), np.float32)


HOST = {
    HostMutates: "HostMutates: gymnasium's checker refuses it: AssertionError: The observations .* share an object",
    HostNumberFlag: "terminated is 0: it must be a bool|gymnasium's checker refuses it",
    HostTextReward: r"reward is array\(\[1\.\]\): it must be a finite number|gymnasium's checker refuses it",
    HostEndless: "an episode has not ended after max_episode_steps, 3: set truncated then",
    HostRemembers: "an episode that was seeded alike differs after another one",
    HostOutside: "HostOutside: gymnasium's checker refuses it: AssertionError",
    HostFractions: "max_episode_steps is 4.5: it must be None or a whole number from 1",
    HostNoPicture: r"render\(\) in mode 'rgb_array' must return uint8 \[height, width, 3\]",
    dict: "dict: it must derive from gymnasium.Env",
}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MobileRobot1DGymEnv-v0"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sound_host_environments_pass(env_id) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    check_host_env(env)
    env.close()
    check_host_env(HostWalker())


@pytest.mark.parametrize("cls", HOST)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_faults_of_host_environments(cls) -> None:
    with pytest.raises(ValueError, match=HOST[cls]) as caught:
        check_host_env(cls())
    assert "\n" not in str(caught.value)


class TwinOfWalker(Walker):
    """A twin of HostWalker."""

    spec = dataclasses.replace(Walker.spec, id="HostWalker")
    stride = 0.1

    def state_of(self, host):
        return Walk(jnp.asarray(host.place), jnp.int32(host.steps))

    def step(self, state, action):
        state = Walk(state.place + self.stride * (2 * action - 1), state.steps + 1)
        return state, TimeStep(state.place, state.place[0], jnp.zeros((), bool), state.steps >= 5)


class LongStride(TwinOfWalker):
    stride = 0.1001


class Late(TwinOfWalker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state, step._replace(truncated=state.steps > 5)


class Generous(TwinOfWalker):
    def step(self, state, action):
        state, step = super().step(state, action)
        return state, step._replace(reward=step.reward + 0.01 * (state.steps == 4))


class MoreActions(TwinOfWalker):
    spec = dataclasses.replace(TwinOfWalker.spec, action=Discrete(3))


class Stateless(Walker):
    pass


@pytest.mark.parametrize("each_step", [False, True])
def test_parity_holds_for_a_twin(each_step) -> None:
    compared = assert_twin(HostWalker(), TwinOfWalker(), 12, each_step=each_step)
    assert (compared.episodes, len(compared.rewards), compared.terminated) == (3, 15, 0)
    assert compared.obs_error <= 1e-5 and compared.reward_error <= 1e-5


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (LongStride, r"episode 0 .*, step 0: observation differs by"),
        (Late, r"episode 0 .*, step 4: truncated is False in the twin"),
        (Generous, r"episode 0 .*, step 3: reward differs by 0\.0[01]"),
        (MoreActions, r"Discrete"),
        (Stateless, r"Stateless has no state_of\(host\)"),
    ],
)
@pytest.mark.parametrize("each_step", [False, True])
def test_parity_finds_what_differs(cls, message, each_step) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_twin(HostWalker(), cls(), 12, each_step=each_step)
