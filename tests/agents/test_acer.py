"""ACER's parts against slow references: Retrace, the policy gradient, the trust region, what is replayed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from agents import acer
from agents.common.on_policy import ActorCriticPolicy
from agents.types import Clock
from envs.types import Discrete, Spec

T, N, ACTIONS = 5, 3, 4
SPEC = Spec("any", (2,), "float32", Discrete(ACTIONS), None)


def chances(rng: np.random.Generator, *lead: int) -> np.ndarray:
    return rng.dirichlet(np.ones(ACTIONS), lead).astype(np.float32)


def hyper(**changes: float) -> Any:
    return acer.Hyper(**{name: jnp.float32(value) for name, value in (acer.ACER.configure({})[1] | changes).items()})


def test_retrace_is_that_of_rlax() -> None:
    rng = np.random.default_rng(0)
    reward, q, value = rng.normal(size=(3, T, N)).astype(np.float32)
    discount = (0.9 * (rng.random((T, N)) > 0.3)).astype(np.float32)
    ratio = rng.exponential(size=(T, N)).astype(np.float32)
    last = rng.normal(size=N).astype(np.float32)
    got = acer.retrace(reward, discount, q, value, last, ratio)
    for env in range(N):
        expected = rlax.general_off_policy_returns_from_q_and_v(
            jnp.asarray(q[1:, env]),
            jnp.asarray(np.append(value[1:, env], last[env])),
            jnp.asarray(reward[:, env]),
            jnp.asarray(discount[:, env]),
            jnp.minimum(1.0, jnp.asarray(ratio[1:, env])),
        )
        np.testing.assert_allclose(got[:, env], expected, rtol=1e-4, atol=1e-5)


def test_the_policy_gradient_is_truncated_and_corrected() -> None:
    """Equation 8 one state at a time: d/d pi of each term, written out."""
    rng = np.random.default_rng(1)
    pi, behaviour = chances(rng, T, N), chances(rng, T, N)
    q, advantage = rng.normal(size=(T, N, ACTIONS)).astype(np.float32), rng.normal(size=(T, N)).astype(np.float32)
    action, ratio = rng.integers(ACTIONS, size=(T, N)), pi / behaviour
    c, entropy_weight = 1.5, 0.3
    options = hyper(correction_term=c, ent_coef=entropy_weight)
    got = jax.grad(acer.objective)(pi, jax.nn.one_hot(action, ACTIONS), q, advantage, ratio, options)
    assert (ratio > c).any() and (ratio < c).any()
    for t, n in np.ndindex(T, N):
        expected = np.zeros(ACTIONS)
        expected[action[t, n]] += min(c, ratio[t, n, action[t, n]]) * advantage[t, n] / pi[t, n, action[t, n]]
        for a in range(ACTIONS):
            expected[a] += max(0.0, 1 - c / ratio[t, n, a]) * q[t, n, a]
            expected[a] -= entropy_weight * (np.log(pi[t, n, a]) + 1)
        np.testing.assert_allclose(got[t, n], expected, rtol=2e-3, atol=2e-3)


def test_the_trust_region_changes_only_what_leads_too_far() -> None:
    rng = np.random.default_rng(2)
    pi, average = chances(rng, 200), chances(rng, 200)
    gradient, delta = 3 * rng.normal(size=(200, ACTIONS)).astype(np.float32), 0.5
    got = np.asarray(acer.trusted(jnp.asarray(gradient), jnp.asarray(pi), jnp.asarray(average), delta))
    slope = -average / (pi + acer.TINY)  # of the divergence from the average
    before, after = (slope * gradient).sum(axis=1), (slope * got).sum(axis=1)
    far = before > delta
    assert 20 < far.sum() < 180
    np.testing.assert_array_equal(got[~far], gradient[~far])
    np.testing.assert_allclose(after[far], delta, atol=2e-2)
    # The smallest change that does so: along the slope.
    change = gradient[far] - got[far]
    cosine = (change * slope[far]).sum(axis=1) / np.linalg.norm(change, axis=1) / np.linalg.norm(slope[far], axis=1)
    np.testing.assert_allclose(cosine, 1.0, atol=1e-3)


def test_on_policy_without_a_bound_the_gradient_is_that_of_the_actor_critic() -> None:
    """With behaviour = pi, c large and no trust region, the step is that of log pi times the Retrace advantage."""
    rng = np.random.default_rng(3)
    policy = ActorCriticPolicy(SPEC, (6,), "tanh", 0.0, False, action_values=True)
    params = jax.tree.map(
        lambda x: x + 0.5 * rng.normal(size=x.shape).astype(np.float32), policy.init(jax.random.key(0)).params
    )
    obs, last_obs = rng.normal(size=(T, N, 2)).astype(np.float32), rng.normal(size=(N, 2)).astype(np.float32)
    action, reward = rng.integers(ACTIONS, size=(T, N)), rng.normal(size=(T, N)).astype(np.float32)
    pi = policy.distribution(params, obs).probabilities()
    data = acer.Sequence(obs, last_obs, jnp.asarray(action), jnp.asarray(reward), jnp.zeros((T, N)), pi)
    options = hyper(q_coef=0.0, ent_coef=0.0)
    got = jax.grad(lambda p: acer.loss(p, params, policy, data, options, False)[0])(params)

    q, last_q = policy.value(params, obs), policy.value(params, last_obs)
    value = (pi * q).sum(-1)
    last_value = (policy.distribution(params, last_obs).probabilities() * last_q).sum(-1)
    played = np.take_along_axis(np.asarray(q), action[..., None], -1)[..., 0]
    target = acer.retrace(reward, jnp.full((T, N), 0.99), played, value, last_value, jnp.ones((T, N)))

    def actor(p: Any) -> jax.Array:
        return -jnp.mean(policy.distribution(p, obs).log_prob(action) * jax.lax.stop_gradient(target - value))

    expected = jax.grad(actor)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)


def test_each_environment_replays_a_rollout_of_its_own() -> None:
    ring = jnp.arange(4 * T * N, dtype=jnp.float32).reshape(4, T, N)
    last = jnp.arange(4 * N, dtype=jnp.float32).reshape(4, N)
    replay = acer.Sequence(ring[..., None], last[..., None], ring.astype(jnp.int32), ring, ring, ring[..., None])
    which = np.array([2, 0, 3])
    got = acer._pick(replay, jnp.asarray(which))
    for env in range(N):
        np.testing.assert_array_equal(got.reward[:, env], ring[which[env], :, env])
        np.testing.assert_array_equal(got.obs[:, env, 0], ring[which[env], :, env])
        assert got.last_obs[env, 0] == last[which[env], env]


def test_replays_are_poisson_and_start_when_they_may() -> None:
    clocks = [Clock(jnp.int32(i), jnp.float32(0)) for i in range(400)]
    counts = np.array([int(acer._replays(clock, 4.0, 10)) for clock in clocks])
    assert (counts[:9] == 0).all() and (counts[9:] > 0).any()
    assert 3.7 < counts[9:].mean() < 4.3 and 3.0 < counts[9:].var() < 5.2
    assert int(acer._replays(clocks[50], 0.0, 0)) == 0


def test_a_buffer_that_holds_no_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match="--buffer-size=19 holds no rollout of --n-steps=20"):
        acer.ACER.configure({"buffer_size": 19})
