"""The natural gradient's parts against dense linear algebra: Fisher matrix, conjugate gradients, line search."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from agents.common.distributions import Categorical, DiagGaussian, Distribution, StateDependentGaussian
from agents.common.natural import conjugate_gradient, fisher_product, line_search, scaled_step

OBS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


KINDS = ["discrete", "continuous", "state-dependent"]


def network(kind: str) -> tuple[Any, dict]:
    """A policy with a hidden layer, (params, obs [..., 3]) -> distribution, and parameters."""
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {"first": (3, 4), "last": (4, 3 if kind == "discrete" else 2)}
    shapes |= {"discrete": {}, "continuous": {"log_std": (2,)}, "state-dependent": {"log_std": (4, 2)}}[kind]
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def policy(p: dict, obs: np.ndarray) -> Distribution:
        features = jnp.tanh(obs @ p["first"])
        if kind == "discrete":
            return Categorical(features @ p["last"])
        if kind == "continuous":
            return DiagGaussian(features @ p["last"], p["log_std"])
        return StateDependentGaussian(features @ p["last"], p["log_std"], jax.lax.stop_gradient(features))

    return policy, params


def outcomes(pi: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """Actions [A, ...] of one distribution with weights [A] under which the expectation of the Fisher matrix is exact.

    A Gaussian's score is quadratic in the action and its outer product quartic: five Gauss-Hermite nodes are exact.
    """
    if isinstance(pi, Categorical):
        return np.arange(3), np.asarray(pi.probabilities())
    if isinstance(pi, StateDependentGaussian):
        pi = pi.gaussian()
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    grid = np.array(list(itertools.product(nodes, repeat=2)))
    weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=2)), axis=1)
    return (np.asarray(pi.mean) + np.exp(np.asarray(pi.log_std)) * grid).astype(np.float32), weight


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_product_is_that_of_the_matrix_of_score_products(kind: str) -> None:
    """F = mean over samples of E_a [score scoreᵀ], entry by entry, plus the damping."""
    policy, params = network(kind)
    flat, unravel = ravel_pytree(params)
    score = jax.jit(jax.vmap(jax.grad(lambda p, o, a: policy(unravel(p), o).log_prob(a)), (None, None, 0)))
    matrix = np.zeros((flat.size, flat.size))
    for obs in OBS:
        actions, weights = outcomes(policy(params, obs))
        gradients = np.asarray(score(flat, obs, actions), np.float64)
        matrix += np.einsum("a,ai,aj->ij", weights, gradients, gradients) / len(OBS)

    @jax.jit
    def products(vectors: jax.Array, damping: jax.Array) -> jax.Array:
        product = fisher_product(lambda p: policy(p, OBS), params, damping)
        return jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(vectors)

    assert np.linalg.norm(matrix) > 0.5
    for damping in (0.0, 0.3):
        got = products(jnp.eye(flat.size), damping)
        np.testing.assert_allclose(got, matrix + damping * np.eye(flat.size), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_the_expected_difference_of_log_probabilities(kind: str) -> None:
    policy, params = network(kind)
    other = jax.tree.map(lambda x: 2.0 * x + 0.3, params)
    for obs in OBS:
        pi, qi = policy(params, obs), policy(other, obs)
        actions, weights = outcomes(pi)  # exact here too: the logarithm of a ratio of Gaussians is quadratic
        expected = np.sum(weights * np.asarray(pi.log_prob(actions) - qi.log_prob(actions)))
        np.testing.assert_allclose(pi.kl(qi), expected, rtol=1e-4)
        assert pi.kl(qi) > 1e-3 and abs(pi.kl(pi)) < 1e-6


def system(seed: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric positive definite matrix and a right-hand side."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.5 * np.eye(size), rng.normal(size=size)


@jax.jit
def solve(matrix: jax.Array, target: jax.Array) -> jax.Array:
    """Twelve iterations, with a vector that is a tree of two parts, for many systems at once [B, ...]."""

    def one(matrix: jax.Array, target: jax.Array) -> jax.Array:
        def product(tree: dict) -> dict:
            image = matrix @ jnp.concatenate([tree["a"], tree["b"].ravel()])
            return {"a": image[:2], "b": image[2:].reshape(2, 2)}

        x = conjugate_gradient(product, {"a": target[:2], "b": target[2:].reshape(2, 2)}, 12)
        return jnp.concatenate([x["a"], x["b"].ravel()])

    return jax.vmap(one)(matrix, target)


def test_conjugate_gradients_solve_the_system_and_stop_there() -> None:
    """Six unknowns are exact after six iterations; the other six divide by nothing that is not there."""
    systems = [system(seed) for seed in range(3)]
    matrices, targets = np.stack([m for m, _ in systems]), np.stack([t for _, t in systems])
    targets[2] = 0.0
    got = solve(jnp.asarray(matrices, jnp.float32), jnp.asarray(targets, jnp.float32))
    expected = np.linalg.solve(matrices, targets[..., None])[..., 0]
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert not np.asarray(got[2]).any() and np.abs(expected[:2]).max() > 0.5


def test_few_iterations_are_those_of_the_textbook() -> None:
    matrix, target = system(4)
    x, residual = np.zeros(6), target.copy()
    direction = residual.copy()
    for count in range(1, 4):
        length = residual @ residual / (direction @ matrix @ direction)
        x = x + length * direction
        after = residual - length * matrix @ direction
        direction, residual = after + (after @ after) / (residual @ residual) * direction, after
        got = conjugate_gradient(
            lambda v: jnp.asarray(matrix, jnp.float32) @ v, jnp.asarray(target, jnp.float32), count
        )
        np.testing.assert_allclose(got, x, rtol=1e-3, atol=1e-5)


def test_the_full_step_is_at_the_limit_of_the_quadratic_model() -> None:
    matrix, direction = system(5)
    step = scaled_step(lambda v: jnp.asarray(matrix, jnp.float32) @ v, jnp.asarray(direction, jnp.float32), 0.03)
    np.testing.assert_allclose(0.5 * np.asarray(step) @ matrix @ np.asarray(step), 0.03, rtol=1e-4)
    assert np.asarray(step) @ direction > 0
    assert not np.asarray(scaled_step(lambda v: v, jnp.zeros(3), 0.03)).any()


# Slope and curvature of the objective at 0 along a step of 1, divergence of the full step, expected fraction.
SEARCHES = {
    "improves": (1.0, 0.0, 0.01, 1.0),
    "within the slack": (1.0, 0.0, 0.0149, 1.0),
    "too far": (1.0, 0.0, 0.0151, 0.5),
    "much too far": (1.0, 0.0, 0.2, 0.25),
    "overshoots": (1.0, -3.0, 0.001, 0.25),
    "falls": (-1.0, 0.0, 0.001, 0.0),
    "too far for all ten": (1.0, 0.0, 1e5, 0.0),
    "nan objective": (np.nan, 0.0, 0.001, 0.0),
    "nan divergence": (1.0, 0.0, np.nan, 0.0),
    "no step": (0.0, 0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("together", [False, True], ids=["single", "vmapped"])
def test_line_search_takes_the_longest_good_step_or_none(together: bool) -> None:
    def search(slope: jax.Array, curvature: jax.Array, divergence: jax.Array) -> tuple:
        def measure(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = x - 2.0
            rise = jnp.where(moved == 0, 0.0, slope * moved + curvature * moved**2)
            return 7.0 + rise, divergence * moved**2

        return line_search(measure, jnp.float32(2.0), jnp.float32(1.0), 0.01)

    table = np.array(list(SEARCHES.values()), np.float32)
    columns = table[:, 0], table[:, 1], table[:, 2]
    if together:
        x, found = jax.jit(jax.vmap(search))(*columns)
    else:
        program = jax.jit(search)
        x, found = jax.tree.map(lambda *rows: np.stack(rows), *(program(*row) for row in zip(*columns)))
    fraction = table[:, 3]
    np.testing.assert_array_equal(found.fraction, fraction, err_msg=str(list(SEARCHES)))
    np.testing.assert_array_equal(x, 2.0 + fraction)
    taken = fraction > 0
    gain = np.where(taken, table[:, 0] * fraction + table[:, 1] * fraction**2, 0.0)
    np.testing.assert_allclose(found.gain, gain, atol=1e-6)
    np.testing.assert_allclose(found.kl, np.where(taken, table[:, 2] * fraction**2, 0.0), atol=1e-6)


def test_a_step_that_is_not_finite_leaves_the_parameters_alone() -> None:
    params = {"a": jnp.ones(2), "b": jnp.zeros(1)}
    step = {"a": jnp.array([1.0, jnp.nan]), "b": jnp.array([jnp.inf])}
    after, found = line_search(lambda p: (p["a"].sum() + p["b"].sum(), jnp.float32(0.0)), params, step, 0.01)
    assert found.fraction == 0.0
    jax.tree.map(np.testing.assert_array_equal, after, params)
