"""Successive halving and hyperband (Li et al. 2018, arXiv 1603.06560): how many settings are tried for how long."""

from __future__ import annotations

import math
from typing import NamedTuple

ETA = 3  # of the settings of a rung one in so many goes on, so many times as far
ITERATION_SCALE = 10_000  # steps of hyperband's unit of budget
MIN_STEPS = 30_000  # the shortest training that says anything


class Rung(NamedTuple):
    """One comparison.

    Attributes:
        settings: How many take part.
        steps: Environment steps that each has had by then.
    """

    settings: int
    steps: int


Bracket = list[Rung]


def hyperband(num_timesteps: int) -> list[Bracket]:
    """All brackets, the one that tries most settings first.

    The numbers are those of the original toolbox: budgets in units of 10,000 steps, at least 30,000 steps, eta 3;
    n = ceil(B / R 3^s / (s + 1)) settings in bracket s, with B = (s_max + 1) R. Settings go on from where a rung has
    left them, so that the steps of a rung include those before it.
    """
    units = max(1, num_timesteps // ITERATION_SCALE)
    deepest = math.floor(math.log(units, ETA) + 1e-9)
    return [
        halving(math.ceil((deepest + 1) * ETA**s / (s + 1)), num_timesteps, depth=s) for s in range(deepest, -1, -1)
    ]


def halving(count: int, num_timesteps: int, depth: int) -> Bracket:
    """One bracket: `count` settings, `depth` comparisons before the last, which is at `num_timesteps`.

    Rungs that the shortest training would make equal are one.
    """
    rungs: Bracket = []
    for i in range(depth + 1):
        steps = min(num_timesteps, max(MIN_STEPS, num_timesteps // ETA ** (depth - i)))
        if rungs and rungs[-1].steps == steps:
            continue
        rungs.append(Rung(count if not rungs else max(1, rungs[-1].settings // ETA), steps))
    return rungs


def batches(max_eval: int, size: int, num_timesteps: int, pruning: bool) -> list[Bracket]:
    """Brackets of `size` settings, `max_eval` in all, for optimisers that learn from one to the next."""
    counts = [min(size, max_eval - start) for start in range(0, max_eval, size)]
    return [
        halving(count, num_timesteps, math.floor(math.log(count, ETA) + 1e-9) if pruning else 0) for count in counts
    ]


def evaluation_interval(plan: list[Bracket]) -> int:
    """Steps between two evaluations, so that settings train little beyond their rungs until the next one.

    There is one at the end of a training too. Rungs are about thirds of each other, so that an interval of a rung and
    one step more serves nearly all of them.
    """
    candidates = sorted({rung.steps for bracket in plan for rung in bracket})

    def trained(interval: int) -> int:
        """Steps of all settings together."""
        total = 0
        for bracket in plan:
            before = 0
            for count, steps in bracket:
                at = min(candidates[-1], -(-steps // interval) * interval)
                total += count * (at - before)
                before = at
        return total

    return min((steps + 1 for steps in candidates), key=trained)


def widths(count: int, rows: int, largest: int) -> list[tuple[int, int]]:
    """Split `count` settings into compiled batches: [(settings taken, width of the program)].

    Widths are powers of eta, so that few programs serve all rungs; a program is filled by half at least, except for
    those narrower than all.

    Args:
        count: Settings.
        rows: Runs of one setting.
        largest: Most runs that fit a batch.
    """
    result = []
    limit = max(1, largest // rows)
    while count:
        width = 1
        while width * ETA <= limit and count * 2 > width * ETA:
            width *= ETA
        result.append((min(count, width), width))
        count -= min(count, width)
    return result
