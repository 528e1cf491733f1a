"""How the arm moves: inverse kinematics as PyBullet solves it, and its motors as far as they shape the motion.

PyBullet (Bullet 3's `calculateInverseKinematics`) starts from the present angles and repeats damped least-squares
steps: dq = J^T (J J^T + damping I)^-1 error, scaled so that no joint turns by more than 45 degrees, up to 20 times or
until the position is within 0.1 mm. The arm has one joint more than the task has equations, so the way there decides
where the elbow ends; hence the same steps are taken here, only fewer, see `Stage`.

A motor of Bullet sets the speed of its joint, clipped to a maximum, as far as its torque reaches. Only the first two
joints, which carry the most, are ever held up by that: see `drive`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs import kuka_scene as scene
from envs.device.kuka_arm import Frame, arm_frames, swept
from envs.device.kuka_dynamics import reachable_speeds

Scalars = tuple[Any, ...]

MAX_STEP = math.pi / 4  # rad, of a joint in one least-squares step
# Lowest and highest change of speed in a simulation step (rad/s) of joints 0 and 1 under MAX_FORCE. Measured in
# PyBullet near the button; in truth they depend on the posture (0.2 to 0.5). Joint 1 carries the arm's weight.
JOINT_LIMITS = (2.96706, 2.0944, 2.96706, 2.0944, 2.96706, 2.0944, 3.05433)  # rad, either way, of joints 0 to 6
SPEED_CHANGE = ((-0.33, 0.33), (-0.2, 0.3))


class Solver(NamedTuple):
    """Settings of inverse kinematics.

    Attributes:
        damping: Added to the diagonal of J J^T (m^2 and rad^2 alike).
        steps: Least-squares steps for each Jacobian, on errors that the Jacobian predicts. It is computed where the
            steps before foretell the middle of those that share it, as in the midpoint rule of integration.
    """

    damping: float
    steps: tuple[int, ...]


# PyBullet needs 3 to 6 steps for a point within reach; the angles after 4 are the same to 1e-5 rad, but for few.
PRECISE = Solver(damping=1e-5, steps=(1, 1, 1, 1))
# Without damping from the caller PyBullet takes 0.5, and its 20 steps leave a part of the error. The later ones change
# little, so that they can share Jacobians: the angles differ by 0.4 mrad on average.
DAMPED = Solver(damping=0.5, steps=(1, 2, 3, 5, 9))


def inverse_kinematics(angles: Scalars, point: Scalars, solver: Solver) -> Scalars:
    """Angles (7 scalars, rad) that bring link 6, pointing down, to a point (3 scalars, m), from present angles on."""
    steps = jnp.array((*solver.steps, 1), jnp.int32)
    zero = jnp.zeros_like(angles[0])
    # A loop also keeps XLA from computing what leads to a Jacobian again for each that follows.
    angles, _ = jax.lax.fori_loop(
        0,
        len(solver.steps),
        lambda index, now: _improved(now[0], now[1], point, solver.damping, steps[index], steps[index + 1] // 2),
        (angles, (zero,) * scene.NUM_ARM_JOINTS),
    )
    return angles


def _improved(
    angles: Scalars, ahead: Scalars, point: Scalars, damping: float, steps: Any, following: Any
) -> tuple[Scalars, Scalars]:
    """The angles after some steps that share a Jacobian.

    Args:
        angles: Where the steps begin (rad, 7 scalars).
        ahead: From there to where the Jacobian is computed (rad, 7 scalars).
        point: Where link 6 is to be (m, 3 scalars).
        damping: As in `Solver`.
        steps: How many, int32 [].
        following: After how many more the next Jacobian is to be computed, int32 [].

    Returns:
        (angles after the steps, from there to where the next Jacobian is to be computed).
    """
    frames = arm_frames(tuple(angle + way for angle, way in zip(angles, ahead, strict=True)))
    jacobian = _jacobian(frames)
    factor = _cholesky(_gram(jacobian, damping))
    back = _combined(tuple(zip(*jacobian, strict=True)), ahead)
    error = tuple(there + way for there, way in zip(_error(frames[-1], point), back, strict=True))
    solved, error = _solved(factor, error, damping, steps)
    step = _combined(jacobian, solved)
    largest = abs(step[0])
    for value in step[1:]:
        largest = jnp.maximum(largest, abs(value))
    scale = jnp.minimum(1.0, MAX_STEP / jnp.maximum(largest, MAX_STEP))
    angles = tuple(angle + scale * change for angle, change in zip(angles, step, strict=True))
    return angles, _combined(jacobian, _solved(factor, error, damping, following)[0])


def _solved(factor: list[list[Any]], error: Scalars, damping: float, steps: Any) -> tuple[Scalars, Scalars]:
    """(what J^T turns into the change of the angles in some steps, the error after them)."""

    def step(_: Any, carry: tuple[Scalars, Scalars]) -> tuple[Scalars, Scalars]:
        total, error = carry
        solved = _solve(factor, error)
        # (J J^T + damping I) solved = error, so what the step leaves of the error is damping * solved.
        return tuple(a + b for a, b in zip(total, solved, strict=True)), tuple(damping * value for value in solved)

    return jax.lax.fori_loop(0, steps, step, (tuple(jnp.zeros_like(value) for value in error), error))


def _combined(rows: tuple[Scalars, ...], weights: Scalars) -> Scalars:
    """The sum of each row's products with the weights."""
    return tuple(sum(a * b for a, b in zip(row, weights, strict=True)) for row in rows)


