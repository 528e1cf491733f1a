"""ARS: augmented random search of linear policies (Mania, Guy and Recht 2018, arXiv 1803.07055, algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.base_classes import JaxAlgorithm
from agents.common.evolution import add_episodes, choose, episode_returns
from agents.common.normalizer import RunningStats, init_stats, normalize
from agents.options import option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Discrete, Spec


@dataclass(frozen=True)
class Config:
    """Static options of ARS."""

    num_population: int = option(10, "Directions per update; each is played forth and back.", minimum=1)
    algo_type: str = option("v2", "v2 standardises states, v1 does not.", choices=("v1", "v2"))
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
    """The linear policy: weights M [obs, action] and observation statistics (() where not standardised)."""

    weights: jax.Array
    stats: RunningStats | tuple[()]


class Search(NamedTuple):
    """The current generation: directions delta [population, obs, action] and their scale nu []."""

    directions: jax.Array
    noise: jax.Array


def search_step(returns: jax.Array, directions: jax.Array, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
    """The update of the weights (algorithm 2, line 7), from the best directions only.

    Args:
        returns: Episode returns [population, 2], with the direction added and subtracted.
        directions: delta [population, obs, action].
        hyper: Step size, number of directions kept, largest amplitude.

    Returns:
        (step [obs, action], standard deviation of the returns kept []).
    """
    kept = jnp.argsort(jnp.argsort(-returns.max(axis=1))) < hyper.top_population
    weight = kept / jnp.sum(kept)
    mean = jnp.sum(weight[:, None] * returns) / 2
    spread = jnp.sqrt(jnp.sum(weight[:, None] * (returns - mean) ** 2) / 2)
    scale = hyper.step_size / jnp.maximum(jnp.sum(kept) * spread, 1.0 / hyper.max_step_amplitude)
    gain = jnp.where(kept, returns[:, 0] - returns[:, 1], 0.0)
    return scale * jnp.einsum("k,kda->da", gain, directions), spread


def flat(acting: Acting, obs: jax.Array) -> jax.Array:
    """Observations [N, *obs_shape] standardised and flattened, float32 [N, inputs]."""
    return normalize(acting.stats, obs).reshape(obs.shape[0], -1).astype(jnp.float32)


def outputs(acting: Acting, obs: jax.Array) -> jax.Array:
    """The linear policy's outputs [N, outputs] for observations [N, *obs_shape]."""
    return flat(acting, obs) @ acting.weights


def make(spec: Spec, config: Config) -> Agent:
    """Build ARS for an environment. Environment 2k plays M + nu delta_k, environment 2k+1 plays M - nu delta_k.

    Raises:
        ValueError: The environment has no episode limit, so an episode might never end.
    """
    if spec.max_episode_steps is None:
        raise ValueError(f"ars plays whole episodes, but {spec.id} has no limit of episode steps")
    discrete = isinstance(spec.action, Discrete)
    num_outputs = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
    shape = (config.num_population, math.prod(spec.obs_shape), num_outputs)
    standardise = config.algo_type == "v2" and not spec.pixels

    def draw(key: jax.Array, hyper: Hyper) -> Search:
        return Search(jax.random.normal(key, shape), jnp.asarray(hyper.exploration_noise, jnp.float32))

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        stats = init_stats(spec.obs_shape) if standardise else ()
        return AgentState(Acting(jnp.zeros(shape[1:]), stats), draw(key, hyper))

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict[str, Any]]:
        out = outputs(state.acting, obs)
        if explore:
            x = flat(state.acting, obs).reshape(config.num_population, -1, shape[1])  # pairs (+, -)
            sign = jnp.asarray([1.0, -1.0])[None, :, None]
            moved = sign * state.learning.noise * jnp.einsum("kpd,kda->kpa", x, state.learning.directions)
            out = out + moved.reshape(out.shape)
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
        return AgentState(Acting(acting.weights + step, add_episodes(acting.stats, batch)), draw(key, hyper)), metrics

    def probabilities(state: AgentState, obs: jax.Array) -> jax.Array:
        out = outputs(state.acting, obs)
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
