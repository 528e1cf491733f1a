"""Scores beside published ones: trains a chosen part of the table and records what the policies earn.

    python benchmarks/scores.py --list
    python benchmarks/scores.py --task Pendulum-v1 --algo ppo2 sac
    python benchmarks/scores.py --print

Each line of the table (benchmarks/score_table.py) is one training of several seeds at once, in a run folder under
--log-dir. What has been recorded with the same command is skipped, an interrupted training is resumed. Results go to
benchmarks/results/scores.json: mean return of the final and of the best policies for each seed, the interquartile mean
(IQM) of the final ones and its 95 % bootstrap interval over seeds. "meets": the IQM is at least the published mean less
one published standard deviation; "beats": it is above the mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.score_table import TABLE, Entry  # noqa: E402
from launch.results.statistics import interval, iqm  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "scores.json"


def command(entry: Entry, seeds: int, seed: int) -> list[str]:
    """Flags of `launch/train.py` for a line of the table."""
    words = [f"--algo={entry.algo}", *shlex.split(entry.flags), f"--num-timesteps={entry.steps}"]
    return [*words, f"--seed={seed}", f"--num-seeds={seeds}"]


def scores_of(folder: Path) -> dict[str, list[float]]:
    """Mean return of the final evaluation for each seed, {"final": [...], "best": [...]}; {} where it is missing."""
    found: dict[str, dict[int, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        if '"score/' not in line:
            continue
        record = json.loads(line)
        for name, value in record.items():
            if name in ("score/final", "score/best"):
                found.setdefault(name.removeprefix("score/"), {})[record.get("run", 0)] = value
    return {name: [values[run] for run in sorted(values)] for name, values in found.items()}


def train(entry: Entry, words: list[str], log_dir: Path) -> dict[str, list[float]]:
    """Train a line of the table, or go on where an earlier call was interrupted; returns its scores.

    Raises:
        SystemExit: The training failed.
    """
    # A folder for each command: a training begun with other settings is not gone on with.
    place = log_dir / f"{entry.key.replace('/', '-').replace(' ', '-')}-{zlib.crc32(' '.join(words).encode()):08x}"
    begun = sorted(path.parent for path in place.glob("*/*/*/*/args.json"))
    arguments = [*words, f"--log-dir={place}", "--no-vis"]
    if begun and any((begun[-1] / "checkpoints").glob("*")):
        arguments = [f"--resume={begun[-1]}", "--no-vis"]
    done = subprocess.run([sys.executable, str(ROOT / "launch" / "train.py"), *arguments], check=False)
    if done.returncode:
        raise SystemExit(f"{entry.key}: training ended with exit code {done.returncode}")
    newest = max(place.glob("*/*/*/*/args.json"), key=lambda path: path.stat().st_mtime).parent
    return scores_of(newest)


def record(entry: Entry, words: list[str], scores: dict[str, list[float]]) -> dict[str, Any]:
    """What scores.json keeps of a line."""
    import jax

    value, low, high = interval(iqm, [np.asarray(scores["final"])])
    return {
        "command": "python launch/train.py " + " ".join(words),
        "steps": entry.steps,
        "final": scores["final"],
        "best": scores.get("best", scores["final"]),
        "iqm": value,
        "interval": [low, high],
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
    }


def verdict(entry: Entry, result: dict[str, Any]) -> str:
    """How a recorded line compares with the published score."""
    mean, std, _ = entry.published
    if result["iqm"] > mean:
        return "beats"
    return "meets" if result["iqm"] >= mean - std else "misses"


def show(results: dict[str, Any], entries: list[Entry]) -> None:
    """Print ours beside the published scores."""
    print(f"{'task / algorithm':48} {'steps':>9}  {'IQM':>8} {'95 % interval':>20} {'best':>8}  {'published':>15}")
    for entry in entries:
        published = str(entry.published)
        if entry.key not in results:
            print(f"{entry.key:48} {entry.steps:9,}  {'-':>8} {'':>20} {'-':>8}  {published:>15}")
            continue
        result = results[entry.key]
        low, high = result["interval"]
        best = float(iqm([np.asarray(result["best"])]))
        print(
            f"{entry.key:48} {entry.steps:9,}  {result['iqm']:8.1f} {f'[{low:.1f}, {high:.1f}]':>20} {best:8.1f}  "
            f"{published:>15}  {verdict(entry, result)}"
        )


def chosen(tasks: list[str], algos: list[str]) -> list[Entry]:
    """Lines of the table for these tasks, by name or id, and algorithms; an empty list is all of them."""
    return [e for e in TABLE if (not tasks or {*names(e)} & {*tasks}) and (not algos or e.algo in algos)]


def names(entry: Entry) -> tuple[str, str]:
    """What a task is called: the environment's id with its kind of actions, and the id alone."""
    return entry.task, entry.task.split(" ")[0]


def save(results: dict[str, Any]) -> None:
    """Write scores.json in one move."""
    RESULTS.parent.mkdir(exist_ok=True)
    partial = RESULTS.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    os.replace(partial, RESULTS)


def main() -> None:
    """Train what is chosen and not recorded yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", default=[], choices=sorted({name for e in TABLE for name in names(e)}))
    parser.add_argument("--algo", nargs="+", default=[], choices=sorted({e.algo for e in TABLE}))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--log-dir", type=Path, default=ROOT / "logs" / "scores")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument("--print", action="store_true", help="print what is recorded and stop")
    args = parser.parse_args()
    entries = chosen(args.task, args.algo)
    if args.list:
        for entry in entries:
            print("python launch/train.py", *command(entry, args.seeds, args.seed))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for entry in [] if args.print else entries:
        words = command(entry, args.seeds, args.seed)
        if results.get(entry.key, {}).get("command") == "python launch/train.py " + " ".join(words):
            continue
        print(f"== {entry.key}", flush=True)
        results[entry.key] = record(entry, words, train(entry, words, args.log_dir))
        save(results)
    show(results, entries)


if __name__ == "__main__":
    main()
