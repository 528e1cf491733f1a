"""How much of the true state a learned one holds: KNN-MSE, ground-truth correlation, reward prediction.

Sources: Lesort et al., "Unsupervised state representation learning with robotic priors" (arXiv 1709.05185) for
KNN-MSE; Raffin et al., "Decoupling feature extraction from policy learning" (arXiv 1901.08651) for GTC.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

_PAIR_BYTES = 2**28  # of the distances that are held at once
REWARD_HIDDEN = 4  # units of each layer of the reward predictor


class Neighbours(NamedTuple):
    """The nearest neighbours of some frames.

    Attributes:
        frames: int64 [n], the frames.
        nearest: int64 [n, k], their neighbours, nearest first, never the frame itself.
        distances: float32 [n, k], in the space of the states.
    """

    frames: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray


def nearest_neighbours(states: np.ndarray, frames: np.ndarray, k: int) -> Neighbours:
    """Exact Euclidean neighbours among all states, by brute force in blocks.

    Args:
        states: float32 [T, S].
        frames: int [n], rows of `states` whose neighbours are sought.
        k: Neighbours of each, at least 1.

    Raises:
        ValueError: There are not k other states.
    """
    if not 1 <= k < len(states):
        raise ValueError(f"{k} neighbours were asked for, there are {len(states)} states: take 1 to {len(states) - 1}")
    points = np.asarray(states, np.float64)
    block = max(1, _PAIR_BYTES // (8 * len(points)))
    nearest = np.empty((len(frames), k), np.int64)
    distances = np.empty((len(frames), k), np.float32)
    squares = (points**2).sum(axis=1)
    for start in range(0, len(frames), block):
        rows = np.asarray(frames[start : start + block])
        pairs = squares[rows, None] + squares[None] - 2.0 * points[rows] @ points.T
        pairs[np.arange(len(rows)), rows] = np.inf
        found = np.argpartition(pairs, k - 1, axis=1)[:, :k]
        exact = np.linalg.norm(points[found] - points[rows, None], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
        nearest[start : start + block] = np.take_along_axis(found, order, 1)
        distances[start : start + block] = np.take_along_axis(exact, order, 1)
    return Neighbours(np.asarray(frames), nearest, distances)


def knn_mse(neighbours: Neighbours, truth: np.ndarray) -> float:
    """Mean squared distance (m^2) of the true states [T, d] of neighbours: 1/(n k) sum_i sum_j |g_j - g_i|^2."""
    gaps = truth[neighbours.nearest].astype(np.float64) - truth[neighbours.frames][:, None]
    return float((gaps**2).sum(axis=-1).mean())


def sample_frames(count: int, samples: int, seed: int) -> np.ndarray:
    """`samples` of `count` frames without repetition, all of them where there are fewer; int64 [n]."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:samples])


def ground_truth_correlation(states: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """For each axis of the truth, the greatest absolute correlation with any component of the state.

    A component or an axis that never changes correlates with nothing: 0, as a fixed target gives. Unlike in the
    original code, other axes of the truth do not count: the paper's definition.

    Args:
        states: float [T, S].
        truth: float [T, d].

    Returns:
        float64 [d], from 0 to 1.
    """
    a, b = _standardised(truth), _standardised(states)
    return np.abs(a.T @ b / len(a)).max(axis=1).clip(0.0, 1.0)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; constant ones are 0."""
    values = np.asarray(values, np.float64)
    centred = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    scale = np.abs(values).max(axis=0, initial=0.0)
    constant = deviation <= 1e-9 * np.maximum(scale, 1e-30)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))


class RewardPrediction(NamedTuple):
    """How well rewards are told from two states in a row.

    Attributes:
        accuracy: Share of the held-out frames whose class is right.
        balanced_accuracy: Mean of the shares of both classes.
        majority: Share of the more frequent class: what telling nothing would get.
    """

    accuracy: float
    balanced_accuracy: float
    majority: float


def predict_reward(
    states: np.ndarray, rewards: np.ndarray, episode_starts: np.ndarray, seed: int = 0, epochs: int = 10
) -> RewardPrediction:
    """Train a small network to tell whether the reward between two states in a row is positive.

    Two hidden layers of 4 ReLU units on both states, standardised; Adam with rate 0.005, batches of 32. As in the
    original, a fifth of the frames is for training and the rest for judging.

    Args:
        states: float [T, S].
        rewards: float [T].
        episode_starts: bool [T].
        seed: Seed of the split, the weights and the order.
        epochs: Passes over the training frames.

    Raises:
        ValueError: There are fewer than ten usable frames, or all rewards are of one class.
    """
    rows = np.flatnonzero(~episode_starts[1:])
    labels = (rewards[rows] > 0).astype(np.int32)
    if len(rows) < 10 or labels.min(initial=1) == labels.max(initial=0):
        raise ValueError("rewards cannot be predicted: there are too few frames, or all have the same reward")
    order = np.random.default_rng(seed).permutation(len(rows))
    inputs = _standardised(np.concatenate([states[rows], states[rows + 1]], axis=1)).astype(np.float32)[order]
    labels = labels[order]
    split = max(1, len(rows) // 5)
    params = _fit_rewards(inputs[:split], labels[:split], seed, epochs)
    told = np.asarray(_logits(params, jnp.asarray(inputs[split:]))).argmax(axis=1)
    right, truth = told == labels[split:], labels[split:]
    per_class = [right[truth == label].mean() for label in (0, 1) if (truth == label).any()]
    majority = max(truth.mean(), 1.0 - truth.mean())
    return RewardPrediction(float(right.mean()), float(np.mean(per_class)), float(majority))


def _logits(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def _fit_rewards(inputs: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> list[tuple[jax.Array, jax.Array]]:
    """Train the reward predictor."""
    sizes, batch = (inputs.shape[1], REWARD_HIDDEN, REWARD_HIDDEN, 2), min(32, len(inputs))
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    params = [
        (jax.random.normal(key, (n, m)) * np.sqrt(2.0 / n), jnp.zeros(m))
        for key, n, m in zip(keys[:-1], sizes[:-1], sizes[1:], strict=True)
    ]
    per_epoch = len(inputs) // batch
    shuffles = jax.vmap(lambda key: jax.random.permutation(key, len(inputs)))(jax.random.split(keys[-1], epochs))
    batches = shuffles[:, : per_epoch * batch].reshape(epochs * per_epoch, batch)
    return _descend(params, jnp.asarray(inputs), jnp.asarray(labels), batches)


@jax.jit
def _descend(params: Any, data: jax.Array, classes: jax.Array, batches: jax.Array) -> Any:
    """The parameters after a step of Adam for each of the batches, rows int32 [steps, batch] of the data."""
    optimiser = optax.adam(0.005)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(_logits(params, data[rows]), classes[rows]).mean()

    def step(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params, rows), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimiser.init(params)), batches)[0][0]


def project(states: np.ndarray, components: int) -> np.ndarray:
    """Principal components of the states, float64 [T, components]; fewer components are padded with zeros."""
    centred = np.asarray(states, np.float64) - states.mean(axis=0)
    if centred.shape[1] > components:
        _, _, directions = np.linalg.svd(centred.T @ centred)
        return centred @ directions[:components].T
    return np.pad(centred, ((0, 0), (0, components - centred.shape[1])))
