"""Pendulum-v1 in JAX: the task of Gymnasium 1.4, state for state.

Source: the swing-up task of OpenAI Gym (Brockman et al., 2016, arXiv:1606.01540), as kept by Gymnasium.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.types import Box, Spec, TimeStep

GRAVITY = 10.0  # m/s^2
MASS = 1.0  # kg
LENGTH = 1.0  # m
TIME_STEP = 0.05  # s
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N m
START_ANGLE = math.pi  # rad, an episode starts within +- this
START_SPEED = 1.0  # rad/s, an episode starts within +- this
MAX_STEPS = 200


class PendulumState(NamedTuple):
    """Physical state and age of an episode.

    Attributes:
        angle: float32 [], rad from upright, wrapped to [-pi, pi): a float32 that counted turns would lose digits.
        speed: float32 [], rad/s.
        steps: int32 [], steps played.
    """

    angle: jax.Array
    speed: jax.Array
    steps: jax.Array


class Pendulum:
    """Swing a pendulum up and hold it upright with a torque of at most 2 N m.

    Reward -(angle^2 + 0.1 speed^2 + 0.001 torque^2) of the state that was acted on. Never terminated, truncated after
    200 steps. The observation is (cos angle, sin angle, speed), float32 [3].
    """

    spec = Spec("Pendulum-v1", (3,), "float32", Box((-MAX_TORQUE,), (MAX_TORQUE,)), MAX_STEPS)

    def reset(self, key: jax.Array) -> tuple[PendulumState, jax.Array]:
        """Start an episode from a typed key []: angle uniform in +-pi, speed uniform in +-1."""
        angle, speed = jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0) * jnp.array([START_ANGLE, START_SPEED])
        state = PendulumState(angle, speed, jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def state_of(self, host: Any) -> PendulumState:
        """The state in which Gymnasium's Pendulum-v1 is now."""
        angle, speed = jnp.asarray(host.unwrapped.state, jnp.float32)
        return PendulumState(wrap(angle), speed, jnp.int32(host.get_wrapper_attr("_elapsed_steps")))

    def step(self, state: PendulumState, action: jax.Array) -> tuple[PendulumState, TimeStep]:
        """Advance by 0.05 s; `action` float32 [1] is the torque (N m), clipped to +-2."""
        torque = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
        reward = -(state.angle**2 + 0.1 * state.speed**2 + 0.001 * torque**2)
        pull = 3 * GRAVITY / (2 * LENGTH) * jnp.sin(state.angle) + 3.0 / (MASS * LENGTH**2) * torque
        speed = jnp.clip(state.speed + pull * TIME_STEP, -MAX_SPEED, MAX_SPEED)
        angle = wrap(state.angle + speed * TIME_STEP)
        state = PendulumState(angle, speed, state.steps + 1)
        return state, TimeStep(_observe(state), reward, jnp.zeros((), bool), state.steps >= MAX_STEPS)


def _observe(state: PendulumState) -> jax.Array:
    """Observation float32 [3]."""
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])


def wrap(angle: jax.Array) -> jax.Array:
    """The same directions in [-pi, pi); `angle` (rad) of any shape."""
    return (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
