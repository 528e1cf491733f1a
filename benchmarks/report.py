"""How long a report on many runs takes: `python benchmarks/report.py [--runs 500] [--points 1000] [--keep DIR]`.

The runs are made up by a seeded generator and written as launch/train.py writes them: ten tasks, five learners, with
learning curves of different speed and height, and in each hundredth run a killed process, whose last line is
half-written. The time printed is that of the whole command, from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LEARNERS = {"ppo2": (0.92, 0.16), "a2c": (0.8, 0.3), "sac": (0.95, 0.1), "ars": (0.7, 0.4), "random_agent": (0.05, 1.0)}
TASKS = 10
BUDGET = 1_000_000


def main() -> None:
    """Make the runs, time the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder to leave the runs and the report in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        write_runs(folder / "logs", options.runs, options.points)
        size = sum(path.stat().st_size for path in folder.rglob("metrics.jsonl"))
        start = time.perf_counter()
        command = [sys.executable, str(ROOT / "launch/report.py"), "--log-dir", str(folder / "logs")]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        page = folder / "logs/report/report.html"
        print(f"{options.runs} runs x {options.points} points ({size / 1e6:.0f} MB): report in {seconds:.1f} s")
        print(f"{page.name}: {page.stat().st_size / 1e6:.2f} MB")


def write_runs(root: Path, count: int, points: int) -> None:
    """Write run folders, all learners and tasks in turn."""
    rng = np.random.default_rng(0)
    heights = rng.uniform(50.0, 400.0, TASKS)
    for number in range(count):
        learner = list(LEARNERS)[number % len(LEARNERS)]
        task = number // len(LEARNERS) % TASKS
        seed = number // (len(LEARNERS) * TASKS)
        folder = root / f"Task{task}-v0/ground_truth/{learner}/26-01-01_10h{number // 60:02d}_{number % 60:02d}"
        folder.mkdir(parents=True)
        args = {"algo": learner, "env": f"Task{task}-v0", "srl_model": "ground_truth", "num_timesteps": BUDGET}
        (folder / "args.json").write_text(json.dumps({**args, "seed": seed, "num_seeds": 1, "sweep": {}}))
        (folder / "env_globals.json").write_text("{}")
        (folder / "metrics.jsonl").write_text(metrics(rng, learner, heights[task], points, killed=number % 100 == 99))


def metrics(rng: np.random.Generator, learner: str, height: float, points: int, killed: bool) -> str:
    """The lines of one run."""
    top, speed = LEARNERS[learner]
    share = np.linspace(0.0, 1.0, points + 1)[1:]
    level = height * np.clip(top + rng.normal(0.0, 0.08), 0.0, 1.0)
    curve = (
        level / (1.0 + np.exp(-(share - speed * rng.uniform(0.7, 1.3)) / 0.05)) if learner != "random_agent" else level
    )
    values = curve + rng.normal(0.0, 0.03 * height, points)
    lines = []
    for i, value in enumerate(values):
        head = {"step": int(BUDGET * share[i]), "iteration": i + 1, "time": round(i * 0.1, 3)}
        losses = {"train/policy_loss": 0.01, "train/value_loss": 0.5, "train/entropy": 0.9, "train/grad_norm": 0.4}
        lines.append(json.dumps({**head, **losses, "train/return": float(value)}))
        if (i + 1) % max(1, points // 20) == 0:
            lines.append(
                json.dumps({"step": head["step"], "time": head["time"], "eval/return": float(value), "eval/std": 1.0})
            )
    if killed:
        return "\n".join(lines[: len(lines) // 2]) + '\n{"step": 5'
    lines.append(json.dumps({**head, "score/final": float(values[-1]), "score/best": float(values.max())}))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
