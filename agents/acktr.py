"""ACKTR: actor-critic with Kronecker-factored trust region (Wu et al. 2017, arXiv 1708.05144)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.base_classes import JaxAlgorithm
from agents.common import kfac
from agents.common.distributions import distribution
from agents.common.memory import available_memory
from agents.common.on_policy import ActorCriticPolicy, Estimates
from agents.common.optim import clip_by_global_norm
from agents.common.schedules import schedule
from agents.options import LR_SCHEDULES, POLICIES, option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Spec


@dataclass(frozen=True)
class Config:
    """Static options of ACKTR."""

    num_cpu: int = option(1, "Number of environments.", minimum=1, jax_default=16)
    policy: str = option("feedforward", "Policy network; the others remember.", choices=POLICIES)
    n_lstm: int = option(256, "Cells of the LSTM.", minimum=1)
    n_steps: int = option(5, "Steps of each environment between updates.", minimum=1, search=(1, 100))
    lr_schedule: str = option("linear", "Learning-rate schedule.", choices=LR_SCHEDULES, search=list(LR_SCHEDULES))
    net_arch: tuple = option((64, 64), "Hidden layers of the policy and of the value network.", minimum=1)
    activation: str = option("tanh", "Activation of the hidden layers.", choices=("tanh", "relu"))
    log_std_init: float = option(0.0, "Initial log standard deviation of continuous actions.")
    normalize: bool = option(True, "Standardise states by their running mean and variance.")
    cold_iterations: int = option(10, "First updates, which take the plain gradient.", minimum=0)
    inverse_interval: int = option(1, "Updates from one inversion of the Fisher factors to the next.", minimum=1)


@dataclass(frozen=True)
class Hyper:
    """Traced options of ACKTR."""

    learning_rate: float = option(0.25, "Largest step size.", minimum=0, search=(0.01, 1.0))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    lam: float = option(1.0, "Trace decay of GAE; 1 is the n-step return.", minimum=0, maximum=1, search=(0.8, 1.0))
    vf_coef: float = option(0.5, "Weight of the value loss.", minimum=0, search=(0.1, 1.0))
    ent_coef: float = option(0.01, "Weight of the entropy bonus.", minimum=0, search=(0.0, 0.1))
    vf_fisher_coef: float = option(1.0, "Weight of the value in the Fisher matrix.", minimum=0, search=(0.1, 1.0))
    kfac_clip: float = option(1e-3, "Largest squared Fisher norm of a step.", minimum=0, search=(1e-4, 1e-2))
    damping: float = option(0.01, "Tikhonov damping of the Fisher matrix.", minimum=1e-6, search=(1e-3, 0.1))
    stats_decay: float = option(0.99, "Decay of the running Fisher factors.", minimum=0, maximum=1)
    momentum: float = option(0.9, "Decay of the average of steps.", minimum=0, maximum=1)
    max_grad_norm: float = option(0.5, "Largest norm of the plain gradient of the first updates.", minimum=1e-8)


jax.tree_util.register_dataclass(Hyper)


class Learning(NamedTuple):
    """The optimiser's state: Fisher factors, and the running average of steps, a tree like the parameters."""

    curvature: kfac.Curvature
    velocity: Any


def loss(outputs: Any, data: Estimates, hyper: Hyper) -> tuple[jax.Array, dict]:
    """Policy gradient, value loss and entropy bonus, as in A2C, with what to report.

    Args:
        outputs: (policy output, value [T, N]) of the network.
        data: Rollout, leaves [T, N, ...].
        hyper: Weights of the terms.
    """
    pi, value = distribution(outputs[0]), outputs[1]
    policy_loss = -jnp.mean(data.advantage * pi.log_prob(data.action))
    value_loss = jnp.mean((value - data.target) ** 2)
    entropy = jnp.mean(pi.entropy())
    total = policy_loss + hyper.vf_coef * value_loss - hyper.ent_coef * entropy
    return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def log_likelihood(outputs: Any, action: jax.Array, noise: jax.Array, vf_fisher_coef: jax.Array) -> jax.Array:
    """Sum over the batch of the log likelihood of samples of the network's own distribution (section 3.1).

    Args:
        outputs: (policy output, value [T, N]) of the network.
        action: Actions [T, N, ...], which the same policy has drawn.
        noise: Standard normals [T, N]; V + noise / sqrt(coef) is a sample of a Gaussian around the value.
        vf_fisher_coef: Inverse variance of that Gaussian.
    """
    value = outputs[1]
    drawn = jax.lax.stop_gradient(value) * jnp.sqrt(vf_fisher_coef) + noise
    of_value = -0.5 * (value * jnp.sqrt(vf_fisher_coef) - drawn) ** 2
    return jnp.sum(distribution(outputs[0]).log_prob(action) + of_value)


