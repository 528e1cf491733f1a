"""Where the simulators of a training run: worker processes of this machine, or actors of a Ray cluster."""

from __future__ import annotations

from typing import Any

from envs.host.pool import Pool
from envs.host.vector import VectorPool
from envs.make import EnvOptions, host_factory
from envs.render.seen_pool import observed
from envs.types import Encoding
from launch.runtime.drivers.host import PoolFactory


def pool_factory(
    options: EnvOptions, encoding: Encoding | None, num_workers: int, finite: bool, launcher: str
) -> PoolFactory:
    """Return what makes the pools of a training, as its learner observes them.

    Args:
        options: What the environments are.
        encoding: The representation where it is `learned`.
        num_workers: Simulation processes, 0 for one per core.
        finite: Whether numbers that are not finite end a pool.
        launcher: local, or ray for the cluster that this process has joined.

    Raises:
        ValueError: There is no such environment.
    """
    factory = host_factory(options)
    kind: Any = VectorPool
    if launcher == "ray":
        from envs.host.ray_pool import RayPool  # here because few have Ray

        kind = RayPool

    def make_pool(seeds: Any, groups: Any, auto_reset: bool) -> Any:
        pool: Pool = kind(
            factory,
            seeds,
            groups=groups,
            num_workers=num_workers or None,
            auto_reset=auto_reset,
            finite=finite,
            timeout=options.step_timeout,
        )
        return observed(pool, options, encoding, auto_reset)

    return make_pool
