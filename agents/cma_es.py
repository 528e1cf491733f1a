"""CMA-ES: evolution of a policy's parameters (Hansen 2016, "The CMA evolution strategy", arXiv 1604.00772)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.base_classes import JaxAlgorithm
from agents.common import cma
from agents.common.evolution import add_episodes, choose, episode_returns
from agents.common.flat_policy import FlatPolicy, flat_policy
from agents.common.memory import available_memory
from agents.common.normalizer import RunningStats, init_stats, normalize
from agents.options import option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Discrete, Spec
from networks.torsos import SmallCNN

MOST_FULL = 2000  # parameters; beyond them `auto` takes a diagonal covariance


@dataclass(frozen=True)
class Config:
    """Static options of CMA-ES."""

    num_population: int = option(20, "Members of a generation (lambda).", minimum=2)
    num_episodes: int = option(1, "Episodes that each member plays in a generation.", minimum=1)
    policy: str = option("auto", "Policy; auto: mlp for states, cnn for pictures.", choices=("auto", "linear", "mlp"))
    net_arch: tuple = option((100,), "Hidden layers (ReLU) of the mlp.", minimum=1)
    covariance: str = option(
        "auto", "Covariance matrix; auto: full up to 2000 parameters.", choices=("auto", "full", "diagonal")
    )
    normalize: bool = option(True, "Standardise states by their running mean and variance.")
    deterministic: bool = option(False, "Play the best discrete action instead of sampling one while exploring.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of CMA-ES."""

    mu: float = option(0.0, "Initial mean of every parameter.")
    sigma: float = option(0.14, "Initial step size.", minimum=1e-6, search=(0.01, 1.0))


jax.tree_util.register_dataclass(Hyper)


class Acting(NamedTuple):
    """A policy: its parameters [n], flat, and observation statistics (() where not standardised)."""

    weights: jax.Array
    stats: RunningStats | tuple[()]


class Search(NamedTuple):
    """The search beside its mean, which is the acting policy.

    Attributes:
        strategy: Distribution of the members about the mean.
        samples: The generation that plays.
        member: The best member of all generations, with the statistics that it was played with.
        member_return: Its return [], -inf before the first generation.
    """

    strategy: cma.Strategy
    samples: cma.Samples
    member: Acting
    member_return: jax.Array


def policy_of(spec: Spec, config: Config) -> FlatPolicy:
    """The policy that the options ask for.

    Raises:
        ValueError: A linear policy or an mlp is to observe pictures, or they are too small for the cnn.
    """
    if spec.pixels and config.policy != "auto":
        raise ValueError(f"--policy={config.policy} is for states, {spec.id} observes pictures: use --policy=auto")
    if spec.pixels and min(spec.obs_shape[:2]) < SmallCNN.smallest:
        size = "x".join(map(str, spec.obs_shape[:2]))
        raise ValueError(f"cma-es needs pictures of at least {SmallCNN.smallest} pixels a side, {spec.id} gives {size}")
    return flat_policy(spec, () if config.policy == "linear" else tuple(config.net_arch))


def strategy_constants(config: Config, dimension: int) -> cma.Constants:
    """Constants of the search of so many parameters.

    Raises:
        ValueError: Its matrices would not fit the memory.
    """
    diagonal = config.covariance == "diagonal" or (config.covariance == "auto" and dimension > MOST_FULL)
    constants = cma.constants(dimension, config.num_population, diagonal)
    available = available_memory()
    if constants.bytes > available:
        advice = "a smaller policy" if diagonal else "--covariance=diagonal"
        raise ValueError(
            f"cma-es with {dimension:,} parameters and a {'diagonal' if diagonal else 'full'} covariance needs "
            f"{constants.bytes / 2**30:,.1f} GiB, the device has {available / 2**30:,.1f} GiB: use {advice}"
        )
    return constants


