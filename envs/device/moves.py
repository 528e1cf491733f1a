"""Moves and distances of the robots on wheels, rounded as NumPy rounds them in the reference environments."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

_UNREACHED = 1e30  # m^2


def displacement(action: jax.Array, is_discrete: bool, moves: Sequence[Sequence[float]], step: float) -> jax.Array:
    """Displacement (m), float32 [axes], that an action asks for.

    Args:
        action: int32 [] below len(moves), or float32 [axes] in units of `step`, clipped to it.
        is_discrete: Which of the two it is.
        moves: What discrete actions stand for (m), [actions, axes].
        step: The farthest along an axis (m).
    """
    if is_discrete:
        return jnp.array(moves, jnp.float32)[action]
    # Clipped after the product: a compiler cannot then fuse product and sum, which would round differently from the
    # reference environment.
    return jnp.clip(action * step, -step, step)


def squared_norm(offset: jax.Array) -> jax.Array:
    """Squared length (m^2) of an offset float32 [axes] (m)."""
    # The bound is never reached: it keeps a compiler from fusing product and sum (see `displacement`).
    squares = [jnp.minimum(offset[axis] * offset[axis], _UNREACHED) for axis in range(offset.size)]
    return sum(squares[1:], squares[0])
