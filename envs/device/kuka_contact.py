"""What the fingers of the arm touch: buttons and table, as PyBullet's contact points tell it.

The lowest parts of the gripper are the lower edges of its two finger tips, 12 mm long; three points of each stand for
them. Beside a button, higher parts of a finger meet the side of its cap before the tip meets the table. In PyBullet the
fingers give way (2 N m hold them) and fold up, so that the arm goes on almost as if nothing were there: see
`kuka_fingers`.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.device.kuka_arm import Frame, Vector, transform

# Points of the left tip in its frame (m), corners of its convex hull; the right tip mirrors them in x. First its lower
# edge, then two rings above it, which reach further out along y and meet the sides of a cap.
_EDGE = ((0.0039, -0.0081, 0.0514), (0.0039, -0.0022, 0.0514), (0.0039, 0.0036, 0.0514))
_RINGS = (
    (-0.0023, -0.0102, 0.0488),
    (-0.0020, 0.0056, 0.0488),
    (0.0042, -0.0086, 0.0474),
    (0.0042, 0.0040, 0.0474),
    (-0.0080, -0.0102, 0.0333),
    (-0.0080, 0.0057, 0.0333),
    (0.0053, -0.0097, 0.0310),
    (0.0053, 0.0051, 0.0310),
)
# Higher up, where only the side of a button is met: corners of the left tip in its frame, and of the part above it,
# link 9, in the frame of that.
_SHAFT = ((-0.0125, -0.0074, 0.016), (-0.0113, 0.0052, 0.016), (0.0055, -0.0106, 0.016), (0.0055, 0.0061, 0.016))
_BASE = ((-0.0115, -0.0106, 0.0667), (-0.0115, 0.0040, 0.0667), (0.0086, -0.0123, 0.0667), (0.0053, 0.0050, 0.0667))
# Heights (m), measured in PyBullet: of a settled button's base, of its parts above the base, and of the table's top.
# Shapes are 1 mm thicker all around than drawn, but boxes. Contact begins 0.73 mm before shapes touch.
BUTTON_Z = -0.19401
CAP_DOWN = 0.005  # of the cap's frame above the base while it is not driven
CAP_UP = 0.01  # how far the cap is driven up in every step; at a reset it is down
_CAP_TOP, _BODY_TOP = BUTTON_Z + 0.035 + CAP_UP, BUTTON_Z + 0.03
_TABLE_TOP, _TABLE_X, _TABLE_Y = -0.195, (-0.25, 1.25), 0.5
_MARGIN, _NEAR = 0.001, 0.00073
_CAP_RADIUS, _BODY_RADIUS = 0.09 + 2 * _MARGIN, 0.1 + 2 * _MARGIN


class Touch(NamedTuple):
    """What the arm touches.

    Attributes:
        cap: bool [] for each button, whether it touches its cap.
        body: bool [] for each button, whether it touches its green parts.
        table: bool [], whether it touches the table.
    """

    # Not arrays [buttons]: XLA computes all that leads to an array made of parts once more for each part. With them, a
    # step with one button took twice as long, with two buttons 200 times.
    cap: tuple[jax.Array, ...]
    body: tuple[jax.Array, ...]
    table: jax.Array


def finger_points(gripper: tuple[Frame, ...]) -> tuple[tuple[Vector, ...], ...]:
    """Points (m) of both fingers, for the frames of links 7 to 13: lower edge, rings above it, then those higher up."""
    fingers = ((gripper[2], gripper[3], 1.0), (gripper[5], gripper[6], -1.0))
    return tuple(
        tuple(
            transform(frame, (side * x, y, z))
            for frame, points in ((tip, _EDGE + _RINGS + _SHAFT), (base, _BASE))
            for x, y, z in points
        )
        for base, tip, side in fingers
    )


def touches(fingers: tuple[tuple[Vector, ...], ...], buttons: jax.Array, stand: bool) -> Touch:
    """What the fingers touch.

    Args:
        fingers: Points of the fingers (m), see `finger_points`.
        buttons: float32 [buttons, 2], x and y of the buttons (m).
        stand: Whether the buttons stand still. They then keep a tip that came down on the rim off the cap; a button
            that is moved by being placed does not, it ends up inside the tip.
    """
    touched = [_touch(fingers, (button[0], button[1]), stand) for button in buttons]
    return Touch(
        tuple(cap for touch in touched for cap in touch.cap),
        tuple(body for touch in touched for body in touch.body),
        functools.reduce(operator.and_, (touch.table for touch in touched)),
    )


def surface(buttons: jax.Array, x: Any, y: Any) -> Any:
    """Height (m) at which a finger touches what is below a point x, y (m): cap or rim of a button, or the table."""
    height: Any = _TABLE_TOP + _MARGIN
    for button in buttons:
        square = (x - button[0]) * (x - button[0]) + (y - button[1]) * (y - button[1])
        height = jnp.where(square < _BODY_RADIUS * _BODY_RADIUS, _BODY_TOP + 2 * _MARGIN, height)
        height = jnp.where(square < _CAP_RADIUS * _CAP_RADIUS, _CAP_TOP + 2 * _MARGIN, height)
    return height


def nothing_touched(buttons: int) -> Touch:
    """No contact, with that many buttons."""
    no = jnp.zeros((), bool)
    return Touch((no,) * buttons, (no,) * buttons, no)


def _touch(fingers: tuple[tuple[Vector, ...], ...], button: Vector, stand: bool) -> Touch:
    """What the fingers touch if this button, its x and y given (m), is the only one."""
    cap, body, table = [], [], []
    edge = len(_EDGE)
    for finger in fingers:
        squared = [(x - button[0]) * (x - button[0]) + (y - button[1]) * (y - button[1]) for x, y, _ in finger]
        above = [square < _CAP_RADIUS * _CAP_RADIUS for square in squared]
        on_body = [
            (square < _BODY_RADIUS * _BODY_RADIUS) & (z < _BODY_TOP + 2 * _MARGIN + _NEAR)
            for square, (_, _, z) in zip(squared, finger, strict=True)
        ]
        on_cap = [
            inside & (z < _CAP_TOP + 2 * _MARGIN + _NEAR) & (z > _BODY_TOP)
            for inside, (_, _, z) in zip(above, finger, strict=True)
        ]
        # A tip whose edge stands on the rim or beside the button is kept off the cap's side, 1 cm further in.
        off = _any(on_body[:edge]) & stand
        cap.append(_any(on_cap[:edge]) | (_any(on_cap[edge:]) & ~off))
        body += on_body
        for inside, (x, y, z) in zip(above, finger[: len(_EDGE + _RINGS)], strict=False):
            over = (z < _TABLE_TOP + _MARGIN + _NEAR) & (x > _TABLE_X[0]) & (x < _TABLE_X[1]) & (abs(y) < _TABLE_Y)
            table.append(over & ~inside)
    return Touch((_any(cap),), (_any(body),), _any(table))


def _any(flags: list[Any]) -> Any:
    """Whether one of the flags is set."""
    return functools.reduce(operator.or_, flags)
