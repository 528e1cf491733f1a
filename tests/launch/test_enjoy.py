"""Playing trained policies: both simulators, what is printed, videos, pictures and windows, and bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v3 as iio
import jax
import numpy as np
import pytest

from agents.base_classes import BaseRLObject
from agents.ppo2 import PPO2
from agents.registry import ActionType, AlgoType, algorithm_class, registered_rl
from envs.device.batch import BatchEnv
from envs.host.worker import episode_seed
from envs.make import EnvOptions, device_env, host_factory, host_spec
from launch import enjoy, train
from launch.runtime import charts
from launch.runtime.policy import load_policy, model_info
from launch.runtime.run_folder import create_run_folder
from launch.runtime.stages import HostScene, TwinScene
from launch.runtime.sweep import plan

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--algo=ppo2", "--net-arch=16,16", "--noptepochs=1", "--no-vis", "--eval-episodes=2"]
SMALL += ["--final-eval-episodes=2", "--min-episodes-save=0"]
MOBILE, CARTPOLE, KUKA = "MobileRobotGymEnv-v0", "CartPole-v1", "KukaButtonGymEnv-v0"
EPISODE = re.compile(r"^episode \d+: return (-?[\d.]+), length (\d+)$", re.MULTILINE)
SUMMARY = re.compile(r"^(\d+) episodes?, mean return (-?[\d.]+) ± ([\d.]+), mean length ([\d.]+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)


def trained(log_dir: Path, *flags: str) -> Path:
    """The run folder of a short training."""
    assert train.main([*SMALL, *flags, f"--log-dir={log_dir}"]) == 0
    (args,) = log_dir.glob("*/*/*/*/args.json")
    return args.parent


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds in the twin of the mobile robot."""
    flags = ("--simulator=jax", "--random-target", "--num-seeds=2", "--num-cpu=8", "--n-steps=64")
    return trained(tmp_path_factory.mktemp("mobile"), f"--env={MOBILE}", "--num-timesteps=600", *flags)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in Gymnasium's CartPole."""
    flags = (f"--env={CARTPOLE}", "--num-timesteps=128", "--num-cpu=2", "--n-steps=32")
    return trained(tmp_path_factory.mktemp("cartpole"), *flags)


def untrained(folder: Path, algo: str, options: EnvOptions, **config: Any) -> Path:
    """A model folder that stands alone, with the policy that a training would start from."""
    algorithm = algorithm_class(algo)()
    settings, hyper = algorithm.configure(config)
    spec = device_env(options).spec if options.on_device else host_spec(options)
    runs = plan(hyper, {}, 0, 1)
    agent = type(algorithm).make(spec, settings)
    acting = agent.init(jax.random.key(1), algorithm.hyper_tree(hyper)).acting
    algorithm.adopt(agent, spec, acting, model_info(algo, settings, runs, options, spec))
    algorithm.save(str(folder))
    return folder


def played(capsys: pytest.CaptureFixture, *flags: Any) -> tuple[list[float], list[int], str]:
    """Play, and return the episodes' returns, their lengths and everything that was printed."""
    capsys.readouterr()
    assert enjoy.main([str(flag) for flag in flags]) == 0
    out = capsys.readouterr().out
    episodes = EPISODE.findall(out)
    return [float(r) for r, _ in episodes], [int(n) for _, n in episodes], out


def refused(capsys: pytest.CaptureFixture, *flags: Any) -> str:
    """Play what cannot be played, and return the one line that says why."""
    capsys.readouterr()
    assert enjoy.main([str(flag) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err.strip()


def edited(run: Path, target: Path, **env: Any) -> Path:
    """A copy of a run folder whose models say that they were trained in another environment."""
    shutil.copytree(run, target)
    for file in target.glob("ppo2_model/*/model.json"):
        info = json.loads(file.read_text())
        info["env"].update(env)
        file.write_text(json.dumps(info))
    return target


def frames_of(path: Path) -> np.ndarray:
    """The frames of a video [T, height, width, 3].

    Read in another process: imageio starts ffmpeg by a fork, which in a process with jax may deadlock.
    """
    target = path.with_suffix(".npy")
    code = f"import numpy, imageio.v3 as iio; numpy.save({str(target)!r}, iio.imread({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return np.load(target)


def rate_of(path: Path) -> float:
    """Frames per second of a video."""
    code = f"import imageio.v3 as iio; print(iio.immeta({str(path)!r})['fps'])"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout)


# --- playing ---------------------------------------------------------------------------------------------------------


def host_returns(model: Path, options: EnvOptions, seed: int, episodes: int) -> list[float]:
    """Returns of episodes in a Gymnasium loop that shares nothing with enjoy."""
    policy, env = load_policy(model), host_factory(options)()
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode_seed(seed, 0, episode))
        total, done = 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(int(policy.getAction(obs[None])[0]))
            total, done = total + float(reward), terminated or truncated
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


def test_video_of_the_twin_shows_every_state(mobile, capsys):
    _, _, out = played(capsys, f"--log-dir={mobile}", "--render", "--num-timesteps=260", "--seed=4")
    path = mobile / "enjoy" / "video.mp4"
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


# --- learners of their own, failures ----------------------------------------------------------------------------------


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


