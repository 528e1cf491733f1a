"""SAC: soft actor-critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from agents.base_classes import JaxAlgorithm
from agents.common.distributions import StateDependentGaussian, TanhGaussian
from agents.common.exploration import Noise, no_noise, renewed
from agents.common.normalizer import RunningStats, init_stats, normalize, observe
from agents.common.off_policy import (
    ActionBounds,
    check_replay,
    copied,
    cut_replay,
    draw,
    even_host_frames,
    frames_on_host,
    gradient_steps,
    keep_replay,
    track,
)
from agents.common.optim import descend
from agents.common.replay import Minibatch, Replay, ReplayMemory
from agents.common.schedules import schedule
from agents.options import LR_SCHEDULES, REPLAY_MEMORIES, option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Spec
from networks.values import Critics, Encoder, SquashedGaussianActor


@dataclass(frozen=True)
class Config:
    """Static options of SAC."""

    num_cpu: int = option(1, "Number of environments.", minimum=1)
    buffer_size: int = option(50000, "Steps to remember.", minimum=1)
    batch_size: int = option(64, "Transitions per gradient step.", minimum=1, search=(16, 512))
    train_freq: int = option(1, "Steps of each environment between updates.", minimum=1, search=(1, 64))
    gradient_steps: int = option(1, "Gradient steps per update.", minimum=1, search=(1, 64))
    replay_memory: str = option("auto", "Where the pictures to remember are kept.", choices=REPLAY_MEMORIES)
    learning_starts: int = option(100, "Steps of random actions before learning.", minimum=0)
    auto_ent_coef: bool = option(True, "Adapt the weight of the entropy to the target entropy.")
    lr_schedule: str = option("constant", "Learning-rate schedule.", choices=LR_SCHEDULES)
    net_arch: tuple = option((64, 64), "Hidden layers of the actor and of each critic.", minimum=1)
    log_std_init: float = option(0.0, "Initial bias of the log standard deviation.")
    use_sde: bool = option(False, "Explore by noise that depends on the state.")
    sde_sample_freq: int = option(-1, "Steps that this noise is kept for; -1 for a rollout's.", minimum=-1)
    normalize: bool = option(True, "Standardise states by their running mean and variance.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of SAC."""

    learning_rate: float = option(3e-4, "Step size of Adam.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    tau: float = option(
        0.005, "Share by which target networks follow per step.", minimum=0, maximum=1, search=(0.001, 0.1)
    )
    ent_coef: float = option(1.0, "Weight of the entropy; its start where it adapts.", minimum=1e-8, search=(1e-3, 1))
    target_entropy_scale: float = option(
        1.0, "Target entropy per action component, as a negative number of nats.", search=(0.1, 2.0)
    )


jax.tree_util.register_dataclass(Hyper)
ADAM = optax.scale_by_adam()


class Acting(NamedTuple):
    """What SAC plays with: actor, observation statistics (() for pictures), whether actions are still random []."""

    actor: Any
    stats: RunningStats | tuple[()]
    at_random: jax.Array


class Critic(NamedTuple):
    """What gradient steps change beside the actor: parameters, and Adam's moments of (actor, critics, temperature)."""

    params: Any
    target: Any
    log_ent_coef: jax.Array
    optimizers: tuple[Any, Any, Any]


class Learning(NamedTuple):
    """The state beside the policy."""

    critic: Critic
    replay: Replay


