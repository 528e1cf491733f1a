"""Playing trained policies: both simulators, what is printed, videos and pictures, and learners of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import jax
import numpy as np
import pytest

from agents.base_classes import BaseRLObject
from agents.ppo2 import PPO2
from agents.registry import ActionType, AlgoType, registered_rl
from envs.device.batch import BatchEnv
from envs.host.worker import episode_seed
from envs.make import EnvOptions, device_env, host_factory
from launch import enjoy
from launch.runtime import charts
from launch.runtime.policy import load_policy
from launch.runtime.run_folder import create_run_folder
from launch.runtime.stages import HostScene, TwinScene
from tests.launch.play import (
    CARTPOLE,
    EPISODE,
    KUKA,
    MOBILE,
    SUMMARY,
    edited,
    frames_of,
    played,
    rate_of,
    refused,
    untrained,
)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("headless")


# --- playing ---------------------------------------------------------------------------------------------------------


def host_returns(model: Path, options: EnvOptions, seed: int, episodes: int) -> list[float]:
    """Returns of episodes in a Gymnasium loop that shares nothing with enjoy."""
    policy, env = load_policy(model), host_factory(options)()
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode_seed(seed, 0, episode))
        total, begins, done = 0.0, True, False
        while not done:
            action = policy.getAction(obs[None], np.array([begins]))
            obs, reward, terminated, truncated, _ = env.step(int(action[0]))
            total, begins, done = total + float(reward), False, terminated or truncated
        returns.append(total)
    env.close()
    return returns


def test_host_episodes_are_those_of_the_policy(cartpole, capsys):
    expected = host_returns(cartpole, EnvOptions(CARTPOLE), seed=5, episodes=4)
    flags = ("--log-dir", cartpole, "--seed", 5, "--num-episodes", 4)
    returns, lengths, out = played(capsys, *flags)
    assert returns == expected and lengths == expected and len(set(expected)) > 1
    count, mean, spread, length = SUMMARY.findall(out)[0]
    assert (int(count), float(length)) == (4, pytest.approx(np.mean(lengths), abs=0.051))
    assert float(mean) == pytest.approx(np.mean(expected), abs=0.006)
    assert float(spread) == pytest.approx(np.std(expected), abs=0.006)


def test_a_policy_that_remembers_plays_each_episode_for_itself(tmp_path, capsys):
    options = EnvOptions(CARTPOLE)
    model = untrained(tmp_path / "model", "ppo2", options, policy="lnlstm", n_lstm=8, net_arch=(4,), ortho_init=False)
    expected = host_returns(model, options, seed=5, episodes=3)
    assert played(capsys, "--log-dir", model, "--seed", 5, "--num-episodes", 3)[0] == expected
    more = ("--log-dir", model, "--seed", 5, "--num-episodes", 3, "--num-cpu", 3)
    assert len(played(capsys, *more)[0]) == 3


def test_twin_episodes_are_those_of_a_policy_from_the_host(cartpole, capsys):
    policy, batch = load_policy(cartpole), BatchEnv(device_env(EnvOptions(CARTPOLE, simulator="jax")))
    key = jax.random.fold_in(jax.random.key(2), 0)
    state, obs = batch.reset(key[None])
    step, totals = jax.jit(batch.step), [0.0]
    while len(totals) < 4:
        state, out = step(state, policy.getAction(obs))
        obs, totals[-1] = out.obs, totals[-1] + float(out.reward[0])
        if out.terminated[0] | out.truncated[0]:
            totals.append(0.0)
    returns, lengths, _ = played(capsys, f"--log-dir={cartpole}/", "--simulator=jax", "--seed=2", "--num-episodes=3")
    assert returns == totals[:3] and lengths == totals[:3]


def test_a_policy_of_the_twin_plays_in_both_simulators(mobile, capsys):
    for simulator in ("jax", "pybullet"):
        returns, lengths, out = played(capsys, f"--log-dir={mobile}", f"--simulator={simulator}", "--num-episodes=2")
        assert lengths == [251, 251] and all(-251 <= value <= 251 for value in returns)
        assert SUMMARY.search(out)
    assert not (mobile / "enjoy").exists()  # nothing was asked for that is written


@pytest.mark.parametrize("simulator", ["jax", "pybullet"])
def test_watching_does_not_change_what_is_played(mobile, simulator, tmp_path, capsys):
    flags = (f"--log-dir={mobile}", f"--simulator={simulator}", "--seed=3", "--num-episodes=2", f"--output={tmp_path}")
    plain = played(capsys, *flags)
    watched = played(capsys, *flags, "--plotting", "--action-proba")
    assert plain[:2] == watched[:2]


def test_environments_share_the_episodes(cartpole, capsys):
    flags = (f"--log-dir={cartpole}", "--seed=5")
    returns, _, out = played(capsys, *flags, "--num-episodes=5", "--num-cpu=2")
    assert len(returns) == 5 and SUMMARY.findall(out)[0][0] == "5"
    first = host_returns(cartpole, EnvOptions(CARTPOLE), seed=5, episodes=3)
    assert set(first) <= set(returns)  # environment 0 plays three, although shorter ones may have ended elsewhere


def test_steps_limit_the_play(mobile, capsys):
    assert played(capsys, f"--log-dir={mobile}", "--num-timesteps=600")[1] == [251, 251]
    assert played(capsys, f"--log-dir={mobile}", "--num-timesteps=600", "--num-cpu=3")[1] == []
    assert "0 episodes: none ended within 100 steps" in played(capsys, f"--log-dir={mobile}", "--num-timesteps=100")[2]


def test_many_episodes_share_lines(tmp_path, capsys):
    model = untrained(tmp_path / "model", "random_agent", EnvOptions(CARTPOLE, simulator="jax"))
    returns, _, out = played(capsys, f"--log-dir={model}", "--num-timesteps=6000", "--num-cpu=20")
    total = int(SUMMARY.findall(out)[0][0])
    assert total > 200 and 20 <= len(returns) < 40
    last = 20
    for line in out.splitlines()[20:-1]:
        first, *rest = (int(number) for number in re.findall(r"^episodes? (\d+)(?: to (\d+))?", line)[0] if number)
        assert first == last + 1
        last = rest[0] if rest else first
    assert last == total


def test_actions_are_drawn_on_demand(mobile, capsys):
    flags = (f"--log-dir={mobile}", "--num-episodes=2")
    best = played(capsys, *flags)[0]
    drawn = played(capsys, *flags, "--nodeterministic")[0]
    assert drawn != best
    assert played(capsys, *flags, "--deterministic")[0] == best
    assert played(capsys, *flags, "--nodeterministic")[0] == drawn
    assert played(capsys, *flags, "--nodeterministic", "--seed=1")[0] != drawn


def test_drawn_actions_follow_the_probabilities_of_an_evolved_policy(tmp_path, capsys):
    model = untrained(tmp_path / "model", "ars", EnvOptions(CARTPOLE, simulator="jax"))  # zero weights: all equal
    flags = (f"--log-dir={model}", "--num-episodes=30", "--num-cpu=10")
    means = [SUMMARY.findall(played(capsys, *flags, *more)[2])[0][1] for more in ([], ["--nodeterministic"])]
    best, drawn = map(float, means)
    assert best < 11 and 15 < drawn < 35  # always left falls over at once, at random after about 22 steps


def test_runs_of_a_sweep_and_best_and_final(mobile, capsys):
    returns = {}
    for flags in ("--run=0", "--run=1"):
        returns[flags] = played(capsys, f"--log-dir={mobile}", "--num-episodes=3", flags)[0]
    assert returns["--run=0"] != returns["--run=1"]
    path = mobile / "ppo2_model" / "final"
    final = played(capsys, f"--log-dir={path}", "--num-episodes=1")[0]
    assert final == played(capsys, f"--log-dir={mobile}", "--model=final", "--num-episodes=1")[0]
    assert "--run=2" in refused(capsys, f"--log-dir={mobile}", "--run=2")
    assert "one model" in refused(capsys, f"--log-dir={path}", "--model=best")


def test_the_reward_is_that_of_the_training_unless_a_flag_says_otherwise(mobile, tmp_path, capsys):
    shaped = edited(mobile, tmp_path / "run", shape_reward=True)
    flags = ("--num-episodes=1",)
    dense = played(capsys, f"--log-dir={shaped}", *flags)[0]
    sparse = played(capsys, f"--log-dir={mobile}", *flags)[0]
    assert dense[0] < 0 and dense[0] % 1 and not sparse[0] % 1
    assert played(capsys, f"--log-dir={shaped}", *flags, "--noshape-reward")[0] == sparse
    assert played(capsys, f"--log-dir={mobile}", *flags, "--shape-reward")[0] == dense


# --- videos and pictures ---------------------------------------------------------------------------------------------


def test_video_of_the_twin_shows_every_state(mobile, tmp_path, capsys):
    run = shutil.copytree(mobile, tmp_path / "run")
    _, _, out = played(capsys, f"--log-dir={run}", "--render", "--num-timesteps=260", "--seed=4")
    path = run / "enjoy" / "video.mp4"
    assert f"video {path}\n" in out
    frames = frames_of(path)
    assert frames.shape == (262, 448, 448, 3)  # 252 states of the first episode, 10 of the second
    scene = TwinScene(EnvOptions(MOBILE, simulator="jax", random_target=True), 4, render=True, plot=False)
    scene.reset()
    assert np.abs(frames[0].astype(int) - scene.frame()).mean() < 6
    assert rate_of(path) == 30


def test_video_of_a_host_environment(mobile, cartpole, tmp_path, capsys):
    flags = ("--simulator=pybullet", "--render", "--num-timesteps=10", f"--output={tmp_path}/a/b")
    played(capsys, f"--log-dir={mobile}", *flags)
    frames = frames_of(tmp_path / "a" / "b" / "video.mp4")
    env = host_factory(EnvOptions(MOBILE, random_target=True, render_mode="rgb_array"))()
    env.reset(seed=episode_seed(0, 0, 0))
    assert frames.shape == (11, 224, 224, 3)
    assert np.abs(frames[0].astype(int) - env.render()).mean() < 6
    env.close()
    played(capsys, f"--log-dir={cartpole}", *flags)
    assert frames_of(tmp_path / "a" / "b" / "video.mp4").shape[1:] == (400, 600, 3)
    assert rate_of(tmp_path / "a" / "b" / "video.mp4") == 50  # CartPole's own rate


def test_without_ffmpeg_the_video_is_a_gif(mobile, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    _, _, out = played(capsys, f"--log-dir={mobile}", "--render", "--num-timesteps=5", f"--output={tmp_path}/twin")
    assert f"video {tmp_path}/twin/video.gif\n" in out and (tmp_path / "twin" / "video.gif").stat().st_size > 1000


def test_a_long_play_gives_a_video_of_its_beginning(mobile, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(charts, "MAX_FRAMES", 10)
    flags = (f"--log-dir={mobile}", "--render", "--num-episodes=1", f"--output={tmp_path}")
    _, lengths, out = played(capsys, *flags)
    assert lengths == [251] and "video.mp4 (the first 10 frames)" in out
    assert len(frames_of(tmp_path / "video.mp4")) == 10


@pytest.mark.parametrize("simulator", ["jax", "pybullet"])
def test_pictures_of_states_and_actions(mobile, simulator, tmp_path, capsys):
    flags = (f"--log-dir={mobile}", f"--simulator={simulator}", "--num-episodes=2", f"--output={tmp_path}")
    _, _, out = played(capsys, *flags, "--plotting", "--action-proba")
    for name, shape in (("states.png", (900, 1050)), ("action_proba.png", (600, 1650))):
        assert f"picture {tmp_path}/{name}\n" in out
        picture = iio.imread(tmp_path / name)
        assert picture.shape[:2] == shape and picture[..., :3].std() > 20


@pytest.mark.parametrize("simulator", ["jax", "pybullet"])
def test_pixel_policies_are_plotted_by_their_true_position(simulator, tmp_path, capsys):
    options = EnvOptions(MOBILE, simulator="jax", srl_model="raw_pixels", image_size=64, num_stack=2)
    model = untrained(tmp_path / "model", "ars", options)
    flags = (f"--log-dir={model}", f"--simulator={simulator}", "--num-timesteps=5")
    _, _, out = played(capsys, *flags, "--plotting", "--render")
    assert f"picture {model}/enjoy/states.png" in out
    side = {"jax": 448, "pybullet": 192}[simulator]  # the camera of the environment, three times enlarged
    assert frames_of(model / "enjoy" / "video.mp4").shape == (6, side, side, 3)


def test_a_scene_tells_its_position_relative_to_the_target():
    host = HostScene(EnvOptions(KUKA, srl_model="joints", num_stack=2), 0, plot=True)
    host.reset()
    env: Any = host._env.unwrapped
    np.testing.assert_allclose(host.position(), env.getGroundTruth() - env.getTargetPos())
    assert host.state_labels == [f"{axis} relative to the target (m)" for axis in "xyz"] and host.state_target
    host.close()
    twin = TwinScene(EnvOptions(MOBILE, simulator="jax", num_stack=3), 0, render=False, plot=True)
    obs = twin.reset()
    np.testing.assert_allclose(twin.position(), obs[-2:])
    assert len(twin.state_labels) == 2
    pole = HostScene(EnvOptions(CARTPOLE, num_stack=2), 0, plot=True)
    obs = pole.reset()
    np.testing.assert_allclose(pole.position(), obs[4:6])
    assert pole.state_labels == ["state[0]", "state[1]"] and not pole.state_target


def test_pictures_of_continuous_actions(tmp_path, capsys):
    model = untrained(tmp_path / "model", "ars", EnvOptions("Pendulum-v1", simulator="jax"))
    played(capsys, f"--log-dir={model}", "--num-timesteps=20", "--action-proba", "--plotting")
    assert iio.imread(model / "enjoy" / "action_proba.png").std() > 5


# --- learners of their own, command line -----------------------------------------------------------------------------


class Alternating(BaseRLObject):
    """A learner with its own model format: plays actions 0 and 1 in turn."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps, self.stop = 0, stop

    def save(self, save_path: str, _locals: Any = None) -> None:
        Path(save_path).mkdir(parents=True)
        Path(save_path, "alternating.txt").write_text(str(self.stop or ""))

    @classmethod
    def load(cls, load_path: str, args: Any = None) -> BaseRLObject:
        text = Path(load_path, "alternating.txt").read_text()
        return cls(int(text) if text else None)

    def customArguments(self, parser: Any) -> Any:
        return parser

    def getAction(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray:
        if self.steps == self.stop:
            raise KeyboardInterrupt
        self.steps += 1
        return np.full(len(observation), self.steps % 2)

    def train(self, args: Any, callback: Any, env_kwargs: Any = None, hyperparam: Any = None) -> None:
        raise NotImplementedError


class OwnEnvironments(Alternating):
    """A learner that makes its environments itself."""

    made: list[Any] = []  # noqa: RUF012  # what makeEnv was called with

    @classmethod
    def makeEnv(cls, args: Any, env_kwargs: Any = None, load_path_normalise: str | None = None) -> Any:
        cls.made.append(load_path_normalise)
        return super().makeEnv(args, env_kwargs, load_path_normalise)


def free_run(log_dir: Path, monkeypatch: pytest.MonkeyPatch, cls: type, **options: Any) -> Path:
    """A run folder of a learner that is registered for this test."""
    entry = (cls, AlgoType.REINFORCEMENT_LEARNING, [ActionType.DISCRETE])
    monkeypatch.setitem(registered_rl, cls.__name__.lower(), entry)
    args = {"algo": cls.__name__.lower(), "env": CARTPOLE, "simulator": "pybullet", "num_cpu": 1}
    folder = create_run_folder(log_dir, CARTPOLE, "ground_truth", args["algo"], args, {})
    cls(**options).save(str(folder / f"{args['algo']}_model" / "final"))
    return folder


@pytest.mark.parametrize("simulator", ["jax", "pybullet"])
def test_a_free_learner_plays(simulator, tmp_path, monkeypatch, capsys):
    run = free_run(tmp_path, monkeypatch, Alternating)
    flags = ("--num-episodes=2", f"--simulator={simulator}")
    returns = played(capsys, f"--log-dir={run}", *flags)[0]
    assert all(20 < value <= 500 for value in returns)  # pushing to and fro balances longer than one way
    assert played(capsys, f"--log-dir={run}/alternating_model/final", *flags)[0] == returns
    assert "own getAction" in refused(capsys, f"--log-dir={run}", "--nodeterministic")
    assert "--run=1" in refused(capsys, f"--log-dir={run}", "--run=1")
    assert "no best model" in refused(capsys, f"--log-dir={run}", "--model=best")
    assert "getActionProba" in refused(capsys, f"--log-dir={run}", "--action-proba")


def test_a_learner_makes_its_own_environments(tmp_path, monkeypatch, capsys):
    run = free_run(tmp_path, monkeypatch, OwnEnvironments)
    assert len(played(capsys, f"--log-dir={run}", "--num-episodes=1")[0]) == 1
    assert OwnEnvironments.made == [str(run / "ownenvironments_model" / "final")]
    assert "makeEnv" in refused(capsys, f"--log-dir={run}", "--plotting")


def test_ctrl_c_keeps_what_was_played(tmp_path, monkeypatch, capsys):
    run = free_run(tmp_path, monkeypatch, Alternating, stop=60)
    assert enjoy.main([f"--log-dir={run}", "--simulator=pybullet", "--render", "--plotting"]) == 130
    out, err = capsys.readouterr()
    assert SUMMARY.search(out) and err == "interrupted\n"
    begun = 1 + len(EPISODE.findall(out))
    assert len(frames_of(run / "enjoy" / "video.mp4")) == 60 + begun
    assert iio.imread(run / "enjoy" / "states.png").std() > 5


def test_help_is_quick():
    code = "import sys, time; start = time.time(); from launch import enjoy; assert enjoy.main(['--help']) == 0; "
    code += "assert not {'jax', 'numpy', 'matplotlib', 'gymnasium'} & set(sys.modules), 'heavy'"
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--nodeterministic draws actions" in " ".join(result.stdout.split())
    assert time.monotonic() - start < 5


def test_a_policy_loads_through_its_class(mobile):
    algorithm = PPO2.load(str(mobile / "ppo2_model" / "best"))
    assert algorithm.getAction(np.zeros((3, 2), np.float32)).shape == (3,)
