"""Sweeps of more runs than fit the memory: batches of equal size, one after another, with the same compiled programs.

Each batch trains in `batch_<i>/` of the run folder; what all have recorded and learned is put together at the end.
"""

from __future__ import annotations

import json
import math
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.common.memory import available_memory, free_host_memory, give_back
from launch.runtime import files
from launch.runtime.columns import LABEL, RUNS_FILE, STEP, joined, read_columns
from launch.runtime.drivers.common import Driver
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.experiments.jobs import can_resume, progress
from launch.runtime.logger import METRICS_FILE, aggregate
from launch.runtime.model import BEST, FINAL, INFO_FILE, PARAMS_FILE, save_model
from launch.runtime.sweep import Plan

PROGRAMS = 64 * 2**20  # bytes of compiled programs and of what writes checkpoints; measured
SCORE_BEST, SCORE_FINAL = "score/best", "score/final"
SHARE = 0.8  # of the memory; the rest is for evaluations, models and other programs


def fitting_driver(
    build: Callable[[int], DeviceDriver], num_runs: int, wanted: int, exact: bool = True, fixed: bool = False
) -> DeviceDriver:
    """Build the driver of as many runs as fit the memory, in batches of equal size.

    Args:
        build: Driver of so many runs; nothing is allocated.
        num_runs: Runs in all.
        wanted: Runs in a batch, 0 for as many as fit.
        exact: Whether to ask the compiler, which takes its time, what they need.
        fixed: Whether it must be so many, 0 for all: a sweep that goes on has checkpoints of batches of that size.

    Raises:
        ValueError: Not even one run fits, or not as many as it must be.
    """
    limit = SHARE * available_memory()
    wanted = min(wanted or num_runs, num_runs) if fixed else wanted
    size = wanted if fixed else even(num_runs, wanted or num_runs)
    while True:
        driver = build(size)
        allowed = available_memory() if wanted or size == 1 else limit
        needed = driver.memory()  # quick, and less than what the compiler says
        if exact and needed <= allowed:
            needed = memory_of_runs(driver)
        if needed <= allowed:
            return driver
        if size == 1 or wanted:
            check_fits(needed, size)
        size = even(num_runs, max(1, min(size - 1, int(size * limit / needed))))


def needed_memory(driver: Driver) -> int:
    """Bytes that a training takes at most, known before anything is allocated."""
    if not isinstance(driver, DeviceDriver):
        return driver.memory()
    return memory_of_runs(driver) + (PROGRAMS if jax.default_backend() == "cpu" else 0)


def memory_of_runs(driver: DeviceDriver) -> int:
    """Bytes that grow with the number of runs; what compiling leaves behind is returned to the system.

    Those of a chunk come from the compiler where it is a program, which is compiled now and not again. Where the device
    is the CPU, the best policies are in the same memory, and what a checkpoint holds is there two times more while it
    is written.
    """
    chunk, (runs, policies) = driver.exact_memory(), driver.kept_memory()
    give_back()
    return max(chunk + policies, 3 * (runs + policies)) if jax.default_backend() == "cpu" else chunk


def stated_memory(driver: Driver) -> str:
    """What a training takes at most, in words."""
    said, frames = f"{needed_memory(driver) / 2**20:,.1f} MiB", driver.frame_memory()
    return said + (f" and {frames / 2**20:,.1f} MiB of pictures in host memory" if frames else "")


def check_memory(driver: Driver, num_runs: int) -> None:
    """Refuse runs that would not fit the memory of the device or the host, before anything is allocated.

    Raises:
        ValueError: They would not.
    """
    needed, frames = driver.memory(), driver.frame_memory()
    if jax.default_backend() == "cpu":  # which is one memory
        needed += frames
    elif frames:
        check_fits(frames, num_runs, free_host_memory())
    check_fits(needed, num_runs)


def check_fits(needed: int, num_runs: int, available: int | None = None) -> None:
    """Refuse runs that would not fit the available memory (bytes), that of the device by default.

    Raises:
        ValueError: They would not.
    """
    available = available_memory() if available is None else available
    if needed > available:
        raise ValueError(
            f"{num_runs} run{'s' * (num_runs > 1)} would need {needed / 2**30:,.1f} GiB, there are "
            f"{available / 2**30:,.1f} GiB: take fewer runs, environments or steps to remember, or smaller pictures"
        )


