"""Which environments exist, by id. Light: no simulator, jax or gymnasium is imported before `resolve` is called.

A user's environment is added by putting its id into `registered_env` (and its JAX twin, if any, into
`registered_twin`); the keywords of its constructor decide which command-line options it takes.
"""

from __future__ import annotations

import importlib
from enum import Enum
from typing import Any


class PlottingType(Enum):
    """How the state space of an environment is drawn."""

    PLOT_2D = 1
    PLOT_3D = 2


class ThreadingType(Enum):
    """What an environment can share a machine with: other processes, other threads, or nothing."""

    PROCESS = 1
    THREADING = 2
    NONE = 3


_SRL_ENV = "envs.host.srl_env:SRLGymEnv"
_ROBOT_ENV = "envs.host.robot_env:RobotEnv"
_KUKA_BUTTON = "envs.host.kuka_button:KukaButtonGymEnv"
_MOBILE_ROBOT = "envs.host.mobile_robot:MobileRobotGymEnv"

# NAME: (CLASS, SUPER_CLASS, PLOT_TYPE, THREADING_TYPE); a class as "module:Class" is loaded by `resolve` only.
registered_env: dict[str, tuple[str | type, str | type, PlottingType, ThreadingType]] = {
    "CarRacingGymEnv-v0": (
        "envs.host.car_racing:CarRacingEnv",
        "envs.host.goal_env:GoalEnv",
        PlottingType.PLOT_2D,
        ThreadingType.PROCESS,
    ),
    "KukaButtonGymEnv-v0": (_KUKA_BUTTON, _SRL_ENV, PlottingType.PLOT_3D, ThreadingType.PROCESS),
    **{
        f"{name}-v0": (f"envs.host.kuka_variants:{name}", _KUKA_BUTTON, PlottingType.PLOT_3D, ThreadingType.PROCESS)
        for name in ("KukaRandButtonGymEnv", "Kuka2ButtonGymEnv", "KukaMovingButtonGymEnv")
    },
    **{
        f"{name}-v0": (f"envs.host.mobile_robot:{name}", superclass, PlottingType.PLOT_2D, ThreadingType.PROCESS)
        for name, superclass in (
            ("MobileRobotGymEnv", _SRL_ENV),
            ("MobileRobot2TargetGymEnv", _MOBILE_ROBOT),
            ("MobileRobot1DGymEnv", _MOBILE_ROBOT),
            ("MobileRobotLineTargetGymEnv", _MOBILE_ROBOT),
        )
    },
    "OmnirobotEnv-v0": (
        "envs.host.omnirobot:OmniRobotEnv",
        "envs.host.goal_env:GoalEnv",
        PlottingType.PLOT_2D,
        ThreadingType.PROCESS,
    ),
    "Baxter-v0": ("envs.host.baxter:BaxterEnv", _ROBOT_ENV, PlottingType.PLOT_3D, ThreadingType.NONE),
    "RoboboGymEnv-v0": ("envs.host.robobo:RoboboEnv", _ROBOT_ENV, PlottingType.PLOT_2D, ThreadingType.NONE),
}

# NAME: the real robot of an environment that is simulated without `--real-robot`.
registered_robot: dict[str, str | type] = {
    "OmnirobotEnv-v0": "envs.host.real_omnirobot:RealOmniRobotEnv",
}

# NAME: device environment with the same id, spaces, constants and rewards, written in JAX (`--simulator=jax`).
registered_twin: dict[str, str | type] = {
    "Acrobot-v1": "envs.device.acrobot:Acrobot",
    "CartPole-v1": "envs.device.cartpole:CartPole",
    "KukaButtonGymEnv-v0": "envs.device.kuka_button:KukaButtonTwin",
    "Kuka2ButtonGymEnv-v0": "envs.device.kuka_variants:Kuka2ButtonTwin",
    "KukaMovingButtonGymEnv-v0": "envs.device.kuka_variants:KukaMovingButtonTwin",
    "KukaRandButtonGymEnv-v0": "envs.device.kuka_variants:KukaRandButtonTwin",
    "MobileRobot1DGymEnv-v0": "envs.device.mobile_robot:MobileRobot1DTwin",
    "MobileRobot2TargetGymEnv-v0": "envs.device.mobile_robot:MobileRobot2TargetTwin",
    "MobileRobotGymEnv-v0": "envs.device.mobile_robot:MobileRobotTwin",
    "MobileRobotLineTargetGymEnv-v0": "envs.device.mobile_robot:MobileRobotLineTargetTwin",
    "MountainCar-v0": "envs.device.mountain_car:MountainCar",
    "MountainCarContinuous-v0": "envs.device.mountain_car:MountainCarContinuous",
    "OmnirobotEnv-v0": "envs.device.omnirobot:OmniRobotTwin",
    "Pendulum-v1": "envs.device.pendulum:Pendulum",
}

# brax environments run on the device only, as "brax/<name>"; listed here because importing brax takes seconds.
BRAX_NAMES: tuple[str, ...] = (
    "ant",
    "fast",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "swimmer",
    "walker2d",
)


def simulated_envs() -> list[str]:
    """The ids of `registered_env` that run anywhere: a real robot shares its machine with nothing."""
    return [name for name, entry in registered_env.items() if entry[3] is not ThreadingType.NONE]


def resolve(entry: str | type) -> Any:
    """Return the class that an entry of a registry stands for.

    Args:
        entry: A class, or its address "module:Class", which is imported now.

    Raises:
        ValueError: The address has no "module:Class" form, or names nothing.
    """
    if not isinstance(entry, str):
        return entry
    module, separator, name = entry.partition(":")
    if not separator:
        raise ValueError(f"entry point '{entry}' is not of the form 'module:Class'")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(f"entry point '{entry}': module '{module}' has no '{name}'") from None