def linear_response(angles: Scalars, solver: Solver) -> jax.Array:
    """Change of the angles that `inverse_kinematics` answers with, for each metre of the point: [7, 3] (rad/m).

    Args:
        angles: 7 numbers (rad), of an arm that points down.
        solver: Its settings.
    """
    point = arm_frames(angles)[-1].origin
    columns = []
    for axis in range(3):
        moved = tuple(value + (0.01 if index == axis else 0.0) for index, value in enumerate(point))
        after = inverse_kinematics(tuple(jnp.float32(angle) for angle in angles), moved, solver)
        columns.append(jnp.stack([(new - old) / 0.01 for new, old in zip(after, angles, strict=True)]))
    return jnp.stack(columns, axis=1)


def drive(
    angles: Scalars, speeds: Scalars, targets: Scalars, frames: tuple[Frame, ...] | None = None
) -> tuple[Scalars, Scalars]:
    """One simulation step of the motors.

    Args:
        angles: Of joints 0 to 6 (rad), scalars.
        speeds: Of joints 0 to 6 (rad/s), scalars.
        targets: Angles that joints 0 to 6 are to take.
        frames: Frames of links 0 to 6, where the torques of joints 0 and 1 are to be computed; by default they are
            held to `SPEED_CHANGE`, which does for targets that inverse kinematics finds.

    Returns:
        (angles, speeds) after the step.
    """
    wanted = tuple(
        jnp.clip(scene.POSITION_GAIN * (target - angle) / scene.TIME_STEP, -scene.MAX_VELOCITY, scene.MAX_VELOCITY)
        for target, angle in zip(targets, angles, strict=True)
    )
    if frames is None:
        limited = (
            jnp.clip(speed, old + low, old + high)
            for (low, high), old, speed in zip(SPEED_CHANGE, speeds, wanted, strict=False)
        )
        wanted = (*limited, *wanted[len(SPEED_CHANGE) :])
    else:
        wanted = reachable_speeds(frames, speeds, wanted)
    moved = tuple(
        jnp.clip(angle + speed * scene.TIME_STEP, -limit, limit)
        for angle, speed, limit in zip(angles, wanted, JOINT_LIMITS, strict=True)
    )
    return moved, wanted


