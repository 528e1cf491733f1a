"""Convolutions, transposed convolutions and pooling as PyTorch defines them, for pictures [n, height, width, channels].

Weights start as PyTorch's do: uniform in +-1/sqrt(inputs of one output).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_AXES = ("NHWC", "HWIO", "NHWC")


def uniform_within(bound: float) -> nn.initializers.Initializer:
    """Initialiser that is uniform in [-bound, bound]."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """Fully connected layer with bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., inputs] to [..., features]."""
        init = uniform_within(x.shape[-1] ** -0.5)
        return nn.Dense(self.features, kernel_init=init, bias_init=init)(x)


class Conv(nn.Module):
    """Convolution without bias.

    Attributes:
        features: Channels of the result.
        side: Height and width of the kernel.
        stride: Pixels between two positions of the kernel.
        padding: Rows and columns of zeros at each border.
        kernel_init: Initialiser of the kernel; PyTorch's default where it is None.
    """

    features: int
    side: int
    stride: int = 1
    padding: int = 0
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, height, width, channels] float32 to [n, height', width', features]."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        init = self.kernel_init or uniform_within(math.prod(shape[:3]) ** -0.5)
        return convolve(x, self.param("kernel", init, shape), self.stride, self.padding)


class ConvTranspose(nn.Module):
    """Transposed convolution with bias, without padding: a side of n becomes (n - 1) stride + `side`.

    Attributes:
        features: Channels of the result.
        side: Height and width of the kernel.
        stride: Pixels of the result between two pixels of the input.
    """

    features: int
    side: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, height, width, channels] float32 to [n, height', width', features]."""
        init = uniform_within((self.features * self.side**2) ** -0.5)  # PyTorch counts the outputs here
        kernel = self.param("kernel", init, (self.side, self.side, x.shape[-1], self.features))
        return convolve_transposed(x, kernel, self.stride) + self.param("bias", init, (self.features,))


class BatchNorm(nn.Module):
    """Batch normalisation: by the batch while training, by running statistics (collection `batch_stats`) otherwise."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise each channel of [n, ..., channels]."""
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution of [n, height, width, in] with a kernel [side, side, in, out]."""
    border = ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), border, dimension_numbers=_AXES)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_transposed(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Transposed convolution of [n, height, width, in] with a kernel [side, side, in, out].

    It is the gradient of a convolution, and so its own gradients are written as that convolution and as the gradient of
    its kernel. XLA's derivation of them takes 25 times as long on a CPU (jaxlib 0.10.2).
    """
    border = ((kernel.shape[0] - 1,) * 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), border, lhs_dilation=(stride, stride), dimension_numbers=_AXES
    )


def _transposed_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_transposed(x, kernel, stride), (x, kernel)


def _transposed_backward(
    stride: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    swapped = kernel.swapaxes(2, 3)

    _, of_kernel = jax.vjp(lambda k: convolve(gradient, k, stride, 0), swapped)
    return convolve(gradient, swapped, stride, 0), of_kernel(x)[0].swapaxes(2, 3)


convolve_transposed.defvjp(_transposed_forward, _transposed_backward)


def max_pool(x: jax.Array, padding: int = 0) -> jax.Array:
    """Maximum over 3 x 3 pixels at stride 2 of [n, height, width, channels]; a border counts as minus infinity.

    First over rows, then over columns, as maxima of slices: the gradient of XLA's own pooling takes three times as
    long. Equal maxima share the gradient.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    height, width = ((size - 3) // 2 for size in x.shape[1:3])
    x = reduce(jnp.maximum, [x[:, i : i + 2 * height + 1 : 2] for i in range(3)])
    return reduce(jnp.maximum, [x[:, :, i : i + 2 * width + 1 : 2] for i in range(3)])
