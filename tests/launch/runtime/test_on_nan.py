"""`--on-nan` through the command line, on both drivers, in environments that really emit what is not finite."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from launch.train import main
from tests.launch.runtime.test_training import metrics, model, run_folder

SMALL = ["--plugin=tests.poison", "--net-arch=8", "--no-vis", "--eval-episodes=2", "--final-eval-episodes=2"]
PPO2 = [*SMALL, "--algo=ppo2", "--n-steps=10", "--num-cpu=4", "--noptepochs=1", "--checkpoint-every=200"]
BOTH = pytest.mark.parametrize("simulator", ["jax", "pybullet"])
WHAT = {"PoisonedReward-v0": "reward", "PoisonedObservation-v0": "observation"}


def said(capsys: pytest.CaptureFixture) -> str:
    """The one error line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("simulator", "env"),
    [
        ("jax", "PoisonedReward-v0"),
        pytest.param("pybullet", "PoisonedObservation-v0", marks=pytest.mark.slow),
        pytest.param("jax", "PoisonedObservation-v0", marks=pytest.mark.slow),
        pytest.param("pybullet", "PoisonedReward-v0", marks=pytest.mark.slow),
    ],
)
def test_a_run_stops_at_its_last_good_checkpoint_and_goes_on_without_the_update(
    simulator: str, env: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = [*PPO2, f"--env={env}", f"--simulator={simulator}", "--num-timesteps=4000", f"--log-dir={tmp_path}"]
    assert main(line) == 3
    error, folder = said(capsys), run_folder(tmp_path)
    broke_at, saved = (int(re.search(rf"{word} (\d+)", error)[1]) for word in ("at iteration", "is of iteration"))
    assert WHAT[env] in error and "not finite" in error and f"--resume {folder}" in error and "--on-nan=skip" in error
    assert saved <= broke_at and (folder / "checkpoints" / str(saved)).is_dir()
    assert metrics(folder)[-1]["iteration"] <= broke_at

    assert main(["--plugin=tests.poison", f"--resume={folder}", "--on-nan=skip"]) == 0
    assert all(np.isfinite(value).all() for value in model(folder, "final").values())
    lines = [entry for entry in metrics(folder) if "train/skipped_updates" in entry]
    skipped = [entry["train/skipped_updates"] for entry in lines]
    assert skipped == sorted(skipped) and 1 <= skipped[-1] < 100  # counted, and most of 100 updates were good
    learned = sum(entry["train/policy_loss"] is not None for entry in lines)
    assert learned >= len(lines) - skipped[-1] and lines[-1]["step"] == 4000
    if env == "PoisonedReward-v0":
        assert_broken_returns_end_with_their_episodes(folder)


def assert_broken_returns_end_with_their_episodes(folder: Path) -> None:
    """Some returns of the monitor files are infinite, all others are what ten steps pay."""
    rows = [row.split(",") for path in folder.glob("*.monitor.csv") for row in path.read_text().splitlines()[2:]]
    returns = np.array([float(row[0]) for row in rows])
    broken = ~np.isfinite(returns)
    assert len(rows) == 400 and 1 <= broken.sum() <= 30
    assert np.abs(returns[~broken]).max() <= 10
    assert all(entry["train/return"] is not None for entry in metrics(folder) if "train/return" in entry)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("algo", ["a2c", "acer", "acktr", "ars", "cma-es", "deepq", "ppo1", "trpo"])
def test_every_learner_skips_on_both_drivers(algo: str, simulator: str, tmp_path: Path) -> None:
    flags = [] if algo == "ars" else ["--net-arch=8"]
    line = ["--plugin=tests.poison", *flags, "--no-vis", "--eval-episodes=2", "--final-eval-episodes=2"]
    line += [f"--algo={algo}", "--env=PoisonedReward-v0", f"--simulator={simulator}", "--num-timesteps=6000"]
    assert main([*line, "--on-nan=skip", f"--log-dir={tmp_path}"]) == 0
    folder = run_folder(tmp_path)
    assert all(np.isfinite(value).all() for value in model(folder, "final").values())
    (last,) = [entry["train/skipped_updates"] for entry in metrics(folder) if "train/skipped_updates" in entry][-1:]
    assert last >= 1


@pytest.mark.slow
def test_a_sweep_says_which_run_broke(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = ["--algo=a2c", "--env=CartPole-v1", "--simulator=jax", "--net-arch=8", "--no-vis", "--num-cpu=2"]
    line += ["--num-timesteps=200", "--eval-episodes=2", "--final-eval-episodes=2"]
    sweep = ["--sweep", "learning_rate:1e-3,1e38"]
    assert main([*line, *sweep, f"--log-dir={tmp_path / 'stop'}"]) == 3
    error = said(capsys)
    assert "learning_rate=1e+38 seed=0: " in error and "learning_rate=0.001" not in error
    assert re.search(r"(loss|grad_norm|parameters|entropy) not finite at iteration \d+; there is no checkpoint", error)

    assert main([*line, *sweep, "--on-nan=skip", f"--log-dir={tmp_path / 'skip'}"]) == 0
    assert "warning: learning_rate=1e+38 seed=0: " in capsys.readouterr().err
    folder = run_folder(tmp_path / "skip")
    skipped = {
        entry.get("run"): entry.get("train/skipped_updates")
        for entry in metrics(folder)
        if "train/skipped_updates" in entry
    }
    assert skipped[0] == 0 and skipped[1] > 0
    # The good run is the one that it would have been alone.
    assert main([*line, "--learning-rate=1e-3", f"--log-dir={tmp_path / 'alone'}"]) == 0
    alone = model(run_folder(tmp_path / "alone"), "final")
    for name, value in model(folder, "final").items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(value[0], alone[name][0], rtol=1e-4, atol=1e-5, err_msg=name)
