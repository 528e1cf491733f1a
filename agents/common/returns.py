"""Returns and advantages over [T, N] batches. Time limits bootstrap, deaths do not: folded once, here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def fold(
    reward: jax.Array, terminated: jax.Array, truncated: jax.Array, next_value: jax.Array, gamma: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Fold episode ends into rewards and discounts, so that no estimator needs a special case.

    A cut episode's reward takes in the discounted value of its true successor; any end sets the discount to zero.

    Args:
        reward: float32 [T, N].
        terminated: bool [T, N].
        truncated: bool [T, N]; a step that is both terminated and truncated counts as terminated.
        next_value: V(next_obs) [T, N].
        gamma: Discount factor [].

    Returns:
        (reward [T, N], discount [T, N]).
    """
    cut = truncated & ~terminated
    reward = reward + gamma * jnp.where(cut, next_value, 0.0)
    return reward, jnp.where(terminated | truncated, 0.0, gamma)


def gae(reward: jax.Array, discount: jax.Array, value: jax.Array, last_value: jax.Array, lam: ArrayLike) -> jax.Array:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16) on folded rewards.

    Args:
        reward: Folded rewards [T, N].
        discount: Folded discounts [T, N].
        value: V(obs) [T, N].
        last_value: V(next_obs) of the last step [N].
        lam: Trace decay []; 1 gives the n-step return minus the value.

    Returns:
        Advantages [T, N]; the value targets are advantages + value.
    """
    next_value = jnp.concatenate([value[1:], last_value[None]])
    delta = reward + discount * next_value - value

    def backward(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta_t, decay_t = step
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    # Unrolled: the body is three flops, so loop overhead would dominate on a CPU.
    _, advantages = jax.lax.scan(
        backward, jnp.zeros_like(last_value), (delta, discount * lam), reverse=True, unroll=min(16, reward.shape[0])
    )
    return advantages


def alive_mask(terminated: jax.Array, truncated: jax.Array) -> jax.Array:
    """Mark the steps of each environment's first episode: bool [T, N], True up to and including its end."""
    ended = jnp.cumsum((terminated | truncated).astype(jnp.int32), axis=0)
    return jnp.concatenate([jnp.ones_like(terminated[:1]), ended[:-1] == 0])
