"""Watching a learner for numbers that are not finite, inside its compiled update.

The check is one more metric, so that it leaves the device with the others, once per chunk: nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from agents.types import Agent, AgentState, Clock, Transition

BROKEN = "broken"  # the metric: 0, or the place of what broke in `quantities`, from 1


def quantities(metrics: Iterable[str]) -> list[str]:
    """What is watched, causes before effects: the batch, the metrics (losses and gradient norms first), parameters.

    Args:
        metrics: Names of the learner's metrics.
    """

    def rank(name: str) -> tuple[bool, bool, str]:
        return "loss" not in name, "grad" not in name, name

    return ["observations", "actions", "rewards", *sorted(set(metrics) - {BROKEN}, key=rank), "parameters"]


def watched(agent: Agent, skip: bool) -> Agent:
    """The agent with the metric `BROKEN`: which quantity was the first that an update found or left not finite.

    Args:
        agent: Any algorithm.
        skip: Discard such an update (see `Agent.discard`), and act on zeros where an observation is not finite, so
            that no simulator gets an action that is none. Otherwise nothing is changed, and nothing costs.
    """

    def act(state: AgentState, obs: Any, *rest: Any) -> Any:
        return agent.act(state, _cleaned(obs), *rest)

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Any, clock: Clock) -> tuple:
        new, metrics = agent.update(state, batch, key, hyper, clock)
        kept = agent.discard(state, new, jax.random.fold_in(key, 0)) if agent.discard else state
        old_leaves, kept_leaves, leaves = (jax.tree.leaves(tree) for tree in (state, kept, new))
        own = [a is not b for a, b in zip(kept_leaves, leaves, strict=True)]  # not what stays in either case
        bad = {
            "observations": ~_finite((batch.obs, batch.next_obs)),
            "actions": ~_finite(batch.action),
            "rewards": ~_finite(batch.reward),
            "parameters": _became_infinite([pair for pair, mine in zip(zip(old_leaves, leaves), own) if mine]),
        } | {name: ~_finite(value) for name, value in metrics.items()}
        found = jnp.stack([bad[name] for name in quantities(metrics)])
        broken = jnp.where(found.any(), 1.0 + jnp.argmax(found), 0.0)
        if skip:
            chosen = [jnp.where(broken > 0, a, b) if mine else b for a, b, mine in zip(kept_leaves, leaves, own)]
            new = jax.tree.unflatten(jax.tree.structure(new), chosen)
        return new, metrics | {BROKEN: broken}

    return agent._replace(act=act if skip else agent.act, update=update)


def _is_real(x: Any) -> bool:
    """Whether an array holds real numbers that may be infinite."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def _finite(tree: Any) -> jax.Array:
    """Whether all numbers of a tree are finite, bool []."""
    return jnp.all(jnp.stack([jnp.bool_(True), *(jnp.isfinite(x).all() for x in jax.tree.leaves(tree) if _is_real(x))]))


def _became_infinite(pairs: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Whether a number that was finite (first of a pair) no longer is, bool []; a first best score is -inf before."""
    gone = [jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new)) for old, new in pairs if _is_real(new)]
    return jnp.any(jnp.stack([jnp.bool_(False), *gone]))


def _cleaned(obs: Any) -> Any:
    """The observations with 0 in place of what is not finite."""
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0) if _is_real(x) else x, obs)
