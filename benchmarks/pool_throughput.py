"""Throughput of the worker pool beside a raw two-process loop and gymnasium's AsyncVectorEnv, measured in turn.

    python benchmarks/pool_throughput.py --env HalfCheetahBulletEnv-v0 --num-envs 8 16

The three step the same environments, seeded alike, with the same precomputed random actions; nobody acts. The raw loop
is the bound: each of its processes steps its share of the environments and talks to no one. Every round measures all
three in random order, so that a disturbance by other processes hits all alike; the ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.host.vector import VectorPool
from envs.host.worker import episode_seed
from envs.make import EnvOptions, HostFactory, host_factory, host_spec
from envs.types import Discrete, Spec

Stepper = Callable[[int], float]  # steps every environment so many times, returns the seconds it took


def random_actions(spec: Spec, steps: int, num_envs: int) -> np.ndarray:
    """Actions [steps, num_envs, ...], uniform within the bounds."""
    generator = np.random.default_rng(0)
    if isinstance(spec.action, Discrete):
        return generator.integers(spec.action.n, size=(steps, num_envs))
    return generator.uniform(spec.action.low, spec.action.high, (steps, num_envs, spec.action.size)).astype(np.float32)


def _raw_process(factory: HostFactory, indices: list[int], actions: np.ndarray, connection: Connection) -> None:
    """Step environments in a plain loop whenever the parent sends a number of steps; seeded as the pool's."""
    envs = [factory() for _ in indices]
    episodes = [0] * len(envs)
    for env, index in zip(envs, indices, strict=True):
        env.reset(seed=episode_seed(0, index, 0))
    connection.send(0)
    while steps := connection.recv():
        for step in range(steps):
            for i, (env, action) in enumerate(zip(envs, actions[step % len(actions)], strict=True)):
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    episodes[i] += 1
                    env.reset(seed=episode_seed(0, indices[i], episodes[i]))
        connection.send(steps)


class RawLoop:
    """The bound: processes that step their share of the environments and are asked once per measurement."""

    def __init__(self, factory: HostFactory, actions: np.ndarray, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections, self._processes = [], []
        for share in np.array_split(np.arange(actions.shape[1]), processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_raw_process, args=(factory, share.tolist(), actions[:, share], theirs), daemon=True
            )
            process.start()
            self._connections.append(ours)
            self._processes.append(process)
        for connection in self._connections:
            connection.recv()

    def __call__(self, steps: int) -> float:
        """Seconds for `steps` steps of every environment."""
        start = time.perf_counter()
        for connection in self._connections:
            connection.send(steps)
        for connection in self._connections:
            connection.recv()
        return time.perf_counter() - start

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.send(0)
        for process in self._processes:
            process.join()


class Pool:
    """VectorPool, stepped in groups: while one group is handled here the others simulate."""

    def __init__(self, factory: HostFactory, actions: np.ndarray, processes: int, groups: int) -> None:
        count = actions.shape[1]
        split = np.array_split(np.arange(count), groups)
        self._pool = VectorPool(
            factory, [(0, i) for i in range(count)], groups=[g.tolist() for g in split], num_workers=processes
        )
        self._actions = [np.ascontiguousarray(actions[:, g]) for g in split]
        self._pool.reset()

    def __call__(self, steps: int) -> float:
        """Seconds for `steps` steps of every environment."""
        pool, actions = self._pool, self._actions
        start = time.perf_counter()
        for group, choice in enumerate(actions):
            pool.send(group, choice[0])
        played = [0] * len(actions)
        while min(played) < steps:
            group = pool.ready()
            pool.receive(group)
            played[group] += 1
            if played[group] < steps:
                pool.send(group, actions[group][played[group] % len(actions[group])])
        return time.perf_counter() - start

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


class Async:
    """gymnasium's AsyncVectorEnv: one process per environment."""

    def __init__(self, factory: HostFactory, actions: np.ndarray) -> None:
        self._envs = gymnasium.vector.AsyncVectorEnv([factory] * actions.shape[1], context="spawn")
        self._actions = actions
        self._envs.reset(seed=[episode_seed(0, i, 0) for i in range(actions.shape[1])])

    def __call__(self, steps: int) -> float:
        """Seconds for `steps` steps of every environment."""
        start = time.perf_counter()
        for step in range(steps):
            self._envs.step(self._actions[step % len(self._actions)])
        return time.perf_counter() - start

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


def measure(options: argparse.Namespace, num_envs: int) -> None:
    """Measure one number of environments and print a line of medians."""
    env = EnvOptions(options.env)
    factory = host_factory(env)
    actions = random_actions(host_spec(env), options.steps, num_envs)
    steppers: dict[str, RawLoop | Pool | Async] = {
        "raw": RawLoop(factory, actions, options.processes),
        "pool": Pool(factory, actions, options.processes, options.groups),
        "async": Async(factory, actions),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for turn in range(options.rounds + 1):
        for name in random.sample(list(steppers), len(steppers)):
            elapsed = steppers[name](options.steps)
            if turn:  # the first round warms up
                seconds[name].append(elapsed)
    for stepper in steppers.values():
        stepper.close()
    total = options.steps * num_envs
    rates = {name: total / statistics.median(values) for name, values in seconds.items()}
    ratio = {
        name: statistics.median(raw / own for raw, own in zip(seconds["raw"], seconds[name], strict=True))
        for name in ("pool", "async")
    }
    print(
        f"{options.env} num_envs={num_envs} processes={options.processes} groups={options.groups}: "
        f"raw {rates['raw']:.0f}, pool {rates['pool']:.0f}, AsyncVectorEnv {rates['async']:.0f} steps/s; "
        f"pool/raw {ratio['pool']:.3f}, AsyncVectorEnv/raw {ratio['async']:.3f} (medians of {options.rounds} rounds)",
        flush=True,
    )


def main() -> None:
    """Parse the flags and measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetahBulletEnv-v0", help="environment id")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[8, 16], help="numbers of environments to measure")
    parser.add_argument("--steps", type=int, default=200, help="steps of every environment per round")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of all three")
    parser.add_argument("--processes", type=int, default=2, help="processes of the raw loop and of the pool")
    parser.add_argument("--groups", type=int, default=2, help="groups of the pool")
    options = parser.parse_args()
    for num_envs in options.num_envs:
        measure(options, num_envs)


if __name__ == "__main__":
    main()
