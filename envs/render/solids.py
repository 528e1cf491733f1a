"""Rays against boxes and cylinders, shaded as PyBullet's CPU renderer shades them.

The same code runs on NumPy, for what never changes in a picture, and on JAX, for what moves: every function takes the
array module as its last argument. Lengths in metres. A colour is a uint32 0xRRGGBB, so that one array carries it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

Rgb = tuple[float, float, float]
Array = Any  # of the array module in use

# Measured on PyBullet 3.2.7's renderer, on a white sphere: default light, ambient, diffuse and specular shares.
_LIGHT = tuple(v / math.sqrt(50**2 + 30**2 + 100**2) for v in (-50.0, 30.0, 100.0))
_AMBIENT, _DIFFUSE, _SPECULAR = 0.6, 0.35, 0.0512

# Texture of PyBullet's floor, squares of 1 m.
FLOOR_WHITE: Rgb = (1.0, 1.0, 1.0)
FLOOR_BLUE: Rgb = (173 / 255, 199 / 255, 239 / 255)
SKY = np.uint32(0xFFFFFF)


class Rays(NamedTuple):
    """Rays origin + distance * direction; components broadcast against each other, none of `direction` is zero."""

    origin: tuple[Array, Array, Array]
    direction: tuple[Array, Array, Array]


class Solid(Protocol):
    """Something that a ray can hit."""

    def hit(self, rays: Rays, xp: Any) -> tuple[Array, Array]:
        """Distance along each ray, inf where it misses, and the colour there."""


def pixel_grid(fov: float, size: int) -> tuple[float, tuple[float, float]]:
    """Where the pixels of a square picture lie around the camera's axis.

    Args:
        fov: Angle between opposite sides of the picture in degrees.
        size: Width and height in pixels.

    Returns:
        (by how much a ray's slope against the axis grows from one pixel to the next, (row, column) of the ray along the
        axis)
    """
    # PyBullet's renderer samples pixels at their lower left corners.
    return math.tan(math.radians(fov / 2)) / (size / 2), (size / 2 - 1, size / 2)


def brightness(normal: tuple[Array, Array, Array], xp: Any) -> Array:
    """Factor of the material's colour for a unit normal, given by its components."""
    facing = normal[0] * _LIGHT[0] + normal[1] * _LIGHT[1] + normal[2] * _LIGHT[2]
    gloss = xp.maximum(2 * normal[2] * facing - _LIGHT[2], 0.0)
    return _AMBIENT + _DIFFUSE * xp.maximum(facing, 0.0) + _SPECULAR * gloss * gloss * xp.sqrt(gloss)


def pack(rgb: Rgb, factor: Array, xp: Any) -> Array:
    """Colour of a material under a brightness factor, uint32."""
    red, green, blue = (xp.minimum(255.0 * value * factor, 255.0).astype(xp.uint32) for value in rgb)
    return (red << 16) | (green << 8) | blue


def unpack(colour: Array) -> Array:
    """Colours uint32 [...] as uint8 [..., 3]."""
    # One shift for all channels: stacking three would make XLA work out `colour` again for every channel.
    return (colour[..., None] >> np.array([16, 8, 0], np.uint32)).astype(np.uint8)


def trace(solids: tuple[Solid, ...], rays: Rays, behind: Array, limit: Array, xp: Any) -> tuple[Array, Array]:
    """Nearest hit of each ray among `solids` that is nearer than `limit`.

    Returns:
        (distances, `limit` where nothing nearer was hit; colours, `behind` there)
    """
    nearest, colour = limit, behind
    for solid in solids:
        distance, paint = solid.hit(rays, xp)
        nearer = distance < nearest
        nearest, colour = xp.where(nearer, distance, nearest), xp.where(nearer, paint, colour)
    return nearest, colour


def moved(rays: Rays, x: Array, y: Array) -> Rays:
    """The rays as seen by something whose own origin is at (x, y, 0)."""
    return Rays((rays.origin[0] - x, rays.origin[1] - y, rays.origin[2]), rays.direction)


def floor_colour(x: Array, y: Array, xp: Any) -> Array:
    """Colour of the lit floor at points (x, y): white where the square's indices sum to an even number."""
    up = brightness((0.0, 0.0, 1.0), np)
    even = (xp.floor(x) + xp.floor(y)) % 2 == 0
    return xp.where(even, pack(FLOOR_WHITE, up, np), pack(FLOOR_BLUE, up, np))