def even(num_runs: int, largest: int) -> int:
    """The size of equal batches of at most `largest` runs, a multiple of the devices where there are enough runs."""
    devices = len(jax.local_devices())
    size = math.ceil(num_runs / math.ceil(num_runs / largest))
    rounded = math.ceil(size / devices) * devices
    if rounded > largest:
        rounded = largest // devices * devices
    return rounded if 0 < rounded <= num_runs else size


def split(runs: Plan, size: int) -> list[tuple[Plan, int]]:
    """Batches of `size` runs; the last is filled up with its last run. Returns [(batch, runs that count)]."""
    batches = []
    for start in range(0, len(runs), size):
        rows = np.minimum(np.arange(start, start + size), len(runs) - 1)
        hyper = {name: values[rows] for name, values in runs.hyper.items()}
        batches.append(
            (Plan(runs.seeds[rows], hyper, [runs.labels[row] for row in rows]), min(size, len(runs) - start))
        )
    return batches


def batch_args(args: Namespace, folder: Path) -> Namespace:
    """The flags of one batch: it goes on where it has a checkpoint, begins anew where not, and leaves wandb alone."""
    resume = str(folder) if can_resume(folder) else None
    if resume is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    return Namespace(**{**vars(args), "resume": resume, "no_vis": True})


def is_finished(folder: Path) -> bool:
    """Whether a batch has its scores."""
    return progress(folder).finished and (folder / RUNS_FILE).is_file()


def join_records(folder: Path, batches: list[tuple[Path, int]]) -> list[tuple[int, dict[str, np.ndarray]]]:
    """Write `runs.npz` and the aggregates of all runs in metrics.jsonl.

    Args:
        folder: The run folder.
        batches: (folder of a batch, runs that count).

    Returns:
        Records in order of steps: (step, metric -> [K]).

    Raises:
        ValueError: What a batch has recorded is damaged.
        OSError: A file cannot be written.
    """
    parts = [read_columns(path) for path, _ in batches]
    if any(SCORE_BEST in part for part in parts):
        for part in parts:  # as in a sweep at once, the final policies stand for the best where none has qualified
            for end in ("", STEP):
                part.setdefault(SCORE_BEST + end, part[SCORE_FINAL + end])
    columns = joined(parts, [count for _, count in batches])
    with (folder / (RUNS_FILE + ".tmp")).open("wb") as file:
        np.savez_compressed(file, **columns)  # type: ignore[arg-type]  # mypy takes them for its flag
    (folder / (RUNS_FILE + ".tmp")).replace(folder / RUNS_FILE)
    records: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    order = {"train": 0, "eval": 1, "score": 2}
    for name, values in columns.items():
        if name == LABEL or name.endswith(STEP):
            continue
        for step, value in zip(columns[name + STEP].tolist(), values.T):
            records.setdefault((step, order.get(name.partition("/")[0], 0)), {})[name] = value.astype(np.float64)
    lines = [
        {"step": step, **{key: value if math.isfinite(value) else None for key, value in aggregate(found).items()}}
        for (step, _), found in sorted(records.items())
    ]
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    files.write_atomic(folder / METRICS_FILE, text.encode())
    return [(step, found) for (step, _), found in sorted(records.items())]


def join_models(models: Path, batches: list[tuple[Path, int]], info: dict[str, Any]) -> None:
    """Write each model that all batches have, with the runs of all; the final one where only others have a best one.

    Args:
        models: Folder of the models of the run.
        batches: (folder of a batch, runs that count).
        info: What model.json says of all runs together.
    """
    names = {found.name for path, _ in batches for found in (path / models.name).iterdir()}
    for name in sorted(names):
        sources = [(path / models.name / name, count) for path, count in batches]
        if name == BEST:
            sources = [(path if path.is_dir() else path.with_name(FINAL), count) for path, count in sources]
        if not all((source / INFO_FILE).is_file() for source, _ in sources):
            continue
        found: dict[str, list[np.ndarray]] = {}
        lists: dict[str, list[Any]] = {"steps": [], "score": []}
        for source, count in sources:
            with np.load(source / PARAMS_FILE, allow_pickle=False) as stored:
                for key in stored:
                    found.setdefault(key, []).append(stored[key][:count])
            told = files.read_json(source / INFO_FILE, f"model {source}")
            for key in lists:
                lists[key] += told[key][:count]
        tree: dict[str, Any] = {}
        for key, parts in found.items():
            *path, last = key.split("/")
            place = tree
            for part in path:
                place = place.setdefault(part, {})
            place[last] = np.concatenate(parts)
        acting: Any = next(iter(tree.values()), {})  # of a random agent there is nothing to keep
        save_model(models, name, acting, info | lists)
