"""Steps and frames per second of environments: the twin on the device beside the host's in processes, in one run.

    python benchmarks/environments.py --env MobileRobotGymEnv-v0 KukaButtonGymEnv-v0

Without --env all of ours that have a twin are measured. For states, and for pictures of each size, both play random
actions. The twin is one jitted scan over a batch, automatic resets and the drawing of the actions included; the host's
is a plain loop in each of a few processes that talk to no one. Every round measures both in random order, so that a
disturbance by other programs hits both alike; rates and ratios are medians over the rounds. An environment without a
twin gets its host's rates alone. --twins-only leaves the host's out, as on a machine with an accelerator:

    python benchmarks/environments.py --twins-only --num-envs 1048576 --picture-envs 2048

Where PyBullet's pictures can be drawn on the device, `--renderer=jax` is measured beside `--renderer=tiny`: both in the
worker pool, with --pool-envs environments in as many processes.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pool_throughput import RawLoop, random_actions
from envs.device.batch import BatchEnv
from envs.host.vec_env import VecEnv
from envs.make import EnvOptions, device_env, host_factory, host_spec
from envs.registry import registered_env, registered_twin, resolve
from envs.types import Discrete, Spec

Measure = Callable[[], float]  # plays for about as long as asked for, returns the rate (steps/s)


def draw_actions(spec: Spec, key: jax.Array, num_envs: int) -> jax.Array:
    """Uniform actions of a batch, [num_envs, ...]."""
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, (num_envs,), 0, spec.action.n)
    low, high = jnp.array(spec.action.low), jnp.array(spec.action.high)
    return jax.random.uniform(key, (num_envs, spec.action.size), jnp.float32, low, high)


def twin_measure(options: EnvOptions, num_envs: int, length: int, seconds: float) -> tuple[Measure, float]:
    """The twin's program, compiled and run once.

    Args:
        options: The environment.
        num_envs: Environments stepped together.
        length: Steps of each environment in one call of the program.
        seconds: How long a measurement lasts, about.

    Returns:
        (measurement, MiB that the program holds on the device)
    """
    env = BatchEnv(device_env(replace(options, simulator="jax")))

    def body(carry: Any, key: jax.Array) -> tuple[Any, None]:
        # The observation is carried as a driver carries it to the policy, so that every picture has to be drawn.
        state, _, total = carry
        state, step = env.step(state, draw_actions(env.spec, key, num_envs))
        return (state, step.obs, total + step.reward), None

    def chunk(carry: Any, key: jax.Array) -> Any:
        return jax.lax.scan(body, carry, jax.random.split(key, length))[0]

    state, obs = jax.jit(env.reset)(jax.random.split(jax.random.key(0), num_envs))
    carry = (state, obs, jnp.zeros(num_envs, jnp.float32))
    program = jax.jit(chunk, donate_argnums=0).lower(carry, jax.random.key(1)).compile()
    memory = program.memory_analysis()
    keys = map(jax.random.key, range(2, sys.maxsize))

    def play(calls: int) -> float:
        nonlocal carry
        start = time.perf_counter()
        for _ in range(calls):
            carry = program(carry, next(keys))
        jax.block_until_ready(carry)
        return time.perf_counter() - start

    play(1)
    calls = max(1, round(seconds / play(1)))
    held = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
    return lambda: calls * length * num_envs / play(calls), held


def host_measure(options: EnvOptions, processes: int, seconds: float) -> tuple[Measure, RawLoop]:
    """The host's loop in processes, one environment each, started and run for a few steps."""
    loop = RawLoop(host_factory(options), random_actions(host_spec(options), 512, processes), processes)
    loop(10)
    steps = max(10, round(10 * seconds / loop(10)))
    return lambda: steps * processes / loop(steps), loop


