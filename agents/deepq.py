"""DeepQ: deep Q-learning (Mnih et al. 2015) with double, dueling, prioritised and n-step learning, each a switch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from agents.base_classes import JaxAlgorithm
from agents.common.normalizer import RunningStats, init_stats, normalize, observe
from agents.common.off_policy import check_replay, copied, cut_replay, frames_on_host, gradient_steps, iterations_of
from agents.common.optim import clip_by_global_norm, descend
from agents.common.replay import Minibatch, Priorities, PrioritizedSampler, Replay, ReplayMemory, UniformSampler
from agents.common.schedules import schedule
from agents.options import LR_SCHEDULES, REPLAY_MEMORIES, option
from agents.types import (
    Agent,
    AgentState,
    Clock,
    HostFrames,
    Place,
    Recall,
    Recalled,
    Traits,
    Transition,
)
from envs.types import Discrete, Spec
from networks.values import Encoder, QNetwork


@dataclass(frozen=True)
class Config:
    """Static options of DeepQ."""

    num_cpu: int = option(1, "Number of environments.", minimum=1)
    prioritized: bool = option(True, "Replay surprising steps more often.")
    dueling: bool = option(True, "Separate networks for value and advantage.")
    double: bool = option(True, "Choose the next action with the online network, value it with the target network.")
    n_step: int = option(1, "Steps of reward in a target.", minimum=1, search=(1, 5))
    buffer_size: int = option(1000, "Steps to remember.", minimum=1)
    batch_size: int = option(32, "Transitions per gradient step.", minimum=1, search=(8, 128))
    replay_memory: str = option("auto", "Where the pictures to remember are kept.", choices=REPLAY_MEMORIES)
    train_freq: int = option(4, "Steps of each environment between updates.", minimum=1, search=(1, 10))
    gradient_steps: int = option(1, "Gradient steps per update.", minimum=1)
    learning_starts: int = option(500, "Steps to play before learning.", minimum=0, search=(10, 10000))
    target_network_update_freq: int = option(
        500, "Steps between copies to the target network.", minimum=1, search=(10, 10000)
    )
    lr_schedule: str = option("constant", "Learning-rate schedule.", choices=LR_SCHEDULES)
    net_arch: tuple = option((64, 64), "Hidden layers.", minimum=1)
    normalize: bool = option(True, "Standardise states by their running mean and variance.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of DeepQ."""

    learning_rate: float = option(1e-4, "Step size of Adam.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    exploration_fraction: float = option(
        0.1, "Share of the training in which exploration falls.", minimum=1e-6, maximum=1, search=(0.01, 1)
    )
    exploration_final_eps: float = option(
        0.01, "Share of random actions from then on.", minimum=0, maximum=1, search=(0, 0.2)
    )
    prioritized_alpha: float = option(0.6, "How much priorities count.", minimum=0, maximum=1)
    prioritized_beta0: float = option(0.4, "Initial correction for priorities; grows to 1.", minimum=0, maximum=1)
    max_grad_norm: float = option(10.0, "Largest norm of the gradient.", minimum=1e-8, search=(0.5, 10.0))


jax.tree_util.register_dataclass(Hyper)


class Acting(NamedTuple):
    """What DeepQ plays with: parameters, observation statistics (() for pictures), share of random actions []."""

    params: Any
    stats: RunningStats | tuple[()]
    epsilon: jax.Array


class Learning(NamedTuple):
    """The rest: target parameters, Adam's moments, replay memory and its priorities (() where even)."""

    target: Any
    optimizer: Any
    replay: Replay
    priorities: Priorities | tuple[()]


class Parts(NamedTuple):
    """What DeepQ is built of; static."""

    network: QNetwork
    memory: ReplayMemory
    sampler: PrioritizedSampler | UniformSampler
    adam: optax.GradientTransformation
    config: Config

    def sample(self, priorities: Any, hyper: Hyper, clock: Clock, key: jax.Array) -> tuple[Place, jax.Array]:
        """Places and importance weights of a minibatch."""
        beta = hyper.prioritized_beta0 + (1.0 - hyper.prioritized_beta0) * clock.progress
        return self.sampler.sample(priorities, key, self.config.batch_size, beta, clock)

    def values(self, acting: Acting, obs: jax.Array) -> jax.Array:
        """Values [N, n] of all actions for observations [N, ...] as the environment shows them."""
        return cast(jax.Array, self.network.apply(acting.params, normalize(acting.stats, obs)))


