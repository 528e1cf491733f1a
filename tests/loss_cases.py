"""What the tests of whole updates share: a tiny agent, a rollout with every kind of end, and slow references."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agents.common.normalizer import RunningStats
from agents.types import Agent, AgentState, Clock, Transition
from envs.types import Box, Discrete, Spec

DISCRETE = Spec("discrete", (3,), "float32", Discrete(3), 10)
CONTINUOUS = Spec("continuous", (3,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), 10)
KEY = jax.random.key(0)
START = Clock(jnp.int32(0), jnp.float32(0.0))
QUARTER = Clock(jnp.int32(7), jnp.float32(0.25))
LENGTH = {"ppo1": "timesteps_per_actorbatch", "trpo": "timesteps_per_batch"}  # what other algorithms call n_steps
HYPERS = {
    "a2c": {
        "learning_rate": 0.1,
        "gamma": 0.9,
        "lam": 0.7,
        "vf_coef": 0.7,
        "ent_coef": 0.3,
        "max_grad_norm": 0.4,
        "alpha": 0.8,
        "epsilon": 1e-2,
    },
    "ppo1": {"optim_stepsize": 0.1, "gamma": 0.9, "lam": 0.7, "clip_param": 0.35, "entcoeff": 0.3},
    "ppo2": {
        "learning_rate": 0.1,
        "gamma": 0.9,
        "lam": 0.7,
        "cliprange": 0.2,
        "vf_coef": 0.7,
        "ent_coef": 0.3,
        "max_grad_norm": 0.4,
    },
    "trpo": {"max_kl": 0.02, "cg_damping": 0.05, "vf_stepsize": 0.1, "gamma": 0.9, "lam": 0.7, "entcoeff": 0.3},
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
def setting(name: str, spec: Spec, num_cpu: int = 3, n_steps: int = 4, **options: Any) -> Setting:
    """Build an agent whose parameters are far from their small start and whose observation statistics are at work."""
    module = importlib.import_module(f"agents.{name}")
    options = options | {"num_cpu": num_cpu, LENGTH.get(name, "n_steps"): n_steps, "net_arch": (4,)}
    agent = module.make(spec, module.Config(**options))
    hyper = module.Hyper(**{name: jnp.float32(value) for name, value in HYPERS[name].items()})
    state = jax.jit(agent.init)(KEY, hyper)
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda x: np.asarray(x) + 0.7 * rng.normal(size=x.shape).astype(np.float32), state.acting.params
    )
    stats = RunningStats(jnp.array([0.5, -0.5, 0.0]), jnp.array([4.0, 0.25, 1.0]), jnp.float32(40.0))
    state = state._replace(acting=state.acting._replace(params=params, stats=stats))
    return Setting(agent, jax.jit(agent.update), hyper, state)


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


def clipped(grads: Any, limit: float) -> tuple[Any, float]:
    """Gradient with a Euclidean norm of at most `limit`, and the norm before."""
    norm = float(np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in jax.tree.leaves(grads))))
    return jax.tree.map(lambda g: np.asarray(g) * min(1.0, limit / norm), grads), norm


class Adam:
    """Kingma and Ba 2015, algorithm 1, on a tree."""

    def __init__(self, params: Any, epsilon: float = 1e-5) -> None:
        self.steps, self.epsilon = 0, epsilon
        self.first = self.second = jax.tree.map(lambda p: np.zeros(p.shape), params)

    def step(self, params: Any, grads: Any, rate: float) -> Any:
        """Parameters after one step."""
        self.steps += 1
        self.first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.first, grads)
        self.second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.second, grads)

        def moved(p: Any, m: np.ndarray, v: np.ndarray) -> np.ndarray:
            return p - rate * (m / (1 - 0.9**self.steps)) / (np.sqrt(v / (1 - 0.999**self.steps)) + self.epsilon)

        return jax.tree.map(moved, params, self.first, self.second)


def distance(a: Any, b: Any) -> float:
    """Largest difference of two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max()), a, b)))
