"""A policy that was trained in a twin earns the same in PyBullet, and the other way round."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "--algo=ppo2 --env=MobileRobotGymEnv-v0 --random-target --simulator=jax --num-cpu=32 --learning-rate=2e-3"
KUKA = "--algo=ppo2 --env=KukaButtonGymEnv-v0 --random-target --nminibatches=16 --learning-rate=1e-3"
KUKA_TWIN = f"{KUKA} --simulator=jax --num-cpu=64 --n-steps=128 --num-timesteps=2000000"
KUKA_PYBULLET = f"{KUKA} --simulator=pybullet --num-cpu=16 --n-steps=512 --num-timesteps=1000000"
PIXELS = (
    "--algo=ppo2 --env=MobileRobotGymEnv-v0 --simulator=jax --srl-model=raw_pixels --image-size=64 --num-cpu=16 "
    "--n-steps=32 --gamma=0.95 --vf-coef=0.1 --max-grad-norm=5 --learning-rate=5e-4 --noclip-value "
    "--num-timesteps=50000"
)
RUNS = 3


def run(script: str, *flags: str) -> str:
    """Run an entry point and return all that it prints."""
    command = [sys.executable, str(ROOT / "launch" / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def earned(folder: Path, *flags: str) -> dict[str, list[float]]:
    """Mean return of 100 episodes of each trained run, in both simulators; flags are those of enjoy.py."""
    returns: dict[str, list[float]] = {"jax": [], "pybullet": []}
    for args in sorted(folder.rglob("args.json")):
        runs = json.loads(args.read_text())["num_seeds"]
        for number, simulator in itertools.product(range(runs), returns):
            chosen = [f"--log-dir={args.parent}", f"--run={number}", f"--simulator={simulator}", *flags]
            played = run("enjoy.py", *chosen, "--num-episodes=100")
            (mean,) = re.findall(r"100 episodes, mean return (-?[\d.]+)", played)
            returns[simulator].append(float(mean))
    assert len(returns["jax"]) == RUNS
    return returns


def test_return_in_pybullet_is_within_two_percent_of_the_twin(tmp_path: Path) -> None:
    run("train.py", *TRAIN.split(), f"--num-seeds={RUNS}", "--no-vis", f"--log-dir={tmp_path}")
    returns = earned(tmp_path)
    assert min(returns["jax"]) > 225
    np.testing.assert_allclose(returns["pybullet"], returns["jax"], rtol=0.02)


@pytest.mark.parametrize("flags", [KUKA_TWIN, KUKA_PYBULLET], ids=["twin", "pybullet"])
def test_return_on_the_arm_is_within_five_percent_of_the_simulator_it_was_trained_in(
    flags: str, tmp_path: Path
) -> None:
    """Over all seeds: 100 episodes alone leave 3 % of error. Sampled actions, as the original plays."""
    run("train.py", *flags.split(), f"--num-seeds={RUNS}", "--no-vis", f"--log-dir={tmp_path}")
    returns = earned(tmp_path, "--model=final", "--nodeterministic")
    assert min(returns["jax"] + returns["pybullet"]) > 4.5
    assert abs(np.mean(returns["pybullet"]) / np.mean(returns["jax"]) - 1) < 0.05


def test_policy_that_saw_the_twins_pictures_keeps_its_return_on_pybullets(tmp_path: Path) -> None:
    for seed in range(RUNS):
        run("train.py", *PIXELS.split(), f"--seed={seed}", "--no-vis", f"--log-dir={tmp_path / str(seed)}")
    returns = earned(tmp_path)
    assert np.mean(returns["jax"]) > 180
    assert np.mean(returns["pybullet"]) >= 0.9 * np.mean(returns["jax"])