class FailingEnv(gymnasium.Env):
    """Divides by zero in its third step; pictures are as its render mode says, or none."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 240}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.left = 3
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        return np.full(2, 1 / self.left, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        return np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Path]:
    """A model for an environment that fails."""
    gymnasium.register("Failing-v0", entry_point=FailingEnv)
    yield untrained(tmp_path / "model", "random_agent", EnvOptions("Failing-v0"))
    del gymnasium.registry["Failing-v0"]


def test_an_environment_that_raises_is_one_line(failing, capsys):
    assert enjoy.main([f"--log-dir={failing}", "--render", "--plotting"]) == 3
    err = capsys.readouterr().err
    assert err == "error: environment Failing-v0: ZeroDivisionError: division by zero (episode 0)\n"
    assert len(frames_of(failing / "enjoy" / "video.mp4")) == 3  # what was seen until then


# --- bad input -------------------------------------------------------------------------------------------------------


def test_what_is_no_run_folder(mobile, tmp_path, capsys):
    assert "nowhere does not exist" in refused(capsys, f"--log-dir={tmp_path}/nowhere")
    assert "is not a run folder or a model folder" in refused(capsys, f"--log-dir={mobile}/args.json")
    assert "is not a run folder: args.json is missing" in refused(capsys, f"--log-dir={tmp_path}")
    assert f"the newest run under {mobile.parent} is {mobile}" in refused(capsys, f"--log-dir={mobile.parent}")
    assert "has no saved model" in refused(capsys, f"--log-dir={mobile}/checkpoints")


def damaged(run: Path, target: Path, file: str, content: str | None) -> Path:
    """A copy of a run in which a file is replaced, or missing."""
    shutil.copytree(run, target)
    (target / file).unlink()
    if content is not None:
        (target / file).write_text(content)
    return target


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("args.json", '{"algo": "pp', "args.json is truncated"),
        ("args.json", '{"algo": "ppo9"}', "its algorithm 'ppo9' is not registered"),
        ("env_globals.json", None, "env_globals.json is missing"),
        ("ppo2_model/best/model.json", '{"algo": ', "model.json is truncated"),
        ("ppo2_model/best/model.json", '{"algo": "ppo2", "leaves": {}}', "does not say in which environment"),
        ("ppo2_model/best/params.npz", "PK", "params.npz is missing or damaged"),
        ("ppo2_model/best/params.npz", None, "params.npz is missing or damaged"),
    ],
)
def test_damaged_runs(mobile, tmp_path, capsys, file, content, message):
    assert message in refused(capsys, f"--log-dir={damaged(mobile, tmp_path / 'run', file, content)}")


def test_a_run_without_a_model(mobile, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(mobile, run)
    shutil.rmtree(run / "ppo2_model" / "best")
    assert len(played(capsys, f"--log-dir={run}", "--num-episodes=1")[0]) == 1  # the final one, then
    assert "has no best model" in refused(capsys, f"--log-dir={run}", "--model=best")
    shutil.rmtree(run / "ppo2_model")
    assert "has no saved model" in refused(capsys, f"--log-dir={run}")


@pytest.mark.parametrize(
    ("env", "flags", "message"),
    [
        ({"env": "Acrobot-v1"}, "", "Acrobot-v1 has no JAX twin"),
        ({"env": "Acrobot-v2"}, "--simulator=pybullet", "unknown environment 'Acrobot-v2'"),
        ({"env": "CartPole-v1", "random_target": False}, "", "was trained with obs_shape (2,), but CartPole-v1"),
        ({"env": "MountainCar-v0", "random_target": False}, "--simulator=pybullet", "among 4 actions, but MountainCar"),
        ({"continuous": True}, "", "action_shape (), but"),
        ({"env": "brax/ant", "random_target": False}, "--simulator=pybullet", "leave out --simulator=pybullet"),
        ({"env": "CartPole-v1"}, "", "--random-target has no meaning for CartPole-v1"),
    ],
)
def test_runs_of_another_environment(mobile, tmp_path, capsys, env, flags, message):
    assert message in refused(capsys, f"--log-dir={edited(mobile, tmp_path / 'run', **env)}", *flags.split())


def test_what_cannot_be_shown(cartpole, tmp_path, capsys, monkeypatch):
    log_dir = f"--log-dir={cartpole}"
    message = refused(capsys, log_dir, "--render", "--simulator=jax")
    assert message.endswith("CartPole-v1 has no renderer in JAX: render it with --simulator=pybullet")
    assert "--shape-reward has no meaning for CartPole-v1" in refused(capsys, log_dir, "--shape-reward")
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(capsys, log_dir, "--plotting", f"--output={tmp_path}/file")
    model = untrained(tmp_path / "model", "ars", EnvOptions("Pendulum-v1", simulator="jax"))
    assert "no distribution of continuous actions" in refused(capsys, f"--log-dir={model}", "--nodeterministic")
    assert not (cartpole / "enjoy").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--log-dir is missing"),
        ("--log-dir", "--log-dir needs a value"),
        ("--log-dir x --num-epsiodes 3", "did you mean --num-episodes?"),
        ("--log-dir x --num-cpu 2 --plotting", "--plotting shows one environment: leave out --num-cpu=2"),
        ("--log-dir x --num-cpu 2 --action-proba", "--action-proba shows one environment"),
        ("--log-dir x --num-cpu 2 --render", "--render shows one environment"),
        ("--log-dir x --num-episodes 3 --num-timesteps 100", "give one of them"),
        ("--log-dir x --model worst", "--model=worst"),
        ("--log-dir x --simulator gazebo", "--simulator=gazebo"),
        ("--log-dir x --seed -1", "--seed=-1"),
        ("logs/x", "unexpected argument 'logs/x'"),
    ],
)
def test_bad_command_lines(line, message, capsys):
    assert message in refused(capsys, *line.split())


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
