"""What actor-critic algorithms share: the network, acting, and turning a rollout into advantages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from agents.common.distributions import Categorical, DiagGaussian, distribution
from agents.common.normalizer import RunningStats, init_stats, normalize, observe
from agents.common.returns import fold, gae
from agents.types import Agent, AgentState, Traits, Transition
from envs.types import Discrete, Spec
from networks.build import ActorCritic


class Acting(NamedTuple):
    """What an actor-critic plays with: network parameters and observation statistics (() for pictures)."""

    params: Any
    stats: RunningStats | tuple[()]


class Estimates(NamedTuple):
    """A rollout made ready for learning, leaves [T, N]."""

    obs: jax.Array  # normalised
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array  # value target


class ActorCriticPolicy:
    """The acting half of an actor-critic, shared by A2C and PPO; holds no state.

    Args:
        spec: Environment the policy is for.
        net_arch: Hidden layers of each MLP (states only).
        activation: "tanh" or "relu".
        log_std_init: Initial log standard deviation of continuous actions.
        normalize_obs: Whether states are standardised by running statistics.
        action_values: Whether `value` is that of each discrete action [..., n].
    """

    def __init__(
        self,
        spec: Spec,
        net_arch: tuple[int, ...],
        activation: str,
        log_std_init: float,
        normalize_obs: bool,
        action_values: bool = False,
    ) -> None:
        discrete = isinstance(spec.action, Discrete)
        self.spec = spec
        self.normalize_obs = normalize_obs and not spec.pixels
        self.network = ActorCritic(
            obs_ndim=len(spec.obs_shape),
            pixels=spec.pixels,
            num_actions=spec.action.n if isinstance(spec.action, Discrete) else 0,
            action_size=0 if discrete else spec.action_shape[0],
            sizes=net_arch,
            activation=activation,
            log_std_init=log_std_init,
            action_values=action_values,
        )

    def init(self, key: jax.Array) -> Acting:
        """Draw parameters."""
        obs = jnp.zeros((1, *self.spec.obs_shape), self.spec.obs_dtype)
        params = self.network.init(key, obs)
        return Acting(params, init_stats(self.spec.obs_shape) if self.normalize_obs else ())

    def distribution(self, params: Any, obs: jax.Array) -> Categorical | DiagGaussian:
        """Action distribution for normalised observations [..., *obs_shape]."""
        output: Any = self.network.apply(params, obs, method="policy")
        return distribution(output)

    def value(self, params: Any, obs: jax.Array) -> jax.Array:
        """Values [...] of normalised observations [..., *obs_shape]."""
        value: Any = self.network.apply(params, obs, method="value")
        return value

    def act(self, acting: Acting, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict[str, Any]]:
        """Choose actions for raw observations [N, *obs_shape]; extras hold `log_prob` [N]."""
        pi = self.distribution(acting.params, normalize(acting.stats, obs))
        action = pi.sample(key) if explore else pi.mode()
        return action, {"log_prob": pi.log_prob(action)}

    def probabilities(self, acting: Acting, obs: jax.Array) -> jax.Array:
        """Action probabilities [N, n], or the mean action [N, size] where actions are continuous."""
        return self.distribution(acting.params, normalize(acting.stats, obs)).probabilities()

    def agent(self, init: Callable[..., AgentState], update: Callable[..., tuple], traits: Traits) -> Agent:
        """The agent that acts by this policy, whose state's `acting` is an `Acting`."""

        def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, dict[str, Any]]:
            return self.act(state.acting, obs, key, explore)

        return Agent(init, act, update, traits, lambda state, obs: self.probabilities(state.acting, obs))

    def estimate(self, acting: Acting, batch: Transition, gamma: ArrayLike, lam: ArrayLike) -> Estimates:
        """Values, advantages (GAE) and value targets of a rollout [T, N].

        Values are computed here in one large batch rather than step by step while acting. The observation statistics
        are those that `act` used, so that the probability ratio of the first minibatch is one.
        """
        obs = normalize(acting.stats, batch.obs)
        value = self.value(acting.params, obs)
        next_value = self.value(acting.params, normalize(acting.stats, batch.next_obs))
        reward, discount = fold(batch.reward, batch.terminated, batch.truncated, next_value, gamma)
        advantage = gae(reward, discount, value, next_value[-1], lam)
        return Estimates(obs, batch.action, batch.extras["log_prob"], value, advantage, advantage + value)

    def observe(self, stats: RunningStats | tuple[()], obs: jax.Array) -> RunningStats | tuple[()]:
        """Take a rollout's observations [T, N, *obs_shape] into the statistics, after learning from it."""
        return observe(stats, obs)