def lifted(angles: Scalars, frames: tuple[Frame, ...], point: Scalars, rise: Any) -> Scalars:
    """Angles that put a point higher, by the smallest change of them.

    Args:
        angles: Of joints 0 to 6 (rad).
        frames: Frames of links 0 to 6.
        point: The point (m).
        rise: How much higher (m).
    """
    lift = [swept(frame.axes[2], frame.origin, point)[2] for frame in frames]
    share = rise / sum(rate * rate for rate in lift)
    return tuple(angle + rate * share for rate, angle in zip(lift, angles, strict=True))


def _error(effector: Frame, point: Scalars) -> Scalars:
    """What is missing to the point (m, 3 scalars) and to pointing down (rotation vector, rad, 3 scalars)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = effector.axes
    # Sine times axis, and cosine, of the rotation that brings the frame to x = -x, y = y, z = -z of the world.
    turn = ((-zy - yz) / 2, (zx - xz) / 2, (yx + xy) / 2)
    cosine = (yy - xx - zz - 1) / 2
    # The ratio of angle and sine by a quarter of the angle, whose tangent never exceeds 1: the series is exact to
    # 1e-5 for angles up to 90 degrees and to 6 % at 180. A call of atan2 would break the loop apart, see `cosine_sine`.
    squared = turn[0] * turn[0] + turn[1] * turn[1] + turn[2] * turn[2]
    sine = jnp.sqrt(jnp.maximum(squared, 1e-12))  # the floor keeps 0 / 0 away
    half = sine / jnp.maximum(1 + cosine, 1e-6)
    quarter = half / (1 + jnp.sqrt(1 + half * half))
    square = quarter * quarter
    ratio = 4 * quarter / sine * (1 - square * (1 / 3 - square * (1 / 5 - square * (1 / 7 - square / 9))))
    missing = tuple(goal - here for goal, here in zip(point, effector.origin, strict=True))
    return (*missing, *(ratio * component for component in turn))


def _jacobian(frames: tuple[Frame, ...]) -> tuple[Scalars, ...]:
    """Columns [7][6] of the Jacobian: velocity (m/s) and rotation (rad/s) of the last frame for 1 rad/s of a joint."""
    point = frames[-1].origin
    return tuple((*swept(frame.axes[2], frame.origin, point), *frame.axes[2]) for frame in frames)


def _gram(columns: tuple[Scalars, ...], damping: float) -> list[list[Any]]:
    """Lower triangle of J J^T + damping I, rows of growing length."""
    rows = [[sum(column[i] * column[j] for column in columns) for j in range(i + 1)] for i in range(6)]
    for i, row in enumerate(rows):
        row[i] = row[i] + damping
    return rows


def _cholesky(matrix: list[list[Any]]) -> list[list[Any]]:
    """Lower triangle L with L L^T = matrix; its diagonal is stored as reciprocals."""
    factor: list[list[Any]] = []
    for i, row in enumerate(matrix):
        new: list[Any] = []
        for j in range(i + 1):
            value = row[j] - sum((new[k] * (factor[j][k] if j < i else new[k]) for k in range(j)), start=0.0)
            new.append(jax.lax.rsqrt(jnp.maximum(value, 1e-9)) if i == j else value * factor[j][j])
        factor.append(new)
    return factor


def _solve(factor: list[list[Any]], right: Scalars) -> Scalars:
    """Solution of L L^T x = right, for what `_cholesky` returned."""
    size = len(factor)
    forward: list[Any] = []
    for i in range(size):
        forward.append((right[i] - sum((factor[i][k] * forward[k] for k in range(i)), start=0.0)) * factor[i][i])
    solution: list[Any] = [None] * size
    for i in reversed(range(size)):
        rest = sum((factor[k][i] * solution[k] for k in range(i + 1, size)), start=0.0)
        solution[i] = (forward[i] - rest) * factor[i][i]
    return tuple(solution)
