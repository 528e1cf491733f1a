"""The jobs of a pipeline, and what their run folders say of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from launch.runtime.columns import RUNS_FILE, read_columns
from launch.runtime.files import read_json, warn
from launch.runtime.logger import METRICS_FILE
from launch.runtime.run_folder import ARGS_FILE, CHECKPOINTS_FOLDER, folder_name

ABANDONED = "abandoned"  # folder of runs that crashed before they could be continued
_BATCH = "batch_"  # begins the name of the folder of each batch, numbered from 0, see `launch.runtime.batched_training`
_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class Job:
    """One process of a pipeline: one run, or all seeds of a cell at once.

    Attributes:
        algo: Algorithm.
        env: Environment id.
        srl_model: What is observed.
        seed: (First) seed.
        num_seeds: How many runs the process trains.
        num_timesteps: Environment steps of one run.
        cores: Processor cores that it keeps busy, 0 for all.
        words: Its further flags, as `--name=value`.
    """

    algo: str
    env: str
    srl_model: str
    seed: int
    num_seeds: int
    num_timesteps: int
    cores: int
    words: tuple[str, ...]

    @property
    def cell(self) -> str:
        """Name of its cell."""
        return f"{self.algo} {self.srl_model} {self.env}"

    @property
    def name(self) -> str:
        """Its name, which no other job of the pipeline has."""
        seeds = f"{self.seed}" if self.num_seeds == 1 else f"{self.seed}-{self.seed + self.num_seeds - 1}"
        return f"{self.cell} seed {seeds}"

    @property
    def log_name(self) -> str:
        """Name of the file of its output."""
        return folder_name(self.name.replace(" ", "_")) + ".log"

    def command(self, root: Path) -> list[str]:
        """Its command line for `launch/train.py`, with run folders under `root`."""
        own = [f"--algo={self.algo}", f"--env={self.env}", f"--srl-model={self.srl_model}", f"--seed={self.seed}"]
        seeds = [f"--num-seeds={self.num_seeds}"] if self.num_seeds > 1 else []
        return [*own, *seeds, *self.words, f"--log-dir={root}"]

    def stored(self) -> dict[str, Any]:
        """A JSON object that `Job(**...)` reads back."""
        return dataclasses.asdict(self) | {"words": list(self.words)}

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Job:
        """The job of what `stored` returned.

        Raises:
            TypeError: It is not that.
        """
        return cls(**{**stored, "words": tuple(stored["words"])})


def find_folder(root: Path, job: Job) -> Path | None:
    """The newest run folder of a job, None where it has none yet."""
    return found_folders(root, [job]).get(job.name)


def found_folders(root: Path, jobs: Sequence[Job]) -> dict[str, Path]:
    """The newest run folder of each job that has one, by the job's name."""
    cells: dict[Path, dict[tuple[int, int], Job]] = {}
    for job in jobs:
        parent = root / folder_name(job.env) / folder_name(job.srl_model) / folder_name(job.algo)
        cells.setdefault(parent, {})[job.seed, job.num_seeds] = job
    found: dict[str, Path] = {}
    for parent, members in cells.items():
        paths = [path.parent for path in parent.glob(f"*/{ARGS_FILE}")]
        for folder in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            try:
                args = read_json(folder / ARGS_FILE, "run folder")
            except ValueError:
                continue  # killed while it was made
            member = members.get((args.get("seed", -1), args.get("num_seeds", -1)))
            if member is not None:
                found[member.name] = folder
    return found


def can_resume(folder: Path) -> bool:
    """Whether a run folder, or that of one batch, holds a checkpoint; that of a sweep in batches has them in those."""
    places = [folder / CHECKPOINTS_FOLDER, *folder.glob(f"{_BATCH}*/{CHECKPOINTS_FOLDER}")]
    return any(path.name.isdecimal() for place in places for path in place.glob("*"))


def abandon(root: Path, folder: Path) -> Path:
    """Move a run folder that cannot be continued out of the way of those that gather results."""
    target = root / ABANDONED / "-".join(folder.relative_to(root).parts)
    target.parent.mkdir(exist_ok=True)
    count = 0
    unique = target
    while unique.exists():
        count += 1
        unique = target.with_name(f"{target.name}_{count}")
    os.replace(folder, unique)
    os.replace(unique / ARGS_FILE, unique / f"abandoned_{ARGS_FILE}")  # no reader takes it for a run any more
    return unique


class Progress(NamedTuple):
    """Where a run stands.

    Attributes:
        step: Environment steps of one run so far.
        mean_return: Newest mean return, None where no episode has ended.
        finished: Whether the score at the end is there, after which nothing more is written.
    """

    step: int
    mean_return: float | None
    finished: bool


