"""Base of all host environments of ours: observation spaces and states relative to the target. Knows no simulator."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs.types import relative_to


class GoalEnv(gym.Env[np.ndarray, Any], ABC):
    """A goal-based environment that can be observed as a state or as pictures.

    A subclass sets `max_episode_steps` and `action_space`, and returns `_observe()` from `reset` and `step`. Pictures
    are drawn only for `raw_pixels` observations and for `render`.

    Args:
        srl_model: What is observed, one of the class's `srl_models`. "raw_pixels" gives uint8
            [image_size, image_size, channels], every other choice float32 [getObservationDim()].
        is_discrete: Whether actions are integers.
        image_size: Width and height of a picture in pixels.
        channels: Channels of a picture observation, 3 for each camera.
        relative_pos: Whether the `ground_truth` state is relative to the target.
        render_mode: None, or one of the class's render modes.

    Raises:
        ValueError: an unknown `srl_model` or `render_mode`, or an `image_size` below 1.
    """

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
        render_modes = self.metadata["render_modes"]
        if srl_model not in self.srl_models:
            raise ValueError(f"unknown srl_model {srl_model!r}: choose one of {', '.join(self.srl_models)}")
        if render_mode is not None and render_mode not in render_modes:
            raise ValueError(f"unknown render_mode {render_mode!r}: choose None, {' or '.join(render_modes)}")
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}: it must be at least 1 pixel")
        self.srl_model = srl_model
        self.is_discrete = is_discrete
        self.image_size = image_size
        self.channels = channels
        self.relative_pos = relative_pos
        self.render_mode = render_mode
        if srl_model == "raw_pixels":
            self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, channels), np.uint8)
        else:
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.getObservationDim(),), np.float32)

    @abstractmethod
    def getTargetPos(self) -> np.ndarray:
        """Position of the target in metres, [getTargetDim()]."""

    @abstractmethod
    def getGroundTruth(self) -> np.ndarray:
        """Position of the controlled point in metres, [getGroundTruthDim()]."""

    @abstractmethod
    def getGroundTruthDim(self) -> int:
        """Number of components of the ground truth."""

    @abstractmethod
    def _picture(self) -> np.ndarray:
        """The picture observation of the present situation, uint8 [image_size, image_size, channels]."""

    def getTargetDim(self) -> int:
        """Number of components of the target: those of the ground truth, unless fewer axes count."""
        return self.getGroundTruthDim()

    def getObservationDim(self) -> int:
        """Number of components of a state observation."""
        return self.getGroundTruthDim()

    def getSRLState(self) -> np.ndarray:
        """The state observation, float32 [getObservationDim()]: ground truth, less the target where `relative_pos`."""
        state = self.getGroundTruth()
        if self.relative_pos:
            state = relative_to(state, self.getTargetPos())
        return np.asarray(state, dtype=np.float32)

    def picture(self) -> np.ndarray:
        """The cameras' pictures of the present situation, uint8 [image_size, image_size, channels], always drawn."""
        return self._picture()

    def _observe(self) -> np.ndarray:
        """The observation that `observation_space` declares."""
        return self._picture() if self.srl_model == "raw_pixels" else self.getSRLState()


def displacement(action: Any, is_discrete: bool, moves: np.ndarray, step_length: np.float32) -> np.ndarray:
    """Displacement that an action of a robot on wheels asks for.

    Args:
        action: An integer below len(moves), or with continuous actions a vector in units of `step_length`.
        is_discrete: Which of the two it is.
        moves: float32 [actions, axes], what discrete actions stand for (m).
        step_length: float32, the farthest along an axis (m); a continuous action is clipped to it.

    Returns:
        float32 [axes] (m).

    Raises:
        ValueError: an action of another shape or beyond the integers.
    """
    if is_discrete:
        try:  # several times faster than asking the action space
            move = operator.index(action)
        except TypeError:
            move = -1
        if not 0 <= move < len(moves):
            raise ValueError(f"action {action} is not an integer from 0 to {len(moves) - 1}")
        return moves[move]
    action = np.asarray(action, dtype=np.float32)
    if action.shape != moves.shape[1:]:
        raise ValueError(f"an action of shape {action.shape} was given: expected {moves.shape[1:]}")
    return np.clip(action * step_length, -step_length, step_length)


def chosen_positions(options: Mapping[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The positions that the options of a reset choose.

    Args:
        options: {name: position (m)}.
        shapes: {name that an environment knows: shape of that position}.

    Returns:
        {name: float32 of that shape}, the names in `options` only.

    Raises:
        ValueError: an unknown name, or what is not that many finite numbers.
    """
    positions = {}
    for name, value in options.items():
        if name not in shapes:
            raise ValueError(f"unknown reset option {name!r}: choose {' or '.join(shapes)}")
        position = np.asarray(value, dtype=np.float32)
        if position.shape != shapes[name] or not np.all(np.isfinite(position)):
            raise ValueError(f"reset option {name} is {value!r}: expected metres of shape {shapes[name]}")
        positions[name] = position
    return positions
