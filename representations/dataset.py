"""Recorded episodes on disk, as state representations are learned from them.

A dataset is a folder in one of two layouts:

- compact (the default): one `.npy` file per array, memory-mapped, and `dataset.json`, which says what they are;
- original: that of the S-RL Toolbox, `record_xxx/frameyyyyyy.jpg` (`_1`, `_2` where there are two views) with
  `preprocessed_data.npz`, `ground_truth.npz` and `dataset_config.json`.

Row t holds frame t, the true position there, the action that was taken there and the reward of that action. The frame
after the last action of an episode is not kept.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from launch.runtime.files import read_json, size

SEAL_FILE, PROGRESS_FILE, ORIGINAL_CONFIG = "dataset.json", "progress.json", "dataset_config.json"
PREPROCESSED, GROUND_TRUTH = "preprocessed_data.npz", "ground_truth.npz"
FRAMES = "frames"
SMALL_ARRAYS = ("actions", "rewards", "episode_starts", "ground_truth", "targets")
CONFIG_KEYS = ("env_id", "image_size", "channels", "num_actions", "relative_pos", "max_distance")
VERSION = 1
_THREADS = 4  # that decode JPEG files
# Names of older datasets of the original.
_ALIASES = {"ground_truth_states": "arm_states", "target_positions": "button_positions"}


@dataclass(frozen=True)
class Dataset:
    """T frames of some episodes.

    Attributes:
        name: Name of the folder.
        folder: Where it is.
        frames: uint8 [T, H, W, C], a memory map or a `JpegFrames`; C is 3 for each view.
        actions: int32 [T], or float32 [T, A] where they are continuous.
        rewards: float32 [T], of the action of the same row.
        episode_starts: bool [T].
        ground_truth: float32 [T, d], true position (m), not relative to anything.
        targets: float32 [episodes, d_t], target of each episode (m), at its start.
        config: `CONFIG_KEYS`: `env_id` ("" where unknown), `image_size` (pixels), `channels`, `num_actions` (0 where
            actions are continuous), `relative_pos` (whether states are relative to the target), `max_distance` (m, or
            None).
    """

    name: str
    folder: Path
    frames: Any
    actions: np.ndarray
    rewards: np.ndarray
    episode_starts: np.ndarray
    ground_truth: np.ndarray
    targets: np.ndarray
    config: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rewards)

    @cached_property
    def episodes(self) -> np.ndarray:
        """Number of the episode of each frame, int64 [T]."""
        return np.cumsum(self.episode_starts) - 1

    def true_targets(self) -> np.ndarray:
        """Target of each frame (m), float32 [T, d_t]."""
        return self.targets[self.episodes]

    def true_states(self) -> np.ndarray:
        """True positions (m), float32 [T, d], relative to the target on its axes where `relative_pos` says so."""
        states = np.array(self.ground_truth, np.float32)
        if self.config["relative_pos"]:
            states[:, : self.targets.shape[1]] -= self.true_targets()
        return states


class PictureError(ValueError):
    """A picture of a dataset is missing, damaged or of another size than the others."""


class JpegFrames:
    """Pictures in files, decoded when they are asked for; indexed like an array [T, H, W, C].

    Args:
        paths: Files of each frame, one for each view.
        size: Height and width in pixels.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, paths: Sequence[tuple[Path, ...]], size: tuple[int, int]) -> None:
        self._paths = list(paths)
        self.shape = (len(self._paths), *size, 3 * len(self._paths[0]))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            rows, *rest = index
            rest = rest if isinstance(rows, int | np.integer) else [slice(None), *rest]
            return self[rows][tuple(rest)]
        chosen = np.arange(len(self))[index]
        if np.ndim(chosen) == 0:
            return self._decode(int(chosen))
        frames = np.empty((*chosen.shape, *self.shape[1:]), np.uint8)
        flat = frames.reshape(-1, *self.shape[1:])

        def fill(row: int) -> None:
            flat[row] = self._decode(int(chosen.flat[row]))

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(fill, range(chosen.size)))
        return frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _decode(self, row: int) -> np.ndarray:
        views = [read_picture(path) for path in self._paths[row]]
        frame = np.concatenate(views, axis=-1)
        if frame.shape != self.shape[1:]:
            raise PictureError(f"picture {self._paths[row][0]} is {frame.shape}, the first one is {self.shape[1:]}")
        return frame


