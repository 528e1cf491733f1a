"""Weight initialisers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Weights uniform within +-1 / sqrt(inputs): how PyTorch, which many published results used, starts its dense layers.
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def orthogonal(scale: float) -> nn.initializers.Initializer:
    """Orthogonal kernel initialiser with gain `scale` (Saxe et al. 2014); the last axis holds the outputs.

    A Gaussian matrix is orthogonalised by Gram-Schmidt, which gives the same (Haar) distribution as the usual QR
    decomposition. It is plain XLA on purpose: LAPACK calls batched by vmap deadlock jaxlib's CPU thread pool on a
    machine with few cores (jaxlib 0.10.2), and seeds are vmapped here.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        outputs = shape[-1]
        inputs = math.prod(shape[:-1])
        tall = jax.random.normal(key, (max(inputs, outputs), min(inputs, outputs)), dtype)
        basis = _orthonormal_columns(tall)
        return scale * (basis if inputs >= outputs else basis.T).reshape(shape)

    return init


def _orthonormal_columns(matrix: jax.Array) -> jax.Array:
    """Orthonormalise the columns of a tall matrix [m, n] of full rank, in order."""
    columns = jnp.arange(matrix.shape[1])

    def orthogonalise(i: jax.Array, basis: jax.Array) -> jax.Array:
        column = basis[:, i]
        for _ in range(2):  # once loses orthogonality in float32, twice is enough (Kahan)
            overlap = jnp.where(columns < i, column @ basis, 0.0)
            column = column - basis @ overlap
        return basis.at[:, i].set(column / jnp.linalg.norm(column))

    return jax.lax.fori_loop(0, matrix.shape[1], orthogonalise, matrix)
