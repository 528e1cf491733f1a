"""Triangles that move, drawn over a picture that does not, shaded as PyBullet's CPU renderer shades them.

A pixel is one int32 word: the inverse depth in the high bits, material and brightness below. The nearest surface is
then the largest word, so triangles may be drawn in any order. For a perspective camera the inverse depth of a plane,
and what is interpolated over it divided by depth, are linear in row and column: a triangle is a few coefficients.

A CPU draws each triangle into small tiles of the picture, one picture after the other; elsewhere every pixel looks at
every triangle, all pictures at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from envs.render.solids import Rays, Rgb, brightness, pack, pixel_grid, unpack

_DEPTH_SHIFT = 16
_MAX_DEPTH = 2**15 - 1  # largest whole number that stands for an inverse depth
_SHADES = 256  # brightnesses of a material
_DARKEST, _BRIGHTEST = 0.6, 1.01  # the range of `brightness`
MAX_MATERIALS = 2**_DEPTH_SHIFT // _SHADES - 1  # number 0 is the picture that does not move
LARGE_PICTURE = 100  # pixels from which on a picture counts as large
# Measured: rows and columns of a tile for large and for small pictures, how many are listed at a time,
# and how many of these are drawn at a time (a divisor).
_LARGE_TILE, _SMALL_TILE = (8, 16), (8, 8)
_LISTED_TILES, _DRAWN_TILES = 1024, 8


class View(NamedTuple):
    """Where a camera stands and how it looks at the world.

    Attributes:
        eye: float64 [3] (m).
        axes: float64 [3, 3], rows: right, down and ahead, unit vectors in the world.
        slope: By how much a ray's slope against the axis grows from one pixel to the next.
        middle: Row and column of the ray along the axis.
        near: Distance along the axis below which nothing is drawn (m).
        size: Width and height of the picture in pixels.
    """

    eye: np.ndarray
    axes: np.ndarray
    slope: float
    middle: tuple[float, float]
    near: float
    size: int

    def rays(self) -> Rays:
        """Rays of all pixels [size, size]; one unit of distance is one metre along the camera's axis."""
        pixels = np.arange(self.size)
        # The nudges keep the divisions by a direction finite.
        down = (pixels[:, None] - self.middle[0]) * self.slope + 1e-9
        right = (pixels[None, :] - self.middle[1]) * self.slope + 1e-9
        x, y, z = (right * self.axes[0, i] + down * self.axes[1, i] + self.axes[2, i] for i in range(3))
        return Rays(tuple(self.eye), (x, y, z))


