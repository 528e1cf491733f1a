"""Output layers: what a torso's features are turned into."""

from __future__ import annotations

import flax.linen as nn
import jax

from networks.initializers import orthogonal


class GaussianHead(nn.Module):
    """Mean (linear, gain 0.01) and state-independent log standard deviation of a diagonal Gaussian.

    Attributes:
        size: Number of action components.
        log_std_init: Initial log standard deviation of every component.
    """

    size: int
    log_std_init: float = 0.0

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map [..., features] to (mean [..., size], log_std [size])."""
        mean = nn.Dense(self.size, kernel_init=orthogonal(0.01))(features)
        log_std = self.param("log_std", nn.initializers.constant(self.log_std_init), (self.size,))
        return mean, log_std


class LogitsHead(nn.Module):
    """Unnormalised log probabilities of `n` discrete actions (linear, gain 0.01)."""

    n: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Map [..., features] to logits [..., n]."""
        return nn.Dense(self.n, kernel_init=orthogonal(0.01))(features)


class ValueHead(nn.Module):
    """State value (linear, gain 1)."""

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Map [..., features] to values [...]."""
        return nn.Dense(1, kernel_init=orthogonal(1.0))(features)[..., 0]
