"""Where a policy plays: environments in either simulator as one vector of N, whose episodes restart by themselves.

A stage has `spec`, `reset() -> obs [N, ...]`, `step(actions) -> (obs, reward [N], done [N], ...)` and `close()`, like
`envs.host.vec_env.VecEnv`, which is the stage for a plain play on the host. The others are here. Whether an episode is
watched or not, it begins in the same way: its reset is seeded by (seed, environment, episode).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from envs.device.batch import BatchEnv
from envs.host.gymnasium_env import spec_of
from envs.host.vector import WorkerError
from envs.host.worker import episode_seed
from envs.make import BRAX_PREFIX, EnvOptions, device_env, host_factory
from envs.registry import PlottingType, registered_env
from envs.render.seen_pool import encoder_of, stacked_states
from envs.types import Encoding, Spec, relative_to
from launch.runtime.drivers.common import clip_action
from launch.runtime.srl_models import encoding_of

FRAME_RATE = 30.0  # pictures per second where the environment names no rate that can be watched
MAX_FRAME_RATE = 60.0
TWIN_PICTURE = 448  # pixels
AXES = ("x", "y", "z")
_NO_STATES = "--plotting: {} observes pictures and does not tell its true position (getGroundTruth)"


class Stage(Protocol):
    """N environments whose episodes restart by themselves."""

    spec: Spec

    def reset(self) -> Any:
        """Begin a new episode everywhere; returns observations [N, ...]."""

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Step every environment; returns (observations to act on next, rewards [N], dones bool [N], ...)."""

    def close(self) -> None:
        """Free what the stage holds."""


class Scene(Protocol):
    """One environment whose state can be looked at.

    Attributes:
        spec: What it looks like to a policy.
        frame_rate: Pictures per second of a video of it.
        state_labels: Axis labels of the state space that `position` is in, two or three.
        state_target: Whether the target is at the origin of that space.
    """

    spec: Spec
    frame_rate: float
    state_labels: list[str]
    state_target: bool

    def reset(self) -> Any:
        """Begin the next episode; returns its first observation."""

    def step(self, action: Any) -> tuple[Any, float, bool]:
        """Step; returns (true successor observation, reward, whether the episode ended)."""

    def frame(self) -> np.ndarray:
        """Picture of the present state, uint8 [height, width, 3]."""

    def position(self) -> np.ndarray:
        """The present state as a point of the state space [2 or 3]."""

    def close(self) -> None:
        """Free what the scene holds."""


Watcher = Callable[[Scene, bool, bool], None]


class TwinStage:
    """N environments of the JAX simulator, stepped in one compiled call."""

    def __init__(self, options: EnvOptions, num_envs: int, seed: int) -> None:
        env = device_env(options, encoding_of(options))
        self.spec: Spec = env.spec
        self._batch = BatchEnv(env)
        self._keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(num_envs))
        self._advance = jax.jit(lambda state, action: self._batch.step(state, clip_action(self.spec, action)))

    def reset(self) -> Any:
        """Begin the first episode everywhere; returns observations [N, ...]."""
        self._state, obs = jax.jit(self._batch.reset)(self._keys)
        return obs

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Step every environment, see `Stage`."""
        self._state, out = self._advance(self._state, jnp.asarray(actions))
        return out.obs, np.asarray(out.reward), np.asarray(out.terminated | out.truncated)

    def close(self) -> None:
        """Nothing to free."""


class WatchedStage:
    """A scene as a vector of one; every state, from the first to the last of each episode, is shown to the watchers.

    Args:
        scene: The environment.
        watchers: Called as watcher(scene, first, last) with whether the state begins or ends an episode.
    """

    def __init__(self, scene: Scene, watchers: Sequence[Watcher]) -> None:
        self.spec = scene.spec
        self._scene, self._watchers = scene, watchers
        self._fresh = True

    def reset(self) -> Any:
        """Begin an episode; returns its first observation [1, ...]. The state is shown once the episode is played."""
        self._fresh = True
        return self._scene.reset()[None]

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Step with actions [1, ...], see `Stage`."""
        if self._fresh:
            self._show(first=True, last=False)
            self._fresh = False
        obs, reward, done = self._scene.step(clip_action(self.spec, np.asarray(actions)[0], np))
        self._show(first=False, last=done)
        return self.reset() if done else obs[None], np.asarray([reward]), np.asarray([done])

    def close(self) -> None:
        """Close the scene."""
        self._scene.close()

    def _show(self, first: bool, last: bool) -> None:
        for watcher in self._watchers:
            watcher(self._scene, first, last)


