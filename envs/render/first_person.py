"""The camera that rides on the mobile robot and looks along its heading, in JAX.

The camera never turns, so the robot's own bonnet, the sky and the rays are the same in every picture; only where the
rays meet the floor, the walls and the target has to be worked out for each frame.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from envs import mobile_arena as arena
from envs.render.mobile_scene import ONE_TARGET, ROBOT, Renderer, Scene
from envs.render.solids import SKY, Rays, floor_colour, moved, pixel_grid, trace, unpack

FAR = 100.0  # depth at which PyBullet's camera stops drawing (m)


class FirstPersonRenderer(Renderer):
    """The view along the robot's heading; see `Renderer`. Row 0 is the highest, column 0 the leftmost."""

    def __init__(self, size: int, scene: Scene = ONE_TARGET) -> None:
        self.size, self.scene = size, scene
        everything = _rays(size, 0)
        # Everything stands on the floor and below the camera: rows above the horizon show only sky.
        self._horizon = int(np.sum(-everything.direction[2] * FAR < everything.origin[2]))
        rays = _rays(size, self._horizon)
        x, y, z = (direction.astype(np.float32) for direction in rays.direction)
        self._rays = Rays(rays.origin, (x, y, z))
        shape = (size - self._horizon, size)
        self._depth = np.broadcast_to(rays.origin[2] / -z, shape)
        reach, bonnet = trace(ROBOT, rays, np.full(shape, SKY), np.full(shape, np.inf), np)
        self._on_robot, self._bonnet = np.isfinite(reach), bonnet

    def __call__(self, robot: jax.Array, targets: jax.Array) -> jax.Array:
        """See `Renderer`."""
        rays = moved(self._rays, -robot[0], -robot[1])
        depth = jnp.asarray(self._depth)
        x, y = (rays.origin[axis] + depth * rays.direction[axis] for axis in (0, 1))
        depth, colour = trace(self.scene.walls, rays, floor_colour(x, y, jnp), depth, jnp)
        for target, position in zip(self.scene.targets, targets, strict=True):
            depth, colour = trace((target.solid,), moved(rays, position[0], position[1]), colour, depth, jnp)
        colour = jnp.where(self._on_robot, self._bonnet, colour)
        sky = jnp.full((self._horizon, self.size), SKY)
        return unpack(jnp.concatenate([sky, colour]))


def _rays(size: int, first_row: int) -> Rays:
    """Rays of pixels from the eye of a robot at the origin, rows [size - first_row, 1] and columns [1, size].

    One unit of distance is one metre along the camera's axis.
    """
    pitch = math.radians(arena.FPV_PITCH)
    slope, (middle_row, middle_column) = pixel_grid(arena.FPV_FOV, size)
    rows, columns = np.arange(first_row, size)[:, None], np.arange(size)[None, :]
    # The nudges keep the divisions by a direction finite.
    up = (middle_row - rows) * slope + 1e-6
    right = (columns - middle_column) * slope + 1e-6
    ahead, height = math.cos(pitch), math.sin(pitch)
    eye_x = arena.FPV_TARGET_AHEAD - arena.FPV_DISTANCE * ahead
    eye_z = arena.FPV_TARGET_HEIGHT - arena.FPV_DISTANCE * height
    return Rays((eye_x, 0.0, eye_z), (ahead - height * up, -right, height + ahead * up))
