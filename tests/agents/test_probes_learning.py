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

from agents import a2c, acer, acktr, ars, cma_es, ddpg, deepq, ppo1, ppo2, random_agent, sac, trpo
from agents.common.normalizer import normalize
from agents.common.on_policy import ActorCriticPolicy
from agents.types import Agent, AgentState, Player
from envs.types import Box, Discrete, Spec, TimeStep
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.drivers.host import HostDriver
from networks.values import Encoder, QNetwork
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

    def check(self, values: np.ndarray | None, actions: np.ndarray) -> None:
        """Compare learned values [obs_size] and actions [obs_size, ...] with every probe's answers."""
        for probe, first in zip(self._probes, self._first):
            answers = probe.answers(GAMMA)
            rows = slice(first, first + len(answers.obs))
            check(answers, None if values is None else values[rows], actions[rows], type(probe).__name__)


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
    player = Player(agent)
    actions = np.asarray(player.probabilities(state, obs, player.begin(len(obs))))
    return np.asarray(values), actions[:, 1] if isinstance(spec.action, Discrete) else actions


A2C = {"num_cpu": 32, "learning_rate": 0.03, "gamma": GAMMA, "ent_coef": 0.0}
PPO2 = {"num_cpu": 32, "n_steps": 8, "learning_rate": 0.02, "gamma": GAMMA, "ent_coef": 0.0, "nminibatches": 2}
PPO1 = {"num_cpu": 32, "timesteps_per_actorbatch": 8, "optim_batchsize": 4, "optim_stepsize": 0.02}
PPO1 |= {"gamma": GAMMA, "entcoeff": 0.0}
TRPO = {"num_cpu": 32, "timesteps_per_batch": 8, "vf_batchsize": 4, "vf_stepsize": 0.02, "max_kl": 0.05}
TRPO |= {"gamma": GAMMA, "entcoeff": 0.0, "fisher_stride": 1, "cg_iters": 10, "cg_damping": 0.01}
ACKTR = {"num_cpu": 32, "gamma": GAMMA, "ent_coef": 0.0}
LEARNERS = {
    "a2c": (a2c, a2c.A2C, A2C),
    "acktr": (acktr, acktr.ACKTR, ACKTR),
    "ppo1": (ppo1, ppo1.PPO1, PPO1),
    "ppo2": (ppo2, ppo2.PPO2, PPO2),
    "trpo": (trpo, trpo.TRPO, TRPO),
}
# A wide Gaussian is best placed off the best action, because what exceeds the bounds is clipped.
NARROW = {"log_std_init": -1.0, "n_steps": 8, "learning_rate": 0.02, "lr_schedule": "linear"}


SDE = {"use_sde": True, "sde_sample_freq": 4, "log_std_init": -2.0}


def options_for(name: str, continuous: bool) -> dict[str, Any]:
    """A learner's options. The rate of acktr is the largest one, which its trust region cuts."""
    options = LEARNERS[name][2] | (NARROW if continuous else {})
    return options | {"learning_rate": 0.25} if name == "acktr" else options


@pytest.mark.parametrize(
    ("name", "on_host", "continuous", "iterations"),
    [
        ("a2c", True, False, 300),
        ("a2c", False, True, 1000),
        ("acktr", True, False, 300),
        ("acktr", False, True, 1000),
        ("ppo1", True, False, 100),
        ("ppo1", False, True, 100),
        ("ppo2", False, False, 100),
        ("ppo2", True, True, 100),
        ("trpo", True, False, 100),
        ("trpo", False, True, 100),
    ],
)
def test_actor_critics_solve_all_probes(name: str, on_host: bool, continuous: bool, iterations: int) -> None:
    module, algorithm, _ = LEARNERS[name]
    options = options_for(name, continuous) | {"net_arch": ()}
    env = Suite(continuous)
    agent, state = learn(module, algorithm, env, iterations, on_host, options)
    obs = np.eye(env.obs_size, dtype=np.float32)
    env.check(*actor_critic(agent, state, env.spec, algorithm.configure(options)[0], obs))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "iterations"), [("a2c", 3000), ("ppo2", 100), ("trpo", 100)])
