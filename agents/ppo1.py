"""PPO1: proximal policy optimisation, data-parallel over environments (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from agents.base_classes import JaxAlgorithm
from agents.common.on_policy import ActorCriticPolicy, Estimates
from agents.common.optim import descend
from agents.common.schedules import schedule
from agents.common.shuffle import scan_minibatches
from agents.options import option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Spec


@dataclass(frozen=True)
class Config:
    """Static options of PPO1."""

    num_cpu: int = option(1, "Number of environments.", minimum=1)
    policy: str = option("feedforward", "Policy network.", choices=("feedforward",))
    timesteps_per_actorbatch: int = option(
        128, "Steps of each environment between updates.", minimum=1, search=[64, 128, 256, 512, 1024, 2048]
    )
    optim_batchsize: int = option(64, "Steps of each environment in a minibatch.", minimum=1)
    optim_epochs: int = option(4, "Passes over each batch.", minimum=1, search=(1, 10))
    lr_schedule: str = option(
        "constant",
        "Schedule of the learning rate and of the clip range.",
        choices=("linear", "constant"),
        search=["linear", "constant"],
    )
    net_arch: tuple = option((64, 64), "Hidden layers of the policy and of the value network.", minimum=1)
    activation: str = option("tanh", "Activation of the hidden layers.", choices=("tanh", "relu"))
    log_std_init: float = option(0.0, "Initial log standard deviation of continuous actions.")
    normalize: bool = option(True, "Standardise states by their running mean and variance.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of PPO1."""

    optim_stepsize: float = option(2.5e-4, "Step size of Adam.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    lam: float = option(0.95, "Trace decay of GAE.", minimum=0, maximum=1, search=(0.8, 1.0))
    clip_param: float = option(0.2, "How far the probability ratio may move.", minimum=0, search=(0.05, 0.5))
    entcoeff: float = option(0.01, "Weight of the entropy bonus.", minimum=0, search=(0.0, 0.1))


jax.tree_util.register_dataclass(Hyper)


def make(spec: Spec, config: Config) -> Agent:
    """Build PPO1 for an environment.

    Raises:
        ValueError: The rollout does not divide into the minibatches.
    """
    if config.timesteps_per_actorbatch % config.optim_batchsize:
        raise ValueError(
            f"--optim-batchsize={config.optim_batchsize} does not divide "
            f"--timesteps-per-actorbatch={config.timesteps_per_actorbatch}"
        )
    policy = ActorCriticPolicy.of(spec, config)
    adam = optax.scale_by_adam(eps=1e-5)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        acting = policy.init(key)
        return AgentState(acting, adam.init(acting.params))

    def loss(params: dict, data: Estimates, entcoeff: jax.Array, clip: jax.Array) -> tuple[jax.Array, dict]:
        pi = policy.distribution(params, data.obs)
        log_ratio = pi.log_prob(data.action) - data.log_prob
        ratio = jnp.exp(log_ratio)
        bounded = jnp.clip(ratio, 1 - clip, 1 + clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio * data.advantage, bounded * data.advantage))
        value_loss = jnp.mean((policy.value(params, data.obs) - data.target) ** 2)
        entropy = jnp.mean(pi.entropy())
        return policy_loss + value_loss - entcoeff * entropy, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": jnp.mean(ratio - 1 - log_ratio),
            "clip_fraction": jnp.mean((bounded != ratio).astype(jnp.float32)),
        }

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        left = schedule(config.lr_schedule, clock.progress)
        rate, clip = hyper.optim_stepsize * left, hyper.clip_param * left
        data = policy.estimate(state.acting, batch, hyper.gamma, hyper.lam)
        # Over the whole rollout, all environments and devices, not within a minibatch as in PPO2.
        advantage = (data.advantage - data.advantage.mean()) / (data.advantage.std() + 1e-8)

        def step(carry: tuple, part: Estimates) -> tuple[tuple, dict]:
            params, optimizer = carry
            grads, metrics = jax.grad(loss, has_aux=True)(params, part, hyper.entcoeff, clip)
            return descend(adam, params, optimizer, grads, rate), metrics

        carry, data = (state.acting.params, state.learning), data._replace(advantage=advantage)
        (params, optimizer), history = scan_minibatches(
            step, carry, data, key, config.optim_epochs, config.optim_batchsize
        )
        acting = state.acting._replace(params=params, stats=policy.observe(state.acting.stats, batch.obs))
        metrics = {name: values.mean() for name, values in history.items()}
        return AgentState(acting, optimizer), metrics | {"learning_rate": rate, "cliprange": clip}

    traits = Traits(rollout_length=config.timesteps_per_actorbatch, num_envs=config.num_cpu)
    return policy.agent(init, update, traits)


class PPO1(JaxAlgorithm):
    """PPO1 behind the toolbox's common interface."""

    name, Config, Hyper, make = "ppo1", Config, Hyper, staticmethod(make)
