"""Pictures of a rollout are kept once: what the drivers keep of successors, and what learners make of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.common.on_policy import ActorCriticPolicy
from agents.types import Agent, AgentState, Clock, Successors, Traits, Transition
from envs.types import Discrete, Spec, TimeStep
from launch.runtime.drivers import frames
from tests.driver_cases import Case, NudgeHyper

LENGTH, NUM_ENVS = 11, 4


class Counter:
    """Shows its age and the steps since its first reset; may die, and is cut after `limit` steps."""

    def __init__(self, limit: int, stated: bool = True) -> None:
        self.limit = limit
        self.spec = Spec("Counter", (1, 1, 3), "uint8", Discrete(2), limit if stated else None)

    def reset(self, key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Begin at age 0 with a colour that tells episodes apart."""
        colour = jax.random.randint(key, (), 1, 256)
        state = jnp.int32(0), colour
        return state, self._show(*state)

    def step(self, state: tuple, action: jax.Array) -> tuple[Any, TimeStep]:
        """Grow older."""
        age, colour = state[0] + 1, state[1]
        died = (action == 1) & (age % 2 == 0)
        return (age, colour), TimeStep(self._show(age, colour), jnp.float32(1.0), died, age >= self.limit)

    def _show(self, age: jax.Array, colour: jax.Array) -> jax.Array:
        return jnp.stack([age, colour, age * 7 + colour]).astype(jnp.uint8)[None, None]


def watcher(env: Counter, length: int = LENGTH) -> Case:
    """Learns nothing, and reports its batch: as metrics, one number of each frame."""

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict]:
        return (jax.random.uniform(key, obs.shape[:1]) < 0.15).astype(jnp.int32), {}

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Any, clock: Clock) -> tuple:
        return AgentState((), batch), {"rows": jnp.float32(len(batch.reward))}

    def init(key: jax.Array, hyper: Any) -> AgentState:
        flags = jnp.zeros((length, NUM_ENVS), bool)
        obs = jnp.zeros((length, NUM_ENVS, *env.spec.obs_shape), jnp.uint8)
        successors = jax.tree.map(jnp.asarray, frames.empty(env.spec, traits))
        action, reward = jnp.zeros(flags.shape, jnp.int32), jnp.zeros(flags.shape)
        return AgentState((), Transition(obs, action, reward, flags, flags, successors, {}))

    traits = Traits(length, NUM_ENVS)
    return Case(env, Agent(init, act, update, traits, lambda state, obs: obs), NudgeHyper())


def shown(frame: np.ndarray) -> tuple[int, int]:
    """(age, colour) of a frame [1, 1, 3]."""
    return int(frame[0, 0, 0]), int(frame[0, 0, 1])


