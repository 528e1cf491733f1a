"""What the camera above the Omnirobot sees, in JAX; `envs.render.omnirobot_scene` says how."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from envs.render.omnirobot_scene import Array, OmniRobotRenderer, Patch
from envs.render.solids import unpack


class OmniRobotDeviceRenderer(OmniRobotRenderer):
    """`OmniRobotRenderer` for JAX arrays, under jit and vmap; noise is given as JAX arrays too."""

    xp = jnp

    def _cut(self, picture: Array, corner: Array, shape: tuple[int, ...]) -> Array:
        return jax.lax.dynamic_slice(jnp.asarray(picture), (*corner, 0), (*shape, 3))

    def _put(self, picture: Array, patches: tuple[Patch, ...]) -> jax.Array:
        picture = jnp.asarray(picture)
        for patch in patches:
            picture = jax.lax.dynamic_update_slice(picture, patch.rgb, (*patch.corner, 0))
        return picture

    def _each(self, change: Callable[[Array], Array], patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
        # In a loop, half of the pixels at a time: outside it, XLA would work out the patches again and again.
        pixels = jnp.concatenate([patch.rgb.reshape(-1, 3) for patch in patches])
        count = len(pixels)
        halves = jnp.pad(pixels, ((0, count % 2), (0, 0))).reshape(2, -1, 3)
        changed = jax.lax.map(change, halves).reshape(-1, 3)[:count]
        ends = np.cumsum([patch.rgb.shape[0] * patch.rgb.shape[1] for patch in patches])[:-1]
        parts = zip(patches, jnp.split(changed, ends), strict=True)
        return tuple(Patch(patch.corner, part.reshape(patch.rgb.shape)) for patch, part in parts)

    def _look_up(self, colours: Array) -> jax.Array:
        # In a loop: outside it, XLA would work out the palette anew for each pixel.
        def look_up(half: Array, words: Array) -> Array:
            return words.at[half].set(jnp.take(table, places[half], mode="clip"))

        table = (colours.astype(jnp.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=jnp.uint32)
        halves = 1 + (self.size % 2 == 0)
        places = jnp.asarray(self._places.reshape(halves, -1))
        words = jax.lax.fori_loop(0, halves, look_up, jnp.zeros(places.shape, jnp.uint32))
        return unpack(words.reshape(self.size, self.size))
