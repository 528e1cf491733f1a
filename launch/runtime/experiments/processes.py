"""Trials of a search on the host: each a training in a process of its own, so many at a time."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.runtime.experiments.candidates import Candidate, as_flags
from launch.runtime.experiments.child import would_fail_again
from launch.runtime.experiments.jobs import Job, can_resume, evaluations, find_folder
from launch.runtime.experiments.scheduler import ATTEMPTS, LOST, MAX_LOSSES, Launch, Running
from launch.runtime.run_folder import CHECKPOINTS_FOLDER

_POLL_SECONDS = 0.5


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
            Score of each; NaN where a training was refused or crashed twice.
        """
        scores: dict[int, float] = {}
        waiting = deque((candidate, 1) for candidate in candidates)
        running: dict[int, tuple[Candidate, int, Running]] = {}
        stopping: set[int] = set()  # those that were asked to: a second time would be an order to lose what they have
        try:
            while waiting or running:
                while waiting and len(running) < self._num_jobs:
                    candidate, attempt = waiting.popleft()
                    score = self._score(candidate, steps)
                    if score is None:
                        running[candidate.number] = candidate, attempt, self._start(candidate, steps)
                    else:
                        scores[candidate.number] = score
                for number, (candidate, attempt, process) in list(running.items()):
                    # In this order: what a training wrote last may arrive with its end.
                    code = process.poll()
                    score = self._score(candidate, steps)
                    if score is not None and code is None and number not in stopping:
                        stopping.add(number)
                        process.interrupt()  # it saves where it stands
                    elif code is not None:
                        del running[number]
                        if score is not None:
                            scores[number] = score
                        elif code == LOST and attempt < MAX_LOSSES:  # its machine is gone
                            self._say(f"trial {number} has lost its machine; it will be begun on another one")
                            waiting.append((candidate, attempt + 1))
                        elif attempt < ATTEMPTS and not would_fail_again(code, self._log(number)):
                            self._say(f"trial {number} crashed (exit code {code}); trying once more")
                            waiting.appendleft((candidate, attempt + 1))
                        else:
                            self._say(f"trial {number} failed (exit code {code}); its output is in {self._log(number)}")
                            scores[number] = math.nan
                time.sleep(_POLL_SECONDS)
        finally:
            for _, _, process in running.values():
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

    def _start(self, candidate: Candidate, steps: int) -> Running:
        root = self._root / "trials" / str(candidate.number)
        folder = find_folder(root, self._job)
        if folder is not None and can_resume(folder):
            kept = [word for word in self._job.words if word.startswith(("--plugin=", "--verbose="))]
            words = [f"--resume={folder}", *kept]
        else:
            shutil.rmtree(root, ignore_errors=True)
            words = [*self._job.command(root), *as_flags(candidate.values)]
        root.mkdir(parents=True, exist_ok=True)
        return self._launch(self._job, words, self._log(candidate.number), root)

    def _score(self, candidate: Candidate, steps: int) -> float | None:
        """The first evaluation at `steps` or later, None before it."""
        folder = find_folder(self._root / "trials" / str(candidate.number), self._job)
        found = [value for step, value in evaluations(folder) if step >= steps] if folder else []
        return found[0] if found else None

    def _log(self, number: int) -> Path:
        return self._root / "trials" / str(number) / "output.log"