def td_error(network: QNetwork, params: Any, target: Any, data: Minibatch, double: bool) -> jax.Array:
    """Temporal-difference errors [B]; `double` as van Hasselt et al. 2016, equation 4.

    Args:
        network: The Q-network.
        params: Online parameters, what the gradient is taken in.
        target: Target parameters.
        data: Minibatch with standardised observations.
        double: Whether the online network chooses the next action.
    """
    chosen = jax.nn.one_hot(data.action, network.num_actions)
    value = jnp.sum(cast(jax.Array, network.apply(params, data.obs)) * chosen, axis=-1)
    next_values = cast(jax.Array, network.apply(target, data.next_obs))
    judged_by = cast(jax.Array, network.apply(params, data.next_obs)) if double else next_values
    best = jax.nn.one_hot(jnp.argmax(judged_by, axis=-1), network.num_actions)
    goal = data.reward + data.discount * jnp.sum(next_values * best, axis=-1)
    return value - jax.lax.stop_gradient(goal)


def gradient_step(
    parts: Parts,
    acting: Acting,
    learning: Learning,
    hyper: Hyper,
    clock: Clock,
    key: jax.Array,
    recalled: Recalled | None,
) -> tuple[Any, Any, Any, dict[str, jax.Array]]:
    """Learn from one minibatch: (parameters, Adam's moments, priorities, metrics)."""
    config, sampler = parts.config, parts.sampler
    if recalled is None:
        place, weight = parts.sample(learning.priorities, hyper, clock, key)
    else:
        place, weight = recalled.recall.here, recalled.recall.weight
    data = parts.memory.read(learning.replay, place, hyper.gamma, recalled)
    data = data._replace(obs=normalize(acting.stats, data.obs), next_obs=normalize(acting.stats, data.next_obs))
    weight = weight * data.weight

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        error = td_error(parts.network, params, learning.target, data, config.double)
        return jnp.mean(weight * optax.losses.huber_loss(error)), error

    (value, error), grads = jax.value_and_grad(loss, has_aux=True)(acting.params)
    grads, grad_norm = clip_by_global_norm(grads, hyper.max_grad_norm)
    rate = hyper.learning_rate * schedule(config.lr_schedule, clock.progress)
    params, optimizer = descend(parts.adam, acting.params, learning.optimizer, grads, rate)
    priorities = sampler.update(learning.priorities, place, error, weight, hyper.prioritized_alpha)
    metrics = {"loss": value, "td_error": jnp.mean(jnp.abs(error)), "grad_norm": grad_norm, "learning_rate": rate}
    return params, optimizer, priorities, metrics


def share_of_random_actions(hyper: Hyper, clock: Clock) -> jax.Array:
    """Epsilon []: falls linearly from 1 to its final value within the exploration fraction of the training."""
    left = jnp.maximum(0.0, 1.0 - clock.progress / hyper.exploration_fraction)
    return hyper.exploration_final_eps + (1.0 - hyper.exploration_final_eps) * left


