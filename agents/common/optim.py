"""Gradient steps. Rates are traced and applied outside optax, so nothing ever closes over a traced value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def clip_by_global_norm(grads: Any, max_norm: ArrayLike) -> tuple[Any, jax.Array]:
    """Scale the whole gradient so that its Euclidean norm is at most `max_norm`; return (grads, norm before)."""
    norm = optax.global_norm(grads)
    scale = jnp.minimum(1.0, max_norm / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, grads), norm


def descend(
    transform: optax.GradientTransformation, params: Any, state: Any, grads: Any, rate: ArrayLike
) -> tuple[Any, Any]:
    """One step against the gradient: params - rate * transform(grads); returns (params, optimiser state)."""
    direction, state = transform.update(grads, state, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), state
