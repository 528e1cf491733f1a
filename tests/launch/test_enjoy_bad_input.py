"""What launch/enjoy.py cannot play: environments that raise, damaged or foreign runs, bad command lines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs.make import EnvOptions
from launch import enjoy
from tests.launch.play import edited, frames_of, played, refused, untrained

pytestmark = pytest.mark.usefixtures("headless")


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
        ("args.json", '{"algo": "ppo9"}', "'ppo9' is not registered: --plugin=MODULE imports one of yours"),
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
        ({"env": "BipedalWalker-v3"}, "", "BipedalWalker-v3 has no JAX twin"),
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
