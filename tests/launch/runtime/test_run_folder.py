"""The run folder: its shape, its two files, and one clear line for everything that is not one."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from launch.runtime.run_folder import check_log_dir, compare_args, create_run_folder, read_run

WHEN = datetime(2026, 3, 7, 9, 5, 1)


def create(log_dir: Path, args: dict | None = None, env_id: str = "CartPole-v1") -> Path:
    return create_run_folder(log_dir, env_id, "ground_truth", "ppo2", args or {"seed": 0}, {"MAX_STEPS": 5}, WHEN)


def one_line(error: pytest.ExceptionInfo[ValueError]) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def test_folder_has_the_documented_shape(tmp_path: Path) -> None:
    folder = create(tmp_path / "logs")
    assert folder == tmp_path / "logs/CartPole-v1/ground_truth/ppo2/26-03-07_09h05_01"
    assert sorted(path.name for path in folder.iterdir()) == ["args.json", "env_globals.json"]


def test_slash_in_the_environment_id_makes_no_level(tmp_path: Path) -> None:
    assert create(tmp_path, env_id="brax/ant").relative_to(tmp_path).parts[0] == "brax-ant"
    with pytest.raises(ValueError, match="cannot name a folder"):
        create(tmp_path, env_id="..")


def test_runs_of_the_same_second_get_their_own_folders(tmp_path: Path) -> None:
    names = [create(tmp_path).name for _ in range(3)]
    assert names == ["26-03-07_09h05_01", "26-03-07_09h05_01_1", "26-03-07_09h05_01_2"]


def test_files_hold_the_json_safe_entries_sorted(tmp_path: Path) -> None:
    args = {"z": (1, 2.5), "a": np.float32(0.5), "function": print, "mixed": [1, print], "nan": float("nan"), "n": None}
    folder = create(tmp_path, args)
    text = (folder / "args.json").read_text()
    assert json.loads(text) == {"a": 0.5, "n": None, "nan": None, "z": [1, 2.5]}
    assert list(json.loads(text)) == ["a", "n", "nan", "z"]
    assert read_run(folder).args == json.loads(text)
    assert read_run(folder).env_globals == {"MAX_STEPS": 5}


def test_log_dir_that_is_a_file_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for log_dir in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ValueError) as error:
            create(log_dir)
        assert f"{tmp_path / 'file'} is a file" in one_line(error)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_log_dir_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError) as error:
        check_log_dir(tmp_path / "logs")
    assert "no permission" in one_line(error)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses new folders")
def test_file_system_that_refuses_new_folders_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        create(Path("/proc/self/logs"))
    assert "--log-dir /proc/self/logs cannot be written" in one_line(error)


def test_folders_made_before_a_failure_are_removed(tmp_path: Path) -> None:
    too_long = "x" * 300
    with pytest.raises(ValueError) as error:
        create_run_folder(tmp_path / "logs", "CartPole-v1", "ground_truth", too_long, {}, {})
    assert "cannot be written" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_run_folder_is_named(tmp_path: Path) -> None:
    folder = create(tmp_path / "logs")
    with pytest.raises(ValueError) as error:
        read_run(tmp_path / "logs/CartPole-v1")
    assert "args.json is missing" in one_line(error) and str(folder) in str(error.value)
    with pytest.raises(ValueError) as error:
        read_run(folder.parent / "26-01-01_00h00_00")
    assert "does not exist" in one_line(error) and str(folder) in str(error.value)
    with pytest.raises(ValueError) as error:
        read_run(folder / "args.json")
    assert "is a file" in one_line(error)


@pytest.mark.parametrize("name", ["args.json", "env_globals.json"])
def test_truncated_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = create(tmp_path)
    text = (folder / name).read_text()
    for content in (text[: len(text) // 2], "", "[1]", "\x00\xff"):
        (folder / name).write_text(content)
        with pytest.raises(ValueError) as error:
            read_run(folder)
        assert name in one_line(error)
    (folder / name).unlink()
    with pytest.raises(ValueError) as error:
        read_run(folder)
    assert f"{name} is missing" in one_line(error)


def test_resume_with_other_flags_names_the_first(tmp_path: Path) -> None:
    given = {"seed": 1, "learning_rate": 0.1, "hyperparam": ("a:1", "b:2"), "resume": "logs/x"}
    saved = read_run(create(tmp_path, given | {"resume": None, "num_seeds": 3})).args
    compare_args(saved, given, ignore=["resume"])
    with pytest.raises(ValueError, match=r"--learning-rate was 0.1 there, 0.2 is given now"):
        compare_args(saved, given | {"learning_rate": 0.2, "seed": 2}, ignore=["resume"])
    with pytest.raises(ValueError, match=r"--clip was not a flag there, 0.2"):
        compare_args(saved, {"clip": 0.2})
