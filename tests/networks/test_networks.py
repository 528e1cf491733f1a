"""Networks: shapes for any leading axes, initial gains, and what policy and value share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from networks.build import ActorCritic
from networks.torsos import MLP, NatureCNN, SmallCNN, _convolve, _convolve_by_matmuls, _convolve_by_positions

KEY = jax.random.key(0)
SIDE = 36  # smallest picture that the Nature CNN takes


@pytest.fixture(scope="module")
def picture_network() -> tuple[ActorCritic, dict]:
    """A network for small pictures and its parameters."""
    network = ActorCritic(obs_ndim=3, pixels=True, num_actions=4, action_size=0)
    return network, jax.jit(network.init)(KEY, jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8))


def pictures(*lead: int) -> np.ndarray:
    """Random pictures uint8 [*lead, SIDE, SIDE, 3]."""
    return np.random.default_rng(0).integers(0, 256, (*lead, SIDE, SIDE, 3), np.uint8)


def plain_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """XLA's own valid convolution."""
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=axes)


def dense_kernels(params: dict) -> dict[str, np.ndarray]:
    """Kernels by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves if "kernel" in jax.tree_util.keystr(path)
    }


def shapes(network: ActorCritic, obs_shape: tuple[int, ...], lead: tuple[int, ...]) -> Any:
    """Shapes of (policy output, value) for observations [*lead, *obs_shape]; nothing is computed."""

    def play(key: jax.Array) -> Any:
        params = network.init(key, jnp.zeros((1, *obs_shape)))
        return network.apply(params, jnp.ones((*lead, *obs_shape)))

    return jax.tree.map(lambda x: x.shape, jax.eval_shape(play, KEY))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_shapes(lead: tuple[int, ...]) -> None:
    discrete = ActorCritic(obs_ndim=1, pixels=False, num_actions=4, action_size=0, sizes=(8, 6))
    assert shapes(discrete, (5,), lead) == ((*lead, 4), lead)
    continuous = ActorCritic(obs_ndim=2, pixels=False, num_actions=0, action_size=2, sizes=(8,))
    assert shapes(continuous, (5, 3), lead) == (((*lead, 2), (2,)), lead)


def test_log_std_starts_where_it_is_told() -> None:
    network = ActorCritic(obs_ndim=1, pixels=False, num_actions=0, action_size=2, sizes=(), log_std_init=-0.5)
    params = jax.jit(network.init)(KEY, jnp.zeros((1, 3)))
    np.testing.assert_array_equal(params["params"]["policy_head"]["log_std"], [-0.5, -0.5])


def test_leading_axes_are_independent() -> None:
    network = ActorCritic(obs_ndim=1, pixels=False, num_actions=3, action_size=0, sizes=(8,))
    params = jax.jit(network.init)(KEY, jnp.zeros((1, 5)))
    obs = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    apply = jax.jit(network.apply)
    logits, value = apply(params, obs)
    one_logits, one_value = apply(params, obs[1, 2])
    np.testing.assert_allclose(logits[1, 2], one_logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value[1, 2], one_value, rtol=1e-5, atol=1e-6)


def test_state_networks_are_separate_and_orthogonal() -> None:
    network = ActorCritic(obs_ndim=1, pixels=False, num_actions=3, action_size=0, sizes=(8, 8))
    params = jax.jit(network.init)(KEY, jnp.zeros((1, 8)))
    kernels = dense_kernels(params)
    assert len(kernels) == 6  # two hidden layers and a head each
    for path, kernel in kernels.items():
        gain = 0.01 if "policy_head" in path else 1.0 if "value_head" in path else 2**0.5
        np.testing.assert_allclose(kernel.T @ kernel, gain**2 * np.eye(kernel.shape[1]), atol=1e-5)
    obs = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    grads = jax.jit(jax.grad(lambda p: network.apply(p, obs, method="value").sum()))(params)
    for path, grad in dense_kernels(grads).items():
        assert bool(np.any(grad != 0)) == ("value" in path), path


def test_uniform_start_is_that_of_pytorch() -> None:
    network = ActorCritic(1, False, 0, 2, (400,), ortho_init=False)
    kernels = dense_kernels(network.init(jax.random.key(0), jnp.zeros((1, 100))))
    assert len(kernels) == 4
    for kernel in kernels.values():
        bound = 1 / np.sqrt(len(kernel))
        assert np.abs(kernel).max() <= bound and np.abs(kernel).max() > 0.98 * bound
        assert np.std(kernel) == pytest.approx(bound / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_is_the_matrix_products(activation: str) -> None:
    network = MLP((4, 3), activation)
    obs = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    params = jax.jit(network.init)(KEY, obs)
    x = np.asarray(obs)
    for layer in ("Dense_0", "Dense_1"):
        weights = params["params"][layer]
        x = x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        x = np.tanh(x) if activation == "tanh" else np.maximum(x, 0)
    np.testing.assert_allclose(network.apply(params, obs), x, rtol=1e-5, atol=1e-6)


def test_policy_and_value_of_pictures_share_one_torso(picture_network: tuple[ActorCritic, dict]) -> None:
    network, params = picture_network
    assert sum("Conv" in path for path in dense_kernels(params)) == 3
    obs = pictures(2)

    @jax.jit
    def play(params: dict) -> Any:
        return [network.apply(params, obs, method=method) for method in ("__call__", "policy", "value")]

    (logits, value), only_logits, only_value = play(params)
    np.testing.assert_allclose(logits, only_logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, only_value, rtol=1e-5, atol=1e-6)


def test_nature_cnn_is_its_published_layers(picture_network: tuple[ActorCritic, dict]) -> None:
    """Written out with lax, from the paper's table: 32 8x8/4, 64 4x4/2, 64 3x3/1, 512; input divided by 255."""
    params = picture_network[1]["params"]["policy_torso"]
    obs = pictures(2, 1)
    got = jax.jit(NatureCNN().apply)({"params": params}, obs)
    assert got.shape == (2, 1, 512)
    x = obs[:, 0].astype(jnp.float32) / 255
    for i, (stride, shape) in enumerate(((4, (8, 8, 3, 32)), (2, (4, 4, 32, 64)), (1, (3, 3, 64, 64)))):
        layer = params[f"Conv_{i}"]
        assert layer["kernel"].shape == shape
        convolved = jax.lax.conv_general_dilated(
            x, layer["kernel"], (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = nn.relu(convolved + layer["bias"])
    x = nn.relu(x.reshape(2, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    np.testing.assert_allclose(got[:, 0], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "side", "stride"), [((2, 37, 41, 3), 8, 4), ((2, 9, 10, 5), 4, 2), ((1, 7, 5, 4), 3, 1)]
)
def test_convolution_by_matmuls_is_the_convolution(shape: tuple[int, ...], side: int, stride: int) -> None:
    """Values and both gradients, for sizes that the kernel does not cover to the last pixel too."""
    x_key, kernel_key, weight_key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, shape)
    kernel = jax.random.normal(kernel_key, (side, side, shape[-1], 6))

    # What is convolved is an argument: XLA could work out the convolution of constants by other means.
    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(convolve: Callable, x: jax.Array, kernel: jax.Array) -> Any:
        out = convolve(x, kernel, stride)
        weights = jax.random.normal(weight_key, out.shape)
        return out, jax.grad(lambda x, kernel: jnp.sum(weights * convolve(x, kernel, stride)), (0, 1))(x, kernel)

    expected = values_and_gradients(plain_convolution, x, kernel)
    for convolve in (_convolve, _convolve_by_matmuls):
        chex.assert_trees_all_close(values_and_gradients(convolve, x, kernel), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 6])
def test_small_cnn_has_the_original_size(channels: int) -> None:
    shapes, params = (
        jax.eval_shape(SmallCNN().init_with_output, KEY, jnp.zeros((2, 5, 224, 224, channels), jnp.uint8))[i]
        for i in (0, 1)
    )
    assert shapes.shape == (2, 5, 288)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 5872 + 200 * channels


def test_small_cnn_takes_its_smallest_picture_and_no_smaller() -> None:
    def features(side: int) -> int:
        return jax.eval_shape(SmallCNN().init_with_output, KEY, jnp.zeros((1, side, side, 1), jnp.uint8))[0].size

    assert features(SmallCNN.smallest) == 32
    assert features(SmallCNN.smallest - 1) == 0


@pytest.mark.parametrize(("side", "size"), [(5, 12), (3, 7), (3, 8)])
def test_convolution_by_positions_is_a_convolution(side: int, size: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 3, 4)).astype(np.float32)
    expected = plain_convolution(x, kernel, 2)
    np.testing.assert_allclose(_convolve_by_positions(x, kernel), expected, rtol=1e-4, atol=1e-4)
