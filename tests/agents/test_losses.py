"""One whole update of A2C and PPO2 against references written from their equations, one transition at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import a2c, ppo2
from agents.common.normalizer import RunningStats, update_stats
from agents.types import Agent, AgentState, Clock, Transition
from envs.types import Box, Discrete, Spec

DISCRETE = Spec("discrete", (3,), "float32", Discrete(3), 10)
CONTINUOUS = Spec("continuous", (3,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), 10)
KEY = jax.random.key(0)
START = Clock(jnp.int32(0), jnp.float32(0.0))
QUARTER = Clock(jnp.int32(7), jnp.float32(0.25))
A2C_HYPER = {
    "learning_rate": 0.1,
    "gamma": 0.9,
    "lam": 0.7,
    "vf_coef": 0.7,
    "ent_coef": 0.3,
    "max_grad_norm": 0.4,
    "alpha": 0.8,
    "epsilon": 1e-2,
}
PPO_HYPER = {
    "learning_rate": 0.1,
    "gamma": 0.9,
    "lam": 0.7,
    "cliprange": 0.2,
    "vf_coef": 0.7,
    "ent_coef": 0.3,
    "max_grad_norm": 0.4,
}


class Sample(NamedTuple):
    """What the losses need, leaves [samples, ...]."""

    obs: np.ndarray  # normalised
    action: np.ndarray
    log_prob: np.ndarray
    value: np.ndarray
    advantage: np.ndarray
    target: np.ndarray


# -- the setting --------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """An agent with a tiny network, far from its start."""

    agent: Agent
    update: Any  # jitted
    hyper: Any
    state: AgentState


@functools.cache
def setting(module: Any, spec: Spec, num_cpu: int = 3, n_steps: int = 4, **options: Any) -> Setting:
    """Build an agent whose parameters are far from their small start and whose observation statistics are at work."""
    agent = module.make(spec, module.Config(num_cpu=num_cpu, n_steps=n_steps, net_arch=(4,), **options))
    values = A2C_HYPER if module is a2c else PPO_HYPER
    hyper = module.Hyper(**{name: jnp.float32(value) for name, value in values.items()})
    state = jax.jit(agent.init)(KEY, hyper)
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda x: np.asarray(x) + 0.7 * rng.normal(size=x.shape).astype(np.float32), state.acting.params
    )
    stats = RunningStats(jnp.array([0.5, -0.5, 0.0]), jnp.array([4.0, 0.25, 1.0]), jnp.float32(40.0))
    state = state._replace(acting=state.acting._replace(params=params, stats=stats))
    return Setting(agent, jax.jit(agent.update), hyper, state)


def a2c_setting(spec: Spec) -> Setting:
    """A2C with a falling rate."""
    return setting(a2c, spec, lr_schedule="linear")


def ppo_setting(spec: Spec) -> Setting:
    """PPO2 with three full-batch epochs and everything scheduled."""
    return setting(ppo2, spec, nminibatches=1, noptepochs=3, lr_schedule="linear", clip_schedule="linear")


def rollout(given: Setting, spec: Spec, ratio_noise: float) -> Transition:
    """Random transitions with every kind of end; old log probabilities are off by up to `ratio_noise`."""
    lead = (given.agent.traits.rollout_length, given.agent.traits.num_envs)
    rng = np.random.default_rng(5)
    obs = rng.normal(size=(*lead, 3)).astype(np.float32)
    next_obs = rng.normal(size=(*lead, 3)).astype(np.float32)
    terminated, truncated = np.zeros(lead, bool), np.zeros(lead, bool)
    terminated[0, 0] = truncated[lead[0] // 2, 1] = True
    if lead[1] > 2:
        terminated[-1, 2] = truncated[1, 2] = terminated[1, 2] = True
    within = ~(terminated | truncated)[:-1]
    next_obs[:-1][within] = obs[1:][within]
    discrete = isinstance(spec.action, Discrete)
    action = rng.integers(0, 3, lead).astype(np.int32) if discrete else rng.normal(size=(*lead, 2)).astype(np.float32)
    seen = standardised(given.state.acting.stats, obs).reshape(-1, 3)
    log_prob = log_probs(given.state.acting.params, seen, action.reshape(len(seen), *action.shape[2:]))
    log_prob = np.asarray(log_prob).reshape(lead) + rng.uniform(-ratio_noise, ratio_noise, lead).astype(np.float32)
    reward = rng.normal(size=lead).astype(np.float32)
    return Transition(obs, action, reward, terminated, truncated, next_obs, {"log_prob": log_prob})


# -- the references -----------------------------------------------------------------------------------------------


def forward(params: dict, obs: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Policy output and value of one normalised observation [3]."""
    p = params["params"]

    def layer(name: str, x: jax.Array) -> jax.Array:
        return x @ p[name]["Dense_0"]["kernel"] + p[name]["Dense_0"]["bias"]

    policy = (layer("policy_head", jnp.tanh(layer("policy_torso", obs))),)
    if "log_std" in p["policy_head"]:
        policy = (*policy, p["policy_head"]["log_std"])
    return policy, layer("value_head", jnp.tanh(layer("value_torso", obs)))[0]


