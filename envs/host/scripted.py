"""The controllers of `envs.scripted` for the environments of the host; they read the true positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pybullet as p

from envs import kuka_scene, omnirobot_arena, scripted
from envs.host.goal_env import GoalEnv
from envs.host.kuka_button import KukaButtonGymEnv
from envs.host.mobile_robot import MobileRobotGymEnv
from envs.host.omnirobot import OmniRobotEnv
from envs.mobile_arena import STEP_LENGTH

Controller = Callable[[Any], Any]


def controller_for(env: GoalEnv) -> Controller:
    """The scripted controller of an environment and its kind of actions: (environment) -> action.

    Raises:
        ValueError: no controller is written for this class of environment.
    """
    if isinstance(env, KukaButtonGymEnv):
        return _kuka_discrete if env.is_discrete else _kuka_joints if env.action_joints else _kuka_continuous
    if isinstance(env, MobileRobotGymEnv):
        return _mobile_discrete if env.is_discrete else _mobile_continuous
    if isinstance(env, OmniRobotEnv):
        return _omnirobot_discrete if env.is_discrete else _omnirobot_continuous
    raise ValueError(f"{type(env).__name__} has no scripted controller: choose an arm, mobile-robot or Omnirobot task")


def _kuka_discrete(env: KukaButtonGymEnv) -> int:
    """The move that closes the largest error of the commanded point."""
    return int(scripted.axis_move(_effector_error(env), np))


def _kuka_continuous(env: KukaButtonGymEnv) -> np.ndarray:
    """The displacement that closes the error of the commanded point."""
    return np.clip(_effector_error(env) / env.DELTA_V_CONTINUOUS, -1.0, 1.0).astype(np.float32)


def _kuka_joints(env: KukaButtonGymEnv) -> np.ndarray:
    """Turn the joints towards the inverse kinematics of a point a little nearer to the button."""
    error = env.getGroundTruth() - env.getTargetPos()
    client, arm = env._require_client(), env._arm
    goal = np.array(p.getLinkState(arm.body, kuka_scene.EFFECTOR_LINK, physicsClientId=client)[4])
    near = np.abs(error[:2]).max() < scripted.OVER_BUTTON
    low = error[2] < scripted.CLEAR_HEIGHT and len(env._buttons) > 1
    if near or not low:
        goal[:2] -= np.clip(error[:2], -0.02, 0.02)
    goal[2] += -0.02 if near else 0.02 * low
    angles = p.calculateInverseKinematics(
        arm.body,
        kuka_scene.EFFECTOR_LINK,
        goal,
        kuka_scene.POINTING_DOWN,
        jointDamping=kuka_scene.JOINT_DAMPING,
        physicsClientId=client,
    )
    turns = np.array(angles[: kuka_scene.NUM_ARM_JOINTS]) - arm.joint_positions()[: kuka_scene.NUM_ARM_JOINTS]
    return np.clip(turns / kuka_scene.DELTA_THETA, -1.0, 1.0).astype(np.float32)


def _effector_error(env: KukaButtonGymEnv) -> np.ndarray:
    """How far the commanded point [3] is from where it should be (m)."""
    point, speed = np.asarray(env._arm.point), getattr(env, "_speed", 0.0)
    goal = scripted.effector_goal(env.getGroundTruth(), env.getTargetPos(), point, speed, env.force_down, np)
    return goal - point


def _mobile_discrete(env: MobileRobotGymEnv) -> int:
    position, target = env.getGroundTruth(), env.getTargetPos()
    return int(scripted.nearest_move(position, target, env._moves, env._low, env._high, np))


def _mobile_continuous(env: MobileRobotGymEnv) -> np.ndarray:
    position, target = env.getGroundTruth(), env.getTargetPos()
    return scripted.straight_move(position, target, env._low, env._high, STEP_LENGTH, np)


def _omnirobot_discrete(env: OmniRobotEnv) -> int:
    bound = np.full(2, omnirobot_arena.POSITION_BOUND)
    moves = np.array(omnirobot_arena.DISCRETE_MOVES)
    return int(scripted.nearest_move(env.getGroundTruth(), env.getTargetPos(), moves, -bound, bound, np))


def _omnirobot_continuous(env: OmniRobotEnv) -> np.ndarray:
    bound, step = np.full(2, omnirobot_arena.POSITION_BOUND), omnirobot_arena.STEP_LENGTH
    return scripted.straight_move(env.getGroundTruth(), env.getTargetPos(), -bound, bound, step, np)
