"""What the pictures of the arm tasks show: floor, sky and table, drawn once; arm and buttons, which move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from envs import kuka_scene as scene
from envs.render.rasteriser import LARGE_PICTURE, Poses, Rasteriser, Triangles, View, look_at
from envs.render.solids import SKY, Box, Rgb, floor_colour

_ARM_MESH = Path(__file__).resolve().parent.parent / "assets" / "kuka_arm.npz"
ARM_BODIES = 15  # links 0 to 13, then the base

Vector = tuple[float, float, float]

_DARK: Rgb = (0.2, 0.2, 0.2)
_BLUE: Rgb = (0.5, 0.7, 1.0)
_ORANGE: Rgb = (1.0, 0.424, 0.039)
_GREY: Rgb = (0.6, 0.6, 0.6)
_GREEN: Rgb = (0.0, 1.0, 0.0)
_YELLOW: Rgb = (1.0, 1.0, 0.0)
# Of links 0 to 13 and the base.
_LINK_COLOURS = (_BLUE, _BLUE, _ORANGE, _BLUE, _BLUE, _ORANGE, *(_GREY,) * 8, _DARK)

# Boxes of the gripper: body, middle and size (m).
_PALM = (7, (0.0, 0.0, 0.0), (0.05, 0.05, 0.1))
_FINGERS = tuple((body, (0.0, 0.0, 0.04), (0.01, 0.01, 0.08)) for body in (8, 11))

_TABLE_TOP = Box((-0.25, -0.5, -0.245), (1.25, 0.5, -0.195), (1.0, 1.0, 1.0))
# Lit colour of the table's wood in units of 1/255, for red, green and blue: the coefficient in row i and column j is
# that of cos(pi i a) cos(pi j b), a and b going from 0 to 1 along the table's x and y. Fitted to PyBullet's pictures.
_WOOD = (
    ((197.7, 22.6, -3.5), (-1.0, -2.3, -0.5), (-0.5, 2.2, 0.5)),
    ((174.4, 24.0, -4.5), (0.0, -2.8, -1.2), (-3.3, 1.8, -0.1)),
    ((143.8, 22.2, -3.2), (0.2, -5.0, -1.6), (-3.4, 0.9, -0.8)),
)

# PyBullet draws cylinders as prisms of about as many sides.
_SIDES = 16
_BUTTON_RADIUS, _BUTTON_HEIGHT = 0.1, 0.03
_CAP_RADIUS, _CAP_HEIGHT = 0.09, 0.03

# Ball (white and black), duck, toy brick and cube: simple solids of their sizes (m) and mean colours.
_OBJECT_COLOURS: tuple[Rgb, ...] = (
    (1.0, 1.0, 1.0),
    (0.0, 0.0, 0.0),
    (1.0, 0.83, 0.0),
    (1.0, 1.0, 0.4),
    (1.0, 1.0, 1.0),
)
# Round ones are larger than they are, so that their few facets cover as much of a picture: see `tests/envs/render`.
_BALL_RADIUS = 0.0317
# Middle and radii in the duck's frame, in which it stands along y.
_DUCK_BODY = ((-0.004, 0.025, 0.002), (0.0445, 0.026, 0.0315))
_DUCK_HEAD = ((-0.018, 0.062, 0.002), (0.027, 0.0225, 0.0225))
_BRICK = ((0.0, 0.0, -0.002), (0.032, 0.032, 0.019))
_CUBE = ((0.0, 0.0, 0.0), (0.05, 0.05, 0.05))


class KukaScene(NamedTuple):
    """What the arm stands among.

    Attributes:
        caps: Colour of each button's cap.
        with_objects: Whether a ball and up to `N_OBJECT_DRAWS` ducks, toy bricks and cubes lie on the table.
    """

    caps: tuple[Rgb, ...]
    with_objects: bool = False

    @property
    def num_bodies(self) -> int:
        """Number of bodies that move: the arm's, base and cap of each button, the ball, then places for ducks, for
        bricks and for cubes, `N_OBJECT_DRAWS` each."""
        objects = 1 + len(scene.OBJECTS) * scene.N_OBJECT_DRAWS if self.with_objects else 0
        return ARM_BODIES + 2 * len(self.caps) + objects


ONE_BUTTON = KukaScene((_YELLOW,))
TWO_BUTTONS = KukaScene((_YELLOW, scene.TWO_CAP_COLOUR))
WITH_OBJECTS = KukaScene((_YELLOW,), with_objects=True)


class KukaRenderer:
    """A camera of the arm tasks that draws pictures of one size; what never moves is drawn when it is built.

    A call takes the `Poses` of the scene's `num_bodies` bodies and returns uint8 [size, size, 3]. The bodies are links
    0 to 13 of the arm and its base, as in `envs.device.kuka_arm.LinkPoses`, base plate and cap of each button, and the
    objects (see `KukaScene.num_bodies`), absent ones at `scene.ABSENT`. The frames are those of the models' files, as
    PyBullet's `getLinkState` gives them at 4 and 5, not those of inertia.

    Args:
        size: Width and height in pixels.
        kuka_scene: What stands on the table.
        camera: 0, or 1 for the second camera of `multi_view`.

    Raises:
        ValueError: a size below 1 or another camera.
    """

    def __init__(self, size: int, kuka_scene: KukaScene = ONE_BUTTON, camera: int = 0) -> None:
        if camera not in range(len(scene.CAMERAS)):
            raise ValueError(f"camera is {camera}: choose one from 0 to {len(scene.CAMERAS) - 1}")
        self.scene = kuka_scene
        view = look_at(*scene.CAMERAS[camera], scene.CAMERA_FOV, scene.CAMERA_NEAR, size)
        triangles, colours = _moving_bodies(kuka_scene, "large" if size >= LARGE_PICTURE else "small")
        self._first_button_colour = colours.index(_GREEN)
        self._first_object_colour = self._first_button_colour + 1 + len(set(kuka_scene.caps))
        self.rasteriser = Rasteriser(view, triangles, colours, *_draw_still(view))

    def __call__(self, poses: Poses) -> jax.Array:
        """Draw one picture; see the class."""
        return self.rasteriser(poses)

    def parts(self, poses: Poses) -> jax.Array:
        """What each pixel shows, int32 [size, size]: 0 the still scene, 1 the arm, 2 a button, 3 an object."""
        material = self.rasteriser.materials(poses)
        firsts = (0, self._first_button_colour, self._first_object_colour)
        return sum(((material >= first).astype(jnp.int32) for first in firsts[1:]), (material >= 0).astype(jnp.int32))


def _draw_still(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Floor, sky and table: colours uint32 [size, size] and depths (m)."""
    rays = view.rays()
    (x, y, z), (dx, dy, dz) = rays
    below = (scene.FLOOR_Z - z) / dz
    depth = np.where((below > 0) & (below < scene.CAMERA_FAR), below, scene.CAMERA_FAR)
    floor = floor_colour(x + depth * dx, y + depth * dy, np)
    colour = np.where(depth < scene.CAMERA_FAR, floor, SKY)
    reach, _ = _TABLE_TOP.hit(rays, np)
    on_table = reach < depth
    reach = np.where(on_table, reach, 0.0)
    return np.where(on_table, _wood(x + reach * dx, y + reach * dy), colour), np.where(on_table, reach, depth)


