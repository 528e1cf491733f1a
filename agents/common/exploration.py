"""When the noise of state-dependent exploration is drawn anew (gSDE, Raffin et al. 2021, arXiv 2005.05719)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Noise(NamedTuple):
    """What an agent remembers of the noise that it explores with in N environments.

    Attributes:
        normals: Standard normals float32 [N, features, size].
        age: Steps of the episode so far, int32 [N].
    """

    normals: jax.Array
    age: jax.Array


def no_noise(count: int, features: int, size: int) -> Noise:
    """Where `count` episodes begin; noise is drawn before their first step."""
    return Noise(jnp.zeros((count, features, size)), jnp.zeros(count, jnp.int32))


def renewed(noise: Noise, key: jax.Array, every: int) -> Noise:
    """Noise for the next step: drawn anew at the first step of an episode and every `every` steps from there."""
    due = noise.age % every == 0

    def draw() -> jax.Array:
        return jnp.where(due[:, None, None], jax.random.normal(key, noise.normals.shape), noise.normals)

    # For a single run a real branch: most steps draw nothing.
    return Noise(jax.lax.cond(jnp.any(due), draw, lambda: noise.normals), noise.age + 1)
