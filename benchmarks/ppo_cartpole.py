"""PPO on device CartPole against purejaxrl and rejax at the same settings: steps per second and their ratio.

    python benchmarks/ppo_cartpole.py --peers-python PEERS/bin/python --purejaxrl CHECKOUT
    python benchmarks/ppo_cartpole.py --num-seeds 1024 --steps 1000000 --rounds 1 --repeat 1 --peers-python ...

With --num-seeds each program trains so many seeds side by side, and the speed is that of all together. The peers live
in an environment of their own. The programs take turns, so that a machine whose speed drifts does so
for all; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def ours(num_envs: int, steps: int, repeat: int, num_seeds: int) -> None:
    """Print one JSON line per training of `steps` steps of each seed, compilation not counted."""
    from agents.ppo2 import PPO2, make
    from envs.device.cartpole import CartPole
    from launch.runtime.drivers.device import DeviceDriver

    config, hyper = PPO2.configure({"num_cpu": num_envs, "normalize": False})
    env = CartPole()
    iterations = steps // (num_envs * config.n_steps)
    tree = PPO2.hyper_tree({name: np.full(num_seeds, value, np.float32) for name, value in hyper.items()})
    driver = DeviceDriver(env, make(env.spec, config), tree, np.arange(num_seeds), iterations)
    started = time.perf_counter()
    driver.run(1)
    compiling = time.perf_counter() - started
    for repeated in range(repeat):
        driver.begin(tree, np.arange(num_seeds) + repeated * num_seeds)
        started, done = time.perf_counter(), 0
        while done < iterations:
            done += len(driver.run(iterations - done).steps)
        seconds = time.perf_counter() - started
        speed = iterations * num_envs * config.n_steps * num_seeds / seconds
        print(json.dumps({"steps_per_second": speed, "seconds": seconds, "compile_seconds": compiling}), flush=True)


def measure(command: list[str]) -> list[dict[str, float]]:
    """Run a program and return what it prints of each training."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return lines


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500_000, help="of each seed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-python", help="Python of the environment that has gymnax and rejax")
    parser.add_argument("--purejaxrl", help="root of a purejaxrl checkout")
    parser.add_argument("--only-ours", action="store_true")
    args = parser.parse_args()
    if args.only_ours:
        return ours(args.num_envs, args.steps, args.repeat, args.num_seeds)
    sizes = [f"--num-envs={args.num_envs}", f"--steps={args.steps}", f"--repeat={args.repeat}"]
    sizes.append(f"--num-seeds={args.num_seeds}")
    programs = {"srl-jax": [sys.executable, __file__, "--only-ours", *sizes]}
    peer = [args.peers_python, str(ROOT / "benchmarks/peers/ppo_cartpole.py")]
    if args.peers_python and args.purejaxrl:
        programs["purejaxrl"] = [*peer, "purejaxrl", "--checkout", args.purejaxrl, *sizes]
    if args.peers_python:
        programs["rejax"] = [*peer, "rejax", *sizes]
    told: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    print(f"PPO, CartPole-v1, {args.num_envs} environments x 128 steps, 4 epochs, 4 minibatches")
    for _ in range(args.rounds):
        for name, command in programs.items():
            told[name] += measure(command)
            if args.rounds == 1:
                print(name, told[name], flush=True)
    base = float(np.median([line["steps_per_second"] for line in told["srl-jax"]]))
    for name, lines in told.items():
        values = [line["steps_per_second"] for line in lines]
        low, middle, high = np.min(values), np.median(values), np.max(values)
        print(f"{name:10} {middle:10,.0f} steps/s (min {low:,.0f}, max {high:,.0f})  srl-jax / it {base / middle:.2f}")


if __name__ == "__main__":
    main()
