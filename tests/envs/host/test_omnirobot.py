"""The Omnirobot on the host: spaces, motion, noise, rewards, resets and pictures."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401  registers the ids
from envs.host.goal_env import GoalEnv
from envs.host.omnirobot import OmniRobotEnv
from envs.make import EnvOptions, host_factory

FORWARD, BACKWARD, LEFT, RIGHT = range(4)  # +x, -x, +y, -y


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_discrete": False},
        {"random_target": True, "shape_reward": True},
        {"noise": False},
        {"srl_model": "raw_pixels"},
        {"srl_model": "raw_pixels", "image_size": 32, "is_discrete": False, "random_target": True},
    ],
)
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is -?infinity")
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
@pytest.mark.filterwarnings("error")
def test_gymnasium_checker_accepts_it(options) -> None:
    check_env(OmniRobotEnv(render_mode="rgb_array", **options))


def test_gymnasium_makes_it_by_id() -> None:
    env = gym.make("OmnirobotEnv-v0", srl_model="raw_pixels", image_size=16)
    assert isinstance(env.unwrapped, OmniRobotEnv) and isinstance(env.unwrapped, GoalEnv)
    assert env.reset(seed=0)[0].shape == (16, 16, 3)
    env.close()


def test_it_needs_neither_pybullet_nor_jax() -> None:
    code = "; ".join(
        [
            "import sys",
            "from envs.make import EnvOptions, host_factory",
            "env = host_factory(EnvOptions('OmnirobotEnv-v0', srl_model='raw_pixels', image_size=16))()",
            "env.reset(seed=0)",
            "print(env.step(0)[0].shape, [name for name in ('jax', 'pybullet') if name in sys.modules])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(16, 16, 3) []\n"


def test_discrete_moves_and_relative_state() -> None:
    env = OmniRobotEnv(noise=False)
    obs, _ = env.reset(seed=0, options={"robot": (0.1, 0.2), "target": (0.5, -0.3)})
    np.testing.assert_allclose(obs, (-0.4, 0.5), atol=1e-6)
    for action, position in (
        (FORWARD, (0.2, 0.2)),
        (LEFT, (0.2, 0.3)),
        (BACKWARD, (0.1, 0.3)),
        (RIGHT, (0.1, 0.2)),
    ):
        obs, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_allclose(env.getGroundTruth(), position, atol=1e-6)
        np.testing.assert_allclose(obs, np.subtract(position, (0.5, -0.3)), atol=1e-6)
        assert (reward, terminated, truncated) == (0.0, False, False)


def test_continuous_actions_are_clipped() -> None:
    env = OmniRobotEnv(is_discrete=False, noise=False)
    env.reset(seed=0, options={"robot": (0.0, 0.0)})
    env.step(np.array([5.0, -0.5], np.float32))
    np.testing.assert_allclose(env.getGroundTruth(), (0.1, -0.05), atol=1e-6)


@pytest.mark.parametrize(
    ("start", "action"),
    [((0.8, 0.0), FORWARD), ((-0.8, 0.0), BACKWARD), ((0.0, 0.8), LEFT), ((0.0, -0.8), RIGHT)],
)
def test_a_move_out_of_bounds_is_not_made_and_punished_except_at_the_target(start, action) -> None:
    env = OmniRobotEnv(noise=False)
    env.reset(seed=0, options={"robot": start, "target": (0.0, 0.0)})
    before = env.getGroundTruth()
    assert env.step(action)[1] == -1.0
    np.testing.assert_array_equal(env.getGroundTruth(), before)
    assert env.step(action ^ 1)[1] == 0.0
    env.reset(options={"robot": start, "target": start})
    assert env.step(action)[1] == 1.0  # reaching the target counts more than the bump


def test_only_the_coordinate_that_changes_is_checked() -> None:
    env = OmniRobotEnv(noise=False)
    env.reset(seed=0, options={"robot": (0.86, 0.0), "target": (-0.5, 0.0)})  # as noise may bring it
    assert env.step(LEFT)[1] == 0.0 and env.step(BACKWARD)[1] == 0.0
    both = OmniRobotEnv(noise=False, is_discrete=False)
    both.reset(seed=0, options={"robot": (0.86, 0.0), "target": (-0.5, 0.0)})
    assert both.step(np.array([0.0, 1.0], np.float32))[1] == -1.0
    assert both.step(np.array([-0.5, 1.0], np.float32))[1] == 0.0


def test_the_bound_itself_is_out_of_bounds() -> None:
    env = OmniRobotEnv(noise=False, is_discrete=False)
    for x, reward in ((0.8499, 0.0), (0.8501, -1.0)):
        env.reset(seed=0, options={"robot": (x - 0.05, 0.0), "target": (-0.5, 0.0)})
        assert env.step(np.array([0.5, 0.0], np.float32))[1] == reward


def test_reward_reaches_twenty_centimetres() -> None:
    env = OmniRobotEnv(noise=False)
    for distance, reward in ((0.299, 1.0), (0.301, 0.0)):
        env.reset(seed=0, options={"robot": (-distance, 0.0), "target": (0.0, 0.0)})
        assert env.step(FORWARD)[1] == reward


def test_shaped_reward_is_the_distance_even_in_a_bump() -> None:
    env = OmniRobotEnv(shape_reward=True, noise=False)
    env.reset(seed=0, options={"robot": (0.8, -0.4), "target": (0.5, 0.0)})
    assert env.step(FORWARD)[1] == pytest.approx(-0.5, abs=1e-6)


def test_episode_is_truncated_by_its_251st_step() -> None:
    env = OmniRobotEnv(random_target=True)
    env.reset(seed=0)
    flags = [env.step(step % 4)[2:4] for step in range(env.max_episode_steps)]
    assert flags == [(False, False)] * 250 + [(False, True)]


def test_noise_of_positions_is_drawn_anew_and_does_not_add_up() -> None:
    env = OmniRobotEnv()
    env.reset(seed=0, options={"robot": (0.0, 0.0)})
    offsets, yaws = [], []
    for step in range(4000):
        action = (FORWARD, BACKWARD)[step % 2]
        env.step(action)
        offsets.append(env.getGroundTruth() - (0.1 if action == FORWARD else 0.0, 0.0))
        yaws.append(env._robot_pose[0])
    np.testing.assert_allclose(np.std(offsets, axis=0), 0.01, rtol=0.05)
    np.testing.assert_allclose(np.mean(offsets, axis=0), 0.0, atol=0.001)
    assert np.rad2deg(np.std(yaws)) == pytest.approx(2.5, rel=0.05)
    assert np.abs(np.corrcoef(np.array(offsets[:-1])[:, 0], np.array(offsets[1:])[:, 0])[0, 1]) < 0.1


def test_an_undone_move_leaves_the_noise_as_it_was() -> None:
    env = OmniRobotEnv()
    env.reset(seed=0, options={"robot": (0.84, 0.0)})
    before = env.getGroundTruth(), env._robot_pose.copy()
    env.step(FORWARD)
    np.testing.assert_array_equal(env.getGroundTruth(), before[0])
    np.testing.assert_array_equal(env._robot_pose, before[1])


def test_seed_fixes_episodes_and_reset_covers_the_ranges() -> None:
    first, second = OmniRobotEnv(random_target=True), OmniRobotEnv(random_target=True)
    np.testing.assert_array_equal(first.reset(seed=5)[0], second.reset(seed=5)[0])
    for _ in range(3):
        np.testing.assert_array_equal(first.step(FORWARD)[0], second.step(FORWARD)[0])
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    robots, targets, yaws, sizes = [], [], [], []
    for _ in range(2000):
        first.reset()
        robots.append(first._command)
        targets.append(first.getTargetPos())
        yaws.append(first._target_pose[0])
        sizes.append((first._robot_pose[1], first._target_pose[1]))
    for drawn in (robots, targets):
        np.testing.assert_allclose(np.min(drawn, axis=0), -0.7, atol=0.01)
        np.testing.assert_allclose(np.max(drawn, axis=0), 0.7, atol=0.01)
    assert (min(yaws), max(yaws)) == pytest.approx((-np.pi, np.pi), abs=0.02)
    np.testing.assert_allclose(np.mean(sizes, axis=0), 1.0, atol=0.01)
    np.testing.assert_allclose(np.std(sizes, axis=0), 0.05, rtol=0.1)


def test_fixed_target() -> None:
    env = OmniRobotEnv()
    for seed in range(3):
        env.reset(seed=seed)
        np.testing.assert_allclose(env.getTargetPos(), (0.5, -0.3), atol=1e-6)


def play(env: OmniRobotEnv, look: bool) -> np.ndarray:
    """Positions of an episode, pictures looked at or not."""
    env.reset(seed=3)
    places = []
    for step in range(5):
        places.append(env.getGroundTruth())
        env.step(step % 4)
        if look:
            env.render()
    return np.array(places)


def test_looking_does_not_change_what_happens() -> None:
    blind = play(OmniRobotEnv(), look=False)
    np.testing.assert_array_equal(blind, play(OmniRobotEnv(render_mode="rgb_array", image_size=16), look=True))
    np.testing.assert_array_equal(blind, play(OmniRobotEnv(srl_model="raw_pixels", image_size=16), look=False))


def test_a_step_has_one_picture() -> None:
    env = OmniRobotEnv(srl_model="raw_pixels", image_size=48, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), obs)
    env.render()[:] = 0
    np.testing.assert_array_equal(env.render(), obs)
    after = env.step(FORWARD)[0]
    np.testing.assert_array_equal(env.render(), after)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, obs)
    np.testing.assert_array_equal(env.step(FORWARD)[0], after)


def test_every_picture_has_its_own_light_and_tint() -> None:
    env = OmniRobotEnv(srl_model="raw_pixels", image_size=64)
    frames = [env.reset(seed=0)[0]] + [env.step(FORWARD ^ (step % 2))[0] for step in range(60)]
    floor = np.array(frames)[:, 2:8, 2:8].mean((1, 2))
    assert np.all(floor.std(0) > 2)
    clean = OmniRobotEnv(srl_model="raw_pixels", image_size=64, noise=False)
    frames = [clean.reset(seed=0)[0]] + [clean.step(FORWARD ^ (step % 2))[0] for step in range(4)]
    np.testing.assert_array_equal(frames[0], frames[2])
    np.testing.assert_array_equal(frames[1], frames[3])


def test_states_are_observed_without_a_picture(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(OmniRobotEnv, "_draw", refuse)
    env = OmniRobotEnv()
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(AssertionError, match="a picture was drawn"):
        OmniRobotEnv(srl_model="raw_pixels").reset(seed=0)


def test_a_greedy_controller_earns_what_the_task_allows() -> None:
    env = OmniRobotEnv(random_target=True)
    returns = []
    for seed in range(100):
        obs, _ = env.reset(seed=seed)
        total, truncated = 0.0, False
        while not truncated:
            axis = int(abs(obs[1]) > abs(obs[0]))
            obs, reward, _, truncated, _ = env.step(2 * axis + int(obs[axis] > 0))
            total += reward
        returns.append(total)
    assert np.mean(returns) == pytest.approx(244.8, abs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"srl_model": "joints"}, "unknown srl_model 'joints': choose one of ground_truth, raw_pixels"),
        ({"action_repeat": 2}, "action_repeat is 2"),
        ({"image_size": 0}, "image_size is 0"),
        ({"render_mode": "human"}, "unknown render_mode 'human': choose None, rgb_array"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        OmniRobotEnv(**options)


def test_options_are_passed_on_and_others_refused() -> None:
    env = host_factory(EnvOptions("OmnirobotEnv-v0", continuous=True, random_target=True, shape_reward=True))()
    targets = []
    for seed in (0, 1):
        env.reset(seed=seed)
        targets.append(env.unwrapped.getTargetPos())
    assert not np.allclose(*targets) and env.step(np.zeros(2, np.float32))[1] < 0
    with pytest.raises(ValueError, match=r"^--fpv has no meaning for OmnirobotEnv-v0: leave it out$"):
        host_factory(EnvOptions("OmnirobotEnv-v0", fpv=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, "unknown reset option 'speed': choose robot or target"),
        ({"robot": (1.0,)}, "reset option robot"),
        ({"target": (1.0, float("nan"))}, "reset option target"),
    ],
)
def test_bad_reset_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        OmniRobotEnv().reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("is_discrete", "action"),
    [(True, 4), (True, -1), (True, 1.5), (True, np.array([1])), (False, 1), (False, [0.0, 0.0, 0.0])],
)
def test_bad_actions_are_refused(is_discrete, action) -> None:
    env = OmniRobotEnv(is_discrete=is_discrete)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


@pytest.mark.parametrize("name", ["getTargetPos", "getGroundTruth", "getSRLState", "render"])
def test_nothing_is_told_before_the_first_reset(name) -> None:
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) first"):
        getattr(OmniRobotEnv(render_mode="rgb_array"), name)()
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) first"):
        OmniRobotEnv().step(0)
