"""PPO2: proximal policy optimisation with a clipped surrogate (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import optax

from agents.base_classes import JaxAlgorithm
from agents.common.on_policy import ActorCriticPolicy, Estimates, Learning, reward_scale, scaled
from agents.common.optim import clip_by_global_norm, descend
from agents.common.schedules import schedule
from agents.common.shuffle import shuffled_indices
from agents.options import LR_SCHEDULES, POLICIES, option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Spec


@dataclass(frozen=True)
class Config:
    """Static options of PPO2."""

    num_cpu: int = option(1, "Number of environments.", minimum=1, jax_default=16)
    policy: str = option("feedforward", "Policy network; the others remember.", choices=POLICIES)
    n_lstm: int = option(256, "Cells of the LSTM.", minimum=1)
    n_steps: int = option(128, "Steps of each environment between updates.", minimum=1, search=(32, 2048))
    nminibatches: int = option(4, "Minibatches per epoch.", minimum=1)
    noptepochs: int = option(4, "Passes over each batch.", minimum=1, search=(1, 10))
    lr_schedule: str = option("linear", "Learning-rate schedule.", choices=LR_SCHEDULES)
    clip_schedule: str = option("constant", "Schedule of the clip range.", choices=LR_SCHEDULES)
    net_arch: tuple = option((64, 64), "Hidden layers of the policy and of the value network.", minimum=1)
    activation: str = option("tanh", "Activation of the hidden layers.", choices=("tanh", "relu"))
    log_std_init: float = option(0.0, "Initial log standard deviation of continuous actions.")
    ortho_init: bool = option(True, "Start dense layers orthogonal; otherwise uniform, as in PyTorch.")
    use_sde: bool = option(False, "Explore by noise that depends on the state (continuous actions).")
    sde_sample_freq: int = option(
        -1, "Steps of an episode that this noise is kept for; -1 for a rollout's.", minimum=-1
    )
    normalize: bool = option(True, "Standardise states by their running mean and variance.")
    normalize_reward: bool = option(False, "Divide rewards by the running deviation of returns.")
    clip_value: bool = option(True, "Clip the change of the value as well.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of PPO2."""

    learning_rate: float = option(2.5e-4, "Step size of Adam.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    lam: float = option(0.95, "Trace decay of GAE.", minimum=0, maximum=1, search=(0.8, 1.0))
    cliprange: float = option(0.2, "How far the probability ratio may move.", minimum=0, search=(0.05, 0.5))
    vf_coef: float = option(0.5, "Weight of the value loss.", minimum=0, search=(0.1, 1.0))
    ent_coef: float = option(0.01, "Weight of the entropy bonus.", minimum=0, search=(0.0, 0.1))
    max_grad_norm: float = option(0.5, "Largest norm of the gradient.", minimum=1e-8, search=(0.1, 5.0))


jax.tree_util.register_dataclass(Hyper)


def loss(
    params: dict, policy: ActorCriticPolicy, data: Estimates, hyper: Hyper, clip: jax.Array, clip_value: bool
) -> tuple[jax.Array, dict]:
    """Clipped surrogate, value loss and entropy bonus of a minibatch (equations 7 and 9), with what to report.

    Args:
        params: Network parameters, what the gradient is taken in.
        policy: The network's functions.
        data: Minibatch, leaves [M, ...]; with an LSTM [T, M, ...].
        hyper: Weights of the terms.
        clip: Clip range [] of the probability ratio.
        clip_value: Whether the value may move by `clip` only, too.
    """
    pi, value, _ = policy.unroll(params, data.obs, data.carry, data.begin)
    log_ratio = pi.log_prob(data.action) - data.log_prob
    ratio = jnp.exp(log_ratio)
    advantage = (data.advantage - data.advantage.mean()) / (data.advantage.std() + 1e-8)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    value_error = (value - data.target) ** 2
    if clip_value:
        near = data.value + jnp.clip(value - data.value, -clip, clip)
        value_error = jnp.maximum(value_error, (near - data.target) ** 2)
    value_loss = 0.5 * jnp.mean(value_error)
    entropy = jnp.mean(pi.entropy())
    total = -jnp.mean(surrogate) + hyper.vf_coef * value_loss - hyper.ent_coef * entropy
    return total, {
        "policy_loss": -jnp.mean(surrogate),
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": jnp.mean(ratio - 1 - log_ratio),
        "clip_fraction": jnp.mean((jnp.abs(ratio - 1) > clip).astype(jnp.float32)),
    }


def make(spec: Spec, config: Config) -> Agent:
    """Build PPO2 for an environment.

    Raises:
        ValueError: The batch does not divide into the minibatches, or not into those of whole environments.
    """
    batch_size = config.num_cpu * config.n_steps
    if config.policy != "feedforward" and config.num_cpu % config.nminibatches:
        raise ValueError(
            f"--policy={config.policy} learns from whole environments: --nminibatches={config.nminibatches} must "
            f"divide --num-cpu={config.num_cpu}"
        )
    if batch_size % config.nminibatches:
        raise ValueError(
            f"--nminibatches={config.nminibatches} does not divide the batch of {config.num_cpu} environments x "
            f"{config.n_steps} steps = {batch_size}"
        )
    policy = ActorCriticPolicy.of(spec, config, rollout_length=config.n_steps)
    adam = optax.scale_by_adam(eps=1e-5)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        acting = policy.init(key)
        returns = reward_scale(config.normalize_reward, config.num_cpu)
        return AgentState(acting, Learning(adam.init(acting.params), returns))

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        rate = hyper.learning_rate * schedule(config.lr_schedule, clock.progress)
        clip = hyper.cliprange * schedule(config.clip_schedule, clock.progress)
        batch, returns = scaled(state.learning.returns, batch, hyper.gamma)
        rows = policy.rows(policy.estimate(state.acting, batch, hyper.gamma, hyper.lam))

        def minibatch(carry: tuple, indices: jax.Array) -> tuple:
            params, optimizer = carry
            part = policy.from_rows(jax.tree.map(lambda x: x[indices], rows))
            grads, metrics = jax.grad(loss, has_aux=True)(params, policy, part, hyper, clip, config.clip_value)
            grads, grad_norm = clip_by_global_norm(grads, hyper.max_grad_norm)
            return descend(adam, params, optimizer, grads, rate), metrics | {"grad_norm": grad_norm}

        def epoch(carry: tuple, key: jax.Array) -> tuple:
            order = shuffled_indices(key, len(rows.action)).reshape(config.nminibatches, -1)
            return jax.lax.scan(minibatch, carry, order)

        carry = (state.acting.params, state.learning.optimizer)
        keys = jax.random.split(key, config.noptepochs)
        (params, optimizer), history = cast(tuple, jax.lax.scan(epoch, carry, keys))
        acting = state.acting._replace(params=params, stats=policy.observe(state.acting.stats, batch.obs))
        metrics = {name: values.mean() for name, values in history.items()}
        return AgentState(acting, Learning(optimizer, returns)), metrics | {"learning_rate": rate, "cliprange": clip}

    traits = Traits(rollout_length=config.n_steps, num_envs=config.num_cpu)
    return policy.agent(init, update, traits)


class PPO2(JaxAlgorithm):
    """PPO2 behind the toolbox's common interface."""

    name, Config, Hyper, make = "ppo2", Config, Hyper, staticmethod(make)
