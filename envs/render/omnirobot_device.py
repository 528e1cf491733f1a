"""What the camera above the Omnirobot sees, in JAX; `envs.render.omnirobot_scene` says how."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from envs.render.omnirobot_scene import Array, OmniRobotRenderer, Patch


class OmniRobotDeviceRenderer(OmniRobotRenderer):
    """`OmniRobotRenderer` for JAX arrays, under jit and vmap; noise is given as JAX arrays too."""

    xp = jnp

    def _once(self, values: Array) -> jax.Array:
        return jax.lax.optimization_barrier(values)

    def _cut(self, picture: Array, corner: Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.lax.dynamic_slice(jnp.asarray(picture), (*corner, 0), (*shape, 3))

    def _put(self, picture: Array, patch: Patch) -> jax.Array:
        return jax.lax.dynamic_update_slice(jnp.asarray(picture), patch.rgb, (*patch.corner, 0))
