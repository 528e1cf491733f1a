"""K-FAC's factors against sums over samples, its natural gradient against exact Fisher matrices."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.common import kfac
from networks.build import ActorCritic
from networks.torsos import Conv, patches

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Standard normals float32."""
    return RNG.normal(size=shape).astype(np.float32)


def positive_definite(*shape: int) -> np.ndarray:
    """Random symmetric positive definite matrices [..., n, n]."""
    rows = normal(*shape, 2 * shape[-1])
    return rows @ np.swapaxes(rows, -1, -2) / rows.shape[-1]


class Twice(nn.Module):
    """One layer, called twice."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., 3] to [..., 3]."""
        layer = nn.Dense(3)
        return layer(layer(x))


class Scaled(nn.Module):
    """A parameter that is in no layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., n] to [..., 2]."""
        return nn.Dense(2)(x) * self.param("scale", nn.initializers.ones, (2,))


class Linear(nn.Module):
    """Two layers without an activation: derivatives by the outputs of either do not depend on its inputs."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., n] to [..., 3]."""
        return nn.Dense(3)(nn.Dense(3)(x))


class Picture(nn.Module):
    """Two convolutions and a dense layer; the second convolution has one position for pictures of 6 x 6."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, height, width, channels] to [n, 2]."""
        x = nn.tanh(Conv(4, 4, 2)(x))
        x = nn.tanh(Conv(5, 2, 1)(x))
        return nn.Dense(2)(x.reshape(len(x), -1))


class Case(NamedTuple):
    """A network with parameters, what K-FAC knows of it, and a batch."""

    network: Any
    params: Any
    layers: tuple[kfac.Layer, ...]
    obs: np.ndarray


def case(module: nn.Module, obs: np.ndarray) -> Case:
    """Draw parameters away from their start."""
    params = module.init(jax.random.key(0), obs[:1])
    params = jax.tree.map(lambda x: x + 0.3 * normal(*x.shape), params)
    return Case(module.apply, params, kfac.layers_of(module.apply, params, obs[:1]), obs)


def of_layer(tree: Any, path: tuple[str, ...]) -> Any:
    """A layer's part of a tree like the parameters."""
    return functools.reduce(lambda branch, name: branch[name], path, tree["params"])


def batch_factors(given: Case, by_outputs: Any) -> tuple[kfac.Factors, ...]:
    """Factors of a batch for derivatives [M, ...] of the log likelihood by the network's outputs."""

    @jax.jit
    def run(params: Any, obs: jax.Array, by_outputs: Any) -> tuple[kfac.Factors, ...]:
        tape = kfac.forward(given.layers, given.network, params, obs)
        gradients = tape.pullback(by_outputs)[1]
        return tuple(kfac.statistics(*x) for x in zip(given.layers, tape.inputs, gradients, strict=True))

    return run(given.params, given.obs, by_outputs)


def sample_gradients(given: Case, by_outputs: Any) -> Any:
    """Each sample's gradient [M, ...] by the parameters, one backward pass per sample."""

    @jax.jit
    @jax.vmap
    def one(obs: jax.Array, by_output: Any) -> Any:
        outputs, pullback = jax.vjp(lambda p: given.network(p, obs[None]), given.params)
        del outputs
        return pullback(jax.tree.map(lambda x: x[None], by_output))[0]

    return one(given.obs, by_outputs)


def flat(grads: dict[str, Any], lead: int = 0) -> np.ndarray:
    """A layer's gradient as a matrix [..., in + 1, out] and then a vector, in the order of the Kronecker product."""
    kernel, bias = np.asarray(grads["kernel"]), np.asarray(grads["bias"])
    kernel = kernel.reshape(*kernel.shape[:lead], -1, kernel.shape[-1])
    return np.concatenate([kernel, np.expand_dims(bias, -2)], axis=-2).reshape(*kernel.shape[:lead], -1)


def dense(blocks: jax.Array, width: int) -> np.ndarray:
    """The matrix [width, width] of blocks on a diagonal."""
    matrix = np.zeros((len(blocks) * blocks.shape[1],) * 2, np.float64)
    for i, block in enumerate(np.asarray(blocks)):
        part = slice(i * len(block), (i + 1) * len(block))
        matrix[part, part] = block
    return matrix[:width, :width]


# -- pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 65, 150])
def test_inverses_are_those_of_lapack(size: int) -> None:
    matrices = positive_definite(3, size) + 1e-2 * np.eye(size, dtype=np.float32)
    got = jax.jit(jax.vmap(kfac.inverse))(matrices)
    expected = np.linalg.inv(matrices.astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("side", "stride", "shape"), [(4, 2, (11, 8)), (3, 1, (5, 6)), (2, 2, (5, 5))])
