"""A plain vectorised environment for learners that are not jitted: reset and step over a worker pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.host.vector import VectorPool
from envs.make import EnvOptions, host_factory
from envs.types import Box, Encoding, Spec


class VecEnv:
    """N environments in worker processes with the classic interface; episodes restart by themselves.

    Attributes:
        spec: What one environment looks like.
        num_envs: N.
        episodes: (rank, return, length) of each finished episode; whoever reports them empties the list.
    """

    def __init__(
        self,
        options: EnvOptions,
        num_envs: int,
        seed: int,
        num_workers: int | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        options.check_count(num_envs)
        seeds = [(seed, i) for i in range(num_envs)]
        self._pool: Any = VectorPool(
            host_factory(options), seeds, num_workers=num_workers, timeout=options.step_timeout
        )
        if options.drawn or options.learned:
            from envs.render.seen_pool import observed

            self._pool = observed(self._pool, options, encoding, auto_reset=True)
        self.spec: Spec = self._pool.spec
        self.num_envs = num_envs
        self.episodes: list[tuple[int, float, int]] = []
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    @classmethod
    def from_args(cls, args: Any, options: EnvOptions | None = None, encoding: Encoding | None = None) -> VecEnv:
        """Build from parsed flags: `num_cpu` environments (1 by default) of `--env` and its options."""
        options = options or EnvOptions.from_args(args)
        return cls(options, getattr(args, "num_cpu", 1), args.seed, getattr(args, "num_workers", 0) or None, encoding)

    def reset(self) -> np.ndarray:
        """Begin a new episode everywhere; returns observations [N, ...]."""
        self._returns[:], self._lengths[:] = 0.0, 0
        return self._pool.reset()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Step every environment; actions [N, ...] are clipped to the bounds.

        Returns:
            (observations [N, ...] to act on next, rewards float32 [N], dones bool [N], info). info holds `terminated`,
            `truncated` [N] and `next_obs` [N, ...], the true successors.
        """
        if isinstance(self.spec.action, Box):
            actions = np.clip(actions, self.spec.action.low, self.spec.action.high)
        self._pool.send(0, np.asarray(actions))
        out = self._pool.receive(0)
        done = out.terminated | out.truncated
        self._returns += out.reward
        self._lengths += 1
        for rank in np.flatnonzero(done):
            self.episodes.append((int(rank), float(self._returns[rank]), int(self._lengths[rank])))
            self._returns[rank], self._lengths[rank] = 0.0, 0
        info = {"terminated": out.terminated.copy(), "truncated": out.truncated.copy(), "next_obs": out.next_obs.copy()}
        return out.obs.copy(), out.reward.copy(), done, info

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
