"""Principal components of pictures, by subspace iteration over chunks of a dataset that need not fit into memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from representations.preprocessing import normalise

_CHUNK = 256  # pictures at a time
_EXTRA = 10  # directions that are iterated besides those wanted
_PASSES = 10


def principal_components(frames: Any, count: int, seed: int = 0, passes: int = _PASSES) -> dict[str, np.ndarray]:
    """Find the directions in which normalised pictures vary most.

    Randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4), which reads the pictures
    `passes` + 2 times; each pass makes the directions more exact.

    Args:
        frames: uint8 [T, size, size, channels], array or memory map.
        count: How many, less than T.
        seed: Of the random start.
        passes: Number of iterations.

    Returns:
        `mean` [D] and `components` [D, count], float32, orthonormal columns, the largest variance first, the largest
        entry of each positive.

    Raises:
        ValueError: there are too few pictures.
    """
    total, size = len(frames), int(np.prod(frames.shape[1:]))
    if count >= total:
        raise ValueError(f"{total} pictures have less than {count} principal components: lower --state-dim")
    mean = np.sum([np.asarray(_sum(chunk), np.float64) for chunk in _chunks(frames)], axis=0) / total
    mean32 = jnp.asarray(mean, jnp.float32)
    width = min(count + _EXTRA, total, size)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, width)))[0].astype(np.float32)
    for _ in range(passes):
        basis = np.linalg.qr(_multiply(frames, mean32, basis))[0].astype(np.float32)
    small = basis.T @ _multiply(frames, mean32, basis)
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    components = basis @ vectors[:, np.argsort(-values)[:count]].astype(np.float32)
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=0)[None], axis=0)
    return {"mean": mean.astype(np.float32), "components": components * np.sign(largest)}


def _chunks(frames: Any) -> Any:
    """Pictures a few at a time; the last chunk is shorter."""
    for start in range(0, len(frames), _CHUNK):
        yield jnp.asarray(np.asarray(frames[start : start + _CHUNK]))


def _multiply(frames: Any, mean: jax.Array, basis: np.ndarray) -> np.ndarray:
    """X^T (X basis) for the centred pictures X [T, D], float32 [D, width]."""
    on_device = jnp.asarray(basis)
    product = jnp.zeros(basis.shape, jnp.float32)
    for chunk in _chunks(frames):
        product = _accumulate(product, chunk, mean, on_device)
    return np.asarray(product)


@jax.jit
def _sum(chunk: jax.Array) -> jax.Array:
    return normalise(chunk).reshape(len(chunk), -1).sum(axis=0)


@jax.jit
def _accumulate(product: jax.Array, chunk: jax.Array, mean: jax.Array, basis: jax.Array) -> jax.Array:
    x = normalise(chunk).reshape(len(chunk), -1) - mean
    return product + x.T @ (x @ basis)
