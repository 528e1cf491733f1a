"""Training on a learned representation in PyBullet, beside its two parts alone, measured in turn in one run.

    python benchmarks/representations_rl.py --env MobileRobotGymEnv-v0 --num-envs 8 --image-size 64 [--renderer jax]

The parts are: the worker pool with random actions and pictures, drawn by the same renderer, and the encoder on pictures
of a group. The encoder is untrained (a custom_cnn): how fast it is does not depend on its weights. Prints steps/s of
each and the ratio of the training to the slower part.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents.registry import algorithm_class
from envs.host.vector import VectorPool
from envs.make import EnvOptions, host_factory, host_spec
from envs.render.seen_pool import observed
from launch.runtime.srl_models import encoding_of
from launch.runtime.sweep import plan
from launch.runtime.training import build_driver
from representations.encoder import EncoderSpec, save_encoder
from representations.models import make_encoder


def write_model(folder: Path, args: argparse.Namespace) -> Path:
    """An encoder with random weights."""
    spec = EncoderSpec(args.env, args.image_size, 3, args.state_dim, args.model_type, "plain", ("random",))
    pictures = jnp.zeros((1, args.image_size, args.image_size, 3))
    params = make_encoder(args.model_type, "plain", args.state_dim).init(jax.random.key(0), pictures, False)
    return save_encoder(folder, spec, params)


class Simulation:
    """A pool that shows pictures, in two groups as the host driver has them."""

    def __init__(self, options: EnvOptions, num_envs: int, workers: int) -> None:
        groups = [list(range(first, num_envs, 2)) for first in range(2)]
        seeds = [(0, index) for index in range(num_envs)]
        pool = VectorPool(host_factory(options), seeds, groups=groups, num_workers=workers)
        self._pool = observed(pool, options, None, auto_reset=True)
        self._actions = np.random.default_rng(0).integers(0, pool.spec.action.n, (2, num_envs // 2))
        self._pool.reset()
        for group in range(2):
            self._pool.send(group, self._actions[group])

    def __call__(self, steps: int) -> float:
        """Seconds for so many steps of every environment."""
        started = time.perf_counter()
        for _ in range(steps):
            for group in range(2):
                self._pool.receive(group)
                self._pool.send(group, self._actions[group])
        return time.perf_counter() - started

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="MobileRobotGymEnv-v0")
    parser.add_argument("--algo", default="ppo2")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--state-dim", type=int, default=200)
    parser.add_argument("--model-type", default="custom_cnn")
    parser.add_argument("--renderer", default="tiny", choices=("tiny", "jax"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=1, help="rollouts of a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.num_envs < 2 or args.num_envs % 2:
        parser.error(f"--num-envs={args.num_envs}: an even number, for two groups of the same size")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder), args)
        options = EnvOptions(
            args.env,
            srl_model="random",
            srl_model_path=str(model),
            image_size=args.image_size,
            random_target=True,
            renderer=args.renderer,
        )
        algorithm = algorithm_class(args.algo)()
        config, hyper = algorithm.configure({"num_cpu": args.num_envs})
        driver = build_driver(algorithm, options, config, plan(hyper, {}, 0, 1), 10**6, args.processes)
        encoding = encoding_of(options)
        assert encoding is not None and host_spec(options.seen()).obs_dtype == "uint8"
        simulation = Simulation(options.seen(), args.num_envs, args.processes)
        encode = jax.jit(encoding.encode)
        group = np.zeros((args.num_envs // 2, args.image_size, args.image_size, 3), np.uint8)
        steps = args.iterations * driver.agent.traits.rollout_length
        driver.run(1)
        encode(group).block_until_ready()
        rates: dict[str, list[float]] = {"simulation": [], "encoding": [], "training": []}
        for _ in range(args.rounds):
            rates["simulation"].append(steps * args.num_envs / simulation(steps))
            started = time.perf_counter()
            for _ in range(2 * steps):
                np.asarray(encode(group))
            rates["encoding"].append(steps * args.num_envs / (time.perf_counter() - started))
            started = time.perf_counter()
            for _ in range(args.iterations):
                driver.run(1)
            rates["training"].append(steps * args.num_envs / (time.perf_counter() - started))
        simulation.close()
        driver.close()
    slower = [min(pair) for pair in zip(rates["simulation"], rates["encoding"], strict=True)]
    ratios = [ours / part for ours, part in zip(rates["training"], slower, strict=True)]
    said = ", ".join(f"{name} {statistics.median(values):,.0f} steps/s" for name, values in rates.items())
    print(
        f"{args.env}, {args.algo}, {args.num_envs} environments, {args.image_size} pixels ({args.renderer}), "
        f"{args.model_type} S={args.state_dim}: {said}; training is {statistics.median(ratios):.2f} of the slower part "
        f"(min {min(ratios):.2f}, max {max(ratios):.2f} over {args.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
