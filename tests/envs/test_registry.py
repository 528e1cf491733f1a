"""What is registered, what resolves, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest

import envs
from envs.registry import PlottingType, ThreadingType, registered_env, registered_twin, resolve


def test_entries_resolve() -> None:
    mobile = [f"MobileRobot{kind}GymEnv-v0" for kind in ("", "2Target", "1D", "LineTarget")]
    kuka = [f"Kuka{kind}ButtonGymEnv-v0" for kind in ("", "Rand", "2", "Moving")]
    assert list(registered_env) == [*kuka, *mobile]
    for name, (entry, parent, plot, threading) in registered_env.items():
        cls = resolve(entry)
        assert issubclass(cls, resolve(parent)) and issubclass(cls, gymnasium.Env), name
        assert plot == (PlottingType.PLOT_3D if "Kuka" in name else PlottingType.PLOT_2D)
        assert threading is ThreadingType.PROCESS
    for name, entry in registered_twin.items():
        assert hasattr(resolve(entry), "step"), name
    assert (PlottingType(1), PlottingType(2)) == (PlottingType.PLOT_2D, PlottingType.PLOT_3D)
    assert [ThreadingType(value).name for value in (1, 2, 3)] == ["PROCESS", "THREADING", "NONE"]


def test_resolve_takes_classes_and_names_what_is_wrong() -> None:
    assert resolve(dict) is dict
    with pytest.raises(ValueError, match="not of the form 'module:Class'"):
        resolve("envs.registry")
    with pytest.raises(ValueError, match=r"module 'envs\.registry' has no 'Missing'"):
        resolve("envs.registry:Missing")


def test_ids_are_registered_with_gymnasium() -> None:
    assert envs.registered_env is registered_env
    for name in registered_env:
        spec = gymnasium.spec(name)
        assert spec.max_episode_steps is None  # the environment reports its own cap
    env = gymnasium.make("MobileRobotGymEnv-v0")
    env.reset(seed=0)
    env.close()


@pytest.mark.parametrize("module", ["envs", "envs.registry", "envs.make", "envs.types", "envs.host.worker"])
def test_importing_is_light(module: str) -> None:
    code = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "jaxlib", "pybullet", "brax"} & set(loaded)


def test_device_environments_import_without_gymnasium() -> None:
    code = "; ".join(
        [
            "import sys, importlib.util",
            "find = importlib.util.find_spec",
            "importlib.util.find_spec = lambda name, *rest: None if name == 'gymnasium' else find(name, *rest)",
            "import envs.registry",
            "assert 'gymnasium' not in sys.modules",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)
