"""Whole trainings through the command line: what is written, resumption after a kill, Ctrl-C, warm start."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agents.cma_es import CMAES
from agents.ppo2 import PPO2
from launch.train import main

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--net-arch=16,16", "--n-steps=16", "--num-cpu=4", "--noptepochs=1", "--no-vis", "--eval-episodes=4"]
SMALL += ["--final-eval-episodes=8", "--min-episodes-save=0"]
CARTPOLE = ["--algo=ppo2", "--env=CartPole-v1", "--simulator=jax", *SMALL]


def run_folder(log_dir: Path) -> Path:
    """The only run folder under `log_dir`."""
    (args,) = log_dir.glob("*/*/*/*/args.json")
    return args.parent


def metrics(folder: Path) -> list[dict]:
    """metrics.jsonl without wall-clock times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def model(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The leaves of a saved model."""
    (path,) = folder.glob(f"*_model/{name}/params.npz")
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def start(arguments: list[str]) -> subprocess.Popen:
    """Start `launch/train.py` in a process of its own."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    command = [sys.executable, "launch/train.py", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | cache, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    """Poll until `condition()` holds; fail when the process ends first."""
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended too early: {process.stderr.read()[-500:]}"
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    log_dir = tmp_path_factory.mktemp("whole")
    arguments = [*CARTPOLE, "--num-timesteps=30000", "--checkpoint-every=2000", f"--log-dir={log_dir}"]
    assert main(arguments) == 0
    return run_folder(log_dir)


def test_a_run_leaves_what_the_design_says(whole):
    present = {path.name for path in whole.iterdir()}
    assert {"args.json", "env_globals.json", "metrics.jsonl", "checkpoints", "ppo2_model"} <= present
    assert sorted(p.name for p in (whole / "ppo2_model").iterdir()) == ["best", "final"]
    assert json.loads((whole / "args.json").read_text())["num_timesteps"] == 30000
    monitors = sorted(whole.glob("*.monitor.csv"))
    rows = [line.split(",") for path in monitors for line in path.read_text().splitlines()[2:]]
    assert len(monitors) == 4 and len(rows) > 50
    # CartPole pays 1 per step, so that every return is its episode's length.
    assert all(float(reward) == int(length) for reward, length, _ in rows)
    assert sum(int(length) for _, length, _ in rows) <= metrics(whole)[-1]["step"]
    scores = [line for line in metrics(whole) if "score/final" in line]
    assert len(scores) == 1 and np.isfinite(scores[0]["score/final"])


def test_resume_after_kill_equals_the_uninterrupted_run(whole, tmp_path):
    arguments = [*CARTPOLE, "--num-timesteps=30000", "--checkpoint-every=2000", f"--log-dir={tmp_path}"]
    process = start(arguments)
    wait_for(lambda: len(list(tmp_path.glob("*/*/*/*/checkpoints/[0-9]*"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = run_folder(tmp_path)
    assert not (folder / "ppo2_model" / "final").exists(), "the run was over before it was killed"
    assert main([f"--resume={folder}"]) == 0
    assert metrics(folder) == metrics(whole)
    for name in ("best", "final"):
        resumed, uninterrupted = model(folder, name), model(whole, name)
        assert resumed.keys() == uninterrupted.keys()
        for leaf, value in resumed.items():
            np.testing.assert_array_equal(value, uninterrupted[leaf], err_msg=leaf)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = start([*CARTPOLE, "--num-timesteps=100000000", f"--log-dir={tmp_path}"])
    wait_for(lambda: any(tmp_path.glob("*/*/*/*/metrics.jsonl")), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    folder = run_folder(tmp_path)
    assert f"--resume {folder}" in said
    assert any((folder / "checkpoints").iterdir())


def test_resume_without_a_checkpoint_is_one_line(tmp_path, capsys):
    process = start([*CARTPOLE, "--num-timesteps=100000000", f"--log-dir={tmp_path}"])
    wait_for(lambda: any(tmp_path.glob("*/*/*/*/env_globals.json")), process)
    process.kill()
    process.communicate()
    assert main([f"--resume={run_folder(tmp_path)}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: there is no checkpoint") and not any("Traceback" in line for line in said)


def test_warm_start_begins_at_the_loaded_score(whole, tmp_path):
    arguments = [*CARTPOLE, "--num-timesteps=64", "--learning-rate=0", f"--log-dir={tmp_path}"]
    assert main([*arguments, f"--load-rl-model-path={whole}"]) == 0
    warm, source = model(run_folder(tmp_path), "final"), model(whole, "best")
    changed = [leaf for leaf in source if "params" in leaf and not np.array_equal(warm[leaf], source[leaf])]
    assert changed == []


def test_a_saved_policy_plays_again(whole, tmp_path):
    loaded = PPO2.load(str(whole))
    observation = np.linspace(-0.1, 0.1, 12, dtype=np.float32).reshape(3, 4)
    actions = loaded.getAction(observation)
    assert actions.shape == (3,) and set(actions) <= {0, 1}
    np.testing.assert_allclose(loaded.getActionProba(observation).sum(axis=1), 1.0, rtol=1e-5)
    loaded.save(str(tmp_path / "copy"))
    np.testing.assert_array_equal(PPO2.load(str(tmp_path / "copy")).getAction(observation), actions)


@pytest.mark.parametrize("simulator", ["jax", "pybullet"])
def test_seeds_and_sweeps_train_together(simulator, tmp_path):
    arguments = ["--algo=ppo2", "--env=CartPole-v1", f"--simulator={simulator}", *SMALL, "--num-timesteps=256"]
    assert main([*arguments, "--num-seeds=2", "--sweep", "learning_rate:1e-3,1e-4", f"--log-dir={tmp_path}"]) == 0
    folder = run_folder(tmp_path)
    assert {line.get("run") for line in metrics(folder)} == {0, 1, 2, 3, None}
    leaves = model(folder, "final")
    assert all(value.shape[0] == 4 for value in leaves.values())
    policies = [leaf for name, leaf in leaves.items() if "kernel" in name]
    assert all(not np.array_equal(leaf[i], leaf[j]) for leaf in policies for i in range(4) for j in range(i))


@pytest.mark.parametrize("algo", ["a2c", "ars", "cma-es", "deepq", "random_agent"])
def test_the_other_algorithms_run_on_the_host(algo, tmp_path):
    arguments = [f"--algo={algo}", "--env=CartPole-v1", "--num-timesteps=600", "--no-vis", "--eval-episodes=2"]
    assert main([*arguments, "--final-eval-episodes=2", f"--log-dir={tmp_path}"]) == 0
    assert (run_folder(tmp_path) / f"{algo}_model" / "final" / "params.npz").is_file()


@pytest.mark.parametrize("simulator", ["jax", "pybullet"])
def test_evaluations_may_draw_actions(simulator, tmp_path):
    """What an untrained policy thinks best fells the pole in one direction, as no draw of actions does."""
    arguments = ["--algo=ppo2", "--env=CartPole-v1", f"--simulator={simulator}", "--num-timesteps=64", "--n-steps=16"]
    arguments += ["--learning-rate=1e-6", "--no-vis", "--final-eval-episodes=100", "--eval-episodes=2"]
    scores = {}
    for flag in ("eval-deterministic", "noeval-deterministic"):
        assert main([*arguments, f"--{flag}", f"--log-dir={tmp_path / flag}"]) == 0
        found = [line for line in metrics(run_folder(tmp_path / flag)) if "score/final" in line]
        scores[flag] = found[-1]["score/final"]
    assert scores["eval-deterministic"] != scores["noeval-deterministic"]
    assert 18 < scores["noeval-deterministic"] < 28  # drawn at random: 22.3


def test_further_policies_are_evaluated_and_saved(tmp_path):
    """CMA-ES keeps its best member of all generations beside the mean; of each run its own."""
    arguments = ["--algo=cma-es", "--env=CartPole-v1", "--simulator=jax", "--num-timesteps=2000", "--num-seeds=2"]
    sizes = ["--policy=linear", "--num-population=6", "--no-vis", "--eval-episodes=2", "--final-eval-episodes=5"]
    assert main([*arguments, *sizes, f"--log-dir={tmp_path}"]) == 0
    folder = run_folder(tmp_path)
    final, member = (model(folder, name) for name in ("final", "member"))
    (name,) = (name for name in member if "weights" in name)
    assert final.keys() == member.keys() and member[name].shape == (2, 10)
    assert not np.isclose(member[name], final[name]).all(axis=1).any()
    assert not np.array_equal(member[name][0], member[name][1])
    (line,) = (line for line in metrics(folder) if line.get("run") == 1 and "score/member" in line)
    model_folder = folder / "cma-es_model" / "member"
    assert json.loads((model_folder / "model.json").read_text())["score"][1] == pytest.approx(line["score/member"])
    loaded = CMAES.load(str(model_folder), argparse.Namespace(run=1))
    np.testing.assert_array_equal(loaded.state.acting.weights, member[name][1])
