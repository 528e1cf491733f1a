"""Replay memories whose pictures are in host memory learn what those on the device learn."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.ddpg import DDPG
from agents.deepq import DeepQ
from agents.sac import SAC
from envs.types import Box, Discrete, Spec, TimeStep
from launch.runtime.drivers.frame_ring import settled
from launch.runtime.drivers.host import HostDriver
from tests.driver_cases import Case

NUM_ENVS, LENGTH, CAPACITY = 2, 3, 24  # of the ring: 4 rollouts
SIDE = 36  # the least that the convolutions take


class Lamp:
    """A light that actions turn up and down; it goes out by itself, or is cut off after 7 steps."""

    def __init__(self, discrete: bool) -> None:
        action = Discrete(2) if discrete else Box((-1.0,), (1.0,))
        self.spec = Spec("Lamp", (SIDE, SIDE, 1), "uint8", action, 7)

    def reset(self, key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Begin somewhere."""
        light = jax.random.uniform(key, (), minval=0.2, maxval=0.8)
        return (light, jnp.int32(0)), self._show(light, jnp.int32(0))

    def step(self, state: tuple, action: jax.Array) -> tuple[Any, TimeStep]:
        """Turn it."""
        light, age = state[0] + 0.1 * (jnp.asarray(action, jnp.float32).sum() - 0.4), state[1] + 1
        out = (light < 0) | (light > 1)
        light = jnp.clip(light, 0.0, 1.0)
        return (light, age), TimeStep(self._show(light, age), light, out, age >= 7)

    def _show(self, light: jax.Array, age: jax.Array) -> jax.Array:
        picture = jnp.full((SIDE, SIDE, 1), 255 * light).at[: SIDE // 2].add(-8.0 * age)
        return jnp.clip(picture, 0, 255).astype(jnp.uint8)


SIZES = {"num_cpu": NUM_ENVS, "batch_size": 4, "learning_starts": 8, "net_arch": (8,)}
LEARNERS: dict[str, tuple[Any, bool, dict[str, Any]]] = {
    "deepq": (DeepQ, True, {"train_freq": LENGTH, "buffer_size": CAPACITY, "n_step": 2, "learning_rate": 0.01}),
    "deepq-even": (
        DeepQ,
        True,
        {"train_freq": LENGTH, "buffer_size": CAPACITY, "prioritized": False, "gradient_steps": 2},
    ),
    "ddpg": (
        DDPG,
        False,
        {"nb_rollout_steps": LENGTH, "memory_limit": CAPACITY, "nb_train_steps": 2, "noise_param": True},
    ),
    "sac": (SAC, False, {"train_freq": LENGTH, "buffer_size": CAPACITY, "gradient_steps": 2}),
}


@functools.cache
def learner(name: str, where: str) -> Case:
    cls, discrete, options = LEARNERS[name]
    env = Lamp(discrete)
    config, hyper = cls.configure({**SIZES, **options, "replay_memory": where})
    return Case(env, cls.make(env.spec, config), cls.Hyper(**hyper))


def parameters(driver: HostDriver) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(driver.acting())]


def assert_same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_learned_is_the_same(name: str) -> None:
    """For two runs and two groups, until the ring has been written over; then from a checkpoint on."""
    on_device, on_host = (learner(name, where).new_host((3, 4), num_groups=2) for where in ("device", "host"))
    before = parameters(on_host)
    assert on_device.frame_memory() == 0
    for _ in range(7):
        seen, got = on_device.run(1), on_host.run(1)
        for metric, values in seen.metrics.items():
            np.testing.assert_allclose(got.metrics[metric], values, rtol=1e-3, atol=1e-5, err_msg=metric)
    after = parameters(on_host)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, after, strict=True))
    assert not any(np.array_equal(x[0], x[1]) for x in after if x.size > 100)  # the runs differ
    assert_same(after, parameters(on_device))
    tree = jax.tree.map(np.array, on_host.checkpoint())
    for driver in (on_device, on_host):
        driver.restore(jax.tree.map(np.array, driver.checkpoint()))
        driver._begin_episodes()
        driver.run(1), driver.run(1)
    assert_same(parameters(on_host), parameters(on_device))
    assert not np.array_equal(tree["frames"], on_host.checkpoint()["frames"])
    on_host.restore(tree)
    np.testing.assert_array_equal(on_host.checkpoint()["frames"], tree["frames"])
    assert_same(parameters(on_host), after)


@pytest.mark.parametrize("name", LEARNERS)
def test_pictures_take_host_memory_alone(name: str) -> None:
    on_device, on_host = (learner(name, where).new_host((3, 4)) for where in ("device", "host"))
    frames = learner(name, "host").agent.host_frames
    assert frames is not None and frames.rows * NUM_ENVS == CAPACITY
    steps, size = frames.minibatches
    picture = SIDE * SIDE
    sent = 2 * steps * size
    assert on_device.memory() - on_host.memory() == 2 * (CAPACITY - sent) * picture
    assert on_host.frame_memory() == 2 * (2 * CAPACITY + sent) * picture  # twice in a checkpoint
    shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(on_host._init, on_host._keys, on_host.hyper).learning)]
    assert not [shape for shape in shapes if len(shape) > 2 and shape[-3:] == (SIDE, SIDE, 1)]


def test_priorities_of_an_update_are_those_before_it() -> None:
    """All minibatches of an update are drawn before its first step, each by its own key."""
    cls, _, options = LEARNERS["deepq"]
    config, hyper = cls.configure({**SIZES, **options, "gradient_steps": 3, "replay_memory": "host"})
    env = Lamp(True)
    driver = Case(env, cls.make(env.spec, config), cls.Hyper(**hyper)).new_host((3,))
    for _ in range(5):
        driver.run(1)
    ring = driver._ring
    assert ring is not None and ring._sent is not None
    recall, obs, next_obs = ring._sent
    assert obs.shape == (1, 3, 4, SIDE, SIDE, 1)
    drawn = [tuple(row) for row in recall.here.row[0].tolist()]
    assert len(set(drawn)) > 1
    run, step, item = np.indices(recall.here.row.shape).reshape(3, -1)
    for k, g, b in zip(run, step, item, strict=True):
        for place, frames in ((recall.here, obs), (recall.after, next_obs)):
            expected = ring.pictures[k, place.row[k, g, b], place.env[k, g, b]]
            np.testing.assert_array_equal(frames[k, g, b], expected)
    span = (recall.after.row - recall.here.row) % ring.pictures.shape[1]
    assert span.min() >= 1 and span.max() == 2  # two steps, or one where an episode ended


def test_where_pictures_are_kept() -> None:
    pictures, states = Lamp(True).spec, Spec("states", (3,), "float32", Discrete(2), 5)
    config = DeepQ.configure({})[0]
    assert settled(config, pictures, on_device=True).replay_memory == "device"
    assert settled(config, states, on_device=False).replay_memory == "device"
    own_memory = jax.default_backend() != "cpu"
    assert settled(config, pictures, on_device=False).replay_memory == ("host" if own_memory else "device")
    wanted = DeepQ.configure({"replay_memory": "host"})[0]
    assert settled(wanted, pictures, on_device=False) is wanted
    with pytest.raises(ValueError, match="--simulator=jax has them on the device: choose auto or device"):
        settled(wanted, pictures, on_device=True)
    with pytest.raises(ValueError, match="--replay-memory=host is for pictures of worker processes, states shows"):
        settled(wanted, states, on_device=False)
