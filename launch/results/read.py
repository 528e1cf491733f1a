"""Runs as they lie on disk: which folders hold some, their metrics, their episodes.

A run folder (`launch.runtime.run_folder`) may hold several runs of one command: seeds, swept values. What cannot be
used is named in a notice and left out; what is there of an unfinished run is used.
"""

from __future__ import annotations

import itertools
import json
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from launch.runtime import files
from launch.runtime.columns import RUNS_FILE, STEP, read_columns
from launch.runtime.errors import UsageError
from launch.runtime.monitor import SUFFIX
from launch.runtime.run_folder import ARGS_FILE, ENV_GLOBALS_FILE
from launch.runtime.sweep import plan

METRICS_FILE = "metrics.jsonl"
VERSIONS_FILE = "versions.json"
TRAINING, EVALUATION = "train/return", "eval/return"
SCORE_ORDER = ("best", "final")  # which policy's score is the run's: as training reports it
_LARGEST = np.finfo(np.float64).max
_NOT_RUNS = {"checkpoints", "wandb", "enjoy", "report"}


class Curve(NamedTuple):
    """One metric of one run: environment steps int64 [n], ascending, and values float64 [n], NaN where unknown."""

    steps: np.ndarray
    values: np.ndarray


class Episodes(NamedTuple):
    """Episodes of one environment in order of their end: return [n], length [n], seconds since the start [n]."""

    returns: np.ndarray
    lengths: np.ndarray
    times: np.ndarray


@dataclass
class Run:
    """One run.

    Attributes:
        folder: The run folder.
        number: Which of the folder's runs.
        count: How many runs the folder has.
        flags: What the folder was made with.
        args: The same with this run's own seed and swept values.
        swept: Its swept values by name.
        curves: Metrics by name: those that were asked for and recorded.
        scores: Mean return at the end by policy: "final", "best", ...
        versions: What it was run with, as `versions.json` tells; empty where that is missing.
    """

    folder: Path
    number: int
    count: int
    flags: dict[str, Any]
    args: dict[str, Any]
    swept: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"{self.folder}" + (f" run {self.number}" if self.count > 1 else "")

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return any(name in self.scores for name in SCORE_ORDER)

    @property
    def score(self) -> float | None:
        """Mean return of the best policy at the end, of the final one where there is no other.

        Of an unfinished run it is the last evaluation, or the last mean return of training; None where there is none.
        """
        for name in SCORE_ORDER:
            if name in self.scores:
                return self.scores[name]
        for name in (EVALUATION, TRAINING):
            values = self.curves[name].values if name in self.curves else np.empty(0)
            if np.isfinite(values).any():
                return float(values[np.isfinite(values)][-1])
        return None

    def episodes(self, notices: list[str]) -> list[Episodes]:
        """Episodes of each of its environments, in the order of their files' numbers; none where none were recorded.

        Damaged ends of files are left out and named in `notices`. Returns that are not finite, which `--on-nan=skip`
        records as they were, are there; who averages leaves them out, as `notices` says.
        """
        home = self.folder / f"seed_{self.number}" if self.count > 1 else self.folder
        paths = [path for path in home.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX).isdigit()]
        paths.sort(key=lambda path: int(path.name.removesuffix(SUFFIX)))
        found = [read_monitor(path, notices) for path in paths]
        lost = sum(int(np.count_nonzero(~np.isfinite(episodes.returns))) for episodes in found)
        if lost:
            notices.append(
                f"{self.name}: {lost} episode{'s' * (lost > 1)} whose return is not a finite number left out"
            )
        return [episodes for episodes in found if len(episodes.returns)]


class Collection(NamedTuple):
    """Runs, and what to tell the user of those that are left out or only partly used."""

    runs: list[Run]
    notices: list[str]


def run_folders(root: Path) -> Iterator[Path]:
    """Run folders at or below `root`, in the order of their names."""
    if (root / ARGS_FILE).is_file():
        yield root
        return
    with os.scandir(root) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir() and entry.name not in _NOT_RUNS)
    for name in below:
        if not name.startswith(".") and not name.endswith("_model"):
            yield from run_folders(root / name)


def check_folder(path: str | None, flag: str = "--log-dir") -> Path:
    """The folder that a flag names.

    Raises:
        UsageError: There is none.
    """
    if path is None:
        raise UsageError(f"{flag} is missing: the folder with the runs")
    folder = Path(path)
    if not folder.is_dir():
        near = next((parent for parent in folder.parents if parent.is_dir()), Path("."))
        raise UsageError(f"{flag} {folder}: there is no such folder; the nearest that exists is {near}")
    return folder


