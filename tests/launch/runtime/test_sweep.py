"""Which runs a command trains."""

from __future__ import annotations

import numpy as np

from launch.runtime.sweep import plan

HYPER = {"learning_rate": 1e-3, "gamma": 0.99}


def test_one_run() -> None:
    runs = plan(HYPER, {}, seed=4, num_seeds=1)
    assert len(runs) == 1
    np.testing.assert_array_equal(runs.seeds, [4])
    assert runs.labels == ["seed=4"]
    assert {name: value.tolist() for name, value in runs.hyper.items()} == {
        "learning_rate": [np.float32(1e-3)],
        "gamma": [np.float32(0.99)],
    }


def test_every_combination_times_every_seed() -> None:
    sweep = {"gamma": [0.9, 0.99], "learning_rate": [1e-4, 1e-3, 1e-2]}
    runs = plan(HYPER, sweep, seed=7, num_seeds=2)
    assert len(runs) == len(runs.labels) == 12
    np.testing.assert_array_equal(runs.seeds, [7, 8] * 6)
    np.testing.assert_array_equal(runs.hyper["gamma"], np.float32([0.9] * 6 + [0.99] * 6))
    np.testing.assert_array_equal(runs.hyper["learning_rate"], np.float32([1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2] * 2))
    assert runs.labels[0] == "gamma=0.9 learning_rate=0.0001 seed=7"
    assert len(set(runs.labels)) == 12


def test_what_each_run_has_of_its_own() -> None:
    runs = plan({"gamma": 0.99, "lam": 0.95}, {"gamma": [0.9, 0.00012345678]}, seed=7, num_seeds=1)
    assert runs.settings(["gamma", "no_option"]) == [{"seed": 7, "gamma": 0.9}, {"seed": 7, "gamma": 0.00012345678}]
    assert runs.settings(()) == [{"seed": 7}, {"seed": 7}]


def test_values_not_swept_are_the_same_in_all_runs() -> None:
    runs = plan(HYPER, {"gamma": [0.5, 0.6]}, seed=0, num_seeds=3)
    np.testing.assert_array_equal(runs.hyper["learning_rate"], np.full(6, 1e-3, np.float32))
    assert {value.dtype for value in runs.hyper.values()} == {np.dtype(np.float32)}
    assert runs.seeds.dtype == np.int64
