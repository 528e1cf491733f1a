"""What evolution strategies share: the fitness of a batch of whole episodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from agents.common.returns import alive_mask
from agents.types import Transition


def episode_returns(batch: Transition) -> jax.Array:
    """Sum of the rewards of each environment's first episode, its last reward included: float32 [N]."""
    alive = alive_mask(batch.terminated, batch.truncated)
    return jnp.sum(jnp.where(alive, batch.reward, 0.0), axis=0)
