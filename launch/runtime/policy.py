"""From a run folder or a model folder back to a policy that plays."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.base_classes import BaseRLObject, JaxAlgorithm
from agents.registry import AlgoType, algorithm_class, registered_rl
from agents.types import Agent, Player
from envs.make import EnvOptions
from envs.types import Box, Discrete, Spec
from launch.runtime.model import BEST, FINAL, INFO_FILE, load_model, read_info, save_model
from launch.runtime.sweep import Plan


def model_info(algo: str, config: Any, runs: Plan, options: EnvOptions, spec: Spec) -> dict[str, Any]:
    """Describe a model so that `load_policy` can rebuild its networks; JSON-safe."""
    return {
        "algo": algo,
        "config": dataclasses.asdict(config),
        "hyper": {name: values.tolist() for name, values in runs.hyper.items()},
        "runs": runs.labels,
        "env": dataclasses.asdict(options),
        "spec": {**dataclasses.asdict(spec), "discrete": isinstance(spec.action, Discrete)},
    }


def find_model(path: str | Path, which: str | None = None) -> Path:
    """Find the model folder in a run folder or below it: best where there is one, else final.

    Args:
        path: A run folder, its `<algo>_model` folder, or a model folder.
        which: "best" or "final" to insist on one.

    Raises:
        ValueError: There is none, or the path is a model of another name.
    """
    path = Path(path)
    if (path / INFO_FILE).is_file():
        if which not in (None, path.absolute().name):
            raise ValueError(f"--model={which}: {path} is one model; give the run folder to choose from")
        return path
    if not path.is_dir():
        raise ValueError(f"{path} is not a run folder or a model folder")
    for name in (which,) if which else (BEST, FINAL):
        for candidate in (path / name, *sorted(path.glob(f"*_model/{name}"))):
            if (candidate / INFO_FILE).is_file():
                return candidate
    wanted = which or "saved"
    raise ValueError(f"{path} has no {wanted} model: the run ended before its first evaluation or is not a run folder")


def read_spec(info: dict[str, Any]) -> Spec:
    """Rebuild the spec that a model was trained for."""
    fields = dict(info["spec"])
    action = fields.pop("action")
    kind = Discrete(action["n"]) if fields.pop("discrete") else Box(tuple(action["low"]), tuple(action["high"]))
    return Spec(**{**fields, "obs_shape": tuple(fields["obs_shape"]), "action": kind})


def read_options(info: dict[str, Any]) -> EnvOptions:
    """Rebuild the options of the environment that a model was trained in.

    Raises:
        ValueError: The description does not hold them.
    """
    given = info.get("env")
    known = {field.name for field in dataclasses.fields(EnvOptions)}
    if not isinstance(given, dict) or not {"env"} <= set(given) <= known:
        raise ValueError(f"{INFO_FILE} does not say in which environment the model was trained")
    return EnvOptions(**given)


class Actor:
    """How a trained learner plays, called as (observations [N, ...], dones bool [N]) -> actions [N, ...].

    Args:
        algorithm: The learner, trained or loaded.
        deterministic: Play the most probable (or mean) action; otherwise actions are drawn from the policy. Evolution
            explores by its parameters, so there they are drawn from the action probabilities.
        seed: Seed of the draws.

    Raises:
        ValueError: The learner has nothing to draw actions from.
    """

    def __init__(self, algorithm: JaxAlgorithm, deterministic: bool, seed: int) -> None:
        agent = algorithm.agent
        assert agent is not None and algorithm.spec is not None
        drawn = registered_rl[algorithm.name][1] is AlgoType.EVOLUTION_STRATEGIES and not deterministic
        if drawn and isinstance(algorithm.spec.action, Box):
            raise ValueError(
                f"--nodeterministic: {algorithm.name} has no distribution of continuous actions to draw from"
            )
        player = Player(agent)

        def choose(state: Any, obs: Any, step: int, memory: Any) -> tuple[jax.Array, Any]:
            key = jax.random.fold_in(jax.random.key(seed), step)
            if drawn:
                return jax.random.categorical(key, jnp.log(agent.probabilities(state, obs))), memory
            action, _, memory = player.act(state, obs, key, not deterministic, memory)
            return action, memory

        self._state, self._begin = algorithm.state, player.begin
        self._choose, self._forget = jax.jit(choose), jax.jit(player.forget)
        self._chances = jax.jit(player.probabilities)
        self._steps = itertools.count()
        self._memory: Any = None  # after the last actions
        self._before: Any = None  # what they were chosen by

    def __call__(self, obs: Any, dones: np.ndarray) -> jax.Array:
        """Choose the next actions."""
        if self._memory is None:
            self._memory = self._begin(len(obs))
        self._before = self._forget(self._memory, dones)
        action, self._memory = self._choose(self._state, obs, next(self._steps), self._before)
        return action

    def probabilities(self, obs: Any) -> jax.Array:
        """Probabilities [N, n] of the actions, or their mean [N, size], at the observations that were acted on last."""
        return self._chances(self._state, obs, self._before)


class OwnActor:
    """An `Actor` for a learner that chooses its actions by its own `getAction`, and tells what it does of them."""

    def __init__(self, algorithm: BaseRLObject) -> None:
        self._algorithm = algorithm

    def __call__(self, obs: Any, dones: np.ndarray) -> Any:
        """Choose the next actions."""
        return self._algorithm.getAction(obs, dones)

    def probabilities(self, obs: Any) -> Any:
        """What the learner's `getActionProba` says; None where it does not tell."""
        return self._algorithm.getActionProba(obs)


