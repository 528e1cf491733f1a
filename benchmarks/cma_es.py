"""CMA-ES against pycma: seconds for a generation (ask and tell, no evaluation) and their ratio.

    python benchmarks/cma_es.py

Both take the same population in the same dimensions; ours is also timed for 16 searches at once. They take turns in one
process, so that a machine whose speed drifts does so for all; the ratio is that of the medians. pycma works in float64
and ours in float32, as each does by default.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.common import cma  # noqa: E402

BLOCK = 20  # generations of one measurement; both decompose in 20 of them at 100 parameters, in 4 at 700


def ours(dimension: int, population: int, searches: int) -> Callable[[], None]:
    """A function that plays a block of generations of `searches` searches, compiled."""
    constants = cma.constants(dimension, population)

    def generation(run: tuple[jax.Array, cma.Strategy], key: jax.Array, number: jax.Array) -> Any:
        mean, strategy = run
        z = jax.random.normal(jax.random.fold_in(key, number), (population, dimension))
        samples = cma.ask(constants, strategy, z)
        cost = jnp.sum((mean + strategy.sigma * samples.y) ** 2, axis=1)
        return cma.tell(constants, strategy, mean, samples, cost, number)

    step = jax.vmap(generation, (0, 0, None)) if searches > 1 else generation
    keys = jax.random.split(jax.random.key(0), searches) if searches > 1 else jax.random.key(0)
    run = (jnp.ones(dimension), cma.init(constants, jnp.float32(0.5)))
    if searches > 1:
        run = jax.tree.map(lambda x: jnp.tile(x, (searches,) + (1,) * x.ndim), run)
    block = jax.jit(lambda run, first: jax.lax.fori_loop(first, first + BLOCK, lambda i, r: step(r, keys, i), run))
    held = [run, 0]

    def play() -> None:
        held[0] = jax.block_until_ready(block(held[0], jnp.int32(held[1])))
        held[1] += BLOCK

    return play


def theirs(dimension: int, population: int) -> Callable[[], None]:
    """The same block by pycma."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma as pycma
        from cma.sigma_adaptation import CMAAdaptSigmaCSA

        # Path length as here; for many parameters its default is another rule.
        options = {"popsize": population, "verbose": -9, "seed": 1, "AdaptSigma": CMAAdaptSigmaCSA}
        es = pycma.CMAEvolutionStrategy(dimension * [1.0], 0.5, options)

    def play() -> None:
        for _ in range(BLOCK):
            members = es.ask()
            es.tell(members, list(np.sum(np.square(members), axis=1)))

    return play


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[100, 700])
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--searches", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    print(f"| parameters | pycma (ms) | ours (ms) | pycma / ours | ours, each of {args.searches} (ms) | pycma / that |")
    print("|---|---|---|---|---|---|")
    for dimension in args.dimensions:
        programs = [
            theirs(dimension, args.population),
            ours(dimension, args.population, 1),
            ours(dimension, args.population, args.searches),
        ]
        seconds: list[list[float]] = [[] for _ in programs]
        for program in programs:
            program()  # compilation, and first touch of memory
        for _ in range(args.repeat):
            for program, taken in zip(programs, seconds, strict=True):
                started = time.perf_counter()
                program()
                taken.append(time.perf_counter() - started)
        pycma, one, many = (1e3 * float(np.median(taken)) / BLOCK for taken in seconds)
        many /= args.searches
        print(
            f"| {dimension} | {pycma:.2f} | {one:.2f} | {pycma / one:.2f} | {many:.2f} | {pycma / many:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
