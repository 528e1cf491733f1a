"""Checks of a parsed command line: whether the environment exists and its flags go together.

Reads the signature of an environment's constructor from its source, so that neither a simulator nor jax is imported.
What only the environment itself can tell (its action space, its time limit) is checked when it is made.
"""

from __future__ import annotations

import ast
import importlib.util
from argparse import Namespace
from pathlib import Path
from typing import Any

from agents.registry import ActionType, AlgoType, registered_rl
from launch.runtime.cluster import check_cluster
from launch.runtime.distributed import check_flags
from launch.runtime.errors import UsageError, nearest
from launch.runtime.flag_parser import Flag
from representations.registry import check_environment

MAX_PORT = 65534
_BRAX_PREFIX = "brax/"
# Flags that mean something only where the environment's constructor has a keyword: (name, keyword, "not used" value).
_ENV_FLAGS = (
    ("srl_model", "srl_model", "ground_truth"),
    ("joints", "action_joints", False),
    ("random_target", "random_target", False),
    ("shape_reward", "shape_reward", False),
    ("action_repeat", "action_repeat", 1),
    ("multi_view", "multi_view", False),
    ("fpv", "fpv", False),
    ("real_robot", "real_robot", None),
)
_PATHS = ("srl_config_file", "load_rl_model_path", "srl_model_path")


def check_arguments(args: Namespace) -> None:
    """Check the combination of all flags of `launch/train.py`.

    Raises:
        ValueError: One line that says what does not go together, or what does not exist.
    """
    if args.real_robot is not None:
        check_robot(args.real_robot, args.simulator)
    if args.data_parallel and args.simulator != "jax":
        raise UsageError("--data-parallel needs --simulator=jax: worker processes are not on a device")
    _check_rollouts(args)
    check_flags(args)
    _check_environment(args.env, args.simulator)
    _check_actions(args)
    if not args.eval_deterministic and registered_rl[args.algo][1] is AlgoType.EVOLUTION_STRATEGIES:
        raise UsageError(f"--noeval-deterministic: {args.algo} explores by its parameters and draws no actions")
    _check_environment_flags(args)
    if not args.resume:  # a run that goes on has its policy, its representation's folder and its own folder already
        _check_paths(args)


def _check_rollouts(args: Namespace) -> None:
    """Refuse a cluster for simulators where there are none to spread, or that is not installed."""
    if args.rollout_launcher == "ray" and args.simulator == "jax":
        raise UsageError("--rollout-launcher=ray: --simulator=jax has no simulation processes, leave one of them out")
    if args.rollout_launcher == "ray" and args.real_robot is not None:
        raise UsageError("--rollout-launcher=ray has no meaning for --real-robot: leave it out")
    check_cluster(args, "rollout_launcher")


def check_robot(address: str, simulator: str | None) -> None:
    """Check `--real-robot`.

    Raises:
        ValueError: It is no address, or the JAX simulator was chosen as well.
    """
    from envs.host.robot_client import endpoint  # here because it loads NumPy

    endpoint(address)
    if simulator == "jax":
        raise UsageError(f"--real-robot={address} is no simulation: leave out --simulator=jax")


def check_task(args: Namespace) -> None:
    """Check the flags of a task whose pictures are recorded.

    Raises:
        ValueError: The environment does not exist in this simulator, or one of its flags has no meaning for it.
    """
    _check_environment(args.env, args.simulator)
    _check_environment_flags(args)


def _check_environment(env: str, simulator: str) -> None:
    """Refuse an environment that does not exist, or not in this simulator."""
    from envs.registry import BRAX_NAMES, registered_env, registered_twin  # here because it loads Gymnasium

    brax = [_BRAX_PREFIX + name for name in BRAX_NAMES]
    if env in brax:
        if simulator != "jax":
            raise UsageError(f"{env} runs on the device only: leave out --simulator={simulator}")
    elif env in registered_twin and simulator == "jax":
        return
    elif env not in registered_env and ":" not in env and env not in (ids := _gymnasium_ids()):
        match = nearest(env, [*registered_env, *brax, *ids])
        advice = f"did you mean {match}?" if match else f"the toolbox has {', '.join(registered_env)}"
        raise UsageError(f"unknown environment {env}; {advice}")
    elif simulator == "jax":
        twins = ", ".join([*sorted(registered_twin), "brax/NAME"])
        raise UsageError(f"--simulator=jax: {env} has no JAX twin; these have one: {twins}")


def _gymnasium_ids() -> list[str]:
    """All ids that Gymnasium knows, PyBullet's locomotion tasks included."""
    try:
        import gymnasium
        import pybullet_envs_gymnasium  # noqa: F401  # registers its ids; loads no simulator
    except ImportError as error:
        raise UsageError(f"this environment needs a package that is not installed: {error}") from None
    return list(gymnasium.registry)


