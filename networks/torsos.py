"""Feature extractors. Every module maps [..., observation] to [..., features] for any leading axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from networks.initializers import orthogonal

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


class MLP(nn.Module):
    """Fully connected layers on the flattened observation, bias 0.

    Attributes:
        sizes: Width of each layer.
        activation: "tanh" or "relu", after every layer.
        obs_ndim: Number of trailing axes that form one observation.
        kernel_init: Initialiser of the weights, orthogonal(sqrt 2) by default.
    """

    sizes: Sequence[int]
    activation: str = "tanh"
    obs_ndim: int = 1
    kernel_init: nn.initializers.Initializer = orthogonal(2**0.5)

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] float32 to [..., sizes[-1]]."""
        x = obs.reshape(*obs.shape[: obs.ndim - self.obs_ndim], -1) if self.obs_ndim != 1 else obs
        for size in self.sizes:
            x = ACTIVATIONS[self.activation](nn.Dense(size, kernel_init=self.kernel_init)(x))
        return x


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Valid convolution of pictures [n, height, width, in] with a kernel [side, side, in, out]."""
    side, _, channels, _ = kernel.shape
    # A GPU's matrix units want channels in eights: three colours would leave them idle.
    if stride > 1 and side % stride == 0 and channels % 8:
        x, kernel, stride = *_in_squares(x, kernel, stride), 1
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=axes)


def _in_squares(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Pictures and kernel of the same convolution at stride 1, for a `stride` that divides the kernel's side.

    Squares of stride x stride pixels become the channels of one, after which the kernel has few positions left.
    """
    side, _, channels, features = kernel.shape
    height, width = ((size - side) // stride + 1 for size in x.shape[1:3])
    n, positions, depth = x.shape[0], side // stride, stride * stride * channels
    rows, columns = height + positions - 1, width + positions - 1
    x = x[:, : rows * stride, : columns * stride].reshape(n, rows, stride, columns, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, depth)
    kernel = kernel.reshape(positions, stride, positions, stride, channels, features)
    return x, kernel.transpose(0, 2, 1, 3, 4, 5).reshape(positions, positions, depth, features)


def _convolve_by_matmuls(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same as a sum of matrix products, one for each position of a kernel at stride 1."""
    x, kernel = _in_squares(x, kernel, stride)
    positions, _, _, features = kernel.shape
    height, width = (size - positions + 1 for size in x.shape[1:3])
    out = jnp.zeros((x.shape[0], height, width, features), x.dtype)
    for i in range(positions):
        for j in range(positions):
            out = out + x[:, i : i + height, j : j + width] @ kernel[i, j]
    return out


def patches(x: jax.Array, side: int, stride: int) -> jax.Array:
    """What a valid convolution sees of pictures [n, height, width, channels], for a `stride` that divides `side`.

    Returns:
        [n, height', width', side * side * channels], in the order of a kernel [side, side, channels, out].
    """
    n, positions, channels = x.shape[0], side // stride, x.shape[3]
    height, width = ((size - side) // stride + 1 for size in x.shape[1:3])
    rows, columns = height + positions - 1, width + positions - 1
    x = x[:, : rows * stride, : columns * stride].reshape(n, rows, stride, columns, stride, channels)
    seen = [[x[:, i : i + height, :, j : j + width] for j in range(positions)] for i in range(positions)]
    # Axes: place of the square in the patch (2), picture, row, row within it, column, column within it, channel.
    stacked = jnp.stack([jnp.stack(row) for row in seen]).transpose(2, 3, 5, 0, 4, 1, 6, 7)
    return stacked.reshape(n, height, width, side * side * channels)


class Conv(nn.Module):
    """Valid convolution with bias, orthogonal(sqrt 2); `stride` divides the kernel's side.

    On a CPU it runs as matrix products: XLA has no fast convolution there within a loop (jaxlib 0.10.2), which is where
    all training happens; a gradient step takes a tenth of the time.

    Attributes:
        features: Channels of the result.
        side: Height and width of the kernel.
        stride: Pixels between two positions of the kernel.
    """

    features: int
    side: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, height, width, channels] float32 to [n, height', width', features]."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", orthogonal(2**0.5), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        matmuls, convolution = (partial(f, stride=self.stride) for f in (_convolve_by_matmuls, _convolve))
        return jax.lax.platform_dependent(x, kernel, cpu=matmuls, default=convolution) + bias


class NatureCNN(nn.Module):
    """Convolutional torso of Mnih et al. (2015): 32 8x8/4, 64 4x4/2, 64 3x3/1, dense 512; input divided by 255."""

    smallest: ClassVar[int] = 36  # pixels a side of a picture

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., height, width, channels] uint8 to [..., 512].

        Raises:
            ValueError: a picture is smaller than the kernels.
        """
        lead, size = obs.shape[:-3], obs.shape[-3:-1]
        if min(size) < self.smallest:
            raise ValueError(
                f"pictures of {size[0]}x{size[1]} pixels are too small for the network's convolutions: "
                f"at least {self.smallest} pixels a side are needed"
            )
        x = obs.reshape(-1, *obs.shape[-3:]).astype(jnp.float32) / 255.0
        for features, side, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(Conv(features, side, stride)(x))
        x = nn.relu(nn.Dense(512, kernel_init=orthogonal(2**0.5))(x.reshape(x.shape[0], -1)))
        return x.reshape(*lead, 512)


class PaddedConv(nn.Module):
    """Convolution without bias at stride 2, with a border of zeros of half the kernel: half the size, rounded up.

    On a CPU it is a sum of matrix products, one for each position of the kernel, as XLA has no fast convolution there
    within a loop (jaxlib 0.10.2), least of all one with a kernel for each member of a population.

    Attributes:
        features: Channels of the result.
        side: Height and width of the kernel, odd.
    """

    features: int
    side: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, height, width, channels] float32 to [n, height', width', features]."""
        kernel = self.param("kernel", orthogonal(2**0.5), (self.side, self.side, x.shape[-1], self.features))
        border = self.side // 2
        x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        convolution = partial(_convolve, stride=2)
        return jax.lax.platform_dependent(x, kernel, cpu=_convolve_by_positions, default=convolution)


def _convolve_by_positions(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A valid convolution at stride 2 as a sum of matrix products."""
    side, _, _, features = kernel.shape
    height, width = ((size - side) // 2 + 1 for size in x.shape[1:3])
    out = jnp.zeros((x.shape[0], height, width, features), x.dtype)
    for i in range(side):
        for j in range(side):
            out = out + x[:, i : i + 2 * height : 2, j : j + 2 * width : 2] @ kernel[i, j]
    return out


class SmallCNN(nn.Module):
    """The toolbox's convolutional torso for evolution: 8 5x5, 16 3x3, 32 3x3, each at stride 2; input divided by 255.

    After each convolution come an instance normalisation with scale and shift, ReLU and a 2x2 maximum. 224 x 224
    pictures give 288 features, from 5,872 + 200 C parameters for C channels. The original calls it batch normalisation,
    but its batches are of one picture.
    """

    smallest: ClassVar[int] = 43  # pixels a side of a picture

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., height, width, channels] uint8 to [..., features]."""
        lead = obs.shape[:-3]
        x = obs.reshape(-1, *obs.shape[-3:]).astype(jnp.float32) / 255.0
        for features, side in ((8, 5), (16, 3), (32, 3)):
            x = nn.relu(nn.GroupNorm(num_groups=None, group_size=1, epsilon=1e-5)(PaddedConv(features, side)(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return x.reshape(*lead, -1)
