"""The controllers of `envs.scripted` for the twins; they read the true positions out of the state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from envs import kuka_scene, mobile_arena, omnirobot_arena, scripted
from envs.device.kuka_button import KukaButtonTwin, KukaState
from envs.device.mobile_robot import MobileRobotTwin
from envs.device.omnirobot import OmniRobotTwin
from envs.types import Discrete

Controller = Callable[[Any], jax.Array]


def controller_for(twin: Any) -> Controller:
    """The scripted controller of a twin and its kind of actions: (state) -> action.

    Raises:
        ValueError: no controller is written for it.
    """
    discrete = isinstance(twin.spec.action, Discrete)
    if isinstance(twin, KukaButtonTwin):
        if twin.spec.action_shape not in ((), (3,)):
            raise ValueError("the arm's twin has no scripted controller of joints: use --simulator=pybullet")
        return partial(_kuka, twin, discrete)
    if isinstance(twin, MobileRobotTwin):
        axes = twin.NUM_AXES
        moves = [move[:axes] for move in mobile_arena.DISCRETE_MOVES[: 2 * axes]]
        low, high = mobile_arena.POSITION_LOW[:axes], mobile_arena.POSITION_HIGH[:axes]
        return partial(_wheels, twin, discrete, moves, low, high, mobile_arena.STEP_LENGTH)
    if isinstance(twin, OmniRobotTwin):
        bound = (omnirobot_arena.POSITION_BOUND,) * 2
        low = tuple(-side for side in bound)
        return partial(_wheels, twin, discrete, omnirobot_arena.DISCRETE_MOVES, low, bound, omnirobot_arena.STEP_LENGTH)
    raise ValueError(f"{twin.spec.id} has no scripted controller: choose an arm, mobile-robot or Omnirobot task")


def _wheels(twin: Any, discrete: bool, moves: Any, low: Any, high: Any, step: float, state: Any) -> jax.Array:
    """A robot on wheels."""
    position, target = twin.ground_truth(state), twin.target(state)
    low, high = jnp.array(low, jnp.float32), jnp.array(high, jnp.float32)
    if discrete:
        moves = jnp.array(moves, jnp.float32)
        return scripted.nearest_move(position, target, moves, low, high, jnp).astype(jnp.int32)
    return scripted.straight_move(position, target, low, high, step, jnp)


def _kuka(twin: KukaButtonTwin, discrete: bool, state: KukaState) -> jax.Array:
    """The arm, by its commanded point."""
    point = state.arm.point
    goal = scripted.effector_goal(
        twin.ground_truth(state), twin.target(state), point, state.speed, twin.force_down, jnp
    )
    if discrete:
        return scripted.axis_move(goal - point, jnp).astype(jnp.int32)
    return jnp.clip((goal - point) / kuka_scene.DELTA_V_CONTINUOUS, -1.0, 1.0)
