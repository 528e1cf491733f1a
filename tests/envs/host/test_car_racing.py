"""CarRacingGymEnv-v0: controls, state, rewards, ends of episodes, pictures and what is printed."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d import car_racing

from envs.host.car_racing import CarRacingEnv
from envs.make import EnvOptions, host_factory, host_spec
from envs.types import Box, Discrete, Spec

RIGHT, LEFT, GAS, BRAKE = range(4)


@pytest.fixture
def make():
    """Build environments that are closed when the test ends."""
    opened = []

    def build(**options):
        opened.append(CarRacingEnv(**options))
        return opened[-1]

    yield build
    for env in opened:
        env.close()


def play(env: CarRacingEnv, seed: int, actions) -> tuple[np.ndarray, np.ndarray]:
    """Observations [T + 1, ...] and rewards [T] of actions from a seed on."""
    obs = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        seen, reward, *_ = env.step(action)
        obs.append(seen)
        rewards.append(reward)
    return np.array(obs), np.array(rewards)


def drive(env: CarRacingEnv, obs: np.ndarray) -> np.ndarray:
    """Continuous action of a driver who looks at the state alone: steer to the target, gas below 30 m/s."""
    x, y, angle, speed, turn = obs
    bearing = math.atan2(x, -y) - angle  # of the target, which lies at (-x, -y); the car heads along (-sin, cos)
    bearing = (bearing + math.pi) % (2 * math.pi) - math.pi
    wanted = 30.0 if abs(bearing) < 0.3 else 15.0
    return np.array([-2.0 * bearing + 0.2 * turn, 0.3 * (speed < wanted), 0.3 * (speed > wanted + 5)], np.float32)


def test_specs() -> None:
    spec = host_spec(EnvOptions("CarRacingGymEnv-v0"))
    assert spec == Spec("CarRacingGymEnv-v0", (5,), "float32", Discrete(4), 10_000)
    options = EnvOptions("CarRacingGymEnv-v0", srl_model="raw_pixels", image_size=40, continuous=True)
    bounds = Box((-1.0,) * 3, (1.0,) * 3)
    assert host_spec(options) == Spec("CarRacingGymEnv-v0", (40, 40, 3), "uint8", bounds, 10_000)


@pytest.mark.parametrize("option", ["random_target", "shape_reward", "multi_view", "fpv"])
def test_options_without_meaning_are_refused(option) -> None:
    with pytest.raises(ValueError, match="has no meaning for CarRacingGymEnv-v0: leave it out"):
        host_factory(EnvOptions("CarRacingGymEnv-v0", **{option: True}))


@pytest.mark.parametrize("is_discrete", [True, False])
def test_rewards_and_motion_are_those_of_gymnasium(make, is_discrete) -> None:
    """A reference that draws at every step and has another mapping of actions."""
    rng = np.random.default_rng(0)
    if is_discrete:
        actions = rng.choice(4, size=60, p=(0.1, 0.2, 0.6, 0.1))
        theirs = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, 1)], np.float32)[actions]
    else:
        theirs = actions = rng.uniform(-1, 1, (60, 3)).astype(np.float32)
    obs, rewards = play(make(is_discrete=is_discrete), 4, actions)
    reference = car_racing.CarRacing(lap_complete_percent=1.0)
    reference.reset(seed=4)
    expected = [reference.step(action)[1] for action in theirs]
    np.testing.assert_array_equal(rewards, expected)
    hull = reference.car.hull
    np.testing.assert_allclose(obs[-1, 2:], (hull.angle, hull.linearVelocity.length, hull.angularVelocity), rtol=1e-6)
    reference.close()


def test_controls(make) -> None:
    env = make()
    env.reset(seed=0)
    for action, steer, gas, brake in ((RIGHT, 1, 0, 0), (LEFT, -1, 0, 0), (GAS, 0, 0.1, 0), (BRAKE, 0, 0, 1)):
        env.step(action)
        wheels = env._race.car.wheels
        assert (wheels[0].steer, wheels[2].gas, wheels[0].brake) == (-steer, gas, brake)


def test_state_is_relative_to_the_tile_five_ahead_of_the_nearest(make) -> None:
    env = make()
    obs, _ = env.reset(seed=2)
    track = np.array(env._race.track)
    np.testing.assert_allclose(env.getGroundTruth()[:2], track[0, 2:4], atol=0.1)
    np.testing.assert_array_equal(env.getTargetPos(), [*track[5, 2:4], 0, 0, 0])
    np.testing.assert_allclose(obs, env.getGroundTruth() - env.getTargetPos(), atol=1e-4)
    # Behind the last tile comes the first.
    env._race.car.hull.position = tuple(track[-2, 2:4])
    np.testing.assert_array_equal(env.getTargetPos()[:2], track[3, 2:4])


def test_speed_is_the_speed(make) -> None:
    """The original reported the hull's inertia, a constant."""
    env = make()
    env.reset(seed=0)
    before = env.getGroundTruth()
    states = np.array([(env.step(GAS), env.getGroundTruth())[1] for _ in range(50)])
    moved = np.linalg.norm(np.diff(states[:, :2], axis=0), axis=1) * car_racing.FPS
    assert before[3] < 1 < 20 < states[-1, 3]
    np.testing.assert_allclose(states[1:, 3], moved, rtol=1e-3, atol=1e-3)