def host_frames(parts: Parts, first_update: int) -> HostFrames | None:
    """`Agent.host_frames`: all minibatches of an update are drawn by the priorities before its first step.

    Args:
        parts: What the learner is built of.
        first_update: The iteration from which it learns.
    """
    memory, count = parts.memory, parts.config.gradient_steps
    if memory.stores_obs:
        return None

    def recall(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> Recall:
        priorities = parts.sampler.add(state.learning.priorities, hyper.prioritized_alpha, clock)
        sample = partial(parts.sample, priorities, hyper, clock)
        return memory.recall(state.learning.replay, batch, sample, jax.random.split(key, count), clock)

    return HostFrames(memory.rows, first_update, (count, parts.config.batch_size), recall)


def make(spec: Spec, config: Config) -> Agent:
    """Build DeepQ for an environment.

    Raises:
        ValueError: The replay memory is smaller than a rollout.
    """
    assert isinstance(spec.action, Discrete)
    num_actions, per_iteration = spec.action.n, config.num_cpu * config.train_freq
    network = QNetwork(Encoder(spec.pixels, len(spec.obs_shape)), num_actions, config.dueling, config.net_arch)
    on_host = frames_on_host(spec, config)
    memory = ReplayMemory(spec, config.buffer_size, config.train_freq, config.num_cpu, config.n_step, on_host)
    sampler = PrioritizedSampler(memory) if config.prioritized else UniformSampler(memory)
    parts = Parts(network, memory, sampler, optax.scale_by_adam(), config)
    first_update = memory.first_update(config.learning_starts)
    copy_every = iterations_of(config.target_network_update_freq, per_iteration)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        params = network.init(key, jnp.zeros((1, *spec.obs_shape), spec.obs_dtype))
        stats = init_stats(spec.obs_shape) if config.normalize and not spec.pixels else ()
        learning = Learning(copied(params), parts.adam.init(params), memory.init(), sampler.init())
        return AgentState(Acting(params, stats, jnp.float32(1.0)), learning)

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict]:
        greedy = jnp.argmax(parts.values(state.acting, obs), axis=-1).astype(jnp.int32)
        if not explore:
            return greedy, {}
        whether, which = jax.random.split(key)
        at_random = jax.random.uniform(whether, greedy.shape) < state.acting.epsilon
        return jnp.where(at_random, jax.random.randint(which, greedy.shape, 0, num_actions), greedy), {}

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, learning = state
        acting = acting._replace(stats=observe(acting.stats, batch.obs))
        priorities = sampler.add(learning.priorities, hyper.prioritized_alpha, clock)
        learning = learning._replace(replay=memory.add(learning.replay, batch, clock))

        def step(carry: tuple, given: tuple) -> tuple:
            params, optimizer, priorities = carry
            now = learning._replace(optimizer=optimizer, priorities=priorities)
            *carried, metrics = gradient_step(parts, acting._replace(params=params), now, hyper, clock, *given)
            return tuple(carried), metrics

        carry, ready = (acting.params, learning.optimizer, priorities), clock.iteration >= first_update
        (params, optimizer, priorities), metrics = gradient_steps(
            step, carry, key, config.gradient_steps, ready, batch.extras
        )
        due = (clock.iteration + 1) % copy_every == 0
        target = jax.lax.cond(due, lambda: copied(params), lambda: learning.target)
        epsilon = share_of_random_actions(hyper, clock)
        learning = Learning(target, optimizer, learning.replay, priorities)
        return AgentState(Acting(params, acting.stats, epsilon), learning), metrics | {"epsilon": epsilon}

    def probabilities(state: AgentState, obs: jax.Array) -> jax.Array:
        return jax.nn.softmax(parts.values(state.acting, obs))

    traits = Traits(rollout_length=config.train_freq, num_envs=config.num_cpu)
    agent = Agent(init, act, update, traits, probabilities, discard=_keep_replay, adopted=_adopted)
    return agent._replace(cut=cut_replay(memory), host_frames=host_frames(parts, first_update))


def _keep_replay(old: AgentState, new: AgentState, key: jax.Array) -> AgentState:
    """The state before an update that is thrown away, with what it has written into the memory."""
    replay, priorities = new.learning.replay, new.learning.priorities
    return old._replace(learning=old.learning._replace(replay=replay, priorities=priorities))


def _adopted(state: AgentState) -> AgentState:
    """The target network is that of the policy."""
    return state._replace(learning=state.learning._replace(target=copied(state.acting.params)))


class DeepQ(JaxAlgorithm):
    """DeepQ behind the toolbox's common interface."""

    name, Config, Hyper, make = "deepq", Config, Hyper, staticmethod(make)

    @classmethod
    def check(cls, config: Any, hyper: dict[str, float]) -> None:
        """Refuse a replay memory that is too small."""
        per_iteration = config.num_cpu * config.train_freq
        check_replay("--buffer-size", config.buffer_size, config.batch_size, per_iteration, config.n_step)
