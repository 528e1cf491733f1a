"""What a run leaves behind: metrics.jsonl, monitor files, the progress line, and all of it continued after a kill."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.runtime.logger import MAX_MONITORED_RUNS, RunLogger, aggregate
from launch.runtime.monitor import MonitorFiles
from launch.runtime.progress import EpochLines, ProgressLine


def logger_of(folder: Path, num_runs: int = 1, **options: Any) -> RunLogger:
    folder.mkdir(exist_ok=True)
    options = {"wandb_mode": "disabled", "progress": False} | options
    return RunLogger(folder, {"algo": "ppo2"}, "CartPole-v1", num_runs, total_steps=1000, **options)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def rows_of(path: Path) -> tuple[dict[str, Any], list[tuple[float, int, float]]]:
    first, *rest = path.read_text().splitlines()
    assert first[0] == "#" and rest[0] == "r,l,t"
    rows = [(float(row["r"]), int(row["l"]), float(row["t"])) for row in csv.DictReader(rest)]
    return json.loads(first[1:]), rows


def test_one_run_is_one_line_a_log(tmp_path: Path) -> None:
    logger = logger_of(tmp_path)
    logger.log(1, 2**31 + 5, {"loss": np.float32(0.1), "entropy": np.array([np.nan])})
    logger.log(2, 2**33, {"loss": [np.inf]})
    first, second = lines_of(tmp_path)  # read before close: each log is on disk when it returns
    assert first.pop("time") >= 0 and second.pop("time") >= 0
    assert first == {"step": 2**31 + 5, "iteration": 1, "loss": float(np.float32(0.1)), "entropy": None}
    assert second == {"step": 2**33, "iteration": 2, "loss": None}
    logger.close()


def test_many_runs_are_a_line_each_and_one_of_aggregates(tmp_path: Path) -> None:
    logger = logger_of(tmp_path, 8)
    values = np.array([3.0, 1.0, 100.0, 2.0, 4.0, -50.0, 5.0, 6.0])
    logger.log(4, 10, {"x": values})
    *seeds, total = lines_of(tmp_path)
    assert [(line["run"], line["x"]) for line in seeds] == list(enumerate(values))
    assert "run" not in total and "x" not in total
    assert total["x/mean"] == pytest.approx(8.875)
    assert total["x/iqm"] == pytest.approx((2 + 3 + 4 + 5) / 4)
    error = 1.96 * np.std(values, ddof=1) / np.sqrt(8)
    assert (total["x/low"], total["x/high"]) == pytest.approx((8.875 - error, 8.875 + error))


def test_iqm_is_the_trimmed_mean() -> None:
    from scipy.stats import trim_mean

    for count in range(2, 20):
        values = np.random.default_rng(count).normal(size=count)
        assert aggregate({"x": values})["x/iqm"] == pytest.approx(trim_mean(values, 0.25))


def test_diverged_run_is_not_hidden_in_the_aggregate(tmp_path: Path) -> None:
    logger = logger_of(tmp_path, 4)
    logger.log(1, 1, {"x": np.array([1.0, np.nan, 2.0, 3.0]), "y": np.array([1.0, np.inf, 2.0, 3.0])})
    *_, total = lines_of(tmp_path)
    assert {total[name] for name in ("x/mean", "x/iqm", "x/low", "y/mean", "y/iqm", "y/high")} == {None}


def test_metric_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric 'loss' has shape \(2,\), expected one value for each of 3 runs"):
        logger_of(tmp_path, 3).log(0, 0, {"loss": np.zeros(2)})


def test_monitor_file_has_the_original_format(tmp_path: Path) -> None:
    logger = logger_of(tmp_path)
    before = time.time()
    logger.episodes(0, 3, [1.23456789, -2.0], [10, 7], [0.5, 1.25])
    logger.episodes(0, 3, 4.0, 1)
    text = (tmp_path / "3.monitor.csv").read_text().splitlines()
    assert text[1:4] == ["r,l,t", "1.234568,10,0.500000", "-2.000000,7,1.250000"]
    header, rows = rows_of(tmp_path / "3.monitor.csv")
    assert header["env_id"] == "CartPole-v1" and abs(header["t_start"] - before) < 5
    assert rows[2][:2] == (4.0, 1) and 0 <= rows[2][2] < 5
    assert [path.name for path in tmp_path.iterdir()] == ["3.monitor.csv"]


def test_mixed_episodes_go_to_their_files_in_order(tmp_path: Path) -> None:
    logger = logger_of(tmp_path, 3, episode_window=30)
    rng = np.random.default_rng(0)
    runs, ranks = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    logger.episodes(runs, ranks, np.arange(500.0), np.arange(500) + 1, np.arange(500) / 10)
    for run in range(3):
        for rank in range(4):
            _, rows = rows_of(tmp_path / f"seed_{run}/{rank}.monitor.csv")
            mine = np.flatnonzero((runs == run) & (ranks == rank))
            assert rows == [(float(n), n + 1, n / 10) for n in mine.tolist()]
        assert logger.recent_returns()[run] == np.mean(np.flatnonzero(runs == run)[-30:])
    logger.episodes([], [], [], [])


def test_sweep_beyond_the_limit_writes_no_monitor_files(tmp_path: Path) -> None:
    logger = logger_of(tmp_path, MAX_MONITORED_RUNS + 1)
    logger.episodes(64, 0, [5.0], [1])
    assert logger.recent_returns()[64] == 5.0 and np.isnan(logger.recent_returns()[63])
    assert list(tmp_path.iterdir()) == []


def test_evaluation_tells_which_runs_improved(tmp_path: Path) -> None:
    logger = logger_of(tmp_path, 2)
    assert logger.evaluation(10, [[1.0, 3.0], [np.nan, 1.0]]).tolist() == [True, False]
    assert logger.evaluation(20, [[2.0, 2.0], [5.0, 7.0]]).tolist() == [False, True]
    assert logger.best_evaluation.tolist() == [2.0, 6.0]
    lines = lines_of(tmp_path)
    assert lines[3] | {"time": 0} == {"step": 20, "time": 0, "run": 0, "eval/return": 2.0, "eval/std": 0.0}
    assert lines[5]["eval/return/mean"] == 4.0


def play(logger: RunLogger, iterations: range) -> None:
    """The part of a run between two iterations; a function of the iteration alone."""
    for n in iterations:
        rng = np.random.default_rng(n)
        size = rng.integers(0, 5)
        logger.episodes(
            rng.integers(0, logger.num_runs, size), rng.integers(0, 4, size), rng.normal(size=size), np.full(size, n), n
        )
        logger.log(n, n * 100, {"loss": rng.normal(size=logger.num_runs), "return": logger.recent_returns()})
        if n % 3 == 0:
            logger.evaluation(n * 100, rng.normal(size=(logger.num_runs, 5)))


def contents(folder: Path) -> dict[str, Any]:
    """All files without what a clock wrote."""
    result: dict[str, Any] = {"metrics": [line | {"time": 0} for line in lines_of(folder)]}
    for path in folder.glob("**/*.monitor.csv"):
        result[str(path.relative_to(folder))] = rows_of(path)[1]
    return result


@pytest.mark.parametrize("num_runs", [1, 3])
def test_resumed_run_leaves_the_same_files(tmp_path: Path, num_runs: int) -> None:
    whole = logger_of(tmp_path / "whole", num_runs)
    play(whole, range(30))
    killed = logger_of(tmp_path / "killed", num_runs)
    play(killed, range(12))
    state = json.loads(json.dumps(killed.state()))
    play(killed, range(12, 21))  # lost: after the checkpoint
    lost_file = tmp_path / "killed" / ("seed_1" if num_runs > 1 else "") / "9.monitor.csv"
    killed.episodes(num_runs // 2, 9, 1.0, 1)
    assert lost_file.exists()
    with (tmp_path / "killed/metrics.jsonl").open("a") as file:
        file.write('{"step": 2100, "los')  # as a kill in the middle of a write leaves it
    resumed = logger_of(tmp_path / "killed", num_runs)
    resumed.restore(state)
    assert resumed.elapsed() >= state["elapsed"]
    play(resumed, range(12, 30))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    np.testing.assert_array_equal(resumed.best_evaluation, whole.best_evaluation)
    assert resumed.state()["recent"] == whole.state()["recent"]


def test_resume_before_anything_was_written(tmp_path: Path) -> None:
    state = logger_of(tmp_path).state()
    play(logger_of(tmp_path), range(4))
    logger = logger_of(tmp_path)
    logger.restore(state)
    assert list(tmp_path.iterdir()) == []


def test_run_folder_that_lost_rows_is_one_line(tmp_path: Path) -> None:
    logger = logger_of(tmp_path)
    play(logger, range(10))
    state = logger.state()
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics.jsonl has 0 bytes, the checkpoint counts on \d+") as error:
        logger_of(tmp_path).restore(state)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the checkpoint has 1 runs, this command makes 2"):
        logger_of(tmp_path, 2).restore(state)


def test_writing_many_episodes_is_fast(tmp_path: Path) -> None:
    count = 100_000
    monitor = MonitorFiles(tmp_path, "CartPole-v1", 0.0)
    start = time.perf_counter()
    monitor.write(0, np.arange(count) / 3, np.full(count, 500), np.arange(count) / 7)
    assert time.perf_counter() - start < 2.0
    _, rows = rows_of(tmp_path / "0.monitor.csv")
    assert len(rows) == count and rows[-1] == (round((count - 1) / 3, 6), 500, round((count - 1) / 7, 6))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands in for the monotonic clock, so that a test need not wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        monkeypatch.setattr("launch.runtime.progress.time.monotonic", lambda: self.now)


def test_progress_line_shows_speed_return_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    progress = ProgressLine(1_000_000, num_runs=3, stream=stream)
    progress.start(0)
    progress.start(200_000)  # resumed: what was played before must not count as speed
    clock.now += 10
    progress.update(250_000, 12.345, 20.0)
    expected = (
        "3 runs, 250,000/1,000,000 steps (25%) | 15,000 steps/s in all | return 12.35 | best 20.00 | left 0:02:30\n"
    )
    assert stream.getvalue() == expected.replace("12.35", f"{12.345:.2f}")
    clock.now += 10
    progress.update(1_000_000, None, None)
    assert (
        stream.getvalue()
        .splitlines()[1]
        .startswith("3 runs, 1,000,000/1,000,000 steps (100%) | 120,000 steps/s in all | return -")
    )


def test_without_a_terminal_lines_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    progress = ProgressLine(10_000, stream=stream)
    progress.start(0)
    for step in range(1, 10_001):
        clock.now += 0.001
        progress.update(step, 1.0, None)
    progress.close()
    assert "\r" not in stream.getvalue() and stream.getvalue().count("\n") == 20
    slow = io.StringIO()
    progress = ProgressLine(10**9, stream=slow)
    progress.start(0)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update(step, 1.0, None)
    assert slow.getvalue().count("\n") == 10


def test_long_epochs_tell_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), list[str]()
    lines = EpochLines(said.append, 4)
    for epoch, seconds in ((2, 5.0), (3, 0.01)):
        lines.begin(epoch)
        for done in range(1, 9):
            clock.now += seconds
            lines.update(done, 8)
    # The second epoch is over before a line is due.
    assert said == [
        f"epoch 2/4 | {done}/8 minibatches ({share}%) | 0.2 minibatches/s | left 0:0{left}"
        for done, share, left in ((2, 25, "1:50"), (4, 50, "1:40"), (6, 75, "1:30"))
    ]


def test_terminal_gets_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal()
    monkeypatch.setenv("COLUMNS", "40")
    progress = ProgressLine(1000, stream=stream)
    progress.start(0)
    for step in (100, 200, 300):
        clock.now += 1
        progress.update(step, None, None)
    progress.message("a warning")
    progress.close()
    drawn = stream.getvalue().split("\r\x1b[K")
    assert [line[:9] for line in drawn[1:4]] == ["100/1,000", "200/1,000", "300/1,000"]
    assert all(len(line.rstrip("\n")) <= 39 for line in drawn)
    assert drawn[4] == "a warning\n"
    assert stream.getvalue().count("\n") == 2 and stream.getvalue().endswith("\n")


def test_progress_goes_to_standard_error_through_the_logger(tmp_path: Path, capsys: Any) -> None:
    logger = logger_of(tmp_path, progress=True)
    logger.episodes(0, 0, [4.0, 6.0], [1, 1])
    logger.evaluation(900, [[9.0]])
    logger.log(1, 1000, {})
    logger.close()
    logger.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1,000/1,000 steps (100%)" in printed.err and "return 5.00 | best 9.00" in printed.err
