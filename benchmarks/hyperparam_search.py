"""Hyperband over ppo2 on the mobile robot's twin: trials in lockstep against one process per trial, and the defaults.

    python benchmarks/hyperparam_search.py

The search runs twice on this machine, in one call: as `launch/hyperparam_search.py` does it, and as the original did,
with a process per evaluation that begins from scratch, as many at a time as `--num-jobs` says. The second uses the
settings and budgets of the first. Then the best setting and the defaults are trained with fresh seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch.runtime.experiments.child import Child  # noqa: E402

TASK = ["--algo=ppo2", "--env=MobileRobotGymEnv-v0", "--simulator=jax", "--random-target", "--num-cpu=8", "--no-vis"]


def search(words: list[str], log_dir: Path) -> tuple[float, Path]:
    """Run the search in a process; returns its seconds and its folder."""
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "launch/hyperparam_search.py"), *words, f"--log-dir={log_dir}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (folder,) = (log_dir / "searches").iterdir()
    return time.perf_counter() - started, folder


def evaluations(folder: Path) -> list[tuple[dict[str, float], int]]:
    """(setting, steps) of every training of the search, one for each comparison that a setting took part in."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    (name,) = optuna.get_all_study_names(storage)
    trials = {trial.number: trial.params for trial in optuna.load_study(study_name=name, storage=storage).trials}
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [
        (trials[int(number)], event["steps"])
        for event in events
        if event["event"] == "compared"
        for number in event["scores"]
    ]


def one_process_each(
    words: list[str], settings: list[tuple[dict[str, float], int]], log_dir: Path, num_jobs: int
) -> float:
    """Train each setting in a process of its own; returns the seconds."""
    log_dir.mkdir()
    started, running, waiting = time.perf_counter(), [], deque(enumerate(settings))
    while waiting or running:
        while waiting and len(running) < num_jobs:
            number, (values, steps) = waiting.popleft()
            flags = [f"--{name.replace('_', '-')}={value!r}" for name, value in values.items()]
            budget = [f"--num-timesteps={steps}", f"--eval-every={steps}", "--final-eval-episodes=1"]
            run = [*words, *flags, *budget, f"--log-dir={log_dir / str(number)}"]
            running.append(Child("train", run, log_dir / f"{number}.log"))
        codes = [child.poll() for child in running]
        if any(codes):
            raise SystemExit(f"a training failed: see {log_dir}")
        running = [child for child, code in zip(running, codes, strict=True) if code is None]
        time.sleep(0.05)
    return time.perf_counter() - started


def score(words: list[str], steps: int, seeds: int, log_dir: Path) -> np.ndarray:
    """Final score of each of `seeds` runs that the search has not seen."""
    from launch.runtime.columns import read_columns

    command = [sys.executable, str(ROOT / "launch/train.py"), *words, f"--num-timesteps={steps}", "--seed=1000"]
    subprocess.run([*command, f"--num-seeds={seeds}", f"--log-dir={log_dir}"], check=True, stderr=subprocess.DEVNULL)
    (args,) = log_dir.glob("*/*/*/*/args.json")
    columns = read_columns(args.parent)
    return columns.get("score/best", columns["score/final"])[:, -1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=270_000)
    parser.add_argument("--seeds", type=int, default=8, help="runs of the best setting and of the defaults")
    parser.add_argument("--num-jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--skip-processes", action="store_true", help="do not run one process per trial")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        seconds, folder = search([*TASK, f"--num-timesteps={args.steps}"], root / "lockstep")
        settings = evaluations(folder)
        print(f"lockstep: {len(settings)} evaluations in {seconds:.0f} s", flush=True)
        rows = np.genfromtxt(next(folder.glob("*.csv")), delimiter=",", names=True)
        done = rows[rows["timesteps"] == args.steps]
        best = done[np.argmax(done["reward"])]
        names = [name for name in rows.dtype.names if name not in ("f0", "timesteps", "reward")]
        flags = [f"--{name.replace('_', '-')}={float(best[name])!r}" for name in names]
        found = score([*TASK, *flags], args.steps, args.seeds, root / "best")
        defaults = score(TASK, args.steps, args.seeds, root / "defaults")
        for name, values in (("best setting", found), ("defaults", defaults)):
            spread = values.std(ddof=1) / np.sqrt(len(values))
            print(f"{name}: {values.mean():.1f} +- {spread:.1f} over {len(values)} fresh seeds", flush=True)
        print(f"flags: {' '.join(flags)}", flush=True)
        if not args.skip_processes:
            alone = one_process_each(TASK, settings, root / "processes", args.num_jobs)
            print(f"one process per evaluation, {args.num_jobs} at a time: {alone:.0f} s, ratio {alone / seconds:.1f}")


if __name__ == "__main__":
    main()