def check(batch: Transition, limit: int) -> int:
    """Every successor that no row shows is there and is the true one; returns how many were cut."""
    last, cut, step = (np.asarray(x) for x in batch.next_obs)
    obs, truncated = np.asarray(batch.obs), np.asarray(batch.truncated) & ~np.asarray(batch.terminated)
    assert obs.shape[0] == LENGTH and cut.shape[0] == -(-(LENGTH - 1) // limit)
    for n in range(NUM_ENVS):
        expected = np.flatnonzero(truncated[:-1, n])
        assert step[: len(expected), n].tolist() == expected.tolist() and (step[len(expected) :, n] == LENGTH).all()
        for place, t in enumerate(expected):
            age, colour = shown(obs[t, n])
            assert shown(cut[place, n]) == (age + 1, colour) and age + 1 == limit
        age, colour = shown(obs[-1, n])
        assert shown(last[n]) == (age + 1, colour)
    return int(truncated[:-1].sum())


@pytest.mark.parametrize("limit", [3, 250])
def test_both_drivers_keep_each_frame_once(limit: int) -> None:
    case = watcher(Counter(limit))
    device, host, halves = case.new_device((3,)), case.new_host((3,)), case.new_host((3, 4), num_groups=2)
    cut = 0
    for _ in range(3):
        for driver in (device, host, halves):
            driver.run(1)
        run: Any = device.state
        batches = [run.agent.learning, host.state.learning]
        a, b = (jax.tree.map(lambda x: np.asarray(x[0]), batch) for batch in batches)
        np.testing.assert_array_equal(a.next_obs.last, b.next_obs.last)
        np.testing.assert_array_equal(a.obs, b.obs)
        cut += check(a, limit)
        for k in range(2):
            cut += check(jax.tree.map(lambda x, k=k: np.asarray(x[k]), halves.state.learning), limit)
    assert (cut > 20) == (limit == 3)


def test_cuts_beyond_the_room_are_left_out() -> None:
    """Without a stated limit there is room for one; the memory for frames does not grow with a rollout."""
    env = Counter(3, stated=False)
    assert [frames.most_cuts(env.spec, length) for length in (1, 2, 100)] == [0, 1, 1]
    device, host = watcher(env).new_device((3,)), watcher(env).new_host((3,))
    device.run(1), host.run(1)
    run: Any = device.state
    for batch in (run.agent.learning, host.state.learning):
        _, cut, step = (np.asarray(x[0]) for x in batch.next_obs)
        truncated = np.asarray(batch.truncated & ~batch.terminated)[0]
        assert cut.shape[0] == 1 and truncated[:-1].sum(axis=0).max() > 1
        for n in range(NUM_ENVS):
            assert step[0, n] == next(iter(np.flatnonzero(truncated[:-1, n])), LENGTH)


@pytest.mark.parametrize(
    ("memory", "action_values"),
    [pytest.param("feedforward", False, marks=pytest.mark.slow), ("feedforward", True), ("lstm", False)],
)
def test_values_of_successors_are_those_of_their_frames(memory: str, action_values: bool) -> None:
    """As if every successor had been kept and looked at; beyond the room, the value before the cut."""
    spec = Spec("pictures", (36, 36, 1), "uint8", Discrete(3), 5)
    policy = ActorCriticPolicy(spec, (), "tanh", 0.0, False, action_values, memory=memory, memory_size=5)
    acting = policy.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    acting = acting._replace(params=jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), acting.params))
    length, num_envs = 7, 3
    next_obs = rng.integers(0, 256, (length, num_envs, *spec.obs_shape), np.uint8)
    terminated, truncated = (rng.random((2, length, num_envs)) < [[[0.2]], [[0.0]]]).astype(bool)
    for t, n in ((1, 0), (4, 0), (2, 1), (6, 2), (0, 2), (2, 2), (4, 2)):
        truncated[t, n] = True
        terminated[t, n] = False
    obs = np.concatenate([rng.integers(0, 256, next_obs[:1].shape, np.uint8), next_obs[:-1]])
    ended = np.concatenate([np.zeros((1, num_envs), bool), (terminated | truncated)[:-1]])
    obs[ended] = rng.integers(0, 256, obs[ended].shape, np.uint8)
    known = frames.empty(spec, Traits(length, num_envs), (1,))
    pure = jax.tree.map(lambda x: jnp.asarray(x[0]), known)
    for t in range(length):
        cut = truncated[t] & ~terminated[t]
        frames.note(known, t, slice(None), cut[None], next_obs[t][None], length)
        pure = frames.noted(pure, jnp.int32(t), cut, next_obs[t], length)
    once = Successors(*(x[0] for x in known))
    jax.tree.map(np.testing.assert_array_equal, once, pure)
    zeros = np.zeros((length, num_envs), np.float32)
    batch = Transition(obs, zeros, zeros, terminated, truncated, next_obs, {})

    @jax.jit
    def values(batch: Transition, once: Successors) -> tuple:
        carry = policy.begin(num_envs).carry
        pi, value, after = policy.unroll(acting.params, batch.obs, carry, jnp.asarray(ended) if carry else ())
        value = policy.state_value(pi, value)
        all_of_them = policy.successor_values(acting, batch, value, after)
        return value, all_of_them, policy.successor_values(acting, batch._replace(next_obs=once), value, after)

    value, expected, got = map(np.asarray, values(batch, once))
    lost = np.zeros_like(terminated)
    lost[4, 2] = True  # the third cut, with room for two
    compared = ~terminated & ~lost
    np.testing.assert_allclose(got[compared], expected[compared], rtol=1e-4, atol=1e-5)
    assert got[4, 2] == value[4, 2] and abs(expected[4, 2] - value[4, 2]) > 1e-4
    assert np.abs(expected - value)[truncated & ~terminated].min() > 1e-5
