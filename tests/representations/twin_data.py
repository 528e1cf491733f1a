"""Small datasets of the mobile robot's twin, played at random."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from envs.device.mobile_robot import MobileRobotTwin
from representations.dataset import Dataset
from representations.dataset_writer import DatasetWriter


@lru_cache
def twin_dataset(episodes: int = 4, length: int = 60, size: int = 24, fpv: bool = False) -> Dataset:
    """Random moves from near the target, so that there are rewards."""
    env = MobileRobotTwin(srl_model="raw_pixels", image_size=size, fpv=fpv)
    targets = np.random.default_rng(0).uniform(1.2, 2.8, (episodes, 2)).astype(np.float32)

    def play(key, target):
        where, moves = jax.random.split(key)
        robot = target + jax.random.uniform(where, (2,), minval=-0.5, maxval=0.5)
        actions = jax.random.randint(moves, (length,), 0, 4)

        def step(state, action):
            after, result = env.step(state, action)
            return after, (env.observe(state), result.reward, state.robot)

        return actions, *jax.lax.scan(step, env.situation(robot, target), actions)[1]

    keys = jax.random.split(jax.random.key(1), episodes)
    actions, frames, rewards, robots = jax.jit(jax.vmap(play))(keys, jnp.asarray(targets))
    starts = np.zeros((episodes, length), bool)
    starts[:, 0] = True
    flat = [np.asarray(x).reshape(-1, *x.shape[2:]) for x in (frames, actions, rewards, starts, robots)]
    config = {
        "env_id": "MobileRobotGymEnv-v0",
        "image_size": size,
        "channels": 6 if fpv else 3,
        "num_actions": 4,
        "relative_pos": True,
        "max_distance": None,
    }
    return Dataset("twin", Path("twin"), *flat, targets, config)


def written(folder: Path, data: Dataset, layout: str = "compact") -> Path:
    """Write a dataset and return its folder."""
    writer = DatasetWriter(folder, data.config, {"seed": 0, "num_episode": len(data.targets)}, layout)
    for episode, target in enumerate(data.targets):
        rows = data.episodes == episode
        parts = [x[rows] for x in (data.frames, data.actions, data.rewards, data.ground_truth)]
        writer.add_episode(*parts, target)
    writer.seal()
    return folder
