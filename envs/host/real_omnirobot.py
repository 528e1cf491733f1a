"""The real Omnirobot: OmnirobotEnv-v0 with `--real-robot`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from envs import omnirobot_arena as arena
from envs.host.robot_client import Reading
from envs.host.robot_env import RobotEnv


class RealOmniRobotEnv(RobotEnv):
    """Drive to a target: the server pays 1 within 0.2 m of the target, -1 for a move out of the arena, else 0.

    Spaces, rewards and time limit of the simulated robot. Actions, in metres: discrete, 4: +x, -x, +y, -y, each 0.1;
    continuous, Box(-1, 1, 2) * 0.1, clipped to the box. With `shape_reward`, the reward is always -distance to the
    target. Episodes are truncated after 251 steps, never terminated.

    At a reset the server asks a person to place the target, and goes on when it sees it within reach.

    Args:
        real_robot: "HOST:PORT" of the robot's server.
        srl_model: "ground_truth" (robot position relative to the target, 2) or "raw_pixels".
        is_discrete: Discrete or continuous actions.
        shape_reward: Dense reward.
        image_size: Width and height of pictures in pixels.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: what `RobotEnv` refuses.
    """

    MAX_STEPS: ClassVar[int] = arena.MAX_STEPS
    N_ACTIONS: ClassVar[int] = len(arena.DISCRETE_MOVES)
    POSITION_SIZE: ClassVar[int] = 2
    TARGET_FIELD: ClassVar[str] = "target_pos"

    def _command(self, action: Any) -> int | list[float]:
        if self.is_discrete:
            return self._index(action)
        return [arena.STEP_LENGTH * part for part in self._vector(action).tolist()]

    def _more(self) -> dict[str, Any]:
        return {"is_discrete": self.is_discrete}

    def _outcome(self, reading: Reading) -> tuple[float, bool]:
        distance = float(np.linalg.norm(reading.position - reading.target))
        return -distance if self.shape_reward else reading.reward, False
