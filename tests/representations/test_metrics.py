"""Metrics against scipy, NumPy and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from representations.metrics import (
    ground_truth_correlation,
    knn_mse,
    nearest_neighbours,
    predict_reward,
    project,
    sample_frames,
)

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 3, 40])
def test_neighbours_are_those_of_a_tree(size, monkeypatch):
    monkeypatch.setattr("representations.metrics._PAIR_BYTES", 8 * 500 * 7)  # several blocks
    states = RANDOM.normal(size=(500, size)).astype(np.float32) + 100
    frames = sample_frames(500, 60, seed=1)
    found = nearest_neighbours(states, frames, 5)
    distances, indices = cKDTree(states.astype(np.float64)).query(states[frames].astype(np.float64), 6)
    np.testing.assert_array_equal(found.nearest, indices[:, 1:])
    np.testing.assert_allclose(found.distances, distances[:, 1:], rtol=1e-5)


def test_a_frame_is_never_its_own_neighbour_though_others_are_equal():
    states = np.repeat(RANDOM.normal(size=(4, 2)), 3, axis=0)
    found = nearest_neighbours(states, np.arange(12), 2)
    assert all(sorted([*row, i]) == [i // 3 * 3, i // 3 * 3 + 1, i // 3 * 3 + 2] for i, row in enumerate(found.nearest))
    with pytest.raises(ValueError, match="take 1 to 11"):
        nearest_neighbours(states, np.arange(12), 12)


def test_knn_mse_is_the_sum_of_its_definition():
    states, truth = RANDOM.normal(size=(80, 4)), RANDOM.normal(size=(80, 3)).astype(np.float32)
    found = nearest_neighbours(states, np.array([3, 50, 7]), 5)
    total = 0.0
    for frame in (3, 50, 7):
        order = sorted((j for j in range(80) if j != frame), key=lambda j: np.linalg.norm(states[j] - states[frame]))
        total += sum(float(((truth[j].astype(float) - truth[frame]) ** 2).sum()) for j in order[:5])
    assert knn_mse(found, truth) == pytest.approx(total / 15)
    np.testing.assert_array_equal(knn_mse(nearest_neighbours(truth, found.frames, 5), np.zeros_like(truth)), 0)


def test_correlation_is_the_best_of_each_axis():
    states, truth = RANDOM.normal(size=(300, 5)), RANDOM.normal(size=(300, 2))
    states[:, 3] += truth[:, 1]
    matrix = np.corrcoef(truth, states, rowvar=False)[:2, 2:]
    np.testing.assert_allclose(ground_truth_correlation(states, truth), np.abs(matrix).max(axis=1))
    np.testing.assert_allclose(ground_truth_correlation(-3 * truth + 1, truth), 1.0)


def test_what_never_changes_correlates_with_nothing():
    states, truth = RANDOM.normal(size=(100, 2)).astype(np.float32), np.full((100, 3), 0.3, np.float32)
    truth[:, 0] = states[:, 0]
    np.testing.assert_allclose(ground_truth_correlation(states, truth), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(ground_truth_correlation(np.full((100, 2), 7.1, np.float32), truth), 0)


def test_rewards_are_predicted_from_states_that_tell_them():
    states = RANDOM.normal(size=(4000, 3)).astype(np.float32)
    starts = np.arange(4000) % 50 == 0
    rewards = np.append((states[1:, 0] > 0.5).astype(np.float32), 0.0)  # of the action that leads to the next state
    told = predict_reward(states, rewards, starts, seed=0)
    assert told.balanced_accuracy > 0.9 > told.majority
    blind = predict_reward(RANDOM.normal(size=(4000, 3)), rewards, starts, seed=0)
    assert blind.balanced_accuracy < 0.6
    with pytest.raises(ValueError, match="cannot be predicted"):
        predict_reward(states, np.zeros(4000, np.float32), starts)


def test_projection_is_that_of_the_singular_vectors():
    states = RANDOM.normal(size=(200, 6)) * [5, 1, 3, 0.1, 0.5, 2]
    _, values, _ = np.linalg.svd(states - states.mean(axis=0))
    np.testing.assert_allclose(np.linalg.norm(project(states, 3), axis=0), values[:3])
    np.testing.assert_allclose(project(states[:, :2], 3)[:, 2], 0)
