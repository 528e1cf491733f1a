"""Pipelines and searches on a Ray cluster of two local nodes: results come back, what was finished is not lost."""

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
        while not {"lost", "finished"} <= {event for event, _ in events(tmp_path)}:
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


@pytest.mark.slow
def test_an_interrupted_search_goes_on(cluster, tmp_path):
    address = f"--ray-address={cluster[0].address}"
    search = [sys.executable, str(ROOT / "launch/hyperparam_search.py"), "--launcher=ray", address]
    words = ["--algo=ppo2", "--env=CartPole-v1", "--no-vis", "--num-cpu=2", "--num-workers=1", "--num-timesteps=2000"]
    words += ["--optimizer=random", "--max-eval=4", "--bracket-size=2", "--search", "learning_rate", "gamma"]
    limit = time.monotonic() + 300
    process = subprocess.Popen([*search, *words, f"--log-dir={tmp_path}"], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("searches/*/trials/2/output.log")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    first = process.communicate(timeout=100)[1]
    (folder,) = (tmp_path / "searches").iterdir()
    assert process.returncode == 130 and f"--resume {folder}" in first and "Traceback" not in first
    done = {path.parent.name: path.read_text() for path in folder.glob("trials/[01]/output.log")}
    second = subprocess.run([*search, f"--resume={folder}"], capture_output=True, text=True, timeout=300)
    assert second.returncode == 0 and "crashed" not in first + second.stderr + second.stdout
    assert done == {path.parent.name: path.read_text() for path in folder.glob("trials/[01]/output.log")}
    (table,) = folder.glob("*.csv")
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["", "0", "1", "2", "3"]


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, capsys):
    words = [*SMALL, "--num-iteration=1", "--ray-address=127.0.0.1:1", f"--log-dir={tmp_path}"]
    assert pipeline.main(words) == 2
    error = capsys.readouterr().err
    assert "error: --ray-address=127.0.0.1:1: there is no Ray cluster" in error
    assert not list(tmp_path.glob("pipelines/*/*"))


def test_an_address_needs_the_launcher(capsys):
    assert pipeline.main(["--ray-address=127.0.0.1:1"]) == 2
    assert "--ray-address needs --launcher=ray" in capsys.readouterr().err
