"""Datasets: both layouts, what is read back, continuing after a kill, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from representations.dataset import JpegFrames, load_dataset, write_picture
from representations.dataset_tools import merge, to_relative
from representations.dataset_writer import DatasetWriter

CONFIG = {
    "env_id": "MobileRobotGymEnv-v0",
    "image_size": 16,
    "channels": 3,
    "num_actions": 4,
    "relative_pos": True,
    "max_distance": None,
}
PLAN = {"seed": 3, "num_episode": 3}


def episode(number: int, length: int = 5, channels: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(number)
    smooth = np.linspace(0, 200, 16 * 16 * channels).reshape(16, 16, channels)
    return {
        "frames": (smooth[None] + random.integers(0, 50, (length, 1, 1, channels))).astype(np.uint8),
        "actions": random.integers(0, 4, length),
        "rewards": random.normal(size=length).astype(np.float32),
        "ground_truth": random.normal(size=(length, 2)).astype(np.float32),
        "target": random.normal(size=2).astype(np.float32),
    }


def write(folder, layout="compact", lengths=(5, 3, 4), config=CONFIG, **options):
    writer = DatasetWriter(folder, config, PLAN, layout, **options)
    for number in range(writer.episodes, len(lengths)):
        writer.add_episode(**episode(number, lengths[number], config["channels"]))
        writer.flush()
    writer.seal()
    return load_dataset(folder)


@pytest.mark.parametrize("layout", ["compact", "original"])
@pytest.mark.parametrize("channels", [3, 6])
def test_what_is_written_is_read(tmp_path, layout, channels):
    dataset = write(tmp_path / "set", layout, config={**CONFIG, "channels": channels})
    parts = [episode(i, n, channels) for i, n in enumerate((5, 3, 4))]
    assert dataset.name == "set" and dataset.config == {**CONFIG, "channels": channels}
    assert dataset.frames.shape == (12, 16, 16, channels) and dataset.frames.dtype == np.uint8
    frames = np.concatenate([part["frames"] for part in parts]).astype(int)
    assert np.abs(np.asarray(dataset.frames[:]).astype(int) - frames).mean() < (0.01 if layout == "compact" else 4)
    for name in ("actions", "rewards", "ground_truth"):
        np.testing.assert_array_equal(getattr(dataset, name), np.concatenate([part[name] for part in parts]))
    np.testing.assert_array_equal(np.flatnonzero(dataset.episode_starts), [0, 5, 8])
    np.testing.assert_array_equal(dataset.targets, [part["target"] for part in parts])
    expected = np.concatenate([part["ground_truth"] - part["target"] for part in parts])
    np.testing.assert_array_equal(dataset.true_states(), expected)
    assert isinstance(dataset.frames, np.memmap if layout == "compact" else JpegFrames)


def test_only_axes_with_a_target_are_relative(tmp_path):
    writer = DatasetWriter(tmp_path / "set", CONFIG, PLAN)
    writer.add_episode(**{**episode(0), "target": np.array([2.0])})
    writer.seal()
    states, truth = load_dataset(tmp_path / "set").true_states(), episode(0)["ground_truth"]
    np.testing.assert_array_equal(states, truth - np.array([2.0, 0.0], np.float32))


def test_pictures_in_files_are_indexed_like_an_array(tmp_path):
    frames = write(tmp_path / "set", "original").frames
    whole = np.asarray(frames)
    for index in (3, -1, slice(2, 9, 3), np.array([7, 0, 7]), np.array([[1, 2], [3, 4]]), (2, 0), (slice(4), 3, 4, 1)):
        np.testing.assert_array_equal(frames[index], whole[index])
    with pytest.raises(IndexError):
        frames[12]


def test_a_dataset_of_the_original_is_read(tmp_path):
    """Written here as the original writes it, aliases and byte strings of its older versions included."""
    folder = tmp_path / "moved"
    (folder / "record_000").mkdir(parents=True)
    (folder / "record_001").mkdir()
    names = [f"old_name/record_{e:03d}/frame{t:06d}" for e in range(2) for t in range(3)]
    for name in names:
        write_picture(folder / f"{'/'.join(name.split('/')[1:])}.jpg", episode(0)["frames"][0])
    (folder / "dataset_config.json").write_text(json.dumps({"relative_pos": True, "max_dist": "0.28"}))
    starts = np.array([True, False, False] * 2)
    np.savez(folder / "preprocessed_data.npz", actions=np.arange(6), rewards=np.zeros(6, int), episode_starts=starts)
    states = np.arange(18.0).reshape(6, 3)
    np.savez(
        folder / "ground_truth.npz",
        arm_states=states,
        button_positions=np.ones((1, 3)),
        images_path=np.array([name.encode() for name in names]),
    )
    dataset = load_dataset(folder)
    assert dataset.config == {
        "env_id": "",
        "image_size": 16,
        "channels": 3,
        "num_actions": 6,
        "relative_pos": True,
        "max_distance": 0.28,
    }
    np.testing.assert_array_equal(dataset.true_states(), states - 1)
    (folder / "record_001" / "frame000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 pictures are missing, record_001/frame000001\.jpg first"):
        load_dataset(folder)


@pytest.mark.parametrize("layout", ["compact", "original"])
def test_a_killed_writer_is_continued(tmp_path, layout):
    whole = write(tmp_path / "whole", layout)
    writer = DatasetWriter(tmp_path / "set", CONFIG, PLAN, layout)
    writer.add_episode(**episode(0, 5))
    writer.flush()
    writer.add_episode(**episode(9, 7))  # reaches the disk in part, but not the record of progress
    for file in writer._files.values():
        file.flush()
    with pytest.raises(ValueError, match="not complete, it has 1 episodes"):
        load_dataset(tmp_path / "set")
    dataset = write(tmp_path / "set", layout)
    for name in ("frames", "actions", "rewards", "ground_truth", "targets", "episode_starts"):
        np.testing.assert_array_equal(np.asarray(getattr(dataset, name)), np.asarray(getattr(whole, name)))
    assert {path.name for path in (tmp_path / "set").iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_what_is_there_is_not_overwritten(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(ValueError, match="exists already"):
        DatasetWriter(tmp_path / "set", CONFIG, PLAN)
    assert len(write(tmp_path / "set", lengths=(2,), overwrite=True)) == 2
    DatasetWriter(tmp_path / "begun", CONFIG, PLAN).close()
    with pytest.raises(ValueError, match="was begun with seed 3, not 4"):
        DatasetWriter(tmp_path / "begun", CONFIG, {**PLAN, "seed": 4})


@pytest.mark.parametrize("layout", ["compact", "original"])
def test_damaged_datasets_are_refused(tmp_path, layout):
    good = write(tmp_path / "good", layout).folder
    for path in sorted(good.glob("*.np?")):
        bad = tmp_path / f"bad_{path.name}"
        shutil.copytree(good, bad)
        (bad / path.name).write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r"truncated|damaged") as caught:
            load_dataset(bad)
        assert "\n" not in str(caught.value) and path.name in str(caught.value)
    damaged = tmp_path / "flipped"
    shutil.copytree(good, damaged)
    victim = next(iter(sorted(damaged.glob("r*.npy" if layout == "compact" else "p*.npz"))))
    content = bytearray(victim.read_bytes())
    content[-3 if layout == "compact" else 200] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_dataset(damaged)


def test_what_is_no_dataset_is_refused(tmp_path):
    write(tmp_path / "good")
    with pytest.raises(ValueError, match=r"no such folder; in .* there are good"):
        load_dataset(tmp_path / "missing")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="it is no dataset"):
        load_dataset(tmp_path / "other")
    (tmp_path / "good" / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="version"):
        load_dataset(tmp_path / "good")


def test_what_the_original_reads_has_its_types(tmp_path):
    folder = write(tmp_path / "set", "original").folder
    with np.load(folder / "preprocessed_data.npz") as stored:
        # PyTorch's cross entropy takes classes as 64-bit integers only, and the original passes them on as they are.
        assert stored["actions"].dtype == np.int64 and stored["rewards"].dtype == np.float32
    assert load_dataset(folder).actions.dtype == np.int32


def test_an_interrupted_merge_goes_on_where_it_was(tmp_path):
    first = write(tmp_path / "a", lengths=(5, 3))
    second = write(tmp_path / "b", "original", lengths=(5, 3, 4))
    whole = merge([first.folder, second.folder], tmp_path / "whole")
    picture = second.folder / "record_001" / "frame000002.jpg"
    good = picture.read_bytes()
    picture.write_bytes(good[:100])
    with pytest.raises(ValueError, match=r"frame000002\.jpg is missing or damaged"):
        merge([first.folder, second.folder], tmp_path / "cut")
    picture.write_bytes(good)
    again = merge([first.folder, second.folder], tmp_path / "cut")
    for name in ("frames", "actions", "rewards", "ground_truth", "targets", "episode_starts"):
        np.testing.assert_array_equal(np.asarray(getattr(again, name)), np.asarray(getattr(whole, name)))
    with pytest.raises(ValueError, match=r"cut exists already: choose another folder$"):
        merge([first.folder, second.folder], tmp_path / "cut")


@pytest.mark.parametrize("layout", ["compact", "original"])
def test_targets_are_subtracted_once(tmp_path, layout):
    relative = to_relative(write(tmp_path / "a").folder, tmp_path / "b", layout)
    twice = merge([relative.folder, relative.folder], tmp_path / "c", layout)
    for dataset in (relative, twice):
        with pytest.raises(ValueError, match="are relative to the target already"):
            to_relative(dataset.folder, tmp_path / "d")
    assert not (tmp_path / "d").exists()
