"""Pictures of host environments turned into learned states on the device, those of a group at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from envs.host.vector import PoolStep, VectorPool
from envs.make import EnvOptions, device_env
from envs.render.drawn_pool import DrawnPool
from envs.types import Encoding, Spec


class EncodedPool:
    """A worker pool whose environments are observed through a learned representation.

    A picture crosses to the device once, states come back. Where pictures are drawn on the device, what crosses is
    where everything is. The picture at the start of an episode is the only one that is encoded besides the true
    successors.

    Args:
        pool: The pool, whose environments observe `options.seen()`.
        options: What the learner observes.
        encoding: The representation.
        auto_reset: Whether the pool resets environments by itself.
    """

    def __init__(self, pool: VectorPool, options: EnvOptions, encoding: Encoding, auto_reset: bool) -> None:
        self.spec: Spec = stacked_states(pool.spec, encoding, options.num_stack)
        self.num_envs, self.groups = pool.num_envs, pool.groups
        self._pool, self._auto_reset = pool, auto_reset
        self._encode = encoder_of(options, encoding)
        self._size = encoding.state_dim
        self._states = [np.zeros((len(group), *self.spec.obs_shape), np.float32) for group in self.groups]

    def reset(self, episode: int | None = None) -> np.ndarray:
        """Begin a new episode in every environment; see `VectorPool.reset`."""
        seen = self._pool.reset(episode)
        obs = np.empty((self.num_envs, *self.spec.obs_shape), np.float32)
        for number, group in enumerate(self.groups):
            everyone = np.ones(len(group), bool)
            obs[group] = self._states[number] = self._begun(self._states[number], seen[group], everyone)
        return obs

    def send(self, group: int, actions: np.ndarray, active: np.ndarray | None = None) -> None:
        """Start a step of one group; see `VectorPool.send`."""
        self._pool.send(group, actions, active)

    def ready(self) -> int:
        """Wait until a group can be received; see `VectorPool.ready`."""
        return self._pool.ready()

    def receive(self, group: int) -> PoolStep:
        """Wait for the step of one group and encode it; see `VectorPool.receive`."""
        step = self._pool.receive(group)
        before = self._states[group]
        next_obs = np.concatenate([before[:, self._size :], np.asarray(self._encode(step.next_obs))], axis=1)
        ended = step.terminated | step.truncated
        obs = next_obs
        if self._auto_reset and ended.any():
            obs = self._begun(next_obs, step.obs, ended)
        self._states[group] = obs
        return step._replace(obs=obs, next_obs=next_obs)

    def close(self) -> None:
        """End the workers; see `VectorPool.close`."""
        self._pool.close()

    def _begun(self, states: np.ndarray, seen: np.ndarray, begun: np.ndarray) -> np.ndarray:
        """Observations [n, ...] in which the environments `begun` [n] show the first state of an episode."""
        first = np.zeros_like(states)
        first[:, -self._size :] = np.asarray(self._encode(seen))
        return np.where(begun[:, None], first, states)


def encoder_of(options: EnvOptions, encoding: Encoding) -> Callable[[np.ndarray], Any]:
    """The compiled function from what host environments tell [n, ...] to states float32 [n, state_dim]."""
    if not options.drawn:
        return jax.jit(encoding.encode)
    draw = jax.vmap(device_env(options.seen().as_twin()).draw)
    return jax.jit(lambda poses: encoding.encode(draw(poses)))


def stacked_states(spec: Spec, encoding: Encoding | None, num_stack: int) -> Spec:
    """The spec of learned states of which the last `num_stack` are one observation."""
    assert encoding is not None, "a learned representation is handed in"
    return dataclasses.replace(spec, obs_shape=(num_stack * encoding.state_dim,), obs_dtype="float32")


def observed(pool: VectorPool, options: EnvOptions, encoding: Encoding | None, auto_reset: bool) -> Any:
    """A worker pool as the learner observes it: pictures drawn, or encoded, where `options` say so.

    Args:
        pool: The pool, of the environments that `host_factory(options)` makes.
        options: What the learner observes.
        encoding: The representation where it is `learned`.
        auto_reset: Whether the pool resets environments by itself.
    """
    if encoding is not None:
        return EncodedPool(pool, options, encoding, auto_reset)
    return DrawnPool(pool, options, auto_reset) if options.drawn else pool
