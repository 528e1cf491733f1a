"""What the camera above the Omnirobot sees. NumPy only; `envs.render.omnirobot_device` does the same in JAX.

The floor never changes: it is seen through the lens, straightened, cropped and resized once. A frame adds the target's
marker and then the robot's, each blended into a small window, and changes light and tint of the whole.

The original pastes markers into the camera's full picture and resizes it afterwards. Here a pixel of the small picture
gathers the marker's pixels that the resizing would have brought there, blended with the floor's pixel after resizing.
A marker's pixel is one 32-bit word of four 8-bit channels, colour times cover and cover: looking things up takes time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from envs import omnirobot_arena as arena
from envs.render import omnirobot_art as art
from envs.render.cielab import recoloured, responses
from envs.render.sampling import corners, framed, resize_positions, resized, undistorted

Array = Any  # of the array module in use
ROBOT, TARGET = art.robot_marker(), art.target_marker()
_SHIFTS = np.array([0, 8, 16, 24], np.uint32)  # of red, green, blue and cover in a word


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
        # A marker is halved until a pixel of the picture is 2.5 to 5 of its own; the rest is done by samples.
        scale = arena.CROP / size
        self._halvings = max(0, math.floor(math.log2(scale / 2.5)))
        self._samples = max(1, round(scale / 2 / 2**self._halvings))
        self.background = background(size)
        # The floor has few colours: a frame's change of light is worked out for these.
        colours, places = np.unique(self.background.reshape(-1, 3), axis=0, return_inverse=True)
        self._palette, self._places = responses(colours, np), places.reshape(size, size).astype(np.int32)

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
        scene = self._put(self.background, (target,))
        robot = self._paste(scene, ROBOT, position, pose, noise)
        if colour is None:
            return self._put(self.background, (target, robot))
        factors = 1.0 + arena.COLOUR_NOISE * colour
        floor = self._look_up(recoloured(self._palette, factors, self.xp))
        patches = self._each(lambda rgb: recoloured(responses(rgb, self.xp), factors, self.xp), (target, robot))
        return self._put(floor, patches)

    def _paste(self, scene: Array, marker: art.MarkerArt, position: Array, pose: Array, noise: Array | None) -> Patch:
        """The window of a scene that holds a marker, with the marker in it."""
        xp = self.xp
        words = self._texture(marker, noise)
        height, width = words.shape
        centre = camera_pixel(position)
        side = math.hypot(*marker.weight.shape) + 4  # of a square that holds it however it is turned
        (corner_column, columns), (corner_row, rows) = [self._window(along, side) for along in centre]
        # Axes: row and column in the window, then the samples of a pixel down and across.
        right, below = columns[:, None, :] - centre[0], rows[:, None, :, None] - centre[1]
        shrink = 0.5**self._halvings
        cosine, sine = xp.cos(pose[0]) / pose[1] * shrink, xp.sin(pose[0]) / pose[1] * shrink
        middle_row, middle_column = (((length - 2) * shrink - 1) / 2 for length in marker.weight.shape)
        indices, weights = corners(
            sine * right + cosine * below + middle_row, cosine * right - sine * below + middle_column, height, width, xp
        )
        layer = self._sampled(framed(words, xp).reshape(-1), indices, weights)
        corner = (corner_row, corner_column)
        behind = self._cut(scene, corner, layer.shape[:2])
        blended = layer[..., :3] + behind * (1.0 - layer[..., 3:] / 255.0)
        return Patch(corner, (xp.clip(blended, 0.0, 255.0) + 0.5).astype(xp.uint8))

    def _texture(self, marker: art.MarkerArt, noise: Array | None) -> Array:
        """A marker's pixels at the scale of this picture: words, uint32 [height, width].

        The marker's outermost pixels, which count nothing, are left out.
        """
        xp = self.xp
        cover = marker.weight[..., None]
        colours, opaque = (smoothed(np.moveaxis(part, -1, 0)) for part in (marker.rgb * cover, 255.0 * cover))
        if noise is not None:
            colours = colours + smoothed(xp.moveaxis(noise * cover, -1, 0))
        for _ in range(self._halvings):
            colours, opaque = halved(colours, xp), halved(opaque, np)
        red, green, blue = (xp.clip(colours, 0.0, 255.0) + 0.5).astype(xp.uint32)
        return red | (green << 8) | (blue << 16) | ((opaque[0] + 0.5).astype(np.uint32) << 24)

    def _sampled(self, texture: Array, indices: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
        """The marker's four channels in each pixel of a window, float32 [rows, columns, 4] of 0 to 255.

        Args:
            texture: Words, uint32 [n].
            indices: Of four of them, int32 [rows, columns, samples, samples] each.
            weights: How much each of the four counts, float32 alike.
        """
        return sum(self._share(texture, *corner) for corner in zip(indices, weights, strict=True))

    def _share(self, texture: Array, index: Array, weight: Array) -> Array:
        """What one of the four adds to `_sampled`."""
        channels = (texture[index][..., None] >> _SHIFTS) & np.uint32(255)
        values = channels.astype(np.float32) * weight[..., None]
        return values.sum((2, 3)) / np.float32(self._samples**2)

    def _window(self, centre: Array, side: float) -> tuple[Array, Array]:
        """First of the pixels that see a square around a coordinate of the camera, and where they lie there."""
        scale = arena.CROP / self.size
        count = min(self.size, math.ceil(side / scale) + 1)
        first = self.xp.floor((centre - side / 2 + 0.5) / scale).astype(self.xp.int32)
        first = self.xp.clip(first, 0, self.size - count)
        return first, resize_positions(first + np.arange(count, dtype=np.int32), arena.CROP, self.size, self._samples)

    def _cut(self, picture: Array, corner: Array, shape: tuple[int, ...]) -> Array:
        """The window of a picture at a corner."""
        (row, column), (rows, columns) = corner, shape
        return picture[row : row + rows, column : column + columns]

    def _put(self, picture: Array, patches: tuple[Patch, ...]) -> Array:
        """A copy of a picture with patches over it, the last on top."""
        picture = picture.copy()
        for (row, column), rgb in patches:
            picture[row : row + len(rgb), column : column + rgb.shape[1]] = rgb
        return picture

    def _each(self, change: Callable[[Array], Array], patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
        """Patches whose colours are changed, each by itself."""
        return tuple(Patch(corner, change(rgb)) for corner, rgb in patches)

    def _look_up(self, colours: Array) -> Array:
        """The floor in other colours, uint8 [size, size, 3], for those of the palette."""
        return colours[self._places]


def camera_pixel(position: Array) -> tuple[Array, Array]:
    """Column and row at which the cropped, straightened picture shows a point (x, y) of the floor (m)."""
    (along, down), (column, row) = arena.FOCAL_LENGTH, arena.OPTICAL_CENTRE
    height = arena.CAMERA_HEIGHT
    return column - arena.CROP_LEFT - position[0] * (along / height), row + position[1] * (down / height)


def smoothed(planes: Array) -> Array:
    """A marker as it is left by the first of the original's two interpolations, on average, [channels, height, width].

    The original turns the marker into the camera's picture and then resizes that: a pixel between two of the camera's
    is a mean of both, which spreads it by 1/6 square pixel more than one interpolation does, averaged over all places.
    The outermost pixels are left out.
    """
    planes = planes[:, 1:-1] * (5 / 6) + (planes[:, :-2] + planes[:, 2:]) * (1 / 12)
    return planes[:, :, 1:-1] * (5 / 6) + (planes[:, :, :-2] + planes[:, :, 2:]) * (1 / 12)


def halved(planes: Array, xp: Any) -> Array:
    """Planes [channels, height, width] of half the height and width, means of two by two, zeros added to odd ones."""
    channels, height, width = planes.shape
    planes = xp.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)))
    quads = planes.reshape(channels, (height + 1) // 2, 2, (width + 1) // 2, 2)
    return (quads[:, :, 0, :, 0] + quads[:, :, 0, :, 1] + quads[:, :, 1, :, 0] + quads[:, :, 1, :, 1]) * 0.25


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
