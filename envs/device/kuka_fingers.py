"""Fingers that give way: how the gripper's joints move while the arm presses a finger on the top of something.

A finger turns at its base and at its tip, both about the palm's y. Motors of 2 N m hold both joints at 0, and a finger
that is pressed on a surface folds: then it moves where neither the surface nor friction lets it go on. One simulation
step of this is what Bullet does: impulses of motors, contacts and friction are settled one after the other, again and
again (projected Gauss-Seidel: Catto, Iterative Dynamics with Temporal Coherence, 2005). Unlike there, the palm moves as
the arm's motors want, unless that takes more than `_ARM_FORCE`: then it is held up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs import kuka_scene as scene
from envs.device.kuka_arm import CENTRES_OF_MASS, Frame, Vector, dot, minus, swept, transform

Scalars = tuple[Any, ...]
Support = Callable[[Any, Any], Any]  # x and y of a point (m) -> height of the surface below it (m)

# Corners (m) of the left finger's outline, x and z in the frame of its tip and in that of its base; the right one
# mirrors them.
_TIP = (
    (0.0055, 0.0509),
    (0.0039, 0.0514),
    (-0.0023, 0.0488),
    (-0.0091, 0.0311),
    (-0.0145, 0.0144),
    (-0.0168, 0.0003),
    (0.0055, 0.0004),
    (0.0067, 0.0083),
    (0.0066, 0.0142),
)
_BASE = ((-0.0117, 0.0704), (-0.0197, 0.0492), (0.0084, 0.0682), (0.0114, 0.0533))
_MIDDLE = -0.002  # y of a finger's middle in both frames
_MASS = 0.2  # kg, of each of the three links of a finger
_INERTIAS = (1.1e-4, 1.4e-4, 7e-5)  # kg m^2, of links 8, 9 and 10 about y
_MOTOR_GAIN = 0.1  # share of the way to 0 that a motor wants to go in a step
_FRICTION = 0.8 * 0.5  # of a finger on a button
_RECOVERY = 0.2  # share of a penetration that one step makes good
_PALM_MOBILITY, _SIDEWAYS_MOBILITY = 0.2, 0.5  # 1/kg, how easily the arm lets itself be moved at the palm, about
_ARM_FORCE = 400.0  # N, about: where joint 1 or joint 3 of the arm gives way
_SWEEPS = 20
_APART = 0.006  # m, at least, between the two points of a tip that may touch at once
_DEEP = 0.008  # m: a point that is deeper below a surface came from the side
_NEAR = 0.01  # m: a point that is higher above a surface cannot reach it in a step


class Contact(NamedTuple):
    """A point of a finger that may touch what is below it; velocities are in the world (m/s).

    Attributes:
        base, tip: What 1 rad/s of the finger's base and of its tip adds to its velocity.
        carried: Its velocity as the palm moves.
        gap: Upward velocity that is enough to touch after the step.
        near: Whether it is so near that it may.
    """

    base: Vector
    tip: Vector
    carried: Vector
    gap: Any
    near: Any


class Finger(NamedTuple):
    """A finger before a step.

    Attributes:
        mobility: Change of speed (rad/s) of (base, tip) for an impulse of 1 N m s on the base, and on the tip.
        weight: Torques of gravity (N m) on base and tip.
        contacts: Points that may touch.
        force: Torque of the motor of the base (N m).
    """

    mobility: tuple[tuple[Any, Any], tuple[Any, Any]]
    weight: tuple[Any, Any]
    contacts: tuple[Contact, ...]
    force: float


def pressed(
    angles: Scalars, speeds: Scalars, gripper: tuple[Frame, ...], moved: Frame, support: Support
) -> tuple[Scalars, Scalars, Any]:
    """One simulation step of both fingers.

    Args:
        angles: Of joints 8, 10, 11 and 13 (rad).
        speeds: Their speeds (rad/s).
        gripper: Frames of links 7 to 13 before the step.
        moved: Frame of link 7 after the step, as the arm's motors have it.
        support: What the fingers are pressed on.

    Returns:
        (angles, speeds after the step, how much higher the palm is kept than in `moved` (m)).
    """
    palm = gripper[0]
    forces = (scene.GRIPPER_FORCES[8], scene.GRIPPER_FORCES[11])
    fingers = tuple(
        _finger(palm, moved, gripper[first : first + 3], side, first, force, support)
        for first, side, force in zip((1, 4), (1.0, -1.0), forces, strict=True)
    )
    free = []
    for index, finger in enumerate(fingers):
        for joint in (0, 1):
            free.append(speeds[2 * index + joint] + scene.TIME_STEP * dot(finger.mobility[joint], finger.weight))
    wanted = tuple(-angle * (_MOTOR_GAIN / scene.TIME_STEP) for angle in angles)
    speeds, rise = _settled(tuple(free), wanted, fingers)
    after = tuple(angle + scene.TIME_STEP * speed for angle, speed in zip(angles, speeds, strict=True))
    return after, speeds, scene.TIME_STEP * rise


def _finger(
    palm: Frame, moved: Frame, links: tuple[Frame, ...], side: float, first: int, force: float, support: Support
) -> Finger:
    """A finger.

    Args:
        palm, moved: As in `pressed`.
        links: Frames of its three links before the step.
        side: 1 for the left one, -1 for the right one.
        first: Place of its first link in the gripper.
        force: Torque of the motor of its base (N m).
        support: What it is pressed on.
    """
    axis = palm.axes[1]
    hinge, knuckle = links[0].origin, links[2].origin

    centres = [transform(link, CENTRES_OF_MASS[7 + first + i]) for i, link in enumerate(links)]
    bases, tip = [swept(axis, hinge, centre) for centre in centres], swept(axis, knuckle, centres[2])
    base_mass = _MASS * sum(dot(base, base) for base in bases) + sum(_INERTIAS)
    both = _MASS * dot(bases[2], tip) + _INERTIAS[2]
    tip_mass = _MASS * dot(tip, tip) + _INERTIAS[2]
    scale = 1.0 / (base_mass * tip_mass - both * both)
    mobility = ((tip_mass * scale, -both * scale), (-both * scale, base_mass * scale))
    gravity = _MASS * scene.GRAVITY_Z
    weight = (gravity * sum(base[2] for base in bases), gravity * tip[2])

    def contact(point: Vector, distance: Any, of_tip: bool) -> Contact:
        """The contact that a point (m) at a distance (m) above what is below it may have."""
        base, tip = swept(axis, hinge, point), swept(axis, knuckle, point) if of_tip else (0.0, 0.0, 0.0)
        inside = minus(point, palm.origin)
        there = transform(moved, tuple(dot(inside, along) for along in palm.axes))
        carried = tuple((new - old) / scene.TIME_STEP for new, old in zip(there, point, strict=True))
        share = jnp.where(distance > 0, 1.0, _RECOVERY) / scene.TIME_STEP
        return Contact(base, tip, carried, -distance * share, distance < _NEAR)

    tips = [transform(links[2], (side * x, _MIDDLE, z)) for x, z in _TIP]
    lowest = _lowest(tips, support, None)
    contacts = (
        contact(*lowest, of_tip=True),
        contact(*_lowest(tips, support, lowest[0]), of_tip=True),
        contact(*_lowest([transform(links[1], (side * x, _MIDDLE, z)) for x, z in _BASE], support, None), of_tip=False),
    )
    return Finger(mobility, weight, contacts, force)


def _lowest(points: list[Vector], support: Support, other: Vector | None) -> tuple[Vector, Any]:
    """The point that is nearest to the surface below it, not close to another one: (point, distance (m))."""
    best: Vector = points[0]
    least: Any = 1.0
    for point in points:
        distance = point[2] - support(point[0], point[1])
        distance = jnp.where(distance < -_DEEP, 1.0, distance)
        if other is not None:
            away = minus(point, other)
            distance = jnp.where(dot(away, away) < _APART * _APART, 1.0, distance)
        nearer = distance < least
        best = tuple(jnp.where(nearer, new, old) for new, old in zip(point, best, strict=True))
        least = jnp.where(nearer, distance, least)
    return best, least


def _settled(speeds: Scalars, wanted: Scalars, fingers: tuple[Finger, ...]) -> tuple[Scalars, Any]:
    """The speeds that the impulses of one step leave.

    Args:
        speeds: Of the four joints without any (rad/s).
        wanted: What the motors want them to be (rad/s).
        fingers: The fingers.

    Returns:
        (speeds of the joints (rad/s), of the palm upwards beyond what the arm wants (m/s)).
    """
    zero = jnp.zeros_like(speeds[0])
    hold = _ARM_FORCE * scene.TIME_STEP

    def sweep(_: Any, carry: Any) -> Any:
        joints, motors, rise, held, impulses = carry
        joints, motors = list(joints), list(motors)
        for index, finger in enumerate(fingers):
            for joint in (0, 1):
                joints[index], motors[2 * index + joint] = _driven(
                    joints[index], joint, wanted[2 * index + joint], motors[2 * index + joint], finger
                )
        given = jnp.clip(held - rise / _PALM_MOBILITY, -hold, hold)
        rise, held = rise + _PALM_MOBILITY * (given - held), given
        answers: list[Scalars] = []
        for index, finger in enumerate(fingers):
            for contact in finger.contacts:
                joints[index], rise, answer = _touching(
                    joints[index], rise, impulses[len(answers)], contact, finger.mobility
                )
                answers.append(answer)
        return tuple(joints), tuple(motors), rise, held, tuple(answers)

    contacts = sum(len(finger.contacts) for finger in fingers)
    start = ((speeds[:2], speeds[2:]), (zero,) * 4, zero, zero, ((zero,) * 3,) * contacts)
    joints, _, rise, *_ = jax.lax.fori_loop(0, _SWEEPS, sweep, start)
    return (*joints[0], *joints[1]), rise


def _driven(joints: Scalars, joint: int, wanted: Any, impulse: Any, finger: Finger) -> tuple[Scalars, Any]:
    """(speeds of a finger's joints, impulse of a motor (N m s)) after the motor's turn, for what they were before."""
    limit = (finger.force, scene.GRIPPER_FORCES[10])[joint] * scene.TIME_STEP
    given = jnp.clip(impulse + (wanted - joints[joint]) / finger.mobility[joint][joint], -limit, limit)
    return _pushed(joints, finger.mobility[joint], given - impulse), given


def _touching(
    joints: Scalars, rise: Any, impulse: Scalars, contact: Contact, mobility: tuple[tuple[Any, Any], ...]
) -> tuple[Scalars, Any, Scalars]:
    """(speeds of a finger's joints, rise of the palm, impulse of a contact (N s, x, y, z)) after the contact's turn."""
    directions = [(contact.base[i], contact.tip[i]) for i in range(3)]
    answers = [tuple(dot(row, direction) for row in mobility) for direction in directions]
    ease = [dot(direction, answer) for direction, answer in zip(directions, answers, strict=True)]
    speed = dot(directions[2], joints) + contact.carried[2] + rise
    normal = impulse[2] + (contact.gap - speed) / (ease[2] + _PALM_MOBILITY)
    normal = jnp.where(contact.near, jnp.maximum(normal, 0.0), 0.0)
    joints = _pushed(joints, answers[2], normal - impulse[2])
    rise = rise + _PALM_MOBILITY * (normal - impulse[2])
    friction = [
        impulse[i] - (dot(directions[i], joints) + contact.carried[i]) / (ease[i] + _SIDEWAYS_MOBILITY) for i in (0, 1)
    ]
    # Both directions together stay within the cone.
    size = jnp.sqrt(friction[0] * friction[0] + friction[1] * friction[1])
    scale = jnp.minimum(1.0, _FRICTION * normal / jnp.maximum(size, 1e-9))
    for i in (0, 1):
        friction[i] = friction[i] * scale
        joints = _pushed(joints, answers[i], friction[i] - impulse[i])
    return joints, rise, (friction[0], friction[1], normal)


def _pushed(joints: Scalars, answer: Scalars, impulse: Any) -> Scalars:
    """Speeds of a finger's joints after an impulse, whose answer is their change for 1 N s (or N m s)."""
    return tuple(speed + change * impulse for speed, change in zip(joints, answer, strict=True))
