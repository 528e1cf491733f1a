"""Encoders from pictures to states, and decoders back, as the original's (srl-zoo, Raffin et al. 2018).

Encoders map normalised pictures [n, size, size, channels] to [n, outputs]; decoders map states [n, state_dim] to
normalised pictures. The geometry of the convolutional ones is the original's at 224 pixels and follows the picture's
size otherwise.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from representations.layers import BatchNorm, Conv, ConvTranspose, Linear, max_pool

MODEL_TYPES = ("custom_cnn", "resnet", "mlp", "linear")
SMALLEST = {"custom_cnn": 21, "resnet": 17, "mlp": 1, "linear": 1}  # pixels a side of a picture
_FEATURES = 64
# Pictures smaller than this skip the first pooling, of which only a few pixels would be left.
_POOLED_FROM = 112


class LinearEncoder(nn.Module):
    """One affine map of all pixels.

    Attributes:
        outputs: Components of the result.
    """

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [n, height, width, channels] to [n, outputs]."""
        return Linear(self.outputs)(x.reshape(x.shape[0], -1))


class MLPEncoder(nn.Module):
    """Fully connected layers on all pixels.

    Attributes:
        outputs: Components of the result.
        hidden: Width of each hidden layer.
        activation: "tanh" or "relu".
        dropout: Part of the last hidden layer that is dropped while training (needs an rng "dropout").
    """

    outputs: int
    hidden: tuple[int, ...] = (64,)
    activation: str = "relu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [n, height, width, channels] to [n, outputs]."""
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = _activate(self.activation, Linear(width)(x))
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.outputs)(x)


class ConvEncoder(nn.Module):
    """Three convolutions of 64 channels with batch normalisation and pooling, then one affine map.

    7 x 7 at stride 2, 3 x 3, 3 x 3 at stride 2, each followed by normalisation, ReLU and a 3 x 3 maximum at stride 2.
    Of 224 pixels a side 6 x 6 places are left.

    Attributes:
        outputs: Components of the result.
    """

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [n, height, width, channels] to [n, outputs]."""
        pooled = x.shape[1] >= _POOLED_FROM
        x = nn.relu(BatchNorm()(Conv(_FEATURES, 7, stride=2, padding=3)(x), train))
        x = max_pool(x, padding=1) if pooled else x
        x = max_pool(nn.relu(BatchNorm()(Conv(_FEATURES, 3, padding=1)(x), train)))
        x = max_pool(nn.relu(BatchNorm()(Conv(_FEATURES, 3, stride=2, padding=1)(x), train)))
        return Linear(self.outputs)(x.reshape(x.shape[0], -1))


class ResNetEncoder(nn.Module):
    """ResNet-18 (He et al. 2016) from scratch, then fully connected layers.

    Attributes:
        outputs: Components of the result.
        hidden: Width of each layer after the mean over places, ReLU between.
    """

    outputs: int
    hidden: tuple[int, ...] = (64, 64, 64)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [n, height, width, channels] to [n, outputs]."""
        x = nn.relu(BatchNorm()(_res_conv(64, 7, 2)(x), train))
        x = max_pool(x, padding=1)
        for features, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            x = _ResidualBlock(features, stride)(x, train)
            x = _ResidualBlock(features, 1)(x, train)
        x = x.mean(axis=(1, 2))
        for width in self.hidden:
            x = nn.relu(Linear(width)(x))
        return Linear(self.outputs)(x)


class _ResidualBlock(nn.Module):
    """Two convolutions around which the input is led."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [n, height, width, channels] to [n, height', width', features]."""
        y = nn.relu(BatchNorm()(_res_conv(self.features, 3, self.stride)(x), train))
        y = BatchNorm()(_res_conv(self.features, 3, 1)(y), train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = BatchNorm()(_res_conv(self.features, 1, self.stride)(x), train)
        return nn.relu(x + y)


def _res_conv(features: int, side: int, stride: int) -> Conv:
    """A convolution of a residual network, with the initial weights of He et al. (2015)."""
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return Conv(features, side, stride, side // 2, init)


class LinearDecoder(nn.Module):
    """One affine map to all pixels.

    Attributes:
        size: Pixels a side.
        channels: Channels of a picture.
        hidden: Width of each hidden layer; none for the linear autoencoder.
        activation: "tanh" or "relu", after each hidden layer.
    """

    size: int
    channels: int
    hidden: tuple[int, ...] = ()
    activation: str = "tanh"

    @nn.compact
    def __call__(self, state: jax.Array, train: bool) -> jax.Array:
        """Map [n, state_dim] to [n, size, size, channels]."""
        x = state
        for width in self.hidden:
            x = _activate(self.activation, Linear(width)(x))
        return Linear(self.size**2 * self.channels)(x).reshape(-1, self.size, self.size, self.channels)


class ConvDecoder(nn.Module):
    """An affine map to few places of 64 channels, then transposed convolutions at stride 2 up to the picture.

    Where their side is no power of two times a whole number, the next larger one is computed and its border cut off.

    Attributes:
        size: Pixels a side.
        channels: Channels of a picture.
    """

    size: int
    channels: int

    @nn.compact
    def __call__(self, state: jax.Array, train: bool) -> jax.Array:
        """Map [n, state_dim] to [n, size, size, channels]."""
        doublings = 4 if self.size >= _POOLED_FROM else 3
        grid = max(-(-self.size // 2 ** (doublings + 1)) - 1, 1)
        x = Linear(grid * grid * _FEATURES)(state).reshape(-1, grid, grid, _FEATURES)
        for _ in range(doublings):
            x = nn.relu(BatchNorm()(ConvTranspose(_FEATURES, 3, 2)(x), train))
        x = ConvTranspose(self.channels, 4, 2)(x)
        first = (x.shape[1] - self.size) // 2
        return x[:, first : first + self.size, first : first + self.size]


def _activate(name: str, x: jax.Array) -> jax.Array:
    return nn.tanh(x) if name == "tanh" else nn.relu(x)


def make_encoder(model_type: str, family: str, outputs: int) -> nn.Module:
    """The encoder of a kind of model.

    Args:
        model_type: One of `MODEL_TYPES`.
        family: "autoencoder", "vae", "supervised" or "plain": what it is trained with decides the hidden layers.
        outputs: Components of the result.

    Raises:
        ValueError: there is no such model.
    """
    if model_type == "custom_cnn":
        return ConvEncoder(outputs)
    if model_type == "linear":
        return LinearEncoder(outputs)
    if model_type == "resnet":
        return ResNetEncoder(outputs, () if family == "supervised" else (64, 64, 64))
    if model_type == "mlp":
        hidden, activation = {"autoencoder": ((50, 50), "tanh"), "vae": ((50,), "relu")}.get(family, ((64,), "relu"))
        return MLPEncoder(outputs, hidden, activation, dropout=0.5 if family == "supervised" else 0.0)
    raise ValueError(f"there is no model type '{model_type}'; choose one of {', '.join(MODEL_TYPES)}")


def make_decoder(model_type: str, family: str, size: int, channels: int) -> nn.Module:
    """The decoder that goes with an encoder of the same arguments.

    Raises:
        ValueError: this model has none.
    """
    if model_type == "custom_cnn":
        return ConvDecoder(size, channels)
    if model_type == "mlp":
        return LinearDecoder(size, channels, (50, 50), "relu" if family == "vae" else "tanh")
    if model_type == "linear" and family == "autoencoder":
        return LinearDecoder(size, channels)
    raise ValueError(f"model type '{model_type}' has no decoder for {family}; choose custom_cnn or mlp")
