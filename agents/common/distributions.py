"""Action distributions as pytrees; the last axis of the parameters is the action's."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

VARIANCE_FLOOR = 1e-6  # added to a state-dependent variance: features may all be zero


class Categorical(NamedTuple):
    """Distribution over n discrete actions, given by unnormalised log probabilities `logits` [..., n]."""

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw actions int32 [...]."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """Most probable actions int32 [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log probability [...] of actions int [...]."""
        log_p = jax.nn.log_softmax(self.logits)
        # One-hot instead of a gather: its gradient is a product, not a scatter, which is slow on every backend.
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=log_p.dtype)
        return jnp.sum(log_p * chosen, axis=-1)

    def entropy(self) -> jax.Array:
        """Entropy [...] in nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def kl(self, other: Any) -> jax.Array:
        """Kullback-Leibler divergence [...] of another of these from this one."""
        log_p = jax.nn.log_softmax(self.logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(other.logits)), axis=-1)

    def probabilities(self) -> jax.Array:
        """Probability [..., n] of every action."""
        return jax.nn.softmax(self.logits)


class DiagGaussian(NamedTuple):
    """Gaussian with independent components: `mean` [..., size], `log_std` broadcastable to it."""

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw actions float32 [..., size]."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self) -> jax.Array:
        """Most probable actions [..., size]."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., size]."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * z**2 - self.log_std - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> jax.Array:
        """Differential entropy [...] in nats."""
        return jnp.sum(jnp.broadcast_to(self.log_std, self.mean.shape) + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: Any) -> jax.Array:
        """Kullback-Leibler divergence [...] of another of these from this one."""
        gap = other.log_std - self.log_std
        z = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return jnp.sum(gap + 0.5 * (jnp.exp(-2 * gap) + z**2 - 1), axis=-1)

    def probabilities(self) -> jax.Array:
        """The mean action [..., size]: what a chart of a continuous policy shows."""
        return self.mean


class TanhGaussian(NamedTuple):
    """Gaussian `mean`, `log_std` [..., size] squashed to -1 ... 1 by tanh (Haarnoja et al. 2018, appendix C)."""

    mean: jax.Array
    log_std: jax.Array

    def sample_and_log_prob(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw actions [..., size] with their log densities [...].

        Together, from what was drawn before the squashing: the density of a saturated action cannot be recovered.
        """
        gaussian = DiagGaussian(self.mean, self.log_std)
        drawn = gaussian.sample(key)
        # log(1 - tanh(x)^2), in a form that stays exact for large |x|
        slope = 2.0 * (math.log(2.0) - drawn - jax.nn.softplus(-2.0 * drawn))
        return jnp.tanh(drawn), gaussian.log_prob(drawn) - jnp.sum(slope, axis=-1)

    def mode(self) -> jax.Array:
        """The squashed mean [..., size]."""
        return jnp.tanh(self.mean)


class StateDependentGaussian(NamedTuple):
    """Gaussian whose noise is a linear function of features, E^T features with a random matrix E (gSDE).

    Raffin et al. 2021, arXiv 2005.05719, section 3: entries of E are independent with standard deviation exp(log_std).
    Over the choice of E an action component is a Gaussian with variance sum_i features_i^2 exp(2 log_std_ij), which is
    the density that is learned from, whenever E was drawn.

    Attributes:
        mean: [..., size].
        log_std: Of the entries of E, [features, size].
        features: [..., features].
    """

    mean: jax.Array
    log_std: jax.Array
    features: jax.Array

    def gaussian(self) -> DiagGaussian:
        """The distribution of an action over the choice of E."""
        variance = self.features**2 @ jnp.exp(2.0 * self.log_std)
        return DiagGaussian(self.mean, 0.5 * jnp.log(variance + VARIANCE_FLOOR))

    def explore(self, noise: jax.Array) -> jax.Array:
        """Actions [N, size] for standard normals [N, features, size], of which E is made."""
        return self.mean + jnp.einsum("nf,nfa->na", self.features, noise * jnp.exp(self.log_std))

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw actions [..., size], each with a matrix of its own."""
        return self.gaussian().sample(key)

    def mode(self) -> jax.Array:
        """Most probable actions [..., size]."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., size]."""
        return self.gaussian().log_prob(action)

    def entropy(self) -> jax.Array:
        """Differential entropy [...] in nats."""
        return self.gaussian().entropy()

    def kl(self, other: Any) -> jax.Array:
        """Kullback-Leibler divergence [...] of another of these from this one."""
        return self.gaussian().kl(other.gaussian())

    def probabilities(self) -> jax.Array:
        """The mean action [..., size]."""
        return self.mean


Distribution = Categorical | DiagGaussian | StateDependentGaussian


def distribution(output: jax.Array | tuple[jax.Array, ...]) -> Distribution:
    """Wrap a policy head's output: logits, (mean, log_std), or (mean, log_std, features)."""
    if not isinstance(output, tuple):
        return Categorical(output)
    return DiagGaussian(*output) if len(output) == 2 else StateDependentGaussian(*output)
