"""The environments that are real robots, each over its own server: spaces, commands, rewards, ends, pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.host.baxter import BaxterEnv
from envs.host.real_omnirobot import RealOmniRobotEnv
from envs.host.resize import resize_area
from envs.host.robobo import RoboboEnv
from envs.host.robot_client import RobotError, Timeouts
from envs.host.robot_env import RobotEnv
from envs.host.vector import VectorPool, WorkerError
from envs.make import EnvOptions, host_factory, host_spec
from tests.envs.host.robot_server import (
    BUTTON,
    SERVED_PICTURE,
    Baxter,
    Omnirobot,
    Robobo,
    RobotServer,
    served_picture,
)

ROBOTS: dict[type[RobotEnv], Any] = {BaxterEnv: Baxter, RoboboEnv: Robobo, RealOmniRobotEnv: Omnirobot}


@contextmanager
def played(cls: type[RobotEnv], server: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[Any, Any]]:
    """(environment, its server)."""
    with RobotServer(ROBOTS[cls](), **(server or {})) as running:
        env = cls(real_robot=running.address, **options)
        with closing(env):
            yield env, running


def fixed(**state: Any) -> dict[str, Any]:
    """A server whose every answer has these values."""

    def answer(number: int, honest: list[bytes]) -> list[bytes]:
        return [json.dumps({**json.loads(honest[0]), **state}).encode(), *honest[1:]]

    return {"answer": answer}


CASES = [
    (BaxterEnv, {}),
    (BaxterEnv, {"is_discrete": False, "shape_reward": True}),
    (BaxterEnv, {"srl_model": "raw_pixels", "image_size": 36, "render_mode": "rgb_array"}),
    (RoboboEnv, {}),
    (RoboboEnv, {"srl_model": "raw_pixels", "image_size": 40}),
    (RealOmniRobotEnv, {}),
    (RealOmniRobotEnv, {"is_discrete": False}),
    (RealOmniRobotEnv, {"srl_model": "raw_pixels", "image_size": 36}),
]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(("cls", "options"), CASES)
def test_gymnasium_accepts_the_environment(cls: type[RobotEnv], options: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(Robobo, "reset", still)  # the checker wants equal seeds to give equal starts
    with played(cls, **options) as (env, _):
        check_env(env)


def still(robot: Robobo) -> dict[str, Any]:
    """A reset by a person who carries the robot back."""
    robot.position = (0, 0)
    return robot.state(0)


@pytest.mark.parametrize(
    ("cls", "steps"), [(BaxterEnv, 101), (RoboboEnv, 21), (RealOmniRobotEnv, 251)], ids=["101", "21", "251"]
)
def test_an_episode_is_cut_after_its_last_step(cls: type[RobotEnv], steps: int) -> None:
    with played(cls, fixed(reward=0, position=[0.0] * cls.POSITION_SIZE), image_size=8) as (env, _):
        assert env.max_episode_steps == steps
        for _ in range(2):
            env.reset()
            ends = [env.step(0)[2:4] for _ in range(steps)]
            assert ends == [(False, False)] * (steps - 1) + [(False, True)]


def test_the_connection_is_opened_by_the_first_reset_and_closed_with_exit() -> None:
    with RobotServer(Baxter()) as server:
        env = BaxterEnv(real_robot=server.address)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(0)
        for question in (env.getTargetPos, env.getGroundTruth, env.getSRLState):
            with pytest.raises(gym.error.ResetNeeded):
                question()
        assert not server.commands
        env.reset()
        env.reset()
        env.close()
        env.close()
        assert server.ended()
    assert server.commands == [{"command": "reset"}, {"command": "reset"}, {"command": "exit"}]


# --- Baxter ----------------------------------------------------------------------------------------------------------


def test_baxter_is_sent_displacements_of_2_cm_and_none_upwards() -> None:
    with played(BaxterEnv) as (env, server):
        env.reset()
        for action in range(5):
            env.step(np.int64(action))
        sent = [command["action"] for command in server.commands[1:]]
    moves = [[-0.02, 0, 0], [0.02, 0, 0], [0, -0.02, 0], [0, 0.02, 0], [0, 0, -0.02]]
    assert np.allclose(sent, moves, atol=1e-12)


def test_baxter_takes_continuous_actions_and_never_moves_farther_than_2_cm() -> None:
    with played(BaxterEnv, is_discrete=False) as (env, server):
        env.reset()
        for action in ([0.5, -0.25, 1.0], [9.0, -9.0, 0.0]):
            env.step(np.array(action, np.float32))
        sent = [command["action"] for command in server.commands[1:]]
        for bad in ([0.0, 0.0], [np.nan, 0.0, 0.0], [0.0, np.inf, 0.0], 1):
            with pytest.raises(ValueError, match="is not 3 finite numbers"):
                env.step(np.array(bad))
        assert len(server.commands) == 3
    assert np.allclose(sent, [[0.01, -0.005, 0.02], [0.02, -0.02, 0.0]])


def test_baxter_observes_the_hand_relative_to_the_button_and_ends_with_the_second_touch() -> None:
    with played(BaxterEnv) as (env, _):
        state, _ = env.reset()
        start = np.subtract([0.69850, 0.14506, 0.0303], BUTTON)
        assert state.dtype == np.float32 and np.allclose(state, start, atol=1e-6)
        rewards, done = [], False
        while not done:
            _, reward, done, truncated, _ = env.step(4)
            rewards.append(reward)
            assert not truncated
        # 0.142 m above; each step 0.02 m lower, and touched below 0.035 m.
        assert rewards == [0.0] * 5 + [1.0, 1.0]
        env.reset()
        assert [env.step(4)[2] for _ in range(6)] == [False] * 6  # contacts are counted anew


@pytest.mark.parametrize(
    ("position", "reward", "terminated"),
    [
        ([0.7090, 0.1383, 0.0682], 0.0, False),  # 0.1799 m above the button
        ([0.7090, 0.1383, 0.0684], -1.0, False),  # 0.1801 m
        ([0.7090, 0.1383, -0.1099], 1.0, False),
        ([0.7090, 0.1383, -0.1101], -1.0, True),  # in the table
    ],
)
def test_baxter_is_fined_for_distance_and_for_the_table(position: list[float], reward: float, terminated: bool) -> None:
    touch = fixed(position=position, reward=int(reward == 1.0))
    distance = float(np.linalg.norm(np.subtract(position, BUTTON)))
    for shape_reward in (False, True):
        with played(BaxterEnv, touch, shape_reward=shape_reward) as (env, _):
            env.reset()
            _, paid, ended, _, _ = env.step(0)
            assert paid == pytest.approx(-distance if shape_reward else reward, abs=1e-6) and ended is terminated


# --- Robobo ----------------------------------------------------------------------------------------------------------


def test_robobo_is_sent_integers_and_observes_its_cell() -> None:
    with played(RoboboEnv) as (env, server):
        state, _ = env.reset()
        assert state.tolist() == [0.0, 0.0]  # not relative to the target
        assert env.getTargetPos().tolist() == [320.5, 100.0]
        assert [env.step(action)[0].tolist() for action in (0, 1, 2, 3)] == [[0, 1], [0, 0], [-1, 0], [0, 0]]
        assert [env.step(0)[1] for _ in range(4)] == [0.0, 0.0, 1.0, -1.0]
        assert [command["action"] for command in server.commands[1:5]] == [0, 1, 2, 3]
        for bad in (4, -1, 0.5, None):
            with pytest.raises(ValueError, match="is not an integer from 0 to 3"):
                env.step(bad)
        assert len(server.commands) == 9


# --- Omnirobot -------------------------------------------------------------------------------------------------------


def test_the_omnirobot_is_told_which_kind_of_action_it_gets() -> None:
    with played(RealOmniRobotEnv) as (env, server):
        assert env.reset()[0].tolist() == pytest.approx([-0.35, 0.0])
        rewards = [env.step(0)[1] for _ in range(9)]
        assert rewards[:2] == [0.0, 1.0] and rewards[-1] == -1.0  # near from 0.2 m on; out of the arena at 0.9 m
        assert server.commands[1] == {"command": "action", "action": 0, "is_discrete": True}
    with played(RealOmniRobotEnv, is_discrete=False) as (env, server):
        env.reset()
        env.step(np.array([1.0, -0.5], np.float32))
        env.step(np.array([-7.0, 0.0], np.float32))
        sent = server.commands[1:]
        assert np.allclose([command["action"] for command in sent], [[0.1, -0.05], [-0.1, 0.0]])
        assert all(command["is_discrete"] is False for command in sent)
    with played(RealOmniRobotEnv, shape_reward=True) as (env, _):
        env.reset()
        assert [env.step(0)[1] for _ in range(4)] == pytest.approx([-0.25, -0.15, -0.05, -0.05], abs=1e-6)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_resized_by_area() -> None:
    height, width, _ = SERVED_PICTURE
    options = {"srl_model": "raw_pixels", "image_size": 16, "render_mode": "rgb_array"}
    with played(BaxterEnv, **options) as (env, _):
        picture, _ = env.reset()
        assert picture.dtype == np.uint8 and picture.shape == (16, 16, 3)
        blocks = served_picture().reshape(16, height // 16, 16, width // 16, 3)
        assert np.array_equal(picture, np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8))
        assert np.array_equal(env.render(), picture)


@pytest.mark.parametrize(("height", "width", "size"), [(48, 64, 20), (7, 5, 12), (1, 1, 4), (5, 7, 1), (480, 640, 224)])
def test_resizing_keeps_the_mean_of_what_a_pixel_covers(height: int, width: int, size: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    resized = resize_area(picture, size)
    assert resized.shape == (size, size, 3) and resized.dtype == np.uint8
    # Every old pixel cut into size x size equal parts: then each new one is a mean of whole parts.
    for row, column in ((0, 0), (size - 1, size // 2), (size // 3, size - 1)):
        rows = (row * height + np.arange(height)) // size
        columns = (column * width + np.arange(width)) // size
        exact = picture[rows][:, columns].astype(np.float64).mean(axis=(0, 1))
        assert np.abs(resized[row, column] - exact).max() <= 0.51
    assert np.array_equal(resize_area(np.full_like(picture, 255), size), np.full((size, size, 3), 255, np.uint8))


def test_a_picture_of_the_right_size_is_as_it_was_sent() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    assert np.array_equal(resize_area(picture, 24), picture)


def test_a_server_without_a_camera_is_enough_for_states_only() -> None:
    with played(RoboboEnv, {"picture": False}, render_mode="rgb_array") as (env, _):
        env.reset()
        with pytest.raises(RobotError, match="it sends no pictures, ground_truth works without"):
            env.render()
    with (
        played(RoboboEnv, {"picture": False}, srl_model="raw_pixels") as (env, server),
        pytest.raises(RobotError, match=f"robot server {server.address}: it sends no pictures"),
    ):
        env.reset()


# --- what is refused, and failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (BaxterEnv, {"srl_model": "joints"}, "unknown srl_model 'joints'"),
        (BaxterEnv, {"real_robot": "localhost"}, "is not HOST:PORT"),
        (RoboboEnv, {"image_size": 0}, "image_size is 0"),
        (RoboboEnv, {"render_mode": "human"}, "human"),
        (RealOmniRobotEnv, {"real_robot": "localhost:1", "render_mode": "film"}, "unknown render_mode 'film'"),
    ],
)
def test_constructors_refuse_in_one_line(cls: type[RobotEnv], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        cls(**options)
    assert "\n" not in str(caught.value)


def test_a_reset_has_no_options() -> None:
    with played(BaxterEnv) as (env, server):
        with pytest.raises(ValueError, match="unknown reset option 'robot'"):
            env.reset(options={"robot": (0, 0)})
        assert not server.commands


def test_an_environment_that_failed_must_be_reset_and_works_with_the_next_server(monkeypatch: Any) -> None:
    monkeypatch.setattr(BaxterEnv, "TIMEOUTS", Timeouts(1.0, 1.0, 0.5, 0.5))

    def silent(number: int, honest: list[bytes]) -> list[bytes] | None:
        return honest if number == 0 else None

    with RobotServer(Baxter(), answer=silent) as server:
        env = BaxterEnv(real_robot=server.address)
        env.reset()
        with pytest.raises(RobotError, match=r"no answer to action within 0\.5 s"):
            env.step(0)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(0)
    with RobotServer(Baxter(), port=server.port), closing(env):
        env.reset()
        assert env.step(0)[1] == 0.0


def test_a_pool_names_the_failure_and_the_server() -> None:
    options = EnvOptions("Baxter-v0", real_robot="localhost:1")
    pool = VectorPool(host_factory(options), [(0, 0)], timeout=options.step_timeout)
    with pytest.raises(WorkerError) as caught:
        pool.reset()
    line = str(caught.value)
    assert line.startswith("environment 0: RobotError: robot server localhost:1: no connection within 5 s")
    assert "\n" not in line


@pytest.mark.parametrize("continuous", [False, True])
def test_the_real_omnirobot_has_the_spaces_of_the_simulated_one(continuous: bool) -> None:
    for srl_model in ("ground_truth", "raw_pixels"):
        options = EnvOptions("OmnirobotEnv-v0", continuous=continuous, srl_model=srl_model, image_size=40)
        simulated, real = host_spec(options), host_spec(dataclasses.replace(options, real_robot="localhost:1"))
        assert simulated == real


def test_options_choose_the_robot() -> None:
    assert EnvOptions("Baxter-v0").single and EnvOptions("RoboboGymEnv-v0").single
    assert EnvOptions("OmnirobotEnv-v0", real_robot="localhost:1").single
    assert not EnvOptions("OmnirobotEnv-v0").single and not EnvOptions("MobileRobotGymEnv-v0").single
    env = host_factory(EnvOptions("OmnirobotEnv-v0", real_robot="localhost:1"))()
    assert isinstance(env.unwrapped, RealOmniRobotEnv)
    env = host_factory(EnvOptions("Baxter-v0", continuous=True, shape_reward=True))()
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_every_wait_of_a_client_ends_before_its_worker_is_given_up() -> None:
    waits = Timeouts()
    assert waits.connect + waits.hello + waits.reset < EnvOptions("Baxter-v0").step_timeout
    assert waits.action < EnvOptions("Baxter-v0").step_timeout
    assert EnvOptions("CartPole-v1").step_timeout == 60.0


def test_constants_are_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "real_robots.md").read_text()
    for name in ("MAX_STEPS", "DELTA_POS", "Z_TABLE", "MAX_DISTANCE", "N_CONTACTS_BEFORE_TERMINATION"):
        assert f"| `{name}` | {getattr(BaxterEnv, name)} |".replace("-", "−") in text.replace("-", "−")
    waits = Timeouts()
    for name in ("connect", "hello", "action", "reset"):
        assert f"| {name} | {getattr(waits, name):g} |" in text
