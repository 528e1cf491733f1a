"""launch/report.py: groups, notices, the page, its files, and what it refuses."""

from __future__ import annotations

import csv
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from launch import report
from launch.results.command import command_line
from launch.results.groups import group_runs
from launch.results.read import read_runs
from launch.results.summary import aggregates, score_rows
from launch.results.tools import MOST_NOTICES
from launch.runtime.flags import parse_train_args
from tests.launch.results.runs import make_run, refused


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two tasks, three learners on one of them, one run that was killed."""
    root = tmp_path / "logs"
    make_run(root, "a", scores=[10.0, 12.0, 14.0])
    make_run(root, "b", algo="a2c", scores=[5.0, 6.0, 9.0], num_timesteps=2000)
    make_run(root, "c", algo="random_agent", scores=[1.0, 1.0, 1.0])
    make_run(root, "d", env="Pendulum-v1", scores=[-100.0, -150.0])
    make_run(root, "e", env="Pendulum-v1", algo="a2c", scores=[-900.0, -800.0])
    make_run(root, "killed", scores=[99.0], finished=False, seed=7)
    return root


def test_runs_are_grouped_by_what_matters(tmp_path):
    make_run(tmp_path, "a", scores=[1.0, 2.0], gamma=0.9)
    make_run(tmp_path, "b", scores=[3.0], gamma=0.9, seed=5, eval_every=7)
    make_run(tmp_path, "c", scores=[4.0, 5.0], num_seeds=1, sweep={"gamma": [0.9, 0.99]}, gamma=0.5)
    groups = {group.label: group for group in group_runs(read_runs(tmp_path).runs)}
    assert sorted(groups) == ["ppo2, gamma=0.9", "ppo2, gamma=0.99"]
    assert sorted(groups["ppo2, gamma=0.9"].scores) == [1.0, 2.0, 3.0, 4.0]
    assert groups["ppo2, gamma=0.99"].scores.tolist() == [5.0]


def test_a_flag_that_older_runs_do_not_have_makes_two_methods(tmp_path, monkeypatch):
    """Neither group hides the other: all finished runs are in the comparison."""
    for env, scores in (("CartPole-v1", (10.0, 2.0)), ("Pendulum-v1", (-100.0, -900.0))):
        make_run(tmp_path, "old", env=env, scores=[scores[0], scores[0] + 1])
        make_run(tmp_path, "new", env=env, scores=[scores[1], scores[1] + 1], on_nan="stop")
        make_run(tmp_path, "other", env=env, algo="a2c", scores=[scores[1] + 2, scores[1] + 3], n_steps=5)
    groups = group_runs(read_runs(tmp_path).runs)
    found = aggregates(groups, {}, [])
    assert found is not None and found.labels == ["ppo2, on_nan=-", "a2c", "ppo2, on_nan=stop"]
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert report.main(["-i", str(tmp_path), "--wandb"]) == 0
    text = (tmp_path / "report" / "report.html").read_text()
    table = text[text.rindex("Settings that differ") :].partition("<details")[0]
    assert "on_nan" in table and "n_steps" not in table  # what a2c alone has tells nothing apart
    said = json.loads((tmp_path / "report" / "wandb_report.json").read_text())
    grid = next(block for block in said["spec"]["blocks"] if block["type"] == "panel-grid")
    last = [runs["filters"]["filters"][-1] for runs in grid["metadata"]["runSets"]]
    assert [(one["key"]["name"], one["value"]) for one in last[1:]] == [("on_nan", None), ("on_nan", "stop")]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({"gamma": 0.1}, {"gamma": 0.10000001}, ["ppo2, gamma=0.1", "ppo2, gamma=0.10000001"]),
        ({"gamma": 1}, {"gamma": 1.0}, ["ppo2"]),
        ({"gamma": None}, {}, ["ppo2"]),
        ({"random_target": False}, {}, ["ppo2"]),
        ({"normalize": True}, {"normalize": 1}, ["ppo2, normalize=1", "ppo2, normalize=on"]),
        ({"gamma": None}, {"gamma": "-"}, ['ppo2, gamma="-"', "ppo2, gamma=-"]),
    ],
)
def test_no_two_groups_of_a_task_have_one_label(tmp_path, first, second, labels):
    make_run(tmp_path, "a", scores=[1.0], **first)
    make_run(tmp_path, "b", scores=[3.0], **second)
    groups = group_runs(read_runs(tmp_path).runs)
    assert [group.label for group in groups] == labels and sum(len(group.runs) for group in groups) == 2


DAMAGE = [
    ("versions.json", '{"jax": "0.', "versions.json is truncated or is not JSON: its versions are not known"),
    ("args.json", {"sweep": ["a:1"]}, "args.json has a damaged sweep, ['a:1'] with 1 seeds: left out"),
    ("args.json", {"sweep": {"gamma": []}}, "args.json has a damaged sweep"),
    ("args.json", {"seed": [1]}, "args.json has a damaged seed, [1]: left out"),
    ("args.json", {"num_seeds": -1}, "args.json has a damaged sweep, {} with -1 seeds: left out"),
    ("args.json", {"num_timesteps": "many"}, "args.json has a damaged num_timesteps, 'many': left out"),
    ("metrics.jsonl", '{"step": 5, "run": "a", "train/return": 1.0}', "metrics.jsonl: 1 damaged line left out"),
    ("metrics.jsonl", '{"step": 5, "train/return": "x"}', "metrics.jsonl: 1 damaged line left out"),
    ("metrics.jsonl", '{"step": 5, "score/final": [1]}', "metrics.jsonl: 1 damaged line left out"),
    ("metrics.jsonl", '{"step": Infinity, "train/return": 1}', "metrics.jsonl: 1 damaged line left out"),
    ("metrics.jsonl", "[5]", "metrics.jsonl: 1 damaged line left out"),
]


def damaged_run(root: Path, run: str, name: str, content: dict | str) -> None:
    """A run with other entries in one of its files, or with one line more."""
    path = make_run(root, run, scores=[20.0]) / name
    if isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        with path.open("a") as file:
            file.write(f"{content}\n")


@pytest.mark.parametrize(("name", "content", "notice"), DAMAGE)
def test_a_damaged_file_is_named(tmp_path, name, content, notice):
    make_run(tmp_path, "good", scores=[10.0], seed=3)
    damaged_run(tmp_path, "bad", name, content)
    found = read_runs(tmp_path)
    assert [notice in told for told in found.notices] == [True]
    assert sorted(run.score for run in found.runs) == ([10.0] if name == "args.json" else [10.0, 20.0])


def test_damaged_files_do_not_cost_the_report(tmp_path, capsys):
    make_run(tmp_path, "good", scores=[10.0], seed=3)
    for number, (name, content, _) in enumerate(DAMAGE):
        damaged_run(tmp_path, f"bad_{number}", name, content)
    assert report.main(["-i", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert err.count("warning: ") == MOST_NOTICES + 1 and f"{len(DAMAGE) - MOST_NOTICES} more of this kind" in err
    with (tmp_path / "report" / "scores.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["runs"] == str(1 + sum(name != "args.json" for name, _, _ in DAMAGE))


@pytest.mark.parametrize(
    "columns",
    [
        {"train/return": np.zeros((100, 2)), "train/return/step": np.arange(3)},
        {"train/return": np.zeros((100, 2))},
        {"score/final": np.zeros((100, 0)), "score/final/step": np.arange(0)},
        {"score/final": np.array(1.0), "score/final/step": np.arange(1)},
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path, columns):
    folder = make_run(tmp_path, scores=range(100), points=0, workers=0, finished=False)
    np.savez_compressed(folder / "runs.npz", **columns)
    assert "no value for each of its steps: no record of its runs" in read_runs(tmp_path).notices[0]


def test_the_columns_of_a_large_sweep_are_read(tmp_path):
    folder = make_run(tmp_path, scores=range(100), points=0, workers=0, finished=False)
    returns = np.arange(300.0).reshape(100, 3).astype(np.float32)
    columns = {"train/return": returns, "train/return/step": np.array([10, 20, 30]), "label": np.array(["run"] * 100)}
    scores = {"score/final": returns[:, :1], "score/final/step": np.array([30])}
    np.savez_compressed(folder / "runs.npz", **columns, **scores)
    found = read_runs(tmp_path)
    assert found.notices == [] and [run.score for run in found.runs] == returns[:, 0].tolist()
    assert found.runs[7].curves["train/return"].values.tolist() == [21.0, 22.0, 23.0]
    whole = (folder / "runs.npz").read_bytes()
    for place in range(20, len(whole), 37):  # numpy raises half a dozen things, by where the wrong byte is
        (folder / "runs.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        read_runs(tmp_path)
    entry = whole.index(b"PK\1\2")  # of the directory: its flags say that the file is encrypted
    (folder / "runs.npz").write_bytes(whole[: entry + 8] + bytes([whole[entry + 8] | 1]) + whole[entry + 9 :])
    assert "runs.npz is missing or damaged (RuntimeError)" in read_runs(tmp_path).notices[0]
    (folder / "runs.npz").write_bytes(b"PK")
    assert "runs.npz is missing or damaged (ValueError): no record of its runs" in read_runs(tmp_path).notices[0]


def test_scores_are_those_of_finished_runs(logs):
    groups = [group for group in group_runs(read_runs(logs).runs) if group.task == "CartPole-v1"]
    rows = score_rows(groups)
    assert [row.group.label for row in rows] == ["ppo2", "a2c", "random_agent"]
    assert rows[0].mean == 12.0 and rows[0].error == pytest.approx(np.std([10, 12, 14]) / 3**0.5)
    assert len(rows[0].group.partial) == 1 and np.isnan(rows[0].welch) and 0 < rows[1].welch < 0.05


def test_comparison_takes_the_tasks_that_methods_share(logs):
    notices: list[str] = []
    found = aggregates(group_runs(read_runs(logs).runs), {}, notices)
    assert found is not None and found.labels == ["ppo2", "a2c"] and len(found.tasks) == 2
    assert "not in it: random_agent" in notices[0]
    assert found.ranges["CartPole-v1"][:2] == (1.0, 14.0) and "random actions" in found.ranges["CartPole-v1"].source
    assert found.ranges["Pendulum-v1"][:2] == (-900.0, -100.0)
    normal = [(np.array([10.0, 12.0, 14.0]) - 1) / 13, (np.array([-100.0, -150.0]) + 900) / 800]
    assert found.table["Mean"][0].value == pytest.approx((normal[0].mean() + normal[1].mean()) / 2)
    assert found.table["IQM"][0].value == pytest.approx(np.sort(np.concatenate(normal))[1:-1].mean())
    assert found.improvement[0].value == 1.0


class Checker(html.parser.HTMLParser):
    """Collects ids and whatever would be fetched; fails where tags do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(logs, tmp_path, capsys):
    target = tmp_path / "out"
    assert report.main(["-i", str(logs), "-o", str(target), "-t", "A <b> title"]) == 0
    text = (target / "report.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and checker.fetched == []
    assert len(checker.ids) == len(set(checker.ids))
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert "A &lt;b&gt; title" in text and "12.0 ± 0.9" in text and "prefers-color-scheme" in text
    for name in ("curves_CartPole-v1", "curves_Pendulum-v1", "aggregates", "profiles", "improvement"):
        assert (target / f"{name}.png").stat().st_size > 5000 and b"<svg" in (target / f"{name}.svg").read_bytes()
    with (target / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["task"], rows[0]["method"], rows[0]["iqm"]) == ("CartPole-v1", "ppo2", "12")
    err = capsys.readouterr().err
    assert "1 of 4 runs did not come to their end" in err and "ppo2/killed" in err
    assert "CartPole-v1: budgets differ (a2c 2 k, ppo2 1 k, random_agent 1 k)" in err


def test_without_an_account_the_wandb_report_is_a_file(logs, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert report.main(["-i", str(logs), "-o", str(tmp_path / "out"), "--wandb", "--wandb-project=robots"]) == 0
    said = json.loads((tmp_path / "out" / "wandb_report.json").read_text())
    grids = [block for block in said["spec"]["blocks"] if block["type"] == "panel-grid"]
    assert said["project"] == "robots" and len(grids) == 2
    filters = grids[0]["metadata"]["runSets"][0]["filters"]["filters"]
    assert [(one["key"]["name"], one["value"]) for one in filters][:2] == [("env", "CartPole-v1"), ("algo", "a2c")]
    assert "--algo=a2c --env=CartPole-v1 --num-timesteps=2000" in json.dumps(said)


def test_one_run_makes_a_report(tmp_path):
    folder = make_run(tmp_path, scores=[3.0])
    assert report.main(["--log-dir", str(folder)]) == 0
    assert "3.000" in (folder / "report" / "report.html").read_text()


def test_the_same_runs_give_the_same_page(logs, tmp_path):
    pages = []
    for name in ("one", "two"):
        assert report.main(["-i", str(logs), "-o", str(tmp_path / name), "--algo", "ppo2"]) == 0
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    "words",
    [
        "--algo=ppo2 --env=CartPole-v1 --simulator=jax --num-cpu=4 --n-steps=64 --net-arch=32,16 --nonormalize",
        "--algo=a2c --env=CartPole-v1 --num-seeds=3 --seed=4 --sweep learning_rate:0.0003,0.001 ent_coef:0,0.01",
        "--algo=ars --continuous --random-target --num-timesteps=2e6 --no-vis",
    ],
)
def test_the_command_gives_the_flags_back(words):
    args = vars(parse_train_args(words.split()))
    stored = json.loads(json.dumps(args))
    again = vars(parse_train_args(command_line(stored).split()[2:]))
    assert {k: v for k, v in again.items() if k != "hyperparam"} == {k: v for k, v in args.items() if k != "hyperparam"}


def test_bad_input_is_refused_in_one_line(logs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cases = [
        ([], "--log-dir is missing"),
        (["-i", logs, "--algo", "ppo"], "--algo ppo: no run has it; did you mean ppo2?"),
        (["-i", logs, "--env", "CartPol-v1"], "did you mean CartPole-v1?"),
        (["-i", logs, "--env", "Pendulum-v1", "--algo", "random_agent"], "asked for together"),
        (["-i", logs, "--score-range", "CartPol:0,500"], "--score-range CartPol: no run has this environment"),
        (["-i", logs, "--score-range", "CartPol:0,500"], "did you mean CartPole-v1?"),
        (["-i", logs, "--score-range", "CartPole-v1:5,1"], "write ENV:LOW,HIGH with LOW < HIGH"),
        (["-i", logs, "-o", tmp_path / "file"], "File exists"),
        (["-i", tmp_path / "nothing"], "there is no such folder"),
    ]
    for flags, reason in cases:
        assert reason in refused(capsys, report.main, *flags), flags
