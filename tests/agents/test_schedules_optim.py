"""Schedules at hand-computed points, gradient clipping, and first optimiser steps by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.common.optim import clip_by_global_norm, descend
from agents.common.schedules import schedule
from agents.options import LR_SCHEDULES

PROGRESS = [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 1.0]
FACTORS = {
    "constant": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "linear": [1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.0],
    "double_linear_con": [1.0, 0.8, 0.4, 0.125, 0.125, 0.125, 0.125],
    "middle_drop": [1.0, 0.9, 0.075, 0.075, 0.075, 0.075, 0.075],
    "double_middle_drop": [1.0, 0.9, 0.075, 0.075, 0.075, 0.125, 0.125],
}


@pytest.mark.parametrize("name", FACTORS)
def test_schedule(name: str) -> None:
    got = [float(schedule(name, jnp.float32(progress))) for progress in PROGRESS]
    np.testing.assert_allclose(got, FACTORS[name], atol=1e-6)


def test_every_name_on_the_command_line_exists() -> None:
    assert set(LR_SCHEDULES) == set(FACTORS)
    with pytest.raises(ValueError, match="cosine"):
        schedule("cosine", jnp.float32(0.0))


def test_global_norm_clip_scales_the_whole_gradient() -> None:
    grads = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    clipped, norm = clip_by_global_norm(grads, jnp.float32(1.0))
    assert float(norm) == 5.0
    np.testing.assert_allclose([clipped["a"][0], clipped["b"][0, 0]], [0.6, 0.8], rtol=1e-5)
    untouched, _ = clip_by_global_norm(grads, jnp.float32(6.0))
    np.testing.assert_array_equal([untouched["a"][0], untouched["b"][0, 0]], [3.0, 4.0])


def test_a_zero_gradient_stays_zero() -> None:
    clipped, norm = clip_by_global_norm({"a": jnp.zeros(3)}, jnp.float32(0.5))
    assert float(norm) == 0.0
    np.testing.assert_array_equal(clipped["a"], np.zeros(3))


def test_rmsprop_is_tensorflows() -> None:
    """ms = decay ms + (1 - decay) g^2 from ms = 1, step = rate g / sqrt(ms + epsilon), as agents.a2c builds it."""
    decay, epsilon, rate = 0.9, 1e-2, 0.1
    transform = optax.scale_by_rms(decay=jnp.float32(decay), eps=jnp.float32(epsilon), initial_scale=1.0)
    params = jnp.array([1.0, -2.0])
    state = transform.init(params)
    weights, mean_square = np.array([1.0, -2.0]), np.ones(2)
    for grad in (np.array([2.0, -0.5]), np.array([0.0, 3.0])):
        params, state = descend(transform, params, state, jnp.asarray(grad, jnp.float32), jnp.float32(rate))
        mean_square = decay * mean_square + (1 - decay) * grad**2
        weights = weights - rate * grad / np.sqrt(mean_square + epsilon)
    np.testing.assert_allclose(params, weights, rtol=1e-6)


def test_adam_steps_by_hand() -> None:
    """In the first step the corrected moments are g and g^2, so that each weight moves by about rate * sign(g)."""
    transform, rate, epsilon = optax.scale_by_adam(eps=1e-5), 0.1, 1e-5
    params = jnp.array([1.0, -2.0])
    state = transform.init(params)
    first, second = np.array([2.0, -0.5]), np.array([1.0, 1.0])
    params, state = descend(transform, params, state, jnp.asarray(first, jnp.float32), jnp.float32(rate))
    np.testing.assert_allclose(params, [1 - 0.1, -2 + 0.1], rtol=1e-5)
    params, state = descend(transform, params, state, jnp.asarray(second, jnp.float32), jnp.float32(rate))
    momentum = (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.9**2)
    square = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    expected = np.array([0.9, -1.9]) - rate * momentum / (np.sqrt(square) + epsilon)
    np.testing.assert_allclose(params, expected, rtol=1e-5)