def _check_actions(args: Namespace) -> None:
    """Refuse discrete actions for an algorithm that has continuous ones only, and the other way round."""
    from envs.registry import registered_env

    kinds = registered_rl[args.algo][2]
    if args.continuous and ActionType.CONTINUOUS not in kinds:
        raise UsageError(f"{args.algo} has no continuous actions: leave out --continuous (-c)")
    # Another environment's action space is what it is, with or without -c.
    if not args.continuous and ActionType.DISCRETE not in kinds and args.env in registered_env:
        raise UsageError(f"{args.algo} has no discrete actions: add --continuous (-c)")


def _check_environment_flags(args: Namespace) -> None:
    """Refuse flags that mean nothing to the environment, or need one another."""
    keywords = constructor_keywords(args.env, args.simulator, real=args.real_robot is not None)
    for name, keyword, unused in _ENV_FLAGS:
        value = getattr(args, name)
        if value != unused and keywords is not None and keyword not in keywords:
            typed = f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            raise UsageError(f"{typed} has no meaning for {args.env}: leave it out")
    if args.joints and not args.continuous:
        raise UsageError("--joints needs --continuous (-c)")
    if args.srl_model.startswith("joints") and keywords is not None and "action_joints" not in keywords:
        raise UsageError(f"--srl-model={args.srl_model}: {args.env} has no joints; choose ground_truth or raw_pixels")
    check_environment(args.srl_model, args.env)
    if args.renderer == "jax":
        _check_renderer(args)
    for name in ("multi_view", "fpv"):
        if getattr(args, name) and args.srl_model != "raw_pixels" and args.srl_model_path is None:
            raise UsageError(f"--{name.replace('_', '-')} adds a picture: it needs --srl-model=raw_pixels")


def _check_renderer(args: Namespace) -> None:
    """Refuse `--renderer=jax` where there is nothing for it to draw."""
    if args.simulator == "jax":
        raise UsageError("--renderer=jax: what --simulator=jax shows is drawn so anyway, leave it out")
    from envs.make import EnvOptions

    options = EnvOptions.from_args(args)
    (options.seen() if options.learned else options).told()


def constructor_keywords(env: str, simulator: str, real: bool) -> set[str] | None:
    """Return the keywords of an environment's constructor, None where they cannot be told without importing it."""
    from envs.registry import registered_env, registered_robot, registered_twin

    if env.startswith(_BRAX_PREFIX):
        return set()
    entry: object
    if simulator == "jax":
        entry = registered_twin[env]
    elif real and env in registered_robot:
        entry = registered_robot[env]
    elif env in registered_env:
        entry = registered_env[env][0]
    elif ":" in env:
        return None
    else:
        import gymnasium

        entry = gymnasium.registry[env].entry_point
    return _signature(*entry.partition(":")[::2]) if isinstance(entry, str) else None


def _signature(module: str, name: str) -> set[str] | None:
    """Read the argument names of `module:name`'s constructor from its source, None where it is not written there.

    A class without a constructor has that of its first base, which may be imported from another of our files.
    """
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders if (file := Path(folder, *rest).with_suffix(".py")).is_file()]
    body = ast.parse(files[0].read_text(encoding="utf-8")).body if files else []
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and any(name == alias.name for alias in node.names):
            return _signature(node.module, name)
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    return {arg.arg for arg in (*method.args.args, *method.args.kwonlyargs)}
            if not node.bases and not node.decorator_list:
                return set()
            base = node.bases[0] if node.bases else None
            return _signature(module, base.id) if isinstance(base, ast.Name) and not node.decorator_list else None
    return None


def saved_value(flag: Flag, value: Any, folder: str) -> Any:
    """Check a flag's value in the args.json of a folder that is resumed, as if it had been typed.

    Args:
        flag: The flag.
        value: What JSON holds of it.
        folder: The folder, for the message.

    Returns:
        The value, of the flag's type; a list where it takes several.

    Raises:
        UsageError: It is no value of that flag.
    """
    option = flag.option
    items = value if flag.many else [value]
    if value is None and option.default is None:
        return None
    # A flag of text would read anything: what is not text was not written by one.
    if not isinstance(items, list) or (flag.convert is None and option.type is str and not all(map(_is_text, items))):
        raise damaged(folder, option.name, value)
    try:
        read = [flag.read(item) for item in items]
    except UsageError:
        raise damaged(folder, option.name, value) from None
    return read if flag.many else read[0]


def damaged(folder: str, name: str, value: Any) -> UsageError:
    """Return the error of a folder whose args.json has something else than a value of the flag `name`."""
    said = repr(value)
    return UsageError(
        f"--resume={folder}: its args.json is damaged: {name} is {said[:80]}{'...' if len(said) > 80 else ''}"
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check_paths(args: Namespace) -> None:
    """Refuse files that are named and do not exist, and a log folder that cannot be written."""
    from launch.runtime.run_folder import check_log_dir

    for name in _PATHS:
        path = getattr(args, name)
        given = path is not None and path != "config/srl_models.yaml"
        if given and not Path(path).exists():
            raise UsageError(f"--{name.replace('_', '-')}={path}: no such file or folder")
    check_log_dir(args.log_dir)
