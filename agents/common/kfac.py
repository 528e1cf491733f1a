"""K-FAC: natural gradients from Kronecker-factored Fisher blocks (Martens and Grosse 2015, arXiv 1503.05671).

The Fisher matrix of a layer's kernel and bias is taken as A (x) G: A, the second moment of the layer's inputs with a 1
appended for the bias; G, that of the derivatives of the log likelihood by the layer's outputs. For a convolution the
inputs are the patches under the kernel (Grosse and Martens 2016, arXiv 1602.01407). Its inverse is then that of two
small matrices. Of a gain and a shift for each component, as after a layer normalisation, each component's Fisher matrix
of 2 x 2 is taken as it is.

A layer that is applied at every time step of a recurrent network is treated as if the steps were independent samples,
the simplest approximation of Martens, Ba and Johnson 2018, "Kronecker-factored curvature approximations for recurrent
neural networks": derivatives go back through time, the correlation between steps is neglected.

Calls of layers are intercepted: their inputs are sown into flax's collection "intermediates", and the derivatives by
their outputs are those by the zeros that the collection "perturbations" adds to them.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from networks.recurrent import Scale
from networks.torsos import Conv, patches

PRECISION = jax.lax.Precision.HIGHEST  # accelerators round float32 products to about three digits otherwise
WIDEST = 640  # a wider factor is block-diagonal; all of the Nature CNN are below, but for its dense layer's inputs
BLOCK = 64  # size of the blocks: the channels of one position of the Nature CNN
SMALL = 1e-12  # what a factor's mean eigenvalue counts at least

LAYERS = (nn.Dense, Conv, Scale)  # what is known of
SEEN, ADDED = "inputs", "outputs"  # names of a layer's variables in the two collections

# The exact Fisher information of parameters outside of layers, by name: a Gaussian's has no other entries for them.
EXACT = {"log_std": 2.0}


@dataclass(frozen=True)
class Layer:
    """A layer, for one sample.

    Attributes:
        path: Names that lead to its parameters.
        inputs: Shape of what it is given.
        outputs: Shape of what it returns.
        side, stride: Of a convolution's kernel; 0 for another layer.
        bias: Whether it has a bias.
        elementwise: Whether it is a gain and a shift for each component.
    """

    path: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    side: int = 0
    stride: int = 0
    bias: bool = True
    elementwise: bool = False

    @property
    def positions(self) -> int:
        """Number of places where its kernel is applied."""
        return math.prod(self.outputs[:-1])

    @property
    def fan_in(self) -> int:
        """Rows of its kernel as a matrix."""
        return self.inputs[-1] * max(1, self.side**2)

    @property
    def rows(self) -> int:
        """Rows of its kernel and bias as one matrix."""
        return self.fan_in + self.bias

    @property
    def fan_out(self) -> int:
        """Columns of its kernel."""
        return self.outputs[-1]

    @property
    def blocks(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Number and size of the diagonal blocks of its two factors."""
        if self.elementwise:
            return (self.fan_in, 2), (1, 1)
        return _blocks(self.rows), _blocks(self.fan_out)


