"""A real Baxter presses a button with its left arm: Baxter-v0."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from envs.host.robot_client import Reading
from envs.host.robot_env import RobotEnv

# x, y, z of each discrete action; there is none upwards.
DISCRETE_MOVES = ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))


class BaxterEnv(RobotEnv):
    """Move the hand down on a button: the server pays 1 for a step that touches it; the second touch ends the task.

    Actions, displacements of the hand in metres: discrete, 5: -x, +x, -y, +y, -z, each 0.02; continuous,
    Box(-1, 1, 3) * 0.02, clipped to the box.

    Reward: the server's, or -1 in a step that ends farther than 0.18 m from the button, or more than 0.01 m below the
    table, which ends the task as well. With `shape_reward`, always -distance to the button.

    The constants are those of the real robot; the original's with its settings as shipped were all zero. Episodes are
    truncated after 101 steps.

    Args:
        real_robot: "HOST:PORT" of the robot's server.
        srl_model: "ground_truth" (hand relative to the button, 3) or "raw_pixels".
        is_discrete: Discrete or continuous actions.
        shape_reward: Dense reward.
        image_size: Width and height of pictures in pixels.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: what `RobotEnv` refuses.
    """

    MAX_STEPS: ClassVar[int] = 100
    DELTA_POS: ClassVar[float] = 0.02  # m
    Z_TABLE: ClassVar[float] = -0.10  # m
    TABLE_MARGIN: ClassVar[float] = 0.01  # m
    MAX_DISTANCE: ClassVar[float] = 0.18  # m
    N_CONTACTS_BEFORE_TERMINATION: ClassVar[int] = 2
    N_ACTIONS: ClassVar[int] = len(DISCRETE_MOVES)
    POSITION_SIZE: ClassVar[int] = 3
    TARGET_FIELD: ClassVar[str] = "button_pos"

    def _begin_episode(self) -> None:
        self._contacts = 0.0

    def _command(self, action: Any) -> list[float]:
        direction = DISCRETE_MOVES[self._index(action)] if self.is_discrete else self._vector(action).tolist()
        return [self.DELTA_POS * part for part in direction]

    def _outcome(self, reading: Reading) -> tuple[float, bool]:
        distance = float(np.linalg.norm(reading.position - reading.target))
        in_table = bool(reading.position[2] < self.Z_TABLE - self.TABLE_MARGIN)
        self._contacts += reading.reward
        reward = -1.0 if in_table or distance > self.MAX_DISTANCE else reading.reward
        terminated = in_table or self._contacts >= self.N_CONTACTS_BEFORE_TERMINATION
        return -distance if self.shape_reward else reward, terminated