def make(spec: Spec, config: Config) -> Agent:
    """Build CMA-ES for an environment. Environments k E ... k E + E - 1 play member k, for E episodes a member.

    Raises:
        ValueError: The environment has no episode limit, the policy does not suit it, or the search does not fit the
            memory.
    """
    if spec.max_episode_steps is None:
        raise ValueError(f"cma-es plays whole episodes, but {spec.id} has no limit of episode steps")
    discrete = isinstance(spec.action, Discrete)
    policy = policy_of(spec, config)
    outputs, dimension = policy.outputs, policy.size
    constants = strategy_constants(config, dimension)
    standardise = config.normalize and not spec.pixels

    def draw(key: jax.Array, strategy: cma.Strategy) -> cma.Samples:
        return cma.ask(constants, strategy, jax.random.normal(key, (config.num_population, dimension)))

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        strategy = cma.init(constants, jnp.asarray(hyper.sigma, jnp.float32))
        stats = init_stats(spec.obs_shape) if standardise else ()
        mean = Acting(jnp.full(dimension, hyper.mu, jnp.float32), stats)
        return AgentState(mean, Search(strategy, draw(key, strategy), mean, jnp.float32(-jnp.inf)))

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict[str, Any]]:
        acting, search = state
        x = normalize(acting.stats, obs)
        if explore:
            members = acting.weights + search.strategy.sigma * search.samples.y
            out = jax.vmap(outputs)(members, x.reshape(config.num_population, -1, *spec.obs_shape))
            out = out.reshape(obs.shape[0], -1)
        else:
            out = outputs(acting.weights, x)
        return choose(out, discrete, key, explore and not config.deterministic), {}

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, search = state
        returns = episode_returns(batch).reshape(config.num_population, -1).mean(axis=1)
        search = _remember(acting, search, returns)
        mean, strategy = cma.tell(constants, search.strategy, acting.weights, search.samples, -returns, clock.iteration)
        metrics = _report(returns, search, mean - acting.weights, strategy)
        search = search._replace(strategy=strategy, samples=draw(key, strategy))
        return AgentState(Acting(mean, add_episodes(acting.stats, batch)), search), metrics

    def probabilities(state: AgentState, obs: jax.Array) -> jax.Array:
        out = outputs(state.acting.weights, normalize(state.acting.stats, obs))
        return jax.nn.softmax(out) if discrete else out

    traits = Traits(
        rollout_length=spec.max_episode_steps,
        num_envs=config.num_population * config.num_episodes,
        fresh_episodes=True,
        keep_obs=standardise,
    )

    def discard(old: AgentState, new: AgentState, key: jax.Array) -> AgentState:
        search = old.learning
        return AgentState(old.acting, search._replace(samples=draw(key, search.strategy)))

    return Agent(init, act, update, traits, probabilities, others=_best_member, discard=discard)


def _best_member(state: AgentState) -> dict[str, Any]:
    """What is kept beside the mean."""
    return {"member": state.learning.member}


def _report(returns: jax.Array, search: Search, step: jax.Array, strategy: cma.Strategy) -> dict[str, jax.Array]:
    """Metrics of a generation with these returns [population] that moved the mean by `step` [dimension]."""
    variances = strategy.cov if strategy.cov.ndim == 1 else jnp.diagonal(strategy.cov)
    deviations = strategy.sigma * jnp.sqrt(variances)
    return {
        "fitness_mean": returns.mean(),
        "fitness_best": returns.max(),
        "best_member_return": search.member_return,
        "step_norm": jnp.linalg.norm(step),
        "sigma": strategy.sigma,
        "deviation_min": deviations.min(),
        "deviation_max": deviations.max(),
    }


def _remember(mean: Acting, search: Search, returns: jax.Array) -> Search:
    """Keep the best member of the generation where it beats all before; `returns` [population], NaN never does."""
    returns = jnp.where(jnp.isnan(returns), -jnp.inf, returns)
    best = jnp.argmax(returns)
    member = Acting(mean.weights + search.strategy.sigma * search.samples.y[best], mean.stats)
    better = returns[best] > search.member_return
    member = jax.tree.map(lambda new, old: jnp.where(better, new, old), member, search.member)
    return search._replace(member=member, member_return=jnp.maximum(returns[best], search.member_return))


class CMAES(JaxAlgorithm):
    """CMA-ES behind the toolbox's common interface."""

    name, Config, Hyper, make = "cma-es", Config, Hyper, staticmethod(make)
