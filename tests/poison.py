"""Environments that now and then emit a number that is not finite, on the host and as twins; a plugin for train.py."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.registry import PlottingType, ThreadingType, registered_env, registered_twin

LENGTH, BAD_STEP, SHARE = 10, 4, 0.02  # steps of an episode; when a poisoned one breaks; share of poisoned episodes


class PoisonedReward(gymnasium.Env):
    """Observes two random numbers and pays the first for action 0, the second for 1; at times it pays infinity."""

    max_episode_steps = LENGTH
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    bad_reward, bad_obs = np.inf, 0.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.poisoned = 0, self.np_random.uniform() < SHARE
        self.obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.obs.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        bad = self.poisoned and self.steps == BAD_STEP
        reward = float(self.obs[action]) + (self.bad_reward if bad else 0.0)
        self.obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.obs + (self.bad_obs if bad else 0.0), reward, False, self.steps >= LENGTH, {}


class PoisonedObservation(PoisonedReward):
    """Observes NaN in place of paying infinity."""

    bad_reward, bad_obs = 0.0, np.nan


for _cls in (PoisonedReward, PoisonedObservation):
    _name = f"{_cls.__name__}-v0"
    registered_env[_name] = (_cls, gymnasium.Env, PlottingType.PLOT_2D, ThreadingType.PROCESS)
    registered_twin[_name] = f"tests.poison_twin:{_cls.__name__}Twin"
