"""What XLA is told besides a program."""

from __future__ import annotations

import jax
import jaxlib

# All of jaxlib 0.10's choices of YNNPACK but convolutions: those run on one thread, and Eigen's take two thirds of the
# time on two cores. Later versions leave convolutions to Eigen by themselves.
_WITHOUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


def compiler_options() -> dict[str, str | bool] | None:
    """The argument `compiler_options` of `jax.jit` for a program that has the machine to itself.

    Beside simulation workers a convolution on one thread serves better, and XLA's own choice stays.
    """
    if jax.default_backend() == "cpu" and jaxlib.__version__.startswith("0.10."):
        return {"xla_cpu_experimental_ynn_fusion_type": _WITHOUT_CONVOLUTIONS}
    return None
