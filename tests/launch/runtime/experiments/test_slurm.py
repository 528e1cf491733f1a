"""Pipelines as jobs of Slurm, by submitit's local executor: nodes, deaths, Ctrl-C, and pipelines that are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from launch import pipeline
from launch.runtime.experiments.jobs import Job, final_scores
from launch.runtime.experiments.journal import Journal
from launch.runtime.experiments.pipeline_flags import parse_pipeline_args
from launch.runtime.experiments.scheduler import LOST, Scheduler
from launch.runtime.experiments.table import Table

ROOT = Path(__file__).resolve().parents[4]
SMALL = ["--algo=random_agent", "--env=CartPole-v1", "--no-vis", "--eval-episodes=2", "--final-eval-episodes=4"]
SMALL += ["--num-timesteps=20000", "--checkpoint-every=1000", "--num-cpu=2", "--num-workers=1"]
needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
SCRIPT = """
import sys
from pathlib import Path
from tests.launch.runtime.experiments.test_slurm import played
played(Path(sys.argv[1]), sys.argv[2:])
"""


def played(root: Path, words: list[str]) -> list[tuple[Job, str]]:
    """Run the jobs of a pipeline's command line in a folder; returns those that failed."""
    from launch.runtime.experiments.slurm_launcher import Resources, SlurmLauncher

    (root / "output").mkdir(parents=True, exist_ok=True)
    with Journal(root, "pipeline") as journal:
        launcher = SlurmLauncher(root, Resources(minutes=10), "local")
        jobs = parse_pipeline_args(words).jobs
        return Scheduler(root, jobs, journal, launcher.start, 2, Table()).run()


def events(root: Path) -> list[tuple[str, str]]:
    path = root / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(event["event"], event["job"].split()[-1]) for event in map(json.loads, lines)]


def checkpoints(root: Path) -> int:
    """How many runs have a checkpoint."""
    return len({path.parents[1] for path in root.glob("CartPole-v1/*/*/*/checkpoints/[0-9]*/seal.json")})


def processes(word: str, kind: str) -> list[int]:
    """Processes of a kind whose command line has a word in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode()
        except OSError:
            continue
        if word in line and kind in line:
            found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def started(root: Path, *words: str) -> subprocess.Popen:
    """`played` in a process of its own, whose Ctrl-C is not that of its jobs."""
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), *SMALL, *words], cwd=ROOT, start_new_session=True)


@needs_submitit
@pytest.mark.slow
def test_a_dead_job_and_a_killed_pipeline_cost_nothing(tmp_path):
    process = started(tmp_path, "--num-iteration=3")
    try:
        wait_for(lambda: checkpoints(tmp_path) == 2)
        os.kill(processes(str(tmp_path), "submitit.core._submit")[0], signal.SIGKILL)
        wait_for(lambda: {"crashed", "resumed", "finished"} <= {event for event, _ in events(tmp_path)})
        wait_for(lambda: list((tmp_path / "slurm").glob("*.running")))
    finally:
        process.kill()
        process.wait()
    finished, before = [seed for event, seed in events(tmp_path) if event == "finished"], len(events(tmp_path))
    assert played(tmp_path, [*SMALL, "--num-iteration=3"]) == []
    happened = events(tmp_path)
    assert [event for event, _ in happened].count("crashed") == 1
    assert len(finished) < 3 and any(event == "resumed" for event, _ in happened[before:])
    for seed in "012":
        assert happened.count(("finished", seed)) == 1
    for seed in finished:
        assert [event for event, one in happened if one == seed][-1] == "finished"
    runs = [path.parent for path in tmp_path.glob("CartPole-v1/*/*/*/args.json")]
    assert len(runs) == 3 and all(len(final_scores(run)) == 1 for run in runs)
    assert all("mean return of 4" in path.read_text() for path in (tmp_path / "output").iterdir())
    assert not list((tmp_path / "slurm").glob("*.running")) and not processes(str(tmp_path), "experiments.child")


@needs_submitit
@pytest.mark.slow
def test_ctrl_c_cancels_what_waits_and_stops_what_runs(tmp_path):
    process = started(tmp_path, "--num-iteration=1")
    wait_for(lambda: events(tmp_path))  # the job has no node yet
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0 and events(tmp_path) == [("started", "0"), ("interrupted", "0")]
    process = started(tmp_path, "--num-iteration=1")
    wait_for(lambda: checkpoints(tmp_path))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0 and events(tmp_path)[2:] == [("started", "0"), ("interrupted", "0")]
    assert not processes(str(tmp_path), "submitit")
    assert played(tmp_path, [*SMALL, "--num-iteration=1"]) == []
    assert events(tmp_path)[4:] == [("resumed", "0"), ("finished", "0")]


@pytest.fixture
def signals():
    """What a job does about signals ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@needs_submitit
