"""Where the links of the Kuka arm and its gripper are, for given joint angles: the kinematics of PyBullet's model.

The numbers are those of pybullet_data's `kuka_iiwa/kuka_with_gripper2.sdf` (joint axes, link poses with all joints at
0, centres of mass), with the base where the S-RL Toolbox puts it. Rotations by 90 and 180 degrees are exact here; the
file has them to 5 digits, which moves no link by more than 1e-5 m.

Vectors and rotations are tuples of scalars, not arrays: every operation then works on one array of the batch, which
XLA vectorises and fuses on a CPU, while batches of 3 by 3 products are slow there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Vector = tuple[Any, ...]  # of 3 scalars
Rotation = tuple[Vector, ...]  # columns: the axes x, y, z of a frame

NUM_LINKS = 14
NUM_ARM_JOINTS = 7
BASE_LINK = -1  # index of the immovable base in what `link_poses` returns, as in PyBullet
BASE_ORIGIN = (0.0, 0.0, -0.22)  # frame of the base (m); its centre of mass is (-0.1, 0, 0.07) from there

# Axes x, y, z of frames as seen from the base, with all joints at 0.
_UP = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_LEANING = ((-1, 0, 0), (0, 0, 1), (0, 1, 0))
_BEHIND = ((1, 0, 0), (0, 0, 1), (0, -1, 0))
_BACK = ((-1, 0, 0), (0, -1, 0), (0, 0, 1))
# Height above the base's frame (m) and axes of the frames of links 0 to 6, with all joints at 0.
_ARM = (
    (0.1575, _UP),
    (0.36, _LEANING),
    (0.5645, _UP),
    (0.78, _BEHIND),
    (0.9645, _BACK),
    (1.18, _LEANING),
    (1.261, _UP),
)
_QUARTER = (1.5703125, 4.83826794897e-4)  # a quarter turn (rad): a part whose multiples are exact, and the rest
_GRIPPER_OFFSET = 0.044  # from the frame of the last link of the arm along its z (m)
# x (m), z (m) and pitch (rad) of links 8, 9 and 10, the left finger, in the gripper's frame with all joints at 0; the
# right one, links 11 to 13, mirrors it in x. Both are at _FINGER_Y along y, about which their joints turn.
_FINGER_Y = 0.024
_FINGER = ((0.0, 0.045, -0.05), (-0.005, 0.125, -0.3), (-0.02, 0.185, 0.2))
# Centres of mass in the frames of links 0 to 13 (m); that of the base is never needed.
CENTRES_OF_MASS: tuple[Vector, ...] = (
    (0.0, -0.03, 0.12),
    (0.0003, 0.059, 0.042),
    (0.0, 0.03, 0.13),
    (0.0, 0.067, 0.034),
    (0.0001, 0.021, 0.076),
    (0.0, 0.0006, 0.0004),
    (0.0, 0.0, 0.02),
    (0.0, 0.0, 0.0),
    (0.0, 0.0, 0.04),
    (-0.003, 0.0, 0.04),
    (-0.005, 0.0, 0.026),
    (0.0, 0.0, 0.04),
    (0.003, 0.0, 0.04),
    (0.005, 0.0, 0.026),
)


class Frame(NamedTuple):
    """A frame in the world: `origin` (m) and the unit vectors `axes` = (x, y, z), all tuples of 3 scalars."""

    origin: Vector
    axes: Rotation


class LinkPoses(NamedTuple):
    """Where the links are: link i of PyBullet's model at index i, its base (PyBullet's link -1) at index `BASE_LINK`.

    Attributes:
        position: float32 [15, 3], origins of the links' frames (m).
        rotation: float32 [15, 3, 3], matrices from the links' frames to the world; column k is axis k.
    """

    position: jax.Array
    rotation: jax.Array


def link_poses(joints: jax.Array) -> LinkPoses:
    """Poses of all links and the base, for the angles [14] of all joints (rad); 9 and 12 are fixed, theirs are ignored.

    The frames are those of the model's file, in which its meshes are given, not PyBullet's frames of inertia.
    """
    frames = arm_frames(tuple(joints[i] for i in range(NUM_ARM_JOINTS)))
    frames += gripper_frames(frames[-1], tuple(joints[i] for i in range(NUM_ARM_JOINTS, NUM_LINKS)))
    frames += (Frame(BASE_ORIGIN, _UP),)
    position = jnp.stack([jnp.stack([jnp.float32(x) for x in frame.origin]) for frame in frames])
    axes = jnp.stack([jnp.stack([jnp.stack([jnp.float32(x) for x in a]) for a in frame.axes]) for frame in frames])
    return LinkPoses(position, jnp.swapaxes(axes, 1, 2))


def arm_frames(angles: tuple[Any, ...]) -> tuple[Frame, ...]:
    """Frames of links 0 to 6 for the angles of joints 0 to 6 (rad, scalars); each joint turns about its link's z."""
    frames = []
    frame, standing, height = Frame(BASE_ORIGIN, _UP), _UP, 0.0
    for angle, (joint_height, joint_standing) in zip(angles, _ARM, strict=True):
        # With all joints at 0 they lie on one vertical line: the way from frame to frame is along the base's z.
        way = tuple(axis[2] * (joint_height - height) for axis in standing)
        x, y, z = (rotate(frame.axes, tuple(dot(old, new) for old in standing)) for new in joint_standing)
        frame = Frame(transform(frame, way), (*turn(x, y, angle), z))
        standing, height = joint_standing, joint_height
        frames.append(frame)
    return tuple(frames)


