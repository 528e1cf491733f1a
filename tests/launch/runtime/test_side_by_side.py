"""Runs that a CPU plays some at a time are those that it plays side by side."""

import pytest

from launch.runtime.drivers import device
from launch.runtime.drivers.common import tree_bytes
from tests.driver_cases import Case, assert_same, assert_same_report, learner, run

SEEDS = (3, 4, 5, 6, 7, 8)


def room_for(monkeypatch: pytest.MonkeyPatch, case: Case, runs: int) -> None:
    """Let caches hold so many runs."""
    one, batch = case.new_device((0,))._one_run
    monkeypatch.setattr(device, "SIDE_BY_SIDE_BYTES", runs * (tree_bytes(batch) + 4 * tree_bytes(one.agent.acting)))


@pytest.mark.parametrize("name", ["a2c", "deepq"])
def test_runs_some_at_a_time_are_those_side_by_side(monkeypatch, name: str) -> None:
    case = learner(name)
    expected = case.device(SEEDS)
    report = run(expected, 3)
    assert expected._side_by_side() == 6
    room_for(monkeypatch, case, 2)
    some = case.new_device(SEEDS)
    assert some._side_by_side() == 2
    assert_same_report(run(some, 3), report, 1e-4)
    assert_same(some.state, expected.state, 1e-4)


def test_so_many_as_fit_and_divide_the_runs(monkeypatch) -> None:
    case = learner("a2c")
    room_for(monkeypatch, case, 4)
    sizes = {count: case.new_device(range(count))._side_by_side() for count in (1, 4, 5, 6, 7, 8, 12)}
    # Of 5 or 7 runs, groups would be of one: all together is better.
    assert sizes == {1: 1, 4: 4, 5: 5, 6: 3, 7: 7, 8: 4, 12: 4}
    room_for(monkeypatch, case, 1)
    assert case.new_device(range(5))._side_by_side() == 1


def test_some_runs_at_a_time_need_less_memory(monkeypatch) -> None:
    case = learner("a2c")
    whole = case.new_device(range(256)).exact_memory()
    room_for(monkeypatch, case, 16)
    assert case.new_device(range(256)).exact_memory() < 0.9 * whole
