"""Host environments observed on the device: their pictures drawn there, and encoded there by a representation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from envs.host.pool import Pool, PoolStep
from envs.make import EnvOptions, device_env
from envs.types import Encoding, Spec

Look = Callable[[np.ndarray], Any]  # what n environments tell [n, ...] -> what is seen of them [n, ..., width]


class SeenPool:
    """A worker pool whose environments are looked at here, those of a group at a time.

    What crosses to the device, a picture or the few numbers that it is drawn from (`scene_poses`), crosses once. The
    first observation of a new episode is the only one that is looked at besides the true successors.

    Args:
        pool: The pool.
        look: The compiled look at what its environments tell.
        spec: What the learner observes: the last looks of an episode along the last axis, zeros before its first.
        num_stack: Number of these looks.
        auto_reset: Whether the pool resets environments by itself.
    """

    def __init__(self, pool: Pool, look: Look, spec: Spec, num_stack: int, auto_reset: bool) -> None:
        self.spec = spec
        self.num_envs, self.groups = pool.num_envs, pool.groups
        self._pool, self._look, self._auto_reset = pool, look, auto_reset
        self._width = spec.obs_shape[-1] // num_stack
        self._obs = [np.zeros((len(group), *spec.obs_shape), spec.obs_dtype) for group in self.groups]

    def reset(self, episode: int | None = None) -> np.ndarray:
        """Begin a new episode in every environment; see `Pool.reset`."""
        told = self._pool.reset(episode)
        obs = np.empty((self.num_envs, *self.spec.obs_shape), self.spec.obs_dtype)
        for number, group in enumerate(self.groups):
            everyone = np.ones(len(group), bool)
            obs[group] = self._obs[number] = self._begun(self._obs[number], told[group], everyone)
        return obs

    def send(self, group: int, actions: np.ndarray, active: np.ndarray | None = None) -> None:
        """Start a step of one group; see `Pool.send`."""
        self._pool.send(group, actions, active)

    def ready(self) -> int:
        """Wait until a group can be received; see `Pool.ready`."""
        return self._pool.ready()

    def receive(self, group: int) -> PoolStep:
        """Wait for the step of one group and look at it; see `Pool.receive`."""
        step = self._pool.receive(group)
        seen = np.asarray(self._look(step.next_obs))
        next_obs = np.concatenate([self._obs[group][..., self._width :], seen], axis=-1)
        ended = step.terminated | step.truncated
        obs = next_obs
        if self._auto_reset and ended.any():
            obs = self._begun(next_obs, step.obs, ended)
        self._obs[group] = obs
        return step._replace(obs=obs, next_obs=next_obs)

    def close(self) -> None:
        """End the workers; see `Pool.close`."""
        self._pool.close()

    def _begun(self, obs: np.ndarray, told: np.ndarray, begun: np.ndarray) -> np.ndarray:
        """Observations [n, ...] in which the environments `begun` [n] show the first look of an episode."""
        first = np.zeros_like(obs)
        first[..., -self._width :] = np.asarray(self._look(told))
        return np.where(begun.reshape(-1, *[1] * (obs.ndim - 1)), first, obs)


def observed(pool: Pool, options: EnvOptions, encoding: Encoding | None, auto_reset: bool) -> Any:
    """A worker pool as the learner observes it: pictures drawn, or encoded, where `options` say so.

    Args:
        pool: The pool, of the environments that `host_factory(options)` makes.
        options: What the learner observes.
        encoding: The representation where it is `learned`.
        auto_reset: Whether the pool resets environments by itself.
    """
    if encoding is not None:
        spec = stacked_states(pool.spec, encoding, options.num_stack)
        return SeenPool(pool, encoder_of(options, encoding), spec, options.num_stack, auto_reset)
    if options.drawn:
        twin = device_env(options.as_twin())
        spec = stacked(twin.spec, options.num_stack)
        return SeenPool(pool, jax.jit(jax.vmap(twin.draw)), spec, options.num_stack, auto_reset)
    return pool


def encoder_of(options: EnvOptions, encoding: Encoding) -> Look:
    """The compiled function from what host environments tell [n, ...] to states float32 [n, state_dim]."""
    if not options.drawn:
        return jax.jit(encoding.encode)
    draw = jax.vmap(device_env(options.seen().as_twin()).draw)
    return jax.jit(lambda poses: encoding.encode(draw(poses)))


def stacked(spec: Spec, num_stack: int) -> Spec:
    """The spec of pictures of which the last `num_stack` are one observation."""
    return dataclasses.replace(spec, obs_shape=(*spec.obs_shape[:-1], num_stack * spec.obs_shape[-1]))


def stacked_states(spec: Spec, encoding: Encoding | None, num_stack: int) -> Spec:
    """The spec of learned states of which the last `num_stack` are one observation."""
    assert encoding is not None, "a learned representation is handed in"
    return dataclasses.replace(spec, obs_shape=(num_stack * encoding.state_dim,), obs_dtype="float32")