def network_layers(policy: ActorCriticPolicy, samples: int) -> tuple[kfac.Layer, ...]:
    """Layers of the actor-critic.

    Raises:
        ValueError: K-FAC's matrices for batches of `samples` would not fit the memory.
    """
    inputs = jax.eval_shape(policy.example)
    params = jax.eval_shape(policy.network.init, jax.random.key(0), *inputs)
    layers = kfac.layers_of(policy.network.apply, params, *inputs)
    needed, available = kfac.needed_bytes(layers, samples), available_memory()
    if needed > available:
        raise ValueError(
            f"acktr's Fisher factors and a batch of {samples:,} need {needed / 2**30:,.1f} GiB, the device has "
            f"{available / 2**30:,.1f} GiB: use a smaller --n-steps, --num-cpu, --net-arch or --image-size"
        )
    return layers


def make(spec: Spec, config: Config) -> Agent:
    """Build ACKTR for an environment.

    Raises:
        ValueError: Its matrices would not fit the memory.
    """
    policy = ActorCriticPolicy.of(spec, config)
    layers = network_layers(policy, config.num_cpu * config.n_steps)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        acting = policy.init(key)
        return AgentState(acting, Learning(kfac.init_curvature(layers), jax.tree.map(jnp.zeros_like, acting.params)))

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, (curvature, velocity) = state
        data = policy.estimate(acting, batch, hyper.gamma, hyper.lam)
        rate = hyper.learning_rate * schedule(config.lr_schedule, clock.progress)

        tape = kfac.forward(layers, policy.network.apply, acting.params, data.obs, data.carry, data.begin)
        by_outputs, metrics = jax.grad(loss, has_aux=True)(tape.outputs, data, hyper)
        grads = tape.pullback(by_outputs)[0]
        noise = jax.random.normal(key, data.value.shape)
        by_outputs = jax.grad(log_likelihood)(tape.outputs, data.action, noise, hyper.vf_fisher_coef)
        seen = zip(layers, tape.inputs, tape.pullback(by_outputs)[1], strict=True)
        factors = tuple(kfac.statistics(*of_layer) for of_layer in seen)
        curvature = kfac.update_curvature(
            layers, curvature, factors, clock.iteration, config.inverse_interval, hyper.stats_decay, hyper.damping
        )

        plain, grad_norm = clip_by_global_norm(grads, hyper.max_grad_norm)
        natural = kfac.precondition(layers, curvature, grads, hyper.damping)
        scale = kfac.trust_region_scale(natural, grads, rate, hyper.kfac_clip)
        cold = clock.iteration < config.cold_iterations
        step = jax.tree.map(lambda p, n: jnp.where(cold, p, scale * n), plain, natural)
        velocity = jax.tree.map(lambda v, s: hyper.momentum * v + (1 - hyper.momentum) * s, velocity, step)
        params = jax.tree.map(lambda p, v: p - rate * v, acting.params, velocity)
        acting = acting._replace(params=params, stats=policy.observe(acting.stats, batch.obs))
        metrics |= {"grad_norm": grad_norm, "trust_region_scale": scale, "learning_rate": rate}
        return AgentState(acting, Learning(curvature, velocity)), metrics

    traits = Traits(rollout_length=config.n_steps, num_envs=config.num_cpu)
    return policy.agent(init, update, traits)


class ACKTR(JaxAlgorithm):
    """ACKTR behind the toolbox's common interface."""

    name, Config, Hyper, make = "acktr", Config, Hyper, staticmethod(make)
