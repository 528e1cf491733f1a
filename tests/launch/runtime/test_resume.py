"""What `--resume` takes from a run folder: of runs begun from a policy, with little memory, moved, or damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.registry import algorithm_class
from launch import train, train_srl
from launch.runtime import batches
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.columns import read_columns
from launch.runtime.flags import parse_train_args
from launch.runtime.training import prepare
from tests.launch.play import CARTPOLE, MOBILE, SMALL, trained
from tests.learned import linear_model
from tests.representations.twin_data import twin_dataset, written

JAX = [f"--env={CARTPOLE}", "--simulator=jax", "--num-cpu=4", "--n-steps=16", "--num-timesteps=640"]


def run_folder(log_dir: Path) -> Path:
    """The only run folder under `log_dir`."""
    (args,) = log_dir.glob("*/*/*/*/args.json")
    return args.parent


def records(folder: Path) -> list[dict]:
    """metrics.jsonl without wall-clock times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def parameters(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The leaves of a saved model."""
    with np.load(folder / "ppo2_model" / name / "params.npz", allow_pickle=False) as stored:
        return dict(stored)


def cut(monkeypatch: pytest.MonkeyPatch, log_dir: Path, *words: str, saves: int = 3, program: Any = train) -> None:
    """Train until the checkpoint of this number, where Ctrl-C comes."""
    save, count = Checkpointer.save, 0

    def save_and_stop(self: Any, *rest: Any) -> None:
        nonlocal count
        save(self, *rest)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_and_stop)
        assert program.main([*words, f"--log-dir={log_dir}"]) == 130


def edit(folder: Path, **changes: Any) -> None:
    """Change what the folder's args.json says."""
    path = folder / "args.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(capsys: pytest.CaptureFixture, program: Any, *words: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert program.main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy others begin with."""
    return trained(tmp_path_factory.mktemp("source"), *JAX)


def test_a_run_begun_with_a_policy_goes_on_without_it(source, tmp_path, monkeypatch):
    loaded = shutil.copytree(source, tmp_path / "loaded")
    words = [*SMALL, *JAX, f"--load-rl-model-path={loaded}"]
    assert train.main([*words, f"--log-dir={tmp_path / 'whole'}"]) == 0
    cut(monkeypatch, tmp_path / "cut", *words)
    shutil.rmtree(loaded)  # what was loaded is in the checkpoint
    whole, resumed = run_folder(tmp_path / "whole"), run_folder(tmp_path / "cut")
    assert train.main([f"--resume={resumed}"]) == 0
    assert records(resumed) == records(whole)
    for name in ("best", "final"):
        for leaf, value in parameters(whole, name).items():
            np.testing.assert_array_equal(parameters(resumed, name)[leaf], value, err_msg=leaf)


def test_batches_that_are_still_to_begin_need_the_policy(source, tmp_path, monkeypatch, capsys):
    loaded = shutil.copytree(source, tmp_path / "loaded")
    words = [*SMALL, *JAX, "--num-seeds=4", "--runs-per-batch=2", f"--load-rl-model-path={loaded}"]
    cut(monkeypatch, tmp_path / "cut", *words)
    folder = run_folder(tmp_path / "cut")
    moved = loaded.rename(tmp_path / "moved")
    assert f"{loaded} is not a run folder" in refusal(capsys, train, f"--resume={folder}")
    moved.rename(loaded)
    assert train.main([f"--resume={folder}"]) == 0
    assert len(read_columns(folder)["label"]) == 4
    shutil.rmtree(loaded)
    words[-1] = f"--load-rl-model-path={source.parent}"  # a folder without a model
    assert "has no saved model" in refusal(capsys, train, *words, f"--log-dir={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_a_sweep_goes_on_as_it_began_however_much_memory_there_is(tmp_path, monkeypatch, capsys):
    words = [word for word in (*SMALL, *JAX) if "min-episodes-save" not in word]
    words += ["--num-seeds=4", "--min-episodes-save=27"]  # some runs have no best policy
    assert train.main([*words, f"--log-dir={tmp_path / 'whole'}"]) == 0
    cut(monkeypatch, tmp_path / "cut", *words)
    whole, folder = run_folder(tmp_path / "whole"), run_folder(tmp_path / "cut")
    before = (folder / "metrics.jsonl").read_bytes()
    needed = batches.memory_of_runs(prepare(algorithm_class("ppo2")(), parse_train_args(words)).driver)
    with monkeypatch.context() as patch:
        patch.setattr(batches, "available_memory", lambda: needed // 2)
        assert train.main([f"--resume={folder}"]) == 2
        assert "4 runs would need" in capsys.readouterr().err
        patch.setattr(batches, "available_memory", lambda: needed + 1)  # the share that is kept free is in it
        assert (folder / "metrics.jsonl").read_bytes() == before and not list(folder.glob("batch_*"))
        assert train.main([f"--resume={folder}"]) == 0
    assert not list(folder.glob("batch_*")) and records(folder) == records(whole)
    for name in ("best", "final"):
        for leaf, value in parameters(whole, name).items():
            np.testing.assert_array_equal(parameters(folder, name)[leaf], value, err_msg=leaf)
    for name, values in read_columns(whole).items():
        np.testing.assert_array_equal(read_columns(folder)[name], values, err_msg=name)


def test_batches_keep_their_size_on_other_devices(monkeypatch):
    """Two devices would have batches of two."""
    sizes: list[int] = []

    class Small:
        """A driver that fits."""

        def __init__(self, size: int) -> None:
            sizes.append(size)

        def memory(self) -> int:
            return 0

    monkeypatch.setattr(batches, "even", lambda num_runs, largest: 2)
    for wanted, size in ((3, 3), (0, 8), (9, 8)):
        batches.fitting_driver(Small, 8, wanted, exact=False, fixed=True)  # type: ignore[arg-type]
        assert sizes.pop() == size
    batches.fitting_driver(Small, 8, 3, exact=False)  # type: ignore[arg-type]
    assert sizes == [2]


def test_a_run_goes_on_where_it_was_moved_to(tmp_path, capsys):
    """The folder, its log folder, its representation and the table that named it are all elsewhere."""
    model = linear_model(tmp_path / "random", MOBILE)
    table = tmp_path / "models.yaml"
    table.write_text(f"{MOBILE}:\n  log_folder: {tmp_path}/\n")
    words = [f"--env={MOBILE}", "--simulator=jax", "--srl-model=random", f"--srl-config-file={table}", "--num-cpu=2"]
    run = trained(tmp_path / "logs", *words, "--n-steps=16", "--num-timesteps=64")
    moved = Path(shutil.move(run, tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").write_text("not a folder any more")
    table.unlink()
    assert train.main([f"--resume={moved}"]) == 0
    other = model.rename(tmp_path / "other")
    assert "there is no learned representation in" in refusal(capsys, train, f"--resume={moved}")
    other_kind = linear_model(tmp_path / "vae", MOBILE, losses=("vae",))
    said = refusal(capsys, train, f"--resume={moved}", f"--srl-model-path={other_kind}")
    assert "that model is of the kind vae, the run has random" in said
    larger = linear_model(tmp_path / "larger", MOBILE, image_size=32)
    assert "takes pictures of 32 pixels" in refusal(
        capsys, train, f"--resume={moved}", f"--srl-model-path={larger}", "--log-dir=anywhere"
    )
    assert train.main([f"--resume={moved}", f"--srl-model-path={other}", f"--log-dir={tmp_path}"]) == 0
    info = json.loads((moved / "ppo2_model" / "final" / "model.json").read_text())
    assert info["env"]["srl_model_path"] == str(other)


def test_a_run_on_true_states_has_no_representation_to_move(source, tmp_path, capsys):
    model = linear_model(tmp_path / "random", MOBILE)
    assert train.main([f"--resume={source}", f"--srl-model-path={model}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sweep": "x"}, "sweep is 'x'"),
        ({"sweep": {"gamma": 0.9}}, "sweep is {'gamma': 0.9}"),
        ({"sweep": {"gamma": ["high"]}}, "gamma is 'high'"),
        ({"sweep": {"nothing": [1.0]}}, "sweep is {'nothing': [1.0]}"),
        ({"hyperparam": ["gamma:0.9"]}, "hyperparam is ['gamma:0.9']"),
        ({"log_dir": None}, "log_dir is None"),
        ({"log_dir": 5}, "log_dir is 5"),
        ({"seed": "first"}, "seed is 'first'"),
        ({"net_arch": 16}, "net_arch is 16"),
        ({"tags": "arm"}, "tags is 'arm'"),
        ({"continuous": None}, "continuous is None"),
        ({"gamma": [0.9] * 50}, "..."),
    ],
    ids=str,
)
def test_damaged_flags_of_a_run_are_one_line(changes, said, source, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("args.json", "env_globals.json"):
        shutil.copy(source / name, folder)
    edit(folder, **changes)
    error = refusal(capsys, train, f"--resume={folder}")
    assert f"--resume={folder}: its args.json is damaged: " in error and said in error and len(error) < 400


def test_an_algorithm_that_is_no_name_is_one_line(source, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("args.json", "env_globals.json"):
        shutil.copy(source / name, folder)
    edit(folder, algo=["ppo2"])
    assert "its algorithm ['ppo2'] does not exist" in refusal(capsys, train, f"--resume={folder}")


def test_a_representation_goes_on_where_it_and_its_data_were_moved_to(tmp_path, monkeypatch, capsys):
    data = written(tmp_path / "nav", twin_dataset())
    words = [f"--data-folder={data}", "--model-type=linear", "--learning-rate=0.001", "--no-vis", "--epochs=2"]
    words += ["--checkpoint-every=1", "--losses", "inverse"]
    cut(monkeypatch, tmp_path / "logs", *words, saves=1, program=train_srl)
    (args,) = (tmp_path / "logs").glob("*/*/args.json")
    moved = Path(shutil.move(args.parent, tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").write_text("not a folder any more")
    edit(moved, log_folder=str(tmp_path / "logs" / "m"))
    (tmp_path / "other").mkdir()
    data = data.rename(tmp_path / "other" / "nav")
    assert "there is no such folder" in refusal(capsys, train_srl, f"--resume={moved}")
    other = written(tmp_path / "kuka", twin_dataset())
    said = refusal(capsys, train_srl, f"--resume={moved}", f"--data-folder={other}")
    assert f"--data-folder={other}: that training was begun with" in said and "of another name" in said
    monkeypatch.chdir(data.parent)
    assert train_srl.main([f"--resume={moved}", "--data-folder=nav", f"--log-dir={tmp_path}"]) == 0
    assert (moved / "srl_model.json").is_file()
    edit(moved, epochs="many")
    assert "its args.json is damaged: epochs is 'many'" in refusal(capsys, train_srl, f"--resume={moved}")