class Box(NamedTuple):
    """An axis-aligned box between two corners; its underside is never seen."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    rgb: Rgb

    def hit(self, rays: Rays, xp: Any) -> tuple[Array, Array]:
        """See `Solid`."""
        spans = [
            _between(o, d, low, high, xp)
            for o, d, low, high in zip(rays.origin, rays.direction, self.low, self.high, strict=True)
        ]
        (enter_x, _), (_, _), (enter_z, _) = spans
        enter, seen = _overlap(spans, xp)
        front, back = self._side((-1.0, 0.0, 0.0)), self._side((1.0, 0.0, 0.0))
        left, right = self._side((0.0, -1.0, 0.0)), self._side((0.0, 1.0, 0.0))
        along_x = xp.where(rays.direction[0] > 0, front, back)
        along_y = xp.where(rays.direction[1] > 0, left, right)
        colour = xp.where(enter == enter_x, along_x, along_y)
        colour = xp.where(enter == enter_z, self._side((0.0, 0.0, 1.0)), colour)
        return xp.where(seen, enter, xp.inf), colour

    def _side(self, normal: tuple[float, float, float]) -> np.uint32:
        return pack(self.rgb, brightness(normal, np), np)


class Wheel(NamedTuple):
    """A cylinder along y between `left` and `right`, with a rim on its flanks; colours as they look when lit."""

    centre_x: float
    centre_z: float
    radius: float
    left: float
    right: float
    tread: int
    rim_radius: float
    rim: int

    def hit(self, rays: Rays, xp: Any) -> tuple[Array, Array]:
        """See `Solid`."""
        (x, y, z), (dx, dy, dz) = rays
        around = _around(x - self.centre_x, z - self.centre_z, dx, dz, self.radius, xp)
        enter, seen = _overlap([around, _between(y, dy, self.left, self.right, xp)], xp)
        reach = xp.where(seen, enter, 0.0)
        across, up = x + reach * dx - self.centre_x, z + reach * dz - self.centre_z
        on_rim = across * across + up * up < self.rim_radius**2
        colour = xp.where(on_rim, np.uint32(self.rim), np.uint32(self.tread))
        return xp.where(seen, enter, xp.inf), colour


class Disc(NamedTuple):
    """A cylinder along z around the origin, from the floor upwards.

    PyBullet gives a cylinder's vertices normals that point away from its middle and interpolates them, so that its flat
    top looks like a cone; this shades it the same way.
    """

    radius: float
    height: float
    rgb: Rgb

    def hit(self, rays: Rays, xp: Any) -> tuple[Array, Array]:
        """See `Solid`."""
        (x, y, z), (dx, dy, dz) = rays
        spans = [_around(x, y, dx, dy, self.radius, xp), _between(z, dz, 0.0, self.height, xp)]
        enter, seen = _overlap(spans, xp)
        reach = xp.where(seen, enter, 0.0)
        nx, ny, nz = x + reach * dx, y + reach * dy, z + reach * dz - self.height / 2
        scale = 1.0 / xp.sqrt(nx * nx + ny * ny + nz * nz)
        colour = pack(self.rgb, brightness((nx * scale, ny * scale, nz * scale), xp), xp)
        return xp.where(seen, enter, xp.inf), colour


def _between(origin: Array, direction: Array, low: float, high: float, xp: Any) -> tuple[Array, Array]:
    """Where rays enter and leave the slab between two coordinates."""
    first, second = (low - origin) / direction, (high - origin) / direction
    return xp.minimum(first, second), xp.maximum(first, second)


def _around(a: Array, b: Array, da: Array, db: Array, radius: float, xp: Any) -> tuple[Array, Array]:
    """Where rays enter and leave an endless cylinder, in the plane across its axis; (inf, -inf) where they miss."""
    inverse = 1.0 / (da * da + db * db)
    middle = -(a * da + b * db) * inverse
    room = middle * middle - (a * a + b * b - radius * radius) * inverse
    half = xp.sqrt(xp.maximum(room, 0.0))
    return xp.where(room < 0, xp.inf, middle - half), xp.where(room < 0, -xp.inf, middle + half)


def _overlap(spans: list[tuple[Array, Array]], xp: Any) -> tuple[Array, Array]:
    """Where rays enter the common part of some spans, and whether there is one ahead of their origin."""
    enter, leave = spans[0]
    for first, last in spans[1:]:
        enter, leave = xp.maximum(enter, first), xp.minimum(leave, last)
    return enter, (enter <= leave) & (enter > 0)
