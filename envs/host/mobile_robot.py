"""MobileRobotGymEnv-v0: a wheeled robot drives to a target in a walled arena (PyBullet)."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pybullet as p

from envs import mobile_arena as arena
from envs.host.srl_env import Camera, SRLGymEnv

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HEADING_X = (0.0, 0.0, 0.0, 1.0)
DISCRETE_MOVES = np.array(arena.DISCRETE_MOVES, np.float32)
POSITION_LOW = np.array(arena.POSITION_LOW, np.float32)
POSITION_HIGH = np.array(arena.POSITION_HIGH, np.float32)
STEP_LENGTH = np.float32(arena.STEP_LENGTH)
REWARD_DISTANCE = np.float32(arena.REWARD_DISTANCE)
CAMERA = Camera(
    target=(*arena.CAMERA_CENTRE, 0.0), distance=arena.CAMERA_HEIGHT, yaw=90.0, pitch=-90.0, fov=arena.CAMERA_FOV
)


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
        srl_model: "ground_truth" (robot position relative to the target, 2) or "raw_pixels".
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
            self.action_space = gym.spaces.Discrete(arena.N_DISCRETE_ACTIONS)
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.max_episode_steps = self.MAX_STEPS + 1

    def getTargetPos(self) -> np.ndarray:
        """Position of the target [m], float32 [2]."""
        self._require_client()
        return self._target_position.copy()

    def getGroundTruth(self) -> np.ndarray:
        """Position of the robot, the middle of its rear axle [m], float32 [2]."""
        self._require_client()
        return self._robot_position.copy()

    def getGroundTruthDim(self) -> int:
        """2: x, y."""
        return 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode: bodies are moved, the scene is loaded only the first time.

        Args:
            seed: Seed of this and the following episodes; the same seed gives the same episode.
            options: "robot" and "target", each (x, y) in metres, put these there instead of where the draw put them.

        Returns:
            The first observation and an empty dict.

        Raises:
            ValueError: an unknown option, or a position that is not two finite numbers.
        """
        super().reset(seed=seed, options=options)
        chosen = _positions(options or {})
        robot = self.np_random.uniform(arena.START_LOW, arena.START_HIGH, 2)
        target = np.array(arena.TARGET_POSITION)
        if self.random_target:
            target = self.np_random.uniform(arena.RANDOM_TARGET_LOW, arena.RANDOM_TARGET_HIGH, 2)
        self._robot_position = chosen.get("robot", robot.astype(np.float32))
        self._target_position = chosen.get("target", target.astype(np.float32))
        if self._client is None:
            self._build()
        self._place(self._target, self._target_position)
        self._place(self._robot, self._robot_position)
        self._steps = 0
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
        client = self._require_client()
        goal = self._robot_position + self._move(action)
        bumped = not bool(np.all((goal >= POSITION_LOW) & (goal <= POSITION_HIGH)))
        if not bumped:
            self._robot_position = goal
            self._place(self._robot, goal)
        p.stepSimulation(physicsClientId=client)
        if self.render_mode == "human":
            time.sleep(1.0 / 240.0)
        self._steps += 1
        return self._observe(), self._reward(bumped), False, self._steps > self.MAX_STEPS, {}

    def _cameras(self) -> Sequence[Camera]:
        if not self.fpv:
            return (CAMERA,)
        x, y = self._robot_position.tolist()
        target = (x + arena.FPV_TARGET_AHEAD, y, arena.FPV_TARGET_HEIGHT)
        return CAMERA, Camera(target, arena.FPV_DISTANCE, yaw=-90.0, pitch=arena.FPV_PITCH, fov=arena.FPV_FOV)

    def _build(self) -> None:
        """Load floor, walls, target and robot, all of them fixed."""
        client = self._connect()
        bodies = [p.loadURDF("plane.urdf", physicsClientId=client)]
        for (x, y), along_x, rgb in arena.WALLS:
            turn = p.getQuaternionFromEuler((0.0, 0.0, 0.0 if along_x else math.pi / 2))
            wall = p.loadURDF(str(ASSETS / "wall.urdf"), (x, y, 0), turn, useFixedBase=True, physicsClientId=client)
            p.changeVisualShape(wall, -1, rgbaColor=(*rgb, 1), physicsClientId=client)
            bodies.append(wall)
        self._target: int = p.loadURDF(str(ASSETS / "cylinder.urdf"), useFixedBase=True, physicsClientId=client)
        self._robot: int = p.loadURDF("racecar/racecar.urdf", useFixedBase=True, physicsClientId=client)
        for body in (*bodies, self._target, self._robot):
            for link in range(-1, p.getNumJoints(body, physicsClientId=client)):
                p.setCollisionFilterGroupMask(body, link, 0, 0, physicsClientId=client)

    def _place(self, body: int, position: np.ndarray) -> None:
        """Put a body on the floor at (x, y)."""
        x, y = position.tolist()
        p.resetBasePositionAndOrientation(body, (x, y, 0.0), HEADING_X, physicsClientId=self._client)

    def _move(self, action: Any) -> np.ndarray:
        """Displacement [m] that an action asks for, float32 [2]."""
        if self.is_discrete:
            try:  # several times faster than asking the action space
                move = operator.index(action)
            except TypeError:
                move = -1
            if not 0 <= move < arena.N_DISCRETE_ACTIONS:
                raise ValueError(f"action {action} is not an integer from 0 to {arena.N_DISCRETE_ACTIONS - 1}")
            return DISCRETE_MOVES[move]
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (2,):
            raise ValueError(f"an action of shape {action.shape} was given: expected (2,)")
        return np.clip(action * STEP_LENGTH, -STEP_LENGTH, STEP_LENGTH)

    def _reward(self, bumped: bool) -> float:
        """Reward of the step just made."""
        dx, dy = self._robot_position - self._target_position
        squared = dx * dx + dy * dy
        if self.shape_reward:
            return -float(np.sqrt(squared))
        if bumped:
            return -1.0
        return 1.0 if squared <= REWARD_DISTANCE * REWARD_DISTANCE else 0.0


def _positions(options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The positions that the options of a reset choose, float32 [2] each."""
    positions = {}
    for name, value in options.items():
        if name not in ("robot", "target"):
            raise ValueError(f"unknown reset option {name!r}: choose robot or target")
        position = np.asarray(value, dtype=np.float32)
        if position.shape != (2,) or not np.all(np.isfinite(position)):
            raise ValueError(f"reset option {name} is {value!r}: it must be a position (x, y) in metres")
        positions[name] = position
    return positions
