"""The Omnirobot in JAX: the twin of `envs.host.omnirobot`, state for state and picture for picture."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from envs import omnirobot_arena as arena
from envs.device.moves import displacement, squared_norm
from envs.types import Box, Discrete, Spec, TimeStep


class OmniRobotState(NamedTuple):
    """State of an episode; build one directly to start from a chosen situation.

    Attributes:
        command: float32 [2], where the robot was told to be, x and y (m).
        robot: float32 [2], where it is (m): `command` and noise.
        robot_pose: float32 [2], heading (rad) and relative size of its marker.
        target: float32 [2], x and y of the target (m).
        target_pose: float32 [2], as `robot_pose`.
        steps: int32 [], steps played.
        key: Typed key [], fixes the noise of the whole episode; constant.
    """

    command: jax.Array
    robot: jax.Array
    robot_pose: jax.Array
    target: jax.Array
    target_pose: jax.Array
    steps: jax.Array
    key: jax.Array
