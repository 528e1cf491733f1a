"""Pipelines as processes: kills, Ctrl-C, crashes, and what is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.registry import registered_rl
from launch import pipeline

ROOT = Path(__file__).resolve().parents[4]
SMALL = ["--algo=random_agent", "--env=CartPole-v1", "--no-vis", "--eval-episodes=2", "--final-eval-episodes=4"]
SMALL += ["--num-timesteps=100000", "--checkpoint-every=5000", "--num-cpu=2", "--num-workers=1"]


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen]:
    """`launch/pipeline.py` in a process of its own."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    command = [sys.executable, str(ROOT / "launch/pipeline.py"), *words]
    process = subprocess.Popen(command, env=os.environ | cache, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 240.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended too early: {process.stderr.read()[-800:]}"
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def children(log_dir: Path) -> list[int]:
    """Processes that train under a folder: those whose command line names it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        named = any(str(log_dir) in word for word in words)
        if named and any("experiments.child" in word for word in words):
            found.append(int(path.parent.name))
    return found


def events(log_dir: Path) -> list[tuple[str, str]]:
    """(event, seed) of the journal."""
    lines = [line for path in log_dir.glob("pipelines/*/journal.jsonl") for line in path.read_text().splitlines()]
    return [(event["event"], event["job"].split()[-1]) for event in map(json.loads, lines)]


def checkpoints(log_dir: Path) -> int:
    """How many runs have a checkpoint."""
    return len({path.parent for path in log_dir.glob("pipelines/*/CartPole-v1/*/*/*/checkpoints/[0-9]*")})


@pytest.mark.slow
def test_kills_of_a_training_and_of_the_pipeline_lose_and_repeat_nothing(tmp_path, capsys):
    with started(*SMALL, "--num-iteration=2", "--num-jobs=1", f"--log-dir={tmp_path}") as process:
        wait_for(lambda: checkpoints(tmp_path) == 1, process)
        (child,) = children(tmp_path)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: ("finished", "0") in events(tmp_path), process)
        wait_for(lambda: checkpoints(tmp_path) == 2, process)
        process.kill()
        process.wait()
    wait_for(lambda: not children(tmp_path), seconds=20)
    (folder,) = (tmp_path / "pipelines").iterdir()
    finished = next(folder.glob("CartPole-v1/*/*/*/random_agent_model/final/params.npz"))
    before = finished.stat().st_mtime_ns
    capsys.readouterr()
    assert pipeline.main([f"--resume={folder}"]) == 0
    assert events(tmp_path) == [
        ("started", "0"),
        ("crashed", "0"),
        ("resumed", "0"),
        ("finished", "0"),
        ("started", "1"),
        ("resumed", "1"),
        ("finished", "1"),
    ]
    assert finished.stat().st_mtime_ns == before
    assert len(list(folder.glob("CartPole-v1/*/*/*/args.json"))) == 2 and not (folder / "abandoned").exists()
    for metrics in folder.glob("CartPole-v1/*/*/*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        assert steps == sorted(steps) and steps[-1] >= 100_000
    printed = capsys.readouterr()
    assert "1 of 2 jobs are finished already" in printed.err
    assert (folder / "results.csv").read_text().splitlines()[1].startswith("random_agent,ground_truth,CartPole-v1,2,")


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_that_continues(tmp_path):
    with started(*SMALL, "--num-iteration=1", f"--log-dir={tmp_path}") as process:
        wait_for(lambda: checkpoints(tmp_path) == 1, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        (folder,) = (tmp_path / "pipelines").iterdir()
        assert f"interrupted; continue with --resume {folder}" in process.stderr.read()
    assert events(tmp_path)[-1] == ("interrupted", "0")
    assert pipeline.main([f"--resume={folder}"]) == 0
    assert [event for event, _ in events(tmp_path)] == ["started", "interrupted", "resumed", "finished"]


PLUGIN = """
from agents.random_agent import RandomAgent
from agents.registry import AlgoType, ActionType, registered_rl

class Unlucky(RandomAgent):
    name = "unlucky"

    def train(self, args, *rest):
        if args.seed == 1:
            raise {error}
        super().train(args, *rest)

registered_rl["unlucky"] = (Unlucky, AlgoType.OTHER, [ActionType.DISCRETE, ActionType.CONTINUOUS])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("error", "tries"), [('RuntimeError("broke")', 2), ('ValueError("never")', 1)])
def test_a_job_that_fails_does_not_stop_the_others(error, tries, tmp_path, monkeypatch, capsys):
    module = f"unlucky_{tries}"
    (tmp_path / f"{module}.py").write_text(PLUGIN.format(error=error))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(registered_rl, "unlucky", registered_rl["random_agent"])  # restored afterwards
    words = [
        f"--plugin={module}",
        "--algo=unlucky",
        *SMALL[1:],
        "--num-timesteps=100000",
        "--num-iteration=2",
        "--seed=1",
    ]
    assert pipeline.main([*words, "--log-dir=logs"]) == 3
    said = capsys.readouterr().err
    assert "1 of 2 jobs failed, the first: unlucky ground_truth CartPole-v1 seed 1" in said
    assert ("broke" in said) or ("never" in said)
    assert [event for event, seed in events(Path("logs")) if seed == "1"].count("crashed") == tries
    assert ("finished", "2") in events(Path("logs"))


@pytest.mark.slow
def test_a_number_that_is_not_finite_fails_a_job_at_once(tmp_path, capsys):
    words = ["--plugin=tests.poison", "--algo=a2c", "--env=PoisonedReward-v0", "--net-arch=8", "--num-iteration=1"]
    words += [*SMALL[2:5], "--num-timesteps=4000", "--checkpoint-every=200", "--num-cpu=4"]
    assert pipeline.main([*words, f"--log-dir={tmp_path}"]) == 3
    assert events(tmp_path) == [("started", "0"), ("crashed", "0")]
    assert "(exit code 3: " in capsys.readouterr().err