class Factors(NamedTuple):
    """Two matrices of a layer, of its inputs and of its outputs, or their inverses; as diagonal blocks [b, n, n].

    Of an elementwise layer the first holds the Fisher matrix of each component's gain and shift, the second is 1.
    """

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
        inputs: What each layer was given, leaves [..., *layer.inputs].
        pullback: (derivatives by outputs) -> (derivatives by the parameters, by each layer's outputs).
    """

    outputs: Any
    inputs: tuple[jax.Array, ...]
    pullback: Callable[[Any], tuple[Any, tuple[jax.Array, ...]]]


def layers_of(network: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Layer, ...]:
    """The layers of a network in order of their calls; nothing is computed.

    Args:
        network: A flax module's `apply`: (variables, *inputs, mutable) -> outputs.
        params: Its parameters, or their shapes.
        inputs: A batch of one observation and what else it is given, or their shapes.

    Raises:
        ValueError: A layer is called twice, or a parameter belongs to no layer and its Fisher information is not known.
    """
    found: dict[tuple[str, ...], Layer] = {}

    def look(layer: nn.Module, x: jax.Array, y: jax.Array) -> None:
        side, stride = (layer.side, layer.stride) if isinstance(layer, Conv) else (0, 0)
        elementwise, single = isinstance(layer, Scale), 3 if side else 1
        bias = getattr(layer, "use_bias", True)
        known = Layer(layer.path, x.shape[-single:], y.shape[-single:], side, stride, bias, elementwise)
        found.setdefault(layer.path, known)

    seen = jax.eval_shape(_intercepted(network, look), params, *inputs)[1]["intermediates"]
    paths = list(found)
    for path in paths:
        if len(_at(seen, path)[SEEN]) > 1:
            raise ValueError(f"K-FAC takes layers that are called once, not {'/'.join(path)}")
    for leaf, _ in jax.tree_util.tree_leaves_with_path(params):
        names = tuple(entry.key for entry in leaf)
        if names[1:-1] not in found and names[-1] not in EXACT:
            raise ValueError(f"K-FAC knows no Fisher information of {'/'.join(names)}")
    return tuple(found.values())


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """A branch of nested dictionaries."""
    return functools.reduce(operator.getitem, path, tree)


def _intercepted(network: Callable[..., Any], look: Callable[..., None] | None = None) -> Callable[..., Any]:
    """(params, *inputs) -> (outputs, {"intermediates": what layers were given, "perturbations": zeros}).

    Each layer is shown to `look` with what it is given and returns. Where the parameters come with perturbations, they
    are added to what layers return.
    """

    def interceptor(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result, layer = call(*args, **kwargs), context.module
        if not isinstance(layer, LAYERS) or context.method_name != "__call__":
            return result
        if look is not None:
            look(layer, args[0], result)
        layer.sow("intermediates", SEEN, args[0])
        return layer.perturb(ADDED, result)

    def run(variables: Any, *inputs: Any) -> Any:
        collections = ["intermediates"] if "perturbations" in variables else ["intermediates", "perturbations"]
        with nn.intercept_methods(interceptor):
            return network(variables, *inputs, mutable=collections)

    return run


def forward(layers: tuple[Layer, ...], network: Callable[..., Any], params: Any, *inputs: Any) -> Tape:
    """Run a network so that gradients of losses and factors can be had of one pass; see `layers_of`."""
    run = _intercepted(network)

    def perturbed(params: Any, zeros: Any) -> tuple[Any, tuple[jax.Array, ...]]:
        outputs, state = run({**params, "perturbations": zeros}, *inputs)
        return outputs, tuple(_at(state["intermediates"], layer.path)[SEEN][0] for layer in layers)

    shapes = jax.eval_shape(run, params, *inputs)[1]["perturbations"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    outputs, pullback, given = jax.vjp(perturbed, params, zeros, has_aux=True)

    def back(by_outputs: Any) -> tuple[Any, tuple[jax.Array, ...]]:
        grads, by_layers = pullback(by_outputs)
        return grads, tuple(_at(by_layers, layer.path)[ADDED] for layer in layers)

    return Tape(outputs, given, back)


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
        inputs: What it was given [..., *layer.inputs].
        gradients: Derivatives of each sample's log likelihood by its outputs [..., *layer.outputs].
    """
    number = inputs.size // math.prod(layer.inputs)
    rows = patches(inputs, layer.side, layer.stride) if layer.side else inputs
    rows, gradients = rows.reshape(-1, layer.fan_in), gradients.reshape(-1, layer.fan_out)
    if layer.elementwise:
        by_both = jnp.stack([rows * gradients, gradients], axis=-1)
        return Factors(jnp.einsum("rni,rnj->nij", by_both, by_both, precision=PRECISION) / number, jnp.ones((1, 1, 1)))
    if layer.bias:
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1))], axis=1)
    return Factors(_moment(rows, number), _moment(gradients, number * layer.positions))


def init_curvature(layers: tuple[Layer, ...]) -> Curvature:
    """Factors of zero, to be replaced by the first batch's."""
    empty = tuple(Factors(*(jnp.zeros((number, size, size)) for number, size in layer.blocks)) for layer in layers)
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
        widths = (2 * layer.fan_in, 1) if layer.elementwise else (layer.rows, layer.fan_out)
        mean_in, mean_out = (
            jnp.maximum(jnp.trace(blocks, axis1=1, axis2=2).sum() / width, SMALL)
            for blocks, width in zip((inputs, outputs), widths, strict=True)
        )
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
    if layer.elementwise:
        both = jnp.stack([grads["scale"], grads["bias"]], axis=1)
        both = jnp.einsum("nij,nj->ni", inverses.inputs, both, precision=PRECISION) * inverses.outputs[0, 0, 0]
        return {"scale": both[:, 0], "bias": both[:, 1]}
    matrix = grads["kernel"].reshape(layer.fan_in, layer.fan_out)
    if layer.bias:
        matrix = jnp.concatenate([matrix, grads["bias"][None]])
    (a, i, _), (g, o, _) = (factor.shape for factor in inverses)
    matrix = jnp.pad(matrix, [(0, a * i - layer.rows), (0, g * o - layer.fan_out)]).reshape(a, i, g, o)
    matrix = jnp.einsum("aij,ajgo->aigo", inverses.inputs, matrix, precision=PRECISION)
    matrix = jnp.einsum("aigp,gpo->aigo", matrix, inverses.outputs, precision=PRECISION)
    matrix = matrix.reshape(a * i, g * o)[: layer.rows, : layer.fan_out]
    kernel = {"kernel": matrix[: layer.fan_in].reshape(grads["kernel"].shape)}
    return kernel | {"bias": matrix[-1]} if layer.bias else kernel


def trust_region_scale(direction: Any, grads: Any, rate: ArrayLike, clip: ArrayLike) -> jax.Array:
    """Factor [] by which `rate` times a natural gradient must shrink for its squared Fisher norm not to exceed `clip`.

    The squared norm of the step, rate^2 direction^T F direction, is rate^2 direction^T grads: twice the KL divergence
    that the step causes, to second order (Wu et al. 2017, section 3.2).
    """
    norm = sum(jax.tree.leaves(jax.tree.map(lambda d, g: jnp.sum(d * g), direction, grads)), jnp.float32(0.0))
    return jnp.minimum(1.0, jnp.sqrt(clip / jnp.maximum(rate**2 * norm, SMALL)))


def needed_bytes(layers: tuple[Layer, ...], samples: int) -> int:
    """Memory of the curvature and of one batch's largest intermediate results, in float32."""
    stored = 2 * sum(number * size**2 for layer in layers for number, size in layer.blocks)
    # The patches of one layer at a time; outputs and the derivatives by them of all.
    rows = max(layer.positions * layer.rows for layer in layers)
    outputs = 2 * sum(layer.positions * layer.fan_out for layer in layers)
    return 4 * (stored + samples * (rows + outputs))
