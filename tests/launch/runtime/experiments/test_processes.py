"""Trials of a search on the host: lost machines, crashes, damaged checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest

from launch import train
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.experiments.candidates import Candidate
from launch.runtime.experiments.jobs import Job
from launch.runtime.experiments.processes import Processes
from launch.runtime.experiments.scheduler import LOST, MAX_LOSSES
from launch.runtime.run_folder import create_run_folder
from tests.launch.runtime.experiments.trainings import Done

WORDS = ("--simulator=jax", "--num-cpu=4", "--n-steps=16", "--net-arch=16,16", "--noptepochs=1", "--no-vis")
WORDS += ("--eval-episodes=2", "--final-eval-episodes=4", "--eval-every=320", "--checkpoint-every=64")
JOB = Job("ppo2", "CartPole-v1", "ground_truth", 0, 1, 640, 1, (*WORDS, "--num-timesteps=640"))


class Cluster:
    """Ends trainings with these exit codes, one after another; one that ends with 0 has a score."""

    def __init__(self, *codes: int) -> None:
        self._codes = list(codes)

    def start(self, job: Job, words: list[str], log: Path, root: Path) -> Done:
        code = self._codes.pop(0)
        log.open("a").close()
        if code == 0:
            args = {"seed": job.seed, "num_seeds": job.num_seeds}
            folder = create_run_folder(root, job.env, job.srl_model, job.algo, args, {})
            (folder / "metrics.jsonl").write_text('{"step": 640, "eval/return": 7.0}\n')
        return Done(code)

    @property
    def left(self) -> int:
        """How many trainings were not begun."""
        return len(self._codes)


@pytest.mark.parametrize(
    ("codes", "score"),
    [
        ((LOST, 1, 0), 7.0),  # a crash after a lost machine is the first one
        ((1, LOST, 0), 7.0),
        ((LOST, 1, LOST, 1), math.nan),  # the second crash
        ((*[LOST] * MAX_LOSSES, 0), 7.0),
        ((*[LOST] * MAX_LOSSES, 1, 0), 7.0),
        ((2,), math.nan),  # refused: it would be again
    ],
)
def test_lost_machines_are_no_crashes(codes, score, tmp_path, monkeypatch):
    monkeypatch.setattr("launch.runtime.experiments.processes._POLL_SECONDS", 0.0)
    cluster = Cluster(*codes)
    found = Processes(tmp_path, JOB, cluster.start, 1, print).advance([Candidate(0, {})], 640)
    assert found == pytest.approx([score], nan_ok=True) and not cluster.left


def launch(job: Job, words: list[str], log: Path, root: Path) -> Done:
    """Train in this process."""
    with log.open("a") as file, contextlib.redirect_stderr(file):
        return Done(train.main(words))


def test_a_trial_whose_checkpoints_are_damaged_is_begun_anew(tmp_path, monkeypatch):
    save, said = Checkpointer.save, []

    def save_and_stop(self, *rest):
        save(self, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_and_stop)
        assert train.main(JOB.command(tmp_path / "trials" / "3")) == 130
    (seal,) = tmp_path.glob("trials/3/*/*/*/*/checkpoints/*/seal.json")
    seal.unlink()
    (score,) = Processes(tmp_path, JOB, launch, 1, said.append).advance([Candidate(3, {"gamma": 0.9})], 640)
    assert score > 0
    assert len(said) == 1 and "trial 3 cannot be continued (no checkpoint in" in said[0]
    (metrics,) = tmp_path.glob("trials/3/*/*/*/*/metrics.jsonl")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps[0] == 64 and steps == sorted(steps) and steps[-1] == 640
