"""Pictures of a rollout, each kept once: the successors that are not the next row's observation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from agents.types import Successors, Traits
from envs.types import Spec


def most_cuts(spec: Spec, rollout_length: int) -> int:
    """How often the time limit can cut the episodes of one environment before a rollout's last step.

    An environment without a stated limit is given room for one: its episodes may be cut for other reasons.
    """
    earlier = rollout_length - 1
    return -(-earlier // spec.max_episode_steps) if spec.max_episode_steps else min(earlier, 1)


def empty(spec: Spec, traits: Traits, lead: tuple[int, ...] = ()) -> Successors:
    """Room for a rollout's successors, in NumPy; leaves [*lead, N, ...] and [*lead, M, N, ...]."""
    rows = most_cuts(spec, traits.rollout_length), traits.num_envs
    return Successors(
        np.zeros((*lead, rows[1], *spec.obs_shape), spec.obs_dtype),
        np.zeros((*lead, *rows, *spec.obs_shape), spec.obs_dtype),
        np.full((*lead, *rows), traits.rollout_length, np.int32),
    )


def noted(known: Successors, t: jax.Array, cut: jax.Array, next_obs: jax.Array, rollout_length: int) -> Successors:
    """What is known after step t of a rollout, as a pure function.

    Args:
        known: What was known before it.
        t: int32 [].
        cut: Whether a time limit cut the episode, bool [N].
        next_obs: The true successors [N, ...].
        rollout_length: T.
    """
    room = len(known.step)
    if not room:
        return known._replace(last=next_obs)
    place = jnp.where(cut & (t < rollout_length - 1), jnp.sum(known.step < rollout_length, axis=0), room)
    env = jnp.arange(len(place))
    frames = known.cut.at[place, env].set(next_obs, mode="drop")
    return Successors(next_obs, frames, known.step.at[place, env].set(t, mode="drop"))


def note(known: Successors, t: int, ranks: slice, cut: np.ndarray, next_obs: np.ndarray, rollout_length: int) -> None:
    """Write what step t of some environments of each run tells.

    Args:
        known: Leaves [K, N, ...] and [K, M, N, ...]; overwritten.
        t: The step.
        ranks: Which environments of each run.
        cut: Whether a time limit cut the episode, bool [K, n].
        next_obs: The true successors [K, n, ...].
        rollout_length: T.
    """
    if t == 0:
        known.step[:, :, ranks] = rollout_length
    if t == rollout_length - 1:
        known.last[:, ranks] = next_obs
        return
    for run, rank in zip(*np.nonzero(cut)):
        steps = known.step[run, :, ranks][:, rank]  # a view
        place = int((steps < rollout_length).sum())
        if place < len(steps):
            steps[place] = t
            known.cut[run, place, ranks][rank] = next_obs[run, rank]
