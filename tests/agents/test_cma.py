"""The strategy of CMA-ES against a slow NumPy implementation of the tutorial, and against pycma."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.common import cma

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pycma warns of optional parts that are missing
    import cma as pycma
    from cma.sigma_adaptation import CMAAdaptSigmaCSA

N = 10
TARGET = 1e-9


def sphere(x: Any) -> Any:
    return (x**2).sum(-1)


def ellipsoid(x: Any) -> Any:
    return (10.0 ** (6 * np.arange(N) / (N - 1)) * x**2).sum(-1)


def rosenbrock(x: Any) -> Any:
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


class Reference:
    """The tutorial's figure 6 in float64, vector by vector, with eigenvectors and an explicit inverse root."""

    def __init__(self, dimension: int, population: int, sigma: float, separable: bool) -> None:
        self.c = cma.constants(dimension, population, separable)
        self.n, self.sigma, self.generation = dimension, sigma, 0
        self.mean, self.p_sigma, self.p_c = np.zeros(dimension), np.zeros(dimension), np.zeros(dimension)
        self.cov, self.values, self.basis = np.eye(dimension), np.ones(dimension), np.eye(dimension)

    def ask(self, z: np.ndarray) -> np.ndarray:
        """Members x [population, n] from standard normals, which are turned as C^(1/2) turns them."""
        self.y = [self.basis @ (np.sqrt(self.values) * (self.basis.T @ row)) for row in z]
        return np.array([self.mean + self.sigma * y for y in self.y])

    def tell(self, cost: np.ndarray) -> None:
        """One update."""
        c, n = self.c, self.n
        y = [self.y[i] for i in np.argsort(cost, kind="stable")]
        inverse_root = self.basis @ np.diag(self.values**-0.5) @ self.basis.T
        step = sum(w * v for w, v in zip(c.weights, y) if w > 0)
        self.mean = self.mean + self.sigma * step
        push = np.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff)
        self.p_sigma = (1 - c.c_sigma) * self.p_sigma + push * inverse_root @ step
        length, self.generation = np.linalg.norm(self.p_sigma), self.generation + 1
        limit = (1.4 + 2 / (n + 1)) * c.chi_n * np.sqrt(1 - (1 - c.c_sigma) ** (2 * self.generation))
        h = float(length < limit)
        self.p_c = (1 - c.c_c) * self.p_c + h * np.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * step
        new = (1 + c.c_1 * (1 - h) * c.c_c * (2 - c.c_c) - c.c_1 - c.c_mu * sum(c.weights)) * self.cov
        new = new + c.c_1 * np.outer(self.p_c, self.p_c)
        for w, v in zip(c.weights, y):
            if w < 0:
                w = w * n / np.linalg.norm(inverse_root @ v) ** 2
            new = new + c.c_mu * w * np.outer(v, v)
        self.cov = np.diag(np.diag(new)) if c.separable else new
        self.sigma *= np.exp(min(1.0, c.c_sigma / c.d_sigma * (length / c.chi_n - 1)))
        if self.generation % c.gap == 0:
            self.values, self.basis = np.linalg.eigh(self.cov)


@functools.cache
def step_of(dimension: int, population: int, separable: bool, runs: int = 0) -> Callable:
    """One generation, jitted: (mean, strategy, z, number, function) -> (mean, strategy, members, cost)."""
    c = cma.constants(dimension, population, separable)

    def step(mean: jax.Array, strategy: cma.Strategy, z: jax.Array, number: jax.Array) -> tuple:
        samples = cma.ask(c, strategy, z)
        members = mean + strategy.sigma * samples.y
        cost = jnp.sum((members - 1.0) ** 2 * 4.0 ** jnp.arange(dimension), axis=1)
        return *cma.tell(c, strategy, mean, samples, cost, number), members, cost

    return jax.jit(jax.vmap(step, (0, 0, 0, None)) if runs else step)


def start(dimension: int, population: int, separable: bool, sigma: float, dtype: Any) -> tuple:
    """(mean, strategy) at zero."""
    c = cma.constants(dimension, population, separable)
    return jnp.zeros(dimension, dtype), cma.init(c, jnp.asarray(sigma, dtype))