def compare(name: str, options: EnvOptions, num_envs: int, length: int, args: argparse.Namespace) -> None:
    """Measure host and twin in turn and print a line of medians."""
    if args.twins_only:
        measure, held = twin_measure(options, num_envs, length, args.seconds)
        median = statistics.median(measure() for _ in range(args.rounds))
        print(
            f"{options.env}, {name}: twin {median:,.0f} steps/s with {num_envs} environments ({held:,.1f} MiB)",
            flush=True,
        )
        return
    host, loop = host_measure(options, args.processes, args.seconds)
    measures: dict[str, Measure] = {"host": host}
    held = 0.0
    if options.env in registered_twin:
        measures["twin"], held = twin_measure(options, num_envs, length, args.seconds)
    rates: dict[str, list[float]] = {which: [] for which in measures}
    for _ in range(args.rounds):
        for which in random.sample(list(measures), len(measures)):
            rates[which].append(measures[which]())
    loop.close()
    line = f"{options.env}, {name}: host {statistics.median(rates['host']):,.0f} steps/s in {args.processes} processes"
    if "twin" in rates:
        ratios = [ours / theirs for ours, theirs in zip(rates["twin"], rates["host"], strict=True)]
        line += (
            f", twin {statistics.median(rates['twin']):,.0f} steps/s with {num_envs} environments "
            f"({held:,.1f} MiB on the device), ratio {statistics.median(ratios):,.0f} "
            f"({min(ratios):,.0f} to {max(ratios):,.0f})"
        )
    print(line, flush=True)


def pool_measure(options: EnvOptions, num_envs: int, processes: int, seconds: float) -> tuple[Measure, VecEnv]:
    """Environments in the worker pool, played for a few steps; actions are drawn beforehand."""
    env = VecEnv(options, num_envs, seed=0, num_workers=processes)
    actions = random_actions(host_spec(options), 64, num_envs)
    env.reset()

    def play(steps: int) -> float:
        start = time.perf_counter()
        for step in range(steps):
            env.step(actions[step % len(actions)])
        return time.perf_counter() - start

    play(3)
    steps = max(3, round(3 * seconds / play(3)))
    return lambda: steps * num_envs / play(steps), env


def compare_renderers(options: EnvOptions, args: argparse.Namespace) -> None:
    """Measure PyBullet's pictures drawn in its workers and on the device in turn, and print a line of medians."""
    made = {
        renderer: pool_measure(replace(options, renderer=renderer), args.pool_envs, args.processes, args.seconds)
        for renderer in ("tiny", "jax")
    }
    rates: dict[str, list[float]] = {which: [] for which in made}
    for _ in range(args.rounds):
        for which in random.sample(list(made), len(made)):
            rates[which].append(made[which][0]())
    for _, env in made.values():
        env.close()
    ratios = [ours / theirs for ours, theirs in zip(rates["jax"], rates["tiny"], strict=True)]
    print(
        f"{options.env}, PyBullet's pictures {options.image_size}x{options.image_size}, {args.pool_envs} environments: "
        f"tiny {statistics.median(rates['tiny']):,.0f} frames/s, jax {statistics.median(rates['jax']):,.0f} frames/s, "
        f"ratio {statistics.median(ratios):,.1f} ({min(ratios):,.1f} to {max(ratios):,.1f})",
        flush=True,
    )


def draws(env_id: str) -> bool:
    """Whether an environment has picture observations."""
    options = EnvOptions(env_id, srl_model="raw_pixels")
    try:
        device_env(replace(options, simulator="jax")) if env_id in registered_twin else host_factory(options)
    except ValueError:
        return False
    return True


def twins() -> list[str]:
    """Ids of the environments of our own that have a twin."""
    return [env_id for env_id in registered_twin if env_id in registered_env]


def main() -> None:
    """Measure each environment: states, then pictures of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=twins(), help="environment ids")
    parser.add_argument("--twins-only", action="store_true", help="without the host's environments")
    parser.add_argument("--num-envs", type=int, default=1024, help="environments of the twin, states")
    parser.add_argument("--picture-envs", type=int, default=1024, help="environments of the twin, pictures")
    parser.add_argument("--image-size", type=int, nargs="+", default=[224, 64], help="sides of pictures in pixels")
    parser.add_argument("--pool-envs", type=int, default=16, help="environments whose pictures either renderer draws")
    parser.add_argument("--processes", type=int, default=2, help="processes of the host's environments")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measurement, about")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, device {device.platform} {device.device_kind}")
    print(f"jax {jax.__version__}, numpy {np.__version__}, medians of {args.rounds} rounds, random actions")
    for env_id in args.env:
        compare("states", EnvOptions(env_id), args.num_envs, 100, args)
        for size in args.image_size if draws(env_id) else ():
            options = EnvOptions(env_id, srl_model="raw_pixels", image_size=size)
            compare(f"pictures {size}x{size}", options, args.picture_envs, 20, args)
            if not args.twins_only and hasattr(resolve(registered_twin.get(env_id)), "draw"):
                compare_renderers(options, args)


if __name__ == "__main__":
    main()
