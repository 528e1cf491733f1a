"""What the driver tests run: a small environment, a small learner, real learners, and both drivers around them."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agents import a2c, acer, acktr, ars, cma_es, ddpg, deepq, ppo1, ppo2, random_agent, sac, trpo
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Box, Discrete, Spec, TimeStep
from launch.runtime.drivers.common import Chunk, run_keys
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.drivers.host import HostDriver
from launch.runtime.trees import named_leaves, to_host
from tests.device_pool import DeviceEnvPool

LIMIT = 9  # steps of a Drift episode at most
ITERATIONS = 12  # planned, for the clock
MAX_CHUNK = 4


class DriftState(NamedTuple):
    """Position [2], age, and phase [2] of the wind."""

    position: jax.Array
    steps: jax.Array
    phase: jax.Array


class Drift:
    """A point in the plane, pushed by the action and by the wind, paid for being near the middle.

    Terminated outside the unit circle, truncated after nine steps; random episodes end either way. A continuous action
    pushes as far as it is large, so that one outside the bounds shows; discrete ones push in four directions.
    """

    def __init__(self, discrete: bool = False, max_episode_steps: int | None = LIMIT) -> None:
        action = Discrete(4) if discrete else Box((-1.0,) * 2, (1.0,) * 2)
        self.spec = Spec("Drift", (2,), "float32", action, max_episode_steps)

    def reset(self, key: jax.Array) -> tuple[DriftState, jax.Array]:
        """Start within +-0.5, with a wind of its own."""
        draw = jax.random.uniform(key, (4,), minval=-0.5, maxval=0.5)
        return DriftState(draw[:2], jnp.zeros((), jnp.int32), 2 * jnp.pi * draw[2:]), draw[:2]

    def step(self, state: DriftState, action: jax.Array) -> tuple[DriftState, TimeStep]:
        """Move."""
        if isinstance(self.spec.action, Discrete):
            action = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[action]
        wind = jnp.sin(state.phase + jnp.array([1.0, 1.7]) * state.steps)
        position = state.position + 0.2 * action + 0.2 * wind
        distance = jnp.sqrt(jnp.sum(position**2))
        steps = state.steps + 1
        step = TimeStep(position, 1.0 - distance, distance > 1.0, steps >= LIMIT)
        return DriftState(position, steps, state.phase), step


# Programs that jit has compiled, by what they depend on: drivers and pools of the same kind share them in these tests.
_programs: dict[Hashable, dict[str, Any]] = {}


def share_programs(owner: Any, names: tuple[str, ...], *kind: Hashable) -> None:
    """Give an object the jitted functions of the first one of its kind."""
    for name, program in _programs.setdefault((names, *kind), {name: getattr(owner, name) for name in names}).items():
        setattr(owner, name, program)


class Case(NamedTuple):
    """A learner on an environment."""

    env: Any
    agent: Agent
    hyper: Any  # one run's, numbers

    def tree(self, runs: int, **swept: Sequence[float]) -> Any:
        """Hyperparameters [K]."""
        tree = jax.tree.map(lambda x: jnp.full(runs, x, jnp.float32), self.hyper)
        return replace(tree, **{name: jnp.asarray(values, jnp.float32) for name, values in swept.items()})

    def new_device(self, seeds: Sequence[int], **swept: Sequence[float]) -> DeviceDriver:
        """A device driver for runs of these seeds that compiles its own programs."""
        hyper = self.tree(len(seeds), **swept)
        return DeviceDriver(self.env, self.agent, hyper, np.array(seeds), ITERATIONS, MAX_CHUNK)

    def device(self, seeds: Sequence[int] = (3,), **swept: Sequence[float]) -> DeviceDriver:
        """A device driver for runs of these seeds."""
        driver = self.new_device(seeds, **swept)
        share_programs(driver, ("_init", "_chunk", "_evaluators"), self, len(seeds))
        return driver

    def new_host(self, seeds: Sequence[int], num_groups: int = 1, **swept: Sequence[float]) -> HostDriver:
        """A host driver with the training environments of `device`, which compiles its own programs."""
        twin = self.new_device(seeds)

        def make_pool(ids: Sequence[tuple[int, int]], groups: Any, auto_reset: bool) -> DeviceEnvPool:
            if groups is None:  # an evaluation
                keys = [jax.random.fold_in(jax.random.key(seed % 2**31), index) for seed, index in ids]
            else:
                keys = [key for run_key in run_keys(np.array(seeds)) for key in twin._env_keys(run_key)]
            pool = DeviceEnvPool(self.env, jnp.stack(keys), groups=groups, auto_reset=auto_reset)
            share_programs(pool, ("_reset", "_step"), self.env, auto_reset)
            return pool

        hyper = self.tree(len(seeds), **swept)
        return HostDriver(make_pool, self.env.spec, self.agent, hyper, np.array(seeds), ITERATIONS, num_groups)

    def host(self, seeds: Sequence[int] = (3,), num_groups: int = 1, **swept: Sequence[float]) -> HostDriver:
        """A host driver whose training environments are exactly those of `device` with the same seeds."""
        driver = self.new_host(seeds, num_groups, **swept)
        share_programs(driver, ("_init", "_rollout_keys", "_act", "_update", "_eval_act"), self, len(seeds), num_groups)
        return driver


DRIFT = Drift()
DISCRETE_DRIFT = Drift(discrete=True)


@functools.cache
def learner(name: str) -> Case:
    """One of the toolbox's algorithms, small."""
    cls, env, options = {
        "ppo2": (
            ppo2.PPO2,
            DRIFT,
            {"num_cpu": 4, "n_steps": 8, "noptepochs": 2, "net_arch": (8,), "learning_rate": 0.01},
        ),
        "ppo2-lnlstm": (
            ppo2.PPO2,
            DRIFT,
            {"policy": "lnlstm", "n_lstm": 6, "use_sde": True, "sde_sample_freq": 3, "normalize_reward": True}
            | {"num_cpu": 4, "n_steps": 8, "noptepochs": 2, "net_arch": (8,), "learning_rate": 0.01, "nminibatches": 2},
        ),
        "acer-lstm": (
            acer.ACER,
            DISCRETE_DRIFT,
            {"policy": "lstm", "n_lstm": 6, "num_cpu": 4, "n_steps": 5, "buffer_size": 15, "replay_start": 5}
            | {"net_arch": (8,), "learning_rate": 0.1},
        ),
        "sac-sde": (
            sac.SAC,
            DRIFT,
            {"use_sde": True, "num_cpu": 4, "train_freq": 5, "learning_starts": 20, "net_arch": (8,)}
            | {"buffer_size": 80, "batch_size": 16, "learning_rate": 0.01},
        ),
        "a2c": (a2c.A2C, DISCRETE_DRIFT, {"num_cpu": 4, "net_arch": (8,), "learning_rate": 0.05}),
        "acktr": (acktr.ACKTR, DISCRETE_DRIFT, {"num_cpu": 4, "net_arch": (8,), "cold_iterations": 1}),
        "ars": (ars.ARS, DISCRETE_DRIFT, {"num_population": 3}),
        "acer": (
            acer.ACER,
            DISCRETE_DRIFT,
            {"num_cpu": 4, "n_steps": 5, "buffer_size": 15, "replay_start": 5, "net_arch": (8,), "learning_rate": 0.01},
        ),
        "deepq": (
            deepq.DeepQ,
            DISCRETE_DRIFT,
            {"num_cpu": 4, "train_freq": 5, "learning_starts": 20, "gradient_steps": 2, "net_arch": (8,)}
            | {"buffer_size": 80, "batch_size": 16, "learning_rate": 0.01, "target_network_update_freq": 40},
        ),
        "ddpg": (
            ddpg.DDPG,
            DRIFT,
            {"num_cpu": 4, "nb_rollout_steps": 5, "nb_train_steps": 3, "learning_starts": 20, "net_arch": (8,)}
            | {"memory_limit": 80, "batch_size": 16, "actor_lr": 0.01, "noise_param": True}
            | {"twin_critics": True, "policy_delay": 2},
        ),
        "sac": (
            sac.SAC,
            DRIFT,
            {"num_cpu": 4, "train_freq": 5, "gradient_steps": 2, "learning_starts": 20, "net_arch": (8,)}
            | {"buffer_size": 80, "batch_size": 16, "learning_rate": 0.01},
        ),
        "cma-es": (cma_es.CMAES, DISCRETE_DRIFT, {"num_population": 4, "num_episodes": 2, "net_arch": (3,)}),
        "ppo1": (
            ppo1.PPO1,
            DISCRETE_DRIFT,
            {"num_cpu": 4, "timesteps_per_actorbatch": 8, "optim_batchsize": 4, "net_arch": (8,)},
        ),
        "trpo": (
            trpo.TRPO,
            DRIFT,
            {"num_cpu": 4, "timesteps_per_batch": 8, "vf_batchsize": 4, "net_arch": (8,), "vf_stepsize": 0.01},
        ),
        "random_agent": (random_agent.RandomAgent, DISCRETE_DRIFT, {"num_cpu": 4, "n_steps": 3}),
    }[name]
    config, hyper = cls.configure(options)
    return Case(env, cls.make(env.spec, config), cls.Hyper(**hyper))