def test_a_driver_who_sees_the_state_completes_the_lap(make) -> None:
    env = make(is_discrete=False)
    obs, _ = env.reset(seed=1)
    total, steps, terminated = 0.0, 0, False
    while not terminated and steps < 3000:
        obs, reward, terminated, truncated, _ = env.step(drive(env, obs))
        total, steps = total + reward, steps + 1
        assert not truncated
    assert terminated and total == pytest.approx(1000 - 0.1 * steps, abs=1e-6)


def test_leaving_the_field_costs_100_and_ends_the_episode(make) -> None:
    env = make(is_discrete=False)
    env.reset(seed=0)
    reward, steps, terminated = 0.0, 0, False
    while not terminated and steps < 5000:  # straight on, gently: full gas would make the car spin
        _, reward, terminated, _, _ = env.step(np.array([0.0, 0.05, 0.0], np.float32))
        steps += 1
    assert terminated and reward == -100.0
    assert np.abs(env.getGroundTruth()[:2]).max() > car_racing.PLAYFIELD


def test_episodes_are_cut_after_ten_thousand_steps(make) -> None:
    env = make()
    env.reset(seed=0)
    ends = [env.step(BRAKE)[2:4] for _ in range(10_000)]
    assert ends[:-1] == [(False, False)] * 9_999 and ends[-1] == (False, True)


def test_the_same_seed_gives_the_same_episode_whatever_came_before(make) -> None:
    actions = np.random.default_rng(1).choice(4, size=80, p=(0.15, 0.15, 0.6, 0.1))
    env = make()
    first = play(env, 7, actions)
    other = play(env, 8, actions)
    for again in (play(env, 7, actions), play(make(), 7, actions)):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("size", [1, 2, 36, 84, 224])
def test_pictures_show_gymnasiums_made_square(make, size) -> None:
    env = make(srl_model="raw_pixels", image_size=size, render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(60):  # the view zooms in for a second
        obs = env.step(GAS)[0]
    assert obs.dtype == np.uint8 and obs.shape == (size, size, 3)
    np.testing.assert_array_equal(obs, env.render())
    theirs = car_racing.CarRacing._render(env._race, "rgb_array")
    assert theirs.shape == (400, 600, 3)
    np.testing.assert_allclose(obs.mean((0, 1)), theirs.mean((0, 1)), atol=4)
    if size > 8:
        below = obs[-size // 8 :]
        assert below.mean() < 60, "the bar is black"
        assert (np.ptp(obs.astype(int), axis=-1) > 80).any(), "grass or car"


def test_pictures_are_drawn_only_when_asked_for(make, monkeypatch) -> None:
    drawn = []
    draw = car_racing.CarRacing._render_road
    monkeypatch.setattr(car_racing.CarRacing, "_render_road", lambda *args: drawn.append(1) or draw(*args))
    play(make(render_mode="rgb_array"), 0, [GAS] * 3)
    assert not drawn
    play(make(srl_model="raw_pixels", image_size=36), 0, [GAS] * 3)
    assert len(drawn) == 4


def test_closed_environment_can_be_reset(make) -> None:
    env = make()
    first, _ = env.reset(seed=3)
    env.close()
    env.close()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)


@pytest.mark.parametrize("action", [4, -1, 0.5, "gas", None])
def test_other_actions_are_refused(make, action) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="is not an integer from 0 to 3"):
        env.step(action)


def test_actions_of_another_shape_are_refused(make) -> None:
    env = make(is_discrete=False)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2,\) was given: expected \(3,\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match="not made of finite numbers"):
        env.step(np.array([0.0, np.nan, 0.0]))


def test_making_it_prints_nothing_and_chooses_no_video_driver() -> None:
    code = (
        "import os, sys; from envs.make import EnvOptions, host_factory\n"
        "env = host_factory(EnvOptions(sys.argv[1], continuous=True))(); env.reset(seed=0); env.close()\n"
        "assert 'SDL_VIDEODRIVER' not in os.environ and 'pygame' in sys.modules\n"
        "assert not {'jax', 'pybullet'} & set(sys.modules)"
    )
    unset = ("SDL_VIDEODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    for env_id in ("CarRacingGymEnv-v0", "CarRacing-v3"):
        done = subprocess.run([sys.executable, "-c", code, env_id], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), env_id
