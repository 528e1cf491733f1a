"""Learning curves from monitor files, as the original toolbox reads and smooths them.

`<stem>.npz` of `launch/aggregate_plots.py` holds `x` [points] and `y` [runs, points]; `launch/compare_plots.py` reads
it, and those of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.registry import AlgoType, registered_rl
from launch.results.read import Collection, Curve, Episodes, Run
from launch.runtime.columns import DAMAGE

BIN = 100  # steps between the points of a curve over timesteps
MAX_POINTS = 1000  # of a smoothed curve, at least half of it used


def load_curve(run: Run, notices: list[str]) -> Curve:
    """Episodes of all environments of a run in one order: steps played before each, and its return.

    Episodes whose return is not finite count as steps only: a moving average that met one would know nothing after it.
    Evolution plays one member of the population in each environment: there the episode of a generation is the best
    member's, as in the original.
    """
    workers = run.episodes(notices)
    if not workers:
        return Curve(np.empty(0, np.int64), np.empty(0))
    if is_evolution(run):
        curve = _best_members(workers)
    else:
        returns, lengths, times = (np.concatenate(columns) for columns in zip(*workers))
        order = np.argsort(times, kind="stable")
        ends = np.cumsum(lengths[order])
        curve = Curve((ends - lengths[order]).astype(np.int64), returns[order])
    finite = np.isfinite(curve.values)
    return Curve(curve.steps[finite], curve.values[finite])


def is_evolution(run: Run) -> bool:
    """Whether a population played, one member in each environment."""
    algo = run.args["algo"]
    return algo in registered_rl and registered_rl[algo][1] is AlgoType.EVOLUTION_STRATEGIES


def _best_members(workers: Sequence[Episodes]) -> Curve:
    """The best finite return of each generation, if any, and the steps that all members had played before it."""
    count = min(len(episodes.returns) for episodes in workers)
    played = np.stack([episodes.returns[:count] for episodes in workers])
    returns = np.where(np.isfinite(played), played, -np.inf).max(axis=0)
    lengths = np.sum([episodes.lengths[:count] for episodes in workers], axis=0)
    return Curve((np.cumsum(lengths) - lengths).astype(np.int64), returns)


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` successive values, [n - window + 1]."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    return (sums[window:] - sums[:-window]) / window


def smooth(curve: Curve) -> Curve:
    """Box average over 2 k + 1 points with k = min(31, ceil(n / 30)), ends cut off, thinned to 1,000-2,000 points."""
    half = min(31, -(-len(curve.steps) // 30))
    values = moving_average(curve.values, 2 * half + 1)
    thin = max(1, len(values) // MAX_POINTS)
    return Curve(curve.steps[half : len(curve.steps) - half][::thin], values[::thin])


def binned(curve: Curve) -> Curve:
    """Linear interpolation at the multiples of 100 steps below the last point."""
    steps = np.arange(0, int(curve.steps.max()), BIN)
    return Curve(steps, np.interp(steps, curve.steps, curve.values))


def over_episodes(curve: Curve, window: int) -> Curve:
    """Moving average of the returns over the number of the episode; empty with fewer than `window` episodes."""
    values = moving_average(curve.values, window) if len(curve.values) >= window else np.empty(0)
    return Curve(np.arange(len(curve.values))[len(curve.values) - len(values) :], values)


def over_timesteps(curve: Curve, window: int) -> Curve:
    """Smoothed returns at multiples of 100 steps, averaged over `window` of these; empty where there are too few."""
    if len(curve.values) < 3:
        return Curve(np.empty(0, np.int64), np.empty(0))
    fine = binned(smooth(curve))
    if len(fine.values) < window:
        return Curve(np.empty(0, np.int64), np.empty(0))
    values = moving_average(fine.values, window)
    return Curve(fine.steps[len(fine.steps) - len(values) :], values)


def aggregate(collection: Collection, window: int, min_x: int, timesteps: bool) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several runs, cut to the shortest.

    Args:
        collection: The runs; those that are too short are named in its notices and left out.
        window: Points of the moving average.
        min_x: Fewest points of a run.
        timesteps: Whether x is environment steps instead of episodes.

    Returns:
        x [points] of the first run, y [runs, points].

    Raises:
        ValueError: No run is left.
    """
    over = over_timesteps if timesteps else over_episodes
    used: list[Curve] = []
    names: list[str] = []
    for run in collection.runs:
        curve = over(load_curve(run, collection.notices), window)
        if not len(curve.values) or len(curve.values) < min_x:
            needed = max(window, min_x)
            collection.notices.append(f"{run.name} has fewer than {needed} points of its episodes: left out")
            continue
        used.append(curve)
        names.append(run.name)
    if not used:
        raise ValueError(f"no run has {max(window, min_x)} points: take a smaller --episode-window or --min-x")
    lengths = [len(curve.values) for curve in used]
    shortest = int(np.argmin(lengths))
    if max(lengths) > 2 * lengths[shortest]:
        collection.notices.append(
            f"budgets differ: all curves are cut to the {lengths[shortest]} points of {names[shortest]}; the longest "
            f"has {max(lengths)}"
        )
    return used[0].steps[: lengths[shortest]], np.asarray([curve.values[: lengths[shortest]] for curve in used])


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what `launch/aggregate_plots.py` wrote: x [points], y [runs, points].

    Raises:
        ValueError: It is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            x, y = stored["x"], stored["y"]
    except DAMAGE:
        raise ValueError(f"{path} is damaged, or has no x and y as launch/aggregate_plots.py writes them") from None
    if x.ndim != 1 or y.ndim != 2 or not len(y) or y.shape[1] != len(x):
        raise ValueError(f"{path}: x {x.shape} and y {y.shape} are not [points] and [runs, points]")
    return x, y
