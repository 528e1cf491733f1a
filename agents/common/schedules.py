"""Learning-rate schedules: factors of the base rate as functions of progress, with the original's five names."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def schedule(name: str, progress: jax.Array) -> jax.Array:
    """Return the factor [] at `progress` [] in [0, 1].

    Raises:
        ValueError: Unknown name.
    """
    left = 1.0 - progress
    if name == "constant":
        return jnp.ones_like(progress)
    if name == "linear":
        return left
    if name == "double_linear_con":
        return jnp.maximum(1.0 - 2.0 * progress, 0.125)
    if name == "middle_drop":
        return jnp.where(left < 0.75, 0.075, left)
    if name == "double_middle_drop":
        return jnp.where(left < 0.25, 0.125, jnp.where(left < 0.75, 0.075, left))
    raise ValueError(f"unknown learning-rate schedule {name}")
