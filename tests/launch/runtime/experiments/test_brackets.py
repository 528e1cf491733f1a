"""The arithmetic of hyperband and of compiled batches."""

from __future__ import annotations

from itertools import pairwise

import pytest

from launch.runtime.experiments.brackets import batches, evaluation_interval, halving, hyperband, widths


def test_the_default_schedule_is_the_originals():
    brackets = hyperband(1_000_000)
    assert [[rung.settings for rung in bracket] for bracket in brackets] == [
        [81, 27, 9, 3, 1],
        [34, 11, 3, 1],
        [15, 5, 1],
        [8, 2],
        [5],
    ]
    assert [[rung.steps for rung in bracket] for bracket in brackets] == [
        [30_000, 37_037, 111_111, 333_333, 1_000_000],
        [37_037, 111_111, 333_333, 1_000_000],
        [111_111, 333_333, 1_000_000],
        [333_333, 1_000_000],
        [1_000_000],
    ]


@pytest.mark.parametrize("steps", [1, 9_999, 30_000, 100_000, 10_000_000])
def test_every_bracket_ends_with_the_whole_budget(steps):
    for bracket in hyperband(steps):
        assert bracket[-1].steps == steps
        assert all(a.steps < b.steps and a.settings >= b.settings for a, b in pairwise(bracket))


def test_batches_ask_for_all_settings():
    assert [bracket[0].settings for bracket in batches(20, 9, 1_000_000, True)] == [9, 9, 2]
    assert [len(bracket) for bracket in batches(20, 9, 1_000_000, True)] == [3, 3, 1]
    assert all(len(bracket) == 1 for bracket in batches(20, 9, 1_000_000, False))
    assert [rung.steps for rung in halving(9, 900_000, 2)] == [100_000, 300_000, 900_000]


@pytest.mark.parametrize("steps", [512, 60_000, 100_000, 500_003, 1_000_000, 5_000_000])
def test_settings_train_little_beyond_their_rungs(steps):
    for plan in (hyperband(steps), batches(30, 9, steps, True), batches(30, 9, steps, False)):
        interval = evaluation_interval(plan)
        wanted = trained = 0
        for bracket in plan:
            before = at = 0
            for count, rung in bracket:
                now = min(steps, -(-rung // interval) * interval)
                wanted, trained = wanted + count * (rung - before), trained + count * (now - at)
                before, at = rung, now
        assert wanted <= trained < 1.15 * wanted


@pytest.mark.parametrize("count", [*range(1, 30), 81, 100])
@pytest.mark.parametrize(("rows", "largest"), [(1, 1024), (1, 27), (4, 40), (7, 3)])
def test_widths_cover_all_settings_and_waste_less_than_half(count, rows, largest):
    found = widths(count, rows, largest)
    assert sum(taken for taken, _ in found) == count
    for taken, width in found:
        assert taken <= width and width in (1, 3, 9, 27, 81, 243)
        assert width * rows <= max(largest, rows)
        assert 2 * taken > width