@pytest.mark.parametrize("separable", [False, True], ids=["full", "separable"])
@pytest.mark.parametrize(("dimension", "population"), [(5, 8), (5, 2), (60, 4)])
def test_steps_are_those_of_the_tutorial(dimension: int, population: int, separable: bool) -> None:
    """60 dimensions with 4 members decompose only every few generations."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        mean, strategy = start(dimension, population, separable, 0.3, jnp.float64)
        reference = Reference(dimension, population, 0.3, separable)
        assert (reference.c.gap > 1) == (dimension == 60 and not separable)
        for number in range(30):
            z = rng.normal(size=(population, dimension))
            step = step_of(dimension, population, separable)
            mean, strategy, members, cost = step(mean, strategy, z, np.int32(number))
            np.testing.assert_allclose(members, reference.ask(z), rtol=1e-7, atol=1e-9)
            reference.tell(np.asarray(cost))
            cov = np.diag(strategy.cov) if separable else strategy.cov
            np.testing.assert_allclose(cov, reference.cov, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(mean, reference.mean, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(strategy.sigma, reference.sigma, rtol=1e-7)
            np.testing.assert_allclose(strategy.path_sigma, reference.p_sigma, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(strategy.path_c, reference.p_c, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("separable", [False, True], ids=["full", "separable"])
def test_sixteen_at_once_are_one_by_one(separable: bool) -> None:
    z = np.random.default_rng(0).normal(size=(6, 16, 8, 5)).astype(np.float32)
    one = start(5, 8, separable, 0.3, jnp.float32)
    many = jax.tree.map(lambda x: jnp.tile(x, (16,) + (1,) * x.ndim), one)
    singles = [one] * 16
    for number in range(6):
        many = step_of(5, 8, separable, runs=16)(*many, z[number], np.int32(number))[:2]
        step = step_of(5, 8, separable)
        singles = [step(*state, z[number, k], np.int32(number))[:2] for k, state in enumerate(singles)]
    for k, state in enumerate(singles):
        for got, expected in zip(jax.tree.leaves(many), jax.tree.leaves(state)):
            np.testing.assert_allclose(got[k], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("runs", [0, 16], ids=["single", "vmapped"])
def test_decompositions_are_a_real_branch(runs: int) -> None:
    """A generation that is not vmapped leaves a conditional, and the decompositions of runs are a loop within it."""
    step = step_of(60, 4, False, runs)
    mean, strategy = start(60, 4, False, 0.3, jnp.float32)
    lead = (runs,) if runs else ()
    mean, strategy = jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), (mean, strategy))
    text = step.lower(mean, strategy, jnp.zeros((*lead, 4, 60)), np.int32(0)).as_text()
    assert "stablehlo.case" in text
    solved = [line for line in text.splitlines() if "custom_call" in line and "syevd" in line]
    assert len(solved) == 1 and "16x60x60" not in solved[0]


def test_costs_that_are_not_numbers_lose() -> None:
    c = cma.constants(3, 4)
    mean, strategy = start(3, 4, False, 1.0, jnp.float32)
    samples = cma.ask(c, strategy, jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32))
    expected = cma.tell(c, strategy, mean, samples, jnp.array([9.0, 1.0, 8.0, 2.0]), 0)
    for worst in (jnp.nan, jnp.inf):
        got = cma.tell(c, strategy, mean, samples, jnp.array([worst, 1.0, 8.0, 2.0]), 0)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(a, b)


def test_an_indefinite_covariance_keeps_a_root() -> None:
    """Rounding may push the smallest eigenvalue below zero."""
    cov = jnp.diag(jnp.array([1.0, 1e-3, -1e-9]))
    root = cma._matrix_root(cov)
    np.testing.assert_allclose(root @ root, np.diag([1.0, 1e-3, np.finfo(np.float32).eps]), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("dimension", "population"), [(1, 6), (10, 10), (10, 20), (100, 20), (700, 20), (3, 40)])
def test_constants_are_those_of_pycma(dimension: int, population: int) -> None:
    options = {"popsize": population, "verbose": -9, "AdaptSigma": CMAAdaptSigmaCSA}
    es = pycma.CMAEvolutionStrategy(dimension * [0.0], 1.0, options)
    es.adapt_sigma.initialize(es)
    c, rates = cma.constants(dimension, population), es.sm.parameters(es.sp.weights.mueff, population)
    np.testing.assert_allclose(c.weights, es.sp.weights, rtol=1e-12)
    np.testing.assert_allclose([c.mu_eff, c.c_c], [es.sp.weights.mueff, es.sp.cc], rtol=1e-12)
    np.testing.assert_allclose([c.c_1, c.c_mu], [rates["c1"], rates["cmu"]], rtol=1e-12)
    np.testing.assert_allclose(c.chi_n, es.const.chiN, rtol=1e-12)
    if population <= dimension:  # for larger ones newer versions of pycma limit c_sigma and raise the damping
        np.testing.assert_allclose([c.c_sigma, c.d_sigma], [es.adapt_sigma.cs, es.adapt_sigma.damps], rtol=1e-12)
    assert c.gap == max(1, int(1 / (c.c_1 + c.c_mu) / dimension / 10))


def test_weights_are_balanced() -> None:
    """Positive weights sum to one; C neither grows nor shrinks by selection that is random, and stays definite."""
    for dimension, population, separable in ((5, 8, False), (100, 20, False), (5000, 20, True), (2, 2, True)):
        c = cma.constants(dimension, population, separable)
        assert list(c.weights) == sorted(c.weights, reverse=True) and c.weights[-1] < 0
        assert sum(w for w in c.weights if w > 0) == pytest.approx(1)
        negative = -sum(w for w in c.weights if w < 0)
        assert c.c_1 + c.c_mu <= 1 and dimension * c.c_mu * negative <= 1 - c.c_1 - c.c_mu + 1e-9
    with pytest.raises(ValueError, match="needs at least 2"):
        cma.constants(5, 1)


def test_the_separable_variant_learns_faster() -> None:
    full, separable = cma.constants(100, 20), cma.constants(100, 20, separable=True)
    assert separable.c_1 == pytest.approx(full.c_1 * 34) and separable.c_mu == pytest.approx(full.c_mu * 34)


# -- as good a search as pycma's ----------------------------------------------------------------------------------


def evaluations(function: Callable, runs: int, mean: float, separable: bool, generations: int) -> np.ndarray:
    """Evaluations until the target in each of `runs` runs, infinite where it is not reached."""
    c = cma.constants(N, 10, separable)

    def search(key: jax.Array) -> Any:
        return jnp.full(N, mean), cma.init(c, jnp.asarray(0.5))

    def generation(runs: Any, number: jax.Array) -> Any:
        def one(run: Any, key: jax.Array) -> Any:
            mean, strategy = run
            samples = cma.ask(c, strategy, jax.random.normal(jax.random.fold_in(key, number), (10, N)))
            cost = function(mean + strategy.sigma * samples.y)
            return cma.tell(c, strategy, mean, samples, cost, number), cost.min()

        return jax.vmap(one)(runs, keys)

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), runs)
        best = jax.jit(lambda x: jax.lax.scan(generation, x, jnp.arange(generations))[1])(jax.vmap(search)(keys))
        best = np.asarray(best)
    hit = best < TARGET
    return np.where(hit.any(axis=0), 10.0 * (hit.argmax(axis=0) + 1), np.inf)


def pycma_evaluations(function: Callable, runs: int, mean: float) -> np.ndarray:
    """The same by pycma."""
    found = []
    for seed in range(1, runs + 1):
        options = {"popsize": 10, "seed": seed, "verbose": -9, "ftarget": TARGET, "maxfevals": 20_000}
        es = pycma.CMAEvolutionStrategy(N * [mean], 0.5, options)
        while not es.stop():
            members = es.ask()
            es.tell(members, list(function(np.array(members))))
        found.append(es.countevals if es.best.f < TARGET else np.inf)
    return np.array(found, float)


@pytest.mark.parametrize(
    ("function", "mean", "generations"), [(sphere, 1.0, 300), (ellipsoid, 1.0, 700), (rosenbrock, 0.0, 1200)]
)
def test_as_many_evaluations_as_pycma(function: Callable, mean: float, generations: int) -> None:
    ours = np.median(evaluations(function, 15, mean, False, generations))
    theirs = np.median(pycma_evaluations(function, 15, mean))
    assert ours == pytest.approx(theirs, rel=0.2), (ours, theirs)


def test_the_separable_variant_needs_no_rotation() -> None:
    """On an ellipsoid whose axes are those of the parameters it is faster than the full one."""
    separable = np.median(evaluations(ellipsoid, 15, 1.0, True, 700))
    assert separable < 0.8 * np.median(evaluations(ellipsoid, 15, 1.0, False, 700))
