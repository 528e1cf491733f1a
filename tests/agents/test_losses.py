"""One whole update of A2C and PPO2 against references written from their equations, one transition at a time."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.common.normalizer import update_stats
from agents.types import AgentState, Transition
from envs.types import Spec
from tests.loss_cases import (
    CONTINUOUS,
    DISCRETE,
    HYPERS,
    KEY,
    QUARTER,
    START,
    Adam,
    Sample,
    Setting,
    clipped,
    distance,
    forward,
    log_prob_and_entropy,
    rollout,
    samples,
    setting,
)

A2C_HYPER, PPO_HYPER = HYPERS["a2c"], HYPERS["ppo2"]


def a2c_setting(spec: Spec) -> Setting:
    """A2C with a falling rate."""
    return setting("a2c", spec, lr_schedule="linear")


def ppo_setting(spec: Spec) -> Setting:
    """PPO2 with three full-batch epochs and everything scheduled."""
    return setting("ppo2", spec, nminibatches=1, noptepochs=3, lr_schedule="linear", clip_schedule="linear")


# -- the references -----------------------------------------------------------------------------------------------


def a2c_loss(params: dict, data: Sample, hyper: dict[str, float]) -> jax.Array:
    """Mnih et al. 2016 with a value loss and an entropy bonus, averaged over the batch."""

    def one(x: Sample) -> jax.Array:
        policy, value = forward(params, x.obs)
        log_prob, entropy = log_prob_and_entropy(policy, x.action)
        value_error = (x.target - value) ** 2
        return -log_prob * x.advantage + hyper["vf_coef"] * value_error - hyper["ent_coef"] * entropy

    return jnp.mean(jax.vmap(one)(data))


def ppo_loss(params: dict, data: Sample, hyper: dict[str, float], clip: float, clip_value: bool) -> jax.Array:
    """Schulman et al. 2017, equations 7 and 9, with advantages standardised and the value clipped like the ratio."""
    scaled = (data.advantage - data.advantage.mean()) / (data.advantage.std() + 1e-8)

    def one(x: Sample) -> jax.Array:
        policy, value = forward(params, x.obs)
        log_prob, entropy = log_prob_and_entropy(policy, x.action)
        ratio = jnp.exp(log_prob) / jnp.exp(x.log_prob)
        policy_loss = jnp.maximum(-x.advantage * ratio, -x.advantage * jnp.clip(ratio, 1 - clip, 1 + clip))
        value_error = (value - x.target) ** 2
        if clip_value:
            moved = jnp.where(jnp.abs(value - x.value) > clip, x.value + clip * jnp.sign(value - x.value), value)
            value_error = jnp.maximum(value_error, (moved - x.target) ** 2)
        return policy_loss + hyper["vf_coef"] * 0.5 * value_error - hyper["ent_coef"] * entropy

    return jnp.mean(jax.vmap(one)(data._replace(advantage=scaled)))


a2c_gradient = jax.jit(jax.grad(a2c_loss))
ppo_gradient = jax.jit(jax.grad(ppo_loss), static_argnums=4)


def ppo_reference(
    state: AgentState,
    batch: Transition,
    minibatches: list[np.ndarray],
    rate: float,
    clip: float,
    clip_value: bool = True,
    hyper: dict[str, float] = PPO_HYPER,
) -> Any:
    """Parameters after one step on each of the minibatches, given by their samples' indices."""
    data = samples(state, batch, hyper["gamma"], hyper["lam"])
    params, adam = state.acting.params, Adam(state.acting.params)
    for indices in minibatches:
        grads = ppo_gradient(params, Sample(*(column[indices] for column in data)), hyper, clip, clip_value)
        params = adam.step(params, clipped(grads, hyper["max_grad_norm"])[0], rate)
    return params


# -- A2C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_a2c_update(spec: Spec) -> None:
    given = a2c_setting(spec)
    batch, acting = rollout(given, spec, 0.0), given.state.acting
    after, metrics = given.update(given.state, batch, KEY, given.hyper, QUARTER)

    data = samples(given.state, batch, A2C_HYPER["gamma"], A2C_HYPER["lam"])
    grads, norm = clipped(a2c_gradient(acting.params, data, A2C_HYPER), A2C_HYPER["max_grad_norm"])
    assert norm > 2 * A2C_HYPER["max_grad_norm"]  # else the clip is not tested
    rate, alpha, epsilon = 0.75 * A2C_HYPER["learning_rate"], A2C_HYPER["alpha"], A2C_HYPER["epsilon"]
    expected = jax.tree.map(
        lambda p, g: p - rate * g / np.sqrt(alpha * 1.0 + (1 - alpha) * g**2 + epsilon), acting.params, grads
    )
    assert distance(after.acting.params, expected) < 1e-5
    assert distance(after.acting.params, acting.params) > 1e-2
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["learning_rate"], 0.075, rtol=1e-6)
    assert distance(after.acting.stats, update_stats(acting.stats, batch.obs)) < 1e-6


