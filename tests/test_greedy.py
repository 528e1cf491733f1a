"""The scripted controllers whose returns the documentation prints; those of the arm are tested with its tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from benchmarks.greedy import controller_for, play
from envs.registry import registered_env, resolve

ROOT = Path(__file__).resolve().parents[1]
MOBILE = [name for name in registered_env if name.startswith("MobileRobot")]


@pytest.mark.parametrize("env_id", MOBILE)
@pytest.mark.parametrize("options", [{}, {"is_discrete": False}])
def test_mobile_robot_stays_at_its_target_and_off_the_walls(env_id, options) -> None:
    env = resolve(registered_env[env_id][0])(**options)
    control = controller_for(env)
    for seed in range(3):
        env.reset(seed=seed)
        rewards = [env.step(control(env))[1] for _ in range(251)]
        assert min(rewards) >= 0
        assert np.diff(np.flatnonzero(rewards)).max() == 1 or "2Target" in env_id
        assert rewards[-1] == 1 and sum(rewards) > 180
    env.close()


def test_play_is_seeded_by_episode() -> None:
    env = resolve(registered_env["MobileRobotGymEnv-v0"][0])()
    returns, lengths = play(env, controller_for(env), episodes=3, seed=5)
    again, _ = play(env, controller_for(env), episodes=1, seed=6)
    assert again[0] == returns[1] and (lengths == 251).all()
    env.close()


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="has no scripted controller"):
        controller_for(gymnasium.make("CartPole-v1").unwrapped)


def test_script_prints_the_return() -> None:
    command = [sys.executable, "benchmarks/greedy.py", "--env", "MobileRobot1DGymEnv-v0", "--episodes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "MobileRobot1DGymEnv-v0: return 2" in done.stdout and "251 steps, 2 episodes" in done.stdout
