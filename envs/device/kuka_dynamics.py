"""What the torque of the arm's first two joints can do: they carry the whole arm, the others are always strong enough.

Where joints turn back and forth, as with joint actions, the inertia of the arm decides how fast joints 0 and 1 follow,
and the accelerations of the other joints push against them. Masses and centres of mass are those of the model; the
gripper is one body with the last link, and a link's own inertia counts as that of a ball.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from envs import kuka_scene as scene
from envs.device.kuka_arm import CENTRES_OF_MASS, Frame, dot, swept, transform

Scalars = tuple[Any, ...]

# Of links 0 to 6: masses (kg), moments of inertia about the centre of mass (kg m^2, mean of the three axes).
_MASSES = (4.0, 4.0, 3.0, 2.7, 1.7, 1.8, 2.7)
_INERTIAS = (0.037, 0.036, 0.024, 0.018, 0.012, 0.007, 0.025)
_CENTRES = (*CENTRES_OF_MASS[:6], (0.0, 0.0107, 0.1004))  # m, the last one with the gripper
_SWEEPS = 4  # of the iteration that settles both torques; they push on each other weakly


def reachable_speeds(frames: tuple[Frame, ...], speeds: Scalars, wanted: Scalars) -> Scalars:
    """Speeds (rad/s, 7 scalars) of the joints after a simulation step in which the motors want others.

    Args:
        frames: Frames of links 0 to 6.
        speeds: Present speeds (rad/s, 7 scalars).
        wanted: Speeds that the motors would give the joints with unlimited torque (rad/s, 7 scalars).
    """
    rows, weight = _inertia(frames)
    change = [new - old for new, old in zip(wanted, speeds, strict=True)]
    limit = scene.MAX_FORCE * scene.TIME_STEP
    # Impulses (N m s) that joints 0 and 1 must give besides those for their own and each other's acceleration.
    rest = [sum(row[j] * change[j] for j in range(2, scene.NUM_ARM_JOINTS)) for row in rows]
    rest[1] = rest[1] + weight * scene.TIME_STEP
    got = change[:2]
    for _ in range(_SWEEPS):
        for joint in (0, 1):
            against = rest[joint] + rows[joint][1 - joint] * got[1 - joint]
            impulse = jnp.clip(rows[joint][joint] * change[joint] + against, -limit, limit)
            got[joint] = (impulse - against) / rows[joint][joint]
    return speeds[0] + got[0], speeds[1] + got[1], *wanted[2:]


def _inertia(frames: tuple[Frame, ...]) -> tuple[tuple[list[Any], list[Any]], Any]:
    """(rows 0 and 1 of the arm's mass matrix (kg m^2), torque of joint 1 that holds the arm's weight (N m))."""
    centres = [transform(frame, centre) for frame, centre in zip(frames, _CENTRES, strict=True)]
    rows: tuple[list[Any], list[Any]] = ([], [])
    weight = 0.0
    levers = [[swept(frame.axes[2], frame.origin, centre) for centre in centres] for frame in frames]
    for j, frame in enumerate(frames):
        for i in (0, 1):
            axes = dot(frames[i].axes[2], frame.axes[2])
            rows[i].append(
                sum(
                    _MASSES[k] * dot(levers[i][k], levers[j][k]) + _INERTIAS[k] * axes
                    for k in range(max(i, j), scene.NUM_ARM_JOINTS)
                )
            )
    for k in range(1, scene.NUM_ARM_JOINTS):
        weight -= _MASSES[k] * scene.GRAVITY_Z * levers[1][k][2]
    return rows, weight
