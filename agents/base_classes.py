"""The extension contract: what a learner must offer to be trained, saved and played by the toolbox."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.options import options_of, validate
from agents.registry import ActionType, registered_rl
from agents.types import Agent, AgentState, Player
from envs.types import Discrete, Spec


def check_action_kind(name: str, spec: Spec) -> None:
    """Refuse an environment whose kind of actions the algorithm does not support.

    Raises:
        ValueError: It does not; the message names algorithms that do.
    """
    kind = ActionType.DISCRETE if isinstance(spec.action, Discrete) else ActionType.CONTINUOUS
    if kind not in registered_rl[name][2]:
        able = ", ".join(other for other, entry in registered_rl.items() if kind in entry[2])
        raise ValueError(f"{name} has no {kind.name.lower()} actions, {spec.id} has no others; these do: {able}")


class BaseRLObject(ABC):
    """A learner as the original toolbox defines it. Subclass it freely, or use `JaxAlgorithm`."""

    @abstractmethod
    def save(self, save_path: str, _locals: dict[str, Any] | None = None) -> None:
        """Write the trained model to the folder `save_path`."""

    @classmethod
    @abstractmethod
    def load(cls, load_path: str, args: Any = None) -> BaseRLObject:
        """Return a trained learner from what `save` wrote."""

    @abstractmethod
    def customArguments(self, parser: Any) -> Any:
        """Add the learner's flags with `parser.add_argument(...)` and return the parser."""

    @abstractmethod
    def getAction(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray:
        """Return actions [N, ...] for observations [N, ...] of N environments."""

    @abstractmethod
    def train(
        self, args: Any, callback: Callable[..., Any], env_kwargs: Any = None, hyperparam: dict[str, Any] | None = None
    ) -> None:
        """Learn for `args.num_timesteps` environment steps, calling `callback(locals(), globals())` now and then."""

    @classmethod
    def makeEnv(cls, args: Any, env_kwargs: Any = None, load_path_normalise: str | None = None) -> Any:
        """Build `args.num_cpu` environments in worker processes, see envs.host.vec_env.VecEnv.

        `load_path_normalise` is for learners that keep observation statistics beside the model; the default keeps
        them within it and ignores the argument.
        """
        from envs.host.vec_env import VecEnv
        from envs.make import EnvOptions
        from launch.runtime.srl_models import encoding_of

        options = env_kwargs or EnvOptions.from_args(args)
        return VecEnv.from_args(args, options, encoding_of(options))

    def getActionProba(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray | None:
        """Return action probabilities [N, n] (discrete) or the mean action [N, size]; None where there is none."""
        return None

    def getOptParam(self) -> dict[str, tuple[type, tuple[float, float] | list[Any]]] | None:
        """Return NAME: (type, (low, high) or [values]) for hyperparameter search, or None where nothing is tunable."""
        return None


class JaxAlgorithm(BaseRLObject):
    """Implements the whole contract from an algorithm module.

    A subclass sets four class attributes:
        name: Its registry name.
        Config, Hyper: The dataclasses of static and traced options.
        make: (Spec, Config) -> Agent.
    """

    name: str
    Config: Any
    Hyper: Any
    make: Callable[[Spec, Any], Agent]

    def __init__(self) -> None:
        self.agent: Agent | None = None
        self.state: AgentState | None = None
        self.spec: Spec | None = None
        self.info: dict[str, Any] = {}
        self._memory: Any = None  # of the environments that getAction acts in, from its first call on
        self._key: jax.Array | None = None  # drawn from by getAction; made there, to leave the backend alone till then

    @classmethod
    def configure(cls, values: dict[str, Any]) -> tuple[Any, dict[str, float]]:
        """Turn option values by name into (Config, Hyper values by name); missing ones take their defaults.

        Raises:
            ValueError: A value is invalid, or values contradict each other.
        """
        known = {option.name: option for option in options_of(cls.Config, cls.Hyper)}
        checked = {name: validate(known[name], value) for name, value in values.items() if name in known}
        static = {field.name for field in dataclasses.fields(cls.Config)}
        config = cls.Config(**{name: value for name, value in checked.items() if name in static})
        hyper = {field.name: float(checked.get(field.name, field.default)) for field in dataclasses.fields(cls.Hyper)}
        cls.check(config, hyper)
        return config, hyper

    @classmethod
    def check(cls, config: Any, hyper: dict[str, float]) -> None:
        """Raise ValueError where options contradict each other; nothing by default."""

    @classmethod
    def hyper_tree(cls, values: dict[str, Any]) -> Any:
        """Build a Hyper of float32 arrays from numbers or arrays [K] by name."""
        return cls.Hyper(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})

    def customArguments(self, parser: Any) -> Any:
        """Add a flag for every field of Config and Hyper."""
        for option in options_of(self.Config, self.Hyper):
            parser.add_argument(
                option.flag, type=option.type, default=option.default, choices=option.choices, help=option.help
            )
        return parser

    def train(
        self,
        args: Any,
        callback: Callable[..., Any] | None = None,
        env_kwargs: Any = None,
        hyperparam: dict[str, Any] | None = None,
    ) -> None:
        """Train with the device or the host driver, as `args.simulator` says; see launch.runtime.training."""
        # The one import against the grain: it lets a learner be trained from Python without the command line.
        from launch.runtime.training import train

        train(self, args, callback, env_kwargs, hyperparam or {})

    def adopt(self, agent: Agent, spec: Spec, acting: Any, info: dict[str, Any]) -> None:
        """Play with the policy `acting` from now on (leaves without a run axis); `info` describes the model."""
        self.agent, self.spec, self.info = agent, spec, info
        self.state = AgentState(acting, ())
        self._player, self._memory = Player(agent), None
        self._act = jax.jit(self._player.act, static_argnums=3)
        self._probabilities = jax.jit(self._player.probabilities)

    def save(self, save_path: str, _locals: dict[str, Any] | None = None) -> None:
        """Write the policy to the folder `save_path`.

        Raises:
            ValueError: There is no policy yet.
        """
        if self.state is None:
            raise ValueError(f"{self.name} has no policy to save: train or load it first")
        from launch.runtime.policy import save_policy

        save_policy(save_path, self)

    @classmethod
    def load(cls, load_path: str, args: Any = None) -> JaxAlgorithm:
        """Load a policy from a model folder; `args.run` picks one of a sweep's (0 by default)."""
        from launch.runtime.policy import load_policy

        return load_policy(load_path, cls, getattr(args, "run", 0))

    def getAction(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray:
        """Return the deterministic policy's actions [N, ...] for observations [N, ...].

        An agent with memory takes them as the next of its episodes; `dones` [N] tells where the last one has ended.
        """
        return self.play(observation, explore=False, dones=dones)

    def play(self, observation: np.ndarray, explore: bool, dones: np.ndarray | None = None) -> np.ndarray:
        """Return actions [N, ...], sampled from the policy where `explore` is set; `dones` as for `getAction`.

        Raises:
            ValueError: There is no policy yet, or nothing to sample from.
        """
        if self.state is None or self.agent is None:
            raise ValueError(f"{self.name} has no policy to play: train or load it first")
        if explore and self.agent.traits.fresh_episodes:
            raise ValueError(f"{self.name} explores by its parameters: its policy has no actions to sample")
        self._key, key = jax.random.split(jax.random.key(0) if self._key is None else self._key)
        if self._memory is None:
            self._memory = self._player.begin(len(observation))
        if dones is not None:
            self._memory = self._player.forget(self._memory, jnp.asarray(dones))
        action, _, self._memory = self._act(self.state, observation, key, explore, self._memory)
        return np.asarray(action)

    def getActionProba(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray | None:
        """Return action probabilities [N, n], or the mean action [N, size]; `dones` as for `getAction`.

        An agent with memory is asked before `getAction`, which takes the observations into its memory.
        """
        assert self.agent is not None, "train or load a policy first"
        memory = self._player.begin(len(observation)) if self._memory is None else self._memory
        if dones is not None:
            memory = self._player.forget(memory, jnp.asarray(dones))
        return np.asarray(self._probabilities(self.state, observation, memory))

    def getOptParam(self) -> dict[str, tuple[type, tuple[float, float] | list[Any]]] | None:
        """Collect the search ranges declared beside the options."""
        found = {o.name: (o.type, o.search) for o in options_of(self.Config, self.Hyper) if o.search is not None}
        return found or None