class HostScene:
    """An environment of the host, in this process.

    Args:
        options: What to make, `render_mode` included.
        seed: Seed of the episodes.
        plot: Whether `position` will be called.

    Raises:
        ValueError: The environment refuses its options, cannot be rendered as `render_mode` says, or observes pictures
            and has no states to plot.
    """

    def __init__(self, options: EnvOptions, seed: int, plot: bool) -> None:
        self._env_id, self._seed, self._num_stack = options.env, seed, options.num_stack
        encoding = encoding_of(options)
        self._states = None if encoding is None else StateStack(options, encoding)
        self._episode = -1
        try:
            self._env = host_factory(options)()
        except TypeError as error:  # the constructor has no such keyword
            raise ValueError(f"--render: {options.env} draws no pictures ({error})") from None
        rate = float(self._env.metadata.get("render_fps") or FRAME_RATE)
        self.frame_rate = rate if rate <= MAX_FRAME_RATE else FRAME_RATE
        self.spec = spec_of(self._env, options.env)
        if encoding is not None:
            self.spec = stacked_states(self.spec, encoding, options.num_stack)
        task = self._env.unwrapped
        self._truth, self._target = getattr(task, "getGroundTruth", None), getattr(task, "getTargetPos", None)
        if plot and self._truth is None and self.spec.pixels:
            raise ValueError(_NO_STATES.format(options.env))
        self.state_target = self._truth is not None and self._target is not None
        self.state_labels = _labels(options.env, self.spec, self._truth is not None, self.state_target)

    def reset(self) -> np.ndarray:
        """Begin the next episode."""
        self._episode += 1
        with self._reporting():
            self._obs, _ = self._env.reset(seed=episode_seed(self._seed, 0, self._episode))
        if self._states is not None:
            self._obs = self._states.begin(self._obs)
        return self._obs

    def step(self, action: Any) -> tuple[np.ndarray, float, bool]:
        """Step once, see `Scene`."""
        with self._reporting():
            self._obs, reward, terminated, truncated, _ = self._env.step(action if np.ndim(action) else int(action))
        if self._states is not None:
            self._obs = self._states.push(self._obs)
        return self._obs, float(reward), bool(terminated or truncated)

    def frame(self) -> np.ndarray:
        """The picture that the environment draws of itself."""
        with self._reporting():
            picture: Any = self._env.render()
        if not isinstance(picture, np.ndarray):
            raise ValueError(f"--render: {self._env_id} draws no pictures")
        return picture

    def position(self) -> np.ndarray:
        """The true position, relative to the target where there is one; else the newest observed state."""
        if self._truth is None:
            return _coordinates(_newest(self._obs, self._num_stack), len(self.state_labels))
        position = np.asarray(self._truth(), np.float64)
        if self._target is not None:
            position = relative_to(position, np.asarray(self._target()))
        return _coordinates(position, len(self.state_labels))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn what the environment raises into one line, as the worker pool does."""
        try:
            yield
        except Exception as error:
            text = (str(error).splitlines() or [""])[0]
            raise WorkerError(
                f"environment {self._env_id}: {type(error).__name__}: {text} (episode {self._episode})"
            ) from error


class StateStack:
    """The learned states of one environment of the host, the last ones stacked.

    Args:
        options: What is observed.
        encoding: The representation.
    """

    def __init__(self, options: EnvOptions, encoding: Encoding) -> None:
        self._encode, self._size = encoder_of(options, encoding), encoding.state_dim
        self._stack = np.zeros(options.num_stack * encoding.state_dim, np.float32)

    def begin(self, picture: np.ndarray) -> np.ndarray:
        """The observation [num_stack * state_dim] at the start of an episode."""
        self._stack = np.zeros_like(self._stack)
        return self.push(picture)

    def push(self, picture: np.ndarray) -> np.ndarray:
        """The observation once the next picture has come."""
        state = np.asarray(self._encode(picture[None]))[0]
        self._stack = np.concatenate([self._stack[self._size :], state])
        return self._stack


class TwinScene:
    """An environment of the JAX simulator, one episode at a time.

    Args:
        options: What to make.
        seed: Seed of the episodes.
        render: Whether `frame` will be called.
        plot: Whether `position` will be called.

    Raises:
        ValueError: The environment has no renderer, or observes pictures and has no states to plot.
    """

    frame_rate = FRAME_RATE

    def __init__(self, options: EnvOptions, seed: int, render: bool, plot: bool) -> None:
        env = device_env(options, encoding_of(options))
        self.spec: Spec = env.spec
        self._stacked = options.num_stack > 1
        self._num_stack = options.num_stack
        self._key, self._episode = jax.random.fold_in(jax.random.key(seed), 0), -1
        self._start, self._advance = jax.jit(env.reset), jax.jit(env.step)
        self._draw = jax.jit(_picture_twin(options).observe) if render else None
        self._locate = _state_reader(options) if plot else None
        if plot and self._locate is None and self.spec.pixels:
            raise ValueError(_NO_STATES.format(options.env))
        self.state_target = self._locate is not None
        self.state_labels = _labels(options.env, self.spec, self.state_target, self.state_target)

    def reset(self) -> jax.Array:
        """Begin the next episode."""
        self._episode += 1
        self._state, self._obs = self._start(jax.random.fold_in(self._key, self._episode))
        return self._obs

    def step(self, action: Any) -> tuple[jax.Array, float, bool]:
        """Step once, see `Scene`."""
        self._state, out = self._advance(self._state, jnp.asarray(action))
        self._obs = out.obs
        return out.obs, float(out.reward), bool(out.terminated | out.truncated)

    def frame(self) -> np.ndarray:
        """The picture that the JAX renderer draws, seen from above."""
        assert self._draw is not None
        return np.asarray(self._draw(self._bare()))

    def position(self) -> np.ndarray:
        """The true position relative to the target where the twin tells it, else the newest observed state."""
        if self._locate is not None:
            return _coordinates(np.asarray(self._locate(self._bare())), len(self.state_labels))
        return _coordinates(_newest(np.asarray(self._obs), self._num_stack), len(self.state_labels))

    def close(self) -> None:
        """Nothing to free."""

    def _bare(self) -> Any:
        """State of the environment itself."""
        return self._state.env if self._stacked else self._state


def film_scene(options: EnvOptions, seed: int) -> Scene:
    """One environment to be filmed without a window, in the simulator that `options` names.

    A twin without a renderer is filmed as its original, which has the same observations and actions.

    Raises:
        ValueError: It cannot be rendered.
    """
    if options.on_device:
        try:
            return TwinScene(options, seed, render=True, plot=False)
        except ValueError:
            if options.env.startswith(BRAX_PREFIX):
                raise
            options = dataclasses.replace(options, simulator="pybullet")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame complains that there is no display
    return HostScene(dataclasses.replace(options, render_mode="rgb_array", renderer="tiny"), seed, plot=False)


def _picture_twin(options: EnvOptions) -> Any:
    """The same twin observing pictures: its `observe` draws a state; ValueError where it cannot."""
    where = "" if options.env.startswith(BRAX_PREFIX) else ": render it with --simulator=pybullet"
    refusal = ValueError(f"--render: {options.env} has no renderer in JAX{where}")
    pictures = dataclasses.replace(
        options.seen(), srl_model="raw_pixels", fpv=False, multi_view=False, image_size=TWIN_PICTURE
    )
    try:
        twin = device_env(pictures)
    except ValueError:
        raise refusal from None
    if not hasattr(twin, "observe"):
        raise refusal
    return twin


def _state_reader(options: EnvOptions) -> Callable[[Any], jax.Array] | None:
    """The function that tells the true position, relative to the target, from the state of one of our twins."""
    if options.env not in registered_env:
        return None
    plain = dataclasses.replace(
        options, srl_model="ground_truth", srl_model_path=None, fpv=False, multi_view=False, num_stack=1, image_size=224
    )
    twin = device_env(plain)
    return jax.jit(twin.observe) if hasattr(twin, "observe") else None


def _labels(env_id: str, spec: Spec, truth: bool, relative: bool) -> list[str]:
    """Axis labels of an environment's state space: two, or three where the registry says so."""
    spatial = env_id in registered_env and registered_env[env_id][2] is PlottingType.PLOT_3D
    axes = AXES[: 3 if spatial else 2]
    if relative:
        return [f"{axis} relative to the target (m)" for axis in axes]
    if truth:
        return [f"{axis} (m)" for axis in axes]
    return [f"state[{i}]" for i in range(len(axes))]


def _newest(obs: np.ndarray, num_stack: int) -> np.ndarray:
    """The newest of the observations that are stacked along the last axis, flat."""
    size = obs.shape[-1] // num_stack
    return obs[..., -size:].reshape(-1)


def _coordinates(values: np.ndarray, count: int) -> np.ndarray:
    """The first `count` values, zeros where there are fewer."""
    return np.pad(values[:count], (0, max(0, count - len(values))))
