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
        (["-i", logs, "--score-range", "CartPole-v1:5,1"], "write ENV:LOW,HIGH with LOW < HIGH"),
        (["-i", logs, "-o", tmp_path / "file"], "File exists"),
        (["-i", tmp_path / "nothing"], "there is no such folder"),
    ]
    for flags, reason in cases:
        assert reason in refused(capsys, report.main, *flags), flags
