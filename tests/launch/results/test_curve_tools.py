"""plots, aggregate_plots, compare_plots, gather_results: what they compute, write and refuse."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from launch import aggregate_plots, compare_plots, gather_results, plots
from launch.results import episodes as curves
from launch.results.read import Curve, read_runs
from tests.launch.results.runs import make_run, refused, write_monitor

pytestmark = pytest.mark.usefixtures("headless")


def box(values: list[float], half: int) -> list[float]:
    return [float(np.mean(values[i - half : i + half + 1])) for i in range(half, len(values) - half)]


def test_smoothing_is_the_originals():
    values = np.random.default_rng(0).normal(size=200)
    steps = np.arange(200) * 37
    smooth = curves.smooth(Curve(steps, values))
    half = 7  # ceil(200 / 30), less than 31
    np.testing.assert_allclose(smooth.values, box(values.tolist(), half))
    np.testing.assert_array_equal(smooth.steps, steps[half:-half])
    binned = curves.binned(smooth)
    assert binned.steps.tolist() == list(range(0, int(smooth.steps[-1]), 100))
    between = np.searchsorted(smooth.steps, 1000)
    x0, x1 = smooth.steps[between - 1], smooth.steps[between]
    share = (1000 - x0) / (x1 - x0)
    expected = (1 - share) * smooth.values[between - 1] + share * smooth.values[between]
    assert binned.values[10] == pytest.approx(expected)
    long = curves.smooth(Curve(np.arange(5000), np.arange(5000.0)))
    assert long.steps[0] == 31 and 1000 <= len(long.steps) <= 2000


def test_episodes_of_all_workers_are_one_sequence(tmp_path):
    folder = make_run(tmp_path, workers=1, episodes=4, scores=[4.0])
    write_monitor(folder / "1.monitor.csv", np.array([10.0, 20.0]))
    (run,) = read_runs(folder).runs
    curve = curves.load_curve(run, [])
    # Ends at 0, 0, 1, 1, 2, 3 seconds, 10 steps each.
    assert curve.values.tolist() == [1.0, 10.0, 2.0, 20.0, 3.0, 4.0]
    assert curve.steps.tolist() == [0, 10, 20, 30, 40, 50]
    run.args["algo"] = "ars"  # evolution: the best member of each generation, of 20 steps together
    best = curves.load_curve(run, [])
    assert best.values.tolist() == [10.0, 20.0] and best.steps.tolist() == [0, 20]


def test_returns_that_are_not_finite_do_not_erase_the_curve(tmp_path):
    folder = make_run(tmp_path, workers=1, episodes=100, scores=[0.0])
    returns = np.full(100, 2.0)
    returns[[5, 6]] = np.nan, np.inf
    write_monitor(folder / "0.monitor.csv", returns)
    (run,) = read_runs(folder).runs
    notices: list[str] = []
    curve = curves.load_curve(run, notices)
    assert notices == [f"{folder}: 2 episodes whose return is not a finite number left out"]
    assert curve.steps.tolist() == [10 * i for i in range(100) if i not in (5, 6)]  # their steps count
    for over in (curves.over_episodes, curves.over_timesteps):
        values = over(curve, 4).values
        assert len(values) > 4 and (values == 2.0).all()
    run.args["algo"] = "ars"  # evolution: the best of the members with a finite return
    write_monitor(folder / "1.monitor.csv", np.r_[np.full(6, 1.0), np.nan, np.full(93, 3.0)])
    best = curves.load_curve(run, [])
    assert best.values[:6].tolist() == [2.0] * 5 + [1.0] and (best.values[6:] == 3.0).all() and len(best.values) == 99
    assert best.steps[5:7].tolist() == [100, 140]


@pytest.mark.parametrize("timesteps", [False, True])
def test_aggregate_writes_the_originals_npz(tmp_path, timesteps):
    for n, score in enumerate((10.0, 30.0)):
        make_run(tmp_path, f"run_{n}", scores=[score], episodes=300 + 50 * n)
    make_run(tmp_path, "short", scores=[7.0], episodes=5)
    make_run(tmp_path, "shaped", scores=[7.0], episodes=300, shape_reward=True)
    stem, picture = tmp_path / "out", tmp_path / "out.png"
    flags = ["-i", str(tmp_path / "CartPole-v1"), "-o", str(stem), "--picture", str(picture), "--no-display"]
    assert aggregate_plots.main([*flags, *(["--timesteps"] if timesteps else [])]) == 0
    with np.load(f"{stem}.npz") as stored:
        x, y = stored["x"], stored["y"]
    assert sorted(stored.files) == ["x", "y"] and y.shape == (2, len(x)) and picture.stat().st_size > 10_000
    if timesteps:
        assert (np.diff(x) == 100).all()
    else:
        assert x[0] == 39 and len(x) == 2 * 300 - 39  # 2 environments x 300 episodes, cut to the shortest run
        first = np.repeat(10.0 * np.arange(1, 301) / 300, 2)
        np.testing.assert_allclose(y[0], np.convolve(first, np.full(40, 1 / 40), "valid"), atol=1e-5)


def test_compare_draws_what_aggregate_and_the_original_write(tmp_path, capsys):
    for name, length in (("a", 50), ("b", 200)):
        np.savez(tmp_path / name, x=np.arange(length), y=np.random.default_rng(0).normal(size=(3, length)))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert compare_plots.main(["-i", str(tmp_path), "--truncate-x=30", "--y-lim", "-3", "3"]) == 0
    err = capsys.readouterr().err
    assert "broken.npz is damaged" in err and "cut to the 50 points of a" in err
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_plots_draws_one_run(tmp_path):
    folder = make_run(tmp_path, scores=[10.0, 20.0], sweep={"learning_rate": [0.1, 0.2]}, num_seeds=1)
    assert plots.main(["--log-dir", str(folder)]) == 0
    assert (folder / "curves.png").stat().st_size > 10_000
    assert plots.main(["--log-dir", str(folder), "--picture", str(tmp_path / "c.svg"), "--timesteps"]) == 0
    assert b"<svg" in (tmp_path / "c.svg").read_bytes()


def table(path: Path) -> dict[str, dict[str, str]]:
    return {row["srl_model_path"]: row for row in csv.DictReader(path.open())}


def test_gather_writes_the_originals_table(tmp_path):
    samples = {"ground_truth": (10.0, 14.0, 12.0), "raw_pixels": (5.0, 8.0, 20.0)}
    for model, scores in samples.items():
        for n, score in enumerate(scores):
            make_run(tmp_path, f"run_{n}", srl_model=model, scores=[score], episodes=200)
    env = tmp_path / "CartPole-v1"
    budgets = ["--timestep-budget", "1000", "4000", "400"]
    assert gather_results.main(["-i", str(env), *budgets, "--welch-test", "ground_truth"]) == 0
    rows = table(env / "results.csv")
    header = list(next(iter(rows.values())))
    assert header[:5] == ["srl_model_path", "methods", "rl_algo", "mean_reward_400", "stderr_reward_400"]
    assert [name for name in header if name.startswith("mean")] == [f"mean_reward_{n}" for n in (400, 1000, 4000)]
    # Episode i of both environments ends at 20 i steps: 49 are below 1,000 steps, the last 100 of 199 below 4,000.
    of_run = {budget: np.mean(count) / 200 for budget, count in ((1000, range(1, 50)), (4000, range(100, 200)))}
    for model, scores in samples.items():
        row = rows[f"{model}/ppo2"]
        for budget, share in of_run.items():
            means = np.array(scores) * share
            assert float(row[f"mean_reward_{budget}"]) == pytest.approx(means.mean(), rel=1e-4)
            assert float(row[f"stderr_reward_{budget}"]) == pytest.approx(means.std() / 3**0.5, rel=1e-4)
    expected = scipy.stats.ttest_ind(*samples.values(), equal_var=False).pvalue
    assert float(rows["raw_pixels/ppo2"]["welch_ground_truth_4000"]) == pytest.approx(expected, rel=1e-4)


def test_gather_leaves_out_short_runs_and_reads_the_runs_of_one_folder(tmp_path, capsys):
    make_run(tmp_path, "seeds", scores=[1.0, 3.0], episodes=100)
    make_run(tmp_path, "short", scores=[50.0], episodes=10)
    env = tmp_path / "CartPole-v1"
    assert gather_results.main(["-i", str(env), "--min-timestep=500"]) == 0
    assert "short ended after 200 steps" in capsys.readouterr().err
    row = table(env / "results.csv")["ground_truth/ppo2"]
    assert float(row["mean_reward"]) == pytest.approx(2.0 * np.mean(np.arange(1, 101)) / 100)


def test_gather_leaves_out_returns_that_are_not_finite(tmp_path, capsys):
    for name, bad in (("a", np.nan), ("b", -np.inf)):
        folder = make_run(tmp_path, name, workers=2, scores=[0.0])
        for worker, value in enumerate((2.0, 4.0)):
            returns = np.full(30, value)
            returns[[7, 8]] = bad
            returns[9 + worker] = bad  # the other environment's counts
            write_monitor(folder / f"{worker}.monitor.csv", returns)
    lost = make_run(tmp_path, "c", workers=1, scores=[0.0])
    write_monitor(lost / "0.monitor.csv", np.full(5, np.nan))
    env = tmp_path / "CartPole-v1"
    assert gather_results.main(["-i", str(env), "--timestep-budget=160", "600"]) == 0
    err = capsys.readouterr().err
    assert f"{folder}: 6 episodes whose return is not a finite number left out" in err
    assert "--timestep-budget 160: 1 of 3 runs ended before" in err and "600: 1 of 3 runs ended" in err
    row = table(env / "results.csv")["ground_truth/ppo2"]
    assert float(row["mean_reward_160"]) == 3.0 and row["stderr_reward_160"] == "0"  # c has no mean
    assert float(row["mean_reward_600"]) == pytest.approx((26 * 3.0 + 4.0 + 2.0) / 28, rel=1e-4)


def test_half_written_files_are_used_and_named(tmp_path, capsys):
    folder = make_run(tmp_path, scores=[10.0], workers=1)
    with (folder / "0.monitor.csv").open("a") as file:
        file.write("3.0,1")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tr')
    assert plots.main(["--log-dir", str(folder)]) == 0
    err = capsys.readouterr().err
    assert "0.monitor.csv: 1 half-written row left out" in err and "metrics.jsonl: 1 half-written line left out" in err


@pytest.mark.parametrize("row", ["nonsense", "0.600000,nan"])
def test_damage_within_a_monitor_file_ends_it(row, tmp_path):
    folder = make_run(tmp_path, workers=1, episodes=5)
    path = folder / "0.monitor.csv"
    path.write_text(path.read_text().replace("0.600000,10", row))
    notices: list[str] = []
    (run,) = read_runs(folder).runs
    (episodes,) = run.episodes(notices)
    assert episodes.returns.tolist() == [0.2, 0.4] and "3 half-written rows left out" in notices[0]


def test_damaged_run_folders_are_named(tmp_path, capsys):
    make_run(tmp_path, "good")
    bad = make_run(tmp_path, "bad")
    (bad / "args.json").write_text('{"algo": ')
    assert gather_results.main(["-i", str(tmp_path / "CartPole-v1")]) == 0
    assert "bad: args.json is truncated or is not JSON: left out" in capsys.readouterr().err


def test_bad_input_is_refused_in_one_line(tmp_path, capsys):
    make_run(tmp_path, "a", episodes=5)
    make_run(tmp_path, "b", env="Pendulum-v1")
    env = tmp_path / "CartPole-v1"
    (tmp_path / "empty").mkdir()
    aggregate, gather, compare = aggregate_plots.main, gather_results.main, compare_plots.main
    cases = [
        (plots.main, [], "--log-dir is missing"),
        (plots.main, ["--log-dir", env], "is not a run folder: args.json is missing; launch/report.py takes many"),
        (plots.main, ["--log-dir", env / "nothing" / "there"], f"the nearest that exists is {env}"),
        (plots.main, ["--log-dir", env, "--picture=x.gif"], "must end in .png, .svg, .pdf"),
        (plots.main, ["--log-dirr", env], "did you mean --log-dir?"),
        (aggregate, ["-i", tmp_path / "empty"], "no folder below it has an args.json"),
        (aggregate, ["-i", env], "no run has 40 points: take a smaller --episode-window"),
        (aggregate, ["-i", env, "--shape-reward"], "have sparse reward: call without --shape-reward"),
        (aggregate, ["-i", env, "--y-lim", "5", "1"], "--y-lim 5 1: the lower limit comes first"),
        (aggregate, ["-i", env, "-o", tmp_path / "no" / "stem"], f"there is no folder {tmp_path / 'no'}"),
        (compare, ["-i", env], "has no .npz file"),
        (gather, ["-i", tmp_path], "holds several environments (CartPole-v1, Pendulum-v1)"),
        (gather, ["-i", env, "--welch-test", "ground_trut"], "did you mean ground_truth?"),
        (gather, ["-i", env, "--min-timestep=500000"], "ended after 100 steps (--min-timestep)"),
    ]
    for main, flags, reason in cases:
        assert reason in refused(capsys, main, *flags), flags


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output_is_one_line(tmp_path, capsys):
    make_run(tmp_path, "a")
    env = tmp_path / "CartPole-v1"
    env.chmod(0o500)
    try:
        assert "Permission denied" in refused(capsys, gather_results.main, "-i", env)
    finally:
        env.chmod(0o700)


def test_output_in_the_way_of_a_folder_is_one_line(tmp_path, capsys):
    make_run(tmp_path, "a")
    env = tmp_path / "CartPole-v1"
    (env / "results.csv").mkdir()
    assert "results.csv" in refused(capsys, gather_results.main, "-i", env)
