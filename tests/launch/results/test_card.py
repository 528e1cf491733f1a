"""The model card of a run folder: what it says, and that it can never cost a run."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest

from launch.results.card import write_card
from launch.runtime import finishing
from launch.runtime.logger import RunLogger
from tests.launch.results.runs import make_run


def quiet_logger(folder: Path) -> RunLogger:
    return RunLogger(folder, {}, "CartPole-v1", 1, 100, "disabled", progress=False)


def test_a_finished_run_has_a_card(mobile: Path) -> None:
    text = (mobile / "README.md").read_text()
    assert text.startswith("# ppo2 on MobileRobotGymEnv-v0")
    assert "--env=MobileRobotGymEnv-v0 --simulator=jax --random-target --num-timesteps=600 --num-seeds=2" in text
    for package in ("python", "jax", "flax", "numpy", "device", "srl-jax"):
        assert re.search(rf"^\| {package} \| \S", text, re.MULTILINE), package
    assert re.search(
        r"^\| all seeds \| 2 \| -?[\d.]+ ± [\d.]+ \| -?[\d.]+ \| -?[\d.]+ to -?[\d.]+ \|$", text, re.MULTILINE
    )
    assert "![Learning curves of this run](curves.png)" in text and (mobile / "curves.png").stat().st_size > 5000
    versions = json.loads((mobile / "versions.json").read_text())
    assert versions["jax"] and versions["device"]


def test_the_interval_of_a_lone_run_is_that_of_its_episodes(tmp_path):
    folder = make_run(tmp_path, scores=[12.0], final_eval_episodes=100)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1000, "time": 99, "score/final": 11.0, "score/best": 12.0, "score/std": 5.0}\n')
    write_card(folder)
    text = (folder / "README.md").read_text()
    assert "best policy: **12.00**, 95 % interval 11.02 to 12.98, in 100 evaluation episodes" in text


def test_swept_values_have_rows_of_their_own(tmp_path):
    folder = make_run(tmp_path, scores=[1.0, 3.0, 10.0, 20.0], num_seeds=2, sweep={"gamma": [0.9, 0.99]})
    write_card(folder)
    text = (folder / "README.md").read_text()
    assert "| gamma 0.9 | 2 | 2.00 ± 0.71 |" in text and "| gamma 0.99 | 2 | 15.00 ± 3.54 |" in text
    assert "--sweep gamma:0.9,0.99" in text


def test_a_run_without_episodes_has_a_card(tmp_path):
    folder = make_run(tmp_path, points=0, episodes=0, workers=0, finished=False)
    write_card(folder)
    text = (folder / "README.md").read_text()
    assert "No episode has ended." in text and "curves.png" not in text


def test_a_card_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    folder = make_run(tmp_path)
    (folder / "README.md").mkdir()
    finishing.complete(folder, Namespace(simulator="jax", algo="ppo2"), quiet_logger(folder))
    err = capsys.readouterr().err
    assert err.startswith("warning: no model card: ") and err.count("\n") == 1


def test_policies_are_filmed(mobile: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import shutil

    folder = shutil.copytree(mobile, tmp_path / "run")
    path = finishing.record_video(folder, Namespace(seed=0))
    assert path is not None and path.parent == folder and path.stat().st_size > 1000


def test_what_cannot_be_filmed_is_a_warning(tmp_path, capsys):
    folder = make_run(tmp_path)
    assert finishing.record_video(folder, Namespace(seed=0)) is None
    assert capsys.readouterr().err.startswith("warning: no video: ")