def read_runs(root: Path, metrics: tuple[str, ...] = (TRAINING, EVALUATION)) -> Collection:
    """Read all runs at or below a folder.

    Raises:
        UsageError: There is not one.
    """
    runs: list[Run] = []
    notices: list[str] = []
    for folder in run_folders(root):
        runs += read_folder(folder, metrics, notices)
    if not runs:
        why = f": {notices[0]}" if notices else f": no folder below it has an {ARGS_FILE}"
        raise UsageError(f"there are no runs in {root}{why}")
    return Collection(runs, notices)


def read_folder(folder: Path, metrics: tuple[str, ...], notices: list[str]) -> list[Run]:
    """Read the runs of one run folder; none, and a notice, where it is damaged.

    The one place where a folder is given up: what is called from here raises ValueError or OSError for it.
    """
    try:
        args = files.read_json(folder / ARGS_FILE, f"run folder {folder}")
        files.read_json(folder / ENV_GLOBALS_FILE, f"run folder {folder}")
        runs = _planned(folder, args)
        if metrics:
            _read_records(folder, runs, metrics, notices)
    except (ValueError, OSError) as error:
        notices.append(f"{error}: left out")
        return []
    if (folder / VERSIONS_FILE).is_file():
        try:
            told = files.read_json(folder / VERSIONS_FILE, f"run folder {folder}")
        except ValueError as error:  # no reason to lose the runs
            notices.append(f"{error}: its versions are not known")
            return runs
        for run in runs:
            run.versions = {name: str(value) for name, value in told.items()}
    return runs


def _planned(folder: Path, args: dict[str, Any]) -> list[Run]:
    """The runs that the flags ask for, in the order of their numbers.

    Raises:
        ValueError: The flags are not of the kinds that a training writes.
    """
    for name in ("env", "algo", "srl_model"):
        if not isinstance(args.get(name), str):
            raise ValueError(f"run folder {folder}: {ARGS_FILE} names no {name}")
    for name in ("seed", "num_seeds", "num_timesteps"):
        if args.get(name) is not None and not _is_whole(args[name]):
            raise ValueError(f"run folder {folder}: {ARGS_FILE} has a damaged {name}, {args[name]!r}")
    sweep, seed, num_seeds = args.get("sweep") or {}, args.get("seed") or 0, args.get("num_seeds") or 1
    if not _is_sweep(sweep) or num_seeds < 1:
        raise ValueError(f"run folder {folder}: {ARGS_FILE} has a damaged sweep, {sweep!r} with {num_seeds} seeds")
    seeds = plan({}, sweep, seed, num_seeds).seeds.tolist()
    combinations: list[tuple[float, ...]] = list(itertools.product(*sweep.values()))
    swept = [dict(zip(sweep, values)) for values in combinations for _ in range(num_seeds)]
    return [
        Run(folder, number, len(seeds), args, {**args, **values, "seed": own_seed}, values)
        for number, (own_seed, values) in enumerate(zip(seeds, swept, strict=True))
    ]


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number that an int64 holds with room to spare."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62


def _is_sweep(value: Any) -> bool:
    """Whether it is {name: [numbers]}, none of them empty."""
    return isinstance(value, dict) and all(
        isinstance(numbers, list) and numbers and all(isinstance(number, (int, float)) for number in numbers)
        for numbers in value.values()
    )


def _read_records(folder: Path, runs: list[Run], metrics: tuple[str, ...], notices: list[str]) -> None:
    """Fill in curves and scores.

    Of many runs metrics.jsonl has the aggregates only, and runs.npz what each has recorded, up to its last checkpoint.

    Raises:
        ValueError: Nothing was recorded.
        OSError: It cannot be read.
    """
    if (folder / METRICS_FILE).is_file():
        _read_metrics(folder / METRICS_FILE, runs, metrics, notices)
    elif not (folder / RUNS_FILE).is_file():
        raise ValueError(f"{folder} has no {METRICS_FILE}")
    if (folder / RUNS_FILE).is_file() and not any(run.curves or run.scores for run in runs):
        try:
            _take_columns(read_columns(folder), runs, metrics)
        except ValueError as error:
            notices.append(f"{error}: no record of its runs")


def _take_columns(stored: dict[str, np.ndarray], runs: list[Run], metrics: tuple[str, ...]) -> None:
    """Fill in curves and scores of the runs from the one file of a large sweep.

    Raises:
        ValueError: They are not those of these runs.
    """
    names = [name for name in stored if (name in metrics or name.startswith("score/")) and not name.endswith(STEP)]
    for name in names:
        values, steps = stored[name], stored.get(name + STEP, np.empty(0))
        if values.ndim != 2 or steps.ndim != 1 or values.shape[1] != len(steps) or not len(steps):
            raise ValueError(f"{runs[0].folder / RUNS_FILE}: {name} has no value for each of its steps")
        if len(values) != len(runs):
            raise ValueError(f"{runs[0].folder / RUNS_FILE}: another number of runs than {ARGS_FILE} asks for")
    for run in runs:
        for name in names:
            values = stored[name][run.number].astype(np.float64)
            if name in metrics:
                run.curves[name] = Curve(stored[name + STEP], values)
            elif np.isfinite(values[-1]):
                run.scores[name.removeprefix("score/")] = float(values[-1])


