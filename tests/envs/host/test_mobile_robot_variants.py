"""The variants of the PyBullet mobile robot: two targets, one dimension, a line as the target."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from envs.make import EnvOptions
from envs.registry import registered_env, resolve
from launch.runtime.errors import UsageError
from launch.runtime.flags import parse_train_args
from launch.runtime.stages import HostScene

TWO, ONE_D, LINE = (f"MobileRobot{kind}GymEnv-v0" for kind in ("2Target", "1D", "LineTarget"))
TOWARDS_MINUS_X, TOWARDS_PLUS_X, TOWARDS_MINUS_Y, TOWARDS_PLUS_Y = range(4)


@pytest.fixture
def make():
    """Build environments by id that are closed when the test ends."""
    opened = []

    def build(env_id, **options):
        opened.append(resolve(registered_env[env_id][0])(**options))
        return opened[-1]

    yield build
    for env in opened:
        env.close()


@pytest.mark.parametrize(
    ("env_id", "obs", "actions"), [(TWO, 2, 4), (ONE_D, 1, 2), (LINE, 2, 4)], ids=["two", "one-d", "line"]
)
def test_spaces_and_length(make, env_id, obs, actions) -> None:
    env = make(env_id)
    assert env.observation_space.shape == (obs,) and env.action_space == gym.spaces.Discrete(actions)
    assert make(env_id, is_discrete=False).action_space.shape == (actions // 2,)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(251)]
    assert ends[:-1] == [(False, False)] * 250 and ends[-1] == (False, True)


def test_second_target_follows_the_first(make) -> None:
    env = make(TWO)
    obs, _ = env.reset(seed=0, options={"robot": (3.05, 3.0)})
    np.testing.assert_allclose(obs, (-0.55, 0.0), atol=1e-6)
    obs, reward, *_ = env.step(TOWARDS_PLUS_X)
    assert reward == 0.0
    obs, reward, *_ = env.step(TOWARDS_PLUS_X)
    assert reward == 1.0
    np.testing.assert_allclose(env.getTargetPos(), (0.4, 3.0), atol=1e-6)
    np.testing.assert_allclose(obs, (3.25 - 0.4, 0.0), atol=1e-6)
    rewards = [env.step(TOWARDS_MINUS_X)[1] for _ in range(40)]
    # Nothing more for the first target; within reach of the second to the wall, where moves are undone.
    reached = rewards.index(1.0)
    assert reached == 24 and rewards[:reached] == [0.0] * reached
    assert rewards[reached:] == [1.0] * 4 + [-1.0] * 12
    env.reset(seed=1)
    np.testing.assert_allclose(env.getTargetPos(), (3.6, 3.0), atol=1e-6)


def test_a_bump_at_the_first_target_is_punished_and_counts_as_reached(make) -> None:
    env = make(TWO)
    env.reset(seed=0, options={"robot": (3.5, 3.0)})
    assert env.step(TOWARDS_PLUS_X)[1] == -1.0
    np.testing.assert_allclose(env.getTargetPos(), (0.4, 3.0), atol=1e-6)


def test_shaped_reward_of_the_target_just_reached(make) -> None:
    env = make(TWO, shape_reward=True)
    env.reset(seed=0, options={"robot": (3.2, 3.0)})
    assert env.step(TOWARDS_PLUS_X)[1] == pytest.approx(-0.3, abs=1e-6)
    assert env.step(TOWARDS_PLUS_X)[1] == pytest.approx(-3.0, abs=1e-6)


def test_one_dimension(make) -> None:
    env = make(ONE_D, is_discrete=False)
    obs, _ = env.reset(seed=0, options={"robot": [2.0]})
    np.testing.assert_allclose(obs, [-1.6], atol=1e-6)
    obs, *_ = env.step(np.array([-0.5], np.float32))
    np.testing.assert_allclose(obs, [-1.65], atol=1e-6)
    env = make(ONE_D)
    env.reset(seed=0, options={"robot": [3.15]})
    rewards = [env.step(TOWARDS_PLUS_X)[1] for _ in range(6)]
    assert rewards == [1.0, 1.0, 1.0, 1.0, -1.0, -1.0]
    with pytest.raises(ValueError, match="is not an integer from 0 to 1"):
        env.step(2)
    starts = [env.reset(seed=seed)[0][0] + 3.6 for seed in range(200)]
    assert 2 / 3 <= min(starts) < 0.8 and 3.2 < max(starts) <= 10 / 3


def test_only_x_counts_for_a_line(make) -> None:
    env = make(LINE)
    obs, _ = env.reset(seed=0, options={"robot": (3.0, 2.0)})
    np.testing.assert_allclose(env.getTargetPos(), [3.4], atol=1e-6)
    np.testing.assert_allclose(obs, (-0.4, 2.0), atol=1e-6)
    env.reset(seed=0, options={"robot": (3.05, 1.0)})
    rewards = [env.step(TOWARDS_PLUS_X)[1] for _ in range(5)]
    assert rewards == [0.0, 0.0, 1.0, 1.0, 0.0]
    env = make(LINE, shape_reward=True)
    env.reset(seed=0, options={"robot": (2.0, 2.0)})
    assert env.step(TOWARDS_PLUS_Y)[1] == pytest.approx(-1.4, abs=1e-6)


@pytest.mark.parametrize("env_id", [TWO, ONE_D, LINE])
def test_random_targets_are_within_the_arena_and_differ(make, env_id) -> None:
    env = make(env_id, random_target=True)
    offset = 0.2 if env_id == LINE else 0.0
    drawn = []
    for seed in range(100):
        env.reset(seed=seed)
        drawn.append(env.getTargetPos() + offset)
    assert 0.4 <= np.min(drawn) < 0.6 and 3.4 < np.max(drawn) <= 3.6
    env.reset(seed=7)
    np.testing.assert_array_equal(env.getTargetPos() + offset, drawn[7])


def colours(picture: np.ndarray) -> dict[str, np.ndarray]:
    """Where a picture shows the yellow and the red target, as (row, column) of each pixel."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return {
        "yellow": np.argwhere((red > 100) & (green > 100) & (blue < 60)),
        "red": np.argwhere((red > 100) & (green < 60) & (blue < 60)),
    }


