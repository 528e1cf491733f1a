"""The code of docs/add_an_algorithm.md, taken from the page as it stands: it trains, learns, saves, loads and plays."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import gymnasium
import numpy as np
import pytest

from agents.base_classes import BaseRLObject
from agents.registry import registered_rl
from launch import train
from launch.runtime.flags import parse_train_args

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add_an_algorithm.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = [
    shlex.split(line)[2:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python launch/train.py")
]
ALGORITHMS = {"my_reinforce": "reinforce", "my_q_learning": "q_learning"}
RANDOM_RETURN = 22.0  # of CartPole-v1, as the page says


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A working directory that holds the page's modules; the registry and the import path are as before afterwards."""
    assert set(MODULES) == set(ALGORITHMS)
    path = tmp_path_factory.mktemp("plugins")
    for name, code in MODULES.items():
        (path / f"{name}.py").write_text(code)
    before = dict(registered_rl)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(sys, "path", list(sys.path))
        yield path
    registered_rl.clear()
    registered_rl.update(before)
    for name in MODULES:
        sys.modules.pop(name, None)


def trained(folder: Path, module: str, *further: str) -> tuple[ModuleType, Path]:
    """Run the page's first training command of a module; returns the module and the run folder."""
    command = next(words for words in COMMANDS if f"--plugin={module}" in words)
    log_dir = folder / "logs"
    assert train.main([*command, f"--log-dir={log_dir}", "--no-vis", *further]) == 0
    (args,) = log_dir.glob(f"*/*/{ALGORITHMS[module]}/*/args.json")
    return importlib.import_module(module), args.parent


def play(learner: BaseRLObject | None, episodes: int = 20) -> float:
    """Mean return in Gymnasium's own CartPole-v1; random actions where there is no learner."""
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(0)
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=50_000 + episode)
        total, ended = 0.0, False
        while not ended:
            action = env.action_space.sample() if learner is None else learner.getAction(obs[None])[0]
            obs, reward, terminated, truncated, _ = env.step(int(action))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


@pytest.fixture(scope="module")
def reinforce(folder) -> tuple[ModuleType, Path]:
    return trained(folder, "my_reinforce", "--eval-every=20000", "--final-eval-episodes=20")


@pytest.fixture(scope="module")
def q_learning(folder) -> tuple[ModuleType, Path]:
    return trained(folder, "my_q_learning")


def test_a_random_policy_earns_what_the_page_says():
    assert f"A random policy earns {RANDOM_RETURN:.0f}" in PAGE
    assert abs(play(None, 300) - RANDOM_RETURN) < 3


def test_pure_functions_learn_in_the_twin_and_play_in_gymnasium(reinforce):
    module, run = reinforce
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"train/policy_loss", "train/episode_length"} <= set(lines[0])
    assert lines[-1]["score/final"] > 300
    assert sorted(path.name for path in (run / "reinforce_model").iterdir()) == ["best", "final"]
    assert play(module.Reinforce.load(str(run))) > 300


def test_own_loop_learns(q_learning):
    module, run = q_learning
    assert {path.name for path in (run / "q_learning_model").iterdir()} == {"best", "final"}
    learner = module.QLearning.load(str(run / "q_learning_model" / "final"))
    assert play(learner) > 100 > 4 * RANDOM_RETURN
    monitors = sorted(run.glob("*.monitor.csv"))
    steps = [int(row.split(",")[1]) for path in monitors for row in path.read_text().splitlines()[2:]]
    assert len(monitors) == 2 and 20_000 <= sum(steps) < 21_000
    assert json.loads((run / "args.json").read_text())["plugin"] == "my_q_learning"


@pytest.mark.parametrize("trained_run", ["reinforce", "q_learning"])
def test_a_trained_model_is_played_by_enjoy(trained_run, request, folder):
    _, run = request.getfixturevalue(trained_run)
    command = [sys.executable, ROOT / "launch" / "enjoy.py", f"--log-dir={run}", "--num-episodes=2"]
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 120}
    result = subprocess.run([*command, f"--plugin=my_{trained_run}"], **options)
    assert result.returncode == 0 and "2 episodes, mean return" in result.stdout, result.stderr
    result = subprocess.run(command, **options)
    assert result.returncode == 2
    assert f"'{trained_run}' is not registered: --plugin=MODULE imports one of yours" in result.stderr


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("my_reinforce", ["--memory X", "Share of the old baseline", "default 0.7", "--net-arch N,N"]),
        ("my_q_learning", ["--num-features N", "Random Fourier features", "(at least 1; default 256)"]),
    ],
)
def test_flags_are_in_the_help(folder, module, words):
    command = [sys.executable, ROOT / "launch" / "train.py", f"--plugin={module}", f"--algo={ALGORITHMS[module]}"]
    result = subprocess.run([*command, "--help"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert all(word in text for word in words), text
    result = subprocess.run([*command, "--learning-rat=1"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr == "error: unknown flag --learning-rat; did you mean --learning-rate?\n"


def test_every_command_of_the_page_is_valid(folder):
    assert len(COMMANDS) >= 6
    for words in COMMANDS:
        if "--help" not in words:
            parse_train_args(words)


def test_a_run_of_a_plugin_is_resumed_with_it_only(reinforce, capsys):
    _, run = reinforce
    assert train.main([f"--resume={run}"]) == 2
    assert capsys.readouterr().err == f"error: --resume={run}: that run used --plugin=my_reinforce, give it again\n"
    args = parse_train_args([f"--resume={run}", "--plugin=my_reinforce"])
    assert (args.algo, args.num_timesteps, args.memory) == ("reinforce", 60_000, 0.7)


def test_own_loops_refuse_what_only_pure_functions_can(folder, capsys):
    line = ["--plugin=my_q_learning", "--algo=q_learning", "--env=CartPole-v1", f"--log-dir={folder / 'none'}"]
    for flag in ("--simulator=jax", "--num-seeds=2"):
        assert train.main([*line, flag]) == 2
        assert "brings its own training loop" in capsys.readouterr().err
    assert not (folder / "none").exists()


def test_the_code_follows_the_rules_of_the_repository(folder):
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--no-cache", f"--config={ROOT / 'pyproject.toml'}", f"--config=src=['{ROOT}']"]
    files = [f"{name}.py" for name in MODULES]
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([*ruff, *command, *config, *files], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
