"""K-FAC: natural gradients from Kronecker-factored Fisher blocks (Martens and Grosse 2015, arXiv 1503.05671).

The Fisher matrix of a layer's kernel and bias is taken as A (x) G: A, the second moment of the layer's inputs with a 1
appended for the bias; G, that of the derivatives of the log likelihood by the layer's outputs. For a convolution the
inputs are the patches under the kernel (Grosse and Martens 2016, arXiv 1602.01407). Its inverse is then that of two
small matrices.

Inputs are seen by intercepting the calls of dense and convolutional layers; the derivatives by their outputs are those
by a zero that is added to each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from networks.torsos import Conv, patches

PRECISION = jax.lax.Precision.HIGHEST  # accelerators round float32 products to about three digits otherwise
WIDEST = 640  # a wider factor is block-diagonal; all of the Nature CNN are below, but for its dense layer's inputs
BLOCK = 64  # size of the blocks: the channels of one position of the Nature CNN
SMALL = 1e-12  # what a factor's mean eigenvalue counts at least

# The exact Fisher information of parameters outside of layers, by name: a Gaussian's has no other entries for them.
EXACT = {"log_std": 2.0}


@dataclass(frozen=True)
class Layer:
    """A dense or convolutional layer, for one sample.

    Attributes:
        path: Names that lead to its parameters.
        inputs: Shape of what it is given.
        outputs: Shape of what it returns.
        side, stride: Of a convolution's kernel; 0 for a dense layer.
    """

    path: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    side: int = 0
    stride: int = 0

    @property
    def positions(self) -> int:
        """Number of places where its kernel is applied."""
        return math.prod(self.outputs[:-1])

    @property
    def fan_in(self) -> int:
        """Rows of its kernel as a matrix; a factor of one more for the bias."""
        return self.inputs[-1] * max(1, self.side**2)

    @property
    def fan_out(self) -> int:
        """Columns of its kernel."""
        return self.outputs[-1]


class Factors(NamedTuple):
    """Two matrices of a layer, of its inputs and of its outputs, or their inverses; as diagonal blocks [b, n, n]."""

    inputs: jax.Array
    outputs: jax.Array


class Curvature(NamedTuple):
    """What is known of the Fisher matrix: running factors of each layer, and inverses of the damped ones."""

    factors: tuple[Factors, ...]
    inverses: tuple[Factors, ...]


class Tape(NamedTuple):
    """A forward pass that can be taken back.

    Attributes:
        outputs: What the network returned.
        inputs: What each layer was given, leaves [M, *layer.inputs].
        pullback: (derivatives by outputs) -> (derivatives by the parameters, by each layer's outputs).
    """

    outputs: Any
    inputs: tuple[jax.Array, ...]
    pullback: Callable[[Any], tuple[Any, tuple[jax.Array, ...]]]


def layers_of(network: Callable[[Any, jax.Array], Any], params: Any, obs: Any) -> tuple[Layer, ...]:
    """The layers of a network in order of their calls; nothing is computed.

    Args:
        network: (params, obs [M, ...]) -> outputs.
        params: Its parameters, or their shapes.
        obs: A batch of one observation, or its shape.

    Raises:
        ValueError: A layer is called twice, or a parameter belongs to no layer and its Fisher information is not known.
    """
    found: list[Layer] = []

    def look(layer: nn.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        side, stride = (layer.side, layer.stride) if isinstance(layer, Conv) else (0, 0)
        found.append(Layer(layer.path, x.shape[1:], y.shape[1:], side, stride))
        return y

    jax.eval_shape(lambda p, o: _intercepted(network, look)(p, o), params, obs)
    paths = [layer.path for layer in found]
    if len(set(paths)) < len(paths):
        raise ValueError(f"K-FAC takes layers that are called once, not {paths}")
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        names = tuple(entry.key for entry in path)
        if names[1:-1] not in paths and names[-1] not in EXACT:
            raise ValueError(f"K-FAC knows no Fisher information of {'/'.join(names)}")
    return tuple(found)


def _intercepted(network: Callable[..., Any], look: Callable[..., jax.Array]) -> Callable[..., Any]:
    """A network whose dense and convolutional layers return look(layer, inputs, outputs)."""

    def interceptor(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        layer = isinstance(context.module, (nn.Dense, Conv)) and context.method_name == "__call__"
        return look(context.module, args[0], result) if layer else result

    def run(*args: Any) -> Any:
        with nn.intercept_methods(interceptor):
            return network(*args)

    return run


def forward(layers: tuple[Layer, ...], network: Callable[[Any, jax.Array], Any], params: Any, obs: jax.Array) -> Tape:
    """Run a network on observations [M, ...] so that gradients of losses and factors can be had of one pass."""

    def perturbed(params: Any, zeros: tuple[jax.Array, ...]) -> tuple[Any, tuple[jax.Array, ...]]:
        inputs: list[jax.Array] = []

        def look(layer: nn.Module, x: jax.Array, y: jax.Array) -> jax.Array:
            inputs.append(x)
            return y + zeros[len(inputs) - 1]

        return _intercepted(network, look)(params, obs), tuple(inputs)

    zeros = tuple(jnp.zeros((len(obs), *layer.outputs)) for layer in layers)
    outputs, pullback, inputs = jax.vjp(perturbed, params, zeros, has_aux=True)
    return Tape(outputs, inputs, pullback)


# -- factors ------------------------------------------------------------------------------------------------------


def _moment(rows: jax.Array, number: int) -> jax.Array:
    """Sum of the outer products of rows [R, n], over `number`: blocks [b, n', n'] of its diagonal."""
    blocks, size = _blocks(rows.shape[1])
    rows = jnp.pad(rows, ((0, 0), (0, blocks * size - rows.shape[1]))).reshape(-1, blocks, size)
    return jnp.einsum("rbi,rbj->bij", rows, rows, precision=PRECISION) / number


def _blocks(width: int) -> tuple[int, int]:
    """Number and size of the blocks of a factor; what the last is too large by is zero."""
    return (1, width) if width <= WIDEST else (-(-width // BLOCK), BLOCK)


def statistics(layer: Layer, inputs: jax.Array, gradients: jax.Array) -> Factors:
    """A layer's factors of one batch.

    With T positions: A = E[sum_t a_t a_t^T] and G = E[mean_t g_t g_t^T]; T is 1 for a dense layer.

    Args:
        layer: The layer.
        inputs: What it was given [M, *layer.inputs].
        gradients: Derivatives of each sample's log likelihood by its outputs [M, *layer.outputs].
    """
    number = len(inputs)
    rows = patches(inputs, layer.side, layer.stride) if layer.side else inputs
    rows = rows.reshape(-1, layer.fan_in)
    rows = jnp.concatenate([rows, jnp.ones((len(rows), 1))], axis=1)
    return Factors(_moment(rows, number), _moment(gradients.reshape(-1, layer.fan_out), number * layer.positions))


def init_curvature(layers: tuple[Layer, ...]) -> Curvature:
    """Factors of zero, to be replaced by the first batch's."""

    def zeros(width: int) -> jax.Array:
        blocks, size = _blocks(width)
        return jnp.zeros((blocks, size, size))

    empty = tuple(Factors(zeros(layer.fan_in + 1), zeros(layer.fan_out)) for layer in layers)
    return Curvature(empty, jax.tree.map(jnp.copy, empty))


def update_curvature(
    layers: tuple[Layer, ...],
    curvature: Curvature,
    batch: tuple[Factors, ...],
    iteration: jax.Array,
    interval: int,
    decay: ArrayLike,
    damping: ArrayLike,
) -> Curvature:
    """Take a batch's factors into the running ones, and invert them where it is due.

    Args:
        layers: The network's layers.
        curvature: What is known so far.
        batch: `statistics` of each layer.
        iteration: Number of this batch, from 0; not vmapped, so that inverses are computed only when they are due.
        interval: Batches from one inversion to the next.
        decay: Weight of the old factors; batches count alike until 1 / (1 - decay) have been seen.
        damping: Tikhonov damping [].
    """
    weight = jnp.maximum(1.0 / (iteration + 1.0), 1.0 - decay)
    factors = jax.tree.map(lambda old, new: old + weight * (new - old), curvature.factors, batch)
    due = iteration % interval == 0
    inverses = jax.lax.cond(due, lambda f: _inverses(layers, f, damping), lambda _: curvature.inverses, factors)
    return Curvature(factors, inverses)


def _inverses(layers: tuple[Layer, ...], factors: tuple[Factors, ...], damping: ArrayLike) -> tuple[Factors, ...]:
    """Inverses of the damped factors.

    Factored Tikhonov damping (Martens and Grosse, section 6.3): A + pi sqrt(damping) I and G + sqrt(damping) / pi I,
    where pi^2 is the ratio of the mean eigenvalues of A and G. All matrices of one size are inverted together.
    """
    damped: list[jax.Array] = []
    for layer, (inputs, outputs) in zip(layers, factors, strict=True):
        mean_in = jnp.maximum(jnp.trace(inputs, axis1=1, axis2=2).sum() / (layer.fan_in + 1), SMALL)
        mean_out = jnp.maximum(jnp.trace(outputs, axis1=1, axis2=2).sum() / layer.fan_out, SMALL)
        ratio = jnp.sqrt(mean_in / mean_out)
        for matrix, weight in ((inputs, ratio), (outputs, 1 / ratio)):
            damped.append(matrix + weight * jnp.sqrt(damping) * jnp.eye(matrix.shape[-1]))
    inverted: list[Any] = [None] * len(damped)
    for size in sorted({matrix.shape[-1] for matrix in damped}):
        places = [i for i, matrix in enumerate(damped) if matrix.shape[-1] == size]
        ends = [sum(len(damped[i]) for i in places[: n + 1]) for n in range(len(places) - 1)]
        together = jax.vmap(inverse)(jnp.concatenate([damped[i] for i in places]))
        for i, part in zip(places, jnp.split(together, ends), strict=True):
            inverted[i] = part
    return tuple(Factors(*inverted[i : i + 2]) for i in range(0, len(inverted), 2))


def inverse(matrix: jax.Array) -> jax.Array:
    """Inverse of a symmetric positive definite matrix [n, n] by Gauss-Jordan elimination, which needs no pivoting then.

    It is plain XLA on purpose: LAPACK calls batched by vmap deadlock jaxlib's CPU thread pool on a machine with few
    cores (jaxlib 0.10.2), and seeds are vmapped here. Large matrices are eliminated in blocks, by matrix products.
    """
    size = len(matrix)
    if size <= 3 * BLOCK // 2:
        return _eliminate(matrix, 1, lambda pivot: 1 / pivot)
    rest = -size % (BLOCK // 2)
    padded = jnp.pad(matrix, (0, rest)) + jnp.diag(jnp.arange(size + rest) >= size)
    return _eliminate(padded, BLOCK // 2, inverse)[:size, :size]


def _eliminate(matrix: jax.Array, block: int, invert: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Gauss-Jordan elimination of `block` rows at a time, whose pivots [block, block] are inverted by `invert`."""
    size = len(matrix)

    def eliminate(k: jax.Array, m: jax.Array) -> jax.Array:
        start = k * block
        unit = (jnp.arange(size)[:, None] == start + jnp.arange(block)).astype(m.dtype)
        columns = jax.lax.dynamic_slice(m, (0, start), (size, block))
        pivot = jax.lax.dynamic_slice(columns, (start, 0), (block, block))
        m = jax.lax.dynamic_update_slice(m, unit, (0, start))
        rows = jnp.matmul(invert(pivot), jax.lax.dynamic_slice(m, (start, 0), (block, size)), precision=PRECISION)
        return m - jnp.matmul(columns - unit, rows, precision=PRECISION)

    return cast(jax.Array, jax.lax.fori_loop(0, size // block, eliminate, matrix))


# -- steps --------------------------------------------------------------------------------------------------------


def precondition(layers: tuple[Layer, ...], curvature: Curvature, grads: Any, damping: ArrayLike) -> Any:
    """Natural gradient: the inverse of the damped Fisher matrix times a gradient, a tree like the parameters."""
    known = {layer.path: (layer, inverses) for layer, inverses in zip(layers, curvature.inverses, strict=True)}

    def walk(path: tuple[str, ...], tree: Any) -> Any:
        if path in known:
            return _precondition_layer(*known[path], tree)
        if isinstance(tree, dict):
            return {name: walk((*path, name), branch) for name, branch in tree.items()}
        return tree / (EXACT[path[-1]] + damping)

    return {"params": walk((), grads["params"])}


def _precondition_layer(layer: Layer, inverses: Factors, grads: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A^-1 [kernel; bias] G^-1."""
    matrix = jnp.concatenate([grads["kernel"].reshape(layer.fan_in, layer.fan_out), grads["bias"][None]])
    (a, i, _), (g, o, _) = (factor.shape for factor in inverses)
    matrix = jnp.pad(matrix, [(0, a * i - layer.fan_in - 1), (0, g * o - layer.fan_out)]).reshape(a, i, g, o)
    matrix = jnp.einsum("aij,ajgo->aigo", inverses.inputs, matrix, precision=PRECISION)
    matrix = jnp.einsum("aigp,gpo->aigo", matrix, inverses.outputs, precision=PRECISION)
    matrix = matrix.reshape(a * i, g * o)[: layer.fan_in + 1, : layer.fan_out]
    return {"kernel": matrix[:-1].reshape(grads["kernel"].shape), "bias": matrix[-1]}


def trust_region_scale(direction: Any, grads: Any, rate: ArrayLike, clip: ArrayLike) -> jax.Array:
    """Factor [] by which `rate` times a natural gradient must shrink for its squared Fisher norm not to exceed `clip`.

    The squared norm of the step, rate^2 direction^T F direction, is rate^2 direction^T grads: twice the KL divergence
    that the step causes, to second order (Wu et al. 2017, section 3.2).
    """
    norm = sum(jax.tree.leaves(jax.tree.map(lambda d, g: jnp.sum(d * g), direction, grads)), jnp.float32(0.0))
    return jnp.minimum(1.0, jnp.sqrt(clip / jnp.maximum(rate**2 * norm, SMALL)))


def needed_bytes(layers: tuple[Layer, ...], samples: int) -> int:
    """Memory of the curvature and of one batch's largest intermediate results, in float32."""

    def numbers(width: int) -> int:
        blocks, size = _blocks(width)
        return blocks * size**2

    stored = 2 * sum(numbers(layer.fan_in + 1) + numbers(layer.fan_out) for layer in layers)
    # The patches of one layer at a time; outputs and the derivatives by them of all.
    rows = max(layer.positions * (layer.fan_in + 1) for layer in layers)
    outputs = 2 * sum(layer.positions * layer.fan_out for layer in layers)
    return 4 * (stored + samples * (rows + outputs))
