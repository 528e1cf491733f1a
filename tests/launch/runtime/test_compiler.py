"""What XLA is told besides a program changes how it computes, not what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from launch.runtime.compiler import compiler_options


@pytest.mark.skipif(
    jax.default_backend() != "cpu" or not jaxlib.__version__.startswith("0.10."), reason="another jaxlib or device"
)
def test_convolutions_are_not_left_to_one_thread() -> None:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 32))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 32))
    programs = [jax.jit(convolve, compiler_options=options) for options in (None, compiler_options())]
    left, told = (program.lower(x, kernel).compile().as_text() for program in programs)
    assert "ynn" in left and "ynn" not in told
    one, other = (np.asarray(program(x, kernel)) for program in programs)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_options_are_accepted_by_this_jaxlib() -> None:
    double = jax.jit(lambda x: x @ x, compiler_options=compiler_options())
    np.testing.assert_allclose(double(jnp.eye(3)), np.eye(3))
