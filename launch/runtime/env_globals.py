"""What env_globals.json records: the constants of the environment and the options it was made with."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from types import ModuleType
from typing import Any

from envs.make import EnvOptions
from envs.registry import registered_env, registered_robot, registered_twin, resolve

_PLAIN = (bool, int, float, str, type(None))


def environment_globals(options: EnvOptions) -> dict[str, Any]:
    """Collect the upper-case constants of an environment's modules, and its options.

    The modules are those of its class and of the classes it derives from, base first; on the device those of the
    twin. An environment that is not one of ours has its options only.
    """
    registry = registered_twin if options.on_device else {name: entry[0] for name, entry in registered_env.items()}
    if options.real_robot is not None:
        registry = {**registry, **registered_robot}
    constants: dict[str, Any] = {}
    if options.env in registry:
        cls = resolve(registry[options.env])
        modules = [importlib.import_module(base.__module__) for base in reversed(inspect.getmro(cls))]
        for module in modules:
            if module.__name__.split(".")[0] not in ("builtins", "abc", "typing", "gymnasium"):
                constants.update(_constants(module))
    return {**constants, **dataclasses.asdict(options)}


def _constants(module: ModuleType) -> dict[str, Any]:
    """Upper-case module attributes that JSON can hold."""
    return {
        name: value
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_") and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(map(_is_plain, value)))