def test_patches_are_what_a_convolution_sees(side: int, stride: int, shape: tuple[int, int]) -> None:
    pictures, kernel = normal(2, *shape, 3), normal(side, side, 3, 5)
    got = np.asarray(patches(pictures, side, stride))
    height, width = ((size - side) // stride + 1 for size in shape)
    assert got.shape == (2, height, width, side * side * 3)
    for n, h, w in np.ndindex(2, height, width):
        window = pictures[n, h * stride : h * stride + side, w * stride : w * stride + side]
        np.testing.assert_array_equal(got[n, h, w], window.reshape(-1))
    module = Conv(5, side, stride)
    expected = module.apply({"params": {"kernel": kernel, "bias": np.zeros(5, np.float32)}}, pictures)
    np.testing.assert_allclose(got @ kernel.reshape(-1, 5), expected, atol=1e-4)


def test_layers_are_found_in_order() -> None:
    states = ActorCritic(1, False, 0, 2, (8,))
    obs = jnp.zeros((1, 3))
    layers = kfac.layers_of(states.apply, jax.eval_shape(states.init, jax.random.key(0), obs), obs)
    assert [(layer.path, layer.fan_in, layer.fan_out) for layer in layers] == [
        (("policy_torso", "Dense_0"), 3, 8),
        (("value_torso", "Dense_0"), 3, 8),
        (("policy_head", "Dense_0"), 8, 2),
        (("value_head", "Dense_0"), 8, 1),
    ]
    pictures = ActorCritic(3, True, 4, 0)
    obs = jnp.zeros((1, 36, 44, 3), jnp.uint8)
    layers = kfac.layers_of(pictures.apply, jax.eval_shape(pictures.init, jax.random.key(0), obs), obs)
    assert [(layer.path[-1], layer.fan_in, layer.fan_out, layer.positions) for layer in layers] == [
        ("Conv_0", 192, 32, 8 * 10),
        ("Conv_1", 512, 64, 3 * 4),
        ("Conv_2", 576, 64, 1 * 2),
        ("Dense_0", 128, 512, 1),
        ("Dense_0", 512, 4, 1),
        ("Dense_0", 512, 1, 1),
    ]


@pytest.mark.parametrize(("module", "message"), [(Twice(), "called once"), (Scaled(), "params/scale")])
def test_networks_that_it_cannot_handle_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case(module, normal(1, 3))


# -- factors ------------------------------------------------------------------------------------------------------


def test_factors_are_sums_over_samples_and_positions() -> None:
    given, by_outputs = case(Picture(), normal(3, 8, 7, 2)), normal(3, 2)
    factors = batch_factors(given, by_outputs)
    params, pictures = given.params, given.obs
    assert [layer.positions for layer in given.layers] == [3 * 2, 2 * 1, 1]

    # The first convolution's inputs are the pictures; the others' are what the layers before make of them.
    hidden = np.tanh(Conv(4, 4, 2).apply({"params": of_layer(params, ("Conv_0",))}, pictures))
    features = np.tanh(Conv(5, 2, 1).apply({"params": of_layer(params, ("Conv_1",))}, hidden))
    for x, side, stride, (got, _), layer in zip((pictures, hidden), (4, 2), (2, 1), factors, given.layers):
        expected = np.zeros((layer.fan_in + 1,) * 2)
        for n in range(3):
            for h, w in np.ndindex(*layer.outputs[:2]):
                window = x[n, h * stride : h * stride + side, w * stride : w * stride + side].reshape(-1)
                expected += np.outer(np.append(window, 1), np.append(window, 1)) / 3
        np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-4)
    rows = np.concatenate([np.asarray(features).reshape(3, -1), np.ones((3, 1))], axis=1)
    np.testing.assert_allclose(factors[2].inputs[0], rows.T @ rows / 3, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(factors[2].outputs[0], by_outputs.T @ by_outputs / 3, rtol=1e-4, atol=1e-5)

    by_features = (by_outputs @ np.asarray(of_layer(params, ("Dense_0",))["kernel"]).T).reshape(features.shape)
    gradients = np.asarray(by_features * (1 - features**2)).reshape(-1, 5)
    expected = sum(np.outer(g, g) for g in gradients) / (3 * 2)
    np.testing.assert_allclose(factors[1].outputs[0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "obs"),
    [(ActorCritic(1, False, 4, 0, (6, 5)), normal(1, 3)), (Picture(), normal(1, 6, 6, 2))],
    ids=["states", "picture"],
)
def test_of_one_sample_a_block_is_the_fisher_matrix(module: nn.Module, obs: np.ndarray) -> None:
    """Of one sample and one position: the outer product of its gradient. It comes here from a pass of its own."""
    given = case(module, obs)
    by_outputs = jax.tree.map(lambda x: normal(*x.shape), jax.eval_shape(given.network, given.params, obs))
    grads = sample_gradients(given, by_outputs)
    checked = 0
    for layer, (inputs, outputs) in zip(given.layers, batch_factors(given, by_outputs)):
        if layer.positions == 1:
            gradient = flat(of_layer(grads, layer.path), lead=1)[0]
            block = np.kron(inputs[0], outputs[0])
            np.testing.assert_allclose(block, np.outer(gradient, gradient), rtol=1e-3, atol=1e-4)
            checked += 1
    assert checked == len(given.layers) - isinstance(module, Picture)


def test_wide_factors_keep_the_blocks_of_their_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    given, by_outputs = case(Linear(), normal(7, 9)), normal(7, 3)
    whole = batch_factors(given, by_outputs)
    monkeypatch.setattr(kfac, "WIDEST", 4)
    monkeypatch.setattr(kfac, "BLOCK", 4)
    assert [x.inputs.shape for x in kfac.init_curvature(given.layers).factors] == [(3, 4, 4), (1, 4, 4)]
    for layer, split, full in zip(given.layers, batch_factors(given, by_outputs), whole):
        for width, blocks, matrix in zip((layer.fan_in + 1, layer.fan_out), split, full):
            near = np.arange(width)[:, None] // 4 == np.arange(width) // 4
            np.testing.assert_allclose(dense(blocks, width), np.where(near, matrix[0], 0), rtol=1e-4, atol=1e-6)


# -- the natural gradient -----------------------------------------------------------------------------------------


def curvature_of(layers: tuple[kfac.Layer, ...], batch: tuple[kfac.Factors, ...], damping: float) -> kfac.Curvature:
    """The curvature after one batch."""
    update = jax.jit(kfac.update_curvature, static_argnums=(0, 4))
    return update(layers, kfac.init_curvature(layers), batch, jnp.int32(0), 1, 0.99, damping)


def crossed(number: int, features: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations [M, features] and derivatives by outputs [M, outputs], each of one with each of the other.

    The second moment of the derivatives is the identity. Inputs and derivatives are then independent, and K-FAC's
    only approximation is exact.
    """
    by_outputs = np.sqrt(outputs) * np.concatenate([np.eye(outputs), -np.eye(outputs)]).astype(np.float32)
    obs = normal(number, features)
    return np.repeat(obs, len(by_outputs), axis=0), np.tile(by_outputs, (number, 1))


def test_natural_gradient_is_that_of_the_exact_fisher_matrix() -> None:
    """Its block of each layer, from the gradients of single samples. The step's Fisher norm is the KL divergence."""
    obs, by_outputs = crossed(12, 6, 3)
    given = case(Linear(), obs)
    grads = jax.tree.map(lambda x: normal(*x.shape), given.params)
    curvature = curvature_of(given.layers, batch_factors(given, by_outputs), 1e-10)
    natural = kfac.precondition(given.layers, curvature, grads, 1e-10)
    singles = sample_gradients(given, by_outputs)
    for layer in given.layers:
        rows = flat(of_layer(singles, layer.path), lead=1).astype(np.float64)
        fisher = rows.T @ rows / len(rows)
        expected = np.linalg.solve(fisher, flat(of_layer(grads, layer.path)))
        np.testing.assert_allclose(flat(of_layer(natural, layer.path)), expected, rtol=1e-2, atol=1e-2)

    # A step of the last layer alone, cut by the trust region: a Gaussian's KL divergence is half the squared distance.
    last = {"params": natural["params"] | {"Dense_0": jax.tree.map(jnp.zeros_like, natural["params"]["Dense_0"])}}
    scale = kfac.trust_region_scale(last, grads, 0.3, 0.02)
    assert scale < 0.5
    moved = jax.tree.map(lambda p, d: p - 0.3 * scale * d, given.params, last)
    change = np.asarray(given.network(moved, obs)) - np.asarray(given.network(given.params, obs))
    np.testing.assert_allclose(0.5 * np.mean(np.sum(change**2, axis=1)), 0.02 / 2, rtol=1e-2)


@pytest.mark.parametrize("widest", [640, 4], ids=["whole", "blocks"])
def test_damping_is_split_between_the_factors(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kfac, "WIDEST", widest)
    monkeypatch.setattr(kfac, "BLOCK", 4)
    given, by_outputs, damping = case(Linear(), normal(20, 9)), normal(20, 3), 0.05
    batch = batch_factors(given, by_outputs)
    curvature = curvature_of(given.layers, batch, damping)
    grads = jax.tree.map(lambda x: normal(*x.shape), given.params)
    natural = kfac.precondition(given.layers, curvature, grads, damping)
    for layer, factors in zip(given.layers, batch):
        a, g = dense(factors.inputs, layer.fan_in + 1), dense(factors.outputs, layer.fan_out)
        ratio = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        a += ratio * np.sqrt(damping) * np.eye(len(a))
        g += np.sqrt(damping) / ratio * np.eye(len(g))
        expected = np.linalg.solve(np.kron(a, g), flat(of_layer(grads, layer.path)))
        np.testing.assert_allclose(flat(of_layer(natural, layer.path)), expected, rtol=1e-3, atol=1e-3)


def test_a_gaussians_spread_has_its_exact_fisher_information() -> None:
    """Each component's is the mean square of the derivative of the log density by it: 2."""
    noise = np.random.default_rng(1).normal(size=400_000)
    assert np.mean((noise**2 - 1) ** 2) == pytest.approx(kfac.EXACT["log_std"], rel=0.02)
    grads = {"params": {"policy_head": {"log_std": jnp.array([1.0, -4.0])}}}
    natural = kfac.precondition((), kfac.Curvature((), ()), grads, 0.5)
    np.testing.assert_allclose(natural["params"]["policy_head"]["log_std"], [0.4, -1.6], rtol=1e-6)


def test_a_step_within_the_trust_region_is_left_alone() -> None:
    direction, grads = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([0.5, 0.25])}  # their product is 1
    assert kfac.trust_region_scale(direction, grads, 0.1, 0.01) == pytest.approx(1.0)
    assert kfac.trust_region_scale(direction, grads, 0.1, 0.02) == 1.0
    assert kfac.trust_region_scale(direction, grads, 0.1, 0.0025) == pytest.approx(0.5)
    assert kfac.trust_region_scale(direction, {"a": jnp.zeros(2)}, 0.1, 0.01) == 1.0


# -- over time ----------------------------------------------------------------------------------------------------


def test_factors_are_averages_that_forget_and_inverses_wait_until_due() -> None:
    layers = (kfac.Layer(("Dense_0",), (2,), (1,)),)
    batches = [kfac.Factors(positive_definite(1, 3), positive_definite(1, 1)) for _ in range(6)]
    update = jax.jit(kfac.update_curvature, static_argnums=(0, 4))
    curvature, inverted = kfac.init_curvature(layers), []
    for iteration, batch in enumerate(batches):
        curvature = update(layers, curvature, (batch,), jnp.int32(iteration), 3, 0.75, 0.01)
        inverted.append(np.asarray(curvature.inverses[0].inputs))
    for i, got in enumerate(curvature.factors[0]):
        parts = [batch[i] for batch in batches]
        expected = sum(parts[:4]) / 4  # of four alike; older ones lose a quarter each time from there
        for part in parts[4:]:
            expected = 0.75 * expected + 0.25 * part
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(inverted)]
    assert changed == [False, False, True, False, False]


