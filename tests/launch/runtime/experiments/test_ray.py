"""Pipelines on a Ray cluster of two local nodes: results come back, a lost node costs nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import pipeline
from launch.runtime.experiments.jobs import final_scores

ray = pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[4]
SMALL = ["--algo=random_agent", "--env=CartPole-v1", "--no-vis", "--eval-episodes=2", "--final-eval-episodes=4"]
SMALL += ["--num-timesteps=20000", "--checkpoint-every=1000", "--num-cpu=2", "--num-workers=1", "--launcher=ray"]


@pytest.fixture
def cluster():
    """A head that runs nothing and two nodes that run one training each."""
    from ray.cluster_utils import Cluster

    # Ray's own niceness would starve the trainings where other tests run beside these.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    nodes = [made.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    made.wait_for_nodes()
    yield made, nodes
    made.shutdown()


def events(log_dir: Path) -> list[tuple[str, str]]:
    lines = [line for path in log_dir.glob("pipelines/*/journal.jsonl") for line in path.read_text().splitlines()]
    return [(event["event"], event["job"].split()[-1]) for event in map(json.loads, lines)]


@pytest.mark.slow
def test_a_lost_node_and_a_killed_pipeline_cost_nothing(cluster, tmp_path):
    made, nodes = cluster
    words = [*SMALL, "--num-iteration=3", f"--ray-address={made.address}", f"--log-dir={tmp_path}"]
    pattern = "pipelines/*/CartPole-v1/*/*/*/checkpoints/[0-9]*/seal.json"
    limit = time.monotonic() + 500
    process = subprocess.Popen([sys.executable, str(ROOT / "launch/pipeline.py"), *words])
    try:
        while len({path.parents[2] for path in tmp_path.glob(pattern)}) < 2:
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.2)
        made.remove_node(nodes[0], allow_graceful=False)
        while not any(event == "finished" for event, _ in events(tmp_path)):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = [seed for event, seed in events(tmp_path) if event == "finished"]
    (folder,) = (tmp_path / "pipelines").iterdir()
    command = [sys.executable, str(ROOT / "launch/pipeline.py"), f"--resume={folder}", "--launcher=ray"]
    assert subprocess.run([*command, f"--ray-address={made.address}"], timeout=500).returncode == 0
    happened = events(tmp_path)
    assert any(event == "lost" for event, _ in happened) and any(event == "resumed" for event, _ in happened)
    for seed in "012":
        assert happened.count(("finished", seed)) == 1
    for seed in finished:
        assert happened.index(("finished", seed)) > max(
            i for i, event in enumerate(happened) if event in (("started", seed), ("resumed", seed))
        )
    runs = [path.parent for path in folder.glob("CartPole-v1/*/*/*/args.json")]
    assert len(runs) == 3 and all(len(final_scores(run)) == 1 for run in runs)
    assert all((run / "random_agent_model/final/params.npz").is_file() for run in runs)
    assert all("mean return of 4" in path.read_text() for path in (folder / "output").iterdir())


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, capsys):
    words = [*SMALL, "--num-iteration=1", "--ray-address=127.0.0.1:1", f"--log-dir={tmp_path}"]
    assert pipeline.main(words) == 2
    error = capsys.readouterr().err
    assert "error: --ray-address=127.0.0.1:1: there is no Ray cluster" in error
    assert not list(tmp_path.glob("pipelines/*/*"))


def test_an_address_needs_the_launcher(capsys):
    assert pipeline.main(["--ray-address=127.0.0.1:1"]) == 2
    assert "--ray-address needs --launcher=ray" in capsys.readouterr().err
