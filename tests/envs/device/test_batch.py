"""BatchEnv: exact automatic resets, independence of the environments, freezing, cost."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from envs.device.mobile_robot import MobileRobotTwin
from envs.device.wrappers import Encoded, FrameStack
from envs.types import Box, Encoding, Spec, TimeStep

ROOT = Path(__file__).resolve().parents[3]


class DriftState(NamedTuple):
    key: jax.Array
    position: jax.Array
    steps: jax.Array
    length: jax.Array


class Drift:
    """A noisy walk whose start, noise and length (1 to 5 steps) are random; odd lengths die, even ones time out."""

    spec = Spec("drift", (2,), "float32", Box((-1.0,), (1.0,)), 5)

    def __init__(self):
        self.step_traces = 0
        self.resets_run = 0

    def count_reset(self):
        self.resets_run += 1

    def reset(self, key):
        key, start, length = jax.random.split(key, 3)
        state = DriftState(
            key, jax.random.uniform(start), jnp.zeros((), jnp.int32), jax.random.randint(length, (), 1, 6)
        )
        jax.debug.callback(self.count_reset)
        return state, self.observe(state)

    def step(self, state, action):
        self.step_traces += 1
        key, noise = jax.random.split(state.key)
        state = DriftState(
            key, state.position + action[0] + 0.1 * jax.random.normal(noise), state.steps + 1, state.length
        )
        end, odd = state.steps >= state.length, state.length % 2 == 1
        return state, TimeStep(self.observe(state), state.position**2, end & odd, end & ~odd)

    def observe(self, state):
        return jnp.stack([state.position, state.steps.astype(jnp.float32)])


@functools.partial(jax.jit, static_argnames="auto_reset")
def rollout(keys, actions, auto_reset=True):
    """(first observations, BatchStep [T, N]) of `actions` [T, N, 1]."""
    batch = BatchEnv(Drift(), auto_reset)
    state, obs = batch.reset(keys)
    return obs, jax.lax.scan(batch.step, state, actions)[1]


def played_alone(env, key, actions):
    """The steps of one environment, its episodes started one by one from fold_in(key, episode)."""
    step, episode = jax.jit(env.step), 0
    state, first = env.reset(jax.random.fold_in(key, 0))
    rows = []
    for action in actions:
        state, out = step(state, action)
        obs = out.obs
        if out.terminated or out.truncated:
            episode += 1
            state, obs = env.reset(jax.random.fold_in(key, episode))
        rows.append((obs, out.reward, out.terminated, out.truncated, out.obs))
    return first, [np.stack(field) for field in zip(*rows)]


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(3), 6)


@pytest.fixture
def actions():
    return jax.random.uniform(jax.random.key(4), (30, 6, 1), minval=-1.0)


def test_each_environment_is_as_if_played_alone(keys, actions):
    first, steps = rollout(keys, actions)
    assert steps.terminated.any() and steps.truncated.any()
    for i in range(len(keys)):
        alone_first, alone = played_alone(Drift(), keys[i], actions[:, i])
        np.testing.assert_allclose(first[i], alone_first, atol=1e-6)
        for field, expected in zip(steps, alone):
            np.testing.assert_allclose(field[:, i], expected, atol=1e-5)


def test_obs_is_the_reset_and_next_obs_the_end(keys, actions):
    _, steps = rollout(keys, actions)
    done = np.asarray(steps.terminated | steps.truncated)
    ages, next_ages = np.asarray(steps.obs[..., 1]), np.asarray(steps.next_obs[..., 1])
    assert (ages[done] == 0).all() and (next_ages[done] >= 1).all()
    np.testing.assert_array_equal(steps.obs[~done], steps.next_obs[~done])


def test_environments_do_not_depend_on_each_other(keys, actions):
    _, all_six = rollout(keys, actions)
    _, two = rollout(keys[2:4], actions[:, 2:4])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, 2:4], b, atol=1e-6), all_six, two)


def test_vmapped_runs_equal_single_runs(keys, actions):
    keys, actions = keys.reshape(2, 3), actions.reshape(30, 2, 3, 1)
    runs = jax.jit(jax.vmap(rollout, in_axes=(0, 1)))(keys, actions)
    for run in range(2):
        single = rollout(keys[run], actions[:, run])
        jax.tree.map(lambda a, b, run=run: np.testing.assert_allclose(a[run], b, atol=1e-6), runs, single)


def test_keys_stay_and_episodes_count(keys, actions):
    batch = BatchEnv(Drift())
    state, _ = batch.reset(keys)
    state, steps = jax.jit(lambda s, a: jax.lax.scan(batch.step, s, a))(state, actions)
    done = np.asarray(steps.terminated | steps.truncated).sum(axis=0)
    np.testing.assert_array_equal(state.episode, done)
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(keys))


def test_an_episode_can_be_started_by_its_number(keys):
    batch = BatchEnv(Drift())
    state, third = batch.reset(keys, 2)
    for i in range(6):
        np.testing.assert_allclose(third[i], Drift().reset(jax.random.fold_in(keys[i], 2))[1], atol=1e-6)
    _, fourth = batch.reset(keys, state.episode + 1)
    assert (np.asarray(fourth) != np.asarray(third)).any(axis=1).all()


def test_resets_are_computed_only_when_an_environment_ended(keys):
    env = Drift()
    batch = BatchEnv(env)
    step = jax.jit(batch.step)
    state, _ = batch.reset(keys)
    jax.effects_barrier()
    kinds = set()
    for _ in range(12):
        before = env.resets_run
        state, out = step(state, jnp.zeros((6, 1)))
        jax.effects_barrier()
        ended = bool((out.terminated | out.truncated).any())
        kinds.add(ended)
        assert (env.resets_run > before) == ended
    assert kinds == {True, False}


def test_runs_begin_episodes_only_where_one_of_any_run_ended(keys):
    """Runs side by side stay single runs, and no start is made for nothing."""
    env, keys = Drift(), keys.reshape(2, 3)
    batch = BatchEnv(env)
    step, alone = jax.jit(jax.vmap(batch.step)), jax.jit(BatchEnv(Drift()).step)
    state, first = jax.vmap(batch.reset)(keys)
    singles = [BatchEnv(Drift()).reset(run) for run in keys]
    for run in range(2):
        np.testing.assert_allclose(first[run], singles[run][1], atol=1e-6)
    jax.effects_barrier()
    kinds = set()
    for _ in range(12):
        before = env.resets_run
        state, out = step(state, jnp.ones((2, 3, 1)))
        jax.effects_barrier()
        ended = np.asarray(out.terminated | out.truncated)
        kinds.add(tuple(ended.any(axis=1).tolist()))
        assert (env.resets_run > before) == ended.any()
        singles = [alone(single[0], jnp.ones((3, 1))) for single in singles]
        for run in range(2):
            jax.tree.map(lambda a, b, run=run: np.testing.assert_allclose(a[run], b, atol=1e-6), out, singles[run][1])
    assert kinds >= {(False, False), (True, False), (False, True)}


class Empty(Drift):
    """A walk with something in its state that has no elements."""

    def reset(self, key):
        state, obs = super().reset(key)
        return (state, jnp.zeros((0, 2))), obs

    def step(self, state, action):
        walk, step = super().step(state[0], action)
        return (walk, state[1]), step


def test_runs_may_have_leaves_without_elements_and_environments_on_several_devices(keys, actions):
    keys, plain = keys.reshape(2, 3), BatchEnv(Drift())
    _, expected = jax.vmap(plain.step)(jax.vmap(plain.reset)(keys)[0], actions[:1].reshape(2, 3, 1))
    for batch in (BatchEnv(Empty()), BatchEnv(Drift(), join_runs=False)):
        state, _ = jax.vmap(batch.reset)(keys)
        after, out = jax.vmap(batch.step)(state, actions[:1].reshape(2, 3, 1))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), out, expected)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_on_an_accelerator_runs_join_only_where_a_start_is_dear(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    pictures = MobileRobotTwin(srl_model="raw_pixels", image_size=36)
    encoded = Encoded(pictures, Encoding(lambda frames: frames.reshape(*frames.shape[:-3], -1)[..., :2] / 255, 2))
    stacked = FrameStack(encoded, 2)
    for env, dear in ((FrameStack(pictures, 2), True), (encoded, True), (stacked, True), (MobileRobotTwin(), False)):
        batch = BatchEnv(env)
        state, _ = jax.vmap(batch.reset)(jax.random.split(jax.random.key(0), (2, 3)))
        program = str(jax.make_jaxpr(jax.vmap(batch.step))(state, jnp.zeros((2, 3), jnp.int32)))
        assert (" cond[" in program) == (dear or backend == "cpu")


def test_a_frozen_environment_stands_still(keys, actions):
    first, steps = rollout(keys, actions, auto_reset=False)
    done = np.asarray(steps.terminated | steps.truncated)
    np.testing.assert_array_equal(done.sum(axis=0), 1)
    for i, end in enumerate(done.argmax(axis=0)):
        alone_first, alone = played_alone(Drift(), keys[i], actions[: end + 1, i])
        np.testing.assert_allclose(first[i], alone_first, atol=1e-6)
        for field, expected in zip(steps[1:], alone[1:]):
            np.testing.assert_allclose(field[: end + 1, i], expected, atol=1e-5)
        assert (np.asarray(steps.reward)[end + 1 :, i] == 0).all()
        last = np.asarray(steps.next_obs)[end, i]
        np.testing.assert_array_equal(steps.obs[end:, i], np.broadcast_to(last, (30 - end, 2)))
    np.testing.assert_array_equal(steps.obs, steps.next_obs)


def test_frozen_state_is_unchanged(keys):
    batch = BatchEnv(Drift(), auto_reset=False)
    step = jax.jit(batch.step)
    state, _ = batch.reset(keys)
    for _ in range(5):
        state, _ = step(state, jnp.zeros((6, 1)))
    later, _ = step(state, jnp.ones((6, 1)))
    old, new = [jax.random.key_data(s.env.env.key) for s in (state, later)]
    np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(state.env.env.position, later.env.env.position)


@pytest.mark.parametrize("auto_reset", [True, False])
def test_states_keep_their_types_so_that_nothing_is_traced_twice(keys, auto_reset):
    env = Drift()
    batch = BatchEnv(env, auto_reset)
    step = jax.jit(batch.step)
    state, _ = jax.jit(batch.reset)(keys)
    for _ in range(3):
        state, _ = step(state, jnp.zeros((6, 1)))
    assert env.step_traces == 1


def test_the_key_of_a_run_must_be_split(keys):
    batch = BatchEnv(Drift())
    with pytest.raises(ValueError, match=r"typed keys \[N\]"):
        batch.reset(keys[0])
    with pytest.raises(ValueError, match=r"typed keys \[N\]"):
        batch.reset(jax.random.key_data(keys))


def test_device_environments_need_no_simulator():
    code = (
        "import sys\n"
        "for name in ('gymnasium', 'pybullet', 'pybullet_data'): sys.modules[name] = None\n"
        "import jax, envs.device.brax_adapter, envs.device.wrappers\n"
        "from envs.device.batch import BatchEnv\n"
        "from envs.device.cartpole import CartPole\n"
        "from envs.device.pendulum import Pendulum\n"
        "keys = jax.random.split(jax.random.key(0), 2)\n"
        "print([BatchEnv(env).reset(keys)[1].shape for env in (CartPole(), Pendulum())], 'brax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(2, 4), (2, 3)] False"
