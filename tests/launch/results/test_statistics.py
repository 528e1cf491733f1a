"""Statistics of runs: by hand on a small case, against rliable's results for it, and against scipy."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats

from launch.results import statistics

# [runs, tasks] of two methods. The bounds were printed by rliable 1.2.0 (50,000 and, for the last, 20,000 resamplings).
X = list(np.array([[0.1, 0.9], [0.4, 1.2], [0.35, 0.7], [0.8, 0.2], [0.6, 1.0]]).T)
Y = list(np.array([[0.2, 0.5], [0.3, 0.9], [0.35, 0.6], [0.1, 0.2]]).T)
RLIABLE = {
    statistics.iqm: (0.625, 0.366667, 0.833333),
    statistics.mean: (0.625, 0.44, 0.8),
    statistics.optimality_gap: (0.395, 0.235, 0.57),
}


def test_values_by_hand():
    # Task means 2.25 / 5 = 0.45 and 4.0 / 5 = 0.8.
    assert statistics.mean(X) == pytest.approx((0.45 + 0.8) / 2)
    assert statistics.median(X) == pytest.approx((0.45 + 0.8) / 2)
    # Ten values; floor(10 / 4) = 2 fall at either end, six stay.
    assert statistics.iqm(X) == pytest.approx((0.35 + 0.4 + 0.6 + 0.7 + 0.8 + 0.9) / 6)
    # Above 1 nothing is gained: 1.2 counts as 1.
    assert statistics.optimality_gap(X) == pytest.approx(1 - (2.25 + 3.8) / 10)
    # First task: 0.1 beats nothing and ties with 0.1; 0.4, 0.8 and 0.6 beat all four; 0.35 beats three and ties once.
    first = (0.5 + 4 + 3.5 + 4 + 4) / 20
    # Second: 0.9 beats three and ties, 1.2 and 1.0 beat four, 0.7 beats three, 0.2 ties once.
    second = (3.5 + 4 + 3 + 0.5 + 4) / 20
    assert statistics.probability_of_improvement(X, Y) == pytest.approx((first + second) / 2)
    profile = statistics.performance_profile(X, np.array([0.0, 0.35, 0.5, 0.9]))
    np.testing.assert_allclose(profile, [1.0, 0.7, 0.6, 0.2])


@pytest.mark.parametrize("statistic", RLIABLE)
def test_intervals_are_those_of_rliable(statistic):
    value, low, high = RLIABLE[statistic]
    estimate = statistics.interval(statistic, X)
    assert estimate.value == pytest.approx(value)
    bounds = statistics.bootstrap(statistic, X, repetitions=50_000)
    np.testing.assert_allclose(bounds, (low, high), atol=0.011)  # scores have steps of 0.005 there
    np.testing.assert_allclose(estimate[1:], (low, high), atol=0.03)


def test_interval_of_the_probability_of_improvement_is_that_of_rliable():
    bounds = statistics.bootstrap(statistics.probability_of_improvement, X, Y, repetitions=20_000)
    np.testing.assert_allclose(bounds, (0.525, 0.975), atol=0.013)


def test_resampling_stays_within_tasks():
    scores = [np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])]
    first, second = statistics.resample(scores, 500, np.random.default_rng(0))
    assert set(np.unique(first)) == {1.0, 2.0} and set(np.unique(second)) == {10.0, 20.0, 30.0}
    assert first.shape == (500, 2) and second.shape == (500, 3)


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 50])
def test_trimmed_mean_is_scipys(count):
    values = np.random.default_rng(count).normal(size=(6, count))
    np.testing.assert_allclose(statistics.trimmed_mean(values), scipy.stats.trim_mean(values, 0.25, axis=1))
    np.testing.assert_allclose(statistics.trimmed_mean(values.T, axis=0), statistics.trimmed_mean(values))


def test_band_is_the_bootstrap_of_each_point():
    curves = np.random.default_rng(1).normal(size=(8, 5)).cumsum(axis=1)
    centre, low, high = statistics.band(curves, repetitions=20_000)
    for point in range(5):
        assert centre[point] == pytest.approx(statistics.iqm([curves[:, point]]))
        expected = statistics.bootstrap(statistics.iqm, [curves[:, point]], repetitions=20_000, seed=5)
        np.testing.assert_allclose((low[point], high[point]), expected, atol=0.06)


def test_one_run_has_no_interval():
    assert np.isnan(statistics.interval(statistics.iqm, [np.array([3.0])])[1:]).all()
    centre, low, _ = statistics.band(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(centre, [1.0, 2.0])
    assert np.isnan(low).all()


def test_welch_is_scipys_and_not_students():
    rng = np.random.default_rng(2)
    for n, m, scale in ((5, 9, 1.0), (3, 30, 8.0), (12, 4, 0.1)):
        x, y = rng.normal(size=n), rng.normal(0.7, scale, size=m)
        ours, theirs = statistics.welch(x, y), scipy.stats.ttest_ind(x, y, equal_var=False)
        assert ours.t == pytest.approx(theirs.statistic)
        assert ours.dof == pytest.approx(theirs.df)
        assert ours.p == pytest.approx(theirs.pvalue)
        assert ours.p != pytest.approx(scipy.stats.ttest_ind(x, y).pvalue, rel=1e-3)
    assert np.isnan(statistics.welch(np.ones(1), np.ones(5)).p) and np.isnan(statistics.welch(np.ones(4), np.ones(5)).p)


def test_hundreds_of_runs_take_moments():
    start = time.perf_counter()
    scores = [np.random.default_rng(task).normal(size=50) for task in range(10)]
    statistics.interval(statistics.iqm, scores)
    statistics.interval(statistics.probability_of_improvement, scores, scores)
    statistics.band(np.random.default_rng(0).normal(size=(500, 80)))
    assert time.perf_counter() - start < 20.0
