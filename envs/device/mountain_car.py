"""MountainCar-v0 and MountainCarContinuous-v0 in JAX: the tasks of Gymnasium 1.4, state for state.

Source: Moore (1990), "Efficient memory-based learning for robot control", as kept by Gymnasium.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.types import Box, Discrete, Spec, TimeStep

GRAVITY = 0.0025  # gain of speed in a step on the steepest slope
PUSH, PUSH_CONTINUOUS = 0.001, 0.0015  # gain of speed in a step by a full push
MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07
MAX_STEPS, MAX_STEPS_CONTINUOUS = 200, 999
START = (-0.6, -0.4)  # an episode starts at rest between these


class MountainCarState(NamedTuple):
    """Physical state and age of an episode.

    Attributes:
        position: float32 [], along the valley.
        speed: float32 [], positions a step.
        steps: int32 [], steps played.
    """

    position: jax.Array
    speed: jax.Array
    steps: jax.Array


class _Valley:
    """What both tasks share: a valley in the shape of a sine, and a car too weak to climb out of it at once."""

    _GOAL: float  # the position to reach

    def reset(self, key: jax.Array) -> tuple[MountainCarState, jax.Array]:
        """Start an episode from a typed key []: at rest, position uniform in [-0.6, -0.4)."""
        position = jax.random.uniform(key, (), jnp.float32, *START)
        state = MountainCarState(position, jnp.zeros(()), jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def state_of(self, host: Any) -> MountainCarState:
        """The state in which Gymnasium's environment is now."""
        position, speed = jnp.asarray(host.unwrapped.state, jnp.float32)
        return MountainCarState(position, speed, jnp.int32(host.get_wrapper_attr("_elapsed_steps")))

    def _drive(self, state: MountainCarState, push: jax.Array) -> tuple[MountainCarState, jax.Array]:
        """One step later under a push (gain of speed), and whether the goal is reached."""
        speed = state.speed + push - GRAVITY * jnp.cos(3 * state.position)
        speed = jnp.clip(speed, -MAX_SPEED, MAX_SPEED)
        position = jnp.clip(state.position + speed, MIN_POSITION, MAX_POSITION)
        speed = jnp.where((position <= MIN_POSITION) & (speed < 0), 0.0, speed)
        return MountainCarState(position, speed, state.steps + 1), (position >= self._GOAL) & (speed >= 0)


class MountainCar(_Valley):
    """Drive out of a valley by pushing left (action 0), not at all (1) or right (2).

    Reward -1 for every step. Terminated at position 0.5, truncated after 200 steps. The observation is (position,
    speed), float32 [2].
    """

    spec = Spec("MountainCar-v0", (2,), "float32", Discrete(3), MAX_STEPS)
    _GOAL = 0.5

    def step(self, state: MountainCarState, action: jax.Array) -> tuple[MountainCarState, TimeStep]:
        """Advance by one step; `action` int32 [] is 0, 1 or 2."""
        state, arrived = self._drive(state, PUSH * (action - 1))
        return state, TimeStep(_observe(state), -jnp.ones(()), arrived, state.steps >= MAX_STEPS)


class MountainCarContinuous(_Valley):
    """Drive out of a valley with a force between -1 and 1.

    Reward 100 at the goal, less 0.1 force^2 for every step. Terminated at position 0.45, truncated after 999 steps. The
    observation is (position, speed), float32 [2].
    """

    spec = Spec("MountainCarContinuous-v0", (2,), "float32", Box((-1.0,), (1.0,)), MAX_STEPS_CONTINUOUS)
    _GOAL = 0.45

    def step(self, state: MountainCarState, action: jax.Array) -> tuple[MountainCarState, TimeStep]:
        """Advance by one step; `action` float32 [1] is the force, clipped to +-1, paid for as it is."""
        state, arrived = self._drive(state, PUSH_CONTINUOUS * jnp.clip(action[0], -1.0, 1.0))
        reward = jnp.where(arrived, 100.0, 0.0) - 0.1 * action[0] ** 2
        return state, TimeStep(_observe(state), reward, arrived, state.steps >= MAX_STEPS_CONTINUOUS)


def _observe(state: MountainCarState) -> jax.Array:
    """Observation float32 [2]."""
    return jnp.stack([state.position, state.speed])
