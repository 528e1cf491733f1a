"""Folding of episode ends, advantages and the first-episode mask, against slow loops, hand figures and rlax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from agents.common.returns import alive_mask, fold, gae

T, N = 11, 7
GAMMA, LAM = 0.9, 0.8


@pytest.fixture(scope="module")
def rollout() -> dict[str, np.ndarray]:
    """A rollout [T, N] with all four combinations of the flags, at its last step too."""
    rng = np.random.default_rng(3)
    flags = rng.random((2, T, N)) < 0.25
    flags[:, -1, :4] = [[False, False, True, True], [False, True, False, True]]
    value = rng.normal(size=(T, N)).astype(np.float32)
    next_value = rng.normal(size=(T, N)).astype(np.float32)
    terminated, truncated = flags
    # Within an episode the successor is the next row's observation; after an end it is one that no row shows.
    within = ~(terminated | truncated)[:-1]
    next_value[:-1][within] = value[1:][within]
    reward = rng.normal(size=(T, N)).astype(np.float32)
    return {
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "value": value,
        "next_value": next_value,
    }


def advantages(rollout: dict[str, np.ndarray], lam: float) -> np.ndarray:
    """What the code under test makes of a rollout."""
    reward, discount = fold(
        rollout["reward"], rollout["terminated"], rollout["truncated"], rollout["next_value"], jnp.float32(GAMMA)
    )
    return np.asarray(gae(reward, discount, rollout["value"], rollout["next_value"][-1], jnp.float32(lam)))


def slow_advantages(rollout: dict[str, np.ndarray], lam: float) -> np.ndarray:
    """GAE as a sum over the rest of the episode, from its definition."""
    result = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            for k in range(t, T):
                future = 0.0 if rollout["terminated"][k, n] else GAMMA * rollout["next_value"][k, n]
                error = rollout["reward"][k, n] + future - rollout["value"][k, n]
                result[t, n] += (GAMMA * lam) ** (k - t) * error
                if rollout["terminated"][k, n] or rollout["truncated"][k, n]:
                    break
    return result


@pytest.mark.parametrize("lam", [0.0, LAM, 1.0])
def test_advantages_follow_the_definition(rollout: dict[str, np.ndarray], lam: float) -> None:
    np.testing.assert_allclose(advantages(rollout, lam), slow_advantages(rollout, lam), rtol=1e-5, atol=1e-5)


def test_lambda_one_is_the_bootstrapped_return(rollout: dict[str, np.ndarray]) -> None:
    returns = np.zeros((T, N))
    for n in range(N):
        later = rollout["next_value"][-1, n]
        for t in reversed(range(T)):
            if rollout["terminated"][t, n]:
                later = 0.0
            elif rollout["truncated"][t, n]:
                later = rollout["next_value"][t, n]
            later = rollout["reward"][t, n] + GAMMA * later
            returns[t, n] = later
    np.testing.assert_allclose(advantages(rollout, 1.0) + rollout["value"], returns, rtol=1e-5, atol=1e-5)


def test_rlax_agrees(rollout: dict[str, np.ndarray]) -> None:
    reward, discount = fold(
        rollout["reward"], rollout["terminated"], rollout["truncated"], rollout["next_value"], jnp.float32(GAMMA)
    )
    values = np.concatenate([rollout["value"], rollout["next_value"][-1:]])
    oracle = jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)
    np.testing.assert_allclose(advantages(rollout, LAM), oracle(reward, discount, LAM, values), rtol=1e-5, atol=1e-5)
    n_step = jax.vmap(lambda r, d, v: rlax.n_step_bootstrapped_returns(r, d, v, T), 1, 1)
    np.testing.assert_allclose(
        advantages(rollout, 1.0) + rollout["value"], n_step(reward, discount, values[1:]), rtol=1e-5, atol=1e-5
    )


def test_fold_tells_a_time_limit_from_a_death() -> None:
    terminated = jnp.array([[False, True, False, True]])
    truncated = jnp.array([[False, False, True, True]])
    reward, discount = fold(jnp.full((1, 4), 2.0), terminated, truncated, jnp.full((1, 4), 10.0), jnp.float32(0.5))
    np.testing.assert_array_equal(reward, [[2.0, 2.0, 7.0, 2.0]])  # only the cut episode takes in 0.5 * 10
    np.testing.assert_array_equal(discount, [[0.5, 0.0, 0.0, 0.0]])


def test_fold_ignores_a_successor_that_does_not_count() -> None:
    """What lies behind a death may be anything, infinity included, and must not turn into NaN."""
    reward, _ = fold(
        jnp.ones((1, 1)), jnp.ones((1, 1), bool), jnp.zeros((1, 1), bool), jnp.full((1, 1), jnp.inf), jnp.float32(0.9)
    )
    np.testing.assert_array_equal(reward, [[1.0]])


def test_alive_mask_keeps_the_first_episode_and_its_end() -> None:
    terminated = jnp.array([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]], bool)
    truncated = jnp.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], bool)
    expected = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]], bool)
    mask = alive_mask(terminated, truncated)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)