def test_a2c_normalizes_advantages_on_demand() -> None:
    given = setting("a2c", DISCRETE, normalize_advantage=True)
    batch = rollout(given, DISCRETE, 0.0)
    _, metrics = given.update(given.state, batch, KEY, given.hyper, START)
    data = samples(given.state, batch, A2C_HYPER["gamma"], A2C_HYPER["lam"])
    scaled = (data.advantage - data.advantage.mean()) / data.advantage.std()
    grads = a2c_gradient(given.state.acting.params, data._replace(advantage=scaled), A2C_HYPER)
    np.testing.assert_allclose(metrics["grad_norm"], clipped(grads, 1.0)[1], rtol=1e-4)


# -- PPO2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_ppo2_update(spec: Spec) -> None:
    """Three full-batch epochs: the first has ratios outside the clip range, the later ones values too."""
    given = ppo_setting(spec)
    batch, state = rollout(given, spec, 0.5), given.state
    after, metrics = given.update(state, batch, KEY, given.hyper, QUARTER)

    epochs, rate, clip = [np.arange(12)] * 3, 0.75 * PPO_HYPER["learning_rate"], 0.75 * PPO_HYPER["cliprange"]
    assert distance(after.acting.params, ppo_reference(state, batch, epochs, rate, clip)) < 3e-5
    # Each part matters here, so that the comparison above has seen it.
    assert distance(after.acting.params, ppo_reference(state, batch, epochs, rate, clip, clip_value=False)) > 1e-3
    assert distance(after.acting.params, ppo_reference(state, batch, epochs, rate, 2 * clip)) > 1e-3
    no_entropy = PPO_HYPER | {"ent_coef": 0.0}
    assert distance(after.acting.params, ppo_reference(state, batch, epochs, rate, clip, hyper=no_entropy)) > 1e-3
    np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6)
    np.testing.assert_allclose(metrics["cliprange"], clip, rtol=1e-6)
    assert distance(after.acting.stats, update_stats(state.acting.stats, batch.obs)) < 1e-6


def test_ppo2_minibatches_split_and_reshuffle_every_epoch() -> None:
    """Two epochs of two halves of four samples: exactly one of the 36 possible orders explains the result.

    This also shows that advantages are standardised per minibatch: per batch, none would fit.
    """
    given = setting("ppo2", DISCRETE, 2, 2, nminibatches=2, noptepochs=2, lr_schedule="constant", clip_value=False)
    batch = rollout(given, DISCRETE, 0.5)
    halves = [(np.array(a), np.setdiff1d(np.arange(4), a)) for a in itertools.combinations(range(4), 2)]
    orders = list(itertools.product(range(6), repeat=2))
    references = [
        ppo_reference(given.state, batch, [*halves[i], *halves[j]], 0.1, 0.2, clip_value=False) for i, j in orders
    ]
    found = []
    for seed in range(6):
        after = given.update(given.state, batch, jax.random.key(seed), given.hyper, START)[0].acting.params
        fitting = [order for order, reference in zip(orders, references) if distance(after, reference) < 3e-5]
        assert len(fitting) == 1
        found += fitting
    assert len(set(found)) > 2  # the key decides
    assert any(first != second for first, second in found)  # and every epoch is shuffled anew


def test_ratio_is_one_in_the_first_minibatch() -> None:
    """Acting and learning see the same statistics, although the rollout's own observations change them afterwards."""
    given = setting("ppo2", CONTINUOUS, nminibatches=1, noptepochs=1)
    hyper = dataclasses.replace(given.hyper, cliprange=jnp.float32(1e-4))
    act = jax.jit(jax.vmap(lambda s, o, k: given.agent.act(s, o, k, True), (None, 0, 0)))
    state, batch = given.state, rollout(given, CONTINUOUS, 0.0)
    for _ in range(3):
        action, extras = act(state, batch.obs, jax.random.split(KEY, 4))
        before = state.acting.stats
        state, metrics = given.update(state, batch._replace(action=action, extras=extras), KEY, hyper, START)
        assert metrics["clip_fraction"] == 0.0
        assert abs(metrics["approx_kl"]) < 1e-6
        assert distance(before, state.acting.stats) > 0.01  # updated first, they would have shown


# -- both ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [a2c_setting, ppo_setting], ids=["a2c", "ppo2"])
def test_a_time_limit_bootstraps_and_a_death_does_not(build: Any) -> None:
    given = build(DISCRETE)
    batch = rollout(given, DISCRETE, 0.0)
    before = given.update(given.state, batch, KEY, given.hyper, START)[0].acting.params

    def effect(t: int, n: int) -> float:
        """How much another successor at step t of environment n changes the update."""
        next_obs = batch.next_obs.copy()
        next_obs[t, n] = -next_obs[t, n]
        after, _ = given.update(given.state, batch._replace(next_obs=next_obs), KEY, given.hyper, START)
        return distance(before, after.acting.params)

    assert batch.terminated[0, 0] and effect(0, 0) == 0.0
    assert batch.terminated[1, 2] and batch.truncated[1, 2] and effect(1, 2) == 0.0  # a death at the time limit
    assert batch.truncated[2, 1] and effect(2, 1) > 1e-4
    assert not (batch.terminated | batch.truncated)[-1, 0] and effect(-1, 0) > 1e-4  # the rollout's end cuts too
