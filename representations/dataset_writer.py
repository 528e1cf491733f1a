"""Writing a dataset episode by episode, so that a killed generator can go on where it was."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from launch.runtime.files import json_safe, read_json, size, write_json
from representations.dataset import (
    CONFIG_KEYS,
    FRAMES,
    GROUND_TRUTH,
    ORIGINAL_CONFIG,
    PREPROCESSED,
    PROGRESS_FILE,
    SEAL_FILE,
    SMALL_ARRAYS,
    VERSION,
    write_picture,
)

FORMATS = ("compact", "original")
GLOBALS_FILE = "env_globals.json"
FORCE = "choose another --name, or --force to replace it"  # advice of the generator
_TYPES = {"rewards": np.float32, "episode_starts": np.bool_, "ground_truth": np.float32, "targets": np.float32}


class DatasetWriter:
    """Appends whole episodes; what is complete on disk is told by `progress.json`, whose last state a crash leaves.

    Without an earlier state the folder is made; with one, what came after it is cut off and writing goes on. `seal`
    completes the dataset, before that nothing reads it.

    Args:
        folder: Folder of the dataset.
        config: `dataset.CONFIG_KEYS`.
        plan: How the episodes are generated; a dataset under way is only continued with the same plan.
        layout: "compact" or "original".
        constants: What `env_globals.json` is to hold.
        overwrite: Delete what is in the folder.
        advice: What to do where the folder cannot be used, at the end of the message.

    Raises:
        ValueError: The folder holds something else, a complete dataset, or one that was begun with another plan.
        OSError: It cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        plan: Mapping[str, Any],
        layout: str = "compact",
        constants: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        advice: str = FORCE,
    ) -> None:
        self.folder, self._layout = Path(folder), layout
        self._config = {key: config[key] for key in CONFIG_KEYS}
        self._header = json_safe({"format": layout, "config": self._config, "plan": dict(plan)})
        self.episodes, self.rows = 0, 0
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}  # of one row of each array
        if overwrite and self.folder.exists():
            shutil.rmtree(self.folder)
        check_folder(self.folder, self._header, advice)
        if (self.folder / PROGRESS_FILE).is_file():
            progress = read_json(self.folder / PROGRESS_FILE, f"dataset {self.folder}")
            self.episodes, self.rows = int(progress["episodes"]), int(progress["rows"])
            self._shapes = {name: (tuple(shape), np.dtype(kind)) for name, (shape, kind) in progress["rows_of"].items()}
        else:
            self.folder.mkdir(parents=True)
            self._tell_progress()
            if constants is not None:
                write_json(self.folder / GLOBALS_FILE, constants)
        self._files: dict[str, BinaryIO] = {}
        for name in self._shapes:
            self._open(name)
        if layout == "original":
            self._drop_records()

    def add_episode(self, frames: Any, actions: Any, rewards: Any, ground_truth: Any, target: Any) -> None:
        """Append one episode of n frames.

        Args:
            frames: uint8 [n, H, W, C].
            actions: [n] integers or [n, A].
            rewards: [n].
            ground_truth: [n, d] (m).
            target: [d_t] (m), at the start of the episode.

        Raises:
            OSError: The disk is full; the episode is not part of the dataset.
        """
        count = len(frames)
        starts = np.zeros(count, bool)
        starts[0] = True
        discrete = self._config["num_actions"] > 0
        rows: dict[str, np.ndarray] = {
            FRAMES: np.asarray(frames, np.uint8),
            "actions": np.asarray(actions, np.int32 if discrete else np.float32),
            "rewards": np.asarray(rewards),
            "episode_starts": starts,
            "ground_truth": np.asarray(ground_truth),
            "targets": np.asarray(target)[None],
        }
        for name, values in rows.items():
            values = np.ascontiguousarray(values, _TYPES.get(name, values.dtype))
            if name == FRAMES and self._layout == "original":
                self._write_record(values)
                continue
            if name not in self._shapes:
                self._shapes[name] = (values.shape[1:], values.dtype)
                self._open(name)
            if (values.shape[1:], values.dtype) != self._shapes[name]:
                raise ValueError(f"{name} of this episode are {values.shape[1:]}, of the first {self._shapes[name][0]}")
            self._files[name].write(values.data)
        self.episodes += 1
        self.rows += count

    def flush(self) -> None:
        """Make what was added since the last call part of the dataset, whatever happens."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._tell_progress()

    def seal(self) -> None:
        """Complete the dataset.

        Raises:
            ValueError: It has no episodes.
        """
        if not self.episodes:
            raise ValueError(f"dataset {self.folder} would have no frames")
        self.flush()
        for name, file in self._files.items():
            self._write_header(name, file)
            file.flush()
            os.fsync(file.fileno())
        self.close()
        sealed = {}
        if self._layout == "original":
            self._write_original()
        else:
            for name in (FRAMES, *SMALL_ARRAYS):
                path = self.folder / f"{name}.npy"
                sealed[name] = {"bytes": size(path)}
                if name != FRAMES:
                    sealed[name]["crc32"] = zlib.crc32(path.read_bytes())
        counts = {"version": VERSION, "episodes": self.episodes, "frames": self.rows, "files": sealed}
        write_json(self.folder / SEAL_FILE, {**self._header, **counts})
        (self.folder / PROGRESS_FILE).unlink()
        if self._layout == "original":
            for name in SMALL_ARRAYS:
                (self.folder / f"{name}.npy").unlink()

    def close(self) -> None:
        """Close the files; a dataset that is not sealed can be continued."""
        for file in self._files.values():
            file.close()

    def _tell_progress(self) -> None:
        shapes = {name: [list(shape), kind.str] for name, (shape, kind) in self._shapes.items()}
        counts = {"episodes": self.episodes, "rows": self.rows, "rows_of": shapes}
        write_json(self.folder / PROGRESS_FILE, {**self._header, **counts})

    def _open(self, name: str) -> None:
        """Open the file of an array behind the rows that are part of the dataset."""
        path = self.folder / f"{name}.npy"
        file = path.open("r+b" if path.exists() else "w+b")
        start = self._write_header(name, file)
        shape, kind = self._shapes[name]
        length = start + self._rows_of(name) * int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if path.stat().st_size < length:
            raise ValueError(f"dataset {self.folder}: {path.name} has lost rows; --force begins it anew")
        file.truncate(length)
        file.seek(length)
        self._files[name] = file

    def _rows_of(self, name: str) -> int:
        return self.episodes if name == "targets" else self.rows

    def _write_header(self, name: str, file: BinaryIO) -> int:
        """Write the file's header, whose length does not depend on the number of rows; returns that length."""
        shape, kind = self._shapes[name]
        file.seek(0)
        header = {"descr": kind.str, "fortran_order": False, "shape": (self._rows_of(name), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        return file.tell()

    def _write_record(self, frames: np.ndarray) -> None:
        """Write the pictures of an episode as the original does."""
        record = self.folder / f"record_{self.episodes:03d}"
        record.mkdir(exist_ok=True)
        views = frames.shape[-1] // 3
        for step, frame in enumerate(frames):
            for view in range(views):
                suffix = "" if views == 1 else f"_{view + 1}"
                write_picture(record / f"frame{step:06d}{suffix}.jpg", frame[..., 3 * view : 3 * view + 3])

    def _drop_records(self) -> None:
        """Delete the pictures of episodes that were not completed."""
        for record in self.folder.glob("record_*"):
            if int(record.name.removeprefix("record_")) >= self.episodes:
                shutil.rmtree(record)

    def _write_original(self) -> None:
        """Turn the arrays into the two archives of the original."""
        arrays = {name: np.load(self.folder / f"{name}.npy") for name in SMALL_ARRAYS}
        starts = np.flatnonzero(arrays["episode_starts"])
        lengths = np.diff([*starts, self.rows])
        name = self.folder.resolve().name
        paths = [f"{name}/record_{i:03d}/frame{t:06d}" for i, length in enumerate(lengths) for t in range(length)]
        training = {key: arrays[key] for key in ("actions", "rewards", "episode_starts")}
        if self._config["num_actions"] > 0:
            training["actions"] = training["actions"].astype(np.int64)  # as PyTorch wants the classes of a loss
        np.savez(self.folder / PREPROCESSED, **training)
        np.savez(
            self.folder / GROUND_TRUTH,
            ground_truth_states=arrays["ground_truth"],
            target_positions=arrays["targets"],
            images_path=np.array(paths),
        )
        described = {"relative_pos": self._config["relative_pos"], "max_dist": str(self._config["max_distance"])}
        write_json(self.folder / ORIGINAL_CONFIG, described)


def check_folder(folder: Path, header: Mapping[str, Any] | None = None, advice: str = FORCE) -> None:
    """Refuse a folder that a new dataset must not take, or one under way that was begun with another plan.

    Args:
        folder: Folder of the dataset.
        header: Format, configuration and plan of the dataset that is to be written; None where they are not known yet.
        advice: What to do then, at the end of the message.

    Raises:
        ValueError: Something else is there.
    """
    if (folder / PROGRESS_FILE).is_file():
        found = read_json(folder / PROGRESS_FILE, f"dataset {folder}")
        for part, wanted in (header or {}).items():
            if found.get(part) != wanted:
                found_part = _difference(found.get(part), wanted, part)
                raise ValueError(
                    f"dataset {folder} was begun with {found_part}: give the same flags to continue it, or {advice}"
                )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already: {advice}")
    elif folder.exists():
        folder.rmdir()


def _difference(found: Any, wanted: Any, part: str) -> str:
    """Where two values differ first."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            if found.get(key) != wanted[key]:
                return f"{key} {found.get(key)}, not {wanted[key]}"
    return f"{part} {found}, not {wanted}"