def test_runs_that_are_vmapped_are_single_runs() -> None:
    layers = tuple(kfac.Layer((f"Dense_{n}",), (16,), (16,)) for n in range(3))
    batch = tuple(kfac.Factors(positive_definite(8, 1, 17), positive_definite(8, 1, 16)) for _ in layers)
    empty = kfac.init_curvature(layers)

    def run(batch: Any) -> kfac.Curvature:
        return kfac.update_curvature(layers, empty, batch, jnp.int32(0), 1, 0.99, 0.01)

    together = jax.jit(jax.vmap(run))(batch)
    alone = jax.jit(run)
    one_by_one = [alone(jax.tree.map(operator.itemgetter(k), batch)) for k in range(8)]
    expected = jax.tree.map(lambda *runs: np.stack(runs), *one_by_one)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), together, expected)


def test_the_memory_of_pictures_is_told() -> None:
    """224 x 224: the dense layer's 36,865 inputs would take 5.1 GiB as one matrix, and takes 9 MiB as blocks."""
    network = ActorCritic(3, True, 4, 0)
    obs = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    layers = kfac.layers_of(network.apply, jax.eval_shape(network.init, jax.random.key(0), obs), obs)
    curvature = jax.eval_shape(lambda: kfac.init_curvature(layers))
    assert curvature.factors[3].inputs.shape == (577, 64, 64)
    stored = sum(4 * x.size for x in jax.tree.leaves(curvature))
    assert stored == pytest.approx(29 * 2**20, rel=0.01)
    patch_numbers = 55 * 55 * 193
    assert kfac.needed_bytes(layers, 80) > stored + 4 * 80 * patch_numbers
