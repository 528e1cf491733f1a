"""The Kuka LBR iiwa arm with a two-finger gripper in PyBullet, steered by a Cartesian point or by joint angles.

Initial angles, motor settings and gripper forces are those of the S-RL Toolbox (Raffin et al., 2018, arXiv:1809.09369).
"""

from __future__ import annotations

from collections.abc import Sequence

import pybullet as p

from envs.kuka_scene import (
    BASE_POSITION,
    EFFECTOR_LINK,
    FINGER_LINK,
    GRIPPER_FORCES,
    INITIAL_JOINTS,
    INITIAL_POINT,
    JOINT_DAMPING,
    MAX_FORCE,
    MAX_VELOCITY,
    MODEL,
    NUM_ARM_JOINTS,
    NUM_JOINTS,
    POINTING_DOWN,
    POSITION_GAIN,
    VELOCITY_GAIN,
    Workspace,
)


class KukaArm:
    """One arm in a physics client, loaded at its initial joint angles.

    Args:
        client: Physics client; the search path must hold the models of `pybullet_data`.
        workspace: Intervals in metres that the commanded point is clipped to, for x, y and z.
        damped: Whether inverse kinematics damps the joints by `JOINT_DAMPING`, or as PyBullet does by itself.
    """

    def __init__(self, client: int, workspace: Workspace, damped: bool = True) -> None:
        self.client = client
        self._solver = {"jointDamping": JOINT_DAMPING} if damped else {}
        self.workspace = workspace
        self.body: int = p.loadSDF(MODEL, physicsClientId=client)[0]
        p.resetBasePositionAndOrientation(self.body, BASE_POSITION, (0, 0, 0, 1), physicsClientId=client)
        for joint, angle in enumerate(INITIAL_JOINTS):
            p.resetJointState(self.body, joint, angle, physicsClientId=client)
        for joint, force in GRIPPER_FORCES.items():
            # A motor keeps its command until it gets another, so the gripper needs none while the arm moves.
            p.setJointMotorControl2(
                self.body, joint, p.POSITION_CONTROL, targetPosition=0.0, force=force, physicsClientId=client
            )
        self.reset_point()

    def reset_point(self) -> None:
        """Put the commanded point back to its initial place; the joints do not move."""
        self.point = INITIAL_POINT

    def move_point(self, dx: float, dy: float, dz: float) -> None:
        """Displace the commanded point [m], clip it to the workspace and drive the arm towards it.

        The arm's velocity is limited, so the point runs ahead of the arm. The gripper points straight down.
        """
        (x, y, z), ((x_min, x_max), (y_min, y_max), (z_min, z_max)) = self.point, self.workspace
        self.point = (
            min(max(x + dx, x_min), x_max),
            min(max(y + dy, y_min), y_max),
            min(max(z + dz, z_min), z_max),
        )
        angles = p.calculateInverseKinematics(
            self.body,
            EFFECTOR_LINK,
            self.point,
            POINTING_DOWN,
            **self._solver,
            physicsClientId=self.client,
        )
        self.drive_joints(angles)

    def drive_joints(self, angles: Sequence[float]) -> None:
        """Drive the arm's joints towards the first 7 of `angles` [rad]."""
        body, client, drive, mode = self.body, self.client, p.setJointMotorControl2, p.POSITION_CONTROL
        for joint in range(NUM_ARM_JOINTS):
            drive(
                body,
                joint,
                mode,
                targetPosition=angles[joint],
                targetVelocity=0.0,
                force=MAX_FORCE,
                positionGain=POSITION_GAIN,
                velocityGain=VELOCITY_GAIN,
                maxVelocity=MAX_VELOCITY,
                physicsClientId=client,
            )

    def joint_positions(self) -> list[float]:
        """The present angles of all 14 joints [rad], arm first; fixed joints are 0."""
        states = p.getJointStates(self.body, range(NUM_JOINTS), physicsClientId=self.client)
        return [state[0] for state in states]

    def finger_position(self) -> tuple[float, float, float]:
        """World position of the left finger's centre of mass [m]: what counts as the arm's position."""
        position: tuple[float, float, float] = p.getLinkState(self.body, FINGER_LINK, physicsClientId=self.client)[0]
        return position
