"""Natural policy gradient: Fisher-vector products, conjugate gradients and a line search (Schulman et al. 2015).

Everything has a fixed number of iterations with masks: under vmap a `while_loop` would run to its slowest member.
Vectors are trees of the parameters' structure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.tree import add_scale, vdot

from agents.common.distributions import Distribution

RESIDUAL = 1e-10  # squared norm of the residual at which conjugate gradients are done
BACKTRACKS = 10  # step sizes that the line search tries, each half of the one before
KL_SLACK = 1.5  # by how much the divergence may exceed its limit: the limit holds for a quadratic model of it
TINY = 1e-30  # keeps divisions by what may be zero finite


def fisher_product(policy: Callable[[Any], Distribution], params: Any, damping: ArrayLike) -> Callable[[Any], Any]:
    """Return the function v -> (F + damping I) v, with F the Fisher matrix of a policy, averaged over its batch.

    F is the Hessian of the Kullback-Leibler divergence from the policy at `params`, where the divergence has its
    minimum. Its derivative by the distribution's parameters is zero there, and with it the term that the network's
    curvature adds: F = Jᵀ H J exactly, with the network's Jacobian J and the divergence's Hessian H by the
    distribution's parameters. The network is linearised once for all products.

    Args:
        policy: params -> distribution over a batch.
        params: Where.
        damping: Added to the diagonal [].
    """
    pi, push = jax.linearize(policy, params)
    pull = jax.linear_transpose(push, params)
    slope = jax.grad(lambda other: jnp.mean(pi.kl(other)))

    def product(vector: Any) -> Any:
        curved = jax.jvp(slope, (pi,), (push(vector),))[1]
        return add_scale(pull(curved)[0], damping, vector)

    return product


def conjugate_gradient(product: Callable[[Any], Any], target: Any, iterations: int) -> Any:
    """Solve A x = target for a symmetric positive definite A, given as v -> A v (Hestenes and Stiefel 1952).

    Once the squared norm of the residual is below 1e-10 the remaining iterations change nothing.
    """

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        x, residual, direction, norm = carry
        active = norm >= RESIDUAL
        image = product(direction)
        length = jnp.where(active, norm / jnp.maximum(vdot(direction, image), TINY), 0.0)
        residual = add_scale(residual, -length, image)
        after = jnp.where(active, vdot(residual, residual), norm)
        x, direction = add_scale(x, length, direction), add_scale(residual, after / jnp.maximum(norm, TINY), direction)
        return (x, residual, direction, after), None

    start = (jax.tree.map(jnp.zeros_like, target), target, target, vdot(target, target))
    return jax.lax.scan(step, start, length=iterations)[0][0]


def scaled_step(product: Callable[[Any], Any], direction: Any, max_kl: ArrayLike) -> Any:
    """Scale a direction d to the length at which ½ dᵀ F d, the quadratic model of the divergence, is `max_kl`."""
    divergence = 0.5 * jnp.abs(vdot(direction, product(direction)))
    scale = jnp.sqrt(max_kl / jnp.maximum(divergence, TINY))
    return jax.tree.map(lambda x: scale * x, direction)


class Search(NamedTuple):
    """What a line search found, float32 []: all zero where no step was good enough."""

    fraction: jax.Array  # of the full step
    gain: jax.Array  # improvement of the objective
    kl: jax.Array  # divergence from the old policy


def line_search(
    measure: Callable[[Any], tuple[jax.Array, jax.Array]], params: Any, step: Any, max_kl: ArrayLike
) -> tuple[Any, Search]:
    """Take the longest of the steps 1, ½, ¼, ... x `step` that is good enough, or none.

    Good enough: both measures are finite, the divergence is at most 1.5 `max_kl`, and the objective does not fall.

    Args:
        measure: params -> (objective, Kullback-Leibler divergence from the policy at the old `params`), float32 [].
        params: Where the search begins.
        step: Full step.
        max_kl: Limit of the divergence [].

    Returns:
        (new params, what was found).
    """
    before, _ = measure(params)

    def attempt(found: Search, fraction: jax.Array) -> tuple[Search, None]:
        def try_it() -> Search:
            objective, kl = measure(add_scale(params, fraction, step))
            gain = objective - before
            good = jnp.isfinite(gain) & jnp.isfinite(kl) & (kl <= KL_SLACK * max_kl) & (gain >= 0)
            return jax.tree.map(lambda x: jnp.where(good, x, 0.0), Search(fraction, gain, kl))

        # For a single run a real branch, which saves the forward passes after the first good step.
        return jax.lax.cond(found.fraction > 0, lambda: found, try_it), None

    zero = jnp.float32(0.0)
    found, _ = jax.lax.scan(attempt, Search(zero, zero, zero), 0.5 ** jnp.arange(BACKTRACKS, dtype=jnp.float32))
    # Chosen, not multiplied: a step that is not finite must leave the parameters alone.
    taken = found.fraction > 0
    return jax.tree.map(lambda p, s: jnp.where(taken, p + found.fraction * s, p), params, step), found
