"""One whole update of TRPO against a reference with a dense Fisher matrix, one transition at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from agents import trpo
from agents.common.normalizer import update_stats
from agents.types import AgentState, Transition
from envs.types import Spec
from tests.loss_cases import (
    CONTINUOUS,
    DISCRETE,
    HYPERS,
    KEY,
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

HYPER = HYPERS["trpo"]
STRIDE, CG_ITERS, VF_ITERS = 2, 3, 2
OPTIONS = {"fisher_stride": STRIDE, "cg_iters": CG_ITERS, "vf_iters": VF_ITERS, "vf_batchsize": 4}


def surrogate(params: dict, data: Sample, entcoeff: float) -> jax.Array:
    """Schulman et al. 2015, equation 14, with an entropy bonus."""

    def one(x: Sample) -> jax.Array:
        log_prob, entropy = log_prob_and_entropy(forward(params, x.obs)[0], x.action)
        return jnp.exp(log_prob) / jnp.exp(x.log_prob) * x.advantage + entcoeff * entropy

    return jnp.mean(jax.vmap(one)(data))


def divergence(params: dict, old: dict, obs: np.ndarray) -> jax.Array:
    """Mean Kullback-Leibler divergence of the policy at `params` from the one at `old`, from its definition."""

    def one(o: jax.Array) -> jax.Array:
        p, q = forward(old, o)[0], forward(params, o)[0]
        if len(p) == 1:
            p, q = jax.nn.softmax(p[0]), jax.nn.softmax(q[0])
            return jnp.sum(p * jnp.log(p / q))
        (mean, log_std), (other, log_other) = p, q
        std, wide = jnp.exp(log_std), jnp.exp(log_other)
        return jnp.sum(jnp.log(wide / std) + (std**2 + (mean - other) ** 2) / (2 * wide**2) - 0.5)

    return jnp.mean(jax.vmap(one)(obs))


def value_loss(params: dict, data: Sample) -> jax.Array:
    return jnp.mean(jax.vmap(lambda x: (forward(params, x.obs)[1] - x.target) ** 2)(data))


measures = jax.jit(lambda p, old, data, c: (surrogate(p, data, c), divergence(p, old, data.obs)))
surrogate_gradient = jax.jit(jax.grad(surrogate))
fisher = jax.jit(jax.hessian(lambda flat, unravel, old, obs: divergence(unravel(flat), old, obs)), static_argnums=1)
value_gradient = jax.jit(jax.grad(value_loss))


def reference(state: AgentState, batch: Transition, hyper: dict[str, float] = HYPER, stride: int = STRIDE) -> tuple:
    """Parameters after one update, and the fraction of the full step that it took."""
    data = samples(state, batch, hyper["gamma"], hyper["lam"])
    scaled = data._replace(advantage=(data.advantage - data.advantage.mean()) / data.advantage.std())
    params = state.acting.params
    old, unravel = ravel_pytree(params)
    rows = np.arange(len(data.obs)).reshape(batch.reward.shape)[::stride].reshape(-1)
    matrix = np.asarray(fisher(old, unravel, params, data.obs[rows]), np.float64) + hyper["cg_damping"] * np.eye(
        old.size
    )
    gradient = np.asarray(ravel_pytree(surrogate_gradient(params, scaled, hyper["entcoeff"]))[0], np.float64)
    x, residual, direction = np.zeros(old.size), gradient, gradient
    for _ in range(CG_ITERS):
        length = residual @ residual / (direction @ matrix @ direction)
        x, after = x + length * direction, residual - length * matrix @ direction
        direction, residual = after + (after @ after) / (residual @ residual) * direction, after
    step = x * np.sqrt(hyper["max_kl"] / (0.5 * x @ matrix @ x))
    before = measures(params, params, scaled, hyper["entcoeff"])[0]
    taken = 0.0
    for fraction in 0.5 ** np.arange(10):
        moved = unravel(jnp.asarray(old + fraction * step, jnp.float32))
        objective, kl = measures(moved, params, scaled, hyper["entcoeff"])
        if kl <= 1.5 * hyper["max_kl"] and objective >= before:
            params, taken = moved, fraction
            break
    adam = Adam(params, 1e-8)
    for _ in range(VF_ITERS):
        params = adam.step(params, value_gradient(params, data), hyper["vf_stepsize"])
    return params, taken


def policy_part(params: Any) -> dict:
    """Parameters of the policy."""
    return {name: x for name, x in params["params"].items() if name.startswith("policy")}


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_trpo_update(spec: Spec) -> None:
    given = setting("trpo", spec, **OPTIONS)
    batch, state = rollout(given, spec, 0.0), given.state
    after, metrics = given.update(state, batch, KEY, given.hyper, START)
    expected, taken = reference(state, batch)
    assert distance(after.acting.params, expected) < 1e-4
    assert distance(policy_part(after.acting.params), policy_part(state.acting.params)) > 1e-2
    assert taken > 0 and metrics["step_fraction"] == taken
    assert 0.1 * HYPER["max_kl"] < metrics["kl"] <= 1.5 * HYPER["max_kl"] and metrics["improvement"] > 1e-3
    # Each part matters here, so that the comparison above has seen it.
    for change in ({"cg_damping": 0.5}, {"entcoeff": 0.0}, {"max_kl": 0.01}, {"lam": 1.0}):
        assert distance(after.acting.params, reference(state, batch, HYPER | change)[0]) > 1e-3, change
    assert distance(after.acting.params, reference(state, batch, stride=1)[0]) > 1e-3
    assert distance(after.acting.stats, update_stats(state.acting.stats, batch.obs)) < 1e-6


def test_trpo_searches_for_a_step_within_the_trust_region() -> None:
    """Far from the quadratic model's validity the full step is too long, and shorter ones are tried."""
    given = setting("trpo", CONTINUOUS, **OPTIONS)
    batch = rollout(given, CONTINUOUS, 0.0)
    found = []
    for max_kl in (1.0, 30.0):
        hyper = HYPER | {"max_kl": max_kl, "cg_damping": 1e-3}
        tree = trpo.Hyper(**{name: jnp.float32(value) for name, value in hyper.items()})
        after, metrics = given.update(given.state, batch, KEY, tree, START)
        expected, taken = reference(given.state, batch, hyper)
        assert metrics["step_fraction"] == taken
        assert distance(after.acting.params, expected) < 2e-3
        found.append(taken)
    assert min(found) < 1.0, found


