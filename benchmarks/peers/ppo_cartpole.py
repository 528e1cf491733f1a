"""Speed of a peer's PPO on CartPole, run by the peer's own Python: prints a line of JSON for each training.

The settings are those of benchmarks/ppo_cartpole.py. Compilation is timed apart and not counted. Of what a peer
returns only one number for each seed leaves the program, so that a sweep of many seeds fits.
"""

import argparse
import json
import sys
import time
import types

import jax


def purejaxrl(checkout: str, num_envs: int, total: int):
    """Return purejaxrl's training of a seed; `checkout` is the root of its source tree."""
    jax.tree_map = jax.tree.map  # removed from jax since; the only change it needs
    # Imported for its wrappers of other environments.
    for absent in ("navix", "brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training"):
        sys.modules[absent] = types.ModuleType(absent)
    sys.modules["brax"].envs = sys.modules["brax.envs"]
    wrappers = sys.modules["brax.envs.wrappers.training"]
    wrappers.EpisodeWrapper = wrappers.AutoResetWrapper = object
    sys.path.insert(0, f"{checkout}/purejaxrl")
    from ppo import make_train

    config = {
        "LR": 2.5e-4,
        "NUM_ENVS": num_envs,
        "NUM_STEPS": 128,
        "TOTAL_TIMESTEPS": total,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1",
        "ANNEAL_LR": True,
    }
    train = make_train(config)
    return lambda key: train(key)["metrics"]["returned_episode_returns"].mean()


def rejax(num_envs: int, total: int):
    """Return rejax's training of a seed; evaluation is switched off as far as it allows."""
    import rejax as peer

    algo = (
        peer.get_algo("ppo")
        .create(
            env="CartPole-v1",
            num_envs=num_envs,
            num_steps=128,
            num_epochs=4,
            num_minibatches=4,
            total_timesteps=total,
            eval_freq=total,
            learning_rate=2.5e-4,
            gamma=0.99,
            gae_lambda=0.95,
            clip_eps=0.2,
            ent_coef=0.01,
            vf_coef=0.5,
            max_grad_norm=0.5,
        )
        .replace(eval_callback=lambda *_: ())
    )
    return lambda key: jax.tree.reduce(lambda total, leaf: total + leaf.sum(), algo.train(key)[0].actor_ts.params, 0.0)


def main() -> None:
    """Time one peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("purejaxrl", "rejax"))
    parser.add_argument("--checkout", default="")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    total = args.steps // (128 * args.num_envs) * 128 * args.num_envs
    if args.peer == "purejaxrl":
        train = purejaxrl(args.checkout, args.num_envs, total)
    else:
        train = rejax(args.num_envs, total)
    keys = [jax.random.split(jax.random.PRNGKey(i), args.num_seeds) for i in range(args.repeat)]
    started = time.perf_counter()
    program = jax.jit(jax.vmap(train)).lower(keys[0]).compile()
    compiling = time.perf_counter() - started
    for key in keys:
        started = time.perf_counter()
        jax.block_until_ready(program(key))
        seconds = time.perf_counter() - started
        speed = total * args.num_seeds / seconds
        print(json.dumps({"steps_per_second": speed, "seconds": seconds, "compile_seconds": compiling}), flush=True)


if __name__ == "__main__":
    main()