@dataclass(frozen=True)
class NudgeHyper:
    """How fast a nudge learns and how much it explores."""

    rate: Any = 0.01
    noise: Any = 0.5


jax.tree_util.register_dataclass(NudgeHyper)


@functools.cache
def nudge(env: Any = DRIFT, length: int = 5, num_envs: int = 3) -> Case:
    """A learner that compiles at once and to which every number of a batch and its place in it matter."""
    weight = np.arange(1, length * num_envs + 1, dtype=np.float32).reshape(length, num_envs) / (length * num_envs)

    def init(key: jax.Array, hyper: NudgeHyper) -> AgentState:
        return AgentState((jax.random.uniform(key, env.spec.obs_shape), hyper.noise), jnp.zeros(()))

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict]:
        gain, noise = state.acting
        action = gain * obs + (noise * jax.random.uniform(key, obs.shape, minval=-2.0, maxval=2.0) if explore else 0.0)
        return action, {"drawn": action[:, 0]}

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: NudgeHyper, clock: Clock) -> tuple:
        parts = [batch.reward, 2.0 * batch.terminated, 3.0 * batch.truncated, batch.extras["drawn"]]
        parts += [(batch.obs * batch.next_obs).sum(-1), batch.action.sum(-1)]
        signal = jnp.mean(weight * sum(parts))
        gain = state.acting[0] + hyper.rate * (signal + jax.random.uniform(key, env.spec.obs_shape))
        metrics = {"signal": signal, "iteration": clock.iteration.astype(jnp.float32), "progress": clock.progress}
        return AgentState((gain, state.acting[1]), state.learning + signal), metrics

    return Case(env, Agent(init, act, update, Traits(length, num_envs), lambda state, obs: obs), NudgeHyper())


