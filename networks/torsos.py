"""Feature extractors. Every module maps [..., observation] to [..., features] for any leading axes."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from networks.initializers import orthogonal

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


class MLP(nn.Module):
    """Fully connected layers on the flattened observation, orthogonal(sqrt 2), bias 0.

    Attributes:
        sizes: Width of each layer.
        activation: "tanh" or "relu", after every layer.
        obs_ndim: Number of trailing axes that form one observation.
    """

    sizes: Sequence[int]
    activation: str = "tanh"
    obs_ndim: int = 1

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] float32 to [..., sizes[-1]]."""
        x = obs.reshape(*obs.shape[: obs.ndim - self.obs_ndim], -1) if self.obs_ndim != 1 else obs
        for size in self.sizes:
            x = ACTIVATIONS[self.activation](nn.Dense(size, kernel_init=orthogonal(2**0.5))(x))
        return x


class NatureCNN(nn.Module):
    """Convolutional torso of Mnih et al. (2015): 32 8x8/4, 64 4x4/2, 64 3x3/1, dense 512; input divided by 255."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., height, width, channels] uint8 to [..., 512]; pictures must be at least 36 pixels a side."""
        lead = obs.shape[:-3]
        x = obs.reshape(-1, *obs.shape[-3:]).astype(jnp.float32) / 255.0
        for features, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            conv = nn.Conv(features, (kernel, kernel), stride, padding="VALID", kernel_init=orthogonal(2**0.5))
            x = nn.relu(conv(x))
        x = nn.relu(nn.Dense(512, kernel_init=orthogonal(2**0.5))(x.reshape(x.shape[0], -1)))
        return x.reshape(*lead, 512)
