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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from envs.host.scripted import Controller, controller_for
from envs.host.srl_env import SRLGymEnv
from envs.registry import registered_env, resolve


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
