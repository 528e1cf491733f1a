"""Convolutions and pooling against loops, and the geometry of the networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from representations.layers import convolve, convolve_transposed, max_pool
from representations.models import SMALLEST, make_decoder, make_encoder

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("side", [3, 4])
def test_transposed_convolution_spreads_each_pixel(side):
    x, kernel = RNG.normal(size=(2, 3, 4, 2)).astype(np.float32), RNG.normal(size=(side, side, 2, 5)).astype(np.float32)
    expected = np.zeros((2, 4 + side, 6 + side, 5))
    for row in range(3):
        for column in range(4):
            spread = np.einsum("nc,ijcf->nijf", x[:, row, column], kernel)
            expected[:, 2 * row : 2 * row + side, 2 * column : 2 * column + side] += spread
    np.testing.assert_allclose(convolve_transposed(x, kernel, 2), expected, atol=1e-5)


def plain_convolution(x, kernel, stride, padding):  # what is differentiated by JAX itself
    border = ((padding, padding),) * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, border, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def assert_same_gradients(f, g, x, kernel):
    aim = RNG.normal(size=jax.eval_shape(f, x, kernel).shape).astype(np.float32)
    ours, theirs = (jax.grad(lambda x, k, h=h: jnp.sum((h(x, k) - aim) ** 2), (0, 1))(x, kernel) for h in (f, g))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "stride", "padding"), [(7, 2, 3), (3, 1, 1), (3, 2, 1), (1, 2, 0), (4, 2, 0)])
@pytest.mark.parametrize("size", [9, 10])
def test_the_gradient_of_convolution(side, stride, padding, size):
    x = RNG.normal(size=(2, size, size + 1, 3)).astype(np.float32)
    kernel = RNG.normal(size=(side, side, 3, 4)).astype(np.float32)
    ours, plain = (lambda x, k, f=f: f(x, k, stride, padding) for f in (convolve, plain_convolution))
    np.testing.assert_array_equal(ours(x, kernel), plain(x, kernel))
    assert_same_gradients(ours, plain, x, kernel)


def test_the_gradient_of_transposed_convolution():
    x, kernel = RNG.normal(size=(2, 4, 4, 2)).astype(np.float32), RNG.normal(size=(3, 3, 2, 3)).astype(np.float32)

    def plain(x, kernel):
        dilated = jnp.zeros((2, 7, 7, 2)).at[:, ::2, ::2].set(x)
        return plain_convolution(dilated, kernel[::-1, ::-1], 1, 2)

    assert_same_gradients(lambda x, k: convolve_transposed(x, k, 2), plain, x, kernel)


@pytest.mark.parametrize(("size", "padding"), [(7, 0), (8, 0), (8, 1), (9, 1)])
def test_pooling_takes_the_maximum_of_nine(size, padding):
    x = RNG.normal(size=(2, size, size, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
    count = (size + 2 * padding - 3) // 2 + 1
    expected = np.array(
        [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for j in range(count)] for i in range(count)]
    ).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(max_pool(x, padding), expected)


@pytest.mark.parametrize("model_type", SMALLEST)
@pytest.mark.parametrize("size", [21, 64, 84, 112, 224])
def test_networks_fit_any_picture(model_type, size):
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    out, _ = jax.eval_shape(
        lambda x: make_encoder(model_type, "plain", 5).init_with_output(jax.random.key(0), x, False), x
    )
    assert out.shape == (2, 5)
    if model_type != "resnet":
        decoder = make_decoder(model_type, "autoencoder", size, 3)
        state = jnp.zeros((2, 5))
        out, _ = jax.eval_shape(lambda: decoder.init_with_output(jax.random.key(0), state, False))
        assert out.shape == (2, size, size, 3)


def count(network, *shape) -> int:
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), x)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_networks_have_the_originals_number_of_parameters():
    picture = (224, 224, 3)
    for states, encoder, autoencoder, vae in ((2, 88_130, 246_341, 250_951), (200, 544_520, 1_158_923, 1_619_923)):
        assert count(make_encoder("custom_cnn", "plain", states), *picture) == encoder
        decoder = count(make_decoder("custom_cnn", "autoencoder", 224, 3), states)
        assert encoder + decoder == autoencoder
        assert count(make_encoder("custom_cnn", "vae", 2 * states), *picture) + decoder == vae
    assert count(make_encoder("mlp", "plain", 2), *picture) == 9_633_986
    assert count(make_encoder("linear", "plain", 2), *picture) == 301_058
    for family, outputs, both in (("autoencoder", 2, 15_208_730), ("vae", 4, 15_206_282)):
        dense = count(make_encoder("mlp", family, outputs), *picture) + count(make_decoder("mlp", family, 224, 3), 2)
        assert dense == both
    linear = count(make_encoder("linear", "autoencoder", 200), *picture)
    assert linear + count(make_decoder("linear", "autoencoder", 224, 3), 200) == 60_361_928
