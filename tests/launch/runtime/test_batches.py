"""Sweeps in batches: the same runs as at once, in columns; what is left after a kill; how memory is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from agents.registry import algorithm_class
from launch import enjoy
from launch.runtime import batches, logger
from launch.runtime.columns import Columns, read_columns
from launch.runtime.experiments.jobs import progress
from launch.runtime.flags import parse_train_args
from launch.runtime.logger import RunLogger, aggregate
from launch.runtime.sweep import plan
from launch.runtime.training import prepare
from launch.train import main

ROOT = Path(__file__).resolve().parents[3]
SWEEP = ["--algo=ppo2", "--env=CartPole-v1", "--simulator=jax", "--num-cpu=4", "--n-steps=16", "--net-arch=16,16"]
SWEEP += ["--noptepochs=1", "--num-timesteps=640", "--eval-episodes=2", "--final-eval-episodes=4", "--no-vis"]
SWEEP += ["--min-episodes-save=0", "--num-seeds=4", "--sweep", "learning_rate:1e-3,1e-2"]


def run_folder(log_dir: Path) -> Path:
    (args,) = log_dir.glob("*/*/*/*/args.json")
    return args.parent


@pytest.fixture(scope="module")
def batched(tmp_path_factory) -> Path:
    """Eight runs, three at a time."""
    root = tmp_path_factory.mktemp("batched")
    assert main([*SWEEP, "--runs-per-batch=3", f"--log-dir={root}"]) == 0
    return run_folder(root)


def test_batches_are_the_runs_that_they_would_be_at_once(batched, tmp_path):
    assert main([*SWEEP, f"--log-dir={tmp_path}"]) == 0
    at_once, columns = read_columns(run_folder(tmp_path)), read_columns(batched)
    assert columns["label"].tolist() == at_once["label"].tolist() and len(columns["label"]) == 8
    assert columns.keys() == at_once.keys()
    for name in ("train/entropy", "train/value_loss", "train/entropy/step"):
        np.testing.assert_allclose(columns[name], at_once[name], rtol=1e-2, atol=1e-3)
    models = (np.load(folder / "ppo2_model/final/params.npz") for folder in (batched, run_folder(tmp_path)))
    for name, (one, other) in {k: (a[k], b[k]) for a, b in [tuple(models)] for k in a}.items():
        assert one.shape == other.shape and one.shape[0] == 8
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-2, err_msg=name)


def test_aggregates_are_those_of_all_runs(batched):
    lines = [json.loads(line) for line in (batched / "metrics.jsonl").read_text().splitlines()]
    columns = read_columns(batched)
    last = lines[-1]
    assert last["score/final/iqm"] == pytest.approx(aggregate({"": columns["score/final"][:, -1]})["/iqm"])
    assert not any("run" in line for line in lines) and [line["step"] for line in lines] == sorted(
        line["step"] for line in lines
    )


def test_any_run_of_the_sweep_plays(batched, capsys):
    assert enjoy.main([f"--log-dir={batched}", "--run=7", "--num-episodes=1"]) == 0
    assert "episode 1" in capsys.readouterr().out
    assert enjoy.main([f"--log-dir={batched}", "--run=8", "--num-episodes=1"]) == 2


def test_a_sweep_that_lost_its_last_batches_goes_on(batched, tmp_path):
    folder = shutil.copytree(batched, tmp_path / "copy")
    first = (folder / "batch_0" / "runs.npz").stat().st_mtime_ns
    shutil.rmtree(folder / "batch_2")
    shutil.rmtree(folder / "batch_1" / "ppo2_model")
    for name in ("metrics.jsonl", "runs.npz"):
        (folder / name).unlink()
        (folder / "batch_1" / name).unlink()
    shutil.rmtree(folder / "batch_1" / "checkpoints")
    assert main(["--resume", str(folder), "--no-vis"]) == 0
    before, after = read_columns(batched), read_columns(folder)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)
    assert (folder / "batch_0" / "runs.npz").stat().st_mtime_ns == first


def test_a_sweep_without_its_models_is_not_finished(batched, tmp_path, monkeypatch):
    folder = shutil.copytree(batched, tmp_path / "copy")
    shutil.rmtree(folder / "ppo2_model")
    for name in ("metrics.jsonl", "runs.npz"):
        (folder / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(batches, "join_models", Mock(side_effect=KeyboardInterrupt))
        assert main([f"--resume={folder}", "--no-vis"]) != 0
    assert not progress(folder).finished
    assert main([f"--resume={folder}", "--no-vis"]) == 0
    assert progress(folder).finished and (folder / "ppo2_model" / "final" / "params.npz").is_file()


def test_a_batch_may_be_one_run(tmp_path):
    words = ["--algo=random_agent", "--env=CartPole-v1", "--simulator=jax", "--num-timesteps=640", "--no-vis"]
    words += ["--eval-episodes=2", "--final-eval-episodes=4", "--num-seeds=2", f"--log-dir={tmp_path}"]
    assert main([*words, "--runs-per-batch=1"]) == 0
    folder = run_folder(tmp_path)
    columns = read_columns(folder)
    assert columns["label"].tolist() == ["seed=0", "seed=1"] and columns["score/final"].shape == (2, 1)
    assert main([f"--resume={folder}"]) == 0
    for name, values in columns.items():
        np.testing.assert_array_equal(read_columns(folder)[name], values, err_msg=name)


def finished_episodes(folder: Path) -> np.ndarray:
    """How many episodes each run has played [K]."""
    runs = sorted(folder.glob("**/seed_*/"), key=lambda path: (path.parent.name, path.name))
    return np.array(
        [sum(len(p.read_text().splitlines()) - 2 for p in run.glob("*.monitor.csv")) for run in runs], np.int64
    )


@pytest.mark.parametrize("size", [0, 2])
def test_a_run_without_a_best_has_its_final_policy(size, tmp_path):
    """Of eight runs some play too few episodes; of four batches one has two such runs."""
    words = [word for word in SWEEP if "min-episodes-save" not in word] + ["--min-episodes-save=27"]
    assert main([*words, f"--runs-per-batch={size}", f"--log-dir={tmp_path}"]) == 0
    folder = run_folder(tmp_path)
    without = finished_episodes(folder) < 27
    print("without a best:", np.flatnonzero(without))
    assert 0 < without.sum() < 8
    columns = read_columns(folder)
    final, best = columns["score/final"][:, 0], columns["score/best"][:, 0]
    assert final.shape == best.shape == (8,)
    np.testing.assert_array_equal(best[without], final[without])
    with np.load(folder / "ppo2_model/final/params.npz") as last, np.load(folder / "ppo2_model/best/params.npz") as top:
        for name in last:
            np.testing.assert_array_equal(top[name][without], last[name][without], err_msg=name)
    told = json.loads((folder / "ppo2_model/best/model.json").read_text())["score"]
    assert np.array(told)[without].tolist() == final[without].tolist()


@pytest.mark.slow
def test_a_killed_sweep_goes_on(batched, tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    command = [sys.executable, str(ROOT / "launch/train.py"), *SWEEP, "--runs-per-batch=3", f"--log-dir={tmp_path}"]
    process = subprocess.Popen(command, env=os.environ | cache, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("*/*/*/*/batch_1/checkpoints/[0-9]*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(["--resume", str(run_folder(tmp_path)), "--no-vis"]) == 0
    before, after = read_columns(batched), read_columns(run_folder(tmp_path))
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_sizes_are_even_and_suit_the_devices(monkeypatch):
    assert [batches.even(3072, largest) for largest in (1000, 3072, 1, 5000)] == [768, 3072, 1, 3072]
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * 8)
    assert [batches.even(1000, largest) for largest in (1000, 300, 10, 3)] == [1000, 256, 8, 3]


def test_the_last_batch_is_filled_up():
    runs = plan({"a": 1.0}, {"a": [1.0, 2.0]}, 0, 4)
    parts = batches.split(runs, 3)
    assert [count for _, count in parts] == [3, 3, 2]
    assert parts[2][0].seeds.tolist() == [2, 3, 3] and parts[2][0].hyper["a"].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.slow
def test_what_does_not_fit_is_split_before_anything_is_allocated(monkeypatch):
    args = parse_train_args(SWEEP)
    algorithm = algorithm_class("ppo2")()
    needed = batches.memory_of_runs(prepare(algorithm, args).driver)
    monkeypatch.setattr(batches, "available_memory", lambda: needed // 2)
    driver = prepare(algorithm, args).driver
    assert driver.num_runs in (2, 3) and driver._run is None
    assert batches.memory_of_runs(driver) <= 0.8 * (needed // 2)
    monkeypatch.setattr(batches, "available_memory", lambda: needed // 100)
    with pytest.raises(ValueError, match="1 run would need"):
        prepare(algorithm, args)


MEASURE = """
import resource, sys, threading, time
import numpy as np
from agents.registry import algorithm_class
from launch.runtime.flags import parse_train_args
from launch.runtime.batches import needed_memory
from launch.runtime.training import prepare

