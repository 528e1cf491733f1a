"""The pipeline of representations: it trains and judges a table, goes on where it was ended, and what it refuses."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launch.srl_pipeline import main
from tests.representations.twin_data import twin_dataset, written

TABLE = """
random: {losses: [random], model-type: linear, state-dim: 4}
autoencoder: {losses: ["autoencoder:1"], model-type: linear, state-dim: 8, learning-rate: 0.0005, checkpoint-every: 1}
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def words(tmp_path):
    (tmp_path / "table.yaml").write_text(TABLE)
    data = written(tmp_path / "data", twin_dataset())
    return [f"--data-folder={data}", f"--log-folder={tmp_path / 'models'}", f"-c={tmp_path / 'table.yaml'}", "--no-vis"]


def newest(folder):
    """Epochs in the newest checkpoint."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")), default=0)


def ended(words, folder, number):
    """Begin the pipeline, and end it by a signal once it has trained two epochs; its exit code and last words."""
    goal, until = newest(folder) + 2, time.monotonic() + 300
    pipeline = subprocess.Popen(
        [sys.executable, "launch/srl_pipeline.py", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while newest(folder) < goal:
        assert pipeline.poll() is None and time.monotonic() < until, "no checkpoint"
        time.sleep(0.05)
    pipeline.send_signal(number)
    said = pipeline.communicate(timeout=120)[1]  # that a training is gone too, as it holds this pipe
    return pipeline.returncode, said.splitlines()[-1]


def epochs(folder):
    return len((folder / "metrics.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_a_table_is_trained_and_judged_however_often_it_is_interrupted(words, tmp_path, capfd):
    root = tmp_path / "models"
    long = [*words, "--epochs=50"]
    assert ended(long, root / "autoencoder", signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (root / "autoencoder" / "srl_model.json").exists()
    before = newest(root / "autoencoder")
    assert ended(long, root / "autoencoder", signal.SIGINT) == (130, "interrupted; the same command continues it")
    assert not (root / "autoencoder" / "srl_model.json").exists() and before < epochs(root / "autoencoder") < 50
    assert main(long) == 0
    assert epochs(root / "autoencoder") == 50
    said = capfd.readouterr().out
    assert "[2/2] autoencoder" in said
    with (root / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["random", "autoencoder"]
    for row in rows:
        judged = json.loads((root / row["model"] / "metrics" / "metrics.json").read_text())
        assert float(row["knn_mse"]) == pytest.approx(judged["knn_mse"], rel=1e-3) and judged["frames"] == 240
        assert row["model"] in said.rsplit("model ", 1)[1]
    with np.load(root / "autoencoder" / "loss_history.npz") as history:
        assert float(rows[1]["val_loss"]) == pytest.approx(history["val_loss"].min(), rel=1e-3)
    untouched = {path: path.stat().st_mtime_ns for path in (root / "autoencoder").rglob("*")}
    assert main(long) == 0
    assert untouched == {path: path.stat().st_mtime_ns for path in (root / "autoencoder").rglob("*")}


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(words, tmp_path, capsys):
    root, data = tmp_path / "models", tmp_path / "data"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "random").mkdir()
    (tmp_path / "other" / "random" / "note").write_text("mine")
    (tmp_path / "list.yaml").write_text("[1]")
    for more, message in (
        (["--models", "autoencodr"], "the table has no autoencodr; did you mean autoencoder?"),
        (["--modles=random"], "unknown flag --modles; did you mean --models?"),
        (["--log-folder=LOGS"], "given twice"),
        (["--resume=x"], "--resume is not for all models"),
        (["--batch-size=1"], "--batch-size=1: must be at least 2"),
        (["--batch-size=2", "--multi-view"], "model random: --multi-view: dataset data has one view"),
        (["--losses", "vae"], "model random: --model-type=linear has no decoder for vae"),
        (["-c=LIST"], "expected lines NAME: {flag: value}"),
        (["-c=nowhere.yaml"], "cannot be read"),
        (["--data-folder=nowhere"], "dataset nowhere: there is no such folder"),
        (["--log-folder=OTHER"], "holds something already: add --force"),
    ):
        more = [word.replace("LOGS", "x").replace("LIST", str(tmp_path / "list.yaml")) for word in more]
        more = [word.replace("OTHER", str(tmp_path / "other")) for word in more]
        given = [word for word in words if "given twice" in message or word.split("=")[0] not in more[0].split("=")[0]]
        assert main([*given, *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and message in said and said.count("\n") == 1, said
    frames = data / "frames.npy"
    frames.write_bytes(frames.read_bytes()[:-100])
    assert main(words) == 2
    assert "frames.npy has" in capsys.readouterr().err
    assert not root.exists() and [path.name for path in (tmp_path / "other").rglob("*")] == ["random", "note"]


def test_a_training_begun_with_other_flags_is_not_gone_on_with(words, tmp_path, capsys):
    from launch.srl_pipeline import parse_pipeline_args
    from launch.train_srl import main as train

    folder = tmp_path / "models" / "random"
    flags = ("--losses=random", "--model-type=linear", "--state-dim=4", "--no-vis", "--epochs=3")
    assert train([f"--data-folder={tmp_path / 'data'}", f"--log-folder={folder}", *flags]) == 0
    same = [*words, "--models=random", "--epochs=3"]
    assert parse_pipeline_args(same).trainings["random"].words == []
    assert parse_pipeline_args([*same, "--force"]).trainings["random"].words[-1] == "--force"
    (folder / "srl_model.json").unlink()  # as if it had been ended before its first checkpoint
    assert parse_pipeline_args(same).trainings["random"].words[-1] == "--force"
    (folder / "checkpoints" / "2").mkdir(parents=True)
    assert f"--resume={folder}" in parse_pipeline_args(same).trainings["random"].words
    capsys.readouterr()
    assert main([*same, "--state-dim=5"]) == 2
    said = capsys.readouterr().err
    assert "--state-dim was 4 there, 5 is given now; --force trains it anew" in said and said.count("\n") == 1
