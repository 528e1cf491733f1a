"""An omnidirectional robot drives to a target under a camera on the ceiling: OmnirobotEnv-v0. NumPy only."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs import omnirobot_arena as arena
from envs.host.goal_env import GoalEnv, chosen_positions, displacement
from envs.mobile_arena import check_options
from envs.render.omnirobot_scene import ROBOT, TARGET, OmniRobotRenderer, Patch

DISCRETE_MOVES = np.array(arena.DISCRETE_MOVES, np.float32)
STEP_LENGTH = np.float32(arena.STEP_LENGTH)
POSITION_BOUND = np.float32(arena.POSITION_BOUND)
REACH = np.float32(arena.REWARD_DISTANCE)


class OmniRobotEnv(GoalEnv):
    """Drive to a target: reward 1 for each step within 0.2 m of it; episodes are truncated after 251 steps.

    The simulator of a real robot, which goes where it is told, but not quite: its position and heading are those of the
    command and noise, drawn anew after every move. Where the command says how far it has come, the position decides
    whether a move is allowed: one whose end lies 0.85 m or more from the middle along an axis is not made. An episode
    is never terminated.

    Actions, in metres: discrete, 4: +x, -x, +y, -y, each 0.1; continuous, Box(-1, 1, 2) * 0.1, clipped to the box.

    Reward: 1 nearer than 0.2 m to the target, else -1 when a move was not made, else 0. With `shape_reward`, always
    -distance.

    A picture is what a camera 2.9 m above the floor sees (`envs.render.omnirobot_scene`), with noise on the pixels of
    the markers, on their size, and on light and tint of the whole.

    Positions are kept in float32, and sums and comparisons made in it, so that the JAX twin (`envs.device.omnirobot`)
    makes the same decisions at every threshold.

    Args:
        srl_model: "ground_truth" (robot position relative to the target, 2) or "raw_pixels".
        is_discrete: Discrete or continuous actions.
        random_target: Place the target at random at each reset, x and y in [-0.7, 0.7], turned at random; otherwise it
            is at (0.5, -0.3).
        shape_reward: Dense reward.
        action_repeat: Only 1: the robot moves once per step.
        image_size: Width and height of pictures in pixels.
        noise: Whether there is any noise; without, what happens is fixed by the start and the actions.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: an `action_repeat` other than 1, or what `GoalEnv` refuses.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}  # type: ignore[misc]
    srl_models: ClassVar[tuple[str, ...]] = arena.SRL_MODELS
    MAX_STEPS = arena.MAX_STEPS

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        random_target: bool = False,
        shape_reward: bool = False,
        action_repeat: int = 1,
        image_size: int = 224,
        noise: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_options(srl_model, action_repeat, image_size, arena.SRL_MODELS)
        super().__init__(srl_model=srl_model, is_discrete=is_discrete, image_size=image_size, render_mode=render_mode)
        self.random_target = random_target
        self.shape_reward = shape_reward
        self.noise = noise
        self.action_space: gym.spaces.Space[Any]
        if is_discrete:
            self.action_space = gym.spaces.Discrete(len(DISCRETE_MOVES))
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.max_episode_steps = self.MAX_STEPS + 1
        self._renderer: OmniRobotRenderer | None = None
        self._steps: int | None = None

    def getTargetPos(self) -> np.ndarray:
        """Position of the target [m], float32 [2]."""
        self._require_reset()
        return self._target_position.copy()

    def getGroundTruth(self) -> np.ndarray:
        """Position of the robot [m], float32 [2]; not the one that it was told, but the one that it has."""
        self._require_reset()
        return self._robot_position.copy()

    def getGroundTruthDim(self) -> int:
        """2: x, y."""
        return 2

    def situation(self) -> dict[str, Any]:
        """All that the rest of the episode depends on but noise to come, named as in the twin's state."""
        return {
            "command": self._command.copy(),
            "robot": self._robot_position.copy(),
            "robot_pose": self._robot_pose.copy(),
            "target": self._target_position.copy(),
            "target_pose": self._target_pose.copy(),
            "steps": np.int32(self._require_reset()),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode.

        Args:
            seed: Seed of this and the following episodes; the same seed gives the same episode.
            options: "robot" and "target", positions [x, y] in metres, put these there instead of where the draw put
                them; the robot's is the commanded one.

        Returns:
            The first observation and an empty dict.

        Raises:
            ValueError: an unknown option, or a position that is not two finite numbers.
        """
        super().reset(seed=seed, options=options)
        chosen = chosen_positions(options or {}, {"robot": (2,), "target": (2,)})
        robot = self.np_random.uniform(-arena.START_BOUND, arena.START_BOUND, 2).astype(np.float32)
        target, yaw = np.array(arena.TARGET_POSITION, np.float32), arena.TARGET_YAW
        if self.random_target:
            target = self.np_random.uniform(-arena.TARGET_BOUND, arena.TARGET_BOUND, 2).astype(np.float32)
            yaw = self.np_random.uniform(-np.pi, np.pi)
        sizes = 1.0 + arena.MARKER_SIZE_NOISE * self.np_random.standard_normal(2) if self.noise else np.ones(2)
        # Pictures have a seed of their own: whether they are drawn does not change what happens.
        self._picture_seed = int(self.np_random.integers(2**62))
        self._target_position = chosen.get("target", target)
        self._target_pose = np.array((yaw, sizes[1]), np.float32)
        self._robot_pose = np.array((0.0, sizes[0]), np.float32)
        self._steps = 0
        self._arrive(chosen.get("robot", robot))
        self._target_patch: Patch | None = None
        self._drawn: tuple[int, np.ndarray] | None = None
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move once.

        Args:
            action: An integer below 4, or an array [2].

        Returns:
            Observation, reward, terminated (never), truncated (the time limit cut the episode), and an empty dict.

        Raises:
            ValueError: an action that is not of the action space's shape or range of integers.
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        self._steps = steps = self._require_reset() + 1
        move = displacement(action, self.is_discrete, DISCRETE_MOVES, STEP_LENGTH)
        free = np.abs(self._robot_position + move) < POSITION_BOUND
        if self.is_discrete:
            free |= move == 0  # only the coordinate that changes counts
        bumped = not free.all()
        if not bumped:
            self._arrive(self._command + move)
        return self._observe(), self._reward(bumped), False, steps > self.MAX_STEPS, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The camera's picture, uint8 [image_size, image_size, 3], in mode "rgb_array"; None otherwise.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        return self._picture() if self.render_mode == "rgb_array" else None

    def _require_reset(self) -> int:
        """Steps played of the episode."""
        if self._steps is None:
            raise gym.error.ResetNeeded("call reset() first: there is no episode yet")
        return self._steps

    def _arrive(self, command: np.ndarray) -> None:
        """Tell the robot where to be, and let it get about there."""
        self._command = self._robot_position = command
        if self.noise:
            noise = self.np_random.standard_normal(3, np.float32)
            self._robot_position = command + np.float32(arena.POSITION_NOISE) * noise[:2]
            self._robot_pose[0] = arena.YAW_NOISE * noise[2]

    def _reward(self, bumped: bool) -> float:
        """Reward of the step just made."""
        across, along = self._robot_position - self._target_position
        squared = across * across + along * along
        if self.shape_reward:
            return -float(np.sqrt(squared))
        if squared < REACH * REACH:
            return 1.0
        return -1.0 if bumped else 0.0

    def _picture(self) -> np.ndarray:
        """The picture of this step; drawn once, however often it is asked for."""
        steps = self._require_reset()
        if self._drawn is None or self._drawn[0] != steps:
            self._drawn = (steps, self._draw(steps))
        return self._drawn[1].copy()

    def _draw(self, steps: int) -> np.ndarray:
        if self._renderer is None:
            self._renderer = OmniRobotRenderer(self.image_size)
        if self._target_patch is None:  # the target's marker is drawn once in an episode
            noise = self._pixel_noise(np.random.default_rng(self._picture_seed), TARGET.rgb.shape)
            self._target_patch = self._renderer.target_patch(self._target_position, self._target_pose, noise)
        random = np.random.default_rng((self._picture_seed, steps))
        noise = self._pixel_noise(random, ROBOT.rgb.shape)
        colour = random.standard_normal(3, np.float32) if self.noise else None
        return self._renderer.picture(self._target_patch, self._robot_position, self._robot_pose, noise, colour)

    def _pixel_noise(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray | None:
        """Noise of a marker's pixels: whole numbers of mean 0; None without noise."""
        if not self.noise:
            return None
        return np.round(random.standard_normal(shape, np.float32) * np.float32(arena.MARKER_PIXEL_NOISE))
