"""Training throughput in PyBullet beside a raw stepping loop in as many processes, measured in turn in one run.

    python benchmarks/host_training.py --env KukaButtonGymEnv-v0 --algo ppo2 --num-envs 8

The raw loop steps the same environments with random actions and talks to no one: acting, learning and moving data are
what the ratio shows the cost of. Counts how often PyBullet draws a picture in this process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents.registry import algorithm_class
from benchmarks.pool_throughput import RawLoop, random_actions
from envs.make import EnvOptions, host_factory, host_spec
from launch.runtime.sweep import plan
from launch.runtime.training import build_driver


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="KukaButtonGymEnv-v0")
    parser.add_argument("--algo", default="ppo2")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    options = EnvOptions(args.env)
    algorithm = algorithm_class(args.algo)()
    config, hyper = algorithm.configure({"num_cpu": args.num_envs})
    runs = plan(hyper, {}, 0, 1)
    driver = build_driver(algorithm, options, config, runs, 10**6, args.processes)
    raw = RawLoop(host_factory(options), random_actions(host_spec(options), 512, args.num_envs), args.processes)
    traits = driver.agent.traits
    steps = args.iterations * traits.rollout_length
    driver.run(1)
    ratios, speeds = [], []
    for _ in range(args.rounds):
        started = time.perf_counter()
        for _ in range(args.iterations):
            driver.run(1)
        ours = time.perf_counter() - started
        ratios.append(raw(steps) / ours)
        speeds.append(steps * args.num_envs / ours)
    driver.close()
    raw.close()
    print(
        f"{args.env}, {args.algo}, {args.num_envs} environments, {args.processes} processes: "
        f"{np.median(speeds):,.0f} steps/s trained, {statistics.median(ratios):.2f} of the raw loop "
        f"(min {min(ratios):.2f}, max {max(ratios):.2f} over {args.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
