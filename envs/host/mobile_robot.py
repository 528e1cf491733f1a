"""A wheeled robot drives to a target in a walled arena: MobileRobotGymEnv-v0 and its variants (PyBullet)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pybullet as p

from envs import mobile_arena as arena
from envs.host.goal_env import chosen_positions, displacement
from envs.host.srl_env import Camera, SRLGymEnv

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HEADING_X = (0.0, 0.0, 0.0, 1.0)
DISCRETE_MOVES = np.array(arena.DISCRETE_MOVES, np.float32)
POSITION_LOW = np.array(arena.POSITION_LOW, np.float32)
POSITION_HIGH = np.array(arena.POSITION_HIGH, np.float32)
STEP_LENGTH = np.float32(arena.STEP_LENGTH)
YELLOW, RED = (1.0, 1.0, 0.0, 1.0), (0.8, 0.0, 0.0, 1.0)


def _camera_above(x: float, y: float) -> Camera:
    """A camera that looks straight down on a point of the floor."""
    return Camera(target=(x, y, 0.0), distance=arena.CAMERA_HEIGHT, yaw=90.0, pitch=-90.0, fov=arena.CAMERA_FOV)


class MobileRobotGymEnv(SRLGymEnv):
    """Drive to a target: reward 1 for each step within 0.4 m of it; episodes are truncated after 251 steps.

    The robot (`racecar` of pybullet_data) always heads towards +x and moves by being placed: a move that would bring
    its outline within 0.1 m of a wall is undone. An episode is never terminated.

    Actions, in metres: discrete, 4: -x, +x, -y, +y, each 0.1; continuous, Box(-1, 1, 2) * 0.1, clipped to the box.

    Reward: -1 when a move was undone, else 1 within reach of the target, else 0. With `shape_reward`, always
    -distance.

    Positions are kept in float32, and sums and comparisons made in it, so that the JAX twin
    (`envs.device.mobile_robot`) makes the same decisions at every threshold. Bodies do not collide in the simulation:
    nothing depends on their contacts, and those of the wheels with the floor would cost 95 % of a step.

    Args:
        srl_model: "ground_truth" (robot position relative to the target, 2), "raw_pixels" or "scene_poses".
        is_discrete: Discrete or continuous actions.
        random_target: Place the target at random at each reset, x and y in [0.4, 3.6]; otherwise it is at (3.6, 3.0).
        shape_reward: Dense reward.
        action_repeat: Only 1: the robot moves once per step.
        fpv: Add the first-person camera to picture observations: 6 channels. It looks along the robot's heading; the
            original's looked backwards, and its observation space said 3 channels.
        image_size: Width and height of pictures in pixels.
        render_mode: None, "rgb_array" or "human".

    Raises:
        ValueError: an `action_repeat` other than 1, or what `SRLGymEnv` refuses.
    """

    srl_models: ClassVar[tuple[str, ...]] = arena.SRL_MODELS
    MAX_STEPS = arena.MAX_STEPS
    NUM_AXES: ClassVar[int] = 2  # along which the robot moves, x first
    REWARD_DISTANCE: ClassVar[float] = arena.REWARD_DISTANCE
    WALLS: ClassVar[Sequence[tuple]] = arena.WALLS
    CAMERA: ClassVar[Camera] = _camera_above(*arena.CAMERA_CENTRE)
    TARGET_SHAPE: ClassVar[tuple[int, ...]] = (2,)  # of the reset option "target"
    SCENE_SHAPE: ClassVar[tuple[int, ...]] = (2, 2)

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        random_target: bool = False,
        shape_reward: bool = False,
        action_repeat: int = 1,
        fpv: bool = False,
        image_size: int = 224,
        render_mode: str | None = None,
    ) -> None:
        arena.check_options(srl_model, action_repeat, image_size)
        self.random_target = random_target
        self.shape_reward = shape_reward
        self.fpv = fpv
        super().__init__(
            srl_model=srl_model,
            is_discrete=is_discrete,
            image_size=image_size,
            channels=6 if fpv else 3,
            render_mode=render_mode,
        )
        self.action_space: gym.spaces.Space[Any]
        if is_discrete:
            self.action_space = gym.spaces.Discrete(2 * self.NUM_AXES)
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (self.NUM_AXES,), np.float32)
        self.max_episode_steps = self.MAX_STEPS + 1
        self._moves = DISCRETE_MOVES[: 2 * self.NUM_AXES, : self.NUM_AXES]
        self._low, self._high = POSITION_LOW[: self.NUM_AXES], POSITION_HIGH[: self.NUM_AXES]
        self._reach = np.float32(self.REWARD_DISTANCE)

    def getTargetPos(self) -> np.ndarray:
        """Position of the target [m], float32, along the axes on which it lies: [2], or [1] for x alone."""
        self._require_client()
        return self._target_position.copy()

    def getGroundTruth(self) -> np.ndarray:
        """Position of the robot, the middle of its rear axle [m], float32 [2], or [1] where it moves along x only."""
        self._require_client()
        return self._robot_position.copy()

    def getGroundTruthDim(self) -> int:
        """2: x, y; or 1: x."""
        return self.NUM_AXES

    def getTargetDim(self) -> int:
        """2: x, y; or 1: x."""
        return self.TARGET_SHAPE[-1]

    def scene_poses(self) -> np.ndarray:
        """x, y (m) of the robot, then of each target's body: float32 [1 + targets, 2]."""
        client = self._require_client()
        targets = [p.getBasePositionAndOrientation(body, physicsClientId=client)[0][:2] for body in self._targets]
        return np.array([_floor_point(self._robot_position), *targets], dtype=np.float32)

    def situation(self) -> dict[str, np.ndarray]:
        """Where robot and target are, as the options of a reset that brings them there."""
        self._require_client()
        return {"robot": self._robot_position.copy(), "target": self._all_targets.copy()}

    @property
    def steps_played(self) -> int:
        """Steps since the last reset."""
        return self._steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode: bodies are moved, the scene is loaded only the first time.

        Args:
            seed: Seed of this and the following episodes; the same seed gives the same episode.
            options: "robot" and "target", positions in metres along their axes, put these there instead of where the
                draw put them.

        Returns:
            The first observation and an empty dict.

        Raises:
            ValueError: an unknown option, or a position that is not as many finite numbers as there are axes.
        """
        super().reset(seed=seed, options=options)
        chosen = chosen_positions(options or {}, {"robot": (self.NUM_AXES,), "target": self.TARGET_SHAPE})
        robot = self.np_random.uniform(arena.START_LOW, arena.START_HIGH, self.NUM_AXES)
        target = self._draw_target()
        self._robot_position = chosen.get("robot", robot.astype(np.float32))
        if self._client is None:
            self._build()
        self._all_targets = chosen.get("target", target.astype(np.float32))
        self._set_target(self._all_targets)
        self._place(self._robot, self._robot_position)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move once.

        Args:
            action: An integer below 4, or an array [2]; where the robot moves along x only, below 2, or [1].

        Returns:
            Observation, reward, terminated (never), truncated (the time limit cut the episode), and an empty dict.

        Raises:
            ValueError: an action that is not of the action space's shape or range of integers.
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        client = self._require_client()
        goal = self._robot_position + displacement(action, self.is_discrete, self._moves, STEP_LENGTH)
        bumped = not bool(np.all((goal >= self._low) & (goal <= self._high)))
        if not bumped:
            self._robot_position = goal
            self._place(self._robot, goal)
        p.stepSimulation(physicsClientId=client)
        if self.render_mode == "human":
            time.sleep(1.0 / 240.0)
        self._steps += 1
        reward = self._reward(bumped)  # first: once a target is reached, the observation is relative to the next
        return self._observe(), reward, False, self._steps > self.MAX_STEPS, {}

    def _cameras(self) -> Sequence[Camera]:
        if not self.fpv:
            return (self.CAMERA,)
        x, y = _floor_point(self._robot_position).tolist()
        target = (x + arena.FPV_TARGET_AHEAD, y, arena.FPV_TARGET_HEIGHT)
        return self.CAMERA, Camera(target, arena.FPV_DISTANCE, yaw=-90.0, pitch=arena.FPV_PITCH, fov=arena.FPV_FOV)

    def _build(self) -> None:
        """Load floor, walls, targets and robot, all of them fixed."""
        client = self._connect()
        bodies = [p.loadURDF("plane.urdf", physicsClientId=client)]
        for (x, y), along_x, rgb in self.WALLS:
            turn = p.getQuaternionFromEuler((0.0, 0.0, 0.0 if along_x else math.pi / 2))
            wall = p.loadURDF(str(ASSETS / "wall.urdf"), (x, y, 0), turn, useFixedBase=True, physicsClientId=client)
            p.changeVisualShape(wall, -1, rgbaColor=(*rgb, 1), physicsClientId=client)
            bodies.append(wall)
        self._targets = self._load_targets(client)
        self._robot: int = p.loadURDF("racecar/racecar.urdf", useFixedBase=True, physicsClientId=client)
        for body in (*bodies, *self._targets, self._robot):
            for link in range(-1, p.getNumJoints(body, physicsClientId=client)):
                p.setCollisionFilterGroupMask(body, link, 0, 0, physicsClientId=client)

    def _draw_target(self) -> np.ndarray:
        """Where the target of a new episode lies [m], [*TARGET_SHAPE]."""
        if self.random_target:
            return self.np_random.uniform(arena.RANDOM_TARGET_LOW, arena.RANDOM_TARGET_HIGH, self.TARGET_SHAPE)
        return np.array(arena.TARGET_POSITION[: self.TARGET_SHAPE[-1]])

    def _set_target(self, target: np.ndarray) -> None:
        """Put the target at a position, float32 [*TARGET_SHAPE]."""
        self._target_position = target
        self._place(self._targets[0], target)

    def _load_targets(self, client: int) -> list[int]:
        """Load the bodies of the targets."""
        return [p.loadURDF(str(ASSETS / "cylinder.urdf"), useFixedBase=True, physicsClientId=client)]

    def _place(self, body: int, position: np.ndarray) -> None:
        """Put a body on the floor."""
        x, y = _floor_point(position).tolist()
        p.resetBasePositionAndOrientation(body, (x, y, 0.0), HEADING_X, physicsClientId=self._client)

    def _reward(self, bumped: bool) -> float:
        """Reward of the step just made."""
        offset = self._robot_position[: len(self._target_position)] - self._target_position
        squared = sum(delta * delta for delta in offset)
        near = squared <= self._reach * self._reach
        if near:
            self._arrive()
        if self.shape_reward:
            return -float(np.sqrt(squared))
        if bumped:
            return -1.0
        return 1.0 if near else 0.0

    def _arrive(self) -> None:
        """What happens when the robot is within reach of its target: nothing, the episode goes on."""


class MobileRobot2TargetGymEnv(MobileRobotGymEnv):
    """Drive to the yellow target, then to the red one.

    As `MobileRobotGymEnv`, but there are two targets: (3.6, 3.0) and (0.4, 3.0), or with `random_target` both at
    random. The observation, the reward and `getTargetPos` are about the first until it is reached, then about the
    second; `reached_first` tells which. The reset option "target" is [[x, y], [x, y]].
    """

    TARGET_SHAPE: ClassVar[tuple[int, ...]] = (2, 2)
    SCENE_SHAPE: ClassVar[tuple[int, ...]] = (3, 2)

    def _draw_target(self) -> np.ndarray:
        if self.random_target:
            return super()._draw_target()
        return np.array([arena.TARGET_POSITION, arena.SECOND_TARGET_POSITION])

    def _set_target(self, target: np.ndarray) -> None:
        self.reached_first = False
        self._target_position = target[0]
        for body, position in zip(self._targets, target, strict=True):
            self._place(body, position)

    def _load_targets(self, client: int) -> list[int]:
        targets = [*super()._load_targets(client), *super()._load_targets(client)]
        p.changeVisualShape(targets[1], -1, rgbaColor=RED, physicsClientId=client)
        return targets

    def _arrive(self) -> None:
        self.reached_first = True
        self._target_position = self._all_targets[1]


class MobileRobot1DGymEnv(MobileRobotGymEnv):
    """Drive along a line to a target on it.

    As `MobileRobotGymEnv`, but the robot stands on the wall y = 0 and moves along x: discrete actions 0: -x, 1: +x, or
    continuous ones Box(-1, 1, 1); states are x alone. The target is at x = 3.6, or with `random_target` anywhere in
    [0.4, 3.6]. There is only that wall, and the camera looks down on (2, 0).
    """

    NUM_AXES: ClassVar[int] = 1
    TARGET_SHAPE: ClassVar[tuple[int, ...]] = (1,)
    WALLS: ClassVar[Sequence[tuple]] = arena.WALLS[:1]
    CAMERA: ClassVar[Camera] = _camera_above(arena.CAMERA_CENTRE[0], 0.0)


class MobileRobotLineTargetGymEnv(MobileRobotGymEnv):
    """Drive to a line across the arena.

    As `MobileRobotGymEnv`, but the target is the line 0.2 m before the middle of a yellow strip along y, which lies at
    x = 3.6, or with `random_target` anywhere in [0.4, 3.6]; within reach is 0.1 m. Only x counts: in a state, only x is
    relative to the target. The reset option "target" is [x] of the strip.
    """

    REWARD_DISTANCE: ClassVar[float] = arena.LINE_REWARD_DISTANCE
    TARGET_SHAPE: ClassVar[tuple[int, ...]] = (1,)

    def _draw_target(self) -> np.ndarray:
        return super()._draw_target() if self.random_target else np.array([arena.LINE_POSITION])

    def _set_target(self, target: np.ndarray) -> None:
        self._target_position = target - np.float32(arena.LINE_OFFSET)
        position = (float(target[0]), arena.ARENA_SIZE / 2, arena.LINE_TOP - 0.05)
        turn = p.getQuaternionFromEuler((0.0, 0.0, math.pi / 2))
        p.resetBasePositionAndOrientation(self._targets[0], position, turn, physicsClientId=self._client)

    def _load_targets(self, client: int) -> list[int]:
        strip = p.loadURDF(str(ASSETS / "wall_target.urdf"), useFixedBase=True, physicsClientId=client)
        p.changeVisualShape(strip, -1, rgbaColor=YELLOW, physicsClientId=client)
        return [strip]


def _floor_point(position: np.ndarray) -> np.ndarray:
    """(x, y) of a position float32 [1] or [2]; y is 0 where it is not given."""
    return position if len(position) == 2 else np.array([position[0], 0.0], np.float32)