def gripper_frames(flange: Frame, angles: tuple[Any, ...]) -> tuple[Frame, ...]:
    """Frames of links 7 to 13 for the frame of link 6 and the angles of joints 7 to 13 (rad, scalars)."""
    x, y, z = flange.axes
    palm = Frame(transform(flange, (0.0, 0.0, _GRIPPER_OFFSET)), (*turn(x, y, angles[0]), z))
    return (palm, *_finger_frames(palm, 1.0, angles[1], angles[3]), *_finger_frames(palm, -1.0, angles[4], angles[6]))


def _finger_frames(palm: Frame, side: float, base_angle: Any, tip_angle: Any) -> tuple[Frame, ...]:
    """Frames of the three links of a finger: the left one for side 1, the right one for side -1."""
    frames = []
    frame, way_y, previous = palm, _FINGER_Y, (0.0, 0.0, 0.0)
    for link, angle in zip(_FINGER, (base_angle, 0.0, tip_angle), strict=True):
        way_x, way_z, pitch = (now - before for now, before in zip(link, previous, strict=True))
        cosine, sine = math.cos(previous[2]), math.sin(previous[2])
        way = (side * (cosine * way_x - sine * way_z), way_y, sine * way_x + cosine * way_z)
        x, y, z = frame.axes
        z, x = turn(z, x, side * pitch + angle)
        frame, way_y, previous = Frame(transform(frame, way), (x, y, z)), 0.0, link
        frames.append(frame)
    return tuple(frames)


def transform(frame: Frame, point: Vector) -> Vector:
    """A point given in a frame, in the world (m)."""
    moved = rotate(frame.axes, point)
    return tuple(a + b for a, b in zip(frame.origin, moved, strict=True))


def rotate(axes: Rotation, vector: Vector) -> Vector:
    """A vector given along `axes`, in the world."""
    return tuple(dot(vector, components) for components in zip(*axes, strict=True))


def turn(first: Vector, second: Vector, angle: Any) -> tuple[Vector, Vector]:
    """Two axes of a frame after a turn by `angle` (rad) about the third one, from the first towards the second."""
    weights = cosine_sine(angle)
    new = tuple(dot(weights, pair) for pair in zip(first, second, strict=True))
    return new, tuple(dot((weights[0], -weights[1]), pair) for pair in zip(second, first, strict=True))


def cosine_sine(angle: Any) -> tuple[Any, Any]:
    """Cosine and sine of an angle (rad), to 1e-7 for a few turns.

    XLA's own break vectorised loops apart on a CPU: a step of the arm takes about twice as long with them.
    """
    if _is_number(angle):
        return math.cos(angle), math.sin(angle)
    quarters = jnp.round(angle * (2 / math.pi))
    rest = (angle - quarters * _QUARTER[0]) - quarters * _QUARTER[1]  # within 45 degrees
    square = rest * rest
    sine = rest * (1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72))))
    cosine = 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56)))
    quadrant = quarters.astype(jnp.int32) & 3
    swapped = (quadrant & 1) == 1
    first, second = jnp.where(swapped, sine, cosine), jnp.where(swapped, cosine, sine)
    return jnp.where((quadrant == 1) | (quadrant == 2), -first, first), jnp.where(quadrant >= 2, -second, second)


def minus(first: Vector, second: Vector) -> Vector:
    """The difference of two vectors."""
    return tuple(a - b for a, b in zip(first, second, strict=True))


def swept(axis: Vector, origin: Vector, point: Vector) -> Vector:
    """Velocity (m/s) of a point (m) that turns at 1 rad/s about an axis, a unit vector, through an origin (m)."""
    (ax, ay, az), (rx, ry, rz) = axis, minus(point, origin)
    return ay * rz - az * ry, az * rx - ax * rz, ax * ry - ay * rx


def dot(first: tuple[Any, ...], second: tuple[Any, ...]) -> Any:
    """Sum of products; factors that are the constant 0 cost nothing, which XLA may not assume of floats."""
    terms = [a * b for a, b in zip(first, second, strict=True) if not (_is_zero(a) or _is_zero(b))]
    return sum(terms[1:], terms[0]) if terms else 0.0


def _is_zero(value: Any) -> bool:
    """Whether a factor is a Python number, known before the program is compiled, and 0."""
    return _is_number(value) and value == 0


def _is_number(value: Any) -> bool:
    """Whether a value is a Python number, known before the program is compiled."""
    return isinstance(value, int | float)