def test_without_an_advantage_the_policy_stays() -> None:
    """Rewards of zero, values of zero: nothing to gain, nothing to divide by."""
    given = setting("trpo", DISCRETE, **OPTIONS)
    batch = rollout(given, DISCRETE, 0.0)
    params = jax.tree.map(jnp.zeros_like, given.state.acting.params)
    state = given.state._replace(acting=given.state.acting._replace(params=params))
    extras = {"log_prob": np.full_like(batch.extras["log_prob"], -np.log(3.0))}
    batch = batch._replace(reward=np.zeros_like(batch.reward), extras=extras)
    after, metrics = given.update(state, batch, KEY, given.hyper, START)
    assert distance(after.acting.params, params) == 0.0
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_value_function_is_fitted_in_minibatches_of_each_environment() -> None:
    """With two environments of two steps and minibatches of one step, either environment's order may be either."""
    options = OPTIONS | {"vf_batchsize": 1, "vf_iters": 1}
    given = setting("trpo", DISCRETE, 2, 2, **options)
    batch = rollout(given, DISCRETE, 0.0)
    data = samples(given.state, batch, HYPER["gamma"], HYPER["lam"])
    fits = []
    for first in ((0, 1), (0, 3), (2, 1), (2, 3)):  # row 2 t + n: which step of each environment comes first
        params, adam = given.state.acting.params, Adam(given.state.acting.params, 1e-8)
        for rows in (np.array(first), np.array([(row + 2) % 4 for row in first])):
            part = Sample(*(column[rows] for column in data))
            params = adam.step(params, value_gradient(params, part), HYPER["vf_stepsize"])
        fits.append({name: x for name, x in params["params"].items() if name.startswith("value")})
    seen = set()
    for seed in range(8):
        after = given.update(given.state, batch, jax.random.key(seed), given.hyper, START)[0].acting.params["params"]
        after = {name: x for name, x in after.items() if name.startswith("value")}
        fitting = [i for i, fit in enumerate(fits) if distance(after, fit) < 3e-5]
        assert len(fitting) == 1
        seen.update(fitting)
    assert len(seen) > 2


@pytest.mark.slow
def test_on_pictures_the_policy_step_moves_the_shared_torso() -> None:
    """And the value step too; a minibatch that does not divide is refused."""
    spec = Spec("pictures", (36, 36, 3), "uint8", DISCRETE.action, 10)
    agent = trpo.make(spec, trpo.Config(num_cpu=2, timesteps_per_batch=2, vf_batchsize=2, vf_iters=1))
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 256, (2, 2, 36, 36, 3)).astype(np.uint8)
    flags = np.zeros((2, 2), bool)
    reward = np.array([[1.0, -1.0], [0.5, 2.0]], np.float32)

    @jax.jit
    def play(vf_stepsize: jax.Array) -> tuple:
        hyper = trpo.Hyper(**{**trpo.TRPO.configure({})[1], "vf_stepsize": vf_stepsize})
        state = agent.init(KEY, hyper)
        action, extras = jax.vmap(lambda o, k: agent.act(state, o, k, True))(obs, jax.random.split(KEY, 2))
        batch = Transition(obs, action, reward, flags, flags, obs, extras)
        after, metrics = agent.update(state, batch, KEY, hyper, START)
        return state.acting.params["params"], after.acting.params["params"], metrics

    before, after, metrics = play(0.0)
    moved = {name: distance(before[name], after[name]) for name in before}
    assert metrics["step_fraction"] > 0 and moved["value_head"] == 0.0
    assert min(moved["policy_torso"], moved["policy_head"]) > 1e-6
    both = play(1e-3)[1]
    assert distance(both["policy_torso"], after["policy_torso"]) > 1e-4
    assert distance(both["policy_head"], after["policy_head"]) == 0.0
    assert distance(both["value_head"], after["value_head"]) > 1e-4


def test_minibatches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="--vf-batchsize=128 does not divide --timesteps-per-batch=100"):
        trpo.make(DISCRETE, trpo.Config(timesteps_per_batch=100))
