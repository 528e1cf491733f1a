"""Controllers that go straight to the target: what they do, in NumPy for the host and in JAX for the twins.

`xp` is the module of the arrays, numpy or jax.numpy. Light: imports nothing.
"""

from __future__ import annotations

from typing import Any

FINGER_OFFSET = (0.0, 0.024)  # m, horizontally from the effector point to the finger, with the gripper pointing down
OVER_BUTTON = 0.05  # m, largest horizontal error of the finger with which the arm presses; the cap's radius is 0.09
TRAVEL_HEIGHT = 0.2  # m, of the effector point on its way to a button: objects lie below it
LEAD_STEPS = 60  # by which the arm follows a moving button late
CLEAR_HEIGHT = -0.05  # m, of the finger relative to the target point: lower, it has to rise before it travels


def nearest_move(position: Any, target: Any, moves: Any, low: Any, high: Any, xp: Any) -> Any:
    """The move that ends nearest to the target, of those that no wall forbids.

    Args:
        position: [axes] (m).
        target: [m] (m) on the first m axes.
        moves: [actions, axes] (m).
        low, high: [axes] (m), where the robot may be.
        xp: Module of the arrays.

    Returns:
        Action, an integer [].
    """
    goals = position + moves
    squared = ((goals[:, : target.shape[0]] - target) ** 2).sum(1)
    allowed = ((goals >= low) & (goals <= high)).all(1)
    return xp.argmin(xp.where(allowed, squared, xp.inf))


def straight_move(position: Any, target: Any, low: Any, high: Any, step: float, xp: Any) -> Any:
    """The move [axes], in units of `step` (m), that ends nearest to the target and within the walls; see above."""
    axes = target.shape[0]
    # A hair inside the limits: a position on them may round to the other side.
    reachable = xp.clip(target, low[:axes] + 1e-3, high[:axes] - 1e-3)
    move = xp.clip((reachable - position[:axes]) / step, -1.0, 1.0)
    return xp.concatenate([move, xp.zeros(len(position) - axes)]).astype("float32")


def effector_goal(finger: Any, target: Any, point: Any, speed: Any, force_down: bool, xp: Any) -> Any:
    """Where to command the arm's effector point [3] (m): close above the button, and down once the finger is there.

    Args:
        finger: [3] (m).
        target: [3] (m), the target point above the button.
        point: [3] (m), the commanded point.
        speed: [] (m per step), of a button that moves along y.
        force_down: Whether the arm cannot be commanded upwards.
        xp: Module of the arrays.
    """
    error = finger - target
    above = target[:2] - xp.asarray(FINGER_OFFSET) + speed * xp.asarray((0.0, float(LEAD_STEPS)))
    over = (abs(error[:2]).max() < OVER_BUTTON) & (error[2] < 0.0)
    if force_down:
        travel = xp.stack([*above, xp.minimum(point[2], TRAVEL_HEIGHT)])
    else:
        away = xp.where(error[2] < CLEAR_HEIGHT, point[:2], above)
        travel = xp.stack([*away, xp.asarray(TRAVEL_HEIGHT)])
    return xp.where(over, xp.stack([*above, xp.asarray(0.0)]), travel)


def axis_move(error: Any, xp: Any) -> Any:
    """The discrete action of an arm that closes the largest of the errors [3] (m)."""
    axis = xp.argmax(abs(error))
    return 2 * axis + (error[axis] > 0)
