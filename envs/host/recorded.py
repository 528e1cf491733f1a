"""An environment that tells what a dataset holds: picture, true position, target and action beside the observation.

A worker pool carries one array for each environment: here it is all of these, as bytes (`Layout`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from envs.host.goal_env import GoalEnv
from envs.make import HostFactory

_ACTION_STREAM = 1  # of an episode's seed, so that actions are not drawn with the numbers that the scene is


@dataclass(frozen=True)
class Layout:
    """Where each part lies in the bytes; see `pack` for the parts."""

    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]

    NAMES = ("frame", "ground_truth", "target", "action", "obs")

    @classmethod
    def of(cls, *parts: np.ndarray) -> Layout:
        """The layout of parts like these."""
        return cls(tuple(part.shape for part in parts), tuple(part.dtype.str for part in parts))

    @property
    def sizes(self) -> list[int]:
        """Bytes of each part."""
        pairs = zip(self.shapes, self.kinds, strict=True)
        return [math.prod(shape) * np.dtype(kind).itemsize for shape, kind in pairs]

    def split(self, packed: np.ndarray) -> dict[str, np.ndarray]:
        """The parts [..., *shape] of bytes uint8 [..., sum(sizes)], by name."""
        edges = np.cumsum([0, *self.sizes])
        return {
            name: packed[..., low:high].copy().view(kind).reshape((*packed.shape[:-1], *shape))
            for name, low, high, shape, kind in zip(
                self.NAMES, edges[:-1], edges[1:], self.shapes, self.kinds, strict=True
            )
        }


def pack(*parts: np.ndarray) -> np.ndarray:
    """Parts as bytes, uint8 [n], one behind the other."""
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


class RecordedEnv(gymnasium.Wrapper):
    """Observes `Layout` bytes; chooses its actions itself unless `told`. Making one does not reset the environment.

    Args:
        env: An adapted environment whose innermost one is a `GoalEnv`.
        toward_target: Probability with which a step is the scripted controller's; others are drawn at random.
        told: Whether the actions that `step` is given are played, and the observation is part of the bytes.
        poses: Whether the frame is `scene_poses`, of which the picture is drawn elsewhere, not the picture itself.

    Raises:
        ValueError: The environment does not tell its true position, or has no scripted controller.
    """

    def __init__(self, env: gymnasium.Env, toward_target: float = 0.0, told: bool = False, poses: bool = False) -> None:
        super().__init__(env)
        self.task = _goal_env(env)
        self._toward_target, self._told, self._poses = toward_target, told, poses
        if toward_target > 0:
            from envs.host.scripted import controller_for

            self._controller = controller_for(self.task)
        discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
        self._no_action = np.zeros(env.action_space.shape or (), np.int32 if discrete else np.float32)
        self._rng = np.random.default_rng(0)
        self.layout = Layout.of(*self._declared())
        self.observation_space = gymnasium.spaces.Box(0, 255, (sum(self.layout.sizes),), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; actions are drawn from the same seed."""
        if seed is not None:
            self._rng = np.random.default_rng((seed, _ACTION_STREAM))
            self.env.action_space.seed(int(self._rng.integers(2**31)))
        obs, info = self.env.reset(seed=seed, options=options)
        return self._packed(obs, self._no_action), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        """Step with the action of the one who decides; the bytes tell which it was."""
        if not self._told:
            action = self._choose()
        obs, reward, terminated, truncated, info = self.env.step(action)
        action = np.asarray(action, self._no_action.dtype)
        return self._packed(obs, action), reward, terminated, truncated, info

    def _choose(self) -> Any:
        if self._rng.random() < self._toward_target:
            return self._controller(self.task)
        return self.env.action_space.sample()

    def _declared(self) -> tuple[np.ndarray, ...]:
        """What `Layout` names as the environment declares it, without values.

        A reset would tell the same, but that of a real robot moves it, and may wait for a person.
        """
        task, space = self.task, self.env.observation_space
        if self._poses:
            frame = np.empty(math.prod(task.SCENE_SHAPE), np.float32)  # type: ignore[attr-defined]
        else:
            frame = np.empty((task.image_size, task.image_size, task.channels), np.uint8)
        truth, target = (np.empty(size, np.float32) for size in (task.getGroundTruthDim(), task.getTargetDim()))
        obs = np.empty(space.shape or (), space.dtype) if self._told else np.empty(0, np.uint8)
        return frame, truth, target, self._no_action, obs

    def _packed(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The bytes of the present situation; ValueError where a part is not as declared."""
        task, layout, parts = self.task, self.layout, []
        frame = task.scene_poses().ravel() if self._poses else task.picture()  # type: ignore[attr-defined]
        told = obs if self._told else np.zeros(0, np.uint8)
        values = map(np.asarray, (frame, task.getGroundTruth(), task.getTargetPos(), action, told))
        for name, value, shape, kind in zip(layout.NAMES, values, layout.shapes, layout.kinds, strict=True):
            if value.shape != shape:
                raise ValueError(f"{name} has shape {value.shape}, the environment declares {shape}")
            parts.append(value.astype(kind, casting="same_kind", copy=False))
        return pack(*parts)


def _goal_env(env: gymnasium.Env) -> GoalEnv:
    task = env.unwrapped
    if not isinstance(task, GoalEnv):
        name = env.spec.id if env.spec else type(task).__name__
        raise ValueError(f"{name} does not tell its true position: datasets are of the toolbox's own environments")
    return task


@dataclass(frozen=True)
class RecordedFactory:
    """Makes a recorded environment; picklable. Fields as `RecordedEnv` has them."""

    factory: HostFactory
    toward_target: float = 0.0
    told: bool = False
    poses: bool = False

    def __call__(self) -> RecordedEnv:
        """Make the environment; see `RecordedEnv`."""
        return RecordedEnv(self.factory(), self.toward_target, self.told, self.poses)
