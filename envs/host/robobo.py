"""A real Robobo drives to a coloured target on a grid: RoboboGymEnv-v0."""

from __future__ import annotations

from typing import Any, ClassVar

from envs.host.robot_client import DEFAULT_ADDRESS, Reading
from envs.host.robot_env import RobotEnv


class RoboboEnv(RobotEnv):
    """Drive to a target: the server pays 1 where the target fills its picture and -1 for a move off the grid.

    Actions: 0 forward (+y), 1 backward (-y), 2 left (-x), 3 right (+x), one cell of the grid each. The server carries
    out no others, so there are no continuous actions. Episodes are truncated after 21 steps and never terminated.

    The server does not drive the robot back at a reset: the grid position goes on from one episode to the next.

    Args:
        real_robot: "HOST:PORT" of the robot's server.
        srl_model: "ground_truth" (cell of the grid, 2; not relative to the target, which is known in pixels only) or
            "raw_pixels".
        image_size: Width and height of pictures in pixels.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: what `RobotEnv` refuses.
    """

    MAX_STEPS: ClassVar[int] = 20
    N_ACTIONS: ClassVar[int] = 4  # the fifth of the wire protocol, stop, is no action of the task
    POSITION_SIZE: ClassVar[int] = 2
    RELATIVE_POS: ClassVar[bool] = False
    TARGET_FIELD: ClassVar[str] = "target_pos"

    def __init__(
        self,
        *,
        real_robot: str = DEFAULT_ADDRESS,
        srl_model: str = "ground_truth",
        image_size: int = 224,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(real_robot=real_robot, srl_model=srl_model, image_size=image_size, render_mode=render_mode)

    def _command(self, action: Any) -> int:
        return self._index(action)

    def _outcome(self, reading: Reading) -> tuple[float, bool]:
        return reading.reward, False
