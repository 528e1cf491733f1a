"""ARS: augmented random search of policies (Mania, Guy and Recht 2018, arXiv 1803.07055, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.base_classes import JaxAlgorithm
from agents.common.evolution import add_episodes, choose, episode_returns
from agents.common.flat_policy import flat_policy
from agents.common.normalizer import RunningStats, init_stats, normalize
from agents.options import option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Discrete, Spec


@dataclass(frozen=True)
class Config:
    """Static options of ARS."""

    num_population: int = option(10, "Directions per update; each is played forth and back.", minimum=1)
    algo_type: str = option("v2", "v2 standardises states, v1 does not.", choices=("v1", "v2"))
    policy: str = option("linear", "Policy: a matrix, as in the paper, or an mlp.", choices=("linear", "mlp"))
    net_arch: tuple = option((16,), "Hidden layers (ReLU) of the mlp.", minimum=1)
    deterministic: bool = option(False, "Play the best discrete action instead of sampling one while exploring.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of ARS."""

    exploration_noise: float = option(0.5, "Standard deviation of the directions (nu).", minimum=0, search=(0.01, 1.0))
    step_size: float = option(0.2, "Step size (alpha).", minimum=0, search=(0.01, 1.0))
    top_population: float = option(2, "Directions kept for the update (b).", minimum=1, search=(1, 5))
    max_step_amplitude: float = option(10.0, "Largest factor a step is scaled up by.", minimum=1e-6, search=(1, 100))


jax.tree_util.register_dataclass(Hyper)


class Acting(NamedTuple):
    """The policy: weights M, [obs, outputs] or one vector for an mlp, and statistics (() where not standardised)."""

    weights: jax.Array
    stats: RunningStats | tuple[()]


class Search(NamedTuple):
    """The current generation: directions delta [population, *shape of M] and their scale nu []."""

    directions: jax.Array
    noise: jax.Array


def search_step(returns: jax.Array, directions: jax.Array, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
    """The update of the weights (algorithm 2, line 7), from the best directions only.

    Args:
        returns: Episode returns [population, 2], with the direction added and subtracted.
        directions: delta [population, *shape of M].
        hyper: Step size, number of directions kept, largest amplitude.

    Returns:
        (step [*shape of M], standard deviation of the returns kept []).
    """
    kept = jnp.argsort(jnp.argsort(-returns.max(axis=1))) < hyper.top_population
    weight = kept / jnp.sum(kept)
    mean = jnp.sum(weight[:, None] * returns) / 2
    spread = jnp.sqrt(jnp.sum(weight[:, None] * (returns - mean) ** 2) / 2)
    scale = hyper.step_size / jnp.maximum(jnp.sum(kept) * spread, 1.0 / hyper.max_step_amplitude)
    gain = jnp.where(kept, returns[:, 0] - returns[:, 1], 0.0)
    return scale * jnp.tensordot(gain, directions, axes=1), spread


class Policy(NamedTuple):
    """A policy as functions.

    Attributes:
        outputs: Function (weights M, obs [N, *obs_shape]) -> outputs [N, outputs].
        init: Function (key) -> M at the start of the search.
    """

    outputs: Callable[[jax.Array, jax.Array], jax.Array]
    init: Callable[[jax.Array], jax.Array]


def policy_of(spec: Spec, config: Config) -> Policy:
    """The policy that the options ask for.

    Raises:
        ValueError: An mlp is to observe pictures.
    """
    if config.policy == "mlp":
        if spec.pixels:
            raise ValueError(f"--policy=mlp is for states, {spec.id} observes pictures: use --policy=linear")
        policy = flat_policy(spec, tuple(config.net_arch))
        return Policy(policy.outputs, policy.init)
    shape = (math.prod(spec.obs_shape), spec.action.n if isinstance(spec.action, Discrete) else spec.action.size)
    return Policy(
        lambda weights, obs: obs.reshape(obs.shape[0], -1).astype(jnp.float32) @ weights,
        lambda key: jnp.zeros(shape),
    )


def members_of(weights: jax.Array, search: Search) -> jax.Array:
    """M + nu delta_k and M - nu delta_k of each direction, one after the other: [2 population, *shape of M]."""
    step = search.noise * search.directions
    return jnp.stack([weights + step, weights - step], axis=1).reshape(-1, *weights.shape)


def make(spec: Spec, config: Config) -> Agent:
    """Build ARS for an environment. Environment 2k plays M + nu delta_k, environment 2k+1 plays M - nu delta_k.

    Raises:
        ValueError: The environment has no episode limit, so an episode might never end, or `policy_of` refuses.
    """
    if spec.max_episode_steps is None:
        raise ValueError(f"ars plays whole episodes, but {spec.id} has no limit of episode steps")
    discrete = isinstance(spec.action, Discrete)
    policy = policy_of(spec, config)
    standardise = config.algo_type == "v2" and not spec.pixels

    def draw(key: jax.Array, weights: jax.Array, hyper: Hyper) -> Search:
        directions = jax.random.normal(key, (config.num_population, *weights.shape))
        return Search(directions, jnp.asarray(hyper.exploration_noise, jnp.float32))

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        stats = init_stats(spec.obs_shape) if standardise else ()
        weights_key, search_key = jax.random.split(key)
        weights = policy.init(weights_key)
        return AgentState(Acting(weights, stats), draw(search_key, weights, hyper))

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict[str, Any]]:
        acting, search = state
        x = normalize(acting.stats, obs)
        if explore:
            members = members_of(acting.weights, search)
            out = jax.vmap(policy.outputs)(members, x.reshape(len(members), -1, *spec.obs_shape))
            out = out.reshape(obs.shape[0], -1)
        else:
            out = policy.outputs(acting.weights, x)
        return choose(out, discrete, key, explore and not config.deterministic), {}

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, search = state
        returns = episode_returns(batch).reshape(config.num_population, 2)
        step, spread = search_step(returns, search.directions, hyper)
        metrics = {
            "fitness_mean": returns.mean(),
            "fitness_best": returns.max(),
            "fitness_spread": spread,
            "step_norm": jnp.linalg.norm(step),
        }
        weights = acting.weights + step
        return AgentState(Acting(weights, add_episodes(acting.stats, batch)), draw(key, weights, hyper)), metrics

    def probabilities(state: AgentState, obs: jax.Array) -> jax.Array:
        out = policy.outputs(state.acting.weights, normalize(state.acting.stats, obs))
        return jax.nn.softmax(out) if discrete else out

    traits = Traits(
        rollout_length=spec.max_episode_steps,
        num_envs=2 * config.num_population,
        fresh_episodes=True,
        keep_obs=standardise,
    )
    # The next directions do not depend on what came of these.
    return Agent(
        init, act, update, traits, probabilities, discard=lambda old, new, key: AgentState(old.acting, new.learning)
    )


class ARS(JaxAlgorithm):
    """ARS behind the toolbox's common interface."""

    name, Config, Hyper, make = "ars", Config, Hyper, staticmethod(make)

    @classmethod
    def check(cls, config: Any, hyper: dict[str, float]) -> None:
        """Refuse a top population larger than the population."""
        if hyper["top_population"] > config.num_population:
            raise ValueError(
                f"--top-population={hyper['top_population']:g} is larger than --num-population={config.num_population}"
            )
