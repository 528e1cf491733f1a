"""Every twin that is exact and says how to be put into its host environment's state, against that environment.

The arm's twins follow PyBullet's dynamics within bounds: tests/envs/device/test_kuka_twin.py holds them to those.
"""

from __future__ import annotations

import inspect

import gymnasium
import pytest
from parity import assert_twin

import envs  # noqa: F401  registers the ids
from envs.checker import check_device_types
from envs.registry import registered_twin, resolve

# Gymnasium computes in float64, and rounding grows in both motions: the twin is put right before every step.
COMPARABLE = [
    env_id
    for env_id, entry in registered_twin.items()
    if hasattr(resolve(entry), "state_of") and not env_id.startswith("Kuka")
]
SINGLE_STEPS = ("Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")


def test_the_exact_twins_are_compared() -> None:
    assert {*SINGLE_STEPS, "MobileRobotGymEnv-v0", "MobileRobot2TargetGymEnv-v0"} <= set(COMPARABLE)


@pytest.mark.parametrize("env_id", registered_twin)
def test_types_are_those_of_the_contract(env_id: str) -> None:
    check_device_types(resolve(registered_twin[env_id])())


@pytest.mark.parametrize("env_id", COMPARABLE)
def test_a_few_episodes_agree(env_id: str) -> None:
    twin = resolve(registered_twin[env_id])
    options = {"noise": False} if "noise" in inspect.signature(twin).parameters else {}
    host = gymnasium.make(env_id, **options)
    tolerance = 1e-4 if env_id == "Pendulum-v1" else 1e-5  # rewards down to -16
    each_step = env_id in SINGLE_STEPS
    ours = twin(**options)
    steps = max(300, ours.spec.max_episode_steps + 1)
    compared = assert_twin(host, ours, steps, each_step=each_step, reward_tolerance=tolerance)
    host.close()
    assert compared.episodes >= 2 and len(compared.rewards) >= steps
