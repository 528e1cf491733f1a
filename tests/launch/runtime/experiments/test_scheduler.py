"""What a pipeline does with a run that cannot be resumed: damaged ones are begun anew, others are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import traceback
from pathlib import Path

import pytest

from launch import train
from launch.runtime import batches
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.experiments.jobs import Job, final_scores, progress
from launch.runtime.experiments.journal import Journal
from launch.runtime.experiments.scheduler import Scheduler
from launch.runtime.experiments.table import Table
from tests.launch.runtime.experiments.trainings import Done

WORDS = ("--simulator=jax", "--num-cpu=4", "--n-steps=16", "--net-arch=16,16", "--noptepochs=1", "--no-vis")
WORDS += ("--eval-episodes=2", "--final-eval-episodes=4", "--min-episodes-save=0", "--num-timesteps=640")
JOB = Job("ppo2", "CartPole-v1", "ground_truth", 0, 4, 640, 1, WORDS)
SWEEP = dataclasses.replace(JOB, words=(*WORDS, "--sweep=gamma:0.9,0.99", "--runs-per-batch=4", "--eval-every=320"))


def launch(job: Job, words: list[str], log: Path, root: Path) -> Done:
    """Train in this process."""
    with log.open("a") as file, contextlib.redirect_stderr(file):
        try:
            return Done(train.main(words))
        except Exception:  # a process would end so
            traceback.print_exc()
            return Done(1)


def played(root: Path, job: Job = JOB) -> tuple[list[tuple[Job, str]], list[str]]:
    """Run the job; (failed jobs, events of the journal so far)."""
    (root / "output").mkdir(exist_ok=True)
    with Journal(root, "pipeline") as journal:
        failed = Scheduler(root, [job], journal, launch, 1, Table()).run()
        return failed, [event["event"] for event in journal.read()]


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was stopped at its first checkpoint, in the pipeline's folder `tmp_path`."""
    save = Checkpointer.save

    def save_and_stop(self, *rest):
        save(self, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_and_stop)
        assert train.main(JOB.command(tmp_path)) == 130
    (args,) = tmp_path.glob("*/*/*/*/args.json")
    return args.parent


def test_a_run_for_which_there_is_too_little_memory_is_kept(half, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batches, "available_memory", lambda: 1000)
        failed, events = played(tmp_path)
    assert events == ["resumed", "crashed"] and "4 runs would need" in failed[0][1]
    assert (half / "args.json").is_file() and not (tmp_path / "abandoned").exists()
    assert played(tmp_path) == ([], ["resumed", "crashed", "resumed", "finished"])
    steps = [json.loads(line)["step"] for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 640


@pytest.mark.parametrize("damage", ["records", "checkpoints", "flags"])
def test_a_damaged_run_is_begun_anew(damage, half, tmp_path):
    if damage == "records":
        (half / "metrics.jsonl").write_text("")
    elif damage == "checkpoints":
        for file in half.glob("checkpoints/*/seal.json"):
            file.unlink()
    else:
        args = json.loads((half / "args.json").read_text())
        (half / "args.json").write_text(json.dumps({**args, "sweep": "x"}))
    assert played(tmp_path) == ([], ["resumed", "crashed", "started", "finished"])
    assert len(list((tmp_path / "abandoned").iterdir())) == 1 and not half.exists()


@pytest.fixture(scope="module")
def half_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline whose sweep in two batches was stopped at the first checkpoint of the second."""
    root, save = tmp_path_factory.mktemp("sweep"), Checkpointer.save

    def save_and_stop(self, *rest):
        save(self, *rest)
        if self.folder.parent.name == "batch_1":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_and_stop)
        assert train.main(SWEEP.command(root)) == 130
    return root


@pytest.mark.parametrize("damage", [False, True])
def test_a_sweep_in_batches_goes_on_from_its_checkpoints(damage, half_sweep, tmp_path):
    root = shutil.copytree(half_sweep, tmp_path / "pipeline")
    (args,) = root.glob("*/*/*/*/args.json")
    folder, first = args.parent, Path("batch_0", "runs.npz")
    before = (folder / first).stat().st_mtime_ns
    found = progress(folder)
    assert (found.step, found.finished) == ((640 + 320) // 2, False) and found.mean_return is not None
    if damage:
        for file in folder.glob("batch_1/checkpoints/*/seal.json"):
            file.unlink()
        assert played(root, SWEEP) == ([], ["resumed", "crashed", "started", "finished"])
        assert len(list((root / "abandoned").iterdir())) == 1 and not folder.exists()
        (said,) = (path.read_text() for path in (root / "output").iterdir())
        assert "error: " in said and "Traceback" not in said
        return
    assert played(root, SWEEP) == ([], ["resumed", "finished"])
    assert (folder / first).stat().st_mtime_ns == before and not (root / "abandoned").exists()
    assert len(final_scores(folder)) == 8 and progress(folder).step == 640
