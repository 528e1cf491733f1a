"""Base of the environments that are real robots: one episode at a time over one connection."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs.host.goal_env import GoalEnv
from envs.host.resize import resize_area
from envs.host.robot_client import DEFAULT_ADDRESS, Reading, RobotClient, RobotError, Timeouts

RENDER_FPS = 1  # pictures come at the robot's pace


class RobotEnv(GoalEnv):
    """A robot that a server moves and observes; the first `reset` connects, `close` tells the server to exit.

    There is one robot, so one environment at a time. A subclass sets the class attributes, and says what an action is
    on the wire (`_command`) and what a step is worth (`_outcome`). Continuous actions are Box(-1, 1, POSITION_SIZE).

    Args:
        real_robot: "HOST:PORT" of the server.
        srl_model: "ground_truth" or "raw_pixels", the server's picture resized by area.
        is_discrete: Discrete or continuous actions.
        shape_reward: Dense reward.
        image_size: Width and height of pictures in pixels.
        render_mode: None or "rgb_array", the newest picture of the server.

    Raises:
        ValueError: `real_robot` is not an address, or what `GoalEnv` refuses.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # type: ignore[misc]
    MAX_STEPS: ClassVar[int]
    N_ACTIONS: ClassVar[int]  # discrete ones
    POSITION_SIZE: ClassVar[int]
    RELATIVE_POS: ClassVar[bool] = True  # whether the `ground_truth` state is relative to the target
    TARGET_FIELD: ClassVar[str]  # of the server's state
    TIMEOUTS: ClassVar[Timeouts] = Timeouts()

    def __init__(
        self,
        *,
        real_robot: str = DEFAULT_ADDRESS,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        shape_reward: bool = False,
        image_size: int = 224,
        render_mode: str | None = None,
    ) -> None:
        self._robot = RobotClient(real_robot, self.POSITION_SIZE, self.TARGET_FIELD, self.TIMEOUTS)
        self._newest: Reading | None = None
        super().__init__(
            srl_model=srl_model,
            is_discrete=is_discrete,
            image_size=image_size,
            relative_pos=self.RELATIVE_POS,
            render_mode=render_mode,
        )
        self.shape_reward = shape_reward
        self.action_space: gym.spaces.Space[Any]
        if is_discrete:
            self.action_space = gym.spaces.Discrete(self.N_ACTIONS)
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (self.POSITION_SIZE,), np.float32)
        self.max_episode_steps = self.MAX_STEPS + 1
        self._address = real_robot

    def getTargetPos(self) -> np.ndarray:
        """Position of the target as the server tells it, float32 [getGroundTruthDim()]."""
        return self._reading().target.copy()

    def getGroundTruth(self) -> np.ndarray:
        """Position of the robot as the server tells it, float32 [getGroundTruthDim()]."""
        return self._reading().position.copy()

    def getGroundTruthDim(self) -> int:
        """Number of components of a position."""
        return self.POSITION_SIZE

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode: the server brings the robot to its start, or has a person do it.

        Args:
            seed: Of the environment's random numbers, of which a real robot needs none.
            options: None are known.

        Returns:
            The first observation and an empty dict.

        Raises:
            RobotError: The server is absent, silent, slow or not to be understood.
            ValueError: An option was given.
        """
        super().reset(seed=seed, options=options)
        if options:
            raise ValueError(f"unknown reset option {next(iter(options))!r}: a real robot has none")
        self._newest = None  # a failed reset leaves nothing to step from
        self._newest = self._robot.reset()
        self._steps = 0
        self._begin_episode()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Have the robot carry out an action.

        Args:
            action: An integer, or an array of the action space's shape, clipped to its bounds.

        Returns:
            Observation, reward, terminated (the task ended), truncated (the time limit cut the episode), an empty dict.

        Raises:
            RobotError: As in `reset`.
            ValueError: An action that the robot does not have; nothing is sent.
            gymnasium.error.ResetNeeded: before the first `reset`, and after a failure.
        """
        self._reading()
        command, more = self._command(action), self._more()
        self._newest = None
        self._newest = reading = self._robot.act(command, **more)
        self._steps += 1
        reward, terminated = self._outcome(reading)
        return self._observe(), reward, terminated, self._steps > self.MAX_STEPS, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The server's newest picture, uint8 [image_size, image_size, 3], in mode "rgb_array"; None otherwise.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
            RobotError: The server sends no pictures.
        """
        return self._picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Tell the server to exit; a later `reset` connects again. May be called more than once."""
        self._newest = None
        self._robot.close()

    @abstractmethod
    def _command(self, action: Any) -> int | list[float]:
        """An action as it is sent; ValueError for one that the robot does not have."""

    @abstractmethod
    def _outcome(self, reading: Reading) -> tuple[float, bool]:
        """Reward of the step that led to a reading, and whether it ended the task."""

    def _begin_episode(self) -> None:
        """Forget what the last episode counted."""

    def _more(self) -> dict[str, Any]:
        """What the command of an action says besides it."""
        return {}

    def _picture(self) -> np.ndarray:
        picture = self._reading().picture
        if picture is None:
            self.close()
            raise RobotError(f"robot server {self._address}: it sends no pictures, ground_truth works without")
        return resize_area(picture, self.image_size)

    def _reading(self) -> Reading:
        """The server's newest answer."""
        if self._newest is None:
            raise gym.error.ResetNeeded("call reset() first: there is no answer of the robot's server yet")
        return self._newest

    def _index(self, action: Any) -> int:
        """A discrete action as an integer of the action space."""
        space = self.action_space
        assert isinstance(space, gym.spaces.Discrete)
        if not space.contains(action):
            raise ValueError(f"action {action} is not an integer from 0 to {space.n - 1}")
        return int(action)

    def _vector(self, action: Any) -> np.ndarray:
        """A continuous action, float32, clipped to the action space."""
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        action = np.asarray(action, dtype=np.float32)
        if action.shape != space.shape or not np.isfinite(action).all():
            raise ValueError(f"action {action.tolist()} is not {space.shape[0]} finite numbers")
        return np.clip(action, space.low, space.high)
