"""The two drivers: they agree, runs are independent, nothing recompiles, a resumed run is the same run."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import a2c, ars, ppo2, random_agent
from agents.types import Agent
from envs.types import Box, Discrete, Spec, TimeStep
from launch.runtime.drivers.common import TRAINING, Chunk
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.drivers.host import HostDriver
from launch.runtime.trees import named_leaves, to_host
from tests.device_pool import DeviceEnvPool

LIMIT = 9  # steps of a Drift episode at most
ITERATIONS = 12
FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}


class DriftState(NamedTuple):
    """Position [2], age and the source of the noise."""

    position: jax.Array
    steps: jax.Array
    key: jax.Array


class Drift:
    """A point in the plane, pushed by the action and by noise; pays for being near the middle.

    Terminated outside the unit circle, truncated after nine steps; random episodes end either way. Continuous actions
    are clipped to +-1, discrete ones push in one of four directions.
    """

    def __init__(self, discrete: bool = False, limit: int | None = LIMIT) -> None:
        self._discrete = discrete
        self.spec = Spec("Drift", (2,), "float32", Discrete(4) if discrete else Box((-1.0,) * 2, (1.0,) * 2), limit)

    def reset(self, key: jax.Array) -> tuple[DriftState, jax.Array]:
        """Start within +-0.5."""
        start, noise = jax.random.split(key)
        position = jax.random.uniform(start, (2,), minval=-0.5, maxval=0.5)
        return DriftState(position, jnp.zeros((), jnp.int32), noise), position

    def step(self, state: DriftState, action: jax.Array) -> tuple[DriftState, TimeStep]:
        """Move."""
        key, noise = jax.random.split(state.key)
        if self._discrete:
            action = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[action]
        position = state.position + 0.2 * action + 0.1 * jax.random.normal(noise, (2,))
        distance = jnp.sqrt(jnp.sum(position**2))
        steps = state.steps + 1
        step = TimeStep(position, 1.0 - distance, distance > 1.0, steps >= LIMIT)
        return DriftState(position, steps, key), step


CONTINUOUS, DISCRETE = Drift(), Drift(discrete=True)


class Case(NamedTuple):
    """An algorithm on an environment."""

    module: ModuleType
    algorithm: Any
    env: Drift
    options: dict[str, Any]

    def agent(self) -> Agent:
        """Build the algorithm."""
        return self.module.make(self.env.spec, self.algorithm.configure(self.options)[0])

    def hyper(self, runs: int, **changes: Any) -> Any:
        """Traced options [K]."""
        values = self.algorithm.configure(self.options)[1]
        return self.algorithm.hyper_tree({k: np.full(runs, v) for k, v in values.items()} | changes)

    def device(self, seeds: list[int], max_chunk: int = ITERATIONS, **changes: Any) -> DeviceDriver:
        """A device driver for runs of these seeds."""
        hyper = self.hyper(len(seeds), **changes)
        return DeviceDriver(self.env, self.agent(), hyper, np.array(seeds), ITERATIONS, max_chunk)


CASES = {
    "ppo2": Case(ppo2, ppo2.PPO2, CONTINUOUS, {"num_cpu": 4, "n_steps": 16, "noptepochs": 2, "net_arch": (8,)}),
    "a2c": Case(a2c, a2c.A2C, DISCRETE, {"num_cpu": 4, "net_arch": (8,)}),
    "ars": Case(ars, ars.ARS, DISCRETE, {"num_population": 3}),
}


class FreshPool(DeviceEnvPool):
    """A pool whose environments get new keys at every reset, as evolution's do on the device."""

    def __init__(self, env: Any, keys: Callable[[int], jax.Array], **options: Any) -> None:
        super().__init__(env, keys(0), **options)
        self._keys_of, self._resets = keys, 0

    def reset(self) -> np.ndarray:
        """Begin the episodes of the next iteration."""
        self._keys, self._current = self._keys_of(self._resets), []
        self._resets += 1
        return super().reset()


@functools.cache
def device(name: str) -> DeviceDriver:
    """One driver of run seed 3 per algorithm, shared by the tests; use `fresh` to begin at its start."""
    return CASES[name].device([3], max_chunk=4)


def fresh(name: str) -> DeviceDriver:
    """The shared driver at iteration 0."""
    driver = device(name)
    start = driver._init(driver._keys, driver.hyper)
    driver.restore({"run": start, "iteration": 0})
    return driver


