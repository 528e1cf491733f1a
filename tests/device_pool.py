"""A device environment behind the interface of the worker pool, so that both drivers can play exactly the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.device.batch import BatchEnv, BatchState, BatchStep, DeviceEnv
from envs.host.vector import PoolStep
from envs.types import Spec


class DeviceEnvPool:
    """Stands in for `envs.host.vector.VectorPool`, in this process and on a device environment.

    Environment i plays what environment i of `BatchEnv(env).reset(keys)` plays, whatever the groups.

    Args:
        env: A device environment.
        keys: Typed keys [N], one per environment.
        groups: Environment indices of each group, every environment in exactly one; None for a single group.
        auto_reset: Reset an environment within the step that ends its episode. Otherwise it is left alone until
            `reset`.

    Raises:
        ValueError: `groups` is no partition of the environments.
    """

    def __init__(
        self,
        env: DeviceEnv,
        keys: jax.Array,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        auto_reset: bool = True,
    ) -> None:
        self.spec: Spec = env.spec
        self.num_envs = len(keys)
        self.groups = [np.asarray(group) for group in (groups or [range(self.num_envs)])]
        if sorted(np.concatenate(self.groups)) != list(range(self.num_envs)):
            raise ValueError(f"groups must hold each of {self.num_envs} environments once")
        self._keys = keys
        self._batch = BatchEnv(env, auto_reset)
        self._reset = jax.jit(self._batch.reset)
        self._step = jax.jit(self._masked_step)
        self._current: list[tuple[BatchState, jax.Array]] = []
        self._sent: dict[int, BatchStep] = {}

    def reset(self, episode: int | None = None) -> np.ndarray:
        """Begin the next episode, or the one of this number, everywhere; the first observations [num_envs, ...]."""
        if self._sent:
            raise RuntimeError("reset() while a group is still stepping: receive it first")
        first = np.empty((self.num_envs, *self.spec.obs_shape), self.spec.obs_dtype)
        current = []
        for number, group in enumerate(self.groups):
            following = self._current[number][0].episode + 1 if self._current else jnp.zeros(len(group), jnp.int32)
            which = following if episode is None else jnp.full(len(group), episode, jnp.int32)
            state, obs = self._reset(self._keys[group], which)
            current.append((state, obs))
            first[group] = obs
        self._current = current
        return first

    def send(self, group: int, actions: np.ndarray, active: np.ndarray | None = None) -> None:
        """Step one group; an inactive environment stays where it is, with reward 0."""
        if not self._current or group in self._sent:
            raise RuntimeError(f"send() for group {group} before reset() or twice without receive()")
        state, obs = self._current[group]
        active = np.ones(len(obs), bool) if active is None else active
        state, step = self._step(state, obs, jnp.asarray(actions, self.spec.action_dtype), active)
        self._current[group] = (state, step.obs)
        self._sent[group] = step

    def ready(self) -> int:
        """The group that was sent first of those not received."""
        return next(iter(self._sent))

    def receive(self, group: int) -> PoolStep:
        """The step of one group, arrays [len(group), ...] in the group's order."""
        if group not in self._sent:
            raise RuntimeError(f"receive() for group {group} without send()")
        return PoolStep(*(np.asarray(field) for field in self._sent.pop(group)))

    def close(self) -> None:
        """Nothing to end; may be called again."""

    def _masked_step(
        self, state: BatchState, obs: jax.Array, action: jax.Array, active: jax.Array
    ) -> tuple[BatchState, BatchStep]:
        """`BatchEnv.step` in which inactive environments keep their state and observation."""

        def choose(chosen: jax.Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)

        stepped, step = self._batch.step(state, action)
        never = jnp.zeros_like(step.terminated)
        idle = BatchStep(obs, jnp.zeros_like(step.reward), never, never, obs)
        return jax.vmap(choose)(active, (stepped, step), (state, idle))
