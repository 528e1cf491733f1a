"""Bad command lines: each is refused with one line and exit code 2, before anything is started or written."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.registry import registered_rl
from launch import train
from launch.runtime.algorithm_flags import add_algorithm_flags
from launch.runtime.flags import common_flags, parse_train_args

ROOT = Path(__file__).resolve().parents[2]

GOOD = [
    "",
    "--algo ppo2",
    "--algo=ars --continuous",
    "--algo ars -c -joints --srl-model joints",
    "--algo=a2c --env=CartPole-v1 --num-cpu=8",
    "--algo random_agent --num-timesteps 1e5",
    "--algo ppo2 --env MobileRobotGymEnv-v0 --srl-model raw_pixels --num-timesteps 5000000 -r --num-cpu 4 --no-vis",
    "--algo ppo2 --log-dir logs/ --env KukaButtonGymEnv-v0 --srl-model ground_truth --num-stack 4 --shape-reward",
    "--env KukaButtonGymEnv-v0 -c --action-repeat 4 --seed 7 --episode_window 100 --port 8098 --min-episodes-save 10",
    "--env MobileRobotGymEnv-v0 --simulator jax --random-target --num-timesteps 1_000_000 --num-seeds 3",
    "--env=MobileRobotGymEnv-v0 --simulator=jax --srl-model=raw_pixels --image-size=64 --fpv",
    "--env KukaButtonGymEnv-v0 --srl_model raw_pixels --multi_view",
    "--srl-model joints_position",
    "--continuous-actions --action-joints --log_dir=elsewhere",
    "--noshape-reward --no-random-target --nonormalize",
    "--random-target 1 --shape-reward 0",
    "--normalize=false --clip-value=1",
    "--hyperparam learning_rate:1e-3 n_steps:64 net-arch:32,32",
    "--sweep learning_rate:1e-4,3e-4 ent_coef:0,0.01 --num-seeds 2",
    "--algo ars --sweep exploration_noise:0.01,0.1 --hyperparam num_population:16",
    "--algo cma-es -c --policy linear --sweep sigma:0.1,0.5 --num-episodes 4",
    "--algo=cma-es --net-arch=16,16 --covariance=diagonal --mu=-0.1 --deterministic --nonormalize",
    "--env brax/ant --num-cpu 64",
    "--env Pendulum-v1 --simulator jax --gamma 0.9 --lam .95",
    "--env HalfCheetahBulletEnv-v0 --num-workers 2 --num-cpu 16",
    "--env Acrobot-v1 --lr-schedule linear --algo a2c",
    "--env LunarLander-v3 -c",
    "--algo ppo2 --env CarRacingGymEnv-v0 --srl-model raw_pixels -c",
    "--env my_package:MyEnv-v0",
    "--wandb-mode offline --wandb-project mine --verbose",
    "--wandb_mode=disabled -v --eval-every 5e4 --eval-episodes 5 --final-eval-episodes 10",
    "--checkpoint-every 100_000 --log-dir some/new/folder",
    "--seed 3 --seed 3 -c --continuous",
    "--log-std-init -0.5 --policy feedforward --activation relu --net-arch 256",
    "--load-rl-model-path .",
    "-c -r -v",
]


@pytest.mark.parametrize("line", GOOD)
def test_good_command_lines_parse(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = parse_train_args(line.split())
    assert args.num_timesteps > 0 and args.simulator in ("pybullet", "jax")
    assert not list(tmp_path.iterdir())


# --- generators of bad command lines: rng -> words -------------------------------------------------------------------

ALGOS = tuple(registered_rl)
FLAGS = {algo: [*common_flags().names, *add_algorithm_flags(common_flags(), algo)] for algo in ALGOS}
INTEGERS = ["num-timesteps", "seed", "num-stack", "action-repeat", "port", "num-seeds", "num-cpu", "n-steps"]
INTEGERS += ["eval-episodes", "episode-window", "image-size", "nminibatches", "num-workers", "min-episodes-save"]
REALS = ["learning-rate", "gamma", "lam", "cliprange", "ent-coef", "vf-coef", "max-grad-norm"]
SWITCHES = ["continuous", "random-target", "shape-reward", "no-vis", "verbose", "normalize", "clip-value", "latest"]
CHOICES = ["simulator", "srl-model", "wandb-mode", "policy", "lr-schedule", "activation"]
FOREIGN = [
    ("ppo2", "max-step-amplitude", "10"),
    ("ppo2", "algo_type", "v2"),
    ("a2c", "cliprange", "0.2"),
    ("a2c", "noptepochs", "4"),
    ("ars", "n-steps", "5"),
    ("ars", "num-cpu", "4"),
    ("ars", "gamma", "0.9"),
    ("deepq", "ent-coef", "0.1"),
    ("sac", "dueling", "1"),
    ("ddpg", "buffer-size", "100"),
    ("random_agent", "learning-rate", "0.1"),
    ("random_agent", "num-population", "3"),
    ("cma-es", "exploration-noise", "0.1"),
    ("ars", "sigma", "0.1"),
]
COMBINATIONS = [
    "--joints",
    "-joints --env MobileRobotGymEnv-v0 -c",
    "--joints -c --env CartPole-v1",
    "--env CartPole-v1 --action-repeat 3",
    "--env MobileRobotGymEnv-v0 --multi-view --srl-model raw_pixels",
    "--env KukaButtonGymEnv-v0 --fpv --srl-model raw_pixels",
    "--fpv --env MobileRobotGymEnv-v0",
    "--multi-view",
    "--multi-view --srl-model joints --simulator jax",
    "--fpv --env MobileRobotGymEnv-v0 --srl-model ground_truth --simulator jax",
    "--env CartPole-v1 --srl-model raw_pixels",
    "--env CartPole-v1 --srl-model joints",
    "--env brax/ant --random-target",
    "--env brax/ant --simulator pybullet",
    "--env Pendulum-v1 --simulator jax --shape-reward",
    "--env CarRacingGymEnv-v0 --simulator jax",
    "--algo ars --continuous --noeval-deterministic",
    "--data-parallel",
    "--env CartPole-v1 --simulator pybullet --data-parallel",
    "--env CartPole-v1 --simulator jax --coordinator localhost:4000 --num-processes 2 --process-id 0",
    "--env CartPole-v1 --simulator jax --distributed auto",
    "--env CartPole-v1 --simulator jax --data-parallel --distributed auto --process-id 0",
    "--env CartPole-v1 --simulator jax --data-parallel --coordinator localhost:4000 --num-processes 2",
    "--env CartPole-v1 --simulator jax --data-parallel --coordinator localhost --num-processes 2 --process-id 0",
    "--env CartPole-v1 --simulator jax --data-parallel --coordinator a:99999 --num-processes 2 --process-id 0",
    "--env CartPole-v1 --simulator jax --data-parallel --coordinator a:4000 --num-processes 2 --process-id 2",
    "--env CartPole-v1 --simulator jax --data-parallel --coordinator a:4000 --num-processes 0 --process-id 0",
    "--distributed slurm",
    "--on-nan ignore",
    "--env BipedalWalker-v3 --simulator jax",
    "--resume nowhere",
    "--load-rl-model-path nowhere",
    "--srl-config-file nowhere.yaml",
    "--log-dir /dev/null/logs",
    "--algo ars --algo ppo2",
    "--learning-rate 1e-3 --hyperparam learning_rate:1e-4",
    "--learning-rate 1e-3 --sweep learning_rate:1e-4,1e-3",
    "--hyperparam gamma:0.9 --sweep gamma:0.9,0.99",
    "--continuous --nocontinuous",
    "--sweep n_steps:64,128",
    "--sweep net_arch:64,32",
    "--sweep num_cpu:1,2",
    "--algo ars --sweep num_population:4,8",
    "--algo cma-es --num-population 1",
    "--algo cma-es --sigma 0",
    "--algo cma-es --covariance banded",
    "--algo cma-es --policy cnn",
    "--algo ars --policy lstm",
    "--algo ars --net-arch 0",
    "--algo random_agent --sweep gamma:0.9",
    "--algo deepq --continuous",
    "--algo sac",
    "--algo ddpg --env MobileRobotGymEnv-v0",
]


def misspelled(word: str, rng: random.Random) -> str:
    """Drop, double, swap or replace one letter."""
    at = rng.randrange(1, len(word) - 1)
    edits = [
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + "z" + word[at + 1 :],
    ]
    return rng.choice([edit for edit in edits if edit != word])


def joined(flag: str, value: str, rng: random.Random) -> list[str]:
    """Spell a flag with its value in one of the accepted ways."""
    flag = flag.replace("-", "_") if rng.random() < 0.3 else flag
    return [f"--{flag}={value}"] if rng.random() < 0.5 else [f"--{flag}", value]


def misspelled_flag(rng: random.Random) -> list[str]:
    algo = rng.choice(ALGOS)
    long_names = [name for name in FLAGS[algo] if len(name) > 4]
    while True:
        wrong = misspelled(rng.choice(long_names), rng)
        if wrong not in FLAGS[algo] and not wrong.startswith("no"):
            return ["--algo", algo, *rng.choice([[f"--{wrong}"], joined(wrong, "1", rng)])]


def misspelled_name(rng: random.Random) -> list[str]:
    flag, name = rng.choice(
        [("algo", algo) for algo in ALGOS]
        + [("env", env) for env in ("KukaButtonGymEnv-v0", "MobileRobotGymEnv-v0", "CartPole-v1", "brax/hopper")]
    )
    return joined(flag, misspelled(name, rng), rng)


def wrong_integer(rng: random.Random) -> list[str]:
    return joined(
        rng.choice(INTEGERS), rng.choice(["many", "1.5", "0x10", "1,5", "nan", "inf", "--", "1e-3", "ten"]), rng
    )


def wrong_real(rng: random.Random) -> list[str]:
    return joined(rng.choice(REALS), rng.choice(["fast", "1/2", "nan", "inf", "-inf", "0,1", "None", "1e"]), rng)


def wrong_switch(rng: random.Random) -> list[str]:
    value = rng.choice(["maybe", "2", "on!", "-1", "None"])
    return [f"--{rng.choice(SWITCHES)}={value}"]


def wrong_choice(rng: random.Random) -> list[str]:
    return joined(rng.choice(CHOICES), rng.choice(["best", "jaxx", "Linear", "autoencoder", "0", "lstm"]), rng)


def out_of_range(rng: random.Random) -> list[str]:
    pairs = [("num-timesteps", "0"), ("num-timesteps", "-1000000"), ("port", "65535"), ("port", "-1")]
    pairs += [("seed", "-1"), ("seed", "1e10"), ("num-seeds", "0"), ("episode-window", "0"), ("num-stack", "-4")]
    pairs += [("action-repeat", "0"), ("eval-every", "-1"), ("eval-episodes", "0"), ("checkpoint-every", "-5")]
    pairs += [("num-workers", "-2"), ("image-size", "0"), ("num-cpu", "0"), ("n-steps", "-128"), ("gamma", "1.01")]
    pairs += [("gamma", "-0.1"), ("lam", "2"), ("learning-rate", "-1e-3"), ("net-arch", "64,0"), ("image-size", "1e6")]
    return joined(*rng.choice(pairs), rng)


def foreign_flag(rng: random.Random) -> list[str]:
    algo, flag, value = rng.choice(FOREIGN)
    chosen, foreign = ["--algo", algo], joined(flag, value, rng)
    return chosen + foreign if rng.random() < 0.5 else foreign + chosen


def broken_structure(rng: random.Random) -> list[str]:
    number, switch = rng.choice(INTEGERS), rng.choice(SWITCHES)
    return rng.choice(
        [
            [f"--{number}"],
            [f"--{number}", f"--{switch}"],
            [f"--{number}="],
            [f"--{number}", ""],
            [f"--{number}", "3", "4"],
            [f"--{number}", "3", f"--{number}", "4"],
            [f"--{switch}", "perhaps"],
            [f"--no{switch}=1"],
            [f"--no{number}"],
            [f"-{number}", "3"],
            [number, "3"],
            ["--", f"--{switch}"],
            [f"---{switch}"],
            ["-"],
            ["-x"],
            ["-cr"],
            ["--env"],
            ["--env="],
            ["--algo"],
            ["--algo="],
            ["--resume="],
            ["--hyperparam"],
            ["--sweep", "--seed", "1"],
            ["ppo2"],
            ["--flagfile=setup.txt"],
            ["--", "x"],
            ["--help=perhaps"],
        ]
    )


def bad_item(rng: random.Random) -> list[str]:
    good = rng.choice(["gamma", "ent_coef", "learning_rate"])
    item = rng.choice(
        [
            good,
            f"{good}=0.5",
            f"{good}:",
            ":0.5",
            f"{good}:high",
            f"{good}:nan",
            f"{good}:0.5,",
            f"{misspelled(good, rng)}:0.5",
            "max_step_amplitude:1",
            "seed:1",
        ]
    )
    return [rng.choice(["--hyperparam", "--sweep"]), *rng.choice([[item], ["vf_coef:0.5", item]])]


GENERATORS: list[Callable[[random.Random], list[str]]] = [
    misspelled_flag,
    misspelled_flag,
    misspelled_name,
    wrong_integer,
    wrong_real,
    wrong_switch,
    wrong_choice,
    out_of_range,
    foreign_flag,
    broken_structure,
    bad_item,
]


def generate(count: int) -> list[list[str]]:
    """Make `count` different bad command lines, the bad part among valid words."""
    rng = random.Random(20_240)
    around = [[], ["--seed", "5"], ["--shape-reward"], ["--eval-every=1000", "--no-vis"]]
    lines = {tuple(line.split()): None for line in COMBINATIONS}
    while len(lines) < count:
        bad = rng.choice(GENERATORS)(rng)
        valid = rng.choice(around) if not {"--seed", "--shape-reward", "--no-vis"} & set(bad) else []
        lines[(*valid, *bad)] = None
    return [list(line) for line in lines]


@pytest.mark.parametrize("line", generate(300), ids=" ".join)
def test_bad_command_lines_are_refused(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "run", lambda args: pytest.fail(f"accepted: {line}"))
    assert train.main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) > 15
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (["launch/train.py"], ["--lerning-rate", "3"]),
        (["-m", "launch.train"], ["--env", "KukaButton-v0"]),
        (["launch/train.py"], ["--algo=ppo2", "--joints"]),
        (["launch/train.py"], ["--resume", "nowhere"]),
        (["launch/train.py"], ["--env=CartPole-v1", "--simulator=jax", "--n-steps=5", "--nminibatches=3"]),
        (["launch/train.py"], ["--algo=deepq", "--env=CartPole-v1", "--simulator=jax", "--buffer-size=3"]),
        (["launch/train.py"], ["--algo=sac", "-c", "--env=Pendulum-v1", "--simulator=jax", "--buffer-size=1e11"]),
    ],
)
def test_bad_command_lines_as_processes(start, line, tmp_path):
    log_dir = tmp_path / "logs"
    command = [sys.executable, *start, *line, f"--log-dir={log_dir}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not log_dir.exists()
