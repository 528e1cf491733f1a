"""One whole update of PPO1 against a reference written from its equations, one transition at a time."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import ppo1
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
    distance,
    forward,
    log_prob_and_entropy,
    rollout,
    samples,
    setting,
)

HYPER = HYPERS["ppo1"]


def loss(params: dict, data: Sample, entcoeff: float, clip: float) -> jax.Array:
    """Schulman et al. 2017, equation 9, with the value error as it is: weight 1, no half, no clipping."""

    def one(x: Sample) -> jax.Array:
        policy, value = forward(params, x.obs)
        log_prob, entropy = log_prob_and_entropy(policy, x.action)
        ratio = jnp.exp(log_prob) / jnp.exp(x.log_prob)
        surrogate = jnp.minimum(ratio * x.advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * x.advantage)
        return -surrogate + (value - x.target) ** 2 - entcoeff * entropy

    return jnp.mean(jax.vmap(one)(data))


gradient = jax.jit(jax.grad(loss))


def reference(
    state: AgentState,
    batch: Transition,
    minibatches: list[np.ndarray],
    rate: float,
    clip: float,
    hyper: dict[str, float] = HYPER,
) -> dict:
    """Parameters after one step on each of the minibatches, given by their samples' indices."""
    data = samples(state, batch, hyper["gamma"], hyper["lam"])
    data = data._replace(advantage=(data.advantage - data.advantage.mean()) / data.advantage.std())
    params, adam = state.acting.params, Adam(state.acting.params)
    for indices in minibatches:
        grads = gradient(params, Sample(*(column[indices] for column in data)), hyper["entcoeff"], clip)
        params = adam.step(params, grads, rate)
    return params


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_ppo1_update(spec: Spec) -> None:
    """Three full-batch epochs with a schedule, which scales the rate and the clip range alike."""
    given = setting("ppo1", spec, optim_batchsize=4, optim_epochs=3, lr_schedule="linear")
    batch, state = rollout(given, spec, 0.5), given.state
    after, metrics = given.update(state, batch, KEY, given.hyper, QUARTER)

    epochs, rate, clip = [np.arange(12)] * 3, 0.75 * HYPER["optim_stepsize"], 0.75 * HYPER["clip_param"]
    assert distance(after.acting.params, reference(state, batch, epochs, rate, clip)) < 3e-5
    # Each part matters here, so that the comparison above has seen it.
    assert distance(after.acting.params, reference(state, batch, epochs, rate, clip / 0.75)) > 1e-3
    for change in ({"entcoeff": 0.0}, {"lam": 1.0}, {"gamma": 0.5}):
        assert distance(after.acting.params, reference(state, batch, epochs, rate, clip, HYPER | change)) > 1e-3
    np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6)
    np.testing.assert_allclose(metrics["cliprange"], clip, rtol=1e-6)
    assert 0.1 < metrics["clip_fraction"] < 1.0
    assert distance(after.acting.stats, update_stats(state.acting.stats, batch.obs)) < 1e-6


def test_ppo1_minibatches_take_steps_of_every_environment() -> None:
    """Two epochs, two environments of two steps, minibatches of one: one of the 16 orders explains the result.

    This also shows that advantages are standardised over the whole rollout: per minibatch, none would fit.
    """
    given = setting("ppo1", DISCRETE, 2, 2, optim_batchsize=1, optim_epochs=2)
    batch = rollout(given, DISCRETE, 0.5)
    firsts = [(0, 1), (0, 3), (2, 1), (2, 3)]  # row 2 t + n: which step of each environment comes first
    epochs = [(np.array(first), np.array([(row + 2) % 4 for row in first])) for first in firsts]
    orders = list(itertools.product(range(4), repeat=2))
    rate, clip = HYPER["optim_stepsize"], HYPER["clip_param"]
    references = [reference(given.state, batch, [*epochs[i], *epochs[j]], rate, clip) for i, j in orders]
    found = []
    for seed in range(8):
        after = given.update(given.state, batch, jax.random.key(seed), given.hyper, START)[0].acting.params
        fitting = [order for order, params in zip(orders, references) if distance(after, params) < 3e-5]
        assert len(fitting) == 1
        found += fitting
    assert len(set(found)) > 2  # the key decides
    assert any(first != second for first, second in found)  # and every epoch is shuffled anew


def test_minibatches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="--optim-batchsize=64 does not divide --timesteps-per-actorbatch=100"):
        ppo1.make(DISCRETE, ppo1.Config(timesteps_per_actorbatch=100))
