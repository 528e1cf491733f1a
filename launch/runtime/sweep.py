"""Which runs one command trains: every combination of the swept values, times the number of seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Plan:
    """The K runs of a command.

    Attributes:
        seeds: int64 [K].
        hyper: name -> float32 [K].
        labels: What tells each run from the others, for instance "learning_rate=0.001 seed=3".
    """

    seeds: np.ndarray
    hyper: dict[str, np.ndarray]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.seeds)

    def settings(self, swept: Iterable[str]) -> list[dict[str, Any]]:
        """What each run has of its own: `seed` and its values of the options `swept`, K dicts for JSON."""
        names = [name for name in swept if name in self.hyper]
        return [  # by the text of a float32, which is short: 0.001, not 0.0010000000474974513
            {"seed": int(seed), **{name: float(str(self.hyper[name][run])) for name in names}}
            for run, seed in enumerate(self.seeds)
        ]


def plan(hyper: dict[str, float], sweep: dict[str, list[float]], seed: int, num_seeds: int) -> Plan:
    """Combine swept values and seeds; the seeds vary fastest.

    Args:
        hyper: Value of every traced option.
        sweep: Values of those that are swept, by name.
        seed: First seed; run i of a combination has seed + i.
        num_seeds: Runs per combination.
    """
    combinations = list(itertools.product(*sweep.values()))
    runs: list[dict[str, Any]] = []
    for values in combinations:
        for i in range(num_seeds):
            runs.append({"swept": dict(zip(sweep, values, strict=True)), "seed": seed + i})
    return Plan(
        seeds=np.asarray([run["seed"] for run in runs], np.int64),
        hyper={
            name: np.asarray([run["swept"].get(name, value) for run in runs], np.float32)
            for name, value in hyper.items()
        },
        labels=[" ".join([*(f"{k}={v:g}" for k, v in run["swept"].items()), f"seed={run['seed']}"]) for run in runs],
    )
