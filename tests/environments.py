"""The options that every simulated environment of the registry takes, found from its constructor."""

from __future__ import annotations

import inspect
from typing import Any

from envs.host.quiet import quiet_import
from envs.registry import registered_env, resolve, simulated_envs

SMALL_PICTURE = 36  # pixels; the smallest that stable-baselines3's CNN takes, too


def environment_class(env_id: str) -> Any:
    """The class of an id, its simulator being imported without a banner."""
    quiet_import("pybullet")
    return resolve(registered_env[env_id][0])


def kinds_of_action(env_id: str) -> dict[str, dict[str, Any]]:
    """Name and options of each kind of action."""
    kinds: dict[str, dict[str, Any]] = {"discrete": {}, "continuous": {"is_discrete": False}}
    if "action_joints" in inspect.signature(environment_class(env_id)).parameters:
        kinds["joints"] = {"is_discrete": False, "action_joints": True}
    return kinds


def option_cases(env_id: str) -> dict[str, dict[str, Any]]:
    """{what is chosen: options}: none, each option by itself, and all together."""
    cls = environment_class(env_id)
    parameters = inspect.signature(cls).parameters
    single: dict[str, dict[str, Any]] = {f"srl_model={name}": {"srl_model": name} for name in cls.srl_models[1:]}
    for name, parameter in parameters.items():
        default = parameter.default
        if parameter.annotation == "bool | None":  # each class has its own
            default = getattr(cls(), name)
        if isinstance(default, bool):
            single[name] = {name: not default}
    if "action_joints" in parameters:
        single["action_joints"] = {"is_discrete": False, "action_joints": True}
    if "action_repeat" in parameters and _takes(cls, action_repeat=3):
        single["action_repeat"] = {"action_repeat": 3}
    together = {name: value for options in single.values() for name, value in options.items()}
    cases = {"defaults": {}, **single, "all": {**together, "srl_model": "raw_pixels"}}
    return {name: {"image_size": SMALL_PICTURE, **options} for name, options in cases.items()}


def _takes(cls: Any, **options: Any) -> bool:
    """Whether a constructor accepts options; the mobile robot, for one, knows action_repeat and takes only 1."""
    try:
        cls(**options).close()
    except ValueError:
        return False
    return True


CASES = [(env_id, case) for env_id in simulated_envs() for case in option_cases(env_id)]
