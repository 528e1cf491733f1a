"""TRPO: trust region policy optimisation (Schulman et al. 2015, arXiv 1502.05477)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from agents.base_classes import JaxAlgorithm
from agents.common.natural import conjugate_gradient, fisher_product, line_search, scaled_step
from agents.common.on_policy import ActorCriticPolicy, Estimates, Learning, reward_scale, scaled
from agents.common.optim import descend
from agents.common.shuffle import scan_minibatches
from agents.options import option
from agents.types import Agent, AgentState, Clock, Traits, Transition
from envs.types import Spec


@dataclass(frozen=True)
class Config:
    """Static options of TRPO."""

    num_cpu: int = option(1, "Number of environments.", minimum=1)
    policy: str = option("feedforward", "Policy network.", choices=("feedforward",))
    timesteps_per_batch: int = option(
        128, "Steps of each environment between updates.", minimum=1, search=[128, 256, 512, 1024, 2048]
    )
    cg_iters: int = option(4, "Iterations of conjugate gradients.", minimum=1, search=(1, 10))
    fisher_stride: int = option(5, "Estimate the Fisher matrix from every k-th step.", minimum=1)
    vf_iters: int = option(3, "Passes of the value function over each batch.", minimum=1, search=(1, 10))
    vf_batchsize: int = option(128, "Steps of each environment in a minibatch of the value function.", minimum=1)
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


@dataclass(frozen=True)
class Hyper:
    """Traced options of TRPO."""

    max_kl: float = option(0.01, "How far the policy may move, in nats.", minimum=0, search=(0.001, 0.1))
    cg_damping: float = option(0.2, "Added to the Fisher matrix's diagonal.", minimum=0, search=(0.001, 1.0))
    vf_stepsize: float = option(2.5e-4, "Step size of the value function's Adam.", minimum=0, search=(1e-5, 1e-2))
    gamma: float = option(0.99, "Discount factor.", minimum=0, maximum=1, search=(0.9, 0.9999))
    lam: float = option(0.95, "Trace decay of GAE.", minimum=0, maximum=1, search=(0.8, 1.0))
    entcoeff: float = option(0.01, "Weight of the entropy bonus.", minimum=0, search=(0.0, 0.1))


jax.tree_util.register_dataclass(Hyper)


def natural_step(
    params: dict, policy: ActorCriticPolicy, data: Estimates, hyper: Hyper, cg_iters: int, stride: int
) -> tuple[dict, dict]:
    """Improve the policy within the trust region (section 6 and appendix C); returns (params, what to report).

    Value parameters have neither a gradient nor curvature here, so the step leaves them where they are.

    Args:
        params: Network parameters.
        policy: The network's functions.
        data: Rollout, leaves [T, N, ...], advantages standardised.
        hyper: Size of the region, damping and weight of the entropy.
        cg_iters: Iterations of conjugate gradients.
        stride: The Fisher matrix is estimated from every stride-th step.
    """
    old = policy.distribution(params, data.obs)

    def objective(params: dict) -> tuple[jax.Array, jax.Array]:
        pi = policy.distribution(params, data.obs)
        ratio = jnp.exp(pi.log_prob(data.action) - data.log_prob)
        surrogate = jnp.mean(ratio * data.advantage) + hyper.entcoeff * jnp.mean(pi.entropy())
        return surrogate, jnp.mean(old.kl(pi))

    gradient = jax.grad(lambda params: objective(params)[0])(params)
    product = fisher_product(lambda params: policy.distribution(params, data.obs[::stride]), params, hyper.cg_damping)
    step = scaled_step(product, conjugate_gradient(product, gradient, cg_iters), hyper.max_kl)
    params, found = line_search(objective, params, step, hyper.max_kl)
    return params, {
        "improvement": found.gain,
        "kl": found.kl,
        "step_fraction": found.fraction,
        "entropy": jnp.mean(old.entropy()),
        "grad_norm": optax.tree.norm(gradient),
    }


def make(spec: Spec, config: Config) -> Agent:
    """Build TRPO for an environment.

    Raises:
        ValueError: The rollout does not divide into the value function's minibatches.
    """
    if config.timesteps_per_batch % config.vf_batchsize:
        raise ValueError(
            f"--vf-batchsize={config.vf_batchsize} does not divide --timesteps-per-batch={config.timesteps_per_batch}"
        )
    policy = ActorCriticPolicy.of(spec, config, rollout_length=config.timesteps_per_batch)
    adam = optax.scale_by_adam(eps=1e-8)

    def init(key: jax.Array, hyper: Hyper) -> AgentState:
        acting = policy.init(key)
        returns = reward_scale(config.normalize_reward, config.num_cpu)
        return AgentState(acting, Learning(adam.init(acting.params), returns))

    def value_loss(params: dict, data: tuple[jax.Array, jax.Array]) -> jax.Array:
        obs, target = data
        return jnp.mean((policy.value(params, obs) - target) ** 2)

    def update(state: AgentState, batch: Transition, key: jax.Array, hyper: Hyper, clock: Clock) -> tuple:
        acting, (optimizer, returns) = state
        batch, returns = scaled(returns, batch, hyper.gamma)
        data = policy.estimate(acting, batch, hyper.gamma, hyper.lam)
        advantage = (data.advantage - data.advantage.mean()) / (data.advantage.std() + 1e-8)
        data = data._replace(advantage=advantage)
        params, metrics = natural_step(acting.params, policy, data, hyper, config.cg_iters, config.fisher_stride)

        def fit(carry: tuple, part: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array]:
            params, optimizer = carry
            loss, grads = jax.value_and_grad(value_loss)(params, part)
            return descend(adam, params, optimizer, grads, hyper.vf_stepsize), loss

        rollout = (data.obs, data.target)
        (params, optimizer), losses = scan_minibatches(
            fit, (params, optimizer), rollout, key, config.vf_iters, config.vf_batchsize
        )
        acting = acting._replace(params=params, stats=policy.observe(acting.stats, batch.obs))
        return AgentState(acting, Learning(optimizer, returns)), metrics | {"value_loss": losses.mean()}

    traits = Traits(rollout_length=config.timesteps_per_batch, num_envs=config.num_cpu)
    return policy.agent(init, update, traits)


class TRPO(JaxAlgorithm):
    """TRPO behind the toolbox's common interface."""

    name, Config, Hyper, make = "trpo", Config, Hyper, staticmethod(make)
