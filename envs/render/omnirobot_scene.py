"""What the camera above the Omnirobot sees. NumPy only; `envs.render.omnirobot_device` does the same in JAX.

The floor never changes: it is seen through the lens, straightened, cropped and resized once. A frame adds the target's
marker and then the robot's, each blended into a small window, and changes light and tint of the whole.

The original pastes markers into the camera's full picture and resizes it afterwards. Here a pixel of the small picture
gathers the marker's pixels that the resizing would have brought there, blended with the floor's pixel after resizing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from envs import omnirobot_arena as arena
from envs.render import omnirobot_art as art
from envs.render.cielab import recoloured, responses
from envs.render.sampling import neighbours, resize_positions, resized, undistorted

Array = Any  # of the array module in use
ROBOT, TARGET = art.robot_marker(), art.target_marker()


class Patch(NamedTuple):
    """A window of a picture, painted over.

    Attributes:
        corner: Its first row and column, integers [2].
        rgb: uint8 [rows, columns, 3].
    """

    corner: Array
    rgb: Array


class OmniRobotRenderer:
    """Draws pictures of one size, as seen from the ceiling: columns follow -x, rows +y.

    Args:
        size: Width and height in pixels.
    """

    xp: ModuleType | Any = np  # array module

    def __init__(self, size: int) -> None:
        self.size = size
        self.background = background(size)
        self._responses = responses(self.background, np)

    def target_patch(self, position: Array, pose: Array, noise: Array | None) -> Patch:
        """The target's marker on the floor; what it looks like does not depend on the robot.

        Args:
            position: float32 [2], x and y (m).
            pose: float32 [2], heading (rad) and relative size.
            noise: What is added to the marker's pixels, of `TARGET.rgb`'s shape; None for a clean marker.
        """
        return self._paste(self.background, TARGET, position, pose, noise)

    def picture(self, target: Patch, position: Array, pose: Array, noise: Array | None, colour: Array | None) -> Array:
        """The whole picture, uint8 [size, size, 3].

        Args:
            target: What `target_patch` gave.
            position: float32 [2], x and y of the robot (m).
            pose: float32 [2], its heading (rad) and its marker's relative size.
            noise: What is added to the marker's pixels, of `ROBOT.rgb`'s shape; None for a clean marker.
            colour: Standard normals [3], of the channels L, a and b; None to leave the colours as they are.
        """
        scene = self._put(self.background, target)
        robot = self._paste(scene, ROBOT, position, pose, noise)
        if colour is None:
            return self._put(scene, robot)
        factors = 1.0 + arena.COLOUR_NOISE * colour
        frame = recoloured(self._responses, factors, self.xp)
        for patch in (target, robot):
            rgb = recoloured(responses(patch.rgb, self.xp), factors, self.xp)
            frame = self._put(frame, Patch(patch.corner, rgb))
        return frame

    def _paste(self, scene: Array, marker: art.MarkerArt, position: Array, pose: Array, noise: Array | None) -> Patch:
        """The window of a scene that holds a marker, with the marker in it."""
        xp = self.xp
        rgb = marker.rgb if noise is None else marker.rgb + noise
        cover = marker.weight[..., None]
        texture = smoothed(xp.concatenate([rgb * cover, cover], axis=-1))
        side = math.hypot(*marker.weight.shape) + 4
        height, width, _ = texture.shape
        centre = camera_pixel(position)
        (corner_column, columns), (corner_row, rows) = [self._window(along, side) for along in centre]
        # Axes: row and column in the window, then the samples of a pixel down and across.
        right, below = columns[:, None, :] - centre[0], rows[:, None, :, None] - centre[1]
        cosine, sine = xp.cos(pose[0]) / pose[1], xp.sin(pose[0]) / pose[1]
        pixels, share = neighbours(
            texture,
            sine * right + cosine * below + (height - 1) / 2,
            cosine * right - sine * below + (width - 1) / 2,
            xp,
        )
        shape = (len(rows), len(columns))
        share = share.reshape(*shape, -1) / (columns.shape[1] * rows.shape[1])
        layer = self._weighted_sum(pixels.reshape(*shape, -1, 4), share)
        corner = (corner_row, corner_column)
        behind = self._cut(scene, corner, shape)
        blended = layer[..., :3] + behind * (1.0 - layer[..., 3:])
        return Patch(corner, (xp.clip(blended, 0.0, 255.0) + 0.5).astype(xp.uint8))

    def _window(self, centre: Array, side: float) -> tuple[Array, Array]:
        """First pixel of the window around a coordinate of the camera, and where its pixels lie there."""
        scale = arena.CROP / self.size
        count = min(self.size, math.ceil(side / scale) + 3)
        first = self.xp.floor((centre - side / 2 + 0.5) / scale - 1.0).astype(self.xp.int32)
        first = self.xp.clip(first, 0, self.size - count)
        return first, resize_positions(first + np.arange(count, dtype=np.int32), arena.CROP, self.size)

    def _weighted_sum(self, values: Array, weights: Array) -> Array:
        """Sum of values [..., k, channels] by weights [..., k]."""
        return np.einsum("...kc,...k->...c", values, weights)

    def _cut(self, picture: Array, corner: Array, shape: tuple[int, ...]) -> Array:
        """The window of a picture at a corner."""
        (row, column), (rows, columns) = corner, shape
        return picture[row : row + rows, column : column + columns]

    def _put(self, picture: Array, patch: Patch) -> Array:
        """A copy of a picture with a patch over it."""
        (row, column), (rows, columns, _) = patch.corner, patch.rgb.shape
        picture = picture.copy()
        picture[row : row + rows, column : column + columns] = patch.rgb
        return picture


def camera_pixel(position: Array) -> tuple[Array, Array]:
    """Column and row at which the cropped, straightened picture shows a point (x, y) of the floor (m)."""
    (along, down), (column, row) = arena.FOCAL_LENGTH, arena.OPTICAL_CENTRE
    height = arena.CAMERA_HEIGHT
    return column - arena.CROP_LEFT - position[0] * (along / height), row + position[1] * (down / height)


def smoothed(texture: Array) -> Array:
    """A marker as it is left by the first of the original's two interpolations, on average, [height, width, channels].

    The original turns the marker into the camera's picture and then resizes that: a pixel between two of the camera's
    is a mean of both, which spreads it by 1/6 square pixel more than one interpolation does, averaged over all places.
    """
    for _ in range(2):
        middle = texture[1:-1] * (5 / 6) + (texture[:-2] + texture[2:]) * (1 / 12)
        texture = middle.swapaxes(0, 1)
    return texture


@lru_cache(maxsize=4)
def background(size: int) -> np.ndarray:
    """The empty floor, uint8 [size, size, 3]."""
    seen = np.zeros((arena.SENSOR_HEIGHT, arena.SENSOR_WIDTH, 3), np.float32)
    kept = slice(arena.CROP_LEFT, arena.CROP_LEFT + arena.CROP)
    seen[:, kept] = art.floor(arena.CROP)
    straight = undistorted(seen, arena.FOCAL_LENGTH, arena.OPTICAL_CENTRE, arena.DISTORTION)
    picture = (resized(straight[:, kept], size) + 0.5).astype(np.uint8)
    picture.flags.writeable = False
    return picture
