"""The learning curves of one run folder, whose runs differ in their seeds and swept values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from launch.results.episodes import is_evolution, load_curve, over_episodes, over_timesteps
from launch.results.figures import Panel, Series
from launch.results.read import EVALUATION, TRAINING, Collection, Curve, Run, read_runs
from launch.results.statistics import band
from launch.runtime.errors import UsageError
from launch.runtime.run_folder import ARGS_FILE

POINTS = 300  # of a drawn curve
MOST_RUNS = 12  # that are drawn singly


def read_one(folder: Path) -> Collection:
    """Read one run folder.

    Raises:
        UsageError: It is none.
    """
    if not (folder / ARGS_FILE).is_file():
        raise UsageError(f"{folder} is not a run folder: {ARGS_FILE} is missing; launch/report.py takes many runs")
    return read_runs(folder)


def draw_run(collection: Collection, window: int, timesteps: bool = False) -> tuple[list[Panel], str]:
    """What to draw of a run folder: return over episodes where they were recorded, over steps, evaluations.

    Args:
        collection: Its runs.
        window: Episodes in the moving average.
        timesteps: Leave out the curve over episodes.

    Returns:
        (panels, title).

    Raises:
        UsageError: Nothing was recorded.
    """
    groups = by_sweep(collection.runs)
    curves = {run.number: load_curve(run, collection.notices) for run in collection.runs}
    panels = []
    for xlabel, over in (("Episodes", over_episodes), ("Environment steps", over_timesteps)):
        if timesteps and over is over_episodes:
            continue
        of_runs = {label: [over(curves[run.number], window) for run in runs] for label, runs in groups.items()}
        series = _all_series(of_runs)
        if series:
            title = "Training, best of the population" if is_evolution(collection.runs[0]) else "Training"
            panels.append(Panel(title, xlabel, f"Return, mean of {window}", series))
    if not panels:  # with many runs no episodes are recorded, but their running means are
        recorded = {label: [run.curves.get(TRAINING) for run in runs] for label, runs in groups.items()}
        series = _all_series(recorded)
        if series:
            panels.append(Panel("Training", "Environment steps", "Mean return", series))
    evaluated = {label: [run.curves.get(EVALUATION) for run in runs] for label, runs in groups.items()}
    series = _all_series(evaluated, points=True)
    if series:
        drawn = any(run.flags.get("eval_deterministic") is False for run in collection.runs)
        title = f"Evaluation, {'actions drawn' if drawn else 'deterministic'}"
        panels.append(Panel(title, "Environment steps", "Mean return", series))
    if not panels:
        raise UsageError(f"{collection.runs[0].folder}: no {window} episodes have ended and nothing was evaluated")
    args = collection.runs[0].args
    count = len(collection.runs)
    return panels, f"{args['algo']} on {args['env']}" + (f", {count} runs" if count > 1 else "")


def by_sweep(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their swept values, in words; one entry with an empty name where nothing was swept."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(", ".join(f"{name} {value:g}" for name, value in run.swept.items()), []).append(run)
    return groups


def _all_series(groups: Mapping[str, Sequence[Curve | None]], points: bool = False) -> list[Series]:
    """One line per group that has any points; the runs of a lone group as well."""
    alone = len(groups) == 1
    return [
        line
        for style, (label, curves) in enumerate(groups.items())
        if (line := summarised(label, style, curves, points, runs=alone)) is not None
    ]


def summarised(
    label: str, style: int, curves: Sequence[Curve | None], points: bool = False, runs: bool = False
) -> Series | None:
    """The interquartile mean of curves with its interval, as far as all of them go; None where there are none.

    Args:
        label, style: Of the line.
        curves: One per run; None where nothing was recorded.
        points: Whether the points were measured and are few, so that they are marked.
        runs: Whether to draw single runs as well, where they are few.
    """
    known = []
    for curve in curves:
        if curve is not None:
            finite = np.isfinite(curve.values)
            if finite.any():
                known.append(Curve(curve.steps[finite], curve.values[finite]))
    if not known:
        return None
    first, last = max(curve.steps[0] for curve in known), min(curve.steps[-1] for curve in known)
    longest = max(known, key=lambda curve: len(curve.steps))
    grid = longest.steps[(longest.steps >= first) & (longest.steps <= last)]
    if not len(grid):
        return None
    if len(grid) > POINTS:
        grid = np.linspace(grid[0], grid[-1], POINTS)
    values = np.asarray([np.interp(grid, curve.steps, curve.values) for curve in known])
    centre, low, high = band(values)
    faint = values if runs and 1 < len(values) <= MOST_RUNS else None
    return Series(label, style, grid, centre, low, high, points and len(grid) <= 60, faint)
