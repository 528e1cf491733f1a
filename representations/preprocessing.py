"""What happens to a picture before an encoder sees it, and how a reconstruction becomes a picture again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# Statistics of ImageNet (RGB, of values between 0 and 1), with which the original toolbox normalises.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def normalise(frames: jax.Array) -> jax.Array:
    """Map pictures uint8 [..., channels] to float32: divided by 255, less ImageNet's mean, divided by its deviation.

    Channels are RGB, of several views one after the other.
    """
    mean, std = _per_channel(frames.shape[-1])
    return frames.astype(jnp.float32) * (1.0 / (255.0 * std)) - mean / std


def denormalise(x: jax.Array) -> jax.Array:
    """Map float32 [..., channels] as of `normalise` back to pictures uint8, clipped to the valid range."""
    mean, std = _per_channel(x.shape[-1])
    return jnp.round(jnp.clip(x * std + mean, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _per_channel(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel.

    Raises:
        ValueError: the channels are not those of whole RGB pictures.
    """
    if channels % 3:
        raise ValueError(f"pictures have {channels} channels, which are not whole RGB pictures")
    return np.tile(MEAN, channels // 3), np.tile(STD, channels // 3)


def occlude(x: jax.Array, key: jax.Array, share: ArrayLike) -> jax.Array:
    """Cover a random rectangle of each view of each picture with 0, which is the mean grey of `normalise`.

    As in the original's denoising autoencoder: along each axis of n pixels one end is uniform in 0 ... n-1, the other
    uniform within `share` n pixels of it, and within the picture. An end is not covered, so a mask may be empty.

    Args:
        x: float32 [batch, height, width, channels], normalised.
        key: Typed key [].
        share: Largest part of a side that a rectangle covers, between 0 and 1.
    """
    batch, height, width, channels = x.shape
    views = channels // 3
    rows, columns = jax.random.split(key)
    in_rows = _interval(rows, (batch, views), height, share)[:, :, :, None]
    in_columns = _interval(columns, (batch, views), width, share)[:, :, None, :]
    covered = jnp.moveaxis(in_rows & in_columns, 1, -1)  # [batch, height, width, views]
    return jnp.where(jnp.repeat(covered, 3, axis=-1), 0.0, x)


def _interval(key: jax.Array, shape: tuple[int, int], size: int, share: ArrayLike) -> jax.Array:
    """Random intervals of pixels as bool [*shape, size]."""
    first_key, second_key = jax.random.split(key)
    first = jax.random.randint(first_key, shape, 0, size)
    low = jnp.floor(jnp.maximum(0.0, first - size * share))
    high = jnp.maximum(jnp.floor(jnp.minimum(first + size * share, size)), low + 1)
    second = jnp.floor(jax.random.uniform(second_key, shape) * (high - low) + low)
    pixels = jnp.arange(size)
    return (pixels >= jnp.minimum(first, second)[..., None]) & (pixels < jnp.maximum(first, second)[..., None])
