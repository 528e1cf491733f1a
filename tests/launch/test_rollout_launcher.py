"""`--rollout-launcher=ray`: what it refuses, and trainings that come out as with worker processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch import hyperparam_search, pipeline, train

ROOT = Path(__file__).resolve().parents[2]
RAY = "--rollout-launcher=ray"
HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
SMALL = ["--algo=ppo2", "--num-cpu=4", "--num-workers=2", "--no-vis", "--eval-episodes=2", "--final-eval-episodes=2"]


@pytest.mark.parametrize(
    ("main", "words", "line"),
    [
        (train, [RAY, "--simulator=jax"], "--simulator=jax has no simulation processes, leave one of them out"),
        (train, [RAY, "--real-robot=localhost:7777"], "has no meaning for --real-robot"),
        (train, ["--rollout-launcher=rey"], "did you mean ray?"),
        (train, ["--ray-address=127.0.0.1:1"], "--ray-address needs --rollout-launcher=ray"),
        pytest.param(
            train,
            [RAY],
            "--rollout-launcher=ray needs the package ray: pip install -r requirements-cluster.txt",
            marks=pytest.mark.skipif(HAS_RAY, reason="Ray is installed"),
        ),
        pytest.param(
            train,
            [RAY, "--ray-address=127.0.0.1:1"],
            "--ray-address=127.0.0.1:1: there is no Ray cluster",
            marks=NEEDS_RAY,
        ),
        pytest.param(pipeline, [RAY], "--rollout-launcher spreads one run: it has no place in a pipe", marks=NEEDS_RAY),
        pytest.param(
            hyperparam_search, [RAY], "--rollout-launcher spreads one run: it has no place in a search", marks=NEEDS_RAY
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(main, words: list[str], line: str, tmp_path, capsys) -> None:
    folder = tmp_path / "logs"
    assert main.main([*SMALL, "--env=CartPole-v1", f"--log-dir={folder}", *words]) == 2
    error = capsys.readouterr().err
    assert line in error and error.startswith("error: ") and error.count("\n") == 1
    assert not folder.exists()


@pytest.fixture
def ray():
    """Ray, and no cluster left."""
    module = pytest.importorskip("ray")
    yield module
    module.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "--n-steps=64 --num-timesteps=1024",
        # pictures that are drawn here of what the actors tell
        "--n-steps=16 --num-timesteps=128 --srl-model=raw_pixels --renderer=jax --image-size=64",
    ],
)
def test_a_training_comes_out_as_on_this_machine(words: str, ray, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    folders = []
    for launcher in ("local", "ray"):
        log_dir = tmp_path / launcher
        where = [f"--log-dir={log_dir}", f"--rollout-launcher={launcher}"]
        assert train.main([*SMALL, "--env=MobileRobotGymEnv-v0", *words.split(), *where]) == 0
        folders += [path.parent for path in log_dir.rglob("args.json")]
    local, ours = folders
    assert not any(actor["State"] != "DEAD" for actor in ray._private.state.actors().values())
    with np.load(local / "ppo2_model/final/params.npz") as one, np.load(ours / "ppo2_model/final/params.npz") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    assert metrics(local) == metrics(ours)


def metrics(folder: Path) -> list[dict]:
    """Lines of a run's metrics, without when they were written."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_goes_on_without_its_cluster(ray, tmp_path) -> None:
    words = [*SMALL, "--env=CartPole-v1", f"--log-dir={tmp_path}", RAY, "--num-timesteps=1000000", "--seed=3"]
    command = [sys.executable, str(ROOT / "launch/train.py"), *words]
    process = subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in process.stdout:
            if "steps/s" in line:
                break
        process.send_signal(signal.SIGINT)
        assert "continue with --resume" in process.communicate()[0]
        assert process.returncode == 130
    finally:
        process.kill()
    (folder,) = (path.parent for path in tmp_path.rglob("args.json"))
    parsed = train.parse_train_args([f"--resume={folder}", "--rollout-launcher=local"])
    assert parsed.rollout_launcher == "local" and parsed.ray_address is None and parsed.seed == 3
    assert train.parse_train_args([f"--resume={folder}"]).rollout_launcher == "ray"
