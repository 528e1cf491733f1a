"""What actor-critic algorithms share: the network, acting, and turning a rollout into advantages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from agents.common.distributions import Distribution, StateDependentGaussian, distribution
from agents.common.exploration import Noise, no_noise, renewed
from agents.common.normalizer import (
    ReturnStats,
    RunningStats,
    init_returns,
    init_stats,
    normalize,
    observe,
    scale_rewards,
)
from agents.common.returns import fold, gae
from agents.types import Agent, AgentState, Successors, Traits, Transition
from envs.types import Discrete, Spec
from networks.build import ActorCritic


class Acting(NamedTuple):
    """What an actor-critic plays with: network parameters and observation statistics (() for pictures)."""

    params: Any
    stats: RunningStats | tuple[()]


class Memory(NamedTuple):
    """What an actor-critic remembers within an episode, () for what it does not have."""

    carry: Any  # of the LSTM, (cell, output) [N, memory_size] each
    noise: Noise | tuple[()]  # that it explores with


NOTHING = Memory((), ())


class Learning(NamedTuple):
    """The state beside the policy: the optimiser's, and what rewards are scaled by (() where they are not)."""

    optimizer: Any
    returns: ReturnStats | tuple[()]


class Estimates(NamedTuple):
    """A rollout made ready for learning, leaves [T, N]."""

    obs: jax.Array  # normalised
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array  # value target
    carry: Any = ()  # what an LSTM remembered before the rollout, leaves [N, memory_size]
    begin: Any = ()  # where it forgets, bool [T, N]


