"""DDPG: deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971), with TD3's three remedies.

The remedies (Fujimoto et al. 2018, arXiv 1802.09477) are switches: two critics, a delayed actor, noise on the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from agents.base_classes import JaxAlgorithm
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
from networks.values import Critics, DeterministicActor, Encoder

ADAM = optax.scale_by_adam()
OU_RATE, OU_STEP = 0.15, 0.01  # theta and dt of the Ornstein-Uhlenbeck process
PARAM_NOISE_FACTOR = 1.01  # by which the parameter noise grows or shrinks


@dataclass(frozen=True)
class Config:
    """Static options of DDPG."""

    num_cpu: int = option(1, "Number of environments.", minimum=1)
    memory_limit: int = option(100000, "Steps to remember.", minimum=1)
    noise_action: str = option(
        "ou", "Noise on actions: none, normal or Ornstein-Uhlenbeck.", choices=("none", "normal", "ou")
    )
    noise_param: bool = option(False, "Noise on the actor's parameters.")
    batch_size: int = option(64, "Transitions per gradient step.", minimum=1, search=(16, 256))
    nb_rollout_steps: int = option(100, "Steps of each environment between updates.", minimum=1, search=(1, 100))
    nb_train_steps: int = option(100, "Gradient steps per update.", minimum=1, search=(1, 100))
    replay_memory: str = option("auto", "Where the pictures to remember are kept.", choices=REPLAY_MEMORIES)
    learning_starts: int = option(0, "Steps of random actions before learning.", minimum=0)
    twin_critics: bool = option(False, "Two critics, of which the smaller is believed (TD3).")
    policy_delay: int = option(1, "Critic steps per step of the actor and the targets (TD3: 2).", minimum=1)
    lr_schedule: str = option("constant", "Learning-rate schedule.", choices=LR_SCHEDULES)
    net_arch: tuple = option((64, 64), "Hidden layers of the actor and of each critic.", minimum=1)
    normalize: bool = option(True, "Standardise states by their running mean and variance.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of DDPG."""

    actor_lr: float = option(1e-4, "Step size of the actor.", minimum=0, search=(1e-5, 1e-2))
    critic_lr: float = option(1e-3, "Step size of the critics.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    tau: float = option(
        0.001, "Share by which target networks follow per step.", minimum=0, maximum=1, search=(0.001, 0.1)
    )
    critic_l2_reg: float = option(
        0.01, "Weight of the squared norm of the critics' kernels.", minimum=0, search=(0, 0.1)
    )
    noise_action_sigma: float = option(0.2, "Standard deviation of the noise on actions.", minimum=0, search=(0, 1))
    noise_param_sigma: float = option(
        0.2, "Standard deviation of actions that the parameter noise aims at.", minimum=0, search=(0, 1)
    )
    target_noise: float = option(0.0, "Standard deviation of the noise on target actions (TD3: 0.2).", minimum=0)
    target_noise_clip: float = option(0.5, "Largest noise on target actions.", minimum=0)


jax.tree_util.register_dataclass(Hyper)


class Acting(NamedTuple):
    """What DDPG plays with.

    Attributes:
        actor: Actor parameters.
        stats: Observation statistics, () for pictures.
        sigma: Standard deviation [] of the noise on actions.
        at_random: Whether exploring actions are still uniform, bool [].
    """

    actor: Any
    stats: RunningStats | tuple[()]
    sigma: jax.Array
    at_random: jax.Array


class Perturbed(NamedTuple):
    """The actor that explores with parameter noise, and the noise's standard deviation []."""

    actor: Any
    sigma: jax.Array


class Learned(NamedTuple):
    """What gradient steps change: parameters, targets and Adam's moments of actor and critics."""

    actor: Any
    critics: Any
    actor_target: Any
    critics_target: Any
    optimizers: tuple[Any, Any]


class Learning(NamedTuple):
    """The state beside the policy; the actor of `learned` is () here, as it is in `Acting`."""

    learned: Learned
    replay: Replay
    perturbed: Perturbed | tuple[()]


