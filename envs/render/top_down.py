"""The camera that looks straight down on the mobile robot's arena, in JAX.

Floor and walls never change: they are drawn once. A frame copies that picture and draws the targets, where they are not
behind a wall, and then the robot, which is always above them, into small windows.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from envs import mobile_arena as arena
from envs.render.mobile_scene import ONE_TARGET, ROBOT, ROBOT_HIGH, ROBOT_LOW, Extent, Renderer, Scene
from envs.render.solids import Rays, Solid, floor_colour, moved, pixel_grid, trace, unpack

_ROBOT_EXTENT: Extent = (ROBOT_LOW, ROBOT_HIGH)


class TopDownRenderer(Renderer):
    """The view from above; see `Renderer`.

    Row 0 is the far side -x, column 0 the far side -y; one pixel covers 4.4 tan(30 deg) / (size / 2) metres of floor.
    """

    def __init__(self, size: int, scene: Scene = ONE_TARGET) -> None:
        self.size, self.scene = size, scene
        self._slope, self._middle = pixel_grid(arena.CAMERA_FOV, size)
        self._background, self._depth = self._draw_background()

    def __call__(self, robot: jax.Array, targets: jax.Array) -> jax.Array:
        """See `Renderer`."""
        frame = jnp.asarray(self._background)
        for target, position in zip(self.scene.targets, targets, strict=True):
            frame = self._draw(frame, position, (target.solid,), target.extent, behind_walls=True)
        return self._draw(frame, robot, ROBOT, _ROBOT_EXTENT, behind_walls=False)

    def _draw(
        self, frame: jax.Array, position: jax.Array, solids: tuple[Solid, ...], extent: Extent, behind_walls: bool
    ) -> jax.Array:
        """Draw solids that stand at `position` [2] into a window of the frame that contains them."""
        window = self._window(extent)
        corner = [self._first_pixel(position[axis], axis, window[axis], extent) for axis in (0, 1)]
        pixels = [first + jnp.arange(count) for first, count in zip(corner, window, strict=True)]
        rays = moved(self._rays(pixels[0][:, None], pixels[1][None, :]), position[0], position[1])
        limit = jnp.full(window, jnp.inf)
        if behind_walls:
            limit = jax.lax.dynamic_slice(jnp.asarray(self._depth), corner, window)
        distance, colour = trace(solids, rays, jnp.zeros(window, jnp.uint32), limit, jnp)
        start = (corner[0], corner[1], 0)
        behind = jax.lax.dynamic_slice(frame, start, (*window, 3))
        drawn = jnp.where((distance < limit)[..., None], unpack(colour), behind)
        return jax.lax.dynamic_update_slice(frame, drawn, start)

    def _rays(self, rows: jax.Array | np.ndarray, columns: jax.Array | np.ndarray) -> Rays:
        """Rays of pixels; one unit of distance is one metre of height."""
        # The middle ray is straight down: a slope that is not quite zero keeps the divisions finite, and its sign puts
        # the pixels on the edge between two squares of the floor where PyBullet puts most of them.
        slopes = [
            (pixel - middle) * self._slope + nudge
            for pixel, middle, nudge in zip((rows, columns), self._middle, (1e-6, -1e-6), strict=True)
        ]
        x, y = self.scene.camera_centre
        return Rays((x, y, arena.CAMERA_HEIGHT), (slopes[0], slopes[1], -1.0))

    def _draw_background(self) -> tuple[np.ndarray, np.ndarray]:
        """Floor and walls, uint8 [size, size, 3], and the depth of the walls, inf where there is floor."""
        pixels = np.arange(self.size)
        rays = self._rays(pixels[:, None], pixels[None, :])
        x, y = (o + arena.CAMERA_HEIGHT * d for o, d in zip(rays.origin[:2], rays.direction[:2], strict=True))
        floor = np.full((self.size, self.size), arena.CAMERA_HEIGHT)
        depth, colour = trace(self.scene.walls, rays, floor_colour(x, y, np), floor, np)
        # The floor hides nothing: all bodies stand on it.
        return unpack(colour), np.where(depth < floor, depth, np.inf).astype(np.float32)

    def _window(self, extent: Extent) -> tuple[int, int]:
        """Rows and columns that hold a body of that extent wherever it stands in the arena."""
        (low, high) = extent
        near, far = arena.CAMERA_HEIGHT - high[2], arena.CAMERA_HEIGHT
        # A body's top and bottom lie apart in the picture, the more the farther it stands from the middle.
        lean = arena.ARENA_SIZE / 2 * (1 / near - 1 / far)
        sides = [(high[axis] - low[axis]) / near + lean for axis in (0, 1)]
        rows, columns = (min(self.size, math.ceil(side / self._slope) + 2) for side in sides)
        return rows, columns

    def _first_pixel(self, position: jax.Array, axis: int, count: int, extent: Extent) -> jax.Array:
        """First row (axis 0) or column (axis 1) of the window of a body at `position`, int32 []."""
        low, high = extent
        edge = position + low[axis] - self.scene.camera_centre[axis]
        slope = jnp.minimum(edge / arena.CAMERA_HEIGHT, edge / (arena.CAMERA_HEIGHT - high[2]))
        first = jnp.floor(slope / self._slope + self._middle[axis]).astype(jnp.int32)
        return jnp.clip(first, 0, self.size - count)
