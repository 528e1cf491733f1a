"""The return of a scripted controller that goes straight to the target: what a task can be expected to pay.

    python benchmarks/greedy.py [--env ID ...] [--continuous | --joints] [--random-target] [--shape-reward]
                                [--episodes 20] [--seed 0]

Plays the PyBullet environments (all arm and mobile-robot tasks unless `--env` names some) in this process and prints,
for each, the mean return with its standard error, the lowest and the highest return, and the mean number of steps. The
controllers read the environment's own positions, not its observation. Episode i of a task is seeded with seed + i.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pybullet as p

from envs import kuka_scene, mobile_arena
from envs.host.kuka_button import KukaButtonGymEnv
from envs.host.kuka_variants import KukaMovingButtonGymEnv
from envs.host.mobile_robot import MobileRobotGymEnv
from envs.host.srl_env import SRLGymEnv
from envs.registry import registered_env, resolve

Controller = Callable[[Any], Any]

FINGER_OFFSET = (0.0, 0.024)  # m, horizontally from the effector point to the finger, with the gripper pointing down
OVER_BUTTON = 0.05  # m, largest horizontal error of the finger with which the arm presses; the cap's radius is 0.09
TRAVEL_HEIGHT = 0.2  # m, of the effector point on its way to a button: objects lie below it
LEAD_STEPS = 60  # by which the arm follows a moving button late
CLEAR_HEIGHT = -0.05  # m, of the finger relative to the target point: lower, it has to rise before it travels


def kuka_discrete(env: KukaButtonGymEnv) -> int:
    """The move that closes the largest error of the commanded point."""
    error = _effector_goal(env) - env._arm.point
    axis = int(np.argmax(np.abs(error)))
    return 2 * axis + int(error[axis] > 0)


def kuka_continuous(env: KukaButtonGymEnv) -> np.ndarray:
    """The displacement that closes the error of the commanded point."""
    error = _effector_goal(env) - env._arm.point
    return np.clip(error / env.DELTA_V_CONTINUOUS, -1.0, 1.0).astype(np.float32)


def kuka_joints(env: KukaButtonGymEnv) -> np.ndarray:
    """Turn the joints towards the inverse kinematics of a point a little nearer to the button."""
    error = env.getGroundTruth() - env.getTargetPos()
    client, arm = env._require_client(), env._arm
    goal = np.array(p.getLinkState(arm.body, kuka_scene.EFFECTOR_LINK, physicsClientId=client)[4])
    near = np.abs(error[:2]).max() < OVER_BUTTON
    low = error[2] < CLEAR_HEIGHT and len(env._buttons) > 1
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


def mobile_discrete(env: MobileRobotGymEnv) -> int:
    """The move that ends nearest to the target, of those that no wall forbids."""
    goals = env.getGroundTruth() + env._moves
    target = env.getTargetPos()
    distances = np.linalg.norm(goals[:, : len(target)] - target, axis=1)
    allowed = ((goals >= env._low) & (goals <= env._high)).all(1)
    return int(np.argmin(np.where(allowed, distances, np.inf)))


def mobile_continuous(env: MobileRobotGymEnv) -> np.ndarray:
    """The move that ends nearest to the target and within the walls."""
    position, target = env.getGroundTruth(), env.getTargetPos()
    axes = len(target)
    action = np.zeros(len(position), np.float32)
    # A hair inside the limits: a position on them may round to the other side.
    reachable = np.clip(target, env._low[:axes] + 1e-3, env._high[:axes] - 1e-3)
    action[:axes] = np.clip((reachable - position[:axes]) / mobile_arena.STEP_LENGTH, -1.0, 1.0)
    return action


def controller_for(env: SRLGymEnv) -> Controller:
    """The scripted controller of an environment and its kind of actions.

    Raises:
        ValueError: no controller is written for this class of environment.
    """
    if isinstance(env, KukaButtonGymEnv):
        return kuka_discrete if env.is_discrete else kuka_joints if env.action_joints else kuka_continuous
    if isinstance(env, MobileRobotGymEnv):
        return mobile_discrete if env.is_discrete else mobile_continuous
    raise ValueError(f"{type(env).__name__} has no scripted controller: choose an arm or mobile-robot task")


def play(env: SRLGymEnv, controller: Controller, episodes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Play whole episodes, seeded with seed, seed + 1, ...

    Returns:
        (returns [episodes], numbers of steps [episodes])
    """
    returns, lengths = np.zeros(episodes), np.zeros(episodes)
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        terminated = truncated = False
        while not (terminated or truncated):
            _, reward, terminated, truncated, _ = env.step(controller(env))
            returns[episode] += reward
            lengths[episode] += 1
    return returns, lengths


def _effector_goal(env: KukaButtonGymEnv) -> np.ndarray:
    """Where to command the effector point [m]: close above the button, and down once the finger is there."""
    target, point = env.getTargetPos(), env._arm.point
    error = env.getGroundTruth() - target
    above = target[:2] - FINGER_OFFSET
    if isinstance(env, KukaMovingButtonGymEnv):
        above[1] += LEAD_STEPS * env._speed
    if np.abs(error[:2]).max() < OVER_BUTTON and error[2] < 0.0:
        return np.array([*above, 0.0])
    if env.force_down:
        return np.array([*above, min(point[2], TRAVEL_HEIGHT)])
    return np.array([*(point[:2] if error[2] < CLEAR_HEIGHT else above), TRAVEL_HEIGHT])


def main() -> None:
    """Print one line for each task."""
    tasks = [name for name in registered_env if name.startswith(("Kuka", "MobileRobot"))]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", nargs="+", default=tasks, choices=tasks)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--continuous", action="store_true")
    kind.add_argument("--joints", action="store_true")
    parser.add_argument("--random-target", action="store_true")
    parser.add_argument("--shape-reward", action="store_true")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options: dict[str, Any] = {"random_target": args.random_target, "shape_reward": args.shape_reward}
    if args.continuous or args.joints:
        options["is_discrete"] = False
    if args.joints:
        options["action_joints"] = True
    for name in args.env:
        if args.joints and not name.startswith("Kuka"):
            continue
        env = resolve(registered_env[name][0])(**options)
        returns, lengths = play(env, controller_for(env), args.episodes, args.seed)
        env.close()
        error = returns.std(ddof=1) / len(returns) ** 0.5 if len(returns) > 1 else 0.0
        print(
            f"{name}: return {returns.mean():.2f} +- {error:.2f} ({returns.min():g} to {returns.max():g}), "
            f"{lengths.mean():.0f} steps, {args.episodes} episodes",
            flush=True,
        )


if __name__ == "__main__":
    main()
