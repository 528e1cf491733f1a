"""launch/render_scenes.py: what is on the sheet, and what is refused."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest

from envs.registry import ThreadingType, registered_env, simulated_envs
from launch import render_scenes
from launch.render_scenes import parse_scenes_args
from launch.runtime.errors import HelpRequested
from launch.runtime.scenes import scene_pictures

ONE_D = "MobileRobot1DGymEnv-v0"


def test_sheet_has_a_row_for_each_environment(tmp_path, capsys) -> None:
    output = tmp_path / "sheet.png"
    env_ids = [ONE_D, "CarRacingGymEnv-v0"]
    assert render_scenes.main([f"--output={output}", "--image-size", "48", "--env", *env_ids]) == 0
    sheet = imageio.imread(output)[..., :3]
    assert sheet.shape == (2 * (48 + 32), 4 * (48 + 4), 3)
    robot, race = sheet[:80], sheet[80:]
    assert (np.ptp(robot[:, 156:].astype(int), axis=-1) > 100).any(), "the twin's second camera"
    assert (race[34:, 52:] == 255).all(), "the race has one camera and no twin"
    assert ((race[..., 1] > race[..., 0].astype(int) + 50) & (race[..., 1] > 150)).any(), "grass"
    assert f"wrote {output}" in capsys.readouterr().out


def test_twin_is_drawn_in_the_situation_of_the_host() -> None:
    pictures = scene_pictures(ONE_D, 64)
    labels = ["host, camera 1", "host, camera 2", "JAX twin, camera 1", "JAX twin, camera 2"]
    assert [label for label, _ in pictures] == labels
    for (_, host), (_, twin) in zip(pictures[:2], pictures[2:]):
        assert host.shape == twin.shape == (64, 64, 3)
        assert np.abs(host.astype(int) - twin).mean() < 6


def test_all_that_simulate_are_drawn_without_a_choice(monkeypatch) -> None:
    assert parse_scenes_args([]).env == simulated_envs()
    entry = (*registered_env[ONE_D][:3], ThreadingType.NONE)
    monkeypatch.setitem(registered_env, "Robot-v0", entry)
    monkeypatch.setitem(registered_env, "Mine-v0", registered_env[ONE_D])
    assert "Mine-v0" in parse_scenes_args([]).env and "Robot-v0" not in parse_scenes_args([]).env
    with pytest.raises(ValueError, match="Robot-v0 is a real robot"):
        parse_scenes_args(["--env", "Robot-v0"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--env MobileRobotGymEnv", "unknown environment MobileRobotGymEnv; did you mean MobileRobotGymEnv-v0?"),
        ("--env CartPole-v1", "unknown environment CartPole-v1; choose one of"),
        ("--image-size 8", "--image-size=8: must be at least 16"),
        ("--output sheet.jpg", "--output=sheet.jpg: the file's name must end in .png"),
        ("--output not_there/a.png", "--output=not_there/a.png: there is no folder not_there"),
        ("--size 3", "unknown flag --size"),
        ("--plugin not_there", "--plugin=not_there: no module of that name"),
    ],
)
def test_bad_command_lines_are_one_line(line, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert render_scenes.main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_lists_the_flags() -> None:
    with pytest.raises(HelpRequested, match=r"(?s)--env.*--image-size.*--output"):
        parse_scenes_args(["--help"])