class Networks(NamedTuple):
    """Actor and critics of an environment."""

    actor: SquashedGaussianActor
    critics: Critics

    def policy(self, params: Any, obs: jax.Array) -> TanhGaussian:
        """Distribution of actions in -1 ... 1 for standardised observations."""
        if self.actor.state_dependent:
            return TanhGaussian(*self.noisy(params, obs).gaussian())
        return TanhGaussian(*cast(tuple, self.actor.apply(params, obs)))

    def noisy(self, params: Any, obs: jax.Array) -> StateDependentGaussian:
        """Distribution under the tanh, of an actor with state-dependent noise."""
        return StateDependentGaussian(*cast(tuple, self.actor.apply(params, obs)))

    def explore(
        self, params: Any, obs: jax.Array, key: jax.Array, noise: tuple[Noise, ...], every: int
    ) -> tuple[jax.Array, tuple[Noise, ...]]:
        """Draw actions in -1 ... 1: from the policy, or by state-dependent noise where it is given, and renew that."""
        if not noise:
            return self.policy(params, obs).sample_and_log_prob(key)[0], ()
        kept = renewed(noise[0], key, every)
        return jnp.tanh(self.noisy(params, obs).explore(kept.normals)), (kept,)

    def values(self, params: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Values [2, B] of standardised observations and actions in -1 ... 1."""
        return cast(jax.Array, self.critics.apply(params, obs, action))


def critic_loss(
    params: Any, networks: Networks, actor: Any, critic: Critic, data: Minibatch, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Soft Bellman residual of both critics (equations 5 and 6, with the smaller target), and the mean value."""
    action, log_prob = networks.policy(actor, data.next_obs).sample_and_log_prob(key)
    next_value = networks.values(critic.target, data.next_obs, action).min(axis=0)
    goal = data.reward + data.discount * (next_value - jnp.exp(critic.log_ent_coef) * log_prob)
    value = networks.values(params, data.obs, data.action)
    error = value - jax.lax.stop_gradient(goal)
    return 0.5 * jnp.mean(data.weight * error**2, axis=1).sum(), value.mean()


def actor_loss(
    params: Any, networks: Networks, critic: Critic, data: Minibatch, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Expected temperature-weighted log density less the value (equation 9), and the mean entropy."""
    action, log_prob = networks.policy(params, data.obs).sample_and_log_prob(key)
    value = networks.values(critic.params, data.obs, action).min(axis=0)
    return jnp.mean(jnp.exp(critic.log_ent_coef) * log_prob - value), -jnp.mean(log_prob)


def gradient_step(
    networks: Networks, config: Config, hyper: Hyper, rate: jax.Array, carry: tuple, data: Minibatch, key: jax.Array
) -> tuple[tuple[Any, Critic], dict[str, jax.Array]]:
    """One step of critics, targets, actor and temperature (algorithm 1).

    Args:
        networks: Actor and critics.
        config: Whether the temperature adapts.
        hyper: Share by which the targets follow, target entropy.
        rate: Step size [].
        carry: (actor parameters, the rest of what is learned).
        data: Minibatch with standardised observations and actions in -1 ... 1.
        key: Typed key [].

    Returns:
        (carry, metrics)
    """
    actor, critic = carry
    critic_key, actor_key = jax.random.split(key)
    of_actor, of_critics, of_ent_coef = critic.optimizers
    (loss, value), grads = jax.value_and_grad(critic_loss, has_aux=True)(
        critic.params, networks, actor, critic, data, critic_key
    )
    params, of_critics = descend(ADAM, critic.params, of_critics, grads, rate)
    critic = critic._replace(params=params, target=track(critic.target, params, hyper.tau))
    (policy_loss, entropy), grads = jax.value_and_grad(actor_loss, has_aux=True)(
        actor, networks, critic, data, actor_key
    )
    actor, of_actor = descend(ADAM, actor, of_actor, grads, rate)
    log_ent_coef = critic.log_ent_coef
    if config.auto_ent_coef:
        # Equation 18, in the logarithm of the temperature: it falls while the entropy is above its target.
        surplus = entropy + hyper.target_entropy_scale * networks.actor.size
        log_ent_coef, of_ent_coef = descend(ADAM, log_ent_coef, of_ent_coef, surplus, rate)
    critic = critic._replace(log_ent_coef=log_ent_coef, optimizers=(of_actor, of_critics, of_ent_coef))
    metrics = {"critic_loss": loss, "value": value, "actor_loss": policy_loss, "entropy": entropy}
    return (actor, critic), metrics | {"ent_coef": jnp.exp(log_ent_coef)}


def begin(networks: Networks, spec: Spec, count: int) -> Noise:
    """What is remembered of the noise in `count` environments when an episode begins."""
    obs = jax.ShapeDtypeStruct((1, *spec.obs_shape), spec.obs_dtype)
    output = jax.eval_shape(networks.actor.init_with_output, jax.random.key(0), obs)[0]
    return no_noise(count, output[-1].shape[-1], networks.actor.size)


def make(spec: Spec, config: Config) -> Agent:
    """Build SAC for an environment.

    Raises:
        ValueError: An action has no finite bounds, or the replay memory is smaller than a rollout.
    """
    bounds, size = ActionBounds("sac", spec), spec.action_shape[0]
    encoder = Encoder(spec.pixels, len(spec.obs_shape))
    actor_network = SquashedGaussianActor(encoder, size, config.net_arch, config.log_std_init, config.use_sde)
    networks = Networks(actor_network, Critics(encoder, 2, config.net_arch))
    on_host = frames_on_host(spec, config)
    memory = ReplayMemory(spec, config.buffer_size, config.train_freq, config.num_cpu, frames_on_host=on_host)
    every = config.sde_sample_freq if config.sde_sample_freq > 0 else config.train_freq
    first_update = memory.first_update(config.learning_starts)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        keys, obs = jax.random.split(key), jnp.zeros((1, *spec.obs_shape), spec.obs_dtype)
        actor = networks.actor.init(keys[0], obs)
        critics = networks.critics.init(keys[1], obs, jnp.zeros((1, size)))
        log_ent_coef = jnp.log(jnp.asarray(hyper.ent_coef, jnp.float32))
        optimizers = ADAM.init(actor), ADAM.init(critics), ADAM.init(log_ent_coef)
        stats = init_stats(spec.obs_shape) if config.normalize and not spec.pixels else ()
        critic = Critic(critics, copied(critics), log_ent_coef, optimizers)
        return AgentState(Acting(actor, stats, jnp.asarray(first_update > 0)), Learning(critic, memory.init()))

    def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool, *noise: Noise) -> tuple:
        obs = normalize(state.acting.stats, obs)
        if not explore:
            return bounds.scale(networks.policy(state.acting.actor, obs).mode()), {}, *noise
        drawn, noise = networks.explore(state.acting.actor, obs, key, noise, every)
        anything = jax.random.uniform(key, drawn.shape, minval=-1.0, maxval=1.0)  # takes the place of `drawn`
        return bounds.scale(jnp.where(state.acting.at_random, anything, drawn)), {}, *noise

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        stats = observe(state.acting.stats, batch.obs)
        replay = memory.add(state.learning.replay, batch, clock)
        rate = hyper.learning_rate * schedule(config.lr_schedule, clock.progress)

        def step(carry: tuple, given: tuple) -> tuple:
            (place_key, key), recalled = jax.random.split(given[0]), given[1]
            data = draw(memory, replay, bounds, stats, place_key, config.batch_size, hyper.gamma, clock, recalled)
            return gradient_step(networks, config, hyper, rate, carry, data, key)

        carry, ready = (state.acting.actor, state.learning.critic), clock.iteration >= first_update
        (actor, critic), metrics = gradient_steps(step, carry, key, config.gradient_steps, ready, batch.extras)
        acting = Acting(actor, stats, clock.iteration + 1 < first_update)
        return AgentState(acting, Learning(critic, replay)), metrics | {"learning_rate": rate}

    def probabilities(state: AgentState, obs: jax.Array, *noise: Noise) -> jax.Array:
        return bounds.scale(networks.policy(state.acting.actor, normalize(state.acting.stats, obs)).mode())

    traits = Traits(rollout_length=config.train_freq, num_envs=config.num_cpu)
    begins = partial(begin, networks, spec) if config.use_sde else None
    agent = Agent(init, act, update, traits, probabilities, begins, discard=keep_replay, cut=cut_replay(memory))
    frames = even_host_frames(memory, lambda key: key, (config.gradient_steps, config.batch_size), first_update)
    return agent._replace(host_frames=frames)


class SAC(JaxAlgorithm):
    """SAC behind the toolbox's common interface."""

    name, Config, Hyper, make = "sac", Config, Hyper, staticmethod(make)

    @classmethod
    def check(cls, config: Any, hyper: dict[str, float]) -> None:
        """Refuse a replay memory that is too small."""
        per_iteration = config.num_cpu * config.train_freq
        check_replay("--buffer-size", config.buffer_size, config.batch_size, per_iteration)