class _Line(NamedTuple):
    """A line of metrics.jsonl: environment steps, the run, None for aggregates, and the metrics that were asked for."""

    step: int
    run: int | None
    values: dict[str, float]


def _read_line(line: Any, lone: int | None, metrics: tuple[str, ...]) -> _Line:
    """Check a line of metrics.jsonl; what is null there is NaN.

    Args:
        line: The object in it.
        lone: The run of a line that names none.
        metrics: Asked for, besides all scores.

    Raises:
        ValueError: It does not hold what a training writes.
    """
    if not isinstance(line, dict) or not _is_whole(line.get("step")):
        raise ValueError("no step")
    run = line.get("run", lone)
    if run is None:
        return _Line(line["step"], None, {})
    if not _is_whole(run):
        raise ValueError("no run")
    values = {}
    for name, value in line.items():
        if name in metrics or name.startswith("score/"):
            if isinstance(value, (bool, str, list, dict)):
                raise ValueError(f"{name} is no number")
            values[name] = np.nan if value is None else float(value) if abs(value) < _LARGEST else np.nan
    return _Line(line["step"], run, values)


def _read_metrics(path: Path, runs: list[Run], metrics: tuple[str, ...], notices: list[str]) -> None:
    """Fill in curves and scores of the runs from metrics.jsonl."""
    steps: dict[tuple[int, str], list[int]] = {}
    values: dict[tuple[int, str], list[float]] = {}
    lost = {"half-written": 0, "damaged": 0}
    lone = 0 if len(runs) == 1 else None
    for content in _json_lines(path.read_text(errors="replace")):
        try:
            line = _read_line(content, lone, metrics)
        except ValueError:
            lost["half-written" if content is None else "damaged"] += 1
            continue
        if line.run is None or not 0 <= line.run < len(runs):
            continue  # aggregates over the runs
        for name, value in line.values.items():
            if name in metrics:
                steps.setdefault((line.run, name), []).append(line.step)
                values.setdefault((line.run, name), []).append(value)
            elif np.isfinite(value):
                runs[line.run].scores[name.removeprefix("score/")] = value
    for (run, name), column in values.items():
        runs[run].curves[name] = Curve(np.asarray(steps[run, name], np.int64), np.asarray(column, np.float64))
    for how, count in lost.items():
        if count:
            notices.append(f"{path}: {count} {how} line{'s' * (count > 1)} left out")


def _json_lines(text: str) -> list[Any]:
    """The objects of a file with one on each line, None for a damaged line; read in one go where none is damaged."""
    lines = [line for line in text.split("\n") if line]
    try:
        return json.loads(f"[{','.join(lines)}]")
    except ValueError:
        return [_json_or_none(line) for line in lines]


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_monitor(path: Path, notices: list[str]) -> Episodes:
    """Read a monitor file; rows after a damaged one are left out and named in `notices`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        notices.append(f"{path} cannot be read ({error.strerror}): left out")
        content = b""
    complete = content[: content.rfind(b"\n") + 1]
    lines = complete.split(b"\n")[2:-1]
    flat = b",".join(lines).decode(errors="replace").split(",") if lines else []
    try:
        table = np.array(flat, np.float64).reshape(len(lines), 3)
    except ValueError:
        table = _rows_before_damage(lines)
    sound = np.isfinite(table[:, 1:]).all(axis=1)  # a return may be infinite, a length or a time never is
    if not sound.all():
        table = table[: int(np.argmin(sound))]
    left_out = len(lines) - len(table) + (len(complete) < len(content))
    if left_out:
        notices.append(f"{path}: {left_out} half-written row{'s' * (left_out > 1)} left out")
    return Episodes(table[:, 0], table[:, 1], table[:, 2])


def _rows_before_damage(lines: list[bytes]) -> np.ndarray:
    """The rows of a monitor file up to the first that is not three numbers, [n, 3]."""
    rows: list[list[float]] = []
    for line in lines:
        try:
            row = [float(cell) for cell in line.split(b",")]
        except ValueError:
            break
        if len(row) != 3:
            break
        rows.append(row)
    return np.asarray(rows, np.float64).reshape(-1, 3)


def as_namespace(run: Run) -> Namespace:
    """The run's flags as a parser gives them."""
    return Namespace(**run.args)