def look_at(
    target: tuple[float, float, float], distance: float, yaw: float, pitch: float, fov: float, near: float, size: int
) -> View:
    """The view of PyBullet's camera that looks at `target` [m] from `distance` [m]; angles in degrees.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"image_size is {size}: it must be at least 1 pixel")
    turn, tilt = math.radians(yaw), math.radians(pitch)
    ahead = np.array([-math.cos(tilt) * math.sin(turn), math.cos(tilt) * math.cos(turn), math.sin(tilt)])
    right = np.array([math.cos(turn), math.sin(turn), 0.0])
    slope, middle = pixel_grid(fov, size)
    return View(
        np.array(target) - distance * ahead, np.stack([right, np.cross(ahead, right), ahead]), slope, middle, near, size
    )


class Triangles(NamedTuple):
    """Triangles fixed to bodies, anticlockwise as seen from outside: their backs are not drawn.

    Attributes:
        corners: float32 [t, 3, 3], corner by coordinate, in the frame of the body (m).
        normals: float32 [t, 3, 3], of the surface at the corners, in the same frame; interpolated, of any length.
        bodies: int32 [t], index of the body.
        materials: int32 [t], index of the material.
    """

    corners: np.ndarray
    normals: np.ndarray
    bodies: np.ndarray
    materials: np.ndarray


class Poses(NamedTuple):
    """Where bodies are.

    Attributes:
        position: float32 [n, 3], origins of the bodies' frames in the world (m).
        rotation: float32 [n, 3, 3], matrices from the bodies' frames to the world.
    """

    position: jax.Array
    rotation: jax.Array


def poses_of(vectors: jax.Array) -> Poses:
    """Poses from float32 [n, 7], position (m) and unit quaternion x, y, z, w of each body, as PyBullet gives them."""
    x, y, z, w = (vectors[:, k] for k in range(3, 7))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return Poses(vectors[:, :3], jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2))


class _Planes(NamedTuple):
    """Projected triangles; `edges` and `normals` are linear in (column, row, 1) after their last axis.

    Attributes:
        edges: float32 [3, 3, t], each corner's share of the inverse depth (1/m), by corner and coefficient: all three
            are positive inside the triangle.
        normals: float32 [3, 3, t], normal in the world by coordinate and coefficient, of any length.
        materials: int32 [t], 1 more than the index.
        box: int32 [4, t], first row, first column, rows and columns that hold the triangle; no rows where unseen.
    """

    edges: Any
    normals: Any
    materials: Any
    box: Any


class Rasteriser:
    """Draws triangles over a still picture.

    Args:
        view: The camera.
        triangles: What moves.
        colours: Material colours, each channel 0 to 1.
        still: uint32 [size, size], colours 0xRRGGBB of what does not move.
        depth: [size, size], how far that is along the camera's axis (m).

    Raises:
        ValueError: too many materials.
    """

    def __init__(
        self, view: View, triangles: Triangles, colours: tuple[Rgb, ...], still: np.ndarray, depth: np.ndarray
    ) -> None:
        if len(colours) > MAX_MATERIALS:
            raise ValueError(f"{len(colours)} materials are too many: at most {MAX_MATERIALS}")
        self.view = view
        self.triangles = Triangles(*(np.asarray(leaf) for leaf in triangles))
        self._still = np.asarray(still, np.uint32)
        self._words = np.asarray(_depth_word(1.0 / np.asarray(depth), view.near, np), np.int32)
        shades = _DARKEST + (np.arange(_SHADES) + 0.5) / _SHADES * (_BRIGHTEST - _DARKEST)
        rows = [pack(colour, shades, np) for colour in ((0.0, 0.0, 0.0), *colours)]
        self._palette = np.concatenate(rows).astype(np.uint32)
        tile = _LARGE_TILE if view.size >= LARGE_PICTURE else _SMALL_TILE
        self._tile = (min(tile[0], view.size), min(tile[1], view.size))

    def __call__(self, poses: Poses) -> jax.Array:
        """Draw one picture, uint8 [size, size, 3]; row 0 is the highest, column 0 the leftmost."""
        return unpack(self.colours(poses))

    def colours(self, poses: Poses) -> jax.Array:
        """The picture as uint32 [size, size], 0xRRGGBB."""
        words = self.words(poses)
        index = words & (2**_DEPTH_SHIFT - 1)
        return jnp.where(index == 0, jnp.asarray(self._still), jnp.asarray(self._palette)[index])

    def materials(self, poses: Poses) -> jax.Array:
        """Index of the material that each pixel shows, int32 [size, size]; -1 for what does not move."""
        return (self.words(poses) & (2**_DEPTH_SHIFT - 1)) // _SHADES - 1

    def words(self, poses: Poses) -> jax.Array:
        """The picture as words, int32 [size, size]."""
        on_cpu = sequential_vmap(self._draw_tiles)
        return jax.lax.platform_dependent(poses, cpu=on_cpu, default=self._draw_whole)

    def _draw_tiles(self, poses: Poses) -> jax.Array:
        """Each triangle into the tiles that cover it, a few tiles at a time."""
        planes = self._project(poses)
        coefficients = jnp.concatenate([planes.edges.reshape(9, -1), planes.normals.reshape(9, -1)])
        height, width = self._tile
        rows, columns = planes.box[2:]
        counts = jnp.where(rows > 0, ((columns + width - 1) // width) * ((rows + height - 1) // height), 0)
        ends = jnp.cumsum(counts)

        def draw_list(number: jax.Array, words: jax.Array) -> jax.Array:
            listed = self._list_tiles(planes, counts, ends, number * _LISTED_TILES)

            def draw(group: jax.Array, words: jax.Array) -> jax.Array:
                tiles = jax.lax.dynamic_slice_in_dim(listed, group * _DRAWN_TILES, _DRAWN_TILES)
                drawn = self._tile_words(coefficients, tiles)
                for tile in range(_DRAWN_TILES):
                    corner = (tiles[tile, 1], tiles[tile, 2])
                    nearest = jnp.maximum(jax.lax.dynamic_slice(words, corner, self._tile), drawn[tile])
                    words = jax.lax.dynamic_update_slice(words, nearest, corner)
                return words

            left = jnp.minimum(ends[-1] - number * _LISTED_TILES, _LISTED_TILES)
            return jax.lax.fori_loop(0, (left + _DRAWN_TILES - 1) // _DRAWN_TILES, draw, words)

        lists = (ends[-1] + _LISTED_TILES - 1) // _LISTED_TILES
        return jax.lax.fori_loop(0, lists, draw_list, jnp.asarray(self._words))

    def _list_tiles(self, planes: _Planes, counts: jax.Array, ends: jax.Array, first: jax.Array) -> jax.Array:
        """Tiles to draw, from number `first` on: triangle, row, column and material, int32 [_LISTED_TILES, 4].

        `counts` and `ends` are the triangles' numbers of tiles and their cumulative sums. Past the last tile the
        material is -1.
        """
        height, width = self._tile
        numbers = first + jnp.arange(_LISTED_TILES)
        triangles = jnp.minimum(jnp.searchsorted(ends, numbers, side="right"), ends.size - 1)
        across = jnp.maximum((planes.box[3] + width - 1) // width, 1)
        table = jnp.stack([ends - counts, across, *planes.box[:2], planes.materials], axis=1)
        before, across, row, column, material = table[triangles].T
        row = jnp.minimum(row + (numbers - before) // across * height, self.view.size - height)
        column = jnp.minimum(column + (numbers - before) % across * width, self.view.size - width)
        return jnp.stack([triangles, row, column, jnp.where(numbers < ends[-1], material, -1)], axis=1)

    def _tile_words(self, coefficients: jax.Array, tiles: jax.Array) -> jax.Array:
        """Words of some tiles [n, height, width], 0 where the tile's triangle is not; `tiles` is [n, 4] as listed."""
        height, width = self._tile
        triangle, row, column, material = (tiles[:, k, None, None] for k in range(4))
        own = coefficients[:, triangle]
        pixels = column + jnp.arange(width), row + jnp.arange(height)[:, None]
        inverse_depth, inside = _cover(own[:9].reshape(3, 3, *triangle.shape), *pixels)
        shade = _shade(own[9:].reshape(3, 3, *triangle.shape), *pixels)
        word = _depth_word(inverse_depth, self.view.near, jnp) | (material * _SHADES + shade)
        # All at once, before the first is drawn: otherwise each would be worked out by itself, which is slower.
        return jax.lax.optimization_barrier(jnp.where(inside & (material > 0), word, 0))

    def _draw_whole(self, poses: Poses) -> jax.Array:
        """All triangles for all pixels, then the shade of the nearest."""
        planes = self._project(poses)
        pixels = np.arange(self.view.size)
        columns, rows = pixels[None, :], pixels[:, None]
        inverse_depth, inside = _cover(planes.edges[..., None, None], columns, rows)
        inside &= (planes.box[2] > 0)[:, None, None]
        number = jnp.arange(1, inside.shape[0] + 1)[:, None, None]
        word = jnp.where(inside, _depth_word(inverse_depth, self.view.near, jnp) | number, 0)
        nearest = jnp.maximum(jnp.max(word, axis=0), jnp.asarray(self._words))
        number = nearest & (2**_DEPTH_SHIFT - 1)
        triangle = jnp.maximum(number - 1, 0)
        shade = planes.materials[triangle] * _SHADES + _shade(planes.normals[..., triangle], columns, rows)
        return (nearest & (_MAX_DEPTH << _DEPTH_SHIFT)) | jnp.where(number > 0, shade, 0)

    def _project(self, poses: Poses) -> _Planes:
        """The triangles as the camera sees them."""
        bodies = self.triangles.bodies
        axes = jnp.asarray(self.view.axes, jnp.float32)
        seen_rotation = jnp.einsum("ij,njk->nik", axes, poses.rotation, precision="highest")
        offset = poses.position - jnp.asarray(self.view.eye, jnp.float32)
        seen_position = jnp.matmul(offset, axes.T, precision="highest")
        # Lists of components, each [t]: small matrix products are slow on a CPU.
        turned = jnp.moveaxis(seen_rotation, 0, -1)[..., bodies]
        shifted = seen_position.T[..., bodies]
        corners = [
            [_dot(turned[i], self.triangles.corners[:, corner].T) + shifted[i] for i in range(3)] for corner in range(3)
        ]
        crosses = [_cross(corners[1], corners[2]), _cross(corners[2], corners[0]), _cross(corners[0], corners[1])]
        volume = _dot(corners[0], crosses[0])
        depths = jnp.stack([corner[2] for corner in corners])
        ahead = jnp.min(depths, axis=0) > self.view.near
        inverse = 1.0 / jnp.where(volume == 0, 1.0, volume)
        edges = [self._in_pixels([c * inverse for c in cross]) for cross in crosses]
        rotation = jnp.moveaxis(poses.rotation, 0, -1)[..., bodies]
        normals = [[_dot(rotation[i], self.triangles.normals[:, corner].T) for i in range(3)] for corner in range(3)]
        interpolated = [
            [sum(edges[corner][k] * normals[corner][i] for corner in range(3)) for k in range(3)] for i in range(3)
        ]
        box = self._boxes(corners, ahead & (volume < 0))
        return _Planes(
            jnp.stack([jnp.stack(edge) for edge in edges]),
            jnp.stack([jnp.stack([jnp.asarray(k) for k in normal]) for normal in interpolated]),
            jnp.asarray(self.triangles.materials + 1, jnp.int32),
            box,
        )

    def _in_pixels(self, linear: list[jax.Array]) -> list[jax.Array]:
        """Coefficients of (column, row, 1) from those of (right, down, ahead)."""
        right, down, ahead = (coefficient for coefficient in linear)
        right, down = right * self.view.slope, down * self.view.slope
        return [right, down, ahead - right * self.view.middle[1] - down * self.view.middle[0]]

    def _boxes(self, corners: list[list[jax.Array]], drawn: jax.Array) -> jax.Array:
        """First row, first column, rows and columns that hold the triangles, int32 [4, t]."""
        firsts, counts = [], []
        for axis, middle in ((1, self.view.middle[0]), (0, self.view.middle[1])):
            places = [
                corner[axis] / jnp.maximum(corner[2], self.view.near) / self.view.slope + middle for corner in corners
            ]
            low = jnp.clip(jnp.ceil(jnp.minimum(jnp.minimum(*places[:2]), places[2])), 0, self.view.size)
            high = jnp.clip(jnp.floor(jnp.maximum(jnp.maximum(*places[:2]), places[2])) + 1, 0, self.view.size)
            firsts.append(low.astype(jnp.int32))
            counts.append((high - low).astype(jnp.int32))
        drawn = drawn & (counts[0] > 0) & (counts[1] > 0)
        return jnp.stack([*firsts, *(jnp.where(drawn, count, 0) for count in counts)])


