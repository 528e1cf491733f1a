"""What happened to the jobs of an experiment: JSON lines, on the disk before the next step is taken."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

JOURNAL_FILE = "journal.jsonl"


class Journal:
    """The journal of an experiment's folder; a context that only one process can be in.

    Args:
        folder: The experiment's folder.
        what: What the folder is, for messages.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._path, self._what = folder / JOURNAL_FILE, what

    def __enter__(self) -> Journal:
        """Open it for writing, and cut a line that a kill has left half written.

        Raises:
            ValueError: Another process is at work in this folder, or it cannot be written.
        """
        try:
            self._file = self._path.open("a+b", buffering=0)
        except OSError as error:
            raise ValueError(f"{self._what} {self._path.parent} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{self._what} {self._path.parent} is in use by another process: wait for it") from None
        content = self._path.read_bytes()
        os.truncate(self._path, content.rfind(b"\n") + 1)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, event: str, job: str, **facts: Any) -> None:
        """Append one event and wait until it is on the disk.

        Raises:
            OSError: It cannot be written.
        """
        line = {"time": round(time.time(), 3), "event": event, "job": job, **facts}
        self._file.write(json.dumps(line).encode() + b"\n")
        os.fsync(self._file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All events, oldest first.

        Raises:
            ValueError: A line is not what `write` writes: the file was changed.
        """
        lines = self._path.read_bytes().splitlines()
        try:
            return [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            raise ValueError(f"{self._path} is damaged: a line is not a JSON object") from None
