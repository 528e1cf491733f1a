"""Runs the jobs of a pipeline: so many at a time, a crashed one once more, until all are done or Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from launch.runtime import files
from launch.runtime.errors import FAILED, REFUSED
from launch.runtime.experiments.child import last_line, would_fail_again
from launch.runtime.experiments.jobs import Job, abandon, can_resume, find_folder, found_folders, progress
from launch.runtime.experiments.journal import Journal
from launch.runtime.experiments.table import Row, Table
from launch.runtime.interrupt import Interrupt

ATTEMPTS = 2  # a crashed job is begun once more
MAX_LOSSES = 5  # how often a job may lose its machine, which is no fault of its own
LOST = -1000  # exit code of a job whose machine is gone
# What an error that names the run folder says of it where it cannot be continued any more.
_DAMAGE = ("damaged", "truncated", "is missing", "not an object", "was changed", "no checkpoint")
_DEPTH = 4  # a run folder is <env>/<srl-model>/<algo>/<date> below a root, which on a node of a cluster is another one
_POLL_SECONDS = 0.25
_LOOK_SECONDS = 1.0  # between two looks into the run folders


class Running(Protocol):
    """A job under way."""

    def poll(self) -> int | None:
        """Its exit code, `LOST` where its machine is gone, None while it runs."""

    def interrupt(self) -> None:
        """Ask it to stop at the next safe point."""

    def kill(self) -> None:
        """End it now."""


# (job, its command line, file of its output, root of its run folders) -> the job under way
Launch = Callable[[Job, list[str], Path, Path], Running]


@dataclass
class Tries:
    """How often a training was begun, and whether its end is a reason to begin it again.

    Attributes:
        attempts: How often it was begun, not counting those that only lost their machine.
        losses: How often it has lost its machine.
        resumed: Whether it was begun from a checkpoint the last time.
        log_start: Where its output since then begins, in bytes.
    """

    attempts: int = 0
    losses: int = 0
    resumed: bool = False
    log_start: int = 0

    def begin(self, resumed: bool, log: Path) -> None:
        """Take note that it begins, with its output at the end of `log`."""
        self.attempts += 1
        self.resumed, self.log_start = resumed, files.size(log)

    def forgive(self, code: int) -> bool:
        """Whether it has only lost its machine, and not too often: then this was no attempt."""
        if code != LOST or self.losses >= MAX_LOSSES:
            return False
        self.losses, self.attempts = self.losses + 1, self.attempts - 1
        return True

    def is_damaged(self, code: int, log: Path, folder: Path | None) -> bool:
        """Whether it was not resumed because its run folder, None where none is found any more, is damaged.

        By what it said; else what it lacks, such as memory, may come back, and who resumes it then goes on with it.
        """
        if not self.resumed or code not in (REFUSED, FAILED):  # a sweep is under way when one of its batches is damaged
            return False
        if folder is None:
            return code == REFUSED
        said, is_error = last_line(log, self.log_start)
        place = " ".join("/".join(folder.parts[-_DEPTH:]).split())
        return is_error and place in said and any(word in said for word in _DAMAGE)

    def may_repeat(self, code: int, log: Path, damaged: bool) -> bool:
        """Whether it is to be begun once more: anew where it `is_damaged`, else from where it stands."""
        return self.attempts < ATTEMPTS and (damaged or not would_fail_again(code, log, self.log_start))


@dataclass
class _State:
    """A job and how it goes."""

    job: Job
    state: str = "waiting"
    tries: Tries = field(default_factory=Tries)
    folder: Path | None = None
    running: Running | None = None
    step: int = 0
    start_step: int = 0
    started: float = 0.0
    mean_return: float | None = None
    reason: str = ""
    shown: int = 0  # bytes of its output that were shown

    @property
    def share(self) -> float:
        """Share of its steps that is done."""
        return 1.0 if self.state == "finished" else min(1.0, self.step / self.job.num_timesteps)


class Scheduler:
    """Runs jobs and keeps the journal.

    Args:
        root: The pipeline's folder, the root of its run folders.
        jobs: What to run, in this order.
        journal: Open journal of the pipeline.
        launch: Starts a job.
        num_jobs: How many run at a time.
        table: Shows how it goes.
        verbose: Whether to show the output of the jobs.
    """

    def __init__(
        self,
        root: Path,
        jobs: Sequence[Job],
        journal: Journal,
        launch: Launch,
        num_jobs: int,
        table: Table,
        verbose: bool = False,
    ) -> None:
        self._root, self._journal, self._launch = root, journal, launch
        self._num_jobs, self._table, self._verbose = num_jobs, table, verbose
        done = {event["job"] for event in journal.read() if event.get("event") == "finished"}
        folders = found_folders(root, jobs)
        self._states = [self._found(job, folders.get(job.name), done) for job in jobs]

    def run(self) -> list[tuple[Job, str]]:
        """Run everything that is not finished.

        Returns:
            The jobs that failed, and why.

        Raises:
            KeyboardInterrupt: Ctrl-C; what ran has saved where it stood.
            OSError: The journal cannot be written.
        """
        waiting = deque(state for state in self._states if state.state == "waiting")
        skipped = len(self._states) - len(waiting)
        if skipped:
            self._table.message(f"{skipped} of {len(self._states)} jobs are finished already")
        looked = 0.0
        try:
            with Interrupt(self._table.message) as interrupt:
                told = False
                while (running := self._running()) or (waiting and not interrupt.requested):
                    while waiting and len(running) < self._num_jobs and not interrupt.requested:
                        self._start(waiting.popleft())
                        running = self._running()
                    if interrupt.requested and not told:
                        told = True
                        for state in running:
                            self._process(state).interrupt()
                    for state in running:
                        code = self._process(state).poll()
                        if code is not None:
                            self._ended(state, code, waiting, interrupt.requested)
                    if time.monotonic() - looked >= _LOOK_SECONDS:
                        looked = time.monotonic()
                        self._look()
                    time.sleep(_POLL_SECONDS)
                if interrupt.requested:
                    raise KeyboardInterrupt
        finally:
            for state in self._running():
                self._process(state).kill()
            self._look()
            self._table.close()
        return [(state.job, state.reason) for state in self._states if state.state == "failed"]

    def _found(self, job: Job, folder: Path | None, done: set[str]) -> _State:
        """A job as an earlier pipeline has left it."""
        state = _State(job, folder=folder)
        if folder is not None:
            found = progress(folder)
            state.step, state.mean_return = found.step, found.mean_return
            if found.finished or job.name in done:
                state.state = "finished"
        return state

    def _running(self) -> list[_State]:
        return [state for state in self._states if state.running is not None]

    @staticmethod
    def _process(state: _State) -> Running:
        assert state.running is not None
        return state.running

    def _start(self, state: _State) -> None:
        """Start a job, from its checkpoint where it has one."""
        job, folder = state.job, find_folder(self._root, state.job)
        if folder is not None and can_resume(folder):
            kept = [word for word in job.words if word.startswith(("--plugin=", "--verbose="))]
            words = [f"--resume={folder}", *kept]
        else:
            if folder is not None:
                abandon(self._root, folder)
                folder = None
            words = job.command(self._root)
        state.folder, state.started, state.start_step = folder, time.monotonic(), progress(folder).step if folder else 0
        log = self._log(state)
        state.tries.begin(folder is not None, log)
        event = "resumed" if folder else "started"
        self._journal.write(event, job.name, attempt=state.tries.attempts)
        self._table.message(f"{event}: {job.name}")
        state.shown = state.tries.log_start
        state.running, state.state = self._launch(job, words, log, self._root), "running"

    def _ended(self, state: _State, code: int, waiting: deque[_State], interrupted: bool) -> None:
        """Take note of a job's end."""
        state.running = None
        job, folder, log = state.job, find_folder(self._root, state.job), self._log(state)
        state.folder = folder
        if code == 0 and folder is not None:
            state.state = "finished"
            self._journal.write("finished", job.name, folder=str(folder.relative_to(self._root)))
            self._table.message(f"finished: {job.name}")
            return
        state.reason = self._why(state, code)
        if interrupted:
            state.state = "waiting"
            self._journal.write("interrupted", job.name, exit_code=code)
            return
        if state.tries.forgive(code):
            state.state = "waiting"
            waiting.append(state)
            self._journal.write("lost", job.name, reason=state.reason)
            self._table.message(f"lost: {job.name} ({state.reason}); it will be begun on another machine")
            return
        self._journal.write("crashed", job.name, exit_code=code, reason=state.reason)
        damaged = state.tries.is_damaged(code, log, folder)
        if damaged and folder is not None:
            abandon(self._root, folder)
        if state.tries.may_repeat(code, log, damaged):
            state.state = "waiting"
            waiting.appendleft(state)
            self._table.message(f"crashed: {job.name} ({state.reason}); trying once more")
        else:
            state.state = "failed"
            self._table.message(f"failed: {job.name} ({state.reason}); its output is in {log}")

    def _why(self, state: _State, code: int) -> str:
        """A few words on why a job ended so: its last line, and the signal or exit code."""
        what = "machine lost" if code == LOST else f"signal {-code}" if code < 0 else f"exit code {code}"
        last, is_error = last_line(self._log(state), state.tries.log_start)
        return f"{what}: {last[:200]}" if last and (is_error or code > 0) else what

    def _log(self, state: _State) -> Path:
        return self._root / "output" / state.job.log_name

    def _look(self) -> None:
        """Read where the jobs stand, and show it."""
        for state in self._running():
            state.folder = state.folder or find_folder(self._root, state.job)
            if state.folder is not None:
                found = progress(state.folder)
                state.step, state.mean_return = found.step, found.mean_return
            if self._verbose:
                self._show_output(state)
        self._table.update(self._rows())

    def _show_output(self, state: _State) -> None:
        """Show the whole lines that a job has written since the last look."""
        with contextlib.suppress(FileNotFoundError), self._log(state).open("rb") as file:
            file.seek(state.shown)
            text, newline, _ = file.read().rpartition(b"\n")
            state.shown += len(text + newline)
            for line in text.decode(errors="replace").splitlines():
                self._table.message(f"[{state.job.name}] {line}")

    def _rows(self) -> list[Row]:
        """One row per cell."""
        cells: dict[str, list[_State]] = {}
        for state in self._states:
            cells.setdefault(state.job.cell, []).append(state)
        return [_row(cell, states) for cell, states in cells.items()]


def _row(cell: str, states: Sequence[_State]) -> Row:
    total = sum(state.job.num_seeds for state in states)
    finished = sum(state.job.num_seeds for state in states if state.state == "finished")
    share = sum(state.share * state.job.num_seeds for state in states) / total
    returns = [state.mean_return for state in states if state.mean_return is not None]
    kinds = {state.state for state in states}
    kind = next(name for name in ("running", "waiting", "failed", "finished") if name in kinds)
    return Row(cell, finished, total, share, sum(returns) / len(returns) if returns else None, _left(states), kind)


def _left(states: Sequence[_State]) -> float | None:
    """Seconds until a cell is done, from the speed of the jobs that run."""
    running = [state for state in states if state.running is not None and state.step > state.start_step]
    speed = sum((state.step - state.start_step) / (time.monotonic() - state.started) for state in running)
    if not speed:
        return None
    return sum(state.job.num_timesteps * (1 - state.share) for state in states if state.state != "failed") / speed