def progress(folder: Path) -> Progress:
    """Read where a run stands from the end of its metrics; a line that is being written is left out.

    A sweep in batches has metrics of its own at its end only: before it the newest batch tells.
    """
    if not (folder / METRICS_FILE).is_file() and (folder / f"{_BATCH}0").is_dir():
        return _progress_of_batches(folder)
    step, mean, finished = 0, None, False
    for line in _objects(folder / METRICS_FILE, _TAIL_BYTES):
        step = line.get("step", step)
        if "run" in line:
            continue  # the aggregate comes after the lines of all runs
        value = line.get("train/return/mean", line.get("train/return"))
        mean = mean if value is None else value
        finished = "score/final" in line or "score/final/mean" in line
    return Progress(step, mean, finished)


def _progress_of_batches(folder: Path) -> Progress:
    """The same of a sweep that trains one batch after another; its step is its share of the steps of one run."""
    numbers = [path.name.removeprefix(_BATCH) for path in folder.glob(f"{_BATCH}*")]
    newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
    found = progress(folder / f"{_BATCH}{newest}")
    try:
        args = read_json(folder / ARGS_FILE, "run folder")
        runs = args["num_seeds"] * math.prod(map(len, (args["sweep"] or {}).values()))
        batches, steps = math.ceil(runs / args["runs_per_batch"]), args["num_timesteps"]
        return Progress((newest * steps + min(found.step, steps)) // batches, found.mean_return, False)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return Progress(0, found.mean_return, False)  # damaged flags: whoever resumes it is told so


def scores_by_setting(folder: Path) -> dict[str, list[float]]:
    """The scores of `final_scores` by what is swept, as in the labels of runs: "gamma=0.9 lam=0.95".

    Settings without a score have an empty list. Where nothing is swept there is one entry at most, named "".
    """
    settings = _settings(folder)
    found: dict[str, list[float]] = {setting: [] for setting in settings}
    for run, score in _scores(folder).items():
        found.setdefault(settings[run] if run < len(settings) else "", []).append(score)
    return found


def _settings(folder: Path) -> list[str]:
    """What is swept in each run of a folder, as text; empty where nothing is, or its flags are damaged: a warning."""
    try:
        args = read_json(folder / ARGS_FILE, f"run folder {folder}")
        sweep = args.get("sweep") or {}
        # The seeds vary fastest, see `launch.runtime.sweep.plan`.
        combinations = [zip(sweep, map(_exact, values), strict=True) for values in itertools.product(*sweep.values())]
        settings = [" ".join(f"{name}={value}" for name, value in combination) for combination in combinations]
        return [setting for setting in settings for _ in range(args.get("num_seeds") or 1)] if sweep else []
    except (ValueError, TypeError, AttributeError):
        warn(f"run folder {folder}: {ARGS_FILE} is damaged: the table has its runs in one row, whatever was swept")
        return []


def _exact(value: float) -> str:
    """A swept value as a label has it, or with all its digits where that would be another value's text, too."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def final_scores(folder: Path) -> list[float]:
    """The score of each run at the end: that of the best policy, or of the final one where there is no best.

    NaN stands for a run whose score is no number. Where metrics.jsonl has no lines for single runs, as with more than
    64 runs and for a sweep trained in batches, scores come from `runs.npz`: none, and a warning, where it is damaged.
    """
    return list(_scores(folder).values())


def _scores(folder: Path) -> dict[int, float]:
    """The same by the run's number, ascending."""
    scores: dict[int, float] = {}
    for line in _objects(folder / METRICS_FILE):
        found = [line[key] for key in ("score/best", "score/final") if key in line]
        if found:
            scores[line.get("run", 0)] = math.nan if found[0] is None else float(found[0])
    return dict(sorted(scores.items())) or dict(enumerate(_stored_scores(folder)))


def _stored_scores(folder: Path) -> list[float]:
    """The same from the columns of many runs; empty where there are none, or none at the end yet."""
    if not (folder / RUNS_FILE).is_file():
        return []
    try:
        columns = read_columns(folder)
    except ValueError as error:
        warn(f"{error}: the scores of its runs are not in the table")
        return []
    for name in ("score/best", "score/final"):
        if name in columns:
            return [float(value) for value in columns[name][:, -1]]
    return []


def evaluations(folder: Path) -> list[tuple[int, float]]:
    """(environment steps, mean return over all runs) of the evaluations so far; NaN where it is no number."""
    found = []
    for line in _objects(folder / METRICS_FILE):
        for key in ("eval/return/mean", "eval/return"):
            if key in line and "run" not in line:
                found.append((int(line["step"]), math.nan if line[key] is None else float(line[key])))
    return found


def _objects(path: Path, tail: int | None = None) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, or in those of its last `tail` bytes."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - tail) if tail else 0
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    result = []
    for line in lines[1 if start else 0 : -1]:
        try:
            result.append(json.loads(line))
        except ValueError:
            continue  # a disk that was full; the run says so itself
    return [line for line in result if isinstance(line, dict)]
