"""Monitor files: one `<rank>.monitor.csv` per environment, one row per finished episode.

The format is that of the original toolbox (OpenAI baselines): a first line `#{"t_start": ..., "env_id": ...}`, the
header `r,l,t`, then rows of return (6 decimals), length in steps, and seconds since the start of the run (6 decimals).
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from launch.runtime import files

SUFFIX = ".monitor.csv"


class MonitorFiles:
    """Writes the monitor files of one run. A file is made when its environment ends its first episode.

    Args:
        folder: Where the files go; made where missing.
        env_id: Environment id for the first line.
        t_start: Start of the run, seconds since the epoch.
    """

    def __init__(self, folder: Path, env_id: str, t_start: float) -> None:
        self.folder = folder
        self._first_lines = f"#{json.dumps({'t_start': t_start, 'env_id': env_id})}\nr,l,t\n".encode()
        self._started: set[int] = set()

    def write(self, rank: int, returns: np.ndarray, lengths: np.ndarray, times: np.ndarray) -> None:
        """Append finished episodes of one environment, in one write.

        Args:
            rank: Index of the environment.
            returns: Sum of rewards of each episode, [n].
            lengths: Steps of each episode, [n].
            times: Seconds since the start of the run at which each ended, [n].

        Raises:
            OSError: the file cannot be written.
        """
        rows = zip(returns.tolist(), lengths.tolist(), times.tolist(), strict=True)
        text = ("%.6f,%d,%.6f\n" * len(returns)) % tuple(chain.from_iterable(rows))
        first_lines = b""
        if rank not in self._started:
            self.folder.mkdir(parents=True, exist_ok=True)
            first_lines = self._first_lines
        files.append(self._path(rank), first_lines + text.encode())
        self._started.add(rank)

    def state(self) -> dict[str, int]:
        """Length in bytes of each file, by rank; a JSON object, for a checkpoint."""
        return {str(rank): files.size(self._path(rank)) for rank in sorted(self._started)}

    def restore(self, state: dict[str, Any]) -> None:
        """Cut the files back to a `state`: later rows, and files that began later, are removed.

        Raises:
            ValueError: a file is missing or shorter than the checkpoint counts on.
        """
        for path in self.folder.glob(f"*{SUFFIX}"):
            if path.name.removesuffix(SUFFIX) not in state:
                path.unlink()
        for rank, length in state.items():
            files.truncate(self._path(int(rank)), length)
        self._started = {int(rank) for rank in state}

    def _path(self, rank: int) -> Path:
        return self.folder / f"{rank}{SUFFIX}"
