"""DeviceEnvPool plays exactly what BatchEnv plays, behind the interface of the worker pool."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from envs.device.cartpole import CartPole
from envs.host.vector import VectorPool
from tests.device_pool import DeviceEnvPool


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(0), 5)


@pytest.mark.parametrize("auto_reset", [True, False])
@pytest.mark.parametrize("groups", [None, [[0, 3, 4], [2, 1]]])
def test_same_steps_as_the_batch(keys, groups, auto_reset):
    batch = BatchEnv(CartPole(), auto_reset)
    step = jax.jit(batch.step)
    pool = DeviceEnvPool(CartPole(), keys, groups=groups, auto_reset=auto_reset)
    rng = np.random.default_rng(0)
    episode = jnp.zeros(5, jnp.int32)
    for _ in range(2):
        state, obs = batch.reset(keys, episode)
        np.testing.assert_array_equal(pool.reset(), obs)
        for _ in range(30):
            action = rng.integers(0, 2, 5).astype(np.int32)
            state, expected = step(state, jnp.asarray(action))
            for number, group in enumerate(pool.groups):
                pool.send(number, action[group])
            for number, group in enumerate(pool.groups):
                for got, field in zip(pool.receive(number), expected):
                    np.testing.assert_allclose(got, field[group], atol=1e-6)
        episode = state.episode + 1


def test_inactive_environments_stand_still(keys):
    pool = DeviceEnvPool(CartPole(), keys)
    first = pool.reset()
    active = np.array([True, False, True, False, False])
    pool.send(0, np.ones(5, np.int32), active)
    step = pool.receive(0)
    np.testing.assert_array_equal(step.obs[~active], first[~active])
    np.testing.assert_array_equal(step.next_obs[~active], first[~active])
    np.testing.assert_array_equal(step.reward, active.astype(np.float32))
    assert (step.obs[active] != first[active]).any(axis=1).all()
    pool.send(0, np.ones(5, np.int32))
    alone = jax.vmap(CartPole().step)(BatchEnv(CartPole()).reset(keys)[0].env, jnp.ones(5, jnp.int32))[1]
    np.testing.assert_allclose(pool.receive(0).obs[~active], alone.obs[~active], atol=1e-6)


def test_calls_out_of_order_are_refused(keys):
    pool = DeviceEnvPool(CartPole(), keys)
    with pytest.raises(RuntimeError, match="before reset"):
        pool.send(0, np.zeros(5, np.int32))
    pool.reset()
    with pytest.raises(RuntimeError, match="without send"):
        pool.receive(0)
    pool.send(0, np.zeros(5, np.int32))
    with pytest.raises(RuntimeError, match="twice"):
        pool.send(0, np.zeros(5, np.int32))
    with pytest.raises(RuntimeError, match="still stepping"):
        pool.reset()
    pool.close()
    pool.close()


def test_groups_must_cover_every_environment(keys):
    with pytest.raises(ValueError, match="each of 5 environments once"):
        DeviceEnvPool(CartPole(), keys, groups=[[0, 1], [2, 3]])


@pytest.mark.parametrize("method", ["reset", "send", "receive", "close"])
def test_interface_is_that_of_the_worker_pool(method):
    ours, theirs = (inspect.signature(getattr(pool, method)) for pool in (DeviceEnvPool, VectorPool))
    assert ours == theirs