def test_state_dependent_noise_solves_all_probes(name: str, iterations: int) -> None:
    module, algorithm, _ = LEARNERS[name]
    options = options_for(name, True) | SDE | {"net_arch": ()}
    env = Suite(continuous=True)
    agent, state = learn(module, algorithm, env, iterations, False, options)
    obs = np.eye(env.obs_size, dtype=np.float32)
    env.check(*actor_critic(agent, state, env.spec, algorithm.configure(options)[0], obs))


@pytest.mark.slow
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_actor_critics_solve_each_probe(probe: type[Probe], name: str, continuous: bool) -> None:
    """One probe at a time with hidden layers, to tell which skill is missing."""
    module, algorithm, _ = LEARNERS[name]
    options = options_for(name, continuous) | {"net_arch": (8, 8)}
    if name == "ppo1":  # it takes whole gradients, where ppo2 cuts long ones
        options["optim_stepsize"] = 0.005
    env = probe(continuous)
    # Beyond its goal PPO narrows the policy until a step of Adam is many of its deviations wide.
    agent, state = learn(module, algorithm, env, 150 if name in ("ppo1", "ppo2") else 1000, False, options)
    answers = env.answers(GAMMA)
    check(answers, *actor_critic(agent, state, env.spec, algorithm.configure(options)[0], answers.obs), probe.__name__)


OFF_POLICY = {"num_cpu": 16, "train_freq": 2, "gradient_steps": 4, "batch_size": 256, "buffer_size": 8192}
OFF_POLICY |= {"learning_starts": 256, "gamma": GAMMA, "normalize": False}
DEEPQ = {"net_arch": (), "learning_rate": 0.03, "target_network_update_freq": 320}
DEEPQ |= {"exploration_fraction": 1.0, "exploration_final_eps": 0.3}


@pytest.mark.parametrize(
    ("on_host", "options"),
    [(False, {}), (True, {"prioritized": False, "double": False, "dueling": False})],
    ids=["all-device", "plain-host"],
)
def test_deepq_solves_all_probes(on_host: bool, options: dict[str, Any]) -> None:
    env = Suite(continuous=False)
    _, state = learn(deepq, deepq.DeepQ, env, 600, on_host, OFF_POLICY | DEEPQ | options)
    config = deepq.DeepQ.configure(OFF_POLICY | DEEPQ | options)[0]
    network = QNetwork(Encoder(False, 1), 2, config.dueling, config.net_arch)
    values = np.asarray(network.apply(state.acting.params, np.eye(env.obs_size, dtype=np.float32)))
    env.check(values.max(axis=1), np.argmax(values, axis=1))


ACER = {"num_cpu": 32, "n_steps": 8, "buffer_size": 256, "replay_start": 64, "replay_ratio": 2.0, "net_arch": ()}
ACER |= {"learning_rate": 0.02, "lr_schedule": "linear", "gamma": GAMMA, "ent_coef": 0.0, "normalize": False}


@pytest.mark.parametrize(
    ("on_host", "trust_region"),
    [(False, True), pytest.param(True, False, marks=pytest.mark.slow)],
    ids=["device", "host-untrusting"],
)
def test_acer_solves_all_probes(on_host: bool, trust_region: bool) -> None:
    env = Suite(continuous=False)
    agent, state = learn(acer, acer.ACER, env, 800, on_host, ACER | {"trust_region": trust_region})
    policy = ActorCriticPolicy(env.spec, (), "tanh", 0.0, False, action_values=True)
    obs = np.eye(env.obs_size, dtype=np.float32)
    chances = np.asarray(agent.probabilities(state, obs))
    values = (chances * np.asarray(policy.value(state.acting.params, obs))).sum(axis=1)
    env.check(values, chances[:, 1])


CONTINUOUS = {"net_arch": (64, 64), "lr_schedule": "linear", "tau": 0.05, "learning_starts": 4096}
SAC = OFF_POLICY | CONTINUOUS | {"learning_rate": 3e-3, "auto_ent_coef": False, "ent_coef": 0.01}
DDPG = {"num_cpu": 16, "nb_rollout_steps": 2, "nb_train_steps": 4, "batch_size": 256, "memory_limit": 8192}
DDPG |= CONTINUOUS | {"gamma": GAMMA, "normalize": False, "actor_lr": 3e-3, "critic_lr": 3e-3, "critic_l2_reg": 0}
TD3 = {"twin_critics": True, "policy_delay": 2, "target_noise": 0.05, "noise_action": "normal", "noise_param": True}


