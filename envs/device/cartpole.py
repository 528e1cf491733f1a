"""CartPole-v1 in JAX: the task of Gymnasium 1.4, state for state.

Source: Barto, Sutton and Anderson (1983), "Neuronlike adaptive elements that can solve difficult learning control
problems"; equations of motion after Florian (2007), "Correct equations for the dynamics of the cart-pole system".
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.types import Discrete, Spec, TimeStep

GRAVITY = 9.8  # m/s^2
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
TOTAL_MASS = CART_MASS + POLE_MASS
HALF_LENGTH = 0.5  # m, from the joint to the middle of the pole
FORCE = 10.0  # N
TIME_STEP = 0.02  # s
MAX_ANGLE = 12 * 2 * math.pi / 360  # rad
MAX_POSITION = 2.4  # m
START_RANGE = 0.05  # every coordinate starts within +- this
MAX_STEPS = 500


class CartPoleState(NamedTuple):
    """Physical state and age of an episode.

    Attributes:
        physics: float32 [4]: position (m), velocity (m/s), angle (rad), angular velocity (rad/s).
        steps: int32 [], steps played.
    """

    physics: jax.Array
    steps: jax.Array


class CartPole:
    """Balance a pole on a cart that is pushed left (action 0) or right (action 1) with a constant force.

    Reward 1 for every step. Terminated when the cart leaves +-2.4 m or the pole +-12 degrees; truncated after 500
    steps. The observation is the physical state, float32 [4].
    """

    spec = Spec("CartPole-v1", (4,), "float32", Discrete(2), MAX_STEPS)

    def reset(self, key: jax.Array) -> tuple[CartPoleState, jax.Array]:
        """Start an episode from a typed key []: each coordinate uniform in +-0.05."""
        physics = jax.random.uniform(key, (4,), jnp.float32, -START_RANGE, START_RANGE)
        return CartPoleState(physics, jnp.zeros((), jnp.int32)), physics

    def state_of(self, host: Any) -> CartPoleState:
        """The state in which Gymnasium's CartPole-v1 is now."""
        played = host.get_wrapper_attr("_elapsed_steps")
        return CartPoleState(jnp.asarray(host.unwrapped.state, jnp.float32), jnp.int32(played))

    def step(self, state: CartPoleState, action: jax.Array) -> tuple[CartPoleState, TimeStep]:
        """Advance by 0.02 s (explicit Euler); `action` int32 [] is 0 or 1."""
        physics = _advance(state.physics, jnp.where(action == 1, FORCE, -FORCE))
        steps = state.steps + 1
        terminated = (jnp.abs(physics[0]) > MAX_POSITION) | (jnp.abs(physics[2]) > MAX_ANGLE)
        step = TimeStep(physics, jnp.ones((), jnp.float32), terminated, steps >= MAX_STEPS)
        return CartPoleState(physics, steps), step


def _advance(physics: jax.Array, force: jax.Array) -> jax.Array:
    """Physical state [4] one time step later under a horizontal force (N) on the cart."""
    position, velocity, angle, spin = physics
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (force + POLE_MASS * HALF_LENGTH * spin**2 * sin) / TOTAL_MASS
    turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / TOTAL_MASS))
    pull = push - POLE_MASS * HALF_LENGTH * turn * cos / TOTAL_MASS
    return jnp.stack(
        [
            position + TIME_STEP * velocity,
            velocity + TIME_STEP * pull,
            angle + TIME_STEP * spin,
            spin + TIME_STEP * turn,
        ]
    )
