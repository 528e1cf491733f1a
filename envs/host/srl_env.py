"""Base of the PyBullet environments: cameras and the client."""

from __future__ import annotations

import math
import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pybullet as p
import pybullet_data

from envs.host.goal_env import GoalEnv

RENDER_MODES = ("rgb_array", "human")


@dataclass(frozen=True)
class Camera:
    """A square PyBullet camera that looks at `target` [m] from `distance` [m]; angles in degrees."""

    target: tuple[float, float, float]
    distance: float
    yaw: float
    pitch: float
    fov: float = 60.0
    near: float = 0.1
    far: float = 100.0

    def capture(self, client: int, size: int) -> np.ndarray:
        """Draw the scene of a physics client with the CPU renderer: uint8 [size, size, 3]."""
        view = p.computeViewMatrixFromYawPitchRoll(self.target, self.distance, self.yaw, self.pitch, 0, 2)
        projection = p.computeProjectionMatrixFOV(self.fov, 1.0, self.near, self.far)
        picture = p.getCameraImage(
            size,
            size,
            viewMatrix=view,
            projectionMatrix=projection,
            renderer=p.ER_TINY_RENDERER,
            flags=p.ER_NO_SEGMENTATION_MASK,
            physicsClientId=client,
        )[2]
        return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).reshape(size, size, 4)[:, :, :3])


GUI_CAMERA = Camera(target=(0.52, -0.2, -0.33), distance=1.3, yaw=180.0, pitch=-41.0)


class SRLGymEnv(GoalEnv):
    """A goal-based environment in PyBullet, seen by PyBullet's cameras.

    A subclass sets `max_episode_steps` and `action_space`, calls `_connect` before it builds its scene, and returns
    `_observe()` from `reset` and `step`.

    Args:
        options: Those of `GoalEnv`, by keyword; `render_mode` "human" opens a PyBullet window, one per process. Where
            `srl_models` has "scene_poses", that is one more choice of what is observed: the vector of what
            `scene_poses` returns, of which the twin's `draw` makes the picture.

    Raises:
        ValueError: what `GoalEnv` refuses, or "human" without a display.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 240}  # type: ignore[misc]

    SCENE_SHAPE: ClassVar[tuple[int, ...]]  # of `scene_poses`

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.srl_model == "scene_poses":
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (math.prod(self.SCENE_SHAPE),), np.float32)
        if self.render_mode == "human" and sys.platform == "linux" and not os.environ.get("DISPLAY"):
            # PyBullet would end the whole process.
            raise ValueError("render_mode 'human' needs a display (DISPLAY is not set): choose 'rgb_array'")
        self._client: int | None = None

    @abstractmethod
    def _cameras(self) -> Sequence[Camera]:
        """The cameras of a picture observation, in channel order; `render` uses the first."""

    @abstractmethod
    def scene_poses(self) -> np.ndarray:
        """Where all that moves in a picture is, float32 [*SCENE_SHAPE], a row for each body."""

    def _observe(self) -> np.ndarray:
        return self.scene_poses().ravel() if self.srl_model == "scene_poses" else super()._observe()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The first camera's picture, uint8 [image_size, image_size, 3], in mode "rgb_array"; None otherwise.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        if self.render_mode != "rgb_array":
            return None
        return self._cameras()[0].capture(self._require_client(), self.image_size)

    def close(self) -> None:
        """Disconnect from PyBullet; a later `reset` connects again. May be called more than once."""
        if self._client is not None:
            client, self._client = self._client, None
            if p.isConnected(client):
                p.disconnect(client)

    def _picture(self) -> np.ndarray:
        client = self._require_client()
        return np.concatenate([camera.capture(client, self.image_size) for camera in self._cameras()], axis=-1)

    def _require_client(self) -> int:
        """The physics client of a scene that exists."""
        if self._client is None:
            raise gym.error.ResetNeeded("call reset() first: the environment has no scene yet")
        return self._client

    def _connect(self) -> int:
        """Open this environment's own physics client, empty but for gravity (0, 0, -10); steps are 1/240 s.

        Raises:
            pybullet.error: a second window in the same process.
        """
        client: int = p.connect(p.GUI if self.render_mode == "human" else p.DIRECT)
        self._client = client
        if self.render_mode == "human":
            p.resetDebugVisualizerCamera(
                GUI_CAMERA.distance, GUI_CAMERA.yaw, GUI_CAMERA.pitch, GUI_CAMERA.target, physicsClientId=client
            )
        p.setAdditionalSearchPath(pybullet_data.getDataPath(), physicsClientId=client)
        self._empty(client)
        return client

    def _empty(self, client: int) -> None:
        """Remove all bodies, and set gravity, time step and solver as `_connect` says."""
        p.resetSimulation(physicsClientId=client)
        p.setPhysicsEngineParameter(numSolverIterations=150, physicsClientId=client)
        p.setTimeStep(1.0 / 240.0, physicsClientId=client)
        p.setGravity(0, 0, -10, physicsClientId=client)