@pytest.mark.parametrize(
    ("module", "algorithm", "on_host", "options"),
    [
        (sac, sac.SAC, False, SAC),
        pytest.param(sac, sac.SAC, True, SAC, marks=pytest.mark.slow),
        pytest.param(sac, sac.SAC, False, SAC | SDE, marks=pytest.mark.slow),
        (ddpg, ddpg.DDPG, False, DDPG | TD3),
        (ddpg, ddpg.DDPG, True, DDPG),
    ],
    ids=["sac-device", "sac-host", "sac-sde", "ddpg-td3-device", "ddpg-host"],
)
def test_off_policy_actors_solve_all_probes(
    module: ModuleType, algorithm: Any, on_host: bool, options: dict[str, Any]
) -> None:
    env = Suite(continuous=True)
    agent, state = learn(module, algorithm, env, 600, on_host, options)
    obs, key = np.eye(env.obs_size, dtype=np.float32), jax.random.key(0)
    actions, _, _ = Player(agent).act(state, obs, key, False, Player(agent).begin(len(obs)))
    env.check(None, np.asarray(actions))


@pytest.mark.parametrize(("algo_type", "on_host"), [("v1", True), ("v2", False)], ids=["v1-host", "v2-device"])
def test_ars_finds_the_policy(algo_type: str, on_host: bool) -> None:
    """A linear policy without a bias can read the observation, which is what this probe asks for."""
    env = ObservedActionReward(continuous=algo_type == "v2")
    options = {
        "num_population": 16,
        "algo_type": algo_type,
        "top_population": 8,
        "exploration_noise": 0.1,
        "step_size": 0.02 if env.continuous else 0.2,
    }
    agent, state = learn(ars, ars.ARS, env, 200, on_host, options)
    answers = env.answers(GAMMA)
    actions = np.asarray(agent.probabilities(state, answers.obs))
    check(answers, None, actions if env.continuous else actions[:, 1], algo_type)


@pytest.mark.parametrize(("continuous", "on_host"), [(False, True), (True, False)], ids=["host", "device"])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_cma_es_finds_the_policy(covariance: str, continuous: bool, on_host: bool) -> None:
    env = ObservedActionReward(continuous)
    options = {"num_population": 16, "num_episodes": 4, "policy": "linear", "covariance": covariance, "sigma": 0.5}
    agent, state = learn(cma_es, cma_es.CMAES, env, 60, on_host, options)
    answers = env.answers(GAMMA)
    actions = np.asarray(agent.probabilities(state, answers.obs))
    check(answers, None, actions if env.continuous else actions[:, 1], covariance)


def test_random_agent_is_uniform() -> None:
    for action in (Discrete(5), Box((-2.0, 0.0, -np.inf), (3.0, 0.5, np.inf))):
        spec = Spec("any", (2,), "float32", action)
        agent = random_agent.make(spec, random_agent.Config(num_cpu=4000))
        state = agent.init(jax.random.key(0), random_agent.Hyper())
        drawn, extras = jax.jit(agent.act, static_argnums=3)(state, jnp.zeros((4000, 2)), jax.random.key(1), True)
        assert extras == {}
        probabilities = np.asarray(agent.probabilities(state, np.zeros((2, 2))))
        if isinstance(action, Discrete):
            assert drawn.dtype == jnp.int32 and drawn.shape == (4000,)
            assert scipy.stats.chisquare(np.bincount(drawn, minlength=5)).pvalue > 1e-3
            np.testing.assert_allclose(probabilities, 0.2)
        else:
            assert drawn.dtype == jnp.float32 and drawn.shape == (4000, 3)
            for i, (low, high) in enumerate([(-2.0, 3.0), (0.0, 0.5), (-1.0, 1.0)]):  # unbounded: +-1
                assert scipy.stats.kstest(np.asarray(drawn[:, i]), "uniform", (low, high - low)).pvalue > 1e-3
            np.testing.assert_allclose(probabilities, np.tile([0.5, 0.25, 0.0], (2, 1)))
