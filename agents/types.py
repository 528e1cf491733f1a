"""The frame: an algorithm is three pure functions over one state and one batch type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

RECALLED = "recalled"  # in the extras of a batch: the minibatches whose pictures came from host memory


class Transition(NamedTuple):
    """A batch of experience; every leaf leads with [T, N]: T steps of N environments.

    Attributes:
        obs: Observation that was acted on.
        action: Action as the agent chose it, before clipping to the action bounds.
        reward: float32.
        terminated: bool, the task ended; its value is zero from here.
        truncated: bool, a time limit cut the episode; the value of `next_obs` still counts.
        next_obs: The true successor, never the observation after a reset. Of pictures, which are stored once, the
            `Successors` that no other row shows.
        extras: What `act` returned beside the action: log_prob, value, ...
    """

    obs: Any
    action: Any
    reward: Any
    terminated: Any
    truncated: Any
    next_obs: Any
    extras: dict[str, Any]


class Successors(NamedTuple):
    """The pictures that follow a rollout's steps and are not the `obs` of the next row.

    Attributes:
        last: Successor of the last step [N, ...].
        cut: Successors of earlier steps at which a time limit cut an episode, in order of time [M, N, ...].
        step: Which steps these are, int32 [M, N]; T where there is none.
    """

    last: Any
    cut: Any
    step: Any


class Clock(NamedTuple):
    """Where the training stands; shared by all runs of a sweep, therefore never vmapped.

    Attributes:
        iteration: int32 [], counts updates from 0.
        progress: float32 [], share of the step budget spent, 0 at the start.
    """

    iteration: jax.Array
    progress: jax.Array


class AgentState(NamedTuple):
    """State of a learner, split by who reads it.

    Attributes:
        acting: All that `act` needs to play: parameters and observation statistics. Saved as "the model".
        learning: The rest: optimiser moments, replay, targets, search distribution.
    """

    acting: Any
    learning: Any


class Place(NamedTuple):
    """Where transitions lie in a replay memory: int32 arrays of one shape."""

    row: Any
    env: Any


class Recall(NamedTuple):
    """Which transitions of its replay memory an update learns from: G minibatches of B; leaves [G, B].

    Attributes:
        here: Where they lie.
        after: Where the observations lie that follow them.
        weight: Importance weights, float32.
    """

    here: Place
    after: Place
    weight: Any


class Recalled(NamedTuple):
    """Minibatches whose pictures came from host memory.

    Attributes:
        recall: Which transitions they are.
        obs: Pictures that were acted on, uint8 [G, B, ...].
        next_obs: Pictures that followed, uint8 [G, B, ...].
    """

    recall: Recall
    obs: Any
    next_obs: Any


class HostFrames(NamedTuple):
    """What the host driver must know to keep the pictures of an agent's replay memory in host memory.

    `update` then finds a `Recalled` as `RECALLED` in the extras of its batch.

    Attributes:
        rows: Steps of each environment to remember, a multiple of the rollout length: a ring.
        first_update: The iteration from which `update` reads them.
        minibatches: (G, B), gradient steps of an update and transitions of each.
        recall: (state, Transition[T, N], key, hyper, clock) -> Recall of the `update` with these arguments.
    """

    rows: int
    first_update: int
    minibatches: tuple[int, int]
    recall: Callable[..., Recall]


@dataclass(frozen=True)
class Traits:
    """What a driver must know of an algorithm, all static.

    Attributes:
        rollout_length: T, environment steps between updates.
        num_envs: N, environments of one run.
        fresh_episodes: Each rollout starts from a reset and an environment that ends stays ended (evolution).
        keep_obs: Whether `update` reads observations; where not, `obs` and `next_obs` of the batch are empty tuples.
    """

    rollout_length: int
    num_envs: int
    fresh_episodes: bool = False
    keep_obs: bool = True


class Agent(NamedTuple):
    """An algorithm: pure functions, ready for jit, vmap and scan.

    Attributes:
        init: (key, hyper) -> AgentState
        act: (state, obs[N, ...], key, explore) -> (action[N, ...], extras); `explore` is a static bool, False plays
            the deterministic policy.
        update: (state, Transition[T, N], key, hyper, clock) -> (state, metrics: dict of float32 [])
        traits: static facts for the driver.
        probabilities: (state, obs[N, ...]) -> [N, n] action probabilities (discrete) or [N, size] mean action.
        memory: For an agent that remembers within an episode: (n) -> what it knows of n environments when an episode
            begins, leaves [n, ...]. `act` and `probabilities` then take the memory as one more argument, `act` returns
            it as a third result, and the extras of a batch hold as "memory" [N, ...] what was known when the rollout
            began.
        others: (state) -> further policies worth keeping beside `state.acting`, by the name to save them under. It only
            picks leaves of the state, whatever axes they lead with.
        discard: (old state, new state, key) -> the state after an update that is thrown away because a number was not
            finite. None is the old state. A replay memory stays as the update left it (the very leaves of the new
            state, so that it is still written in place), and a search draws new candidates.
        adopted: (state) -> the state where another policy has taken the place of `state.acting`: target networks and
            the like follow. It only copies leaves, whatever axes they lead with. None changes nothing.
        cut: (state, iteration) -> the state where all environments begin anew after so many iterations, as on the host
            when a run is resumed. None changes nothing.
        host_frames: Of an agent that leaves the pictures of its replay memory to the host driver. None of all others.
    """

    init: Callable[..., AgentState]
    act: Callable[..., Any]
    update: Callable[..., tuple[AgentState, dict[str, jax.Array]]]
    traits: Traits
    probabilities: Callable[..., jax.Array]
    memory: Callable[[int], Any] | None = None
    others: Callable[[AgentState], dict[str, Any]] = lambda state: {}
    discard: Callable[[AgentState, AgentState, jax.Array], AgentState] | None = None
    adopted: Callable[[AgentState], AgentState] | None = None
    cut: Callable[[AgentState, jax.Array], AgentState] | None = None
    host_frames: HostFrames | None = None


class Player:
    """Acts for agents with memory and without in one form; what an agent without memory remembers is ()."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def begin(self, count: int) -> Any:
        """What is known of `count` environments when an episode begins, leaves [count, ...]."""
        return () if self._agent.memory is None else self._agent.memory(count)

    def forget(self, memory: Any, ended: jax.Array) -> Any:
        """Begin anew where `ended` [N]."""
        if self._agent.memory is None:
            return ()

        def renew(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        return jax.tree.map(renew, self._agent.memory(ended.shape[0]), memory)

    def act(
        self, state: AgentState, obs: jax.Array, key: jax.Array, explore: bool, memory: Any
    ) -> tuple[jax.Array, dict[str, Any], Any]:
        """Choose actions: (actions [N, ...], extras, memory)."""
        if self._agent.memory is None:
            return *self._agent.act(state, obs, key, explore), ()
        return self._agent.act(state, obs, key, explore, memory)

    def probabilities(self, state: AgentState, obs: jax.Array, memory: Any) -> jax.Array:
        """Action probabilities [N, n] (discrete) or the mean action [N, size]."""
        if self._agent.memory is None:
            return self._agent.probabilities(state, obs)
        return self._agent.probabilities(state, obs, memory)

    def noted(self, batch: Transition, memory: Any) -> Transition:
        """The batch with what was known when it began."""
        return batch if self._agent.memory is None else batch._replace(extras=batch.extras | {"memory": memory})
