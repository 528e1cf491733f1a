"""The table of results that the original toolbox gathers from the logs of one environment.

The rows are methods (representations) and algorithms. A run counts by the episodes at its end, or at the end of a
budget of steps: the i-th episodes of all its environments are one, whose return is their mean and whose length is
their sum, as in the original.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from launch.results import statistics
from launch.results.read import Collection, Run
from launch.runtime.errors import UsageError, hint

RESULTS_FILE = "results.csv"
ALMOST = 0.95  # of a budget that a run whose last episode was cut off has ended episodes for
Key = tuple[str, str]  # (method, algorithm)


class Record(NamedTuple):
    """Episodes of a run: returns [n], NaN where none is finite, and steps played at the end of each [n]."""

    returns: np.ndarray
    steps: np.ndarray


def record_of(run: Run, notices: list[str]) -> Record | None:
    """The episodes of a run, its environments together; None, and a notice, where there are none.

    A return that is not finite is left out of the mean over the environments; its steps count.
    """
    workers = run.episodes(notices)
    if not workers:
        notices.append(f"{run.name} has no episodes in monitor files: left out")
        return None
    count = min(len(worker.returns) for worker in workers)
    played = np.stack([worker.returns[:count] for worker in workers])
    finite = np.isfinite(played)
    known = finite.sum(axis=0)
    returns = np.where(known > 0, np.where(finite, played, 0.0).sum(axis=0) / np.maximum(known, 1), np.nan)
    lengths = np.sum([worker.lengths[:count] for worker in workers], axis=0)
    return Record(returns, np.cumsum(lengths))


def collect(collection: Collection, min_timestep: int | None) -> dict[Key, list[Record]]:
    """Records by method and algorithm, sorted; runs with too few steps are left out.

    Raises:
        UsageError: None is left.
    """
    groups: dict[Key, list[Record]] = {}
    for run in collection.runs:
        record = record_of(run, collection.notices)
        if record is None:
            continue
        if min_timestep is not None and record.steps[-1] <= min_timestep:
            collection.notices.append(f"{run.name} ended after {record.steps[-1]:.0f} steps (--min-timestep): left out")
            continue
        groups.setdefault((run.args["srl_model"], run.args["algo"]), []).append(record)
    if not groups:
        raise UsageError(f"no run is left{': ' + collection.notices[-1] if collection.notices else ''}")
    return dict(sorted(groups.items()))


def run_means(records: Sequence[Record], window: int, budget: int | None) -> np.ndarray:
    """Mean return of each run over its last `window` episodes, those of before `budget` steps where one is given.

    Episodes without a finite return do not count. Runs whose first episode ends after the budget are left out.
    """
    means = []
    for record in records:
        returns = record.returns if budget is None else record.returns[record.steps < budget]
        returns = returns[np.isfinite(returns)]
        if len(returns):
            means.append(float(np.mean(returns[-window:])))
    return np.asarray(means)


def check_budgets(groups: dict[Key, list[Record]], budgets: Sequence[int], notices: list[str]) -> None:
    """Name the budgets that are longer than runs, or shorter than their first episode."""
    records = [record for group in groups.values() for record in group]
    for budget in budgets:
        short = sum(record.steps[-1] < ALMOST * budget for record in records)
        empty = sum(record.steps[0] >= budget for record in records)
        if short:
            notices.append(
                f"--timestep-budget {budget}: {short} of {len(records)} runs ended before; all they have counts"
            )
        if empty:
            notices.append(
                f"--timestep-budget {budget}: in {empty} of {len(records)} runs no episode had ended by then"
            )


def gather(
    groups: dict[Key, list[Record]], window: int, budgets: Sequence[int], baselines: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """The table: header and rows.

    Args:
        groups: What `collect` returned.
        window: Episodes at the end that count.
        budgets: Budgets of steps, each with columns of its own; none is the whole run.
        baselines: Methods that each row is compared with, by Welch's test of the means of the runs.

    Raises:
        UsageError: A baseline does not exist.
    """
    methods = list(dict.fromkeys(method for method, _ in groups))
    for name in baselines:
        if name not in methods:
            raise UsageError(f"--welch-test {name}: there is no such method{hint(name, methods)}")
    header = ["srl_model_path", "methods", "rl_algo"]
    rows = [["/".join(key), key[0], key[1]] for key in groups]
    spans: list[int | None] = [*sorted(set(budgets))]
    for budget in spans or [None]:
        ending = "" if budget is None else f"_{budget}"
        means = {key: run_means(records, window, budget) for key, records in groups.items()}
        header += [f"{name}_reward{ending}" for name in ("mean", "stderr", "iqm", "low", "high")]
        for row, values in zip(rows, means.values(), strict=True):
            row += _summary(values)
        for name in baselines:
            header.append(f"welch_{name}{ending}")
            for row, (key, values) in zip(rows, means.items(), strict=True):
                row.append(_number(statistics.welch(means.get((name, key[1]), np.empty(0)), values).p))
    return header, rows


def _summary(values: np.ndarray) -> list[str]:
    """Mean, standard error, interquartile mean and its 95 % interval over runs, as text; empty where there are none."""
    if not len(values):
        return [""] * 5
    iqm = statistics.interval(statistics.iqm, [values])
    return [_number(x) for x in (values.mean(), statistics.standard_error(values), *iqm)]


def _number(value: float | np.floating | np.ndarray) -> str:
    return f"{float(value):.6g}" if np.isfinite(value) else ""


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A table as the bytes of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in columns, for a terminal."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table)
