"""Checkpoints of a whole run, written with orbax: learner, environments, counters, whatever tree the driver gives.

A checkpoint is `<run folder>/checkpoints/<iteration>/`. It appears by a rename once it is complete, so a run killed
at any moment, or a full disk, leaves the previous one usable. `seal.json` holds the size and CRC-32 of every file of
orbax (which checks its own bookkeeping, not the values), the leaves and the driver's metadata; a checkpoint is read
only if all of that is right, and the one before it is used otherwise.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.common.memory import give_back
from launch.runtime import files, trees
from launch.runtime.run_folder import CHECKPOINTS_FOLDER

# Names of a checkpoint that is being written and of one that is being removed; neither is a number.
_PENDING, _REMOVED = "pending", "removed"
_SEAL = "seal.json"


class CheckpointError(OSError):
    """A checkpoint or a model could not be written; what was there before is intact. The message is one line."""


class _Damaged(Exception):
    """A checkpoint cannot be read back as it was written."""


class Checkpointer:
    """Saves and restores the checkpoints of one run folder; the only writer there.

    Args:
        folder: The run folder.
        keep: How many checkpoints stay (>= 1); older ones are removed after each save. With two, damage to the newest
            costs one interval.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1 checkpoint, not {keep}")
        self.folder = Path(folder).absolute() / CHECKPOINTS_FOLDER
        self.keep = keep
        self._damaged: set[int] = set()

    def iterations(self) -> list[int]:
        """Iterations of the checkpoints on disk, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def save(self, iteration: int, tree: Any, metadata: dict[str, Any]) -> None:
        """Write a checkpoint, then remove those beyond `keep`.

        Synchronous: when it returns, all bits are in the file, so the arrays may be donated.

        Args:
            iteration: Its number (>= 0); a checkpoint with this number is replaced. Ones with higher numbers are
                removed: the run was resumed before them.
            tree: Any tree of JAX arrays (typed keys too), NumPy arrays and numbers.
            metadata: JSON object that comes back with the tree.

        Raises:
            CheckpointError: it could not be written (full disk, ...); the checkpoints before it are intact.
        """
        leaves = trees.named_leaves(tree)
        record = {"metadata": metadata, "leaves": {name: trees.describe(leaf) for name, leaf in leaves.items()}}
        json.dumps(record)  # what is not JSON is the caller's mistake, not one of the disk
        give_back()  # what compiling has left behind
        try:
            self._clean()
            _write(self.folder / _PENDING, [trees.to_host(leaf) for leaf in leaves.values()])
            _seal(self.folder / _PENDING, record)
            self._swap_in(iteration)
        except Exception as error:
            self._clean()
            raise CheckpointError(f"cannot save checkpoint {iteration} in {self.folder}: {_reason(error)}") from error
        self._prune(iteration)
        give_back()  # what was in the writers' hands, which is as much as was written

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """Read the newest checkpoint that is not damaged; a damaged one gets a warning and the one before it is tried.

        Args:
            template: A tree like the one saved (values are ignored, types, shapes and shardings are used).

        Returns:
            (tree, metadata), bit-equal to what was saved; JAX arrays placed as in the template.

        Raises:
            ValueError: there is no checkpoint, none can be read, or its leaves are not those of the template.
        """
        found = self.iterations()
        if not found:
            raise ValueError(f"there is no checkpoint in {self.folder}: the run ended before its first one")
        for iteration in reversed(found):
            try:
                return _read(self.folder / str(iteration), template)
            except _Damaged as damage:
                self._damaged.add(iteration)
                files.warn(f"checkpoint {iteration} in {self.folder} is damaged ({damage}); trying the one before it")
        raise ValueError(f"no checkpoint in {self.folder} can be read: {', '.join(map(str, found))} are damaged")

    def _swap_in(self, iteration: int) -> None:
        final = self.folder / str(iteration)
        if final.exists():
            os.replace(final, self.folder / f"{_REMOVED}-{iteration}")
        os.replace(self.folder / _PENDING, final)
        self._damaged.discard(iteration)

    def _prune(self, newest: int) -> None:
        """Remove damaged checkpoints, ones of an abandoned future and ones beyond `keep`."""
        found = self.iterations()
        usable = [iteration for iteration in found if iteration <= newest and iteration not in self._damaged]
        for iteration in set(found) - set(usable[-self.keep :]):
            # Renamed first: a checkpoint that is half removed must not pass for a whole one.
            os.replace(self.folder / str(iteration), self.folder / f"{_REMOVED}-{iteration}")
        self._clean()

    def _clean(self) -> None:
        """Remove what an interrupted save or removal left behind."""
        for pattern in (f"{_PENDING}*", f"{_REMOVED}*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, arrays: list[np.ndarray]) -> None:
    # orbax refuses arrays without elements and trees without leaves; their descriptions alone bring them back.
    item = {str(number): array for number, array in enumerate(arrays) if array.size} or {"none": np.zeros(1)}
    path.parent.mkdir(exist_ok=True)
    with _quiet():
        _orbax().save(path, item)


def _read(path: Path, template: Any) -> tuple[Any, dict[str, Any]]:
    record = _unseal(path)
    leaves = trees.named_leaves(template)
    trees.check_leaves(record["leaves"], leaves, f"checkpoint {path}")
    forms = {name: trees.stored_form(leaf) for name, leaf in leaves.items()}
    try:
        stored = _load(path, [str(number) for number, (shape, _) in enumerate(forms.values()) if 0 not in shape])
        values = [
            trees.from_host(leaf, stored.pop(str(number), np.zeros(shape, dtype)))
            for number, (leaf, (shape, dtype)) in enumerate(zip(leaves.values(), forms.values(), strict=True))
        ]
    except (ValueError, OSError) as error:
        raise _Damaged(_reason(error)) from error
    return jax.tree.unflatten(jax.tree.structure(template), values), record["metadata"]


def _orbax() -> Any:
    """Orbax's checkpointer, for this process alone: by default it would wait for all processes of a run."""
    import orbax.checkpoint as ocp  # 0.5 s: only a run that saves pays for it

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _load(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    if not names:
        return {}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    with _quiet():
        return _orbax().restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _seal(path: Path, record: dict[str, Any]) -> None:
    """Write the seal: a line with the CRC-32 of the next, then `record` and the size and CRC-32 of every file."""
    sums = {str(file.relative_to(path)): _checksum(file) for file in sorted(path.rglob("*")) if file.is_file()}
    line = json.dumps({**record, "files": sums}).encode()
    files.write_atomic(path / _SEAL, b"%d\n%s\n" % (zlib.crc32(line), line))


def _unseal(path: Path) -> dict[str, Any]:
    """Check every file of a checkpoint and return the sealed record."""
    try:
        checksum, line, _ = (path / _SEAL).read_bytes().split(b"\n")
        if int(checksum) != zlib.crc32(line):
            raise _Damaged(f"the checksum of {_SEAL} is wrong")
        record = json.loads(line)
        for name, expected in record["files"].items():
            if _checksum(path / name) != expected:
                raise _Damaged(f"the checksum of {name} is wrong")
    except FileNotFoundError as error:
        raise _Damaged(f"{Path(error.filename).name} is missing") from None
    except (ValueError, OSError) as error:
        raise _Damaged(f"{_SEAL}: {_reason(error)}") from None
    return record


def _checksum(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
    return [size, checksum]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax from printing the traceback of an error that is reported in one line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """One short line for an exception of orbax or the system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