class ActorCriticPolicy:
    """The acting half of an actor-critic, shared by A2C, ACER, ACKTR, PPO and TRPO; holds no state.

    Args:
        spec: Environment the policy is for.
        net_arch: Hidden layers of each MLP (states only).
        activation: "tanh" or "relu".
        log_std_init: Initial log standard deviation of continuous actions.
        normalize_obs: Whether states are standardised by running statistics.
        action_values: Whether `value` is that of each discrete action [..., n].
        memory: "feedforward", "lstm" or "lnlstm".
        memory_size: Cells of the LSTM.
        noise_steps: Steps that noise is kept for in state-dependent exploration, 0 for independent noise.
        ortho_init: Whether dense layers start orthogonal, or uniform as in PyTorch.

    Raises:
        ValueError: State-dependent exploration is asked for where actions are discrete.
    """

    def __init__(
        self,
        spec: Spec,
        net_arch: tuple[int, ...],
        activation: str,
        log_std_init: float,
        normalize_obs: bool,
        action_values: bool = False,
        *,
        memory: str = "feedforward",
        memory_size: int = 256,
        noise_steps: int = 0,
        ortho_init: bool = True,
    ) -> None:
        discrete = isinstance(spec.action, Discrete)
        if noise_steps and discrete:
            raise ValueError(f"--use-sde is for continuous actions, those of {spec.id} are discrete: leave it out")
        self.spec = spec
        self.normalize_obs = normalize_obs and not spec.pixels
        self.recurrent, self.noise_steps, self.action_values = memory != "feedforward", noise_steps, action_values
        self.network = ActorCritic(
            obs_ndim=len(spec.obs_shape),
            pixels=spec.pixels,
            num_actions=spec.action.n if isinstance(spec.action, Discrete) else 0,
            action_size=0 if discrete else spec.action_shape[0],
            sizes=net_arch,
            activation=activation,
            log_std_init=log_std_init,
            action_values=action_values,
            memory=memory,
            memory_size=memory_size,
            state_dependent=noise_steps > 0,
            ortho_init=ortho_init,
        )

    @classmethod
    def of(cls, spec: Spec, config: Any, action_values: bool = False, rollout_length: int = 0) -> ActorCriticPolicy:
        """The policy that an algorithm's `Config` describes; what it does not declare keeps its default.

        State-dependent noise is kept for `rollout_length` steps where the options do not say for how many.
        """
        noise_steps = 0
        if getattr(config, "use_sde", False):
            noise_steps = config.sde_sample_freq if config.sde_sample_freq > 0 else rollout_length
        return cls(
            spec,
            config.net_arch,
            config.activation,
            getattr(config, "log_std_init", 0.0),
            config.normalize,
            action_values,
            memory=config.policy,
            memory_size=getattr(config, "n_lstm", 0),
            noise_steps=noise_steps,
            ortho_init=getattr(config, "ortho_init", True),
        )

    def init(self, key: jax.Array) -> Acting:
        """Draw parameters."""
        params = self.network.init(key, *self.example())
        return Acting(params, init_stats(self.spec.obs_shape) if self.normalize_obs else ())

    def example(self, lead: tuple[int, ...] = (1,)) -> tuple[Any, ...]:
        """What the network takes, of zeros: observations [*lead, ...], and with memory of one step [1, *lead]."""
        obs = jnp.zeros((*lead, *self.spec.obs_shape), self.spec.obs_dtype)
        return (obs[None], self.begin(lead[0]).carry, jnp.zeros((1, *lead), bool)) if self.recurrent else (obs,)

    # -- the network ------------------------------------------------------------------------------------------------

    def unroll(self, params: Any, obs: jax.Array, carry: Any = (), begin: Any = ()) -> tuple[Any, Any, Any]:
        """Play a rollout again.

        Args:
            params: Network parameters.
            obs: Normalised observations [T, N, *obs_shape]; without memory any leading axes.
            carry: What an LSTM remembered before it, leaves [N, memory_size].
            begin: Where an episode begins, bool [T, N].

        Returns:
            (distributions of actions, values [T, N], what an LSTM remembered after each step)
        """
        output, value, after = self.network.apply(params, obs, carry, begin, method="unroll")  # type: ignore[misc]
        return distribution(output), value, after

    def step(self, params: Any, obs: jax.Array, carry: Any = ()) -> tuple[Any, Any, Any]:
        """One step of `unroll`, without the axis of time: observations [N, *obs_shape] after what was remembered."""
        output, value, after = self.network.apply(params, obs, carry, method="step")  # type: ignore[misc]
        return distribution(output), value, after

    def after(self, params: Any, next_obs: jax.Array, carry: Any) -> tuple[Any, Any]:
        """Distributions and values of the successors of a rollout's steps.

        Args:
            params: Network parameters.
            next_obs: Normalised successors [T, N, *obs_shape].
            carry: What an LSTM remembered after each step, leaves [T, N, memory_size].
        """
        if not self.recurrent:
            return self.step(params, next_obs)[:2]
        return jax.vmap(self.step, in_axes=(None, 0, 0))(params, next_obs, carry)[:2]

    def state_value(self, pi: Any, value: jax.Array) -> jax.Array:
        """The value of a state from what the network says of it: itself, or the mean over actions of theirs."""
        return jnp.sum(pi.probabilities() * value, axis=-1) if self.action_values else value

    def successor_values(self, acting: Acting, batch: Transition, value: jax.Array, carry: Any) -> jax.Array:
        """V(next_obs) of a rollout's steps, [T, N].

        Of pictures those that another row shows are not looked at twice. Where a time limit has cut more episodes than
        `Successors` has room for, the value before the cut stands in.

        Args:
            acting: The policy.
            batch: Rollout.
            value: V(obs) [T, N].
            carry: What an LSTM remembered after each step, leaves [T, N, memory_size].
        """
        if not isinstance(batch.next_obs, Successors):
            next_obs = normalize(acting.stats, batch.next_obs)
            return self.state_value(*self.after(acting.params, next_obs, carry))
        last, cut, step = batch.next_obs
        last_value = self.state_value(*self.step(acting.params, last, jax.tree.map(lambda x: x[-1], carry))[:2])
        earlier = jnp.where(batch.truncated[:-1], value[:-1], value[1:])
        next_value = jnp.concatenate([earlier, last_value[None]])
        if not len(step):
            return next_value
        env = jnp.arange(value.shape[1])
        remembered = jax.tree.map(lambda x: x[jnp.minimum(step, len(value) - 1), env], carry)
        cut_value = self.state_value(*self.after(acting.params, cut, remembered))
        return next_value.at[step, env].set(cut_value, mode="drop")

    def distribution(self, params: Any, obs: jax.Array) -> Any:
        """Without memory: action distribution for normalised observations [..., *obs_shape]."""
        output: Any = self.network.apply(params, obs, method="policy")
        return distribution(output)

    def value(self, params: Any, obs: jax.Array) -> jax.Array:
        """Without memory: values [...] of normalised observations [..., *obs_shape]."""
        value: Any = self.network.apply(params, obs, method="value")
        return value

    # -- acting -----------------------------------------------------------------------------------------------------

    def begin(self, count: int) -> Memory:
        """What is remembered of `count` environments when an episode begins."""
        network = self.network
        carry = tuple(jnp.zeros((count, network.memory_size)) for _ in range(2)) if self.recurrent else ()
        return Memory(carry, no_noise(count, self._features(), network.action_size) if self.noise_steps else ())

    def _features(self) -> int:
        """Number of features that the heads read."""
        if self.recurrent:
            return self.network.memory_size
        params = jax.eval_shape(self.network.init, jax.random.key(0), *self.example())
        return int(params["params"]["policy_head"]["Dense_0"]["kernel"].shape[0])

    def act(
        self, acting: Acting, obs: jax.Array, key: jax.Array, explore: bool, memory: Memory = NOTHING
    ) -> tuple[jax.Array, Distribution, Memory]:
        """Choose actions for raw observations [N, *obs_shape]; returns (actions, distribution, memory)."""
        pi, _, carry = self.step(acting.params, normalize(acting.stats, obs), memory.carry)
        if not explore:
            return pi.mode(), pi, Memory(carry, memory.noise)
        if isinstance(pi, StateDependentGaussian) and isinstance(memory.noise, Noise):
            noise = renewed(memory.noise, key, self.noise_steps)
            return pi.explore(noise.normals), pi, Memory(carry, noise)
        return pi.sample(key), pi, Memory(carry, memory.noise)

    def agent(
        self,
        init: Callable[..., AgentState],
        update: Callable[..., tuple],
        traits: Traits,
        note: Callable[[Distribution, jax.Array], dict[str, Any]] = lambda pi, action: {
            "log_prob": pi.log_prob(action)
        },
    ) -> Agent:
        """The agent that acts by this policy, whose state's `acting` is an `Acting`.

        `note` tells from distribution and actions what `update` will find among a batch's extras.
        """
        remembers = self.recurrent or self.noise_steps > 0

        def act(state: AgentState, obs: jax.Array, key: jax.Array, explore: bool, *memory: Memory) -> tuple:
            action, pi, after = self.act(state.acting, obs, key, explore, *memory)
            return (action, note(pi, action), after) if remembers else (action, note(pi, action))

        def probabilities(state: AgentState, obs: jax.Array, *memory: Memory) -> jax.Array:
            carry = memory[0].carry if memory else ()
            return self.step(state.acting.params, normalize(state.acting.stats, obs), carry)[0].probabilities()

        return Agent(init, act, update, traits, probabilities, self.begin if remembers else None)

    # -- learning ---------------------------------------------------------------------------------------------------

    def recalled(self, batch: Transition) -> tuple[Any, Any]:
        """What an LSTM remembered before a rollout, and where it forgets, bool [T, N]; both () without one."""
        if not self.recurrent:
            return (), ()
        done = batch.terminated | batch.truncated
        return batch.extras["memory"].carry, begins(done)

    def estimate(self, acting: Acting, batch: Transition, gamma: ArrayLike, lam: ArrayLike) -> Estimates:
        """Values, advantages (GAE) and value targets of a rollout [T, N].

        Values are computed here in one large batch rather than step by step while acting. The observation statistics
        are those that `act` used, so that the probability ratio of the first minibatch is one.
        """
        obs, (carry, begin) = normalize(acting.stats, batch.obs), self.recalled(batch)
        _, value, after = self.unroll(acting.params, obs, carry, begin)
        next_value = self.successor_values(acting, batch, value, after)
        reward, discount = fold(batch.reward, batch.terminated, batch.truncated, next_value, gamma)
        advantage = gae(reward, discount, value, next_value[-1], lam)
        return Estimates(obs, batch.action, batch.extras["log_prob"], value, advantage, advantage + value, carry, begin)

    def rows(self, data: Estimates) -> Estimates:
        """What minibatches are drawn from, leaves [R, ...]: steps; with an LSTM environments with all their steps."""
        if not self.recurrent:
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)
        return _swapped(data)

    def from_rows(self, rows: Estimates) -> Estimates:
        """A minibatch of `rows` as `unroll` takes it."""
        return _swapped(rows) if self.recurrent else rows

    def observe(self, stats: RunningStats | tuple[()], obs: jax.Array) -> RunningStats | tuple[()]:
        """Take a rollout's observations [T, N, *obs_shape] into the statistics, after learning from it."""
        return observe(stats, obs)


def begins(done: jax.Array) -> jax.Array:
    """Where an episode begins within a rollout, from where one ends; bool [T, N] both."""
    return jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])


def _swapped(data: Estimates) -> Estimates:
    """Leaves [T, N, ...] to [N, T, ...] and back; what was remembered before the rollout has no time."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1), data._replace(carry=()))._replace(carry=data.carry)


def reward_scale(enabled: bool, num_envs: int) -> Any:
    """What `scaled` keeps; () where rewards are learned from as they are."""
    return init_returns(num_envs) if enabled else ()


def scaled(known: ReturnStats | tuple[()], batch: Transition, gamma: ArrayLike) -> tuple[Transition, Any]:
    """A rollout with rewards divided by the spread of returns, see `scale_rewards`."""
    if not isinstance(known, ReturnStats):
        return batch, ()
    reward, known = scale_rewards(known, batch.reward, batch.terminated | batch.truncated, gamma)
    return batch._replace(reward=reward), known
