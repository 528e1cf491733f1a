"""What evolution strategies share: fitness and statistics of whole episodes, and how outputs become actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from agents.common.distributions import Categorical
from agents.common.normalizer import RunningStats, update_stats
from agents.common.returns import alive_mask
from agents.types import Transition


def episode_returns(batch: Transition) -> jax.Array:
    """Sum of the rewards of each environment's first episode, its last reward included: float32 [N]."""
    alive = alive_mask(batch.terminated, batch.truncated)
    return jnp.sum(jnp.where(alive, batch.reward, 0.0), axis=0)


def add_episodes(stats: RunningStats | tuple[()], batch: Transition) -> RunningStats | tuple[()]:
    """Statistics with the observations of each environment's first episode added; () stays ()."""
    if not isinstance(stats, RunningStats):
        return stats
    return update_stats(stats, batch.obs, alive_mask(batch.terminated, batch.truncated))


def choose(outputs: jax.Array, discrete: bool, key: jax.Array, sample: bool) -> jax.Array:
    """Actions from a policy's outputs [N, outputs]: the outputs where continuous, else drawn or most probable [N]."""
    if not discrete:
        return outputs
    pi = Categorical(outputs)
    return pi.sample(key) if sample else pi.mode()