def _wood(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colour of the lit table at points (x, y), uint32."""
    low, high = _TABLE_TOP.low, _TABLE_TOP.high
    a, b = (x - low[0]) / (high[0] - low[0]), (y - low[1]) / (high[1] - low[1])
    terms = [[np.cos(np.pi * i * a) * np.cos(np.pi * j * b) for j in range(3)] for i in range(3)]
    red, green, blue = (np.clip(np.einsum("ij,ij...->...", c, terms), 0, 255).astype(np.uint32) for c in _WOOD)
    return (red << 16) | (green << 8) | blue


def _moving_bodies(kuka_scene: KukaScene, detail: str) -> tuple[Triangles, tuple[Rgb, ...]]:
    """All that moves, the arm in "large" or "small" detail, and the colours of its materials."""
    colours = tuple(dict.fromkeys((*_LINK_COLOURS, _GREEN, *kuka_scene.caps, *_OBJECT_COLOURS)))
    mesh = np.load(_ARM_MESH)
    # Lengths are stored in units of 0.1 mm, and links counted from the base.
    bodies = (mesh[f"{detail}_bodies"].astype(np.int32) - 1) % ARM_BODIES
    parts = [
        Triangles(
            mesh[f"{detail}_corners"].astype(np.float32) * 1e-4,
            mesh[f"{detail}_normals"].astype(np.float32),
            bodies,
            np.array([colours.index(colour) for colour in _LINK_COLOURS])[bodies],
        )
    ]
    for body, middle, size in (_PALM, *_FINGERS):
        parts.append(box(middle, size, body, colours.index(_GREY)))
    for number, cap in enumerate(kuka_scene.caps):
        base = ARM_BODIES + 2 * number
        parts.append(cylinder(_BUTTON_RADIUS, _BUTTON_HEIGHT, base, colours.index(_GREEN)))
        parts.append(cylinder(_CAP_RADIUS, _CAP_HEIGHT, base + 1, colours.index(cap)))
    if kuka_scene.with_objects:
        parts += _objects(ARM_BODIES + 2 * len(kuka_scene.caps), colours)
    return Triangles(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True))), colours


def _objects(ball: int, colours: tuple[Rgb, ...]) -> list[Triangles]:
    """The ball, which is body `ball`, and all ducks, bricks and cubes, the bodies after it."""
    white, black, duck, brick, cube = (colours.index(colour) for colour in _OBJECT_COLOURS)
    sphere = ellipsoid((0.0, 0.0, 0.0), (_BALL_RADIUS,) * 3, 8, 4, ball, white)
    # Fields of a beach ball: every other one of 4 by 4 is black.
    middles = sphere.corners.mean(axis=1)
    around, height = np.arctan2(middles[:, 1], middles[:, 0]), np.abs(middles[:, 2]) > _BALL_RADIUS / 2
    fields = np.floor(around / (math.pi / 2)).astype(int) + height + (middles[:, 2] > 0)
    parts = [sphere._replace(materials=np.where(fields % 2 == 0, black, white).astype(np.int32))]
    count = scene.N_OBJECT_DRAWS
    for body in range(ball + 1, ball + 1 + count):
        parts += [ellipsoid(*_DUCK_BODY, 8, 4, body, duck), ellipsoid(*_DUCK_HEAD, 6, 3, body, duck)]
        parts += [box(*_BRICK, body + count, brick), box(*_CUBE, body + 2 * count, cube)]
    return parts


def box(middle: Vector, size: Vector, body: int, material: int) -> Triangles:
    """The 12 triangles of a box [m]."""
    corners, normals = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal, across = np.zeros(3), np.zeros(3)
            normal[axis], across[(axis + 1) % 3] = sign, 1.0
            along = np.cross(normal, across)
            quad = [normal + i * across + j * along for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            corners += [[quad[0], quad[1], quad[2]], [quad[0], quad[2], quad[3]]]
            normals += [[normal] * 3] * 2
    return _triangles(np.array(middle) + np.array(corners) * np.array(size) / 2, normals, body, material)


def cylinder(radius: float, height: float, body: int, material: int) -> Triangles:
    """Side and top of a cylinder that stands on its frame's origin [m]: 3 triangles for each side of a polygon.

    PyBullet gives a cylinder's vertices normals that point away from its middle, so that its flat top looks like a
    cone; so do these.
    """
    angles = np.arange(_SIDES + 1) * (2 * math.pi / _SIDES)
    ring = radius * np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)
    centre = np.array((0.0, 0.0, height))
    top = ring + centre
    corners = []
    for i in range(_SIDES):
        corners += [[centre, top[i], top[i + 1]], [ring[i], ring[i + 1], top[i + 1]], [ring[i], top[i + 1], top[i]]]
    return _triangles(np.array(corners), np.array(corners) - (0.0, 0.0, height / 2), body, material)


def ellipsoid(middle: Vector, radii: Vector, across: int, bands: int, body: int, material: int) -> Triangles:
    """An ellipsoid [m] along the axes: `bands` from pole to pole of `across` quadrangles each."""
    polar, around = np.arange(bands + 1) * (math.pi / bands), np.arange(across + 1) * (2 * math.pi / across)
    rings = np.sin(polar)[:, None, None] * np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], axis=1)
    rings[..., 2] = np.cos(polar)[:, None]
    corners = []
    for band in range(bands):
        for i in range(across):
            (a, b), (c, d) = rings[band, i : i + 2], rings[band + 1, i : i + 2]
            corners += [[a, c, d]] if band == 0 else [[a, c, b]] if band == bands - 1 else [[a, c, d], [a, d, b]]
    unit = np.array(corners)
    return _triangles(np.array(middle) + unit * np.array(radii), unit / np.array(radii), body, material)


def _triangles(corners: np.ndarray, normals: ArrayLike, body: int, material: int) -> Triangles:
    """Triangles of one body and one material."""
    count = len(corners)
    return Triangles(
        corners.astype(np.float32),
        np.asarray(normals, np.float32),
        np.full(count, body, np.int32),
        np.full(count, material, np.int32),
    )