def _cover(edges: Any, columns: Any, rows: Any) -> tuple[Any, Any]:
    """Inverse depth (1/m) of triangles at pixels, and whether these are inside; `edges` is [3, 3, ...]."""
    shares = [edge[0] * columns + edge[1] * rows + edge[2] for edge in edges]
    return shares[0] + shares[1] + shares[2], (shares[0] >= 0) & (shares[1] >= 0) & (shares[2] >= 0)


def _shade(normals: Any, columns: Any, rows: Any) -> Any:
    """Brightness of triangles at pixels as a whole number below `_SHADES`; `normals` is [3, 3, ...]."""
    x, y, z = (normal[0] * columns + normal[1] * rows + normal[2] for normal in normals)
    scale = jax.lax.rsqrt(jnp.maximum(x * x + y * y + z * z, 1e-20))
    bright = brightness((x * scale, y * scale, z * scale), jnp)
    shade = (bright - _DARKEST) * (_SHADES / (_BRIGHTEST - _DARKEST))
    return jnp.clip(shade, 0, _SHADES - 1).astype(jnp.int32)


def _depth_word(inverse_depth: Any, near: float, xp: Any) -> Any:
    """The high bits of a pixel's word for an inverse depth (1/m)."""
    return xp.clip(inverse_depth * (near * _MAX_DEPTH), 0, _MAX_DEPTH).astype(xp.int32) << _DEPTH_SHIFT


def _dot(a: Any, b: Any) -> Any:
    """Dot product over the first axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """Cross product of vectors given by their components."""
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
