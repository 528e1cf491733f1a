"""The benchmarks still run: each at its smallest size, for the lines it prints; their figures are not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOBILE = "--env=MobileRobotGymEnv-v0"
# script -> (its words, what it must print)
CASES: dict[str, tuple[list[str], list[str]]] = {
    "cma_es.py": (["--dimensions=10", "--population=6", "--searches=2", "--repeat=1"], ["pycma"]),
    "datasets.py": ([MOBILE, "--episodes=2", "--image-size=16"], ["frames/s"]),
    "environments.py": (
        [MOBILE, "--num-envs=8", "--picture-envs=2", "--image-size=16", "--pool-envs=2", "--rounds=1", "--seconds=0.1"],
        ["steps/s", "frames/s"],
    ),
    "host_training.py": ([MOBILE, "--num-envs=2", "--iterations=1", "--rounds=1"], ["of the raw loop"]),
    "pool_throughput.py": ([MOBILE, "--num-envs=2", "--steps=5", "--rounds=1"], ["AsyncVectorEnv"]),
    "ppo_cartpole.py": (["--steps=2048", "--repeat=1", "--rounds=1"], ["steps/s"]),
    "report.py": (["--runs=6", "--points=20"], ["6 runs"]),
    "representations.py": (["--image-size=32", "--batch-size=4", "--steps=1", "--rounds=1"], ["pictures/s"]),
    "representations_rl.py": (
        [MOBILE, "--num-envs=2", "--image-size=32", "--state-dim=2", "--rounds=1"],
        ["of the slower part"],
    ),
    "sweep.py": (
        ["--num-seeds=2", "--rates=2", "--steps=2048", "--num-cpu=2", "--widths", "4", "--seconds=0.5"],
        ["compiled"],
    ),
    "updates.py": (["--algos", "deepq", "--updates=50", "--repeat=1", "--rounds=1"], ["updates/s"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", CASES)
def test_benchmark_runs(script: str, tmp_path: Path) -> None:
    words, lines = CASES[script]
    command = [sys.executable, str(ROOT / "benchmarks" / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in lines:
        assert line in done.stdout, done.stdout


@pytest.mark.slow
def test_the_comparison_of_representations_runs_and_is_not_done_twice(tmp_path: Path) -> None:
    words = ["--tasks", "nav2d", "--methods", "ground_truth", "random", "--num-seeds=1", "--num-timesteps=8192"]
    words += ["--image-size=32", "--epochs=1", "--samples=502", "--state-dim=4", f"--output={tmp_path}"]
    command = [sys.executable, str(ROOT / "benchmarks/paper.py"), *words]
    first = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert first.returncode == 0, first.stderr[-2000:]
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    table = first.stdout[first.stdout.index("| method |") :]
    assert again.returncode == 0 and again.stdout.strip().endswith(table.strip())
    assert "$ " not in again.stdout
