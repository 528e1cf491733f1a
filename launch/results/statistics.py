"""Statistics of runs: standard errors, Welch's test, and those of Agarwal et al. (2021), arXiv 2108.13264.

Scores of one method are a list with one array [runs] per task, which need not be equally long; resampled scores are
the same with leading axes, arrays [..., runs]. The definitions are those of `rliable` 1.2, which the tests hold them
to; where numbers of runs differ, a task counts once in `mean`, `median` and `probability_of_improvement`, and a run
counts once in `iqm` and `optimality_gap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
REPETITIONS = 2000
_CHUNK = 4_000_000  # numbers resampled at a time

Scores = Sequence[np.ndarray]
Statistic = Callable[[Scores], np.ndarray]


class Interval(NamedTuple):
    """An estimate and the bounds of its interval; NaN bounds where one run says nothing about the spread."""

    value: float
    low: float
    high: float


class Welch(NamedTuple):
    """Welch's t-test: statistic, degrees of freedom, two-sided p-value."""

    t: float
    dof: float
    p: float


def standard_error(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Population standard deviation over the square root of the number of runs, as the original plots it."""
    return np.std(values, axis=axis) / np.sqrt(values.shape[axis])


def trimmed_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean along an axis: floor(n/4) values at either end do not count."""
    count = values.shape[axis]
    cut = count // 4
    if not cut:
        return np.mean(values, axis=axis)
    ordered = np.sort(values, axis=axis)
    return np.mean(np.take(ordered, np.arange(cut, count - cut), axis=axis), axis=axis)


def mean(scores: Scores) -> np.ndarray:
    """Mean over tasks of the mean over runs."""
    return np.mean([np.mean(task, axis=-1) for task in scores], axis=0)


def median(scores: Scores) -> np.ndarray:
    """Median over tasks of the mean over runs."""
    return np.median([np.mean(task, axis=-1) for task in scores], axis=0)


def iqm(scores: Scores) -> np.ndarray:
    """Interquartile mean of all runs of all tasks together."""
    return trimmed_mean(np.concatenate(scores, axis=-1))


def optimality_gap(scores: Scores, threshold: float = 1.0) -> np.ndarray:
    """How far the scores fall short of `threshold` on average; what exceeds it does not count."""
    pooled = np.concatenate(scores, axis=-1)
    return threshold - np.mean(np.minimum(pooled, threshold), axis=-1)


def probability_of_improvement(scores: Scores, others: Scores) -> np.ndarray:
    """Mean over tasks of the probability that a run of one method beats a run of another; a tie counts half."""
    per_task = []
    for x, y in zip(scores, others, strict=True):
        greater = np.mean(x[..., :, None] > y[..., None, :], axis=(-2, -1))
        equal = np.mean(x[..., :, None] == y[..., None, :], axis=(-2, -1))
        per_task.append(greater + 0.5 * equal)
    return np.mean(per_task, axis=0)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold, [..., thresholds], a task counting once."""
    return np.mean([np.mean(task[..., None] > thresholds, axis=-2) for task in scores], axis=0)


def resample(scores: Scores, repetitions: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Stratified bootstrap: runs are drawn with replacement within each task, [repetitions, runs] per task."""
    return [task[rng.integers(len(task), size=(repetitions, len(task)))] for task in scores]


def bootstrap(
    statistic: Callable[..., np.ndarray], *methods: Scores, repetitions: int = REPETITIONS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 95 % percentile interval of a statistic by stratified bootstrap.

    Args:
        statistic: (resampled scores of each method) -> [repetitions, ...].
        methods: Scores of each method that it takes; each is resampled by itself.
        repetitions: How often.
        seed: Of the draws, so that a report of the same runs is the same.
    """
    rng = np.random.default_rng(seed)
    draws = statistic(*(resample(scores, repetitions, rng) for scores in methods))
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100.0 - tail], axis=0)
    return low, high


def interval(statistic: Callable[..., np.ndarray], *methods: Scores) -> Interval:
    """A statistic with its 95 % bootstrap interval."""
    value = float(statistic(*methods))
    if all(len(task) < 2 for scores in methods for task in scores):
        return Interval(value, np.nan, np.nan)
    low, high = bootstrap(statistic, *methods)
    return Interval(value, float(low), float(high))


def band(curves: np.ndarray, repetitions: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interquartile mean of curves and its pointwise 95 % bootstrap interval.

    Args:
        curves: [runs, points]; whole curves are resampled.
        repetitions: How often.
        seed: Of the draws.

    Returns:
        (centre, low, high), each [points]; the bounds are NaN for a single run.
    """
    runs, points = curves.shape
    centre = trimmed_mean(curves, axis=0)
    if runs < 2:
        return centre, np.full(points, np.nan), np.full(points, np.nan)
    drawn = np.random.default_rng(seed).integers(runs, size=(repetitions, runs))
    columns = np.ascontiguousarray(curves.T, np.float32)
    step = max(1, _CHUNK // (repetitions * runs))
    tail = 50.0 * (1.0 - CONFIDENCE)
    bounds = [
        np.percentile(trimmed_mean(columns[i : i + step, drawn]), [tail, 100.0 - tail], axis=-1)
        for i in range(0, points, step)
    ]
    low, high = np.concatenate(bounds, axis=1)
    return centre, low, high


def welch(x: np.ndarray, y: np.ndarray) -> Welch:
    """Welch's t-test of the means of two samples whose variances may differ.

    Args:
        x, y: Independent values, one per run, [n] and [m].

    Returns:
        The test; NaN where a sample has fewer than two values or neither varies.
    """
    if min(len(x), len(y)) < 2:
        return Welch(np.nan, np.nan, np.nan)
    from scipy.special import betainc

    of_x, of_y = np.var(x, ddof=1) / len(x), np.var(y, ddof=1) / len(y)
    if of_x + of_y == 0.0:
        return Welch(np.nan, np.nan, np.nan)
    t = (np.mean(x) - np.mean(y)) / np.sqrt(of_x + of_y)
    dof = (of_x + of_y) ** 2 / (of_x**2 / (len(x) - 1) + of_y**2 / (len(y) - 1))
    # P(|T| > t) of Student's distribution is the regularised incomplete beta function at dof / (dof + t^2).
    return Welch(float(t), float(dof), float(betainc(dof / 2.0, 0.5, dof / (dof + t**2))))
