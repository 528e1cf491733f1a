"""The saved model: bit-exact, nothing pickled, replaced as a whole, and one line for what does not fit."""

from __future__ import annotations

import json
import os
import resource
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.runtime.checkpoint import CheckpointError
from launch.runtime.model import BEST, FINAL, load_model, model_folder, read_info, save_model


class Acting(NamedTuple):
    params: Any
    statistics: Any


def acting(seed: int) -> Acting:
    rng = np.random.default_rng(seed)
    dense = {
        "kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), "bfloat16"),
    }
    return Acting({"params": {"Dense_0": dense}}, (np.float64(rng.normal()), jnp.int32(seed), ()))


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_model_comes_back_with_its_description(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "ppo2")
    assert folder == tmp_path / "ppo2_model"
    saved = save_model(
        folder, BEST, acting(1), {"algo": "ppo2", "step": 2**33, "score": 231.5, "config": {"n": (1, 2)}}
    )
    save_model(folder, FINAL, acting(2), {"algo": "ppo2"})
    assert saved == folder / "best"
    assert_same(load_model(folder / BEST, acting(0)), acting(1))
    assert_same(load_model(folder / FINAL, acting(0)), acting(2))
    info = read_info(saved)
    assert (info["algo"], info["step"], info["score"], info["config"]) == ("ppo2", 2**33, 231.5, {"n": [1, 2]})
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "params.npz"]


def test_leaves_are_named_by_their_path_and_not_pickled(tmp_path: Path) -> None:
    folder = save_model(tmp_path, BEST, acting(1), {})
    with np.load(folder / "params.npz", allow_pickle=False) as stored:
        assert "acting/params/params/Dense_0/kernel" in stored.files
        assert all(stored[name].dtype != object for name in stored.files)


def test_lone_array_is_a_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path, BEST, jnp.eye(3), {})
    assert_same(load_model(folder, jnp.zeros((3, 3))), jnp.eye(3))


def test_new_best_replaces_the_old_one(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        save_model(tmp_path, BEST, acting(seed), {"score": seed})
    assert_same(load_model(tmp_path / BEST, acting(0)), acting(3))
    assert read_info(tmp_path / BEST)["score"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_kill_between_the_two_renames_leaves_the_old_model(tmp_path: Path) -> None:
    save_model(tmp_path, BEST, acting(1), {"score": 1})
    os.replace(tmp_path / "best", tmp_path / ".best.old")  # where a kill in mid-replacement leaves it
    assert_same(load_model(tmp_path / BEST, acting(0)), acting(1))
    save_model(tmp_path, BEST, acting(2), {"score": 2})
    assert_same(load_model(tmp_path / BEST, acting(0)), acting(2))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_failed_write_leaves_the_old_model(tmp_path: Path) -> None:
    save_model(tmp_path, BEST, np.arange(10.0), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot save the model in .*: File too large") as error:
            save_model(tmp_path, BEST, np.random.default_rng(0).random(100_000), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert_same(load_model(tmp_path / BEST, np.zeros(10)), np.arange(10.0))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"w": np.zeros((6, 3))}, r"'acting/w' is float64\[4,3\] there and float64\[6,3\] here"),
        ({"w": np.zeros((4, 3), np.float32)}, r"'acting/w' is float64\[4,3\] there and float32\[4,3\] here"),
        ({"w": np.zeros((4, 3)), "b": np.zeros(3)}, "has no 'acting/b'"),
        ({}, "has 'acting/w', which is not wanted"),
    ],
)
def test_model_that_does_not_fit_names_the_leaf(tmp_path: Path, template: Any, message: str) -> None:
    folder = save_model(tmp_path, BEST, {"w": np.zeros((4, 3))}, {})
    with pytest.raises(ValueError, match=message) as error:
        load_model(folder, template)
    assert "\n" not in str(error.value)


def test_missing_model_names_those_there_are(tmp_path: Path) -> None:
    save_model(tmp_path, FINAL, acting(1), {})
    with pytest.raises(ValueError, match=r"there is no model in .*best; there is final"):
        load_model(tmp_path / BEST, acting(0))
    with pytest.raises(ValueError, match="there is no model in"):
        read_info(tmp_path / "elsewhere/best")


def damage_json(folder: Path) -> None:
    os.truncate(folder / "model.json", 20)


def remove_leaf_table(folder: Path) -> None:
    (folder / "model.json").write_text("{}")


def truncate_params(folder: Path) -> None:
    os.truncate(folder / "params.npz", 300)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "params.npz").read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 1
    (folder / "params.npz").write_bytes(content)


def remove_params(folder: Path) -> None:
    (folder / "params.npz").unlink()


def put_a_pickle(folder: Path) -> None:
    np.savez(folder / "params.npz", **{"acting/w": np.array([{"a": 1}], dtype=object)})


def drop_a_leaf(folder: Path) -> None:
    with zipfile.ZipFile(folder / "params.npz", "w"):
        pass


@pytest.mark.parametrize(
    "damage",
    [damage_json, remove_leaf_table, truncate_params, flip_a_bit, remove_params, put_a_pickle, drop_a_leaf],
    ids=lambda f: f.__name__,
)
def test_damaged_model_is_one_line(tmp_path: Path, damage: Any) -> None:
    folder = save_model(tmp_path, BEST, {"w": np.zeros((40, 30))}, {})
    damage(folder)
    with pytest.raises(ValueError, match=r"model .*best: (model.json|params.npz) ") as error:
        load_model(folder, {"w": np.zeros((40, 30))})
    assert "\n" not in str(error.value)


def test_description_is_strict_json(tmp_path: Path) -> None:
    folder = save_model(tmp_path, BEST, np.zeros(1), {"score": float("nan"), "function": print})
    content = json.loads((folder / "model.json").read_text(), parse_constant=pytest.fail)
    assert content["score"] is None and "function" not in content