def host(name: str, num_groups: int = 1, seeds: tuple[int, ...] = (3,)) -> HostDriver:
    """A host driver whose environments are exactly those of device drivers with the same seeds."""
    case = CASES[name]
    agent = case.agent()

    def make_pool(ids: Any, groups: Any, auto_reset: bool) -> DeviceEnvPool:
        def keys(iteration: int) -> jax.Array:
            runs = [device(name)._env_keys(jax.random.key(seed), iteration) for seed in seeds]
            return jnp.concatenate(runs)

        if groups is None:  # an evaluation
            keys = lambda _: jax.vmap(lambda s, i: jax.random.fold_in(jax.random.key(s), i))(*map(jnp.array, zip(*[(a % 2**31, b) for a, b in ids])))  # noqa
            return DeviceEnvPool(case.env, keys(0), auto_reset=auto_reset)
        if auto_reset:
            return DeviceEnvPool(case.env, keys(0), groups=groups)
        return FreshPool(case.env, keys, groups=groups, auto_reset=False)

    return HostDriver(make_pool, case.env.spec, agent, case.hyper(len(seeds)), np.array(seeds), ITERATIONS, num_groups)


def run(driver: Any, iterations: int, chunk: int = 64) -> list[Chunk]:
    """Run some iterations in chunks."""
    chunks: list[Chunk] = []
    while sum(len(c.steps) for c in chunks) < iterations:
        chunks.append(driver.run(min(chunk, iterations - sum(len(c.steps) for c in chunks))))
    return chunks


def bits(tree: Any) -> dict[str, np.ndarray]:
    """A copy of all leaves on the host."""
    return {name: np.array(to_host(leaf)) for name, leaf in named_leaves(tree).items()}


def assert_trees(got: Any, expected: Any, **tolerance: float) -> None:
    """Compare all leaves, exactly where no tolerance is given."""
    a, b = bits(got), bits(expected)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], err_msg=name, **{"rtol": 0, "atol": 0, **tolerance})


def pick(tree: Any, run: int) -> Any:
    """One run of a tree, with a run axis of one."""
    return jax.tree.map(lambda x: x[run : run + 1], tree)


# -- the two agree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_host_and_device_learn_the_same(name: str) -> None:
    on_device, on_host = fresh(name), host(name)
    device_chunks, host_chunks = run(on_device, 3), run(on_host, 3)
    learner = on_host.checkpoint()["agent"]
    assert_trees(learner, on_device.checkpoint()["run"].agent, rtol=1e-5, atol=1e-5)
    start = on_device._init(on_device._keys, on_device.hyper).agent.acting
    assert any(not np.array_equal(a, b) for a, b in zip(bits(start).values(), bits(learner.acting).values()))

    for key in device_chunks[0].metrics:
        got, expected = (np.concatenate([c.metrics[key] for c in chunks]) for chunks in (host_chunks, device_chunks))
        assert got.shape == (3, 1)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=key)
    steps = [np.concatenate([c.steps for c in chunks]) for chunks in (host_chunks, device_chunks)]
    np.testing.assert_array_equal(*steps)
    records = [
        sorted(zip(*(np.concatenate([c.episodes[i] for c in chunks]) for i in range(4))))
        for chunks in (host_chunks, device_chunks)
    ]
    assert len(records[0]) > 3
    np.testing.assert_allclose(*records, rtol=1e-5)


def test_groups_of_the_host_driver_keep_every_environment_in_place() -> None:
    """Two groups draw other action noise than one, and nothing else may change: evaluate a policy without noise."""
    driver = host("ppo2", num_groups=2)
    agent = driver.agent._replace(act=lambda state, obs, key, explore: (2 * obs, {"log_prob": obs[:, 0]}))
    other = host("ppo2", num_groups=1)
    batches = []
    for d in (driver, other):
        d.agent = agent
        d._update = lambda state, batch, *_: batches.append(jax.tree.map(np.copy, batch)) or (state, {})
        chunk = d.run(1)
        batches.append(chunk)
        d.close()
    (batch_two, chunk_two, batch_one, chunk_one) = batches
    assert_trees(batch_two, batch_one, atol=1e-6)
    np.testing.assert_array_equal(chunk_two.steps, [[64]])
    two, one = (sorted(zip(*c.episodes)) for c in (chunk_two, chunk_one))
    np.testing.assert_allclose(two, one, rtol=1e-5)