def actor(algorithm: BaseRLObject, deterministic: bool, seed: int) -> Actor | OwnActor:
    """How a trained learner plays; see `Actor`.

    Raises:
        ValueError: The learner has nothing to draw actions from.
    """
    if isinstance(algorithm, JaxAlgorithm):
        return Actor(algorithm, deterministic, seed)
    if not deterministic:
        raise ValueError(f"--nodeterministic: {type(algorithm).__name__} chooses its actions by its own getAction")
    return OwnActor(algorithm)


def load_policy(path: str | Path, cls: type[JaxAlgorithm] | None = None, run: int = 0) -> JaxAlgorithm:
    """Load one run's policy.

    Args:
        path: Run folder or model folder.
        cls: The algorithm's class; found by the model's own record where None.
        run: Which run of a sweep.

    Raises:
        ValueError: There is no such model or run, or it is another algorithm's, or damaged.
    """
    folder = find_model(path)
    info = read_info(folder)
    algo = info.get("algo")
    if algo not in registered_rl:
        raise ValueError(f"model {folder} is of {algo}, which is not registered: --plugin=MODULE imports one of yours")
    if cls is not None and cls.name != algo:
        raise ValueError(f"model {folder} is of {algo}, not of {cls.name}")
    algorithm = algorithm_class(algo)()
    config, _ = algorithm.configure(info["config"])
    spec = read_spec(info)
    agent = type(algorithm).make(spec, config)
    count = len(info["runs"])
    if not 0 <= run < count:
        raise ValueError(f"--run={run}: {folder} has runs 0 to {count - 1}")
    acting = load_model(folder, _template(agent, algorithm, info, count))
    algorithm.adopt(agent, spec, jax.tree.map(lambda x: jnp.asarray(x[run]), acting), only(info, run))
    return algorithm


def save_policy(path: str | Path, algorithm: JaxAlgorithm) -> None:
    """Write the policy that an algorithm plays to the model folder `path`."""
    assert algorithm.state is not None
    path = Path(path)
    save_model(path.parent, path.name, jax.tree.map(lambda x: x[None], algorithm.state.acting), algorithm.info)


def only(info: dict[str, Any], run: int) -> dict[str, Any]:
    """The description of one run out of a sweep's."""
    hyper = {name: values[run : run + 1] for name, values in info["hyper"].items()}
    return {**info, "hyper": hyper, "runs": info["runs"][run : run + 1]}


def read_policies(path: str | Path, algorithm: JaxAlgorithm, spec: Spec, num_runs: int) -> Any:
    """Read run 0's policy for a warm start, repeated for each of `num_runs` runs.

    Raises:
        ValueError: No such model, another algorithm, or observations or actions of another shape.
    """
    loaded = load_policy(path, type(algorithm))
    assert loaded.spec is not None and loaded.state is not None
    for name in ("obs_shape", "action"):
        if getattr(loaded.spec, name) != getattr(spec, name):
            raise ValueError(
                f"--load-rl-model-path {path}: its {name} is {getattr(loaded.spec, name)}, this environment's is "
                f"{getattr(spec, name)}"
            )
    return jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], num_runs, axis=0), loaded.state.acting)


def _template(agent: Agent, algorithm: JaxAlgorithm, info: dict[str, Any], count: int) -> Any:
    """An acting state of the right shapes with run axis [count]."""
    hyper = algorithm.hyper_tree({name: values[0] for name, values in info["hyper"].items()})
    acting = jax.eval_shape(agent.init, jax.random.key(0), hyper).acting
    return jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), acting)
