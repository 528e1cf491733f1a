"""What the tests of worker processes and those of Ray actors have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.host.pool import Pool, PoolStep

# pytest matches notes too, here the worker's traceback: the message is what stands on the first line.
END = r"(\n|$)"


def seeds(count: int, run: int = 0) -> list[tuple[int, int]]:
    return [(run, index) for index in range(count)]


def step(pool: Pool, actions, group: int = 0, active=None) -> PoolStep:
    """One step of a group; copies, so that later steps do not change them."""
    pool.send(group, np.asarray(actions), active)
    return PoolStep(*(array.copy() for array in pool.receive(group)))


def check_death_without_auto_reset(pool: Pool, kill: Callable[[], None]) -> None:
    """`kill` ends the second of two workers with a `CountingEnv` each: its episode is cut and goes on from a reset."""
    pool.reset()
    step(pool, [0, 0])
    kill()
    got = step(pool, [0, 0])
    assert got.truncated.tolist() == [False, True]
    assert got.next_obs[:, 1].tolist() == [2, 1]
    assert step(pool, [0, 0]).next_obs[:, 1].tolist() == [3, 1]
    pool.reset()
    assert step(pool, [0, 0]).next_obs[:, 1].tolist() == [1, 1]
