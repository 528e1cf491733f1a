"""What the pictures of the mobile robot show, as solids: walls, targets and robot; and what draws them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax

from envs import mobile_arena as arena
from envs.render.solids import Box, Disc, Rgb, Solid, Wheel

_BLUE: Rgb = (0.0, 0.0, 0.8)
_WHITE: Rgb = (1.0, 1.0, 1.0)
_RED: Rgb = (0.8, 0.0, 0.0)
_YELLOW: Rgb = (1.0, 1.0, 0.0)
# Cylinders (radius, and sides along y) that cover as much of a picture as the wheels with their rounded shoulders.
_WHEEL_LEFT, _WHEEL_RIGHT = (0.048, 0.104, 0.141), (0.048, -0.141, -0.104)
# Mean colours of the lit, textured wheels, measured on PyBullet's pictures.
_REAR_TYRE, _FRONT_TYRE, _RIM, _RIM_RADIUS = 0x241F1E, 0x3B332F, 0x6A4848, 0.024


def _wall(centre: tuple[float, float], along_x: bool, rgb: Rgb) -> Box:
    """One wall of the arena."""
    length, width, top = arena.WALL_LENGTH / 2, arena.WALL_WIDTH / 2, arena.WALL_HEIGHT / 2
    x, y = centre
    half_x, half_y = (length, width) if along_x else (width, length)
    return Box((x - half_x, y - half_y, -top), (x + half_x, y + half_y, top), rgb)


# Their tops lie at one height: where two cross, PyBullet shows the one loaded last and `trace` the one traced first.
WALLS: tuple[Box, ...] = tuple(_wall(*wall) for wall in reversed(arena.WALLS))

Extent = tuple[tuple[float, float, float], tuple[float, float, float]]  # lowest and highest corner


class Target(NamedTuple):
    """A body at a position of its own, and the box around it, both about that position."""

    solid: Solid
    extent: Extent


class Scene(NamedTuple):
    """What stands in the arena, and the point of the floor that the camera from above looks down on."""

    walls: tuple[Box, ...]
    targets: tuple[Target, ...]
    camera_centre: tuple[float, float]


def _disc(rgb: Rgb) -> Target:
    """A target to drive to."""
    # PyBullet draws the disc of radius 0.18 as a polygon of 20 sides; this is the circle of the same area.
    return Target(Disc(0.179, 0.03, rgb), ((-0.18, -0.18, 0.0), (0.18, 0.18, 0.03)))


def _strip() -> Target:
    """A line across the arena, as far as it shows between the walls."""
    half_x, half_y = arena.LINE_WIDTH / 2, (arena.ARENA_SIZE - arena.WALL_WIDTH) / 2
    low, high = (-half_x, -half_y, arena.LINE_TOP - 0.1), (half_x, half_y, arena.LINE_TOP)
    return Target(Box(low, high, _YELLOW), ((*low[:2], 0.0), high))


ONE_TARGET = Scene(WALLS, (_disc(_YELLOW),), arena.CAMERA_CENTRE)
TWO_TARGETS = Scene(WALLS, (_disc(_YELLOW), _disc(_RED)), arena.CAMERA_CENTRE)
LINE_TARGET = Scene(WALLS, (_strip(),), arena.CAMERA_CENTRE)
ONE_DIMENSION = Scene(WALLS[-1:], (_disc(_YELLOW),), (arena.CAMERA_CENTRE[0], 0.0))

# The racecar of pybullet_data, its origin on the floor under the middle of the rear axle, heading +x.
ROBOT: tuple[Solid, ...] = (
    Box((-0.034, -0.09, 0.02), (0.249, 0.09, 0.08), _BLUE),
    Box((-0.04, -0.077, 0.02), (0.255, 0.077, 0.08), _BLUE),
    Box((0.255, -0.06, 0.02), (0.359, 0.06, 0.08), _BLUE),
    Box((0.255, -0.047, 0.02), (0.365, 0.047, 0.08), _BLUE),
    Box((-0.005, -0.1, 0.045), (0.005, 0.1, 0.055), _BLUE),
    Box((0.32, -0.1, 0.045), (0.33, 0.1, 0.055), _BLUE),
    Wheel(0.0, 0.05, *_WHEEL_LEFT, _REAR_TYRE, _RIM_RADIUS, _RIM),
    Wheel(0.0, 0.05, *_WHEEL_RIGHT, _REAR_TYRE, _RIM_RADIUS, _RIM),
    Wheel(0.325, 0.05, *_WHEEL_LEFT, _FRONT_TYRE, _RIM_RADIUS, _RIM),
    Wheel(0.325, 0.05, *_WHEEL_RIGHT, _FRONT_TYRE, _RIM_RADIUS, _RIM),
    Box((0.24, -0.025, 0.09), (0.29, 0.025, 0.128), _WHITE),
    Box((0.246, -0.019, 0.128), (0.284, 0.019, 0.16), _WHITE),
    Box((0.3735, -0.0875, 0.075), (0.4065, 0.0875, 0.105), _RED),
)
ROBOT_LOW, ROBOT_HIGH = (-0.05, -0.145, 0.0), (0.4065, 0.145, 0.16)


class Renderer(Protocol):
    """A camera that draws pictures of one size; what is the same in all of them is worked out when it is built.

    Args:
        size: Width and height in pixels.
        scene: What it looks at.
    """

    def __init__(self, size: int, scene: Scene = ONE_TARGET) -> None: ...

    def __call__(self, robot: jax.Array, targets: jax.Array) -> jax.Array:
        """Draw one picture.

        Args:
            robot: float32 [2], x and y of the robot (m).
            targets: float32 [n, 2], x and y of each target of the scene (m).

        Returns:
            uint8 [size, size, 3]
        """
        ...
