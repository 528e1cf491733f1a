"""Acrobot-v1 in JAX: the task of Gymnasium 1.4, state for state.

Source: Sutton (1996), "Generalization in reinforcement learning: successful examples using sparse coarse coding";
equations of motion of Sutton and Barto (1998), "Reinforcement learning: an introduction", section 11.3.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.device.pendulum import wrap
from envs.types import Discrete, Spec, TimeStep

GRAVITY = 9.8  # m/s^2
MASS = 1.0  # kg, of each link
LENGTH = 1.0  # m, of each link
CENTRE = 0.5  # m, from a link's joint to its centre of mass
INERTIA = 1.0  # kg m^2, of each link about its centre of mass
TIME_STEP = 0.2  # s
MAX_SPEEDS = (4 * math.pi, 9 * math.pi)  # rad/s, of the first and of the second joint
START_RANGE = 0.1  # every coordinate starts within +- this
MAX_STEPS = 500


class AcrobotState(NamedTuple):
    """Physical state and age of an episode.

    Attributes:
        physics: float32 [4]: angle of the first link from hanging, of the second from the first (rad, both within
            [-pi, pi)), and their speeds (rad/s).
        steps: int32 [], steps played.
    """

    physics: jax.Array
    steps: jax.Array


class Acrobot:
    """Swing the tip of two links above a line by a torque of -1 (action 0), 0 (1) or 1 N m (2) at the joint between.

    Reward -1 for every step but the last. Terminated when the tip is one length above the upper joint; truncated after
    500 steps. The observation is (cos, sin of the first angle, cos, sin of the second, both speeds), float32 [6].
    """

    spec = Spec("Acrobot-v1", (6,), "float32", Discrete(3), MAX_STEPS)

    def reset(self, key: jax.Array) -> tuple[AcrobotState, jax.Array]:
        """Start an episode from a typed key []: each coordinate uniform in +-0.1."""
        physics = jax.random.uniform(key, (4,), jnp.float32, -START_RANGE, START_RANGE)
        return AcrobotState(physics, jnp.zeros((), jnp.int32)), _observe(physics)

    def state_of(self, host: Any) -> AcrobotState:
        """The state in which Gymnasium's Acrobot-v1 is now."""
        played = host.get_wrapper_attr("_elapsed_steps")
        return AcrobotState(jnp.asarray(host.unwrapped.state, jnp.float32), jnp.int32(played))

    def step(self, state: AcrobotState, action: jax.Array) -> tuple[AcrobotState, TimeStep]:
        """Advance by 0.2 s (one Runge-Kutta step of fourth order); `action` int32 [] is 0, 1 or 2."""
        torque, physics = action - 1.0, state.physics
        first = _rates(physics, torque)
        second = _rates(physics + TIME_STEP / 2 * first, torque)
        third = _rates(physics + TIME_STEP / 2 * second, torque)
        fourth = _rates(physics + TIME_STEP * third, torque)
        physics = physics + TIME_STEP / 6 * (first + 2 * second + 2 * third + fourth)
        angles = wrap(physics[:2])
        limit = jnp.array(MAX_SPEEDS)
        physics = jnp.concatenate([angles, jnp.clip(physics[2:], -limit, limit)])
        arrived = -jnp.cos(angles[0]) - jnp.cos(angles[0] + angles[1]) > 1.0
        steps = state.steps + 1
        step = TimeStep(_observe(physics), jnp.where(arrived, 0.0, -1.0), arrived, steps >= MAX_STEPS)
        return AcrobotState(physics, steps), step


def _rates(physics: jax.Array, torque: jax.Array) -> jax.Array:
    """Speeds and accelerations [4] of both joints under a torque (N m) at the second."""
    angle_1, angle_2, speed_1, speed_2 = physics
    coupling = MASS * LENGTH * CENTRE
    d_1 = MASS * (2 * CENTRE**2 + LENGTH**2) + 2 * coupling * jnp.cos(angle_2) + 2 * INERTIA
    d_2 = MASS * CENTRE**2 + coupling * jnp.cos(angle_2) + INERTIA
    phi_2 = MASS * CENTRE * GRAVITY * jnp.sin(angle_1 + angle_2)
    phi_1 = -coupling * jnp.sin(angle_2) * speed_2 * (speed_2 + 2 * speed_1)
    phi_1 += MASS * (CENTRE + LENGTH) * GRAVITY * jnp.sin(angle_1) + phi_2
    pull = torque + d_2 / d_1 * phi_1 - coupling * speed_1**2 * jnp.sin(angle_2) - phi_2
    turn_2 = pull / (MASS * CENTRE**2 + INERTIA - d_2**2 / d_1)
    return jnp.stack([speed_1, speed_2, -(d_2 * turn_2 + phi_1) / d_1, turn_2])


def _observe(physics: jax.Array) -> jax.Array:
    """Observation float32 [6]."""
    angle_1, angle_2, speed_1, speed_2 = physics
    return jnp.stack([jnp.cos(angle_1), jnp.sin(angle_1), jnp.cos(angle_2), jnp.sin(angle_2), speed_1, speed_2])
