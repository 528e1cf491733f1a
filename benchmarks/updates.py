"""Updates per second against sbx and rejax: the same networks, batches and ratio of updates to steps, in one run.

    python benchmarks/updates.py --sbx-python SBX/bin/python --rejax-python REJAX/bin/python

An update is one step of the optimiser on one minibatch; the environment steps between updates are part of the time, as
in a training. Each peer lives in an environment of its own: they do not run beside each other. The programs take turns,
so that a machine whose speed drifts does so for all; a ratio is that of the medians. sbx plays Gymnasium's tasks,
rejax gymnax's, ours both: with worker processes ("host") and compiled ("device").
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# What every program is told: environments, hidden layers, minibatch, environment steps of all environments per update.
SETTINGS: dict[str, dict[str, Any]] = {
    "sac": {"env": "Pendulum-v1", "num_envs": 1, "net": [256, 256], "batch": 256},
    "ddpg": {"env": "Pendulum-v1", "num_envs": 1, "net": [256, 256], "batch": 256},
    "deepq": {"env": "CartPole-v1", "num_envs": 4, "net": [64, 64], "batch": 64},
    "ppo2": {"env": "CartPole-v1", "num_envs": 8, "net": [64, 64], "batch": 256},  # 4 epochs over 8 x 128 steps
}
PEERS = {"sac": ("sbx", "rejax"), "ddpg": ("sbx",), "deepq": ("sbx", "rejax"), "ppo2": ("sbx", "rejax")}
REPLAY, PPO_STEPS, PPO_EPOCHS = 10_000, 128, 4


def options_of(algo: str) -> dict[str, Any]:
    """Our options for the shared settings."""
    settings = SETTINGS[algo]
    shared = {"num_cpu": settings["num_envs"], "net_arch": tuple(settings["net"]), "normalize": False}
    if algo == "ppo2":
        return shared | {"n_steps": PPO_STEPS, "noptepochs": PPO_EPOCHS, "nminibatches": 4}
    shared |= {"batch_size": settings["batch"], "learning_starts": settings["batch"]}
    if algo == "ddpg":
        return shared | {"memory_limit": REPLAY, "nb_rollout_steps": 1, "nb_train_steps": 1, "noise_action": "normal"}
    shared |= {"buffer_size": REPLAY, "train_freq": 1, "gradient_steps": 1}
    if algo == "deepq":  # the peers' is plain
        shared |= {"prioritized": False, "dueling": False, "double": False}
    return shared


def ours(algo: str, driver_name: str, updates: int, repeat: int) -> None:
    """Print one JSON line per stretch of about `updates` updates, compilation and warm-up not counted."""
    from agents.registry import algorithm_class
    from envs.make import EnvOptions
    from launch.runtime.sweep import plan
    from launch.runtime.training import build_driver

    settings = SETTINGS[algo]
    learner = algorithm_class(algo)()
    config, hyper = learner.configure(options_of(algo))
    options = EnvOptions(settings["env"], simulator="jax" if driver_name == "device" else "pybullet")
    per_iteration = 4 * PPO_EPOCHS if algo == "ppo2" else 1
    iterations = -(-updates // per_iteration)
    driver = build_driver(learner, options, config, plan(hyper, {}, 0, 1), 10**7)
    try:
        warm = 0 if algo == "ppo2" else settings["batch"]
        while driver.iteration <= warm:
            driver.run(64)
        for _ in range(repeat):
            started, done = time.perf_counter(), 0
            while done < iterations:
                done += len(driver.run(iterations - done).steps)
            print(
                json.dumps({"updates_per_second": done * per_iteration / (time.perf_counter() - started)}), flush=True
            )
    finally:
        driver.close()


def measure(command: list[str]) -> list[float]:
    """Run a program and return the speeds that it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return [line["updates_per_second"] for line in lines]


def compare(algo: str, args: argparse.Namespace) -> None:
    """Measure one algorithm in all programs and print a table."""
    sizes = ["--updates", str(args.updates), "--repeat", str(args.repeat)]
    own = [sys.executable, __file__, "--algos", algo, *sizes, "--only-ours"]
    programs = {f"srl-jax {driver}": [*own, driver] for driver in ("device", "host")}
    told = json.dumps(SETTINGS[algo] | {"replay": REPLAY, "steps": PPO_STEPS, "epochs": PPO_EPOCHS})
    for name in PEERS[algo]:
        if python := {"sbx": args.sbx_python, "rejax": args.rejax_python}[name]:
            peer = [python, str(ROOT / "benchmarks/peers/updates.py"), algo, told, *sizes]
            programs[name] = [*peer, "--peer", name]
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, command in programs.items():
            speeds[name] += measure(command)
    settings = SETTINGS[algo]
    print(
        f"{algo}, {settings['env']}, {settings['num_envs']} environments, {settings['net']}, batch {settings['batch']}"
    )
    base = {driver: float(np.median(speeds[f"srl-jax {driver}"])) for driver in ("device", "host")}
    for name, values in speeds.items():
        low, middle, high = np.min(values), np.median(values), np.max(values)
        ratios = f"srl-jax / it {base['device'] / middle:6.2f} (device) {base['host'] / middle:6.2f} (host)"
        print(f"  {name:15} {middle:9,.0f} updates/s (min {low:,.0f}, max {high:,.0f})  {ratios}", flush=True)


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algos", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--updates", type=int, default=5000, help="updates of one stretch")
    parser.add_argument("--repeat", type=int, default=3, help="stretches of one process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each program")
    parser.add_argument("--sbx-python", help="Python of an environment that has sbx")
    parser.add_argument("--rejax-python", help="Python of an environment that has rejax and gymnax")
    parser.add_argument("--only-ours", choices=("device", "host"))
    args = parser.parse_args()
    if args.only_ours:
        return ours(args.algos[0], args.only_ours, args.updates, args.repeat)
    for algo in args.algos:
        compare(algo, args)


if __name__ == "__main__":
    main()
