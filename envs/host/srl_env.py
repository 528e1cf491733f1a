"""Base of the host environments: observation spaces, relative states, cameras and the PyBullet client."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pybullet as p
import pybullet_data

from envs.types import relative_to

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


class SRLGymEnv(gym.Env[np.ndarray, Any], ABC):
    """A goal-based environment that can be observed as a state or as pictures.

    A subclass sets `max_episode_steps` and `action_space`, calls `_connect` before it builds its scene, and returns
    `_observe()` from `reset` and `step`. Pictures are drawn only for `raw_pixels` observations and for `render`.

    Args:
        srl_model: What is observed, one of the class's `srl_models`. "raw_pixels" gives uint8
            [image_size, image_size, channels], every other choice float32 [getObservationDim()].
        is_discrete: Whether actions are integers.
        image_size: Width and height of a picture in pixels.
        channels: Channels of a picture observation, 3 for each camera.
        relative_pos: Whether the `ground_truth` state is relative to the target.
        render_mode: None, "rgb_array" or "human" (a PyBullet window; one per process).

    Raises:
        ValueError: an unknown `srl_model` or `render_mode`, an `image_size` below 1, or "human" without a display.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 240}  # type: ignore[misc]
    srl_models: ClassVar[tuple[str, ...]] = ("ground_truth", "raw_pixels")
    max_episode_steps: int

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        image_size: int = 224,
        channels: int = 3,
        relative_pos: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if srl_model not in self.srl_models:
            raise ValueError(f"unknown srl_model {srl_model!r}: choose one of {', '.join(self.srl_models)}")
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"unknown render_mode {render_mode!r}: choose None, {' or '.join(RENDER_MODES)}")
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}: it must be at least 1 pixel")
        if render_mode == "human" and sys.platform == "linux" and not os.environ.get("DISPLAY"):
            # PyBullet would end the whole process.
            raise ValueError("render_mode 'human' needs a display (DISPLAY is not set): choose 'rgb_array'")
        self.srl_model = srl_model
        self.is_discrete = is_discrete
        self.image_size = image_size
        self.relative_pos = relative_pos
        self.render_mode = render_mode
        self._client: int | None = None
        if srl_model == "raw_pixels":
            self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, channels), np.uint8)
        else:
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.getObservationDim(),), np.float32)

    @abstractmethod
    def getTargetPos(self) -> np.ndarray:
        """Position of the target in metres, [getGroundTruthDim()]."""

    @abstractmethod
    def getGroundTruth(self) -> np.ndarray:
        """Position of the controlled point in metres, [getGroundTruthDim()]."""

    @abstractmethod
    def getGroundTruthDim(self) -> int:
        """Number of components of the ground truth."""

    @abstractmethod
    def _cameras(self) -> Sequence[Camera]:
        """The cameras of a picture observation, in channel order; `render` uses the first."""

    def getObservationDim(self) -> int:
        """Number of components of a state observation."""
        return self.getGroundTruthDim()

    def getSRLState(self) -> np.ndarray:
        """The state observation, float32 [getObservationDim()]: ground truth, less the target where `relative_pos`."""
        state = self.getGroundTruth()
        if self.relative_pos:
            state = relative_to(state, self.getTargetPos())
        return np.asarray(state, dtype=np.float32)

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

    def _observe(self) -> np.ndarray:
        """The observation that `observation_space` declares."""
        if self.srl_model != "raw_pixels":
            return self.getSRLState()
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
