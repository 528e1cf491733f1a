"""Running mean and variance of observations (parallel update of Chan et al. 1979), as in VecNormalize."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

CLIP = 10.0  # standard deviations
EPSILON = 1e-8
SMALLEST_SHARE = 2.0**-20  # of a batch in the statistics


class RunningStats(NamedTuple):
    """Statistics of all observations so far: mean, variance [*obs_shape] and (weighted) number []."""

    mean: jax.Array
    var: jax.Array
    number: jax.Array


def init_stats(shape: tuple[int, ...]) -> RunningStats:
    """Start at mean 0, variance 1 with a negligible count, so that the first batch decides."""
    return RunningStats(jnp.zeros(shape), jnp.ones(shape), jnp.float32(1e-4))


def update_stats(stats: RunningStats, obs: jax.Array, weight: jax.Array | None = None) -> RunningStats:
    """Add a batch of observations.

    Args:
        stats: Statistics of observations of shape S.
        obs: [..., *S]; all leading axes are batch.
        weight: [...] 0/1 weights, where steps after an episode's end must not count; None counts all.
    """
    lead = obs.ndim - stats.mean.ndim
    axes = tuple(range(lead))
    if weight is None:
        weight = jnp.ones(obs.shape[:lead])
    weight = weight.astype(jnp.float32)
    total = jnp.sum(weight)
    wide = weight.reshape(weight.shape + (1,) * stats.mean.ndim)
    safe_total = jnp.maximum(total, 1e-8)
    mean = jnp.sum(obs * wide, axes) / safe_total
    var = jnp.sum(wide * (obs - mean) ** 2, axes) / safe_total
    number = stats.number + total
    delta = mean - stats.mean
    # By shares, not by sums, and by no smaller ones than float32 resolves: observations that come one by one make an
    # exponential average from the millionth on.
    share = jnp.where(total > 0, jnp.maximum(total / number, SMALLEST_SHARE), 0.0)
    new_var = stats.var + share * (var + (1.0 - share) * delta**2 - stats.var)
    return RunningStats(stats.mean + share * delta, new_var, number)


def normalize(stats: RunningStats | tuple[()], obs: jax.Array) -> jax.Array:
    """Standardise observations [..., *S] and clip to ±10; `stats` of () leaves them as they are (pictures)."""
    if not isinstance(stats, RunningStats):
        return obs
    return jnp.clip((obs - stats.mean) * jax.lax.rsqrt(stats.var + EPSILON), -CLIP, CLIP)


def observe(stats: RunningStats | tuple[()], obs: jax.Array, weight: jax.Array | None = None) -> Any:
    """`update_stats` where there are statistics; () stays ()."""
    return update_stats(stats, obs, weight) if isinstance(stats, RunningStats) else stats


class ReturnStats(NamedTuple):
    """What rewards are scaled by: discounted returns so far of each environment [N], and their statistics."""

    returns: jax.Array
    stats: RunningStats


def init_returns(num_envs: int) -> ReturnStats:
    """Nothing seen yet."""
    return ReturnStats(jnp.zeros(num_envs), init_stats(()))


def scale_rewards(known: ReturnStats, reward: jax.Array, done: jax.Array, gamma: ArrayLike) -> tuple[jax.Array, Any]:
    """Divide rewards by the running standard deviation of discounted returns, and clip them to +-10.

    As VecNormalize of stable-baselines, but for a rollout at once: the statistics take it in before they are used.

    Args:
        known: Statistics so far.
        reward: [T, N].
        done: Whether an episode ended, bool [T, N].
        gamma: Discount factor [].

    Returns:
        (rewards [T, N], statistics)
    """

    def forward(returns: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gained, ended = step
        now = gained + gamma * returns
        return jnp.where(ended, 0.0, now), now

    last, returns = jax.lax.scan(forward, known.returns, (reward, done))
    stats = update_stats(known.stats, returns)
    return jnp.clip(reward * jax.lax.rsqrt(stats.var + EPSILON), -CLIP, CLIP), ReturnStats(last, stats)