def read_picture(path: Path) -> np.ndarray:
    """Read a picture file, uint8 [H, W, 3].

    Raises:
        PictureError: It is missing or damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError(f"picture {path} is missing or damaged ({type(error).__name__})") from None


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as JPEG, with the quality of OpenCV's default, which the original used."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(picture)).save(path, quality=95)


def load_dataset(folder: str | Path) -> Dataset:
    """Open a dataset of either layout; pictures are read when they are used.

    Raises:
        ValueError: There is none, it is incomplete, damaged, or something else.
    """
    folder = Path(folder)
    what = f"dataset {folder}"
    if not folder.is_dir():
        raise ValueError(f"{what}: there is no such folder{_neighbours(folder)}")
    if (folder / PROGRESS_FILE).is_file():
        done = read_json(folder / PROGRESS_FILE, what).get("episodes", 0)
        raise ValueError(f"{what} is not complete, it has {done} episodes: repeat the command that generates it")
    if (folder / SEAL_FILE).is_file():
        seal = read_json(folder / SEAL_FILE, what)
        if seal.get("version") != VERSION or not isinstance(seal.get("config"), dict):
            raise ValueError(f"{what}: {SEAL_FILE} is not of version {VERSION} of this format")
        dataset = _original(folder, seal) if seal.get("format") == "original" else _compact(folder, seal)
    elif (folder / PREPROCESSED).is_file() or (folder / GROUND_TRUTH).is_file():
        dataset = _original(folder, None)
    else:
        raise ValueError(f"{what} has neither {SEAL_FILE} nor {PREPROCESSED}: it is no dataset")
    _check(dataset, what)
    return dataset


def _neighbours(folder: Path) -> str:
    """Which datasets there are beside a folder that does not exist."""
    if not folder.parent.is_dir():
        return ""
    names = sorted(
        path.name for path in folder.parent.iterdir() if (path / SEAL_FILE).is_file() or (path / PREPROCESSED).is_file()
    )
    return f"; in {folder.parent} there are {', '.join(names[:8])}" if names else ""


def _compact(folder: Path, seal: dict[str, Any]) -> Dataset:
    """Map the arrays of a sealed folder."""
    arrays = {}
    for name in (FRAMES, *SMALL_ARRAYS):
        path, sealed = folder / f"{name}.npy", seal.get("files", {}).get(name, {})
        if size(path) != sealed.get("bytes") or not path.is_file():
            raise ValueError(
                f"dataset {folder}: {path.name} has {size(path)} bytes, {SEAL_FILE} says {sealed.get('bytes')}: "
                "it is truncated or was replaced"
            )
        if name != FRAMES and zlib.crc32(path.read_bytes()) != sealed.get("crc32"):
            raise ValueError(f"dataset {folder}: {path.name} is damaged (its checksum is wrong)")
        try:
            arrays[name] = np.load(path, mmap_mode="r" if name == FRAMES else None, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"dataset {folder}: {path.name} is damaged ({type(error).__name__})") from None
    return Dataset(folder.resolve().name, folder, arrays.pop(FRAMES), **arrays, config=_config(folder, seal["config"]))


def _config(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    missing = [key for key in CONFIG_KEYS if key not in given]
    if missing:
        raise ValueError(f"dataset {folder}: {SEAL_FILE} does not tell {', '.join(missing)}")
    return {key: given[key] for key in CONFIG_KEYS}


def _original(folder: Path, seal: dict[str, Any] | None) -> Dataset:
    """Read the original's layout; `seal` where this toolbox has written it."""
    training, truth = _read_npz(folder / PREPROCESSED), _read_npz(folder / GROUND_TRUTH)
    actions, rewards, starts = (_entry(training, name, folder) for name in ("actions", "rewards", "episode_starts"))
    states, targets, images = (
        _entry(truth, name, folder) for name in ("ground_truth_states", "target_positions", "images_path")
    )
    discrete = actions.ndim == 1 and np.issubdtype(actions.dtype, np.integer)
    starts = starts.astype(bool)
    targets = np.asarray(targets, np.float32).reshape(len(targets), -1)
    if len(targets) == 1:  # older datasets hold a fixed target once
        targets = np.repeat(targets, int(starts.sum()), axis=0)
    paths = _picture_paths(folder, images)
    height, width = read_picture(paths[0][0]).shape[:2]
    stated = read_json(folder / ORIGINAL_CONFIG, f"dataset {folder}")
    distance = stated.get("max_dist")
    config = {
        "env_id": "",
        "image_size": int(height),
        "channels": 3 * len(paths[0]),
        "num_actions": int(actions.max()) + 1 if discrete and len(actions) else 0,
        "relative_pos": bool(stated.get("relative_pos", False)),
        "max_distance": None if distance in (None, "None") else float(distance),
    }
    if seal is not None:
        config = _config(folder, seal["config"])
    return Dataset(
        folder.resolve().name,
        folder,
        JpegFrames(paths, (height, width)),
        actions.astype(np.int32) if discrete else np.asarray(actions, np.float32).reshape(len(actions), -1),
        np.asarray(rewards, np.float32),
        starts,
        np.asarray(states, np.float32).reshape(len(states), -1),
        targets,
        config,
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise ValueError(f"dataset {path.parent}: {path.name} is missing") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"dataset {path.parent}: {path.name} is truncated or damaged ({type(error).__name__})"
        ) from None


