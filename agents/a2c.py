"""A2C: synchronous advantage actor-critic (Mnih et al. 2016, "Asynchronous methods for deep RL", algorithm S3)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from agents.base_classes import JaxAlgorithm
from agents.common.on_policy import ActorCriticPolicy, Learning, reward_scale, scaled
from agents.common.optim import clip_by_global_norm, descend
from agents.common.schedules import schedule
from agents.options import LR_SCHEDULES, POLICIES, option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Spec


@dataclass(frozen=True)
class Config:
    """Static options of A2C."""

    num_cpu: int = option(1, "Number of environments.", minimum=1, jax_default=16)
    policy: str = option("feedforward", "Policy network; the others remember.", choices=POLICIES)
    n_lstm: int = option(256, "Cells of the LSTM.", minimum=1)
    n_steps: int = option(5, "Steps of each environment between updates.", minimum=1, search=(1, 100))
    lr_schedule: str = option("constant", "Learning-rate schedule.", choices=LR_SCHEDULES, search=list(LR_SCHEDULES))
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
    normalize_advantage: bool = option(False, "Standardise the advantages of each batch.")


@dataclass(frozen=True)
class Hyper:
    """Traced options of A2C."""

    learning_rate: float = option(7e-4, "Step size of RMSProp.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    lam: float = option(1.0, "Trace decay of GAE; 1 is the n-step return.", minimum=0, maximum=1, search=(0.8, 1.0))
    vf_coef: float = option(0.5, "Weight of the value loss.", minimum=0, search=(0.1, 1.0))
    ent_coef: float = option(0.01, "Weight of the entropy bonus.", minimum=0, search=(0.0, 0.1))
    max_grad_norm: float = option(0.5, "Largest norm of the gradient.", minimum=1e-8, search=(0.1, 5.0))
    alpha: float = option(0.99, "Decay of the squared-gradient average of RMSProp.", minimum=0, maximum=1)
    epsilon: float = option(1e-5, "Term that keeps RMSProp's division finite.", minimum=0)


jax.tree_util.register_dataclass(Hyper)


def make(spec: Spec, config: Config) -> Agent:
    """Build A2C for an environment."""
    policy = ActorCriticPolicy.of(spec, config, rollout_length=config.n_steps)

    def rmsprop(hyper: Hyper) -> optax.GradientTransformation:
        # As in TensorFlow, which the published results used: average starts at 1, epsilon under the root.
        return optax.scale_by_rms(decay=hyper.alpha, eps=hyper.epsilon, initial_scale=1.0)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        acting = policy.init(key)
        returns = reward_scale(config.normalize_reward, config.num_cpu)
        return AgentState(acting, Learning(rmsprop(hyper).init(acting.params), returns))

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, (optimizer, returns) = state
        batch, returns = scaled(returns, batch, hyper.gamma)
        data = policy.estimate(acting, batch, hyper.gamma, hyper.lam)
        advantage = data.advantage
        if config.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

        def loss(params: dict) -> tuple[jax.Array, dict]:
            pi, value, _ = policy.unroll(params, data.obs, data.carry, data.begin)
            policy_loss = -jnp.mean(advantage * pi.log_prob(data.action))
            value_loss = jnp.mean((value - data.target) ** 2)
            entropy = jnp.mean(pi.entropy())
            total = policy_loss + hyper.vf_coef * value_loss - hyper.ent_coef * entropy
            return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

        grads, metrics = jax.grad(loss, has_aux=True)(acting.params)
        grads, grad_norm = clip_by_global_norm(grads, hyper.max_grad_norm)
        rate = hyper.learning_rate * schedule(config.lr_schedule, clock.progress)
        params, optimizer = descend(rmsprop(hyper), acting.params, optimizer, grads, rate)
        acting = acting._replace(params=params, stats=policy.observe(acting.stats, batch.obs))
        return AgentState(acting, Learning(optimizer, returns)), metrics | {
            "grad_norm": grad_norm,
            "learning_rate": rate,
        }

    traits = Traits(rollout_length=config.n_steps, num_envs=config.num_cpu)
    return policy.agent(init, update, traits)


class A2C(JaxAlgorithm):
    """A2C behind the toolbox's common interface."""

    name, Config, Hyper, make = "a2c", Config, Hyper, staticmethod(make)
