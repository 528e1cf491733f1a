"""Triangles that move, drawn over a picture that does not, shaded as PyBullet's CPU renderer shades them.

A pixel is one int32 word: the inverse depth in the high bits, material and brightness below. The nearest surface is
then the largest word, so triangles may be drawn in any order. For a perspective camera the inverse depth of a plane,
and what is interpolated over it divided by depth, are linear in row and column: a triangle is a few coefficients.

Each triangle is drawn into the small tiles of the picture that cover it, so that the work grows with what is seen: on a
CPU a few tiles at a time, one picture after the other; elsewhere many tiles of all pictures at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap, sequential_vmap

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
# Where all pictures are drawn at once: a tile of as many pixels as threads run in step, and how many tiles are listed
# at a time, for each picture and at most.
_WIDE_TILE, _LISTED_PER_PICTURE, _MOST_LISTED = (4, 8), 2048, 2**18


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
        return jax.lax.platform_dependent(poses, cpu=on_cpu, default=self._draw_one)

    def _draw_tiles(self, poses: Poses) -> jax.Array:
        """Each triangle into the tiles that cover it, a few tiles at a time."""
        planes = self._project(poses)
        ends = jnp.cumsum(_tile_counts(planes.box, self._tile))

        def draw_list(number: jax.Array, words: jax.Array) -> jax.Array:
            listed = self._list_tiles(planes, ends, number * _LISTED_TILES, _LISTED_TILES, self._tile)

            def draw(group: jax.Array, words: jax.Array) -> jax.Array:
                tiles = jax.lax.dynamic_slice_in_dim(listed, group * _DRAWN_TILES, _DRAWN_TILES)
                # All at once, before the first is drawn: otherwise each would be worked out by itself, which is slower.
                drawn = jax.lax.optimization_barrier(self._tile_words(planes, tiles, self._tile))
                for tile in range(_DRAWN_TILES):
                    corner = (tiles[tile, 1], tiles[tile, 2])
                    nearest = jnp.maximum(jax.lax.dynamic_slice(words, corner, self._tile), drawn[tile])
                    words = jax.lax.dynamic_update_slice(words, nearest, corner)
                return words

            left = jnp.minimum(ends[-1] - number * _LISTED_TILES, _LISTED_TILES)
            return jax.lax.fori_loop(0, (left + _DRAWN_TILES - 1) // _DRAWN_TILES, draw, words)

        lists = (ends[-1] + _LISTED_TILES - 1) // _LISTED_TILES
        return jax.lax.fori_loop(0, lists, draw_list, jnp.asarray(self._words))

    def _draw_one(self, poses: Poses) -> jax.Array:
        """One picture as `_draw_together` draws it; batches of pictures are drawn together at any depth of `vmap`."""

        @custom_vmap
        def together(poses: Poses) -> jax.Array:
            return self._draw_together(poses)

        @together.def_vmap
        def _(axis_size: int, batched: list[Poses], poses: Poses) -> tuple[jax.Array, bool]:
            whole = [
                leaf if with_axis else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
                for leaf, with_axis in zip(poses, batched[0], strict=True)
            ]
            words = together(Poses(*(leaf.reshape(-1, *leaf.shape[2:]) for leaf in whole)))
            return words.reshape(axis_size, -1, *words.shape[1:]), True

        return together(Poses(*(leaf[None] for leaf in poses)))[0]

    def _draw_together(self, poses: Poses) -> jax.Array:
        """The tiles of all triangles of all pictures, int32 [pictures, size, size]; the leaves are [pictures, ...]."""
        pictures, size = len(poses.position), self.view.size
        tile = (min(_WIDE_TILE[0], size), min(_WIDE_TILE[1], size))
        of_each = jax.vmap(self._project)(poses)
        # One long row of triangles, picture after picture.
        planes = _Planes(*(jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1) for leaf in of_each))
        triangles = planes.box.shape[1] // pictures
        ends = jnp.cumsum(_tile_counts(planes.box, tile))
        listed = min(_MOST_LISTED, pictures * _LISTED_PER_PICTURE)
        rows, columns = jnp.arange(tile[0])[:, None], jnp.arange(tile[1])

        def draw_list(number: jax.Array, words: jax.Array) -> jax.Array:
            tiles = self._list_tiles(planes, ends, number * listed, listed, tile)
            drawn = self._tile_words(planes, tiles, tile)
            triangle, row, column, _ = (tiles[:, k, None, None] for k in range(4))
            place = jnp.where(drawn > 0, (row + rows) * size + column + columns, size * size)
            return words.at[triangle // triangles, place].max(drawn, mode="drop")

        lists = (ends[-1] + listed - 1) // listed
        still = jnp.broadcast_to(jnp.asarray(self._words).reshape(-1), (pictures, size * size))
        return jax.lax.fori_loop(0, lists, draw_list, still).reshape(pictures, size, size)

    def _list_tiles(
        self, planes: _Planes, ends: jax.Array, first: jax.Array, listed: int, tile: tuple[int, int]
    ) -> jax.Array:
        """Tiles to draw, from number `first` on: triangle, row, column and material, int32 [listed, 4].

        `ends` are the cumulative sums of the triangles' numbers of tiles. Past the last tile the material is -1.
        """
        height, width = tile
        numbers = first + jnp.arange(listed)
        triangles = jnp.minimum(jnp.searchsorted(ends, numbers, side="right", method="scan_unrolled"), ends.size - 1)
        across = jnp.maximum((planes.box[3] + width - 1) // width, 1)
        table = jnp.stack([jnp.pad(ends[:-1], (1, 0)), across, *planes.box[:2], planes.materials], axis=1)
        before, across, row, column, material = table[triangles].T
        row = jnp.minimum(row + (numbers - before) // across * height, self.view.size - height)
        column = jnp.minimum(column + (numbers - before) % across * width, self.view.size - width)
        return jnp.stack([triangles, row, column, jnp.where(numbers < ends[-1], material, -1)], axis=1)

    def _tile_words(self, planes: _Planes, tiles: jax.Array, tile: tuple[int, int]) -> jax.Array:
        """Words of some tiles [n, height, width], 0 where the tile's triangle is not; `tiles` is [n, 4] as listed."""
        triangle, row, column, material = (tiles[:, k, None, None] for k in range(4))
        pixels = column + jnp.arange(tile[1]), row + jnp.arange(tile[0])[:, None]
        inverse_depth, inside = _cover(planes.edges[..., triangle], *pixels)
        shade = _shade(planes.normals[..., triangle], *pixels)
        word = _depth_word(inverse_depth, self.view.near, jnp) | (material * _SHADES + shade)
        return jnp.where(inside & (material > 0), word, 0)

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


def _tile_counts(box: jax.Array, tile: tuple[int, int]) -> jax.Array:
    """How many tiles (height, width) hold each triangle of boxes [4, t], int32 [t]."""
    rows, columns = box[2:]
    return jnp.where(rows > 0, ((columns + tile[1] - 1) // tile[1]) * ((rows + tile[0] - 1) // tile[0]), 0)


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
