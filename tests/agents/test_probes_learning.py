"""Learners on probe environments, where the right values and policies are known."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from agents import a2c, ars, ppo2, random_agent
from agents.common.normalizer import normalize
from agents.common.on_policy import ActorCriticPolicy
from agents.types import Agent, AgentState
from envs.types import Box, Discrete, Spec, TimeStep
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.drivers.host import HostDriver
from tests.device_pool import DeviceEnvPool
from tests.probes import PROBES, Answers, ObservedActionReward, Probe

GAMMA = 0.7


class Suite(Probe):
    """All probes in one environment, so that one compilation checks them all: each episode plays one at random.

    The observation is one-hot over all pairs of a probe and an observation of it: to a linear network that is a table,
    in which no probe's values touch another's.
    """

    length = max(probe.length for probe in PROBES)

    def __init__(self, continuous: bool) -> None:
        self._probes = [probe(continuous) for probe in PROBES]
        self._tables = [probe.answers(GAMMA).obs for probe in self._probes]
        self._first = np.cumsum([0, *map(len, self._tables)])
        self.obs_size = int(self._first[-1])
        super().__init__(continuous)

    def _encode(self, number: int, obs: jax.Array) -> jax.Array:
        """Position of an observation of a probe, one-hot."""
        row = jnp.argmin(jnp.abs(self._tables[number] - obs).sum(axis=1))
        return jax.nn.one_hot(self._first[number] + row, self.obs_size)

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """Choose a probe and start all."""
        choice, key = jax.random.split(key)
        number = jax.random.randint(choice, (), 0, len(self._probes))
        states, observations = zip(*(probe.reset(key) for probe in self._probes))
        return (number, states), jnp.stack([self._encode(*x) for x in enumerate(observations)])[number]

    def step(self, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        """Step all, show the chosen one."""
        number, states = state
        states, steps = zip(*(probe.step(s, action) for probe, s in zip(self._probes, states)))
        steps = [step._replace(obs=self._encode(i, step.obs)) for i, step in enumerate(steps)]
        return (number, states), jax.tree.map(lambda *leaves: jnp.stack(leaves)[number], *steps)

    def check(self, values: np.ndarray, actions: np.ndarray) -> None:
        """Compare learned values [obs_size] and actions [obs_size, ...] with every probe's answers."""
        for probe, first in zip(self._probes, self._first):
            answers = probe.answers(GAMMA)
            rows = slice(first, first + len(answers.obs))
            check(answers, values[rows], actions[rows], type(probe).__name__)


def check(answers: Answers, values: np.ndarray | None, actions: np.ndarray, name: str) -> None:
    """Compare what was learned with a probe's answers; discrete `actions` are the probabilities of action 1."""
    if values is not None:
        np.testing.assert_allclose(values, answers.value, atol=0.1, err_msg=f"values of {name}")
    if answers.action is not None:
        tolerance = 0.15 if answers.action.dtype == np.int32 else 0.1
        np.testing.assert_allclose(actions, answers.action, atol=tolerance, err_msg=f"actions of {name}")


def learn(
    module: ModuleType, algorithm: Any, env: Any, iterations: int, on_host: bool, options: dict[str, Any]
) -> tuple[Agent, AgentState]:
    """Train one run; returns the agent and its state without the run axis."""
    config, hyper = algorithm.configure(options)
    agent = module.make(env.spec, config)
    tree = algorithm.hyper_tree({name: np.full(1, value) for name, value in hyper.items()})

    def make_pool(seeds: Sequence[tuple[int, int]], groups: Any, auto_reset: bool) -> DeviceEnvPool:
        keys = jax.random.split(jax.random.key(seeds[0][0]), len(seeds))
        return DeviceEnvPool(env, keys, groups=groups, auto_reset=auto_reset)

    seeds = np.array([1])
    driver: Any
    if on_host:
        driver = HostDriver(make_pool, env.spec, agent, tree, seeds, iterations)
    else:
        driver = DeviceDriver(env, agent, tree, seeds, iterations, max_chunk=iterations)
    while driver.iteration < iterations:
        driver.run(iterations)
    return agent, AgentState(jax.tree.map(lambda x: x[0], driver.acting()), ())


def actor_critic(agent: Agent, state: AgentState, spec: Spec, config: Any, obs: np.ndarray) -> tuple[Any, Any]:
    """Values [K], and probabilities of action 1 [K] or mean actions [K, 1], of observations [K, D]."""
    policy = ActorCriticPolicy(spec, config.net_arch, config.activation, config.log_std_init, config.normalize)
    values = policy.value(state.acting.params, normalize(state.acting.stats, obs))
    actions = np.asarray(agent.probabilities(state, obs))
    return np.asarray(values), actions[:, 1] if isinstance(spec.action, Discrete) else actions


A2C = {"num_cpu": 32, "learning_rate": 0.01, "gamma": GAMMA, "ent_coef": 0.0}
PPO2 = {"num_cpu": 32, "n_steps": 8, "learning_rate": 0.02, "gamma": GAMMA, "ent_coef": 0.0, "nminibatches": 2}
LEARNERS = {"a2c": (a2c, a2c.A2C, A2C), "ppo2": (ppo2, ppo2.PPO2, PPO2)}


@pytest.mark.parametrize(
    ("name", "on_host", "continuous", "iterations"),
    [
        ("a2c", False, False, 600),
        ("a2c", True, True, 600),
        ("ppo2", False, True, 100),
        ("ppo2", True, False, 100),
    ],
)
def test_actor_critics_solve_all_probes(name: str, on_host: bool, continuous: bool, iterations: int) -> None:
    module, algorithm, options = LEARNERS[name]
    options = options | {"net_arch": ()}
    env = Suite(continuous)
    agent, state = learn(module, algorithm, env, iterations, on_host, options)
    obs = np.eye(env.obs_size, dtype=np.float32)
    env.check(*actor_critic(agent, state, env.spec, algorithm.configure(options)[0], obs))
