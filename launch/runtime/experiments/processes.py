"""Trials of a search on the host: each a training in a process of its own, so many at a time."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.runtime.experiments.candidates import Candidate, as_flags
from launch.runtime.experiments.child import last_line
from launch.runtime.experiments.jobs import Job, can_resume, evaluations, find_folder
from launch.runtime.experiments.scheduler import Launch, Running, Tries
from launch.runtime.run_folder import CHECKPOINTS_FOLDER

_POLL_SECONDS = 0.5


@dataclass
class _Trial:
    """A setting that trains up to a comparison."""

    candidate: Candidate
    tries: Tries = field(default_factory=Tries)

    @property
    def number(self) -> int:
        """Number of the trial."""
        return self.candidate.number


class Processes:
    """Trains settings in processes, which are stopped at a comparison and go on after it.

    Args:
        root: The search's folder; a trial's run folder lies in `trials/<number>/`.
        job: What each trains, without the setting.
        launch: Starts a process.
        num_jobs: How many run at a time.
        say: Told of crashes.
    """

    def __init__(self, root: Path, job: Job, launch: Launch, num_jobs: int, say: Callable[[str], None]) -> None:
        self._root, self._job, self._launch, self._num_jobs, self._say = root, job, launch, num_jobs, say

    def advance(self, candidates: Sequence[Candidate], steps: int) -> list[float]:
        """Train every setting until it has had `steps` environment steps; the newest evaluation by then is its score.

        Returns:
            Score of each; NaN where a training was refused, crashed twice or has lost more machines than are forgiven.

        Raises:
            OSError: A training cannot be started, or what it wrote cannot be read.
        """
        scores: dict[int, float] = {}
        waiting = deque(map(_Trial, candidates))
        running: dict[int, tuple[_Trial, Running]] = {}
        stopping: set[int] = set()  # those that were asked to: a second time would be an order to lose what they have
        try:
            while waiting or running:
                while waiting and len(running) < self._num_jobs:
                    trial = waiting.popleft()
                    score = self._score(trial.number, steps)
                    if score is None:
                        running[trial.number] = trial, self._start(trial)
                    else:
                        scores[trial.number] = score
                for number, (trial, process) in list(running.items()):
                    # In this order: what a training wrote last may arrive with its end.
                    code = process.poll()
                    score = self._score(number, steps)
                    if score is not None and code is None and number not in stopping:
                        stopping.add(number)
                        process.interrupt()  # it saves where it stands
                    elif code is not None:
                        del running[number]
                        if score is not None:
                            scores[number] = score
                        elif not self._repeat(trial, code, waiting):
                            scores[number] = math.nan
                time.sleep(_POLL_SECONDS)
        finally:
            for _, process in running.values():
                process.kill()
        return [scores[candidate.number] for candidate in candidates]

    def keep(self, candidates: Sequence[Candidate]) -> None:
        """Remove the checkpoints of all trials but these: they are large and not needed any more."""
        kept = {str(candidate.number) for candidate in candidates}
        for folder in (self._root / "trials").glob("*"):
            if folder.name not in kept:
                for checkpoints in folder.glob(f"*/*/*/*/{CHECKPOINTS_FOLDER}"):
                    shutil.rmtree(checkpoints)

    def save(self, position: int, candidates: Sequence[Candidate]) -> None:
        """Nothing to do: each training keeps its own checkpoints."""

    def restore(self, position: int, candidates: Sequence[Candidate]) -> bool:
        """Always true: each training has its own checkpoints."""
        return True

    def _repeat(self, trial: _Trial, code: int, waiting: deque[_Trial]) -> bool:
        """Put a trial that ended without a score back into the queue, unless it has failed for good: then False."""
        number, tries, log = trial.number, trial.tries, self._log(trial.number)
        if tries.forgive(code):
            self._say(f"trial {number} has lost its machine; it will be begun on another one")
            waiting.append(trial)
            return True
        damaged = tries.is_damaged(code, log, find_folder(self._folder(number), self._job))
        if not tries.may_repeat(code, log, damaged):
            self._say(f"trial {number} failed (exit code {code}); its output is in {log}")
            return False
        if damaged:
            self._say(f"trial {number} cannot be continued ({last_line(log, tries.log_start)[0]}); beginning it anew")
            shutil.rmtree(self._folder(number))
        else:
            self._say(f"trial {number} crashed (exit code {code}); trying once more")
        waiting.appendleft(trial)
        return True

    def _start(self, trial: _Trial) -> Running:
        """Start a training, from its checkpoint where it has one."""
        root, log = self._folder(trial.number), self._log(trial.number)
        folder = find_folder(root, self._job)
        if folder is not None and can_resume(folder):
            kept = [word for word in self._job.words if word.startswith(("--plugin=", "--verbose="))]
            words = [f"--resume={folder}", *kept]
        else:
            shutil.rmtree(root, ignore_errors=True)
            words = [*self._job.command(root), *as_flags(trial.candidate.values)]
            folder = None
        root.mkdir(parents=True, exist_ok=True)
        trial.tries.begin(folder is not None, log)
        return self._launch(self._job, words, log, root)

    def _score(self, number: int, steps: int) -> float | None:
        """The first evaluation at `steps` or later, None before it."""
        folder = find_folder(self._folder(number), self._job)
        found = [value for step, value in evaluations(folder) if step >= steps] if folder else []
        return found[0] if found else None

    def _folder(self, number: int) -> Path:
        return self._root / "trials" / str(number)

    def _log(self, number: int) -> Path:
        return self._folder(number) / "output.log"
