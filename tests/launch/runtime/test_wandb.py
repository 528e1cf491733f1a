"""wandb: what is written offline can be read back, nothing is asked, and nothing that wandb does ends a run."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch import dataset_generator, train_srl
from launch.runtime.logger import RunLogger
from launch.runtime.srl_flags import models_of
from launch.train import main
from representations.dataset import load_dataset
from tests.representations.twin_data import twin_dataset, written

ROOT = Path(__file__).parents[3]
BLOCK = 32768  # of the LevelDB log format, in which wandb stores its records


def records(path: Path) -> Iterator[Any]:
    """Records of a .wandb file: the LevelDB log format after a header of 7 bytes, holding wandb's protobufs."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full or last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


class Stored:
    """One wandb run as it stands on disk."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.history: list[dict[str, Any]] = []
        for record in complete(path):
            if record.HasField("run"):
                self.run = record.run
            if record.HasField("exit"):
                self.exit_code = record.exit.exit_code
            if record.HasField("history"):
                items = record.history.item
                self.history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}


def complete(path: Path) -> list[Any]:
    """Records of a finished run; wandb's service writes the last of them a moment after `finish` returns."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(records(path))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} never got its last record")


def stored_runs(folder: Path) -> dict[str, Stored]:
    runs = [Stored(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
    return {run.run.display_name: run for run in runs}


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An environment without any wandb account or setting; also the one of this process."""
    for name in [name for name in os.environ if name.startswith("WANDB")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return dict(os.environ)


def logger_of(folder: Path, num_runs: int = 1, mode: str = "offline") -> RunLogger:
    folder.mkdir(exist_ok=True)
    config = {"algo": "ppo2", "learning_rate": 0.1}
    return RunLogger(folder, config, "CartPole-v1", num_runs, 10**10, mode, "robots", progress=False)


def test_offline_run_can_be_read_back(tmp_path: Path, no_account: dict[str, str], capfd: Any) -> None:
    folder = tmp_path / "26-03-07_09h05_01"
    logger = logger_of(folder)
    losses = np.random.default_rng(0).normal(size=20)
    for n, loss in enumerate(losses):
        logger.log(n, n * 2**31, {"loss": loss})
    logger.evaluation(20 * 2**31, [[1.0, 3.0]])
    logger.close()
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    stored = stored_runs(folder)["26-03-07_09h05_01"]
    assert stored.run.project == "robots" and stored.run.run_group == ""
    assert (stored.config["algo"], stored.config["learning_rate"]) == ("ppo2", 0.1)
    assert [row["loss"] for row in stored.history[:20]] == losses.tolist()
    assert [row["_step"] for row in stored.history] == [n * 2**31 for n in range(21)]
    assert stored.history[20]["eval/return"] == 2.0
    assert stored.exit_code == 0
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(stored.folder)]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env=no_account)
    assert stored.run.run_id in listed.stdout + listed.stderr


def test_tags_videos_and_artifacts_are_kept(tmp_path: Path, no_account: dict[str, str]) -> None:
    folder = tmp_path / "run"
    (folder / "ppo2_model" / "best").mkdir(parents=True)
    (folder / "ppo2_model" / "best" / "params.npz").write_bytes(b"parameters")
    (folder / "video.mp4").write_bytes(b"film")
    logger = RunLogger(folder, {}, "CartPole-v1", 1, 100, "offline", "robots", progress=False, tags=["arm", "draft"])
    logger.log(1, 100, {"loss": 1.0})
    logger.video(folder / "video.mp4")
    logger.artifact(folder / "ppo2_model", "model")
    logger.close()
    (stored,) = stored_runs(folder).values()
    assert list(stored.run.tags) == ["arm", "draft"]
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    kept = [record.artifact for record in complete(path) if record.HasField("artifact")]
    (artifact,) = [one for one in kept if one.name == "run-ppo2_model"]
    assert artifact.type == "model" and [entry.path for entry in artifact.manifest.contents] == ["best/params.npz"]
    assert any("video" in key for row in stored.history for key in row) and list(
        stored.folder.glob("files/media/videos/*.mp4")
    )


def test_sweep_is_a_group_of_seed_runs_and_an_aggregate(tmp_path: Path, no_account: dict[str, str]) -> None:
    logger = logger_of(tmp_path / "sweep", 3)
    for step in (10, 20):
        logger.log(step, step, {"loss": np.array([1.0, 2.0, 6.0]) * step})
    logger.close(exit_code=3)
    runs = stored_runs(tmp_path / "sweep")
    assert sorted(runs) == ["sweep-aggregate", "sweep-seed_0", "sweep-seed_1", "sweep-seed_2"]
    assert {run.run.run_group for run in runs.values()} == {"sweep"}
    assert [run.run.job_type for _, run in sorted(runs.items())] == ["aggregate", "seed", "seed", "seed"]
    assert [row["loss"] for row in runs["sweep-seed_2"].history] == [60.0, 120.0]
    assert runs["sweep-seed_2"].config["run"] == 2
    assert [row["loss/mean"] for row in runs["sweep-aggregate"].history] == [30.0, 60.0]
    assert {"loss/iqm", "loss/low", "loss/high"} < set(runs["sweep-aggregate"].history[0])
    assert {run.exit_code for run in runs.values()} == {3}


def test_each_run_of_a_sweep_has_its_own_seed_and_values(tmp_path: Path, no_account: dict[str, str]) -> None:
    words = ["--algo=ppo2", "--env=CartPole-v1", "--simulator=jax", "--num-cpu=4", "--n-steps=16", "--net-arch=16,16"]
    words += ["--noptepochs=1", "--num-timesteps=64", "--eval-episodes=2", "--final-eval-episodes=4", "--seed=5"]
    words += ["--num-seeds=2", "--sweep", "learning_rate:1e-3,1e-2", "--wandb-mode=offline"]
    for batch in (0, 2):
        root = tmp_path / str(batch)
        assert main([*words, f"--runs-per-batch={batch}", f"--log-dir={root}"]) == 0
        (args,) = root.glob("*/*/*/*/args.json")
        runs = stored_runs(args.parent)
        configs = [runs[f"{args.parent.name}-seed_{run}"].config for run in range(4)]
        assert [config["run"] for config in configs] == [0, 1, 2, 3]
        assert [(config["learning_rate"], config["seed"]) for config in configs] == [
            (0.001, 5),
            (0.001, 6),
            (0.01, 5),
            (0.01, 6),
        ]
        assert configs[3]["algo"] == "ppo2" and configs[3]["ent_coef"] == configs[0]["ent_coef"]
        assert "run" not in runs[f"{args.parent.name}-aggregate"].config


def test_each_representation_of_a_sweep_has_its_own_seed_and_weights(
    tmp_path: Path, no_account: dict[str, str]
) -> None:
    data, folder = written(tmp_path / "data", twin_dataset()), tmp_path / "model"
    words = [
        f"--data-folder={data}",
        f"--log-folder={folder}",
        "--model-type=linear",
        "--epochs=1",
        "--no-display-plots",
    ]
    words += ["--losses", "inverse", "--num-seeds=2", "--sweep", "inverse:0.5,2", "learning_rate:0.001,0.002"]
    assert train_srl.main([*words, "--wandb-mode=offline"]) == 0
    runs = stored_runs(folder)
    configs = [runs[f"model-seed_{run}"].config for run in range(8)]
    told = [(config["inverse"], config["learning_rate"], config["seed"]) for config in configs]
    assert told == [(w, rate, seed) for w in (0.5, 2.0) for rate in (0.001, 0.002) for seed in (1, 2)]


def test_a_video_of_a_sweep_is_kept_beside_its_table(tmp_path: Path, no_account: dict[str, str]) -> None:
    logger = logger_of(tmp_path / "sweep", 2)
    (tmp_path / "sweep" / "video.mp4").write_bytes(b"film")
    logger.log(1, 100, {"loss": np.array([1.0, 2.0])})
    logger.log(2, 200, {"score/final": np.array([1.0, 2.0])})
    logger.video(tmp_path / "sweep" / "video.mp4")
    logger.close()
    stored = stored_runs(tmp_path / "sweep")["sweep-aggregate"]
    assert [row["_step"] for row in stored.history] == [100, 200]
    last = stored.history[-1]
    assert last["score/final/mean"] == 1.5 and {key.partition("/")[0] for key in last} >= {"runs", "video"}
    assert list(stored.folder.glob("files/media/videos/*.mp4"))


def test_sweep_beyond_the_limit_is_the_aggregate_alone(tmp_path: Path, no_account: dict[str, str]) -> None:
    logger = logger_of(tmp_path / "sweep", 9)
    logger.log(1, 1, {"loss": np.arange(9.0)})
    logger.close()
    runs = stored_runs(tmp_path / "sweep")
    assert list(runs) == ["sweep-aggregate"] and runs["sweep-aggregate"].history[0]["loss/mean"] == 4.0


def test_resumed_run_keeps_its_wandb_id(tmp_path: Path, no_account: dict[str, str]) -> None:
    first = logger_of(tmp_path / "run")
    first.log(1, 1, {"loss": 1.0})
    state = json.loads(json.dumps(first.state()))
    first.close()
    second = logger_of(tmp_path / "run")
    second.restore(state)
    second.log(2, 2, {"loss": 2.0})
    assert second.state()["wandb"] == state["wandb"] and state["wandb"]
    second.close()
    files = sorted((tmp_path / "run/wandb").glob(f"offline-run-*/run-{state['wandb']['0']}.wandb"))
    assert [row["loss"] for path in files for row in Stored(path).history] == [1.0, 2.0]


SCRIPT = """
import sys
import launch.runtime.wandb_sink as sink
from launch.runtime.logger import RunLogger
sink._INIT_TIMEOUT = 4.0
logger = RunLogger(sys.argv[1], {}, "CartPole-v1", 1, 100, sys.argv[2], "robots", progress=False)
logger.log(1, 1, {"loss": 1.0})
logger.log(2, 2, {"loss": 2.0})
logger.close()
print("wandb" in sys.modules)
"""


def train(folder: Path, mode: str, env: dict[str, str]) -> tuple[str, str]:
    """Log two lines in a process whose input and error output are a terminal, so that a question could be asked.

    Returns (stdout, stderr).
    """
    folder.mkdir()
    main, terminal = pty.openpty()
    try:
        command = [sys.executable, "-c", SCRIPT, str(folder), mode]
        done = subprocess.run(
            command, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, cwd=ROOT, env=env, timeout=60, check=True
        )
    finally:
        os.close(terminal)
    err = b""
    with contextlib.suppress(OSError), os.fdopen(main, "rb", buffering=0) as reader:  # ends with EIO
        while part := reader.read(10_000):
            err += part
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    return done.stdout.decode(), err.decode().replace("\r\n", "\n")


def test_auto_without_a_key_is_offline_and_asks_nothing(tmp_path: Path, no_account: dict[str, str]) -> None:
    assert train(tmp_path / "run", "auto", no_account) == ("True\n", "")
    assert [len(run.history) for run in stored_runs(tmp_path / "run").values()] == [2]


def test_online_without_a_key_says_so_and_is_offline(tmp_path: Path, no_account: dict[str, str]) -> None:
    out, err = train(tmp_path / "run", "online", no_account)
    assert out == "True\n" and err.startswith("warning: wandb has no API key") and err.count("\n") == 1
    assert [len(run.history) for run in stored_runs(tmp_path / "run").values()] == [2]


def test_auto_with_a_key_goes_online_and_survives_without_a_server(tmp_path: Path, no_account: dict[str, str]) -> None:
    env = no_account | {"WANDB_BASE_URL": "http://127.0.0.1:9"}  # nobody listens there
    (tmp_path / "home/.netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {'0' * 40}\n")
    out, err = train(tmp_path / "run", "auto", env)
    assert out == "True\n" and err.startswith("warning: wandb cannot reach its server") and err.count("\n") == 1
    assert [len(run.history) for run in stored_runs(tmp_path / "run").values()] == [2]


def test_broken_key_is_a_warning(tmp_path: Path, no_account: dict[str, str]) -> None:
    _, err = train(tmp_path / "run", "auto", no_account | {"WANDB_API_KEY": "short"})
    assert err.startswith("warning: wandb is off from here on: ") and err.count("\n") == 1


def test_disabled_does_not_even_import_wandb(tmp_path: Path, no_account: dict[str, str]) -> None:
    assert train(tmp_path / "run", "disabled", no_account) == ("False\n", "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_environment_variable_decides_auto(tmp_path: Path, no_account: dict[str, str]) -> None:
    train(tmp_path / "run", "auto", no_account | {"WANDB_MODE": "disabled"})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_failure_in_mid_run_is_a_warning(tmp_path: Path, no_account: dict[str, str], capfd: Any) -> None:
    logger = logger_of(tmp_path / "run")
    logger.log(1, 1, {"loss": 1.0})
    logger._sink()._runs["0"].finish()  # from here on wandb refuses every call
    for n in (2, 3):
        logger.log(n, n, {"loss": 1.0})
    logger.close()
    err = capfd.readouterr().err
    assert err.startswith("warning: wandb is off from here on: ") and err.count("\n") == 1
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3


def test_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--wandb-mode of is unknown; choose one of auto, online, offline, disabled"):
        logger_of(tmp_path / "run", mode="of")


def artifacts(folder: Path) -> dict[str, Any]:
    """The datasets and models among the artifacts of all wandb runs in a folder, by name."""
    paths = (folder / "wandb").glob("offline-run-*/*.wandb")
    kept = [record.artifact for path in paths for record in complete(path) if record.HasField("artifact")]
    return {one.name: one for one in kept if one.type in ("dataset", "model")}


@pytest.mark.parametrize("layout", ["compact", "original"])
def test_a_recorded_dataset_is_kept(layout: str, tmp_path: Path, no_account: dict[str, str]) -> None:
    words = ["--env=MobileRobotGymEnv-v0", "--simulator=jax", "--image-size=16", "--num-episode=1", "--artifacts"]
    words += [f"--save-path={tmp_path}", "--name=navé 1", f"--format={layout}", "--wandb-project=robots"]
    assert dataset_generator.main([*words, "--wandb-mode=offline"]) == 0
    folder = tmp_path / "navé 1"
    data = load_dataset(folder)
    (stored,) = stored_runs(folder).values()
    assert (stored.run.project, stored.exit_code, stored.config["num_episode"]) == ("robots", 0, 1)
    ((name, artifact),) = artifacts(folder).items()
    assert (name, artifact.type) == ("nav--1", "dataset")
    assert json.loads(artifact.metadata) == {"frames": len(data.rewards), "episodes": 1, **data.config}
    here = {str(path.relative_to(folder)): str(path) for path in folder.rglob("*") if path.is_file()}
    sent = {entry.path: entry.local_path for entry in artifact.manifest.contents}
    assert sent == {path: place for path, place in here.items() if not path.startswith("wandb/")}


@pytest.mark.parametrize("runs", [["--losses=pca"], ["--losses=inverse", "--num-seeds=2", "--epochs=1"]])
def test_a_representation_is_kept_with_the_name_of_its_dataset(
    runs: list[str], tmp_path: Path, no_account: dict[str, str]
) -> None:
    written(tmp_path / "nav 1", twin_dataset())
    folder = tmp_path / "m"
    words = [f"--data-folder={tmp_path / 'nav 1'}", f"--log-folder={folder}", "--model-type=linear", *runs]
    assert train_srl.main([*words, "--artifacts", "--wandb-mode=offline"]) == 0
    assert all(run.config["data_folder"].endswith("nav 1") for run in stored_runs(folder).values())
    ((name, artifact),) = artifacts(folder).items()
    assert (name, artifact.type, json.loads(artifact.metadata)) == ("m-srl_model", "model", {"dataset": "nav-1"})
    here = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    sent = {Path(entry.path): Path(entry.local_path) for entry in artifact.manifest.contents}
    assert set(sent) == {path for path in here if path.parts[0] not in ("wandb", "checkpoints")}
    assert len(models_of(folder)) == sum(path.name == "srl_model.json" for path in sent)
    for path, copy in sent.items():
        assert copy.read_bytes() == (folder / path).read_bytes()


def test_a_dataset_is_complete_whatever_wandb_does(
    tmp_path: Path, no_account: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    words = ["--env=MobileRobotGymEnv-v0", "--simulator=jax", "--image-size=16", "--num-episode=1", "--artifacts"]
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert dataset_generator.main([*words, f"--save-path={tmp_path}", "--name=nav"]) == 0
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(errors) == 1 and errors[0].startswith("warning: wandb is off from here on: ")
    assert len(load_dataset(tmp_path / "nav").targets) == 1
