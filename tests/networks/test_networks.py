"""Networks: shapes for any leading axes, initial gains, and what policy and value share."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from networks.build import ActorCritic
from networks.torsos import MLP, NatureCNN

KEY = jax.random.key(0)
SIDE = 36  # smallest picture that the Nature CNN takes


@pytest.fixture(scope="module")
def picture_network() -> tuple[ActorCritic, dict]:
    """A network for small pictures and its parameters."""
    network = ActorCritic(obs_ndim=3, pixels=True, num_actions=4, action_size=0)
    return network, jax.jit(network.init)(KEY, jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8))


def dense_kernels(params: dict) -> dict[str, np.ndarray]:
    """Kernels by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves if "kernel" in jax.tree_util.keystr(path)
    }


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_discrete_shapes(lead: tuple[int, ...]) -> None:
    network = ActorCritic(obs_ndim=1, pixels=False, num_actions=4, action_size=0, sizes=(8, 6))
    params = network.init(KEY, jnp.zeros((1, 5)))
    logits, value = network.apply(params, jnp.ones((*lead, 5)))
    assert logits.shape == (*lead, 4)
    assert value.shape == lead


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_continuous_shapes_of_a_matrix_observation(lead: tuple[int, ...]) -> None:
    network = ActorCritic(obs_ndim=2, pixels=False, num_actions=0, action_size=2, sizes=(8,), log_std_init=-0.5)
    params = network.init(KEY, jnp.zeros((1, 5, 3)))
    (mean, log_std), value = network.apply(params, jnp.ones((*lead, 5, 3)))
    assert mean.shape == (*lead, 2)
    assert value.shape == lead
    np.testing.assert_array_equal(log_std, [-0.5, -0.5])


def test_leading_axes_are_independent() -> None:
    network = ActorCritic(obs_ndim=1, pixels=False, num_actions=3, action_size=0, sizes=(8,))
    params = network.init(KEY, jnp.zeros((1, 5)))
    obs = jax.random.normal(KEY, (2, 3, 5))
    logits, value = network.apply(params, obs)
    one_logits, one_value = network.apply(params, obs[1, 2])
    np.testing.assert_allclose(logits[1, 2], one_logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value[1, 2], one_value, rtol=1e-5, atol=1e-6)


def test_state_networks_are_separate_and_orthogonal() -> None:
    network = ActorCritic(obs_ndim=1, pixels=False, num_actions=3, action_size=0, sizes=(8, 8))
    params = network.init(KEY, jnp.zeros((1, 8)))
    kernels = dense_kernels(params)
    assert len(kernels) == 6  # two hidden layers and a head each
    for path, kernel in kernels.items():
        gain = 0.01 if "policy_head" in path else 1.0 if "value_head" in path else 2**0.5
        np.testing.assert_allclose(kernel.T @ kernel, gain**2 * np.eye(kernel.shape[1]), atol=1e-5)
    obs = jax.random.normal(KEY, (4, 8))
    grads = jax.grad(lambda p: network.apply(p, obs, method="value").sum())(params)
    for path, grad in dense_kernels(grads).items():
        assert bool(np.any(grad != 0)) == ("value" in path), path


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_is_the_matrix_products(activation: str) -> None:
    network = MLP((4, 3), activation)
    obs = jax.random.normal(KEY, (6, 5))
    params = network.init(KEY, obs)
    x = np.asarray(obs)
    for layer in ("Dense_0", "Dense_1"):
        weights = params["params"][layer]
        x = x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        x = np.tanh(x) if activation == "tanh" else np.maximum(x, 0)
    np.testing.assert_allclose(network.apply(params, obs), x, rtol=1e-5, atol=1e-6)


def test_policy_and_value_of_pictures_share_one_torso(picture_network: tuple[ActorCritic, dict]) -> None:
    network, params = picture_network
    assert sum("Conv" in path for path in dense_kernels(params)) == 3
    obs = jax.random.randint(KEY, (2, SIDE, SIDE, 3), 0, 256).astype(jnp.uint8)
    logits, value = network.apply(params, obs)
    np.testing.assert_allclose(logits, network.apply(params, obs, method="policy"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, network.apply(params, obs, method="value"), rtol=1e-5, atol=1e-6)


def test_nature_cnn_is_its_published_layers(picture_network: tuple[ActorCritic, dict]) -> None:
    """Written out with lax, from the paper's table: 32 8x8/4, 64 4x4/2, 64 3x3/1, 512; input divided by 255."""
    params = picture_network[1]["params"]["policy_torso"]
    obs = jax.random.randint(KEY, (2, 1, SIDE, SIDE, 3), 0, 256).astype(jnp.uint8)
    got = NatureCNN().apply({"params": params}, obs)
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
