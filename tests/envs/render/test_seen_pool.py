"""Pictures of PyBullet environments drawn on the device: the same episodes, seen through the twin's renderer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.host.vec_env import VecEnv
from envs.host.vector import VectorPool
from envs.make import EnvOptions, host_factory, host_spec
from envs.render.seen_pool import SeenPool, observed
from launch.train import main

ENV = "MobileRobotGymEnv-v0"
SEEDS = [(3, 0), (3, 1), (3, 2)]
GROUPS = [[0, 2], [1]]


def options(**changes: Any) -> EnvOptions:
    return EnvOptions(ENV, srl_model="raw_pixels", image_size=40, random_target=True, **changes)


def pools(auto_reset: bool, **changes: Any) -> tuple[Any, SeenPool]:
    """One pool that draws in its workers and one that is drawn."""
    tiny, drawn = options(**changes), options(renderer="jax", **changes)

    def make(which: EnvOptions) -> VectorPool:
        return VectorPool(host_factory(which), SEEDS, groups=GROUPS, num_workers=1, auto_reset=auto_reset)

    return make(tiny), observed(make(drawn), drawn, None, auto_reset)


def assert_alike(got: np.ndarray, expected: np.ndarray) -> None:
    """Compare pictures [n, height, width, channels] frame by frame: empty frames of a stack are exactly so."""
    assert got.dtype == expected.dtype == np.uint8 and got.shape == expected.shape
    difference = np.abs(got.astype(int) - expected).mean(axis=(1, 2))
    assert difference.max() < 5.0
    np.testing.assert_array_equal(got.any(axis=(1, 2)), expected.any(axis=(1, 2)))


@pytest.mark.parametrize(
    ("changes", "auto_reset"),
    [
        ({"num_stack": 3}, True),
        pytest.param({"fpv": True}, False, marks=pytest.mark.slow),
        pytest.param({"num_stack": 3}, False, marks=pytest.mark.slow),
        pytest.param({"fpv": True}, True, marks=pytest.mark.slow),
    ],
    ids=["stack", "fpv-alone", "stack-alone", "fpv"],
)
def test_drawn_pictures_are_those_of_the_workers(auto_reset: bool, changes: dict[str, Any]) -> None:
    workers, drawn = pools(auto_reset, **changes)
    rng = np.random.default_rng(0)
    try:
        assert drawn.spec == host_spec(options(renderer="jax", **changes)) == host_spec(options(**changes))
        assert_alike(drawn.reset(0), workers.reset(0))
        ended = 0
        for step in range(255):
            for group, members in enumerate(GROUPS):
                actions = rng.integers(4, size=len(members))
                for pool in (workers, drawn):
                    pool.send(group, actions)
                theirs, ours = workers.receive(group), drawn.receive(group)
                for name in ("reward", "terminated", "truncated"):
                    np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
                under_way = step <= 250 or auto_reset  # the 251st step ends the episode
                if under_way and not 5 < step < 245:
                    assert_alike(ours.next_obs, theirs.next_obs)
                    assert_alike(ours.obs, theirs.obs)
                ended += int(theirs.truncated.sum())
        assert ended == 3
    finally:
        workers.close()
        drawn.close()


def test_own_learners_see_them_too() -> None:
    env = VecEnv(options(renderer="jax"), 2, seed=0, num_workers=1)
    try:
        first = env.reset()
        obs, _, _, info = env.step(np.array([0, 1]))
        assert first.shape == obs.shape == (2, 40, 40, 3) and first.std() > 10
        np.testing.assert_array_equal(obs, info["next_obs"])
    finally:
        env.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--env=MobileRobotGymEnv-v0", "--renderer=jax draws pictures: it needs --srl-model=raw_pixels"),
        ("--env=CarRacingGymEnv-v0 --srl-model=raw_pixels", "--renderer=jax does not know CarRacingGymEnv-v0"),
        ("--env=MobileRobotGymEnv-v0 --srl-model=raw_pixels --simulator=jax", "drawn so anyway"),
        ("--env=MobileRobotGymEnv-v0 --srl-model=raw_pixels --renderer=tinny", "tiny"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    if "tinny" not in words:
        words += " --renderer=jax"
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_training_on_drawn_pictures(tmp_path: Any) -> None:
    words = f"--algo=ppo2 --env={ENV} --srl-model=raw_pixels --image-size=40 --renderer=jax --num-cpu=2 --n-steps=16"
    words += " --num-timesteps=64 --num-workers=1 --no-vis --eval-episodes=1 --final-eval-episodes=1"
    assert main([*words.split(), f"--log-dir={tmp_path}"]) == 0
    assert list(tmp_path.rglob("ppo2_model/final"))


def test_the_arm_is_drawn_too() -> None:
    changes: dict[str, Any] = {"srl_model": "raw_pixels", "image_size": 64, "multi_view": True, "random_target": True}
    tiny, drawn = (EnvOptions("KukaButtonGymEnv-v0", renderer=name, **changes) for name in ("tiny", "jax"))
    workers = VectorPool(host_factory(tiny), SEEDS[:1], num_workers=1)
    ours = observed(VectorPool(host_factory(drawn), SEEDS[:1], num_workers=1), drawn, None, auto_reset=True)
    try:
        assert ours.spec == host_spec(tiny)
        pictures = [(ours.reset(0)[0], workers.reset(0)[0])]
        for action in (4, 0, 3, 4, 1):
            for pool in (ours, workers):
                pool.send(0, np.array([action]))
            pictures.append((ours.receive(0).next_obs[0].copy(), workers.receive(0).next_obs[0].copy()))
        for got, expected in pictures:
            assert np.abs(got.astype(int) - expected).mean() < 8.0
    finally:
        ours.close()
        workers.close()
