"""Small file operations that leave either the old content or the new, never half of each."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_UNSAFE = object()


def warn(text: str) -> None:
    """Print a one-line warning on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def json_safe(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the entries of `mapping` that JSON can hold, as plain Python values.

    Held are None, bool, int, float, str, NumPy scalars, and tuples, lists and string-keyed dicts of those; other
    entries are left out, as in the original toolbox (args.json holds "all parsed args that are JSON-safe"). NaN and
    infinities, which JSON has no word for, become None. A list with one unsafe item is left out whole.
    """
    return {
        key: safe for key, value in mapping.items() if isinstance(key, str) and (safe := _safe(value)) is not _UNSAFE
    }


def _safe(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, tuple | list):
        items = [_safe(item) for item in value]
        return _UNSAFE if any(item is _UNSAFE for item in items) else items
    if isinstance(value, Mapping):
        return json_safe(value)
    return _UNSAFE


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`; a crash at any moment leaves the old file or the new one.

    Raises:
        OSError: the file cannot be written (read-only, full disk); the old file is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, mapping: Mapping[str, Any]) -> None:
    """Write the JSON-safe entries of `mapping` to `path`, keys sorted, atomically.

    Raises:
        OSError: as `write_atomic`.
    """
    text = json.dumps(json_safe(mapping), indent=2, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: File to read.
        what: What the file belongs to, for the error message, e.g. "run folder logs/a".

    Raises:
        ValueError: the file is missing, cannot be read, is truncated, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{what}: {path.name} is missing") from None
    except OSError as error:
        raise ValueError(f"{what}: {path.name} cannot be read ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"{what}: {path.name} is truncated or is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{what}: {path.name} holds a {type(content).__name__}, not an object")
    return content


def append(path: Path, content: bytes) -> None:
    """Append `content` to the file at `path` in one write, so that a killed run loses whole rows at most.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        file.write(content)


def size(path: Path) -> int:
    """Length of a file in bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def truncate(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes; cut to 0 removes it.

    Raises:
        ValueError: the file is shorter than that: it lost rows that a checkpoint counts on.
    """
    if size(path) < length:
        raise ValueError(
            f"{path} has {size(path)} bytes, the checkpoint counts on {length}: the run folder was changed"
        )
    if length:
        os.truncate(path, length)
    else:
        path.unlink(missing_ok=True)
