"""Random agent: uniform actions; the floor that every learner is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from agents.base_classes import JaxAlgorithm
from agents.options import option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Box, Discrete, Spec


@dataclass(frozen=True)
class Config:
    """Static options of the random agent."""

    num_cpu: int = option(1, "Number of environments.", minimum=1)
    n_steps: int = option(128, "Steps of each environment between two reports.", minimum=1)


@dataclass(frozen=True)
class Hyper:
    """The random agent has no traced options."""


jax.tree_util.register_dataclass(Hyper)


def make(spec: Spec, config: Config) -> Agent:
    """Build the random agent; unbounded action components are drawn between -1 and 1."""

    def bounds(box: Box) -> tuple[jax.Array, jax.Array]:
        low, high = jnp.asarray(box.low), jnp.asarray(box.high)
        return jnp.where(jnp.isfinite(low), low, -1.0), jnp.where(jnp.isfinite(high), high, 1.0)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        return AgentState((), ())

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict[str, Any]]:
        if isinstance(spec.action, Discrete):
            return jax.random.randint(key, obs.shape[:1], 0, spec.action.n), {}
        low, high = bounds(spec.action)
        return jax.random.uniform(key, (obs.shape[0], spec.action.size), minval=low, maxval=high), {}

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        return state, {}

    def probabilities(state: AgentState, obs: jax.Array) -> jax.Array:
        if isinstance(spec.action, Discrete):
            return jnp.full((obs.shape[0], spec.action.n), 1.0 / spec.action.n)
        return jnp.tile(sum(bounds(spec.action)) / 2, (obs.shape[0], 1))

    traits = Traits(rollout_length=config.n_steps, num_envs=config.num_cpu, keep_obs=False)
    return Agent(init, act, update, traits, probabilities)


class RandomAgent(JaxAlgorithm):
    """Random agent behind the toolbox's common interface."""

    name, Config, Hyper, make = "random_agent", Config, Hyper, staticmethod(make)
