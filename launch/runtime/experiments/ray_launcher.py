"""Trainings as actors on a Ray cluster. Nodes need not share a disk: run folders travel in both directions."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray

from launch.runtime.experiments.child import Child
from launch.runtime.experiments.jobs import Job
from launch.runtime.experiments.scheduler import LOST
from launch.runtime.run_folder import CHECKPOINTS_FOLDER, make_unique

_PLACE = "{root}"  # stands for the root of run folders in a command line
_DEPTH = 4  # a run folder is <env>/<srl-model>/<algo>/<date>
_SYNC_SECONDS = 2.0
_UNFINISHED = ("pending", "removed")  # checkpoints that are being written or taken away


class Snapshot(NamedTuple):
    """What has changed on a node since the last look.

    Attributes:
        code: Exit code of the training, None while it runs.
        output: What it has printed since.
        changed: Content of new and changed files, by path below the root.
        present: All files that there are.
    """

    code: int | None
    output: bytes
    changed: dict[str, bytes]
    present: list[str]


class Runner:
    """A training on a node; made an actor by `RayLauncher`.

    Args:
        words: Its command line, with `_PLACE` for the root of run folders.
        content: Files of the run folder to go on from, by path below the root.
        environment: Further environment variables.
    """

    def __init__(self, words: list[str], content: Mapping[str, bytes], environment: Mapping[str, str]) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="srl-jax-"))
        self._seen: dict[str, tuple[int, int]] = {}
        self._log = self._root / "output.log"
        self._read = 0
        for name, data in content.items():
            _write(self._root / name, data)
        self._seen = {name: _stamp(self._root / name) for name in content}
        self._child = Child("train", [word.replace(_PLACE, str(self._root)) for word in words], self._log, environment)

    def look(self) -> Snapshot:
        """What has changed since the last look; the last one also removes what is here."""
        code = self._child.poll()
        # Checkpoints first: each counts on records that were there before it.
        names = sorted(self._names(), key=lambda name: f"/{CHECKPOINTS_FOLDER}/" not in name)
        changed, present = {}, []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # removed or renamed meanwhile
                stamp = _stamp(self._root / name)
                if self._seen.get(name) != stamp:
                    changed[name] = (self._root / name).read_bytes()
                    self._seen[name] = stamp
                present.append(name)
        with self._log.open("rb") as file:
            file.seek(self._read)
            output = file.read()
        self._read += len(output)
        if code is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        return Snapshot(code, output, changed, present)

    def interrupt(self) -> None:
        """Ask the training to stop at the next safe point."""
        self._child.interrupt()

    def _names(self) -> list[str]:
        found = []
        for folder, folders, names in os.walk(self._root):
            folders[:] = [name for name in folders if name not in _UNFINISHED and not name.startswith(".")]
            below = Path(folder).relative_to(self._root)
            found += [str(below / name) for name in names if not name.endswith(".tmp")]
        return [name for name in found if name != self._log.name]


class RayRunning:
    """The pipeline's side of a training on the cluster; see `scheduler.Running`."""

    def __init__(self, actor: Any, root: Path, log: Path, known: set[str]) -> None:
        self._actor, self._root, self._log, self._known = actor, root, log, known
        self._folders = {folder: root / folder for folder in map(_run_folder, known)}  # theirs -> ours
        self._pending: Any = None
        self._next = 0.0
        self._code: int | None = None
        log.touch()

    def poll(self) -> int | None:
        """Collect what is new; the exit code once all of it is here."""
        if self._code is None and self._pending is None and time.monotonic() >= self._next:
            self._pending = self._actor.look.remote()
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            try:
                self._collect(ray.get(self._pending))
            except ray.exceptions.RayError as error:
                self._append(f"error: {type(error).__name__}\n".encode())
                self._code = LOST
            self._pending, self._next = None, time.monotonic() + _SYNC_SECONDS
            if self._code is not None:
                ray.kill(self._actor)
        return self._code

    def interrupt(self) -> None:
        """Ask it to stop at the next safe point."""
        self._actor.interrupt.remote()

    def kill(self) -> None:
        """End it now."""
        ray.kill(self._actor)

    def _collect(self, snapshot: Snapshot) -> None:
        """Write what has changed, and remove what is no longer there."""
        for name, data in snapshot.changed.items():
            _write(self._here(name), data)
        for name in self._known - set(snapshot.present):
            path = self._here(name)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are still in it
                for parent in path.parents:
                    parent.rmdir()
        self._known = set(snapshot.present)
        self._append(snapshot.output)
        self._code = snapshot.code

    def _here(self, name: str) -> Path:
        """Where a file of the node belongs: two nodes begin run folders of one name if they do so in one second."""
        folder = _run_folder(name)
        if folder == Path(name):
            return self._root / name  # in no run folder
        if folder not in self._folders:
            parent = self._root / folder.parent
            parent.mkdir(parents=True, exist_ok=True)
            self._folders[folder] = make_unique(parent, folder.name)
        return self._folders[folder].joinpath(*Path(name).parts[_DEPTH:])

    def _append(self, output: bytes) -> None:
        with self._log.open("ab") as file:
            file.write(output)


class RayLauncher:
    """Starts trainings on the Ray cluster that `launch.runtime.cluster.connect` has joined."""

    def __init__(self) -> None:
        self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    def num_jobs(self, jobs: list[Job]) -> int:
        """How many of these jobs the cluster runs at a time."""
        need = max(self._cpus(job) for job in jobs)
        return max(1, sum(int(node["CPU"] // need) for node in self._nodes))

    def _cpus(self, job: Job) -> int:
        """Processor cores that a job asks for; one that takes all there are gets the smallest node's."""
        smallest, largest = (int(pick(node["CPU"] for node in self._nodes)) for pick in (min, max))
        return min(job.cores, largest) if job.cores else smallest

    def start(self, job: Job, words: list[str], log: Path, root: Path) -> RayRunning:
        """Start a training.

        Args:
            job: What it is.
            words: Its command line.
            log: File for its output.
            root: Root of its run folders here.
        """
        content: dict[str, bytes] = {}
        for word in words:
            if word.startswith("--resume="):
                folder = Path(word.removeprefix("--resume="))
                files = (path for path in folder.rglob("*") if path.is_file())
                content = {str(path.relative_to(root)): path.read_bytes() for path in files}
        there = [
            word.replace(str(root), _PLACE) if word.startswith(("--resume=", "--log-dir=")) else word for word in words
        ]
        gpus = 1 if any(node.get("GPU") for node in self._nodes) and not job.cores else 0
        options = {"num_cpus": self._cpus(job), "num_gpus": gpus, "max_restarts": 0}
        environment = {"WANDB_RUN_GROUP": f"{root.name}-{job.cell}"}
        actor = ray.remote(Runner).options(**options).remote(there, content, environment)
        return RayRunning(actor, root, log, set(content))


def _run_folder(name: str) -> Path:
    """The run folder of a file, both below the root."""
    return Path(*Path(name).parts[:_DEPTH])


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
