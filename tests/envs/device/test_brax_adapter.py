"""The brax adapter against brax itself."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from envs.device.brax_adapter import BraxEnv
from envs.types import Box, Spec

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pendulum():
    """The smallest brax task: it dies when the pole leans by 0.2 rad."""
    return BraxEnv("inverted_pendulum")


@pytest.fixture(scope="module")
def batch(pendulum):
    """The jitted (reset, step) of a batch of it."""
    batch = BatchEnv(pendulum)
    return jax.jit(batch.reset), jax.jit(batch.step)


@pytest.fixture(scope="module")
def rollout(batch):
    """40 steps of 3 environments pushed at random: keys, first observations, actions and steps [T, N]."""
    reset, step = batch
    actions = jax.random.uniform(jax.random.key(1), (40, 3, 1), minval=-1.0)
    keys = jax.random.split(jax.random.key(0), 3)
    state, first = reset(keys)
    steps = []
    for action in actions:
        state, out = step(state, action)
        steps.append(out)
    return keys, np.asarray(first), np.asarray(actions), jax.tree.map(lambda *rows: np.stack(rows), *steps)


def test_episodes_are_those_of_brax(rollout):
    from brax import envs

    env = envs.get_environment("inverted_pendulum")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    keys, first, actions, steps = rollout
    assert steps.terminated.sum() >= 4
    for i in range(3):
        episode, state = 0, reset(jax.random.key_data(jax.random.fold_in(keys[i], 0)))
        np.testing.assert_allclose(first[i], state.obs, atol=1e-6)
        for t in range(40):
            state = step(state, actions[t, i])
            np.testing.assert_allclose(steps.next_obs[t, i], state.obs, atol=1e-4)
            np.testing.assert_allclose(steps.reward[t, i], state.reward, atol=1e-5)
            assert steps.terminated[t, i] == bool(state.done)
            if state.done:
                episode += 1
                state = reset(jax.random.key_data(jax.random.fold_in(keys[i], episode)))
            np.testing.assert_allclose(steps.obs[t, i], state.obs, atol=1e-4)
    assert not steps.truncated.any()


def test_every_episode_starts_afresh(rollout):
    _, first, _, steps = rollout
    starts = np.concatenate([first, steps.obs[steps.terminated]])
    assert len(np.unique(starts[:, 0])) == len(starts)


def test_the_limit_truncates_and_is_no_death(batch):
    reset, step = batch
    state, _ = reset(jax.random.split(jax.random.key(0), 3))
    state = state._replace(env=state.env._replace(steps=jnp.array([0, 997, 998], jnp.int32)))
    truncated = []
    for _ in range(3):
        state, out = step(state, jnp.zeros((3, 1)))
        assert not out.terminated.any()
        truncated.append(out.truncated.tolist())
    assert truncated == [[False, False, False], [False, False, True], [False, True, False]]


def test_spec(pendulum):
    assert pendulum.spec == Spec("brax/inverted_pendulum", (4,), "float32", Box((-1.0,), (1.0,)), 1000)


@pytest.mark.parametrize(("name", "obs_size", "action_size"), [("swimmer", 8, 2), ("hopper", 11, 3)])
def test_states_keep_exact_types(name, obs_size, action_size):
    env = BraxEnv(name)
    assert (env.spec.obs_shape, env.spec.action.size) == ((obs_size,), action_size)
    first, obs = jax.eval_shape(env.reset, jax.random.key(0))
    later, step = jax.eval_shape(env.step, first, jnp.zeros(action_size))
    assert jax.tree.structure(first) == jax.tree.structure(later)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(later)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert not a.weak_type and not b.weak_type
    assert obs.dtype == step.obs.dtype == step.reward.dtype == jnp.float32
    assert step.terminated.dtype == step.truncated.dtype == bool


def test_a_step_leaves_the_state_it_was_given_alone():
    from brax import envs
    from brax.envs.fast import Fast

    class Counting(Fast):
        """Writes into the dictionaries of its input, as brax's locomotion tasks do."""

        def reset(self, rng):
            return super().reset(rng).replace(metrics={"count": jnp.zeros(())})

        def step(self, state, action):
            state.metrics.update(count=state.metrics["count"] + 1)
            return super().step(state, action)

    envs.register_environment("fast_counting", Counting)
    env = BraxEnv("fast_counting")
    state, _ = env.reset(jax.random.key(0))
    after, _ = env.step(state, jnp.ones(1))
    assert (state.brax.metrics["count"], after.brax.metrics["count"]) == (0, 1)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown brax environment 'halfchetah'; did you mean 'brax/halfcheetah'\?"):
        BraxEnv("halfchetah")


def test_loading_is_silent():
    code = "from envs.device.brax_adapter import BraxEnv; BraxEnv('inverted_pendulum')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "" and "not actively being maintained" not in done.stderr


def test_several_observation_arrays_are_refused():
    from brax import envs
    from brax.envs.fast import Fast

    envs.register_environment("fast_dict", functools.partial(Fast, obs_mode="dict_state"))
    with pytest.raises(ValueError, match="'fast_dict' gives several observation arrays"):
        BraxEnv("fast_dict")
