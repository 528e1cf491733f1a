"""A sweep of many seeds and learning rates by command line, beside what its compiled program does alone.

    python benchmarks/sweep.py --num-seeds 256 --rates 4 --steps 200000

First the training program alone, for one run and for several widths of runs side by side: the widest gain over a single
run is what mapping over runs is worth. Then `launch/train.py` trains the whole sweep in a process of its own, from its
start to its last file. Printed are the share that its training reaches of the best of the programs, how often each
program was compiled, and the memory it said it would need beside what it took from then on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TASK = ["--algo=ppo2", "--env=MobileRobotGymEnv-v0", "--simulator=jax", "--random-target", "--no-vis"]
COMPILED = re.compile(r"Finished XLA compilation of jit\((\w+)\)")
STATED = re.compile(r"memory: ([\d,.]+) MiB for ([\d,]+) run")


def throughput(num_runs: int, num_cpu: int, seconds: float) -> float:
    """Steps/s of all runs together, in the training program alone, after its compilation."""
    from agents.registry import algorithm_class
    from envs.make import EnvOptions
    from launch.runtime.sweep import plan
    from launch.runtime.training import build_driver

    algorithm = algorithm_class("ppo2")()
    config, hyper = algorithm.configure({"num_cpu": num_cpu})
    options = EnvOptions("MobileRobotGymEnv-v0", simulator="jax", random_target=True)
    driver = build_driver(algorithm, options, config, plan(hyper, {}, 0, num_runs), 10**6)
    driver.run(1)
    best, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        chunk = driver.run(2)
        best = max(best, float(chunk.steps.sum()) / (time.perf_counter() - before))
    return best


def command(words: list[str], log_dir: Path) -> tuple[float, float, str]:
    """Run a training.

    Returns:
        (its seconds, the most memory in bytes that it took above what it had when it stated its need, what it printed)
    """
    log = log_dir.with_suffix(".log")
    started, before, most = time.perf_counter(), 0, 0
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch/train.py"), *TASK, *words, f"--log-dir={log_dir}"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"JAX_LOG_COMPILES": "1"},
        )
        while process.poll() is None:
            held = resident(process.pid)
            before = before or (held if STATED.search(log.read_text(errors="replace")) else 0)
            most = max(most, held)
            time.sleep(0.05)
    text = log.read_text(errors="replace")
    if process.returncode:
        raise SystemExit(f"the training failed:\n{text[-2000:]}")
    return time.perf_counter() - started, most - before, text


def resident(process: int) -> int:
    """Bytes of memory that a process holds, 0 where it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-seeds", type=int, default=256)
    parser.add_argument("--rates", type=int, default=4, help="learning rates")
    parser.add_argument("--steps", type=int, default=200_000, help="of each run")
    parser.add_argument("--num-cpu", type=int, default=8, help="environments of a run")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 16, 64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=10.0, help="for which each program is measured")
    args = parser.parse_args()
    single = throughput(1, args.num_cpu, args.seconds)
    print(f"a single run: {single:,.0f} steps/s", flush=True)
    gains = {}
    for width in args.widths:
        gains[width] = throughput(width, args.num_cpu, args.seconds) / single
        print(f"{width} runs side by side: {gains[width] * single:,.0f} steps/s, {gains[width]:.2f} x", flush=True)
    best = max(gains.values())
    words = [f"--num-cpu={args.num_cpu}", f"--num-timesteps={args.steps}", "--final-eval-episodes=20"]
    rates = ",".join(f"{rate:.3g}" for rate in np.geomspace(1e-4, 3e-3, args.rates))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        sweep = [*words, f"--num-seeds={args.num_seeds}", f"--sweep=learning_rate:{rates}"]
        seconds, taken, text = command(sweep, root / "sweep")
    runs = args.num_seeds * args.rates
    speed = runs * args.steps / seconds
    print(f"{runs} runs x {args.steps:,} steps: {seconds:,.0f} s, {speed:,.0f} steps/s from start to end")
    print(f"share of a single run's throughput times the gain of {best:.2f}: {speed / (single * best):.2f}")
    print("compiled: " + ", ".join(f"{name} {count}" for name, count in Counter(COMPILED.findall(text)).items()))
    stated = STATED.findall(text)[-1]
    print(f"memory: {stated[0]} MiB stated for {stated[1]} runs, {taken / 2**20:,.0f} MiB taken")


if __name__ == "__main__":
    main()
