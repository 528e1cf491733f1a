"""Running statistics against NumPy's over everything seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.common.normalizer import (
    CLIP,
    RunningStats,
    init_returns,
    init_stats,
    normalize,
    scale_rewards,
    update_stats,
)

RNG = np.random.default_rng(1)
SCALE, SHIFT = np.array([1.0, 100.0, 1e-3], np.float32), np.array([0.0, -500.0, 3.0], np.float32)


def batches(*lengths: int) -> list[np.ndarray]:
    """Observation batches [T, 4, 3] of components that differ much in scale and place."""
    return [(RNG.normal(size=(t, 4, 3)) * SCALE + SHIFT).astype(np.float32) for t in lengths]


def test_statistics_are_those_of_all_batches_together() -> None:
    stats, parts = init_stats((3,)), batches(5, 1, 17)
    for part in parts:
        stats = update_stats(stats, jnp.asarray(part))
    everything = np.concatenate(parts).reshape(-1, 3)
    # The start counts as 1e-4 observations of mean 0 and variance 1, which shows in the second component.
    np.testing.assert_allclose(stats.mean, everything.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats.var[:2], everything.var(0)[:2], rtol=1e-2)
    np.testing.assert_allclose(stats.number, len(everything), rtol=1e-5)


def test_variance_without_the_start_is_exact() -> None:
    stats, parts = RunningStats(jnp.zeros(3), jnp.zeros(3), jnp.float32(0.0)), batches(8, 8)
    for part in parts:
        stats = update_stats(stats, jnp.asarray(part))
    everything = np.concatenate(parts).reshape(-1, 3).astype(float)
    np.testing.assert_allclose(stats.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.var, everything.var(0), rtol=2e-3)


def test_statistics_stay_where_they_are_in_a_long_training() -> None:
    """float32 counts to 2^24 in ones, and does not resolve what a single observation adds to a variance."""
    stats = RunningStats(jnp.zeros(1), jnp.ones(1), jnp.float32(2.0**24))
    draws = np.random.default_rng(0).normal(size=(2_000_000, 1)).astype(np.float32)
    after, _ = jax.jit(lambda s, x: jax.lax.scan(lambda s, row: (update_stats(s, row[None]), None), s, x))(stats, draws)
    assert after.number == 2.0**24
    assert float(after.var[0]) == pytest.approx(1.0, abs=0.005) and abs(float(after.mean[0])) < 0.005


def test_weights_leave_steps_out() -> None:
    (obs,) = batches(6)
    keep = RNG.random((6, 4)) < 0.5
    polluted = np.where(keep[..., None], obs, 1e6).astype(np.float32)
    weighted = update_stats(init_stats((3,)), jnp.asarray(polluted), jnp.asarray(keep))
    chosen = update_stats(init_stats((3,)), jnp.asarray(obs[keep]))
    for got, expected in zip(weighted, chosen):
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_batch_of_no_weight_changes_nothing() -> None:
    (obs, more) = batches(6, 2)
    stats = update_stats(init_stats((3,)), jnp.asarray(obs))
    after = update_stats(stats, jnp.asarray(more), jnp.zeros((2, 4)))
    for got, expected in zip(after, stats):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_observations_of_any_rank() -> None:
    obs = RNG.normal(size=(7, 2, 5, 3)).astype(np.float32)
    stats = update_stats(init_stats((5, 3)), jnp.asarray(obs))
    np.testing.assert_allclose(stats.mean, obs.mean((0, 1)), atol=1e-4)
    np.testing.assert_allclose(stats.var, obs.var((0, 1)), rtol=1e-3, atol=1e-4)


def test_normalize_standardises_and_clips() -> None:
    stats = RunningStats(jnp.array([1.0, 0.0]), jnp.array([4.0, 0.0]), jnp.float32(10.0))
    got = normalize(stats, jnp.array([[5.0, 0.0], [-100.0, 1.0], [100.0, -1.0]]))
    np.testing.assert_allclose(got, [[2.0, 0.0], [-CLIP, CLIP], [CLIP, -CLIP]], rtol=1e-6)


def test_normalized_observations_are_standard() -> None:
    (obs,) = batches(500)
    stats = update_stats(init_stats((3,)), jnp.asarray(obs))
    got = np.asarray(normalize(stats, jnp.asarray(obs)))[..., :2]
    np.testing.assert_allclose(got.mean((0, 1)), 0.0, atol=1e-2)
    np.testing.assert_allclose(got.std((0, 1)), 1.0, atol=1e-2)


def test_pictures_pass_untouched() -> None:
    picture = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    assert normalize((), picture) is picture


def test_rewards_are_divided_by_the_spread_of_returns() -> None:
    """Over two rollouts, whose episodes go on from one into the other; the first reward is clipped."""
    known, gamma, seen, returns = init_returns(2), 0.9, [], np.zeros(2)
    for part in range(2):
        reward, done = RNG.normal(size=(50, 2)).astype(np.float32), RNG.random((50, 2)) < 0.1
        if part == 0:
            reward[0, 0] = 1000.0
        got, known = scale_rewards(known, jnp.asarray(reward), jnp.asarray(done), gamma)
        for t in range(50):
            returns = gamma * returns + reward[t]
            seen.append(returns)
            returns = np.where(done[t], 0.0, returns)
        expected = np.clip(reward / np.std(seen), -CLIP, CLIP)
        np.testing.assert_allclose(got, expected, rtol=1e-3)
        np.testing.assert_allclose(known.returns, returns, rtol=1e-4, atol=1e-4)
    assert np.abs(reward / np.std(seen)).max() < CLIP