args = parse_train_args(sys.argv[1:])
driver = prepare(algorithm_class(args.algo)(), args).driver
stated = needed_memory(driver)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, most, stop = resident(), 0, False
def watch():
    global most
    while not stop:
        most = max(most, resident())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
driver.run(driver.max_chunk)
stop = True
thread.join()
print(stated, most - before)
"""


@pytest.mark.slow
def test_stated_memory_is_what_is_used():
    words = ["--algo=ppo2", "--env=MobileRobotGymEnv-v0", "--simulator=jax", "-r", "--num-cpu=8", "--num-seeds=256"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], env=environment, capture_output=True, text=True)
    stated, used = map(int, done.stdout.split())
    print(f"stated {stated / 2**20:.0f} MiB, used {used / 2**20:.0f} MiB")
    assert abs(stated / used - 1) < 0.2, (stated, used)


def test_columns_survive_a_checkpoint(tmp_path):
    columns = Columns(["a", "b"])
    columns.add(10, {"train/x": np.array([1.0, 2.0])})
    lengths = columns.lengths()
    columns.add(20, {"train/x": np.array([3.0, np.nan])})
    columns.save(tmp_path)
    other = Columns(["a", "b"])
    other.restore(tmp_path, lengths)
    other.add(30, {"train/x": np.array([5.0, 6.0])})
    other.save(tmp_path)
    stored = read_columns(tmp_path)
    np.testing.assert_array_equal(stored["train/x"], [[1, 5], [2, 6]])
    assert stored["train/x/step"].tolist() == [10, 30] and stored["label"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="has lost records of train/x"):
        Columns(["a", "b"]).restore(tmp_path, {"train/x": 3})
    (tmp_path / "runs.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"runs\.npz is missing or damaged"):
        read_columns(tmp_path)


def test_very_many_runs_leave_aggregates_and_columns_only(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "MAX_MONITORED_RUNS", 2)
    log = RunLogger(tmp_path, {"labels": ["a", "b", "c"]}, "CartPole-v1", 3, 100, "disabled", progress=False)
    log.episodes([0, 1, 2], 0, [1.0, 2.0, 3.0], 5)
    log.log(1, 50, {"train/return": log.recent_returns()})
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "runs.npz"]
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["train/return/mean"] == 2.0
    np.testing.assert_array_equal(read_columns(tmp_path)["train/return"], [[1], [2], [3]])
