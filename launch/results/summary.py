"""What a report says in numbers: a row of final scores per group, and aggregates over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from launch.results import statistics
from launch.results.groups import Group, by_task
from launch.results.statistics import Interval

RANDOM = "random_agent"
PROFILE_POINTS = 101


class Row(NamedTuple):
    """Final scores of a group: those of its finished runs.

    Attributes:
        group: Whose.
        mean: Over runs; NaN where none has finished, like what follows.
        error: Standard error of the mean.
        iqm: Interquartile mean with its 95 % bootstrap interval.
        welch: p-value of Welch's test against the row with the highest interquartile mean; NaN for that row.
    """

    group: Group
    mean: float
    error: float
    iqm: Interval
    welch: float


def score_rows(groups: Sequence[Group]) -> list[Row]:
    """Rows of one task's groups, the highest interquartile mean first, groups without a finished run last."""
    ranked = [(group, _iqm(group.scores)) for group in groups]
    ranked.sort(key=lambda pair: -np.inf if np.isnan(pair[1].value) else pair[1].value, reverse=True)
    best = ranked[0][0].scores
    rows = []
    for group, iqm in ranked:
        scores = group.scores
        mean = float(scores.mean()) if len(scores) else np.nan
        error = float(statistics.standard_error(scores)) if len(scores) > 1 else np.nan
        p = np.nan if group is ranked[0][0] else statistics.welch(best, scores).p
        rows.append(Row(group, mean, error, iqm, p))
    return rows


def _iqm(scores: np.ndarray) -> Interval:
    return statistics.interval(statistics.iqm, [scores]) if len(scores) else Interval(np.nan, np.nan, np.nan)


class Range(NamedTuple):
    """What counts as 0 and as 1 on a task, and where the two are from."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Aggregates:
    """Comparison of methods over tasks, on scores normalised to 0 ... 1 per task.

    Attributes:
        tasks: Which tasks.
        ranges: What 0 and 1 are on each.
        labels, styles: The methods, the highest interquartile mean first.
        table: Quantity -> interval of each method.
        thresholds: Of the performance profile, [points].
        profiles: Share of runs above each threshold, by method: value, low, high, each [points].
        improvement: Probability that the first method beats each of the others, with its interval.
    """

    tasks: list[str]
    ranges: dict[str, Range]
    labels: list[str]
    styles: list[int]
    table: dict[str, list[Interval]]
    thresholds: np.ndarray
    profiles: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    improvement: list[Interval]


def score_ranges(groups: Sequence[Group], given: dict[str, tuple[float, float]]) -> dict[str, Range]:
    """What 0 and 1 are on each task: as given by environment, else random actions, else the lowest and highest score.

    A task on which all scores are alike is left out.
    """
    ranges = {}
    for task, same in by_task(groups).items():
        scores = np.concatenate([group.scores for group in same])
        if not len(scores):
            continue
        env = same[0].settings["env"]
        random = [group.scores for group in same if group.algo == RANDOM and len(group.scores)]
        if env in given:
            found = Range(*given[env], "given")
        elif random:
            found = Range(float(np.concatenate(random).mean()), float(scores.max()), "random actions, highest run")
        else:
            found = Range(float(scores.min()), float(scores.max()), "lowest run, highest run")
        if found.high > found.low:
            ranges[task] = found
    return ranges


def aggregates(groups: Sequence[Group], given: dict[str, tuple[float, float]], notices: list[str]) -> Aggregates | None:
    """Compare the methods that have finished runs on the same tasks; None where there are fewer than two."""
    ranges = score_ranges(groups, given)
    methods: dict[str, dict[str, Group]] = {}
    for group in groups:
        if group.task in ranges and len(group.scores):
            of = methods.setdefault(group.label, {})
            assert group.task not in of, group.label  # one would hide the other; `group_runs` gives each its own label
            of[group.task] = group
    tasks = _shared_tasks(methods)
    complete = {label: of for label, of in methods.items() if set(tasks) <= set(of)}
    if len(complete) < 2:
        return None
    left_out = [*sorted(set(methods) - set(complete)), *(task for task in ranges if task not in tasks)]
    if left_out:
        notices.append(
            f"the comparison needs methods with finished runs on the same tasks; not in it: {'; '.join(left_out)}"
        )
    scores = {label: [_normalised(of[task], ranges[task]) for task in tasks] for label, of in complete.items()}
    intervals = {label: statistics.interval(statistics.iqm, tables) for label, tables in scores.items()}
    order = sorted(scores, key=lambda label: intervals[label].value, reverse=True)
    table = {
        "IQM": [intervals[label] for label in order],
        "Mean": [statistics.interval(statistics.mean, scores[label]) for label in order],
        "Optimality gap": [statistics.interval(statistics.optimality_gap, scores[label]) for label in order],
    }
    thresholds = np.linspace(0.0, 1.0, PROFILE_POINTS)
    first = scores[order[0]]
    return Aggregates(
        tasks,
        {task: ranges[task] for task in tasks},
        order,
        [next(iter(complete[label].values())).style for label in order],
        table,
        thresholds,
        [_profile(scores[label], thresholds) for label in order],
        [statistics.interval(statistics.probability_of_improvement, first, scores[label]) for label in order[1:]],
    )


def _shared_tasks(methods: dict[str, dict[str, Group]]) -> list[str]:
    """The tasks to compare on: those of the method for which most results, methods times tasks, can be compared."""

    def results(tasks: list[str]) -> int:
        count = sum(set(tasks) <= set(of) for of in methods.values())
        return count * len(tasks) if count > 1 else 0

    return max((sorted(of) for of in methods.values()), key=results, default=[])


def _normalised(group: Group, span: Range) -> np.ndarray:
    return (group.scores - span.low) / (span.high - span.low)


def _profile(scores: list[np.ndarray], thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A performance profile with its pointwise 95 % interval."""
    profile = partial(statistics.performance_profile, thresholds=thresholds)
    low, high = statistics.bootstrap(profile, scores, repetitions=500)
    return profile(scores), low, high