def pixel_of(x: float, y: float) -> tuple[float, float]:
    """(row, column) of a point of the floor in a 224x224 picture from above (2, 2): 44.09 pixels per metre."""
    return 111.5 + (x - 2) * 44.09, 111.5 + (y - 2) * 44.09


def test_pictures_show_the_targets(make) -> None:
    env = make(TWO, srl_model="raw_pixels")
    seen = colours(env.reset(seed=0, options={"robot": (2.0, 1.0)})[0])
    np.testing.assert_allclose(seen["yellow"].mean(0), pixel_of(3.6, 3.0), atol=2)
    disc = seen["red"][np.abs(seen["red"] - pixel_of(0.4, 3.0)).max(1) < 12]
    assert len(disc) > 100
    env = make(LINE, srl_model="raw_pixels")
    strip = colours(env.reset(seed=0, options={"robot": (1.0, 1.0), "target": [2.5]})[0])["yellow"]
    assert np.ptp(strip[:, 0]) == pytest.approx(0.5 * 44.09, abs=2) and np.ptp(strip[:, 1]) > 165
    assert strip[:, 0].mean() == pytest.approx(pixel_of(2.5, 2.0)[0], abs=1.5)
    env = make(ONE_D, srl_model="raw_pixels")
    disc = colours(env.reset(seed=0, options={"robot": [1.0]})[0])["yellow"]
    np.testing.assert_allclose(disc.mean(0), pixel_of(3.6, 2.0), atol=2)


@pytest.mark.parametrize("env_id", [TWO, ONE_D, LINE])
def test_a_plot_shows_the_relative_state(env_id) -> None:
    scene = HostScene(EnvOptions(env_id, random_target=True), seed=0, plot=True)
    obs = scene.reset()
    np.testing.assert_allclose(scene.position()[: len(obs)], obs, atol=1e-6)
    scene.close()


def test_command_line_knows_their_options() -> None:
    args = parse_train_args(f"--env={LINE} --random-target -c --algo=ppo2".split())
    assert args.env == LINE
    with pytest.raises(UsageError, match=f"--multi-view has no meaning for {TWO}"):
        parse_train_args(f"--env={TWO} --srl-model=raw_pixels --multi-view".split())