def _entry(arrays: dict[str, np.ndarray], name: str, folder: Path) -> np.ndarray:
    for key in (name, _ALIASES.get(name, name)):
        if key in arrays:
            return arrays[key]
    raise ValueError(f"dataset {folder} has no {name}: it is no dataset of the S-RL Toolbox")


def _picture_paths(folder: Path, images: np.ndarray) -> list[tuple[Path, ...]]:
    """Files of each frame; the original names them `<dataset>/record_xxx/frameyyyyyy`, without an extension.

    What stands before the record is ignored, so that a dataset may be moved or renamed.
    """
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in images.tolist()]
    stems = [re.sub(r"\.jpe?g$", "", "/".join(Path(name).parts[-2:])) for name in names]
    if not stems:
        raise ValueError(f"dataset {folder} has no frames")
    there = {
        f"{record.name}/{path.name}"
        for record in folder.glob("record_*")
        for path in record.iterdir()
        if path.is_file()
    }
    views: tuple[str, ...] = ("_1", "_2") if f"{stems[0]}_1.jpg" in there else ("",)
    lost = [name for stem in stems for view in views if (name := f"{stem}{view}.jpg") not in there]
    if lost:
        raise ValueError(f"dataset {folder}: {len(lost)} of {len(stems)} pictures are missing, {lost[0]} first")
    return [tuple(folder / f"{stem}{view}.jpg" for view in views) for stem in stems]


def _check(dataset: Dataset, what: str) -> None:
    """Refuse arrays that do not belong together."""
    count = len(dataset.frames)
    for name in ("actions", "rewards", "episode_starts", "ground_truth"):
        if len(getattr(dataset, name)) != count:
            raise ValueError(f"{what} has {count} frames but {len(getattr(dataset, name))} {name}: it is damaged")
    if count == 0:
        raise ValueError(f"{what} has no frames")
    height, width, channels = dataset.frames.shape[1:]
    if height != width or channels % 3:
        raise ValueError(
            f"{what}: its pictures are {height}x{width}x{channels}; square ones with 3 channels a view are known"
        )
    if (dataset.config["image_size"], dataset.config["channels"]) != (height, channels):
        raise ValueError(f"{what}: its pictures are not as {SEAL_FILE} says")
    episodes = int(dataset.episode_starts.sum())
    if not dataset.episode_starts[0] or episodes != len(dataset.targets):
        raise ValueError(f"{what} has {episodes} episodes but {len(dataset.targets)} targets: it is damaged")
    if dataset.targets.shape[1] > dataset.ground_truth.shape[1]:
        raise ValueError(f"{what}: its targets have more axes than its positions")