def log_prob_and_entropy(policy: tuple[jax.Array, ...], action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of one action, from the definitions of the two distributions."""
    if len(policy) == 1:
        p = jnp.exp(policy[0]) / jnp.sum(jnp.exp(policy[0]))
        return jnp.log(p[action]), -jnp.sum(p * jnp.log(p))
    mean, std = policy[0], jnp.exp(policy[1])
    density = jnp.exp(-((action - mean) ** 2) / (2 * std**2)) / jnp.sqrt(2 * jnp.pi * std**2)
    return jnp.log(jnp.prod(density)), jnp.sum(0.5 * jnp.log(2 * jnp.pi * jnp.e * std**2))


@jax.jit
def values(params: dict, obs: np.ndarray) -> jax.Array:
    """Values [B] of normalised observations [B, 3]."""
    return jax.vmap(lambda x: forward(params, x)[1])(obs)


@jax.jit
def log_probs(params: dict, obs: np.ndarray, action: np.ndarray) -> jax.Array:
    """Log probabilities [B] of actions [B, ...]."""
    return jax.vmap(lambda x, a: log_prob_and_entropy(forward(params, x)[0], a)[0])(obs, action)


def standardised(stats: RunningStats, obs: np.ndarray) -> np.ndarray:
    """Observations as the policy sees them."""
    return np.clip((obs - np.asarray(stats.mean)) / np.sqrt(np.asarray(stats.var) + 1e-8), -10, 10)


def samples(state: AgentState, batch: Transition, gamma: float, lam: float) -> Sample:
    """Values, advantages and targets by loops over a rollout, flattened to [T * N]."""
    stats, params = state.acting.stats, state.acting.params
    obs, next_obs = standardised(stats, batch.obs), standardised(stats, batch.next_obs)
    length, width = batch.reward.shape
    value = np.asarray(values(params, obs.reshape(-1, 3))).reshape(length, width)
    next_value = np.asarray(values(params, next_obs.reshape(-1, 3))).reshape(length, width)
    advantage = np.zeros((length, width))
    for n in range(width):
        later = 0.0
        for t in reversed(range(length)):
            future = 0.0 if batch.terminated[t, n] else gamma * next_value[t, n]
            ended = batch.terminated[t, n] or batch.truncated[t, n]
            later = batch.reward[t, n] + future - value[t, n] + (0.0 if ended else gamma * lam * later)
            advantage[t, n] = later
    columns = (obs, batch.action, batch.extras["log_prob"], value, advantage, advantage + value)
    return Sample(
        *(np.asarray(c, np.int32 if c.dtype == np.int32 else np.float32).reshape(-1, *c.shape[2:]) for c in columns)
    )


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


def clipped(grads: Any, limit: float) -> tuple[Any, float]:
    """Gradient with a Euclidean norm of at most `limit`, and the norm before."""
    norm = float(np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in jax.tree.leaves(grads))))
    return jax.tree.map(lambda g: np.asarray(g) * min(1.0, limit / norm), grads), norm


class Adam:
    """Kingma and Ba 2015, algorithm 1, on a tree."""

    def __init__(self, params: Any) -> None:
        self.steps = 0
        self.first = self.second = jax.tree.map(lambda p: np.zeros(p.shape), params)

    def step(self, params: Any, grads: Any, rate: float) -> Any:
        """Parameters after one step."""
        self.steps += 1
        self.first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.first, grads)
        self.second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.second, grads)

        def moved(p: Any, m: np.ndarray, v: np.ndarray) -> np.ndarray:
            return p - rate * (m / (1 - 0.9**self.steps)) / (np.sqrt(v / (1 - 0.999**self.steps)) + 1e-5)

        return jax.tree.map(moved, params, self.first, self.second)


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


def distance(a: Any, b: Any) -> float:
    """Largest difference of two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max()), a, b)))


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
    given = setting(a2c, DISCRETE, normalize_advantage=True)
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
    given = setting(ppo2, DISCRETE, 2, 2, nminibatches=2, noptepochs=2, lr_schedule="constant", clip_value=False)
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
    given = setting(ppo2, CONTINUOUS, nminibatches=1, noptepochs=1)
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
