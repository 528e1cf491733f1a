"""Which transitions make up the minibatches of a training, and which of these only validate. NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Batches(NamedTuple):
    """Minibatches whose composition stays the same for a whole training.

    Attributes:
        train: Rows of the dataset, int64 [n, B]; a transition leads from its row to the next.
        validation: Likewise [m, B].
    """

    train: np.ndarray
    validation: np.ndarray


def make_batches(
    episode_starts: np.ndarray, batch_size: int, validation_share: float, rng: np.random.Generator
) -> Batches:
    """Shuffle all transitions within episodes into minibatches; an incomplete one is left out.

    Args:
        episode_starts: bool [T].
        batch_size: B.
        validation_share: Part of the minibatches that validate; at least one does, and at least one trains.
        rng: Decides.

    Raises:
        ValueError: there are too few transitions for two minibatches.
    """
    rows = np.flatnonzero(~np.asarray(episode_starts, bool)[1:])
    count = len(rows) // batch_size
    if count < 2:
        raise ValueError(
            f"the dataset has {len(rows)} transitions, which make less than two minibatches of {batch_size}: "
            "record more, or lower --batch-size"
        )
    batches = np.sort(rng.permutation(rows)[: count * batch_size].reshape(count, batch_size), axis=1)
    validating = min(max(round(validation_share * count), 1), count - 1)
    order = rng.permutation(count)
    return Batches(batches[order[validating:]], batches[order[:validating]])


def give_pairs(batches: np.ndarray, actions: np.ndarray, rewards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each minibatch a pair of transitions with the same action and different rewards, which causality needs.

    Where there is none, one transition makes way for another of the dataset.

    Args:
        batches: int64 [n, B].
        actions: int [T].
        rewards: float [T].
        rng: Decides which.

    Raises:
        ValueError: there is no such pair in all minibatches together.
    """
    batches, rows = batches.copy(), np.unique(batches)
    for batch in batches:
        if not has_pair(batch, actions, rewards):
            _replace_some(batch, rows, actions, rewards, rng)
    return np.sort(batches, axis=1)


def has_pair(rows: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> bool:
    """Whether two of the rows, int64 [...], have the same action and different rewards."""
    rows = np.ravel(rows)
    outcomes = np.unique(np.stack([actions[rows], rewards[rows]]), axis=1)
    return outcomes.shape[1] > len(np.unique(actions[rows]))


def _replace_some(
    batch: np.ndarray, rows: np.ndarray, actions: np.ndarray, rewards: np.ndarray, rng: np.random.Generator
) -> None:
    """Put a partner for one transition of a minibatch into it, or a whole pair where none of them has a partner."""
    for first in (*rng.permutation(batch), *rng.permutation(rows)):
        partners = rows[(actions[rows] == actions[first]) & (rewards[rows] != rewards[first])]
        if len(partners):
            others = np.flatnonzero(batch != first)
            if first not in batch:
                batch[others[0]], others = first, others[1:]
            batch[rng.choice(others)] = rng.choice(partners)
            return
    raise ValueError(
        "--losses priors needs two transitions with the same action and different rewards, those that train have none"
    )


def negatives(rows: np.ndarray, episodes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row another row of the same episode, drawn uniformly.

    Args:
        rows: int [...].
        episodes: Number of the episode of each row of the dataset, ascending, int [T].
        rng: Decides.
    """
    first = np.searchsorted(episodes, episodes[rows], side="left")
    last = np.searchsorted(episodes, episodes[rows], side="right") - 1
    drawn = rng.integers(first, np.maximum(last, first + 1))  # one place short: the row itself is skipped
    return np.minimum(drawn + (drawn >= rows), last)
