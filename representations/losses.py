"""The losses of state representation learning, pure functions of batches, as the original's (srl-zoo, losses.py).

s [B, S] are the states of pictures at time t, s' [B, S] (`following`) those one step later. Means are over all
elements unless said otherwise. The robotic priors are those of Jonschkowski & Brock (2015), "Learning state
representations with robotic priors", over all pairs i < j of a batch; `same` marks pairs of one action, `dissimilar`
pairs of one action with different rewards. Where a batch has no such pair, the loss is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

TRIPLET_MARGIN = 0.2


def mse(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared difference."""
    return jnp.mean((x - y) ** 2)


def sse(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of squared differences."""
    return jnp.sum((x - y) ** 2)


def kl_to_standard_normal(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), summed over all elements (Kingma & Welling 2014, appendix B)."""
    return -0.5 * jnp.sum(1.0 + log_variance - mean**2 - jnp.exp(log_variance))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of -log softmax(logits)[label]; logits [B, n], labels int [B]."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -jnp.mean(picked)


def temporal_coherence(states: jax.Array, following: jax.Array) -> jax.Array:
    """Mean over the batch of |s' - s|^2."""
    return jnp.mean(jnp.sum((following - states) ** 2, axis=1))


def causality(states: jax.Array, dissimilar: jax.Array) -> jax.Array:
    """Mean over dissimilar pairs of exp(-|s_i - s_j|^2)."""
    return _mean_over(dissimilar, jnp.exp(-_squared_distances(states)))


def proportionality(states: jax.Array, following: jax.Array, same: jax.Array) -> jax.Array:
    """Mean over pairs of one action of (|ds_i| - |ds_j|)^2, where ds = s' - s."""
    squared = jnp.sum((following - states) ** 2, axis=1)
    # The square root has no derivative at 0; a state that stays where it is gets 0.
    lengths = jnp.where(squared > 0.0, jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0)), 0.0)
    return _mean_over(same, (lengths[:, None] - lengths[None]) ** 2)


def repeatability(states: jax.Array, following: jax.Array, same: jax.Array) -> jax.Array:
    """Mean over pairs of one action of exp(-|s_i - s_j|^2) |ds_i - ds_j|^2."""
    near = jnp.exp(-_squared_distances(states))
    return _mean_over(same, near * _squared_distances(following - states))


def reward_prior(states: jax.Array, rewards: jax.Array) -> jax.Array:
    """1 - the mean of |correlation with the reward| over the components of the state and the reward itself."""
    columns = jnp.concatenate([states, rewards[:, None]], axis=1)
    centred = columns - columns.mean(axis=0)
    # The derivative of a square root at 0 is infinite: a constant column has correlation 0.
    variance = jnp.mean(centred**2, axis=0)
    deviation = jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0))
    scaled = jnp.where(variance > 0.0, centred / (deviation + 1e-8), 0.0)
    correlations = jnp.clip(scaled.T @ scaled[:, -1] / len(states), -1.0, 1.0)
    return 1.0 - jnp.mean(jnp.abs(correlations))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sum over the batch of the binary cross-entropy; logits [B], labels bool [B]."""
    return jnp.sum(jax.nn.softplus(logits) - logits * labels)


def reverse_gradient(x: jax.Array) -> jax.Array:
    """The identity, whose gradient is reversed (Ganin & Lempitsky 2015)."""
    return 2.0 * jax.lax.stop_gradient(x) - x


def triplet(anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Mean of max(0, |a - p|^2 - |a - n|^2 + 0.2) (Sermanet et al. 2018, "Time-contrastive networks")."""
    near, far = (jnp.sum((anchor - other) ** 2, axis=1) for other in (positive, negative))
    return jnp.mean(jax.nn.relu(near - far + TRIPLET_MARGIN))


def pairs(actions: jax.Array, rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which pairs i < j of a batch have the same action, and which of these different rewards: two bool [B, B]."""
    upper = jnp.triu(jnp.ones((len(actions), len(actions)), bool), 1)
    same = upper & (actions[:, None] == actions[None])
    return same, same & (rewards[:, None] != rewards[None])


def _squared_distances(x: jax.Array) -> jax.Array:
    """|x_i - x_j|^2 of all pairs, [B, B], without the rounding of the product form."""
    return jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)


def _mean_over(mask: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