@pytest.mark.parametrize("reason", ["notice", "nobody", "another"])
def test_a_job_ends_when_slurm_or_its_pipeline_wants_it(reason, tmp_path, signals):
    from launch.runtime.experiments.slurm_launcher import ORDERS_FILE, train

    words = [word.replace("=20000", "=100000000") for word in SMALL] + [f"--log-dir={tmp_path}"]
    orders = {"pipeline": "mine", "beat": 1, "interrupt": []}
    (tmp_path / ORDERS_FILE).write_text(json.dumps(orders))

    def happen():
        wait_for(lambda: checkpoints(tmp_path))
        if reason == "notice":
            os.kill(os.getpid(), signal.SIGUSR2)
        elif reason == "another":
            (tmp_path / ORDERS_FILE).write_text(json.dumps(orders | {"pipeline": "other"}))

    thread = threading.Thread(target=happen)
    thread.start()
    code = train(str(tmp_path), "mine-1", 10.0 if reason == "nobody" else 300.0, words, str(tmp_path / "log"), {})
    thread.join()
    assert code == (LOST if reason == "notice" else -signal.SIGKILL)
    assert checkpoints(tmp_path) == 1 and not list(tmp_path.glob("*.running"))


@pytest.fixture
def path_of(tmp_path, monkeypatch):
    """Make the PATH a folder with these commands, all of which fail."""

    def make(*commands):
        folder = tmp_path / "bin"
        folder.mkdir()
        for command in commands:
            (folder / command).symlink_to("/bin/false")
        monkeypatch.setenv("PATH", str(folder))

    return make


SLURM = ("sbatch", "srun", "scancel", "sacct")


@needs_submitit
def test_a_job_that_slurm_does_not_take_is_tried_once_more(path_of, tmp_path, capsys):
    path_of(*SLURM)
    words = [*SMALL, "--num-iteration=1", "--launcher=slurm", "--slurm-partition=gpu", "--slurm-gpus=1"]
    assert pipeline.main([*words, f"--log-dir={tmp_path}"]) == 3
    assert "1 of 1 jobs failed" in capsys.readouterr().err
    (folder,) = (tmp_path / "pipelines").iterdir()
    assert [event for event, _ in events(folder)] == ["started", "crashed", "started", "crashed"]
    (log,) = (folder / "output").iterdir()
    assert log.read_text().count("error: Slurm has not taken it") == 2


@pytest.mark.parametrize(
    ("commands", "words", "message"),
    [
        ((), ["--launcher=slurm"], "--launcher=slurm: there is no Slurm here (sbatch is not on the PATH)"),
        ((), ["--slurm-time=60"], "--slurm-time needs --launcher=slurm"),
        (SLURM, ["--launcher=slurm", "--slurm-gpus=-1"], "--slurm-gpus=-1"),
        (SLURM, ["--launcher=slurm", "--slurm-time=0"], "--slurm-time=0"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(commands, words, message, path_of, tmp_path, capsys):
    path_of(*commands)
    assert pipeline.main([*SMALL, *words, f"--log-dir={tmp_path / 'logs'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(find_spec("submitit") is not None, reason="submitit is installed")
def test_a_missing_package_is_one_line(path_of, capsys):
    path_of(*SLURM)
    assert pipeline.main([*SMALL, "--launcher=slurm"]) == 2
    assert "--launcher=slurm needs the package submitit" in capsys.readouterr().err
