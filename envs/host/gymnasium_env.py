"""Any `gymnasium.Env` as the toolbox wants it: float32 or picture observations, stacked frames, a `Spec`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.types import Box, Discrete, Spec


class Float32Observation(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """Casts the observations of a `Box` space to float32, shape unchanged."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        with np.errstate(over="ignore"):  # bounds beyond float32 become infinite
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """Return the observation as float32."""
        return np.asarray(observation, np.float32)


class FrameStack(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Joins the last `num_stack` observations along the last axis, newest last, zeros before the first.

    [..., C] becomes [..., num_stack * C]; the rule of stable-baselines' `VecFrameStack`.
    """

    def __init__(self, env: gymnasium.Env, num_stack: int) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, num_stack=num_stack)
        gymnasium.Wrapper.__init__(self, env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(
            np.repeat(space.low, num_stack, axis=-1), np.repeat(space.high, num_stack, axis=-1), dtype=space.dtype.type
        )
        self._channels = space.shape[-1]
        self._stack = np.zeros(self.observation_space.shape, space.dtype)

    def _push(self, observation: np.ndarray) -> np.ndarray:
        """Drop the oldest frame for the new one; the result is a new array, so earlier ones stay as they were."""
        self._stack = np.concatenate([self._stack[..., self._channels :], observation], axis=-1)
        return self._stack

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode: zeros, then its first observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._stack = np.zeros_like(self._stack)
        return self._push(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        """Step and add the new frame."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._push(observation), reward, terminated, truncated, info


def _is_picture(space: gymnasium.spaces.Box) -> bool:
    """Whether observations of a space are pictures: uint8 (height, width, channels)."""
    return space.dtype == np.uint8 and len(space.shape) == 3


def adapt(env: gymnasium.Env, num_stack: int, env_id: str) -> gymnasium.Env:
    """Wrap an environment so that its observations are uint8 pictures or float32 arrays, stacked.

    Args:
        env: Environment to wrap.
        num_stack: Number of frames that one observation holds, at least 1.
        env_id: Its id, for the error message.

    Raises:
        ValueError: The observation space is not a `Box` of at least one axis.
    """
    space = env.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or not space.shape:
        raise ValueError(
            f"{env_id}: observations of type {space} are not supported, only Box arrays "
            "(gymnasium.wrappers.FlattenObservation turns others into one)"
        )
    if not _is_picture(space) and space.dtype != np.float32:
        env = Float32Observation(env)
    return env if num_stack == 1 else FrameStack(env, num_stack)


def _action_of(space: gymnasium.Space, env_id: str) -> Discrete | Box:
    """Translate an action space; ValueError where the toolbox has no such kind of action."""
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return Box(tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise ValueError(f"{env_id}: actions of type {space} are not supported, only Discrete(n) and Box vectors")


def spec_of(env: gymnasium.Env, env_id: str) -> Spec:
    """Describe an adapted environment.

    Args:
        env: Environment with a `Box` observation space, as `adapt` returns it.
        env_id: The id that the user typed.

    Returns:
        Its Spec. The longest episode is Gymnasium's time limit, or the `max_episode_steps` that the environment itself
        declares.

    Raises:
        ValueError: The action space is neither `Discrete` from 0 nor a float vector.
    """
    space = env.observation_space
    limit = env.spec.max_episode_steps if env.spec else None
    if limit is None:
        limit = getattr(env.unwrapped, "max_episode_steps", None)
    return Spec(
        id=env_id,
        obs_shape=tuple(int(size) for size in space.shape or ()),
        obs_dtype=str(space.dtype),
        action=_action_of(env.action_space, env_id),
        max_episode_steps=limit,
    )
