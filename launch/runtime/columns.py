"""What each of many runs recorded, in one file: `runs.npz`, a column per metric instead of a folder per run."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launch.runtime import files

RUNS_FILE = "runs.npz"
LABEL, STEP = "label", "/step"
# What numpy raises of an .npz file with wrong bytes in it, by where they are. RuntimeError: an archive that claims to
# be encrypted, or packed in an unknown way.
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


class Columns:
    """Metrics of K runs over time.

    The file holds for each metric `<metric>` float32 [K, L] and `<metric>/step` int64 [L], the environment steps of one
    run at which it was recorded; and `label` [K], what tells each run from the others.

    Args:
        labels: Of the K runs.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self._values: dict[str, list[np.ndarray]] = {}
        self._steps: dict[str, list[int]] = {}

    def add(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Record metrics, each [K]."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(np.asarray(value, np.float32))
            self._steps.setdefault(name, []).append(int(step))

    def lengths(self) -> dict[str, int]:
        """How often each metric was recorded; a JSON object, for a checkpoint."""
        return {name: len(steps) for name, steps in self._steps.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """What the file holds."""
        found: dict[str, np.ndarray] = {LABEL: np.asarray(self.labels)}
        for name, values in self._values.items():
            found[name], found[name + STEP] = np.stack(values, axis=1), np.asarray(self._steps[name], np.int64)
        return found

    def save(self, folder: Path) -> None:
        """Write the file; a crash leaves the old one or the new one.

        Raises:
            OSError: It cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.arrays())  # type: ignore[arg-type]  # mypy takes them for its flag
        files.write_atomic(folder / RUNS_FILE, buffer.getvalue())

    def restore(self, folder: Path, lengths: Mapping[str, Any]) -> None:
        """Continue from the file, cut to what a checkpoint counts on.

        Raises:
            ValueError: The file is damaged, or has lost records.
        """
        if not lengths:
            return
        stored = read_columns(folder)
        for name, length in lengths.items():
            values = stored.get(name, np.empty((0, 0)))
            if values.shape[1] < length:
                raise ValueError(f"{folder / RUNS_FILE} has lost records of {name}: the run folder was changed")
            self._values[name] = list(values[:, :length].T)
            self._steps[name] = stored[name + STEP][:length].tolist()


def read_columns(folder: Path) -> dict[str, np.ndarray]:
    """Read the file of a run folder; see `Columns`.

    Raises:
        ValueError: It is missing or damaged.
    """
    try:
        with np.load(folder / RUNS_FILE, allow_pickle=False) as stored:
            return dict(stored)
    except DAMAGE as error:
        raise ValueError(f"{folder / RUNS_FILE} is missing or damaged ({type(error).__name__})") from None


def joined(parts: Sequence[Mapping[str, np.ndarray]], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Put the runs of several files one after another; the first `counts[i]` of file i."""
    found = {}
    for name, value in parts[0].items():
        if name.endswith(STEP):
            found[name] = value
        else:
            found[name] = np.concatenate([part[name][:count] for part, count in zip(parts, counts, strict=True)])
    return found
