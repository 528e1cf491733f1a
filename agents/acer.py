"""ACER: actor-critic with experience replay (Wang et al. 2017, arXiv 1611.01224), for discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from agents.base_classes import JaxAlgorithm
from agents.common.normalizer import normalize
from agents.common.off_policy import copied, keep_replay, track
from agents.common.on_policy import Acting, ActorCriticPolicy, begins
from agents.common.optim import clip_by_global_norm, descend
from agents.common.returns import fold
from agents.common.schedules import schedule
from agents.options import LR_SCHEDULES, POLICIES, option
from agents.types import Agent, AgentState, Clock, Successors, Traits, Transition
from envs.types import Spec

TINY = 1e-6  # keeps divisions by probabilities finite


@dataclass(frozen=True)
class Config:
    """Static options of ACER."""

    num_cpu: int = option(1, "Number of environments.", minimum=1, jax_default=16)
    policy: str = option("feedforward", "Policy network; the others remember.", choices=POLICIES)
    n_lstm: int = option(256, "Cells of the LSTM.", minimum=1)
    n_steps: int = option(20, "Steps of each environment between updates.", minimum=1, search=(5, 50))
    buffer_size: int = option(5000, "Steps of each environment to remember.", minimum=1)
    replay_start: int = option(1000, "Steps of each environment before the first replay.", minimum=0)
    replay_ratio: float = option(4.0, "Replayed updates per update, on average.", minimum=0)
    trust_region: bool = option(True, "Keep the policy near its running average.")
    lr_schedule: str = option("constant", "Learning-rate schedule.", choices=LR_SCHEDULES, search=list(LR_SCHEDULES))
    net_arch: tuple = option((64, 64), "Hidden layers of the policy and of the value network.", minimum=1)
    activation: str = option("tanh", "Activation of the hidden layers.", choices=("tanh", "relu"))
    normalize: bool = option(True, "Standardise states by their running mean and variance.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of ACER."""

    learning_rate: float = option(7e-4, "Step size of RMSProp.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    q_coef: float = option(0.5, "Weight of the value loss.", minimum=0, search=(0.1, 1.0))
    ent_coef: float = option(0.01, "Weight of the entropy bonus.", minimum=0, search=(0.0, 0.1))
    max_grad_norm: float = option(10.0, "Largest norm of the gradient.", minimum=1e-8, search=(0.5, 20.0))
    rprop_alpha: float = option(0.99, "Decay of the squared-gradient average of RMSProp.", minimum=0, maximum=1)
    rprop_epsilon: float = option(1e-5, "Term that keeps RMSProp's division finite.", minimum=0)
    correction_term: float = option(10.0, "Largest importance weight (c).", minimum=0, search=(1.0, 20.0))
    delta: float = option(1.0, "Largest divergence from the average policy.", minimum=0, search=(0.1, 2.0))
    alpha: float = option(0.99, "Decay of the average policy.", minimum=0, maximum=1, search=(0.9, 0.999))


jax.tree_util.register_dataclass(Hyper)


class Sequence(NamedTuple):
    """A rollout to learn from, leaves [T, N]; `last_obs` and `carry` [N].

    The value after a time limit is folded into `reward` when the rollout is played: frames are stored once.
    """

    obs: Any
    last_obs: Any
    action: jax.Array
    reward: jax.Array
    done: jax.Array
    behaviour: jax.Array  # probabilities of all actions when it was played, [T, N, n]
    carry: Any = ()  # what an LSTM remembered before it


class Learning(NamedTuple):
    """The state beside the policy: average parameters, RMSProp's average, stored rollouts (leaves [entries, ...])."""

    average: Any
    optimizer: Any
    replay: Sequence


def retrace(
    reward: jax.Array, discount: jax.Array, q: jax.Array, value: jax.Array, last_value: jax.Array, ratio: jax.Array
) -> jax.Array:
    """Retrace targets of the actions played (Munos et al. 2016; ACER, algorithm 2).

    Args:
        reward, discount: Folded rewards and discounts [T, N].
        q: Values of the actions played [T, N].
        value: Values of the states [T, N].
        last_value: Value after the last step [N].
        ratio: Importance weights of the actions played [T, N].

    Returns:
        Targets [T, N].
    """

    def backward(after: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
        r, d, q_t, v_t, rho = step
        target = r + d * after
        return jnp.minimum(1.0, rho) * (target - q_t) + v_t, target

    return jax.lax.scan(backward, last_value, (reward, discount, q, value, ratio), reverse=True)[1]


def objective(
    pi: jax.Array, chosen: jax.Array, q: jax.Array, advantage: jax.Array, ratio: jax.Array, hyper: Hyper
) -> jax.Array:
    """Truncated policy gradient with bias correction and entropy (equation 8), summed: what rises.

    Args:
        pi: Probabilities [T, N, n], what the gradient is taken in.
        chosen: The actions played, one-hot [T, N, n].
        q: Values of all actions less that of the state [T, N, n].
        advantage: Retrace target less the value of the state [T, N].
        ratio: Importance weights of all actions [T, N, n].
        hyper: Truncation c, weight of the entropy.
    """
    log_pi = jnp.log(pi + TINY)
    truncated = jnp.minimum(hyper.correction_term, jnp.sum(ratio * chosen, axis=-1))
    gain = jnp.sum(log_pi * chosen, axis=-1) * truncated * advantage
    weight = jnp.maximum(0.0, 1.0 - hyper.correction_term / (ratio + TINY)) * jax.lax.stop_gradient(pi)
    correction = jnp.sum(log_pi * weight * q, axis=-1)
    entropy = -jnp.sum(pi * log_pi, axis=-1)
    return jnp.sum(gain + correction + hyper.ent_coef * entropy)


def trusted(gradient: jax.Array, pi: jax.Array, average: jax.Array, delta: ArrayLike) -> jax.Array:
    """Project a gradient in the probabilities [..., n]: it leads away from the average by delta at most (equation 12).

    Args:
        gradient: Direction that raises the objective.
        pi: Probabilities.
        average: Those of the average policy.
        delta: Bound on the change of the divergence [].
    """
    k = -average / (pi + TINY)  # gradient of KL(average || pi) in pi
    excess = jnp.sum(k * gradient, axis=-1, keepdims=True) - delta
    return gradient - jnp.maximum(0.0, excess / (jnp.sum(k**2, axis=-1, keepdims=True) + TINY)) * k


def loss(
    params: Any, average: Any, policy: ActorCriticPolicy, data: Sequence, hyper: Hyper, trust_region: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What a step descends, and what to report.

    Args:
        params: Network parameters, what the gradient is taken in.
        average: Average parameters.
        policy: The network's functions.
        data: Rollout with standardised observations.
        hyper: Weights, truncation and trust region.
        trust_region: Whether the gradient is projected.
    """
    seen = data.obs, data.carry, begins(data.done > 0) if policy.recurrent else ()
    output, q, after = policy.unroll(params, *seen)
    last_pi, last_q, _ = policy.step(params, data.last_obs, jax.tree.map(lambda x: x[-1], after))
    last_value = jax.lax.stop_gradient(jnp.sum(last_pi.probabilities() * last_q, axis=-1))
    pi = output.probabilities()
    fixed_pi, fixed_q = jax.lax.stop_gradient((pi, q))
    chosen = jax.nn.one_hot(data.action, pi.shape[-1])
    ratio = fixed_pi / (data.behaviour + TINY)
    value, q_played = jnp.sum(fixed_pi * fixed_q, axis=-1), jnp.sum(fixed_q * chosen, axis=-1)
    ratio_played = jnp.sum(ratio * chosen, axis=-1)
    discount = hyper.gamma * (1.0 - data.done)
    target = retrace(data.reward, discount, q_played, value, last_value, ratio_played)
    gradient = jax.grad(objective)(fixed_pi, chosen, fixed_q - value[..., None], target - value, ratio, hyper)
    if trust_region:
        average_pi = policy.unroll(average, *seen)[0].probabilities()
        gradient = trusted(gradient, fixed_pi, average_pi, hyper.delta)
    policy_loss = -jnp.mean(jnp.sum(pi * jax.lax.stop_gradient(gradient), axis=-1))
    q_loss = 0.5 * jnp.mean((jnp.sum(q * chosen, axis=-1) - target) ** 2)
    entropy = -jnp.mean(jnp.sum(fixed_pi * jnp.log(fixed_pi + TINY), axis=-1))
    metrics = {"q_loss": q_loss, "entropy": entropy, "value": value.mean(), "importance_weight": ratio_played.mean()}
    return policy_loss + hyper.q_coef * q_loss, metrics


def _played(policy: ActorCriticPolicy, acting: Acting, batch: Transition, gamma: ArrayLike) -> Sequence:
    """A rollout as it is stored."""
    carry, begin = policy.recalled(batch)
    pi, q, after = policy.unroll(acting.params, normalize(acting.stats, batch.obs), carry, begin)
    next_value = policy.successor_values(acting, batch, policy.state_value(pi, q), after)
    reward, _ = fold(batch.reward, batch.terminated, batch.truncated, next_value, gamma)
    done = (batch.terminated | batch.truncated).astype(jnp.float32)
    last_obs = batch.next_obs.last if isinstance(batch.next_obs, Successors) else batch.next_obs[-1]
    return Sequence(batch.obs, last_obs, batch.action, reward, done, batch.extras["behaviour"], carry)


def make(spec: Spec, config: Config) -> Agent:
    """Build ACER for an environment."""
    policy = ActorCriticPolicy.of(spec, config, action_values=True)
    entries, first_replay = config.buffer_size // config.n_steps, -(-config.replay_start // config.n_steps)

    def rmsprop(hyper: Hyper) -> optax.GradientTransformation:
        return optax.scale_by_rms(decay=hyper.rprop_alpha, eps=hyper.rprop_epsilon, initial_scale=1.0)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        acting, lead = policy.init(key), (entries, config.n_steps, config.num_cpu)
        obs = jnp.zeros((*lead, *spec.obs_shape), spec.obs_dtype)
        n = policy.network.num_actions
        numbers, behaviour = jnp.zeros(lead), jnp.full((*lead, n), 1.0 / n)
        carry = jax.tree.map(lambda x: jnp.zeros((entries, *x.shape)), policy.begin(config.num_cpu).carry)
        replay = Sequence(obs, obs[:, 0], jnp.zeros(lead, jnp.int32), numbers, jnp.zeros(lead), behaviour, carry)
        return AgentState(acting, Learning(copied(acting.params), rmsprop(hyper).init(acting.params), replay))

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, (average, optimizer, replay) = state
        rollout = _played(policy, acting, batch, hyper.gamma)
        replay = _store(replay, rollout, clock, entries)
        rate = hyper.learning_rate * schedule(config.lr_schedule, clock.progress)

        def step(carry: tuple, data: Sequence) -> tuple:
            params, average, optimizer = carry
            obs, last_obs = (normalize(acting.stats, x) for x in (data.obs, data.last_obs))
            data = data._replace(obs=obs, last_obs=last_obs)
            grads, metrics = jax.grad(loss, has_aux=True)(params, average, policy, data, hyper, config.trust_region)
            grads, grad_norm = clip_by_global_norm(grads, hyper.max_grad_norm)
            params, optimizer = descend(rmsprop(hyper), params, optimizer, grads, rate)
            return (params, track(average, params, 1.0 - hyper.alpha), optimizer), metrics | {"grad_norm": grad_norm}

        def again(number: jax.Array, carry: tuple) -> tuple:
            stored = jnp.minimum(clock.iteration + 1, entries)
            which = jax.random.randint(jax.random.fold_in(key, number), (config.num_cpu,), 0, stored)
            return step(carry, _pick(replay, which))[0]

        carry, metrics = step((acting.params, average, optimizer), rollout)
        carry = jax.lax.fori_loop(0, _replays(clock, config.replay_ratio, first_replay), again, carry)
        params, average, optimizer = carry
        acting = Acting(params, policy.observe(acting.stats, batch.obs))
        return AgentState(acting, Learning(average, optimizer, replay)), metrics | {"learning_rate": rate}

    traits = Traits(rollout_length=config.n_steps, num_envs=config.num_cpu)
    agent = policy.agent(init, update, traits, lambda pi, action: {"behaviour": pi.probabilities()})
    return agent._replace(discard=keep_replay, adopted=_adopted)


def _adopted(state: AgentState) -> AgentState:
    """The average policy begins as the policy."""
    return state._replace(learning=state.learning._replace(average=copied(state.acting.params)))


def _replays(clock: Clock, ratio: float, first: int) -> jax.Array:
    """How many updates are replayed in this iteration, int32 []: Poisson, the same for all runs of a sweep."""
    number = jax.random.poisson(jax.random.fold_in(jax.random.key(0), clock.iteration), ratio)
    return jnp.where(clock.iteration + 1 >= first, number, 0)


def _store(replay: Sequence, rollout: Sequence, clock: Clock, entries: int) -> Sequence:
    """Write a rollout over the oldest; an environment's part that is not all finite leaves its last one once more."""
    reals = (x for x in (rollout.obs, rollout.last_obs[None], rollout.reward) if jnp.issubdtype(x.dtype, jnp.floating))
    good = jnp.stack([jnp.isfinite(x).reshape(*x.shape[:2], -1).all(axis=(0, 2)) for x in reals]).all(axis=0)  # [N]

    def write(ring: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        last = jax.lax.dynamic_index_in_dim(ring, (clock.iteration - 1) % entries, 0, keepdims=False)
        wide = good.reshape(*[1] * axis, -1, *[1] * (new.ndim - axis - 1))
        return jax.lax.dynamic_update_index_in_dim(ring, jnp.where(wide, new, last), clock.iteration % entries, 0)

    at_ends = [(each.last_obs, each.carry) for each in (replay, rollout)]
    last_obs, carry = jax.tree.map(partial(write, axis=0), *at_ends)
    within = [each._replace(last_obs=(), carry=()) for each in (replay, rollout)]
    return jax.tree.map(partial(write, axis=1), *within)._replace(last_obs=last_obs, carry=carry)


def _pick(replay: Sequence, which: jax.Array) -> Sequence:
    """For each environment the stored rollout `which` int32 [N] of it."""
    envs = jnp.arange(which.shape[0])

    def pick(ring: jax.Array) -> jax.Array:
        return ring[which, :, envs].swapaxes(0, 1)  # [N, T, ...] to [T, N, ...]

    at_ends = replay.last_obs, replay.carry
    last_obs, carry = jax.tree.map(lambda ring: ring[which, envs], at_ends)
    return jax.tree.map(pick, replay._replace(last_obs=(), carry=()))._replace(last_obs=last_obs, carry=carry)


class ACER(JaxAlgorithm):
    """ACER behind the toolbox's common interface."""

    name, Config, Hyper, make = "acer", Config, Hyper, staticmethod(make)

    @classmethod
    def check(cls, config: Any, hyper: dict[str, float]) -> None:
        """Refuse a buffer that does not hold a rollout."""
        if config.buffer_size < config.n_steps:
            raise ValueError(f"--buffer-size={config.buffer_size} holds no rollout of --n-steps={config.n_steps}")
