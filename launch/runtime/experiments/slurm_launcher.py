"""Trainings as jobs of Slurm, by submitit. Login node and compute nodes share the disk on which the run folders are.

What the pipeline wants of its jobs is in one file, `orders.json`, which it writes again every few seconds: a job whose
pipeline is gone sees no change and ends, as a process on the pipeline's own machine would.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import time
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import submitit

from launch.runtime.experiments.child import ROOT, Child
from launch.runtime.experiments.jobs import Job
from launch.runtime.experiments.scheduler import LOST
from launch.runtime.files import write_json

NUM_JOBS = 32  # in the queue at a time, unless --num-jobs says otherwise
ORDERS_FILE = "orders.json"
_BEAT_SECONDS = 5.0  # between two writings of the orders
_PATIENCE_SECONDS = 300.0  # without a change of the orders after which their writer is gone
_LOOK_SECONDS = 2.0  # between two looks at files of the other side
_RESULT_SECONDS = 30.0  # that the result of an ended job may need to be seen on a shared disk
_FORMER_SECONDS = 10.0  # without a sign of life after which a job of an earlier pipeline is gone
_WARNING_SECONDS = 90  # between Slurm's notice that the time is over, and the end
_LOST_STATES = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT")


class Resources(NamedTuple):
    """What each training asks of Slurm.

    Attributes:
        partition: None for the default one.
        minutes: Longest duration; a training that needs more goes on from its checkpoint in another job.
        cpus: Processor cores, 0 for those that a training keeps busy.
        gpus: GPUs.
    """

    partition: str | None = None
    minutes: int = 24 * 60
    cpus: int = 0
    gpus: int = 0

    @classmethod
    def of(cls, args: Namespace) -> Resources:
        """Those of the flags --slurm-*."""
        given = {
            "partition": args.slurm_partition,
            "minutes": args.slurm_time,
            "cpus": args.slurm_cpus,
            "gpus": args.slurm_gpus,
        }
        return cls(**{name: value for name, value in given.items() if value is not None})


class _Orders:
    """The orders, as a job reads them."""

    def __init__(self, path: Path, name: str, patience: float) -> None:
        self._path, self._name, self._patience = path, name, patience
        self._text, self._changed = "", time.monotonic()
        self.interrupt, self.end = False, False

    def look(self) -> None:
        """Read them: `interrupt` is whether to stop at the next safe point, `end` whether to end now."""
        with contextlib.suppress(OSError, ValueError):  # a shared disk may be away for a while
            text = self._path.read_text()
            if text != self._text:
                self._text, self._changed = text, time.monotonic()
                orders = json.loads(text)
                self.interrupt = self._name in orders["interrupt"]
                self.end = not self._name.startswith(orders["pipeline"])
        self.end |= time.monotonic() - self._changed > self._patience


def train(place: str, name: str, patience: float, words: list[str], log: str, environment: Mapping[str, str]) -> int:
    """Run a training on the node that Slurm has chosen.

    Args:
        place: Folder of the orders.
        name: Of the job in the orders.
        patience: Seconds without a change of them after which the pipeline is gone.
        words: Command line of `launch/train.py`.
        log: File for its output.
        environment: Further environment variables.

    Returns:
        Its exit code; `LOST` where it has stopped because Slurm wants the node back.
    """
    signals: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        signals.append(number)

    sign_of_life, orders = _sign_of_life(Path(place), name), _Orders(Path(place, ORDERS_FILE), name, patience)
    sign_of_life.touch()  # before the training is there, lest another pipeline begin it, too
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm sends it to all processes: the training inherits this
    child = Child("train", words, Path(log), environment)
    signal.signal(signal.SIGUSR2, note)
    signal.signal(signal.SIGTERM, note)  # the training got it, too, and stops
    told = False
    try:
        while (code := child.poll()) is None:
            with contextlib.suppress(OSError):
                sign_of_life.write_text(str(time.time_ns()))
            orders.look()
            if orders.end:
                child.kill()
            elif not told and signal.SIGTERM not in signals and (orders.interrupt or signals):
                told = True  # a second time would be an order to lose what it has
                child.interrupt()
            time.sleep(_LOOK_SECONDS)
    finally:
        child.kill()
        sign_of_life.unlink(missing_ok=True)
    return LOST if signals and code else code


def _sign_of_life(place: Path, name: str) -> Path:
    """A file that a job writes again and again while it runs."""
    return place / f"{name}.running"


class SlurmRunning:
    """The pipeline's side of a job; see `scheduler.Running`."""

    def __init__(self, launcher: SlurmLauncher, name: str, submitted: Any) -> None:
        self._launcher, self._name, self._job = launcher, name, submitted
        self._next = 0.0
        self._over: float | None = None  # since when Slurm says so
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, None while it waits or runs."""
        self._launcher.beat()
        if self._code is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOOK_SECONDS
            if self._job.done():
                self._code = self._ended()
        return self._code

    def interrupt(self) -> None:
        """Ask it to stop at the next safe point; one that waits for a node is taken out of the queue."""
        if self._launcher.has_begun(self._name):
            self._launcher.interrupt(self._name)
        else:
            self.kill()
            self._code = -signal.SIGINT

    def kill(self) -> None:
        """End it now."""
        self._job.cancel(check=False)

    def _ended(self) -> int | None:
        """The exit code of a job that is over, None as long as its result may still appear."""
        if self._job.paths.result_pickle.exists():
            return 1 if self._job.exception() else self._job.result()
        self._over = self._over or time.monotonic()
        if time.monotonic() - self._over < _RESULT_SECONDS:
            return None
        return LOST if self._job.state.startswith(_LOST_STATES) else -signal.SIGKILL


class Refused:
    """A job that Slurm has not taken; see `scheduler.Running`."""

    def poll(self) -> int:
        """Its exit code: a failure, which may be one of the moment."""
        return 1

    def interrupt(self) -> None:
        """Nothing to do."""

    def kill(self) -> None:
        """Nothing to do."""


class SlurmLauncher:
    """Starts trainings as jobs of a cluster.

    Args:
        root: Folder of the pipeline, which the nodes see, too. Jobs that an earlier one has left are waited for: they
            end when they see that there is a new one.
        resources: What each training asks for.
        cluster: submitit's name of the kind of cluster: "slurm", or "local" for processes of this machine.
    """

    def __init__(self, root: Path, resources: Resources, cluster: str = "slurm") -> None:
        self._group, self._resources = root.name, resources
        self._folder = root.absolute() / "slurm"
        self._folder.mkdir(exist_ok=True)
        self._executor = submitit.AutoExecutor(self._folder, cluster=cluster)
        self._pipeline, self._count, self._interrupted = uuid.uuid4().hex, 0, list[str]()
        self._beats, self._written = 0, 0.0
        self._write()
        self._clear()

    def start(self, job: Job, words: list[str], log: Path, _: Path) -> SlurmRunning | Refused:
        """Queue a training.

        Args:
            job: What it is.
            words: Its command line.
            log: File for its output.
        """
        self.beat()
        self._count += 1
        name = f"{self._pipeline}-{self._count}"
        environment = {"WANDB_RUN_GROUP": f"{self._group}-{job.cell}"}
        arguments = (str(self._folder), name, _PATIENCE_SECONDS, words, str(log.absolute()), environment)
        repository = str(ROOT)

        def there() -> int:  # goes to the node by its code, for the node has yet to learn where our modules are
            import sys

            sys.path.insert(0, repository)
            from launch.runtime.experiments.slurm_launcher import train

            return train(*arguments)

        log.touch()
        self._executor.update_parameters(
            name=job.log_name.removesuffix(".log"),
            timeout_min=self._resources.minutes,
            cpus_per_task=self._resources.cpus or job.cores or 4,
            gpus_per_node=self._resources.gpus or None,
            slurm_partition=self._resources.partition,
            # Slurm would begin a job that lost its node with the old command line: that is for the pipeline to do.
            slurm_additional_parameters={"no-requeue": True, "signal": f"USR2@{_WARNING_SECONDS}"},
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it then raises
                return SlurmRunning(self, name, self._executor.submit(there))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
            with log.open("a") as file:
                file.write(f"error: Slurm has not taken it: {' '.join(str(error).split())}\n")
            return Refused()

    def beat(self) -> None:
        """Show the jobs that there is still someone who wants them."""
        if time.monotonic() - self._written >= _BEAT_SECONDS:
            self._write()

    def has_begun(self, name: str) -> bool:
        """Whether a job has a node."""
        return _sign_of_life(self._folder, name).exists()

    def interrupt(self, name: str) -> None:
        """Tell a job to stop at the next safe point."""
        self._interrupted.append(name)
        self._write()

    def _write(self) -> None:
        """Write the orders."""
        self._beats, self._written = self._beats + 1, time.monotonic()
        orders = {"pipeline": self._pipeline, "beat": self._beats, "interrupt": self._interrupted}
        write_json(self._folder / ORDERS_FILE, orders)

    def _clear(self) -> None:
        """Wait until the jobs of an earlier pipeline have ended, then remove what is left of them."""
        before: dict[Path, str] = {}
        while alive := {path: text for path in self._folder.glob("*.running") if (text := _read(path)) is not None}:
            if alive.items() <= before.items():
                break  # none has shown a sign of life
            before = alive
            time.sleep(_FORMER_SECONDS)
            self.beat()
        for path in self._folder.iterdir():
            if path.name != ORDERS_FILE:
                path.unlink()


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None  # it has ended just now
