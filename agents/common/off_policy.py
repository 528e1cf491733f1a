"""What off-policy algorithms share: when and how often they learn, target networks, bounds of actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from agents.common.normalizer import RunningStats, normalize
from agents.common.replay import Minibatch, Replay, ReplayMemory, UniformSampler
from agents.types import RECALLED, AgentState, Clock, HostFrames, Place, Recall, Recalled, Transition
from envs.types import Box, Spec

# (carry, (key, its minibatch where that came from host memory)) -> (carry, metrics)
Step = Callable[[Any, tuple[jax.Array, Recalled | None]], tuple[Any, dict[str, jax.Array]]]


def gradient_steps(
    step: Step, carry: Any, key: jax.Array, count: int, ready: jax.Array, extras: dict[str, Any]
) -> tuple[Any, dict[str, jax.Array]]:
    """Take `count` gradient steps if `ready`.

    Args:
        step: One step.
        carry: What it changes.
        key: Typed key [].
        count: How many.
        ready: bool [] that depends on the clock alone: a real branch then, for vmapped runs too.
        extras: Those of the batch. They hold the minibatches of all steps, leaves [count, B, ...], where pictures are
            in host memory.

    Returns:
        (carry, mean metrics; 0 where nothing was learned)
    """

    def learn(carry: Any) -> tuple[Any, dict[str, jax.Array]]:
        carry, history = jax.lax.scan(step, carry, (jax.random.split(key, count), extras.get(RECALLED)))
        return carry, jax.tree.map(lambda values: values.mean(axis=0), history)

    metrics = jax.eval_shape(learn, carry)[1]

    def wait(carry: Any) -> tuple[Any, dict[str, jax.Array]]:
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

    return jax.lax.cond(ready, learn, wait, carry)


def draw(
    memory: ReplayMemory,
    replay: Replay,
    bounds: ActionBounds,
    stats: RunningStats | tuple[()],
    key: jax.Array,
    size: int,
    gamma: ArrayLike,
    clock: Clock,
    recalled: Recalled | None = None,
) -> Minibatch:
    """Draw a minibatch [size] evenly, with standardised observations and actions in -1 ... 1.

    Args:
        memory: Layout of the replay memory.
        replay: What it holds.
        bounds: Bounds of the actions.
        stats: Observation statistics, () for pictures.
        key: Typed key [].
        size: Transitions.
        gamma: Discount factor [].
        clock: When; it tells what is stored.
        recalled: What these arguments drew before, where the pictures are in host memory.
    """
    place, _ = UniformSampler(memory).sample((), key, size, 1.0, clock)
    data = memory.read(replay, place, gamma, recalled)
    obs, next_obs = normalize(stats, data.obs), normalize(stats, data.next_obs)
    return data._replace(obs=obs, next_obs=next_obs, action=bounds.unscale(data.action))


def even_host_frames(
    memory: ReplayMemory,
    learning_key: Callable[[jax.Array], jax.Array],
    minibatches: tuple[int, int],
    first_update: int,
) -> HostFrames | None:
    """`Agent.host_frames` of a learner whose `learning` has a `replay` that it draws from with `draw`.

    Args:
        memory: Layout of the replay memory.
        learning_key: The key of its `gradient_steps` from that of its update; each step splits its own, and draws with
            the first part.
        minibatches: Gradient steps of an update, and transitions of each.
        first_update: The iteration from which it learns.
    """
    if memory.stores_obs:
        return None
    count, size = minibatches

    def recall(state: AgentState, batch: Transition, key: jax.Array, hyper: Any, clock: Clock) -> Recall:
        def sample(key: jax.Array) -> tuple[Place, jax.Array]:
            return UniformSampler(memory).sample((), key, size, 1.0, clock)

        keys = jax.vmap(jax.random.split)(jax.random.split(learning_key(key), count))[:, 0]
        return memory.recall(state.learning.replay, batch, sample, keys, clock)

    return HostFrames(memory.rows, first_update, minibatches, recall)


def keep_replay(old: AgentState, new: AgentState, key: jax.Array) -> AgentState:
    """`Agent.discard` of a learner whose `learning` has a `replay`: all but that is as before the update."""
    return old._replace(learning=old.learning._replace(replay=new.learning.replay))


def frames_on_host(spec: Spec, config: Any) -> bool:
    """Whether the pictures of a replay memory are in host memory."""
    return spec.pixels and config.replay_memory == "host"


def cut_replay(memory: ReplayMemory) -> Callable[[AgentState, jax.Array], AgentState]:
    """`Agent.cut` of a learner whose `learning` has a `replay`."""

    def cut(state: AgentState, iteration: jax.Array) -> AgentState:
        replay = memory.cut(state.learning.replay, iteration)
        return state._replace(learning=state.learning._replace(replay=replay))

    return cut


def iterations_of(steps: int, per_iteration: int) -> int:
    """The number of iterations, at least 1, in which about `steps` environment steps are played."""
    return max(1, round(steps / per_iteration))


def check_replay(flag: str, capacity: int, batch_size: int, per_iteration: int, n_step: int = 1) -> None:
    """Refuse a replay memory that holds less than a rollout, a minibatch or the steps of one transition.

    Args:
        flag: The flag that sets the capacity, for the message.
        capacity: Steps to remember.
        batch_size: Transitions of a minibatch.
        per_iteration: Steps of a rollout, all environments together.
        n_step: Steps that a transition spans.

    Raises:
        ValueError: It does.
    """
    needs = {"a rollout of": per_iteration, "--batch-size of": batch_size, "--n-step of": n_step}
    what, steps = max(needs.items(), key=lambda need: need[1])
    if capacity < steps:
        raise ValueError(f"{flag}={capacity} is too small for {what} {steps}: at least {steps} steps")


def track(target: Any, params: Any, tau: ArrayLike) -> Any:
    """Move target parameters towards `params` by the share tau (Polyak averaging)."""
    return jax.tree.map(lambda t, p: t + tau * (p - t), target, params)


def copied(params: Any) -> Any:
    """The same values in arrays of their own, so that both may be donated."""
    return jax.tree.map(jnp.copy, params)


class ActionBounds:
    """Between actions in the environment's units and the networks' -1 ... 1.

    Args:
        name: The algorithm, for the message.
        spec: Environment with continuous actions.

    Raises:
        ValueError: An action component has no finite bounds.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        assert isinstance(spec.action, Box)
        low, high = np.array(spec.action.low, np.float32), np.array(spec.action.high, np.float32)
        if not (np.isfinite(low) & np.isfinite(high)).all():
            raise ValueError(f"{name} needs bounded actions, those of {spec.id} are between {low} and {high}")
        self._middle, self._half = jnp.asarray((high + low) / 2), jnp.asarray((high - low) / 2)

    def scale(self, action: jax.Array) -> jax.Array:
        """From -1 ... 1 to the environment's units, [..., size]."""
        return self._middle + self._half * action

    def unscale(self, action: jax.Array) -> jax.Array:
        """From the environment's units to -1 ... 1, [..., size]; what lies outside the bounds is clipped."""
        return jnp.clip((action - self._middle) / self._half, -1.0, 1.0)
