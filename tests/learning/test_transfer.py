"""A policy that was trained in a twin earns the same in PyBullet."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "--algo=ppo2 --env=MobileRobotGymEnv-v0 --random-target --simulator=jax --num-cpu=32 --learning-rate=2e-3"
RUNS = 3


def run(script: str, *flags: str) -> str:
    """Run an entry point and return all that it prints."""
    command = [sys.executable, str(ROOT / "launch" / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_return_in_pybullet_is_within_two_percent_of_the_twin(tmp_path: Path) -> None:
    run("train.py", *TRAIN.split(), f"--num-seeds={RUNS}", "--no-vis", f"--log-dir={tmp_path}")
    (args,) = tmp_path.glob("*/*/*/*/args.json")
    for number in range(RUNS):
        earned = {}
        for simulator in ("jax", "pybullet"):
            flags = [f"--log-dir={args.parent}", f"--run={number}", f"--simulator={simulator}", "--num-episodes=100"]
            (mean,) = re.findall(r"100 episodes, mean return (-?[\d.]+)", run("enjoy.py", *flags))
            earned[simulator] = float(mean)
        assert earned["jax"] > 225
        assert abs(earned["pybullet"] - earned["jax"]) < 0.02 * earned["jax"]