class Networks(NamedTuple):
    """Actor and critics of an environment."""

    actor: DeterministicActor
    critics: Critics

    def action(self, params: Any, obs: jax.Array) -> jax.Array:
        """Actions [B, size] in -1 ... 1 for standardised observations."""
        return cast(jax.Array, self.actor.apply(params, obs))

    def values(self, params: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Values [critics, B] of standardised observations and actions in -1 ... 1."""
        return cast(jax.Array, self.critics.apply(params, obs, action))


def kernels_squared(params: Any) -> jax.Array:
    """Half the squared norm of all weights but biases."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return 0.5 * sum((jnp.sum(x**2) for path, x in leaves if path[-1].key == "kernel"), jnp.float32(0.0))


def critic_loss(
    critics: Any, networks: Networks, learned: Learned, data: Minibatch, hyper: Hyper, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Bellman residual of the critics (DDPG, equation 5; TD3, algorithm 1) with weight decay, and the mean value."""
    action = networks.action(learned.actor_target, data.next_obs)
    noise = hyper.target_noise * jax.random.normal(key, action.shape)
    action = jnp.clip(action + jnp.clip(noise, -hyper.target_noise_clip, hyper.target_noise_clip), -1.0, 1.0)
    next_value = networks.values(learned.critics_target, data.next_obs, action).min(axis=0)
    goal = jax.lax.stop_gradient(data.reward + data.discount * next_value)
    value = networks.values(critics, data.obs, data.action)
    residual = jnp.mean(data.weight * (value - goal) ** 2, axis=1).sum()
    return residual + hyper.critic_l2_reg * kernels_squared(critics), value.mean()


def actor_loss(actor: Any, networks: Networks, critics: Any, obs: jax.Array) -> jax.Array:
    """Negative value of the actor's actions by the first critic (DDPG, equation 6)."""
    return -networks.values(critics, obs, networks.action(actor, obs))[0].mean()


def gradient_step(
    networks: Networks,
    hyper: Hyper,
    factor: jax.Array,
    learned: Learned,
    data: Minibatch,
    key: jax.Array,
    actor_too: jax.Array,
) -> tuple[Learned, dict[str, jax.Array]]:
    """One step of the critics and, where `actor_too` [] says so, of actor and targets.

    Args:
        networks: Actor and critics.
        hyper: Step sizes and the rest.
        factor: The schedule's factor [] of the step sizes.
        learned: What changes.
        data: Minibatch with standardised observations and actions in -1 ... 1.
        key: Typed key [].
        actor_too: bool [] that depends on the clock alone.
    """
    of_actor, of_critics = learned.optimizers
    (loss, value), grads = jax.value_and_grad(critic_loss, has_aux=True)(
        learned.critics, networks, learned, data, hyper, key
    )
    critics, of_critics = descend(ADAM, learned.critics, of_critics, grads, factor * hyper.critic_lr)

    def follow() -> tuple[Learned, jax.Array]:
        loss, grads = jax.value_and_grad(actor_loss)(learned.actor, networks, critics, data.obs)
        actor, optimizer = descend(ADAM, learned.actor, of_actor, grads, factor * hyper.actor_lr)
        actor_target, critics_target = (
            track(target, params, hyper.tau)
            for target, params in ((learned.actor_target, actor), (learned.critics_target, critics))
        )
        return Learned(actor, critics, actor_target, critics_target, (optimizer, of_critics)), loss

    def wait() -> tuple[Learned, jax.Array]:
        return learned._replace(critics=critics, optimizers=(of_actor, of_critics)), jnp.float32(0.0)

    learned, policy_loss = jax.lax.cond(actor_too, follow, wait)
    return learned, {"critic_loss": loss, "value": value, "actor_loss": policy_loss}


def perturb(
    networks: Networks, before: Any, actor: Any, old: Perturbed, obs: jax.Array, aim: ArrayLike, key: jax.Array
) -> tuple[Perturbed, jax.Array]:
    """Adapt the parameter noise and draw it anew (Plappert et al. 2018, arXiv 1706.01905, section 3).

    Args:
        networks: Actor and critics.
        before: Actor parameters that the noise was drawn around.
        actor: Actor parameters to draw it around now.
        old: The actor that has explored, and its noise.
        obs: Standardised observations [B, *obs_shape] that it explored in.
        aim: Standard deviation [] of actions to aim at.
        key: Typed key [].

    Returns:
        (the actor to explore with, how far the noise has moved the old one's actions [])
    """
    distance = jnp.sqrt(jnp.mean((networks.action(before, obs) - networks.action(old.actor, obs)) ** 2))
    sigma = jnp.where(distance < aim, old.sigma * PARAM_NOISE_FACTOR, old.sigma / PARAM_NOISE_FACTOR)
    leaves, structure = jax.tree.flatten(actor)
    keys = jax.random.split(key, len(leaves))
    noisy = [x + sigma * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return Perturbed(jax.tree.unflatten(structure, noisy), sigma), distance


class Exploration:
    """How DDPG acts while it learns.

    Args:
        networks: Actor and critics.
        config: Kind of noise.
        bounds: Bounds of the actions.
        size: Number of action components.
    """

    def __init__(self, networks: Networks, config: Config, bounds: ActionBounds, size: int) -> None:
        self.networks, self.config, self.bounds, self.size = networks, config, bounds, size

    def begin(self, count: int) -> jax.Array:
        """The Ornstein-Uhlenbeck process at the start of an episode: zeros [count, size]."""
        return jnp.zeros((count, self.size))

    def act(
        self, state: AgentState, obs: jax.Array, key: jax.Array, explore: bool, process: jax.Array
    ) -> tuple[jax.Array, dict[str, Any], jax.Array]:
        """Actions [N, size] in the environment's units, no extras, and the process [N, size] one step on."""
        acting, learning = state
        obs = normalize(acting.stats, obs)
        if not explore:
            return self.bounds.scale(self.networks.action(acting.actor, obs)), {}, process
        noisy = isinstance(learning, Learning) and isinstance(learning.perturbed, Perturbed)
        action = self.networks.action(learning.perturbed.actor if noisy else acting.actor, obs)
        random_key, noise_key = jax.random.split(key)
        normal = acting.sigma * jax.random.normal(noise_key, action.shape)
        if self.config.noise_action == "ou":
            process = process * (1.0 - OU_RATE * OU_STEP) + OU_STEP**0.5 * normal
            action = action + process
        elif self.config.noise_action == "normal":
            action = action + normal
        anything = jax.random.uniform(random_key, action.shape, minval=-1.0, maxval=1.0)
        action = jnp.where(acting.at_random, anything, jnp.clip(action, -1.0, 1.0))
        return self.bounds.scale(action), {}, process


def make(spec: Spec, config: Config) -> Agent:
    """Build DDPG for an environment.

    Raises:
        ValueError: An action has no finite bounds, or the replay memory is smaller than a rollout.
    """
    bounds, size = ActionBounds("ddpg", spec), spec.action_shape[0]
    encoder = Encoder(spec.pixels, len(spec.obs_shape))
    critics_network = Critics(encoder, 1 + config.twin_critics, config.net_arch)
    networks = Networks(DeterministicActor(encoder, size, config.net_arch), critics_network)
    exploration = Exploration(networks, config, bounds, size)
    on_host, length = frames_on_host(spec, config), config.nb_rollout_steps
    memory = ReplayMemory(spec, config.memory_limit, length, config.num_cpu, frames_on_host=on_host)
    first_update = memory.first_update(config.learning_starts)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        keys, obs = jax.random.split(key), jnp.zeros((1, *spec.obs_shape), spec.obs_dtype)
        actor = networks.actor.init(keys[0], obs)
        critics = networks.critics.init(keys[1], obs, jnp.zeros((1, size)))
        stats = init_stats(spec.obs_shape) if config.normalize and not spec.pixels else ()
        sigma = jnp.asarray(hyper.noise_action_sigma, jnp.float32)
        learned = Learned((), critics, copied(actor), copied(critics), (ADAM.init(actor), ADAM.init(critics)))
        noise = Perturbed(copied(actor), jnp.asarray(hyper.noise_param_sigma, jnp.float32))
        learning = Learning(learned, memory.init(), noise if config.noise_param else ())
        return AgentState(Acting(actor, stats, sigma, jnp.asarray(first_update > 0)), learning)

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, (learned, replay, perturbed) = state
        replay, stats = memory.add(replay, batch, clock), observe(acting.stats, batch.obs)
        factor = schedule(config.lr_schedule, clock.progress)
        learn_key, noise_key = _learning_key(key), jax.random.split(key)[1]

        def step(carry: tuple[jax.Array, Learned], given: tuple) -> tuple:
            number, learned = carry
            (place_key, key), recalled = jax.random.split(given[0]), given[1]
            data = draw(memory, replay, bounds, stats, place_key, config.batch_size, hyper.gamma, clock, recalled)
            actor_too = (number + 1) % config.policy_delay == 0
            learned, metrics = gradient_step(networks, hyper, factor, learned, data, key, actor_too)
            return (number + 1, learned), metrics

        # Counted from the clock, which runs share, so that the delay of the actor is a real branch.
        number = clock.iteration * config.nb_train_steps % config.policy_delay
        carry, ready = (number, learned._replace(actor=acting.actor)), clock.iteration >= first_update
        (_, learned), metrics = gradient_steps(step, carry, learn_key, config.nb_train_steps, ready, batch.extras)
        if isinstance(perturbed, Perturbed):
            obs = normalize(stats, batch.obs).reshape(-1, *spec.obs_shape)
            actors, aim = (acting.actor, learned.actor), hyper.noise_param_sigma
            perturbed, distance = perturb(networks, *actors, perturbed, obs, aim, noise_key)
            metrics = metrics | {"param_noise": perturbed.sigma, "param_noise_distance": distance}
        sigma = jnp.asarray(hyper.noise_action_sigma, jnp.float32)
        acting = Acting(learned.actor, stats, sigma, clock.iteration + 1 < first_update)
        return AgentState(acting, Learning(learned._replace(actor=()), replay, perturbed)), metrics

    def probabilities(state: AgentState, obs: jax.Array, process: jax.Array) -> jax.Array:
        return exploration.act(state, obs, jax.random.key(0), False, process)[0]

    traits = Traits(rollout_length=length, num_envs=config.num_cpu)
    agent = Agent(init, exploration.act, update, traits, probabilities, exploration.begin)
    frames = even_host_frames(memory, _learning_key, (config.nb_train_steps, config.batch_size), first_update)
    return agent._replace(discard=keep_replay, adopted=_adopted, cut=cut_replay(memory), host_frames=frames)


def _learning_key(key: jax.Array) -> jax.Array:
    """The part of an update's key that gradient steps draw with; parameter noise has the other."""
    return jax.random.split(key)[0]


def _adopted(state: AgentState) -> AgentState:
    """The target actor and the one that explores begin as the policy."""
    actor, (learned, replay, perturbed) = state.acting.actor, state.learning
    if isinstance(perturbed, Perturbed):
        perturbed = perturbed._replace(actor=copied(actor))
    return state._replace(learning=Learning(learned._replace(actor_target=copied(actor)), replay, perturbed))


class DDPG(JaxAlgorithm):
    """DDPG behind the toolbox's common interface."""

    name, Config, Hyper, make = "ddpg", Config, Hyper, staticmethod(make)

    @classmethod
    def check(cls, config: Any, hyper: dict[str, float]) -> None:
        """Refuse a replay memory that is too small."""
        per_iteration = config.num_cpu * config.nb_rollout_steps
        check_replay("--memory-limit", config.memory_limit, config.batch_size, per_iteration)
