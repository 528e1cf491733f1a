"""Action distributions against scipy, by sampling, and where their gradients could overflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from agents.common.distributions import Categorical, DiagGaussian, distribution

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(2, 3, 4))).astype(np.float32)
MEAN = RNG.normal(size=(2, 3, 4)).astype(np.float32)
LOG_STD = (0.5 * RNG.normal(size=4)).astype(np.float32)
DRAWS = 20_000


def test_categorical_is_scipys() -> None:
    pi = Categorical(jnp.asarray(LOGITS))
    probabilities = scipy.special.softmax(LOGITS.astype(float), axis=-1)
    action = RNG.integers(0, 4, (2, 3))
    expected = np.log(np.take_along_axis(probabilities, action[..., None], -1)[..., 0])
    np.testing.assert_allclose(pi.log_prob(jnp.asarray(action)), expected, rtol=1e-5)
    np.testing.assert_allclose(pi.entropy(), scipy.stats.entropy(probabilities, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(pi.probabilities(), probabilities, rtol=1e-5)
    np.testing.assert_array_equal(pi.mode(), LOGITS.argmax(-1))
    assert pi.mode().dtype == jnp.int32


def test_gaussian_is_scipys() -> None:
    pi = DiagGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD))
    action = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    independent = scipy.stats.norm(MEAN.astype(float), np.exp(LOG_STD.astype(float)))
    np.testing.assert_allclose(pi.log_prob(jnp.asarray(action)), independent.logpdf(action).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(pi.entropy(), independent.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(pi.mode(), MEAN)
    np.testing.assert_array_equal(pi.probabilities(), MEAN)


def test_categorical_samples_have_the_right_frequencies() -> None:
    pi = Categorical(jnp.broadcast_to(jnp.asarray(LOGITS[0]), (DRAWS, 3, 4)))
    sample = np.asarray(pi.sample(jax.random.key(1)))
    assert sample.dtype == np.int32
    probabilities = scipy.special.softmax(LOGITS[0], axis=-1)
    for i in range(3):
        frequency = np.bincount(sample[:, i], minlength=4) / DRAWS
        np.testing.assert_allclose(frequency, probabilities[i], atol=5 * 0.5 / np.sqrt(DRAWS))


def test_gaussian_samples_have_the_right_law() -> None:
    pi = DiagGaussian(jnp.broadcast_to(jnp.asarray(MEAN[0, 0]), (DRAWS, 4)), jnp.asarray(LOG_STD))
    z = (np.asarray(pi.sample(jax.random.key(2))) - MEAN[0, 0]) / np.exp(LOG_STD)
    for i in range(4):
        assert scipy.stats.kstest(z[:, i], "norm").pvalue > 1e-4
    correlation = np.corrcoef(z, rowvar=False) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(DRAWS)


def test_gradients_stay_finite_at_the_edge() -> None:
    """Logits far apart and a tiny deviation: probabilities of zero and huge densities, but no NaN."""
    logits = jnp.array([0.0, -200.0, 200.0])

    def total(logits: jax.Array) -> jax.Array:
        pi = Categorical(logits)
        return pi.entropy() + pi.log_prob(jnp.int32(1))

    assert jnp.isfinite(jax.grad(total)(logits)).all()

    def density(mean: jax.Array, log_std: jax.Array) -> jax.Array:
        pi = DiagGaussian(mean, log_std)
        return pi.entropy() + pi.log_prob(jnp.ones(2))

    grads = jax.grad(density, (0, 1))(jnp.zeros(2), jnp.full(2, -10.0))
    assert all(jnp.isfinite(g).all() for g in grads)


def test_gradient_of_log_prob_is_the_textbooks() -> None:
    """d log p(a) / d logits = onehot(a) - p."""
    logits = jnp.asarray(LOGITS[0, 0])
    grad = jax.grad(lambda x: Categorical(x).log_prob(jnp.int32(2)))(logits)
    np.testing.assert_allclose(grad, np.eye(4)[2] - scipy.special.softmax(LOGITS[0, 0]), atol=1e-6)


def test_distribution_wraps_what_a_head_returns() -> None:
    assert isinstance(distribution(jnp.zeros(3)), Categorical)
    assert isinstance(distribution((jnp.zeros(3), jnp.zeros(3))), DiagGaussian)
