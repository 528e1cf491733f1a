"""Pictures of host environments drawn on the device: workers tell where everything is, the twin's renderer draws it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from envs.host.vector import PoolStep, VectorPool
from envs.make import EnvOptions, device_env
from envs.types import Spec


class DrawnPool:
    """A worker pool whose environments observe pictures that are drawn here, those of a group at a time.

    Workers send a few numbers for each environment (`scene_poses`) in place of a picture. A picture is drawn once: the
    first one of a new episode is the only one that is drawn besides the true successor.

    Args:
        pool: The pool, whose environments observe `EnvOptions.told()`.
        options: What the learner observes.
        auto_reset: Whether the pool resets environments by itself.
    """

    def __init__(self, pool: VectorPool, options: EnvOptions, auto_reset: bool) -> None:
        twin = device_env(options.as_twin())
        self.spec: Spec = stacked(twin.spec, options.num_stack)
        self.num_envs, self.groups = pool.num_envs, pool.groups
        self._pool, self._auto_reset = pool, auto_reset
        self._channels = twin.spec.obs_shape[-1]
        self._draw: Callable[[np.ndarray], Any] = jax.jit(jax.vmap(twin.draw))
        self._frames = [np.zeros((len(group), *self.spec.obs_shape), np.uint8) for group in self.groups]

    def reset(self, episode: int | None = None) -> np.ndarray:
        """Begin a new episode in every environment; see `VectorPool.reset`."""
        poses = self._pool.reset(episode)
        obs = np.empty((self.num_envs, *self.spec.obs_shape), np.uint8)
        for number, group in enumerate(self.groups):
            everyone = np.ones(len(group), bool)
            obs[group] = self._frames[number] = self._begun(self._frames[number], poses[group], everyone)
        return obs

    def send(self, group: int, actions: np.ndarray, active: np.ndarray | None = None) -> None:
        """Start a step of one group; see `VectorPool.send`."""
        self._pool.send(group, actions, active)

    def ready(self) -> int:
        """Wait until a group can be received; see `VectorPool.ready`."""
        return self._pool.ready()

    def receive(self, group: int) -> PoolStep:
        """Wait for the step of one group and draw it; see `VectorPool.receive`."""
        step = self._pool.receive(group)
        before = self._frames[group]
        picture = np.asarray(self._draw(step.next_obs))
        next_obs = np.concatenate([before[..., self._channels :], picture], axis=-1)
        ended = step.terminated | step.truncated
        obs = next_obs
        if self._auto_reset and ended.any():
            obs = self._begun(next_obs, step.obs, ended)
        self._frames[group] = obs
        return step._replace(obs=obs, next_obs=next_obs)

    def close(self) -> None:
        """End the workers; see `VectorPool.close`."""
        self._pool.close()

    def _begun(self, frames: np.ndarray, poses: np.ndarray, begun: np.ndarray) -> np.ndarray:
        """Observations [n, ...] in which the environments `begun` [n] show the first picture of an episode."""
        first = np.zeros_like(frames)
        first[..., -self._channels :] = np.asarray(self._draw(poses))
        return np.where(begun[:, None, None, None], first, frames)


def stacked(spec: Spec, num_stack: int) -> Spec:
    """The spec of pictures of which the last `num_stack` are one observation."""
    return dataclasses.replace(spec, obs_shape=(*spec.obs_shape[:-1], num_stack * spec.obs_shape[-1]))


PoolMaker = Callable[[Sequence[tuple[int, int]], Any, bool], Any]  # (seeds, groups, auto_reset) -> pool


def drawing(make_pool: PoolMaker, options: EnvOptions) -> PoolMaker:
    """Let the pools that `make_pool` makes be drawn."""

    def make(seeds: Sequence[tuple[int, int]], groups: Any, auto_reset: bool) -> DrawnPool:
        return DrawnPool(make_pool(seeds, groups, auto_reset), options, auto_reset)

    return make
