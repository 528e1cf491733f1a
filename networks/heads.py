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
        kernel_init: Initialiser of the weights.
    """

    size: int
    log_std_init: float = 0.0
    kernel_init: nn.initializers.Initializer = orthogonal(0.01)

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map [..., features] to (mean [..., size], log_std [size])."""
        mean = nn.Dense(self.size, kernel_init=self.kernel_init)(features)
        log_std = self.param("log_std", nn.initializers.constant(self.log_std_init), (self.size,))
        return mean, log_std


class StateDependentHead(nn.Module):
    """Mean (linear) and the spread of a matrix of noise that is multiplied with the features (gSDE).

    Generalised state-dependent exploration, Raffin et al. 2021, arXiv 2005.05719.

    Attributes:
        size: Number of action components.
        log_std_init: Initial log standard deviation of every entry of the matrix.
        kernel_init: Initialiser of the mean's weights.
        learn_features: Whether the spread may change the features, too.
    """

    size: int
    log_std_init: float = 0.0
    kernel_init: nn.initializers.Initializer = orthogonal(0.01)
    learn_features: bool = False

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Map [..., features] to (mean [..., size], log_std [features, size], features [..., features])."""
        mean = nn.Dense(self.size, kernel_init=self.kernel_init)(features)
        shape = (features.shape[-1], self.size)
        log_std = self.param("log_std", nn.initializers.constant(self.log_std_init), shape)
        return mean, log_std, features if self.learn_features else jax.lax.stop_gradient(features)


class LogitsHead(nn.Module):
    """Unnormalised log probabilities of `n` discrete actions (linear, gain 0.01)."""

    n: int
    kernel_init: nn.initializers.Initializer = orthogonal(0.01)

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Map [..., features] to logits [..., n]."""
        return nn.Dense(self.n, kernel_init=self.kernel_init)(features)


class ValueHead(nn.Module):
    """State value (linear, gain 1)."""

    kernel_init: nn.initializers.Initializer = orthogonal(1.0)

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Map [..., features] to values [...]."""
        return nn.Dense(1, kernel_init=self.kernel_init)(features)[..., 0]