def run(driver: Any, iterations: int, chunk: int = MAX_CHUNK) -> Chunk:
    """Run some iterations in chunks and join what they report."""
    chunks: list[Chunk] = []
    while (done := sum(len(c.steps) for c in chunks)) < iterations:
        chunks.append(driver.run(min(chunk, iterations - done)))
    metrics = {name: np.concatenate([c.metrics[name] for c in chunks]) for name in chunks[0].metrics}
    episodes = type(chunks[0].episodes)(*(np.concatenate(column) for column in zip(*(c.episodes for c in chunks))))
    return Chunk(metrics, np.concatenate([c.steps for c in chunks]), episodes)


def bits(tree: Any) -> dict[str, np.ndarray]:
    """A copy of all leaves on the host, by path."""
    return {name: np.array(to_host(leaf)) for name, leaf in named_leaves(tree).items()}


def assert_same(got: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Compare two trees, bit for bit where no tolerance is given."""
    got, expected = bits(got), bits(expected)
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_report(got: Chunk, expected: Chunk, tolerance: float = 0.0) -> None:
    """Compare metrics, steps and episodes; the order of episodes that end in the same step is free."""
    assert_same(got.metrics, expected.metrics, tolerance)
    np.testing.assert_array_equal(got.steps, expected.steps)
    records = [sorted(zip(*c.episodes)) for c in (got, expected)]
    np.testing.assert_allclose(*records, rtol=tolerance, atol=tolerance)


def give(driver: DeviceDriver | HostDriver, hyper: Any, seeds: Sequence[int]) -> None:
    """Let a driver go on with other hyperparameters and seeds, placed like the ones it has."""
    driver.hyper, driver._keys = hyper, run_keys(np.array(seeds))
    if isinstance(driver, DeviceDriver):
        driver._shard()


def pick(report: Chunk, runs: slice) -> Chunk:
    """What is reported of some runs."""
    chosen = np.isin(report.episodes.run, np.arange(report.steps.shape[1])[runs])
    episodes = type(report.episodes)(*(column[chosen] for column in report.episodes))
    episodes = episodes._replace(run=episodes.run - (runs.start or 0))
    return Chunk({name: x[:, runs] for name, x in report.metrics.items()}, report.steps[:, runs], episodes)
