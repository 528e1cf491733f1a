"""How fast the MobileRobotGymEnv-v0 twin plays a random policy, and how fast the PyBullet environment does.

    python benchmarks/mobile_robot.py [--num-envs 1024] [--image-size 224] [--repeats 5]

Times one jitted scan over whole episodes, automatic resets and the drawing of random actions included, and prints the
best of several repeats: another program on the same cores only ever makes a repeat slower. PyBullet plays one
environment in this process. The figures to reach, with 1,024 environments on 2 cores, are 4 million steps/s with states
and 9,000 frames/s at 224x224.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from envs.device.batch import BatchEnv, BatchState
from envs.device.mobile_robot import MobileRobotTwin
from envs.host.mobile_robot import MobileRobotGymEnv

EPISODE = 251

Carry = tuple[BatchState, jax.Array, jax.Array]


def twin_rate(num_envs: int, length: int, repeats: int, options: dict[str, Any]) -> tuple[float, int]:
    """Best rate of the twin.

    Args:
        num_envs: Environments stepped together.
        length: Steps of each environment in one program.
        repeats: Timed runs of that program.
        options: Keywords of the twin.

    Returns:
        (environment steps per second, bytes that the program holds on the device)
    """
    env = BatchEnv(MobileRobotTwin(**options))

    def body(carry: Carry, key: jax.Array) -> tuple[Carry, None]:
        # The observation is carried as a driver carries it to the policy, so that every picture has to be drawn.
        state, _, total = carry
        actions = jax.random.randint(key, (num_envs,), 0, env.spec.action.n)
        state, step = env.step(state, actions)
        return (state, step.obs, total + step.reward), None

    def chunk(carry: Carry, key: jax.Array) -> Carry:
        return jax.lax.scan(body, carry, jax.random.split(key, length))[0]

    state, obs = jax.jit(env.reset)(jax.random.split(jax.random.key(0), num_envs))
    carry = (state, obs, jnp.zeros(num_envs, jnp.float32))
    program = jax.jit(chunk, donate_argnums=0).lower(carry, jax.random.key(1)).compile()
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    carry = jax.block_until_ready(program(carry, jax.random.key(1)))
    best = 0.0
    for repeat in range(repeats):
        start = time.perf_counter()
        carry = jax.block_until_ready(program(carry, jax.random.key(2 + repeat)))
        best = max(best, num_envs * length / (time.perf_counter() - start))
    return best, held


def pybullet_rate(length: int, repeats: int, options: dict[str, Any]) -> float:
    """Best rate of one PyBullet environment in this process, steps per second."""
    env = MobileRobotGymEnv(**options)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        for action in rng.integers(env.action_space.n, size=length):
            if env.step(action)[3]:
                env.reset()
        best = max(best, length / (time.perf_counter() - start))
    env.close()
    return best


def main() -> None:
    """Print one line for each kind of observation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    pixels = {"srl_model": "raw_pixels", "image_size": args.image_size}
    size = f"pictures {args.image_size}x{args.image_size}"
    cases: tuple[tuple[str, dict[str, Any], int, int, int], ...] = (
        ("states", {}, args.num_envs, 20 * EPISODE, 20 * EPISODE),
        (size, pixels, args.num_envs, EPISODE, 100),
        (f"{size} and first-person view", {**pixels, "fpv": True}, max(1, args.num_envs // 8), EPISODE, 50),
    )
    device = jax.devices()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, device {device.platform} {device.device_kind}; random policy")
    print(f"jax {jax.__version__}, best of {args.repeats}")
    for name, options, num_envs, twin_length, host_length in cases:
        twin, held = twin_rate(num_envs, twin_length, args.repeats, options)
        host = pybullet_rate(host_length, args.repeats, options)
        print(
            f"{name}, {num_envs} environments: twin {twin:,.0f} steps/s ({held / 2**20:,.1f} MiB on the device), "
            f"PyBullet {host:,.0f} steps/s on one core, ratio {twin / host:,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
