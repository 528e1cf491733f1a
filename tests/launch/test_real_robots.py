"""Training and playing on real robots, over their wire protocol, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.host.resize import resize_area
from envs.make import EnvOptions
from launch import dataset_generator, enjoy, train
from launch.runtime.checkpoint import Checkpointer
from representations.dataset import load_dataset
from tests.envs.host.robot_server import Baxter, Die, Omnirobot, Robobo, RobotServer, served_picture
from tests.launch.play import frames_of, played, refused, trained, untrained

SHORT = ["--algo=ppo2", "--n-steps=32", "--net-arch=16,16", "--noptepochs=1", "--no-vis"]


def run_folder(log_dir: Path) -> Path:
    (args,) = log_dir.glob("*/*/*/*/args.json")
    return args.parent


def metrics(folder: Path) -> set[str]:
    return {name for line in (folder / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}


def one_error(capsys: pytest.CaptureFixture) -> str:
    """The one line of standard error that says what failed, without progress lines."""
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    return errors[0]


def test_ppo2_trains_on_a_robot_over_one_connection_without_evaluations(tmp_path: Path) -> None:
    with RobotServer(Baxter()) as server:
        flags = ("--env=Baxter-v0", f"--real-robot={server.address}", "--num-timesteps=256", "--n-steps=32")
        folder = trained(tmp_path, *flags)  # with --min-episodes-save=0
        assert server.ended()
    assert [command["command"] for command in server.commands].count("exit") == 1  # at the end
    steps = sum(command["command"] == "action" for command in server.commands)
    episodes = sum(command["command"] == "reset" for command in server.commands)
    assert steps == 256
    rows = (folder / "0.monitor.csv").read_text().splitlines()[2:]
    assert len(rows) == episodes - 1 >= 1  # the last one was not finished
    assert "train/return" in metrics(folder) and not {"eval/return", "score/final"} & metrics(folder)
    returns = [float(row.split(",")[0]) for row in rows]
    final, best = (json.loads((folder / f"ppo2_model/{name}/model.json").read_text()) for name in ("final", "best"))
    assert final["score"][0] == pytest.approx(np.mean(returns), abs=1e-3)
    assert best["score"][0] >= final["score"][0]
    assert final["env"]["real_robot"] == server.address
    constants = json.loads((folder / "env_globals.json").read_text())
    assert constants["real_robot"] == server.address and constants["DEFAULT_ADDRESS"] == "localhost:7777"


def test_pictures_of_a_robot_reach_the_learner(tmp_path: Path) -> None:
    flags = ["--algo=random_agent", "--env=RoboboGymEnv-v0", "--srl-model=raw_pixels", "--image-size=36", "--no-vis"]
    with RobotServer(Robobo()) as server:
        flags += [f"--real-robot={server.address}", "--num-timesteps=50", f"--log-dir={tmp_path}"]
        assert train.main(flags) == 0
    info = json.loads((run_folder(tmp_path) / "random_agent_model/final/model.json").read_text())
    assert info["spec"]["obs_shape"] == [36, 36, 3] and info["spec"]["max_episode_steps"] == 21


def test_a_run_whose_robot_dies_is_continued_when_it_is_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def dying(number: int, honest: list[bytes]) -> list[bytes]:
        if number == 150:
            raise Die
        return honest

    with RobotServer(Baxter(), answer=dying) as server:
        line = [*SHORT, "--env=Baxter-v0", f"--real-robot={server.address}", "--num-timesteps=256"]
        assert train.main([*line, "--checkpoint-every=64", f"--log-dir={tmp_path}"]) == 3
    said = one_error(capsys)
    assert f"error: environment 0: RobotError: robot server {server.address}: the connection ended before" in said
    folder = run_folder(tmp_path)
    assert Checkpointer(folder).iterations()[-1] == 4  # of 32 steps each
    with RobotServer(Baxter(), port=server.port) as successor:
        assert train.main([f"--resume={folder}"]) == 0
    assert sum(command["command"] == "action" for command in successor.commands) == 256 - 4 * 32
    assert (folder / "ppo2_model/final/model.json").is_file()


def test_an_absent_robot_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = [*SHORT, "--env=RoboboGymEnv-v0", "--real-robot=localhost:1", f"--log-dir={tmp_path}"]
    assert train.main(line) == 3
    assert "robot server localhost:1: no connection within 5 s; is the server running there?" in one_error(capsys)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--env=Baxter-v0 --num-cpu=2", "Baxter-v0 is one real robot, 2 environments were asked for"),
        ("--env=Baxter-v0 --num-seeds=3", "Baxter-v0 is one real robot, 3 environments"),
        ("--env=Baxter-v0 --algo=ars -c", "Baxter-v0 is one real robot"),
        ("--env=Baxter-v0 --real-robot=here", "'here' is not HOST:PORT"),
        ("--env=Baxter-v0 --real-robot=tcp://localhost:7777", "is not HOST:PORT"),
        ("--env=Baxter-v0 --multi-view --srl-model=raw_pixels", "--multi-view has no meaning for Baxter-v0"),
        ("--env=Baxter-v0 --srl-model=joints", "Baxter-v0 has no joints"),
        ("--env=Baxter-v0 --random-target", "--random-target has no meaning for Baxter-v0"),
        ("--env=Baxter-v0 --simulator=jax", "Baxter-v0 has no JAX twin"),
        ("--env=RoboboGymEnv-v0 -c", "RoboboGymEnv-v0 has discrete actions only"),
        ("--env=RoboboGymEnv-v0 --shape-reward", "--shape-reward has no meaning for RoboboGymEnv-v0"),
        (
            "--env=KukaButtonGymEnv-v0 --real-robot=localhost:7777",
            "has no meaning for KukaButton",
        ),
        ("--env=CartPole-v1 --real-robot=localhost:7777", "--real-robot=localhost:7777 has no meaning for CartPole-v1"),
        ("--env=OmnirobotEnv-v0 --num-cpu=2 --real-robot=localhost:7777", "OmnirobotEnv-v0 is one real robot"),
        ("--env=OmnirobotEnv-v0 -r --real-robot=localhost:7777", "--random-target has no meaning for OmnirobotEnv-v0"),
        ("--env=OmnirobotEnv-v0 --simulator=jax --real-robot=localhost:7777", "leave out --simulator=jax"),
        ("--env=MobileRobotGymEnv-v0 --simulator=jax --real-robot=localhost:7777", "leave out --simulator=jax"),
    ],
)
def test_what_a_robot_cannot_do_is_refused_before_anything_is_written(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([*line.split(), "--no-vis", f"--log-dir={tmp_path / 'logs'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "logs").exists()


def model(tmp_path: Path, **options: Any) -> Path:
    """An untrained policy of a robot."""
    return untrained(tmp_path / "final", "ppo2", EnvOptions(**options))


def test_a_policy_plays_on_a_robot(tmp_path: Path, capsys: pytest.CaptureFixture, headless: None) -> None:
    folder = model(tmp_path, env="RoboboGymEnv-v0", real_robot="localhost:1")
    with RobotServer(Robobo()) as server:
        flags = (f"--log-dir={folder}", f"--real-robot={server.address}", "--num-episodes=2", "--plotting")
        returns, lengths, _ = played(capsys, *flags, f"--output={tmp_path / 'shown'}")
        assert server.ended()
    assert lengths == [21, 21] and len(returns) == 2 and (tmp_path / "shown" / "states.png").is_file()
    said = refused(capsys, f"--log-dir={folder}", "--num-cpu=2")
    assert "RoboboGymEnv-v0 is one real robot, 2 environments were asked for" in said
    assert enjoy.main([f"--log-dir={folder}"]) == 3  # where it was trained nobody listens any more
    assert "robot server localhost:1: no connection within 5 s" in one_error(capsys)


def test_a_robot_is_filmed(tmp_path: Path, capsys: pytest.CaptureFixture, headless: None) -> None:
    folder = model(tmp_path, env="RoboboGymEnv-v0", image_size=64)
    with RobotServer(Robobo()) as server:
        flags = (f"--log-dir={folder}", f"--real-robot={server.address}", "--num-episodes=1", "--render")
        played(capsys, *flags, f"--output={tmp_path / 'shown'}")
    frames = frames_of(tmp_path / "shown" / "video.mp4")
    assert frames.shape[1:] == (192, 192, 3) and len(frames) >= 21  # small pictures are filmed larger
    seen = frames[0, 1::3, 1::3].astype(int)
    assert np.abs(seen - resize_area(served_picture(), 64)).mean() < 12  # but for compression


def test_a_policy_of_the_twin_plays_on_the_real_omnirobot(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = model(tmp_path, env="OmnirobotEnv-v0", simulator="jax", random_target=True, continuous=True)
    with RobotServer(Omnirobot()) as server:
        flags = (f"--log-dir={folder}", f"--real-robot={server.address}", "--num-episodes=1")
        assert played(capsys, *flags)[1] == [251]
    assert all(command["is_discrete"] is False for command in server.commands[1:-1][:251])
    assert "'nowhere' is not HOST:PORT" in refused(capsys, f"--log-dir={folder}", "--real-robot=nowhere")
    line = (f"--log-dir={folder}", "--real-robot=localhost:1", "--simulator=jax")
    assert "leave out --simulator=jax" in refused(capsys, *line)


def test_the_omnirobot_is_real_with_an_address_and_simulated_without(tmp_path: Path) -> None:
    line = ["--algo=random_agent", "--env=OmnirobotEnv-v0", "--no-vis", "--num-timesteps=50", "--final-eval-episodes=1"]
    with RobotServer(Omnirobot()) as server:
        real = [f"--real-robot={server.address}", f"--log-dir={tmp_path / 'real'}"]
        assert train.main([*line, *real]) == 0
        assert server.ended() and len(server.commands) > 50
    assert not {"eval/return"} & metrics(run_folder(tmp_path / "real"))
    assert train.main([*line, "--eval-episodes=1", f"--log-dir={tmp_path / 'simulated'}"]) == 0
    assert "eval/return" in metrics(run_folder(tmp_path / "simulated"))


def test_a_dataset_is_recorded_over_one_connection_with_one_reset_per_episode(tmp_path: Path) -> None:
    with RobotServer(Robobo()) as server:
        line = ["--env=RoboboGymEnv-v0", f"--real-robot={server.address}", "--num-episode=2", "--image-size=16"]
        assert dataset_generator.main([*line, f"--save-path={tmp_path}", "--name=robobo"]) == 0
        assert server.ended()  # as the original's server does after its one client
    said = [command["command"] for command in server.commands]
    assert said == [*(["reset"] + ["action"] * 21) * 2, "exit"]
    dataset = load_dataset(tmp_path / "robobo")
    sent = [command["action"] for command in server.commands if "action" in command]
    assert dataset.actions.tolist() == sent and len(set(sent)) > 1
    assert np.flatnonzero(dataset.episode_starts).tolist() == [0, 21]
    np.testing.assert_array_equal(dataset.targets, np.float32([[320.5, 100.0]] * 2))
    np.testing.assert_array_equal(dataset.frames[30], resize_area(served_picture(), 16))
