"""Wrappers of device environments: each is a device environment itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.device.batch import DeviceEnv
from envs.types import Encoding, Spec, TimeStep


class FrameStackState(NamedTuple):
    """State of the wrapped environment, and the stacked observations it last gave [..., channels * num_stack]."""

    env: Any
    frames: jax.Array


class FrameStack:
    """Observations of the last `num_stack` steps along the last axis, newest last; zeros before the episode began.

    The rule of Stable Baselines' VecFrameStack: states are stacked as well as pictures, and an episode never sees
    frames of the one before.

    Args:
        env: A device environment whose observation is one array with at least one axis.
        num_stack: Number of observations to stack, at least 1.

    Raises:
        ValueError: `num_stack` is below 1.
    """

    def __init__(self, env: DeviceEnv, num_stack: int) -> None:
        if num_stack < 1:
            raise ValueError(f"num_stack must be at least 1, got {num_stack}")
        *leading, self._channels = env.spec.obs_shape
        self.spec: Spec = replace(env.spec, obs_shape=(*leading, self._channels * num_stack))
        self.encodes = getattr(env, "encodes", False)
        self._env = env

    def reset(self, key: jax.Array) -> tuple[FrameStackState, jax.Array]:
        """Start an episode from a typed key []: zeros, then the first observation."""
        state, obs = self._env.reset(key)
        frames = self._push(jnp.zeros(self.spec.obs_shape, self.spec.obs_dtype), obs)
        return FrameStackState(state, frames), frames

    def step(self, state: FrameStackState, action: jax.Array) -> tuple[FrameStackState, TimeStep]:
        """Advance one step; the oldest observation drops out."""
        env, step = self._env.step(state.env, action)
        frames = self._push(state.frames, step.obs)
        return FrameStackState(env, frames), step._replace(obs=frames)

    def _push(self, frames: jax.Array, obs: jax.Array) -> jax.Array:
        """`frames` with `obs` behind and the oldest observation gone."""
        return jnp.concatenate([frames[..., self._channels :], obs], axis=-1)


class Encoded:
    """Observations are states that a learned representation makes of the pictures; these never leave the device.

    The state is that of the wrapped environment.

    Args:
        env: A device environment that observes pictures.
        encoding: The representation.
    """

    encodes = True  # which makes a reset dear, see BatchEnv

    def __init__(self, env: DeviceEnv, encoding: Encoding) -> None:
        self.spec: Spec = encoded(env.spec, encoding)
        self._env, self._encode = env, encoding.encode

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """Start an episode from a typed key []."""
        state, picture = self._env.reset(key)
        return state, self._encode(picture)

    def step(self, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        """Advance one step."""
        state, step = self._env.step(state, action)
        return state, step._replace(obs=self._encode(step.obs))


def encoded(spec: Spec, encoding: Encoding) -> Spec:
    """The spec of an environment with pictures once they are encoded."""
    return replace(spec, obs_shape=(encoding.state_dim,), obs_dtype="float32")
