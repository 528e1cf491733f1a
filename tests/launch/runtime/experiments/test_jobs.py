"""Journal, run folders of jobs, table of results."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from launch.runtime.batches import join_records
from launch.runtime.experiments.jobs import (
    Job,
    abandon,
    can_resume,
    final_scores,
    found_folders,
    progress,
    scores_by_setting,
)
from launch.runtime.experiments.journal import JOURNAL_FILE, Journal
from launch.runtime.experiments.pipeline import gather
from launch.runtime.experiments.table import Row, Table, render
from launch.runtime.logger import RunLogger
from launch.runtime.run_folder import create_run_folder


def job(seed: int = 0, num_seeds: int = 1) -> Job:
    return Job("ppo2", "brax/ant", "ground_truth", seed, num_seeds, 100, 1, ("--num_cpu=2",))


def folder_of(root: Path, one: Job) -> Path:
    """A run folder as a training of this job makes it."""
    args = {"seed": one.seed, "num_seeds": one.num_seeds}
    return create_run_folder(root, one.env, one.srl_model, one.algo, args, {})


def test_the_journal_survives_a_line_half_written(tmp_path):
    with Journal(tmp_path, "pipeline") as journal:
        journal.write("started", "a", attempt=1)
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"event": "fini')
    with Journal(tmp_path, "pipeline") as journal:
        journal.write("finished", "a")
        assert [event["event"] for event in journal.read()] == ["started", "finished"]


def test_a_folder_has_one_journal_at_a_time(tmp_path):
    with (
        Journal(tmp_path, "pipeline"),
        pytest.raises(ValueError, match="in use by another process"),
        Journal(tmp_path, "pipeline"),
    ):
        pass
    (tmp_path / JOURNAL_FILE).write_text("1\nnothing\n")
    with Journal(tmp_path, "pipeline") as journal, pytest.raises(ValueError, match="is damaged"):
        journal.read()


def test_a_job_finds_its_own_newest_folder(tmp_path):
    first, second = job(0), job(1)
    made = [folder_of(tmp_path, one) for one in (first, first, second, job(0, 3))]
    assert found_folders(tmp_path, [first, second]) == {first.name: made[1], second.name: made[2]}
    assert not can_resume(made[1])
    (made[1] / "checkpoints" / "12").mkdir(parents=True)
    assert can_resume(made[1])
    (made[2] / "args.json").write_text('{"seed":')
    moved = abandon(tmp_path, made[1])
    assert moved.is_dir() and found_folders(tmp_path, [first, second]) == {first.name: made[0]}


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_progress_is_what_the_logger_wrote(num_seeds, tmp_path):
    folder = folder_of(tmp_path, job(0, num_seeds))
    assert progress(folder) == (0, None, False)
    logger = RunLogger(folder, {}, "brax/ant", num_seeds, 100, "disabled", progress=False)
    returns = np.arange(num_seeds) + 1.0
    logger.log(1, 50, {"train/return": returns})
    assert progress(folder) == (50, returns.mean(), False)
    logger.log(2, 100, {"score/final": returns, "score/best": returns + 1})
    assert progress(folder) == (100, returns.mean(), True)
    assert final_scores(folder) == list(returns + 1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10')
    assert progress(folder).step == 100


def test_results_are_gathered_by_cell(tmp_path):
    jobs = [job(0), job(1), job(2, 4)]
    for one, scores in zip(jobs[:2], ([1.0], [3.0])):
        logger = RunLogger(folder_of(tmp_path, one), {}, "brax/ant", 1, 100, "disabled", progress=False)
        logger.log(1, 100, {"score/final": np.array(scores)})
    text = gather(tmp_path, jobs)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows == [
        "algo,srl_model,env,runs,mean,iqm,low,high",
        f"ppo2,ground_truth,brax/ant,2,2.000,2.000,{2 - 1.96:.3f},{2 + 1.96:.3f}",
    ]
    assert "2.000" in text


def test_scores_of_more_runs_than_have_lines_are_gathered(tmp_path, capsys):
    """With more than 64 runs metrics.jsonl has aggregates only."""
    one, returns = job(0, 65), np.arange(65.0)
    folder = folder_of(tmp_path, one)
    logger = RunLogger(folder, {}, "brax/ant", 65, 100, "disabled", progress=False)
    logger.log(1, 50, {"train/return": returns})
    logger.close()
    assert final_scores(folder) == []  # it has not come to its end
    logger.log(2, 100, {"score/final": returns, "score/best": returns + 1})
    assert final_scores(folder) == (returns + 1).tolist()
    gather(tmp_path, [one])
    assert ",65,33.000,33.000," in (tmp_path / "results.csv").read_text()
    (folder / "runs.npz").write_bytes(b"PK")
    capsys.readouterr()
    assert final_scores(folder) == []
    assert "warning: " in (err := capsys.readouterr().err) and "runs.npz is missing or damaged" in err


def test_scores_of_a_sweep_in_batches_are_gathered(tmp_path):
    one, returns, batches = job(0, 3), np.array([[1.0, 2.0], [3.0, np.nan]]), []
    folder = folder_of(tmp_path, one)
    for number, (values, count) in enumerate(zip(returns, (2, 1))):
        batches.append((folder / f"batch_{number}", count))
        batches[-1][0].mkdir()
        logger = RunLogger(batches[-1][0], {}, "brax/ant", 2, 100, "disabled", progress=False)
        logger.log(1, 100, {"score/final": values})
    join_records(folder, batches)
    assert progress(folder).finished and final_scores(folder) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("count", [2, 40])
def test_settings_of_a_sweep_are_gathered_apart(count, tmp_path):
    """One learner has what is swept, with and without lines for single runs, another has not; one has no run."""
    sweep = {"gamma": [0.9, 0.99], "lam": [0.1, 0.10000001]}
    swept, plain, lost = (
        job(0, count),
        dataclasses.replace(job(), algo="random_agent"),
        dataclasses.replace(job(), algo="ars"),
    )
    args = {"seed": 0, "num_seeds": count, "sweep": sweep}
    folder = create_run_folder(tmp_path, swept.env, swept.srl_model, swept.algo, args, {})
    assert scores_by_setting(folder) == {name: [] for name in scores_by_setting(folder)}
    scores = np.repeat([1.0, 2.0, 3.0, 4.0], count)
    logger = RunLogger(folder, {}, "brax/ant", 4 * count, 100, "disabled", progress=False)
    logger.log(1, 100, {"score/final": scores})
    logger = RunLogger(folder_of(tmp_path, plain), {}, "brax/ant", 1, 100, "disabled", progress=False)
    logger.log(1, 100, {"score/final": np.array([7.0])})
    text = gather(tmp_path, [swept, plain, lost])
    assert (tmp_path / "results.csv").read_text().splitlines() == [
        "algo,srl_model,env,setting,runs,mean,iqm,low,high",
        f"ppo2,ground_truth,brax/ant,gamma=0.9 lam=0.1,{count},1.000,1.000,1.000,1.000",
        f"ppo2,ground_truth,brax/ant,gamma=0.9 lam=0.10000001,{count},2.000,2.000,2.000,2.000",
        f"ppo2,ground_truth,brax/ant,gamma=0.99 lam=0.1,{count},3.000,3.000,3.000,3.000",
        f"ppo2,ground_truth,brax/ant,gamma=0.99 lam=0.10000001,{count},4.000,4.000,4.000,4.000",
        "random_agent,ground_truth,brax/ant,,1,7.000,,,",
        "ars,ground_truth,brax/ant,,0,,,,",
    ]
    assert "gamma=0.99 lam=0.1 " in text


def test_scores_of_damaged_flags_are_kept(tmp_path, capsys):
    one = job(0, 2)
    folder = folder_of(tmp_path, one)
    (folder / "args.json").write_text(json.dumps({"seed": 0, "num_seeds": 2, "sweep": "x"}))
    RunLogger(folder, {}, "brax/ant", 2, 100, "disabled", progress=False).log(1, 100, {"score/final": np.ones(2)})
    assert scores_by_setting(folder) == {"": [1.0, 1.0]} and "args.json is damaged" in capsys.readouterr().err


def test_the_table_fits_its_terminal():
    rows = [
        Row(f"cell {i}", i, 10, i / 10, None if i else 1.5, 60.0 * i, "running" if i > 7 else "waiting")
        for i in range(10)
    ]
    lines = render(rows, 60, 8)
    assert len(lines) == 8 and max(map(len, lines)) <= 60
    assert lines[1].startswith("cell 8") and lines[-1] == "... and 4 more"
    assert len(render(rows, 60, 20)) == 11
    stream = io.StringIO()
    table = Table(stream)
    table.message("started")
    table.update(rows)
    assert stream.getvalue() == "started\n"  # no terminal: the next line of progress is a minute away


def test_a_terminals_table_is_redrawn_in_place():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    rows = [Row("ppo2 CartPole-v1", 3, 15, 0.331, 12.3, 75.0, "running")]
    table = Table(Terminal())
    table.update(rows)
    table.message("finished: something")
    table.close()
    text = table._stream.getvalue()
    shown = ["cell              runs  done  return     left", "ppo2 CartPole-v1  3/15  33 %   12.30  0:01:15  running"]
    drawn = "\n".join(shown) + "\n"
    assert text == f"{drawn}\x1b[2A\r\x1b[Jfinished: something\n{drawn}\x1b[2A\r\x1b[J{drawn}"


def test_words_of_a_job_survive_the_file():
    one = job(3, 2)
    assert Job.restored(json.loads(json.dumps(one.stored()))) == one
