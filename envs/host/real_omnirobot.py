"""The real Omnirobot: OmnirobotEnv-v0 with `--real-robot`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs.host.robot_client import Reading
from envs.host.robot_env import RobotEnv

MAX_STEPS = 250
STEP_LENGTH = 0.1  # m
N_ACTIONS = 4


class RealOmniRobotEnv(RobotEnv):
    """Drive to a target: the server pays 1 near the target, -1 for a move out of the arena, else 0.

    Spaces, rewards and time limit of the simulated robot. Actions, in metres: discrete, 4: +x, -x, +y, -y, each 0.1;
    continuous, Box(-1, 1, 2) * 0.1, clipped to the box. Episodes are truncated after 251 steps, never terminated.

    At a reset the server asks a person to place the target, and goes on when it sees it within reach.

    Args:
        real_robot: "HOST:PORT" of the robot's server.
        srl_model: "ground_truth" (robot position relative to the target, 2) or "raw_pixels".
        is_discrete: Discrete or continuous actions.
        image_size: Width and height of pictures in pixels.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: what `RobotEnv` refuses.
    """

    MAX_STEPS: ClassVar[int] = MAX_STEPS
    POSITION_SIZE: ClassVar[int] = 2
    TARGET_FIELD: ClassVar[str] = "target_pos"

    def __init__(
        self,
        *,
        real_robot: str,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        image_size: int = 224,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            real_robot=real_robot,
            srl_model=srl_model,
            is_discrete=is_discrete,
            image_size=image_size,
            relative_pos=True,
            render_mode=render_mode,
        )
        self.action_space: gym.spaces.Space[Any]
        if is_discrete:
            self.action_space = gym.spaces.Discrete(N_ACTIONS)
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _command(self, action: Any) -> int | list[float]:
        if self.is_discrete:
            return self._index(action)
        return [STEP_LENGTH * part for part in self._vector(action).tolist()]

    def _more(self) -> dict[str, Any]:
        return {"is_discrete": self.is_discrete}

    def _outcome(self, reading: Reading) -> tuple[float, bool]:
        return reading.reward, False
