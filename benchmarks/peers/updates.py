"""Updates per second of a peer, run by the peer's own Python: prints {"updates_per_second": ...} per stretch.

The settings are those of benchmarks/updates.py, as JSON. Compilation is not counted.
"""

import argparse
import json
import time


def sbx(algo: str, told: dict, updates: int, repeat: int) -> None:
    """Train with sbx on Gymnasium's environment."""
    import sbx as peer
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(told["env"], n_envs=told["num_envs"])
    policy = {"net_arch": told["net"]}
    if algo == "ppo2":
        model = peer.PPO("MlpPolicy", env, n_steps=told["steps"], n_epochs=told["epochs"], batch_size=told["batch"],
                         policy_kwargs=policy)  # fmt: skip
        steps = -(-updates // (4 * told["epochs"])) * told["steps"] * told["num_envs"]
        per_update = steps / (-(-updates // (4 * told["epochs"])) * 4 * told["epochs"])
        warm = told["steps"] * told["num_envs"]
    else:
        cls = {"sac": peer.SAC, "ddpg": peer.DDPG, "deepq": peer.DQN}[algo]
        model = cls("MlpPolicy", env, batch_size=told["batch"], buffer_size=told["replay"], train_freq=1,
                    gradient_steps=1, learning_starts=told["batch"], policy_kwargs=policy)  # fmt: skip
        per_update, steps = told["num_envs"], updates * told["num_envs"]
        warm = 3 * told["batch"] * told["num_envs"]
    model.learn(warm)
    for _ in range(repeat):
        before, started = model.num_timesteps, time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        played = model.num_timesteps - before
        print(json.dumps({"updates_per_second": played / per_update / (time.perf_counter() - started)}), flush=True)


def rejax(algo: str, told: dict, updates: int, repeat: int) -> None:
    """Train with rejax on gymnax's environment; evaluation is switched off as far as it allows."""
    import jax
    import rejax as peer

    num_envs = told["num_envs"]
    shared = {"env": told["env"], "num_envs": num_envs}
    if algo == "sac":
        shared["hidden_layer_sizes"] = told["net"]
    elif algo == "ppo2":
        shared["agent_kwargs"] = {"hidden_layer_sizes": told["net"]}
    else:  # it can be told no other
        assert told["net"] == [64, 64]
    if algo == "ppo2":
        iterations = -(-updates // (4 * told["epochs"]))
        updates = iterations * 4 * told["epochs"]
        total = iterations * told["steps"] * num_envs
        own = {"num_steps": told["steps"], "num_epochs": told["epochs"], "num_minibatches": 4}
    else:
        total = told["batch"] + updates * num_envs
        own = {
            "buffer_size": told["replay"],
            "fill_buffer": told["batch"],
            "batch_size": told["batch"],
            "num_epochs": 1,
        }
    name = {"sac": "sac", "deepq": "dqn", "ppo2": "ppo"}[algo]
    learner = peer.get_algo(name).create(total_timesteps=total, eval_freq=total, **shared, **own)
    train = jax.jit(learner.replace(eval_callback=lambda *_: ()).train)
    jax.block_until_ready(train(jax.random.PRNGKey(0)))
    for i in range(repeat):
        started = time.perf_counter()
        jax.block_until_ready(train(jax.random.PRNGKey(i)))
        print(json.dumps({"updates_per_second": updates / (time.perf_counter() - started)}), flush=True)


def main() -> None:
    """Time one peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("algo")
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--peer", choices=("sbx", "rejax"))
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    {"sbx": sbx, "rejax": rejax}[args.peer](args.algo, args.settings, args.updates, args.repeat)


if __name__ == "__main__":
    main()
