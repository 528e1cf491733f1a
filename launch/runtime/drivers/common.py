"""What both drivers share: the result of a chunk, the run axis, and how keys are derived."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from agents.types import Agent
from envs.types import Box, Spec

# Streams of a run's key: what is derived from one never collides with another.
INIT, ENVIRONMENT, TRAINING, EVALUATION = range(4)

NO_LIMIT = 100_000  # steps after which an evaluation episode without a limit is given up


class Episodes(NamedTuple):
    """Finished episodes in order of their end; arrays of one length.

    Attributes:
        run: Which run of the sweep.
        rank: Which environment of that run.
        returns: Sum of rewards.
        lengths: Number of steps.
    """

    run: np.ndarray
    rank: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """What a driver reports of some iterations.

    Attributes:
        metrics: name -> float32 [iterations, runs].
        steps: Environment steps really played, int64 [iterations, runs].
        episodes: Episodes that ended.
    """

    metrics: dict[str, np.ndarray]
    steps: np.ndarray
    episodes: Episodes


class Driver(Protocol):
    """Runs an agent in environments; K runs in lockstep, everything leads with [K]."""

    spec: Spec
    agent: Agent
    num_runs: int

    def run(self, count: int) -> Chunk:
        """Play and learn for `count` iterations, or fewer where a driver limits its chunks."""

    def evaluate(self, episodes: int, seed: int, explore: bool = False, acting: Any = None) -> np.ndarray:
        """Play whole episodes in environments of their own; returns float32 [runs, episodes].

        `seed` alone decides how the episodes begin. `acting` [runs, ...] is played in place of the current policies.
        """

    def acting(self) -> Any:
        """The policies, leaves [runs, ...]."""

    def others(self) -> dict[str, Any]:
        """Further policies worth keeping, by name, leaves [runs, ...]; see Agent.others."""

    def adopt(self, acting: Any) -> None:
        """Play with these policies, leaves [runs, ...], from now on; what learns beside them follows."""

    def checkpoint(self) -> Any:
        """The tree that `restore` continues from."""

    def restore(self, tree: Any) -> None:
        """Continue from a tree that `checkpoint` returned."""

    def memory(self) -> int:
        """Bytes of device memory that a chunk needs, known before anything is allocated."""

    def frame_memory(self) -> int:
        """Bytes of host memory that the pictures of replay memories need."""

    def close(self) -> None:
        """Free what the driver holds."""


def over_runs(function: Callable[..., Any], num_runs: int, in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Map `function` over a leading run axis.

    A single run is not vmapped: under vmap a branch on a batched predicate becomes a select that computes both sides
    (resets of environments, above all).
    """
    if num_runs > 1:
        return jax.vmap(function, in_axes=in_axes, axis_size=num_runs)

    def single(*args: Any) -> Any:
        squeezed = (
            arg if axis is None else jax.tree.map(lambda x: x[0], arg) for arg, axis in zip(args, in_axes, strict=True)
        )
        return jax.tree.map(lambda x: x[None], function(*squeezed))

    return single


def lean(function: Callable[..., Any], state: Any, *rest: Any) -> tuple[Callable[..., Any], list[int]]:
    """`function(state, *rest)` as a function of only those leaves of the state that it reads.

    A call of a jitted function costs about half a microsecond for each leaf of its arguments, read or not, and acting
    reads a tenth of what learning needs.

    Args:
        function: Traced once here.
        state: Its first argument, arrays or shapes.
        rest: The others, arrays or shapes.

    Returns:
        The function of (list of leaves, *rest), and the positions of these leaves in `jax.tree.leaves(state)`.
    """
    leaves, structure = jax.tree.flatten(state)
    read: list[int] = []

    @functools.wraps(function)
    def reduced(some: list[Any], *rest: Any) -> Any:
        everything: list[Any] = [None] * len(leaves)
        for position, leaf in zip(read, some, strict=True):
            everything[position] = leaf
        return function(jax.tree.unflatten(structure, everything), *rest)

    traced = jax.make_jaxpr(lambda leaves, *rest: function(jax.tree.unflatten(structure, leaves), *rest))(leaves, *rest)
    used = {id(x) for equation in traced.jaxpr.eqns for x in equation.invars} | {id(x) for x in traced.jaxpr.outvars}
    read.extend(i for i, x in enumerate(traced.jaxpr.invars[: len(leaves)]) if id(x) in used)
    return reduced, read


def run_keys(seeds: np.ndarray) -> jax.Array:
    """One typed key per run from integer seeds [K]."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


def clip_action(spec: Spec, action: Any, xp: Any = jnp) -> Any:
    """Clip continuous actions [..., size] to the environment's bounds; discrete ones pass."""
    if isinstance(spec.action, Box):
        return xp.clip(action, xp.asarray(spec.action.low, "float32"), xp.asarray(spec.action.high, "float32"))
    return action


def tree_bytes(tree: Any) -> int:
    """Size of all arrays (or shapes) of a tree in bytes."""
    return sum(
        int(np.prod(x.shape)) * (8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize)
        for x in jax.tree.leaves(tree)
    )
