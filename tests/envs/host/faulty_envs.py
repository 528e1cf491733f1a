"""Small environments for the worker tests: some count, some misbehave when an action tells them to."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class CountingEnv(gymnasium.Env):
    """Observation (seed modulo 1000, steps of this episode, last action); truncated after `length` steps.

    The reward is the number of steps of the episode so far.
    """

    def __init__(self, length: int = 5) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(10)
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.state = np.array([seed % 1000, 0, -1], np.float32)
        return self.state.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        self.misbehave(action)
        self.state[1:] = self.state[1] + 1, action
        return self.state.copy(), float(self.state[1]), False, bool(self.state[1] >= self.length), {}

    def misbehave(self, action: int) -> None:
        """What a faulty environment does on some action."""


class RaisingEnv(CountingEnv):
    """Divides by zero on action 1."""

    def misbehave(self, action: int) -> None:
        if action == 1:
            1 / 0  # noqa: B018


class DyingEnv(CountingEnv):
    """Takes its process with it on action 1."""

    def misbehave(self, action: int) -> None:
        if action == 1:
            os._exit(7)


class DyingInResetEnv(CountingEnv):
    """Takes its process with it in the reset with one seed, as often as told; `deaths` is a file that counts them."""

    def __init__(self, deaths: Path, seed: int, times: int) -> None:
        super().__init__()
        self.deaths, self.seed, self.times = deaths, seed, times

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        died = self.deaths.read_bytes() if self.deaths.exists() else b""
        if seed == self.seed and len(died) < self.times:
            self.deaths.write_bytes(died + b"x")
            os._exit(7)
        return super().reset(seed=seed)


class SleepingEnv(CountingEnv):
    """Sleeps a minute on action 1, 0.3 s on action 2."""

    def misbehave(self, action: int) -> None:
        time.sleep({1: 60.0, 2: 0.3}.get(action, 0.0))


class NotFiniteEnv(CountingEnv):
    """Observes NaN on action 1, is paid infinity on action 2, observes huge finite numbers on action 3."""

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(action)
        if action == 1:
            observation[1] = np.nan
        if action == 3:
            observation[:] = 3e38
        return observation, np.inf if action == 2 else reward, terminated, truncated, info


class UnbuildableEnv(CountingEnv):
    """Cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("no model.urdf here\nand a second line")


class ModulesEnv(CountingEnv):
    """Observes whether jax is loaded in its process, and how many threads BLAS may use."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        loaded = any(name.split(".")[0] in ("jax", "jaxlib") for name in sys.modules)
        return np.array([loaded, os.environ["OMP_NUM_THREADS"], 0], np.float32), {}


class PictureEnv(gymnasium.Env):
    """uint8 pictures (4, 4, 3) whose pixels are the number of the step, 10 at the first."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.value = 10
        return np.full((4, 4, 3), self.value, np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        self.value += 1
        return np.full((4, 4, 3), self.value, np.uint8), 0.0, self.value == 14, False, {}


class SwitchableEnv(CountingEnv):
    """Discrete or continuous by its own keyword, continuous by default, as CarRacing-v3 is; float64 observations."""

    def __init__(self, continuous: bool = True) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-1e300, 1e300, (3,), np.float64)
        if continuous:
            self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
