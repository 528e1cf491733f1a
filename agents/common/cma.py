"""CMA-ES as pure functions: ask and tell of Hansen's tutorial (arXiv 1604.00772), full or separable covariance.

The square root of the covariance C is kept as the symmetric matrix A = C^(1/2), so that a sample is y = A z with z
standard normal, and C^(-1/2) y is z itself: neither eigenvectors nor an inverse are stored. Every function works in the
dtype of its arrays. The cost is minimised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

PRECISION = jax.lax.Precision.HIGHEST  # accelerators round float32 products to about three digits otherwise
MATRICES = 6  # of n x n numbers at once: C and A, the update of C, and eigenvectors and workspace of a decomposition


@dataclass(frozen=True)
class Constants:
    """Constants of the strategy, named as in the tutorial (table 1).

    Attributes:
        dimension: n, number of parameters.
        separable: Whether C is diagonal.
        weights: Recombination weights of the members from best to worst; the positive ones sum to 1.
        mu_eff: Variance-effective selection mass of the positive weights.
        c_sigma, d_sigma: Decay of the path of the step size, and its damping.
        c_c: Decay of the path of C.
        c_1, c_mu: Learning rates of the rank-one and of the rank-mu update of C.
        chi_n: Expected norm of n standard normals.
        gap: Generations between two decompositions of C.
    """

    dimension: int
    separable: bool
    weights: tuple[float, ...]
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi_n: float
    gap: int

    @property
    def bytes(self) -> int:
        """Memory of one search in float32, decomposition included."""
        per_parameter = 2 if self.separable else MATRICES * self.dimension
        return 4 * self.dimension * (per_parameter + 2 * len(self.weights) + 3)


def constants(dimension: int, population: int, separable: bool = False) -> Constants:
    """The tutorial's defaults for n parameters and a population of lambda members.

    As pycma does, c_1 is reduced for fewer than 6 members. With a diagonal C both learning rates are (n + 2) / 3 times
    as large (Ros and Hansen 2008, "A simple modification in CMA-ES achieving linear time and space complexity").

    Raises:
        ValueError: The population is smaller than 2.
    """
    if population < 2:
        raise ValueError(f"population of {population}: CMA-ES compares members, it needs at least 2")
    n = dimension
    raw = [math.log((population + 1) / 2) - math.log(i + 1) for i in range(population)]
    positive, negative = [w for w in raw if w > 0], [w for w in raw if w < 0]
    mu_eff, mu_eff_minus = (sum(part) ** 2 / sum(w**2 for w in part) for part in (positive, negative))
    c_1 = min(1.0, population / 6) * 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff))
    if separable:
        c_1 = min(1.0, c_1 * (n + 2) / 3)
        c_mu = min(1 - c_1, c_mu * (n + 2) / 3)
    c_sigma = (mu_eff + 2) / (n + mu_eff + 3)  # as pycma; the tutorial has 5 in place of 3
    # Three bounds: C keeps its size, negative weights weigh little beside positive ones, C stays positive definite.
    bounds = (1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
    scales = {True: 1 / sum(positive), False: min(bounds) / -sum(negative)}
    return Constants(
        dimension=n,
        separable=separable,
        weights=tuple(w * scales[w > 0] for w in raw),
        mu_eff=mu_eff,
        c_sigma=c_sigma,
        d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma,
        c_c=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
        c_1=c_1,
        c_mu=c_mu,
        chi_n=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2)),
        gap=1 if separable else max(1, math.floor(1 / (10 * n * (c_1 + c_mu)))),
    )


class Strategy(NamedTuple):
    """The search distribution beside its mean: N(mean, sigma^2 C).

    Attributes:
        sigma: Step size [].
        path_sigma: Path of the step size [n].
        path_c: Path of C [n].
        cov: C [n, n], or its diagonal [n].
        root: C^(1/2) as of the last decomposition, of the shape of `cov`.
    """

    sigma: jax.Array
    path_sigma: jax.Array
    path_c: jax.Array
    cov: jax.Array
    root: jax.Array


class Samples(NamedTuple):
    """A generation: standard normals z and steps y = A z, both [population, n]; members are mean + sigma y."""

    z: jax.Array
    y: jax.Array


def init(constants: Constants, sigma: jax.Array) -> Strategy:
    """Start with C = I and step size `sigma` [], whose dtype all else takes."""
    zeros = jnp.zeros(constants.dimension, sigma.dtype)
    one = jnp.ones_like(zeros) if constants.separable else jnp.eye(constants.dimension, dtype=sigma.dtype)
    return Strategy(sigma, zeros, zeros, one, one)


def ask(constants: Constants, strategy: Strategy, z: jax.Array) -> Samples:
    """Turn standard normals [population, n] into a generation."""
    root = strategy.root
    return Samples(z, z * root if constants.separable else jnp.matmul(z, root, precision=PRECISION))


def tell(
    constants: Constants,
    strategy: Strategy,
    mean: jax.Array,
    samples: Samples,
    cost: jax.Array,
    generation: jax.Array | int,
) -> tuple[jax.Array, Strategy]:
    """Move the distribution towards the members of low cost (tutorial, figure 6).

    Args:
        constants: As for `init`.
        strategy: The distribution that was sampled.
        mean: Its mean [n].
        samples: What `ask` returned.
        cost: [population]; NaN counts as worst, and equal costs rank in order of the members.
        generation: Number of this generation, from 0. Where it is not vmapped, runs decompose C only when it is due.

    Returns:
        (mean [n], strategy).
    """
    c, n = constants, constants.dimension
    sigma, path_sigma, path_c, cov, root = strategy
    weights = jnp.zeros_like(cost, sigma.dtype).at[jnp.argsort(cost)].set(jnp.asarray(c.weights, sigma.dtype))
    positive = jnp.maximum(weights, 0)
    step = jnp.matmul(positive, samples.y, precision=PRECISION)
    drift = jnp.matmul(positive, samples.z, precision=PRECISION)  # C^(-1/2) step
    path_sigma = (1 - c.c_sigma) * path_sigma + math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * drift
    length = jnp.linalg.norm(path_sigma)
    settled = 1 - (1 - c.c_sigma) ** (2 * (jnp.asarray(generation, sigma.dtype) + 1))
    # h_sigma: a long path means that sigma is still far too small, and C should not learn from that.
    h = (length < (1.4 + 2 / (n + 1)) * c.chi_n * jnp.sqrt(settled)).astype(sigma.dtype)
    path_c = (1 - c.c_c) * path_c + h * math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * step
    squared = jnp.sum(samples.z**2, axis=1)
    weights = jnp.where(weights < 0, weights * n / jnp.maximum(squared, 1e-12), weights)
    keep = 1 + c.c_1 * (1 - h) * c.c_c * (2 - c.c_c) - c.c_1 - c.c_mu * sum(c.weights)
    if c.separable:
        cov = keep * cov + c.c_1 * path_c**2 + c.c_mu * jnp.matmul(weights, samples.y**2, precision=PRECISION)
    else:
        # One product for both updates: the path is one more vector.
        vectors = jnp.concatenate([path_c[None], samples.y])
        rates = jnp.concatenate([jnp.full(1, c.c_1, sigma.dtype), c.c_mu * weights])
        cov = keep * cov + jnp.matmul((rates[:, None] * vectors).T, vectors, precision=PRECISION)
    due = (generation + 1) % c.gap == 0
    root = jax.lax.cond(due, _diagonal_root if c.separable else _matrix_root, lambda _: root, cov)
    mean = mean + sigma * step
    sigma = sigma * jnp.exp(jnp.minimum(1.0, c.c_sigma / c.d_sigma * (length / c.chi_n - 1)))
    return mean, Strategy(sigma, path_sigma, path_c, cov, root)


def _diagonal_root(cov: jax.Array) -> jax.Array:
    """Square root of a diagonal [n]."""
    return jnp.sqrt(jnp.maximum(cov, _floor(cov)))


# One decomposition after another where runs are vmapped: LAPACK calls batched by vmap can deadlock jaxlib's CPU thread
# pool on a machine with few cores (jaxlib 0.10.2), and one alone uses all cores already.
@sequential_vmap
def _matrix_root(cov: jax.Array) -> jax.Array:
    """Symmetric square root of a symmetric matrix [n, n] that is positive definite but for rounding."""
    values, vectors = jnp.linalg.eigh(cov)
    values = jnp.maximum(values, _floor(values))
    return jnp.matmul(vectors * jnp.sqrt(values), vectors.T, precision=PRECISION)


def _floor(values: jax.Array) -> jax.Array:
    """Smallest variance that rounding leaves distinct from zero beside the largest of `values`."""
    return jnp.finfo(values.dtype).eps * jnp.max(values)
