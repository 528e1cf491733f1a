"""The command line of `launch/train.py`: spelling, values, algorithms' flags, sweeps, resume, help, exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.options import declared
from agents.registry import ActionType, AlgoType, registered_rl
from launch.results.command import command_line
from launch.runtime.algorithm_flags import algorithm_options, config_and_hyper
from launch.runtime.errors import HelpRequested, UsageError, nearest, run_command
from launch.runtime.flag_parser import FlagParser
from launch.runtime.flags import parse_train_args
from launch.runtime.run_folder import create_run_folder

ROOT = Path(__file__).resolve().parents[3]
BUILT_IN = tuple(registered_rl)


def module_of(algo: str) -> str:
    """Where a built-in algorithm is declared."""
    entry = registered_rl[algo][0]
    assert isinstance(entry, str)
    return entry.partition(":")[0]


def parse(line: str) -> argparse.Namespace:
    return parse_train_args(line.split())


def refusal(line: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- defaults and spelling -------------------------------------------------------------------------------------------


def test_defaults_are_the_originals():
    args = vars(parse(""))
    original = {
        "algo": "ppo2",
        "env": "KukaButtonGymEnv-v0",
        "seed": 0,
        "episode_window": 40,
        "num_timesteps": 1_000_000,
        "num_stack": 1,
        "action_repeat": 1,
        "port": 8097,
        "no_vis": False,
        "shape_reward": False,
        "continuous": False,
        "joints": False,
        "random_target": False,
        "srl_config_file": "config/srl_models.yaml",
        "min_episodes_save": 100,
        "latest": False,
        "load_rl_model_path": None,
    }
    new = {
        "srl_model": "ground_truth",
        "log_dir": "logs/",
        "simulator": "pybullet",
        "num_seeds": 1,
        "hyperparam": {},
        "sweep": {},
        "resume": None,
        "wandb_project": "srl-jax",
        "wandb_mode": "auto",
        "eval_every": 0,
        "eval_episodes": 20,
        "final_eval_episodes": 100,
        "eval_deterministic": True,
        "image_size": 224,
        "run_folder": None,
    }
    for name, value in (original | new).items():
        assert args[name] == value and type(args[name]) is type(value), name
    assert "help" not in args


@pytest.mark.parametrize(
    "line",
    [
        "--num-timesteps 5000 --random-target --continuous --joints --verbose",
        "--num_timesteps=5_000 --random_target -c -joints -v",
        "--num-timesteps=5e3 -r --continuous-actions --action-joints --verbose=1",
        "-v 1 -r true --continuous_actions=yes --action_joints 1 --num_timesteps 5000.0 --noshape-reward",
        "--no-shape_reward -c -c -r --continuous -joints -v --num-timesteps 5000 --num-timesteps 5e3",
    ],
)
def test_spellings_agree(line):
    assert vars(parse(line)) == vars(parse("--num-timesteps 5000 -r -c -joints -v"))


def test_booleans_switch_on_and_off():
    assert parse("").normalize is True and parse("--nonormalize").normalize is False
    assert parse("--no-normalize").normalize is False and parse("--normalize 0").normalize is False
    assert parse("--no-vis").no_vis is True and parse("--nono-vis").no_vis is False


def test_tuples_and_negative_numbers():
    args = parse("--net-arch 32,16 --log-std-init -1.5")
    assert args.net_arch == (32, 16) and args.log_std_init == -1.5


def test_simulator_follows_brax():
    assert parse("--env brax/ant").simulator == "jax"
    assert parse("--env CartPole-v1").simulator == "pybullet"


@pytest.mark.parametrize("algo", ["a2c", "acer", "acktr", "ppo2"])
def test_twins_are_played_by_more_environments_than_processes_would(algo):
    assert parse(f"--algo={algo}").num_cpu == 1
    assert parse(f"--algo={algo} --simulator=jax").num_cpu == 16
    assert parse(f"--algo={algo} --simulator=jax --num-cpu=1").num_cpu == 1
    assert parse(f"--algo={algo} --simulator=jax --hyperparam num_cpu:2").num_cpu == 2


@pytest.mark.parametrize("words", ["--num-cpu=1", "--num-cpu=8", ""])
def test_the_command_of_a_run_repeats_its_environments(words):
    for simulator in ("", "--simulator=jax"):
        args = vars(parse(f"--env=MobileRobotGymEnv-v0 {simulator} {words}"))
        again = parse(command_line(args).removeprefix("python launch/train.py "))
        assert again.num_cpu == args["num_cpu"]


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lerning-rate 3", "unknown flag --lerning-rate; did you mean --learning-rate?"),
        ("--Seed 3", "unknown flag --Seed; did you mean --seed?"),
        ("-seed 3", "unknown flag -seed; did you mean --seed?"),
        ("--algo pp02", "unknown algorithm pp02; did you mean ppo2?"),
        ("--algo xyz", "unknown algorithm xyz; choose one of " + ", ".join(registered_rl)),
        ("--env KukaButon-v0", "unknown environment KukaButon-v0; did you mean KukaButtonGymEnv-v0?"),
        ("--env cartpole-v1", "unknown environment cartpole-v1; did you mean CartPole-v1?"),
        ("--env zzz", "unknown environment zzz; the toolbox has CarRacingGymEnv-v0, KukaButtonGymEnv-v0"),
        ("--env brax/hoper", "unknown environment brax/hoper; did you mean brax/hopper?"),
        ("--max-step-amplitude 3", "--max-step-amplitude belongs to ars, not ppo2"),
        (
            "--algo ars --max_grad_norm 3",
            "--max-grad-norm belongs to a2c and acer and acktr and",
        ),
        (
            "--algo trpo --policy=lstm",
            "--policy=lstm belongs to a2c and acer and acktr and ppo2, not trpo; choose one of them or --policy=",
        ),
        ("--algo sac --policy lnlstm", "--policy=lnlstm belongs to a2c and acer and acktr and ppo2, not sac"),
        ("--policy lstn", "--policy=lstn: choose one of feedforward, lstm, lnlstm; did you mean lstm?"),
        ("random-target", "unexpected argument 'random-target'; did you mean --random-target?"),
        ("--seed 1 --seed 2", "--seed is given twice, as 1 and as 2"),
        ("--seed --verbose", "--seed needs a value"),
        ("--env=", "--env has an empty value"),
        ("--srl-model ground_thruth", "did you mean ground_truth?"),
        ("--joints", "--joints needs --continuous"),
        ("-joints -c --env CartPole-v1", "--joints has no meaning for CartPole-v1"),
        ("--data-parallel", "--data-parallel needs --simulator=jax"),
        ("--env CarRacingGymEnv-v0 --simulator jax", "CarRacingGymEnv-v0 has no JAX twin"),
        ("--sweep n_steps:1,2", "n_steps of ppo2 is static and cannot be swept in one run"),
        ("--sweep lerning_rate:1,2", "ppo2 has no hyperparameter lerning_rate to sweep; did you mean learning_rate?"),
        ("--hyperparam gama:1", "ppo2 has no hyperparameter gama; did you mean gamma?"),
        ("--hyperparam gamma:1 --gamma 0.9", "gamma is given twice, by --gamma and by --hyperparam"),
        ("--sweep gamma:1,0.9 --gamma 0.9", "gamma is both swept and given a single value"),
        ("--sweep gamma:0.9,1.5", "--gamma=1.5: must be at most 1"),
    ],
)
def test_messages_name_the_nearest_choice(line, message):
    assert message in refusal(line)


def test_nearest_ignores_case_and_gives_up():
    assert nearest("PPO", ["ars", "ppo2"]) == "ppo2"
    assert nearest("zzz", ["ars", "ppo2"]) is None


# --- algorithms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", BUILT_IN)
def test_flags_come_from_the_declarations(algo):
    args = parse(f"--algo {algo}" + ("" if ActionType.DISCRETE in registered_rl[algo][2] else " -c"))
    config, hyper = declared(module_of(algo))
    static, traced = config_and_hyper(args)
    assert config(**static) == config() and hyper(**traced) == hyper()
    assert {option.name for option in algorithm_options(algo)} == set(static) | set(traced) <= set(vars(args))


def test_hyperparam_is_the_same_as_flags():
    args = parse("--hyperparam learning_rate:1e-3 n-steps:64 normalize:0 --hyperparam net_arch:8,8")
    assert args.hyperparam == {"learning_rate": 1e-3, "n_steps": 64, "normalize": False, "net_arch": (8, 8)}
    flags = parse("--learning-rate 1e-3 --n-steps 64 --nonormalize --net-arch 8,8")
    assert config_and_hyper(args) == config_and_hyper(flags)


def test_sweep():
    args = parse("--sweep learning_rate:1e-4,3e-4 ent-coef:0,0.01 --num-seeds 4")
    assert args.sweep == {"learning_rate": [1e-4, 3e-4], "ent_coef": [0.0, 0.01]} and args.num_seeds == 4


FREE_ALGORITHM = """
from agents.base_classes import BaseRLObject

class Free(BaseRLObject):
    def customArguments(self, parser):
        parser.add_argument("--momentum", "-m", type=float, default=0.5, help="How much is kept.")
        parser.add_argument("--layers", type=int, nargs="+", default=[8], help="Sizes.")
        parser.add_argument("--kind", choices=("slow", "quick"), default="slow", help="Which.")
        parser.add_argument("--loud", action="store_true", help="Say more.")
        return parser

    def getOptParam(self):
        return {"momentum": (float, (0, 1)), "patience": (int, (1, 10))}

    def save(self, save_path, _locals=None): ...
    def getAction(self, observation, dones=None): ...
    def train(self, args, callback, env_kwargs=None, hyperparam=None): ...
    @classmethod
    def load(cls, load_path, args=None): ...
"""


@pytest.fixture
def free(tmp_path, monkeypatch):
    """Register a user's own `BaseRLObject` as "free", with continuous actions only; return its module's name."""
    module = f"free_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(FREE_ALGORITHM)
    monkeypatch.syspath_prepend(tmp_path)
    entry = (f"{module}:Free", AlgoType.OTHER, [ActionType.CONTINUOUS])
    monkeypatch.setitem(registered_rl, "free", entry)
    return module


def test_a_free_algorithm_declares_its_own_flags(free):
    args = parse("--algo free -c -m 0.9 --layers 8 16 --kind quick --loud --hyperparam patience:3")
    assert (args.momentum, args.layers, args.kind, args.loud) == (0.9, [8, 16], "quick", True)
    assert args.hyperparam == {"patience": 3}
    assert config_and_hyper(args) == ({}, {})
    assert parse("--algo free -c --hyperparam momentum:0.25").momentum == 0.25
    assert "did you mean quick" in refusal("--algo free -c --kind quik")
    assert "expected a finite number" in refusal("--algo free -c --momentum x")
    assert "did you mean momentum" in refusal("--algo free -c --hyperparam momentun:1")
    assert "--loud belongs to free, not ppo2" in refusal("--loud")
    assert "no hyperparameter momentum to sweep" in refusal("--algo free -c --sweep momentum:0.1,0.2")


def test_a_class_in_the_registry_is_asked(free, monkeypatch):
    cls = importlib.import_module(free).Free
    monkeypatch.setitem(registered_rl, "free", (cls, AlgoType.OTHER, [ActionType.DISCRETE]))
    assert parse("--algo free -m 0.1").momentum == 0.1
    assert "free has no continuous actions: leave out --continuous" in refusal("--algo free -c")


def test_continuous_only_algorithms_need_continuous(free):
    assert "free has no discrete actions: add --continuous" in refusal("--algo free")
    assert parse("--algo free --env Pendulum-v1").algo == "free"


def test_custom_arguments_work_with_argparse_too(free):
    algorithm = importlib.import_module(free).Free()
    line = ["-m", "0.9", "--layers", "8", "16", "--loud"]
    ours = FlagParser("", "")
    algorithm.customArguments(ours)
    assert vars(ours.parse(line)) == vars(algorithm.customArguments(argparse.ArgumentParser()).parse_args(line))


def test_declarations_that_are_not_supported_are_refused():
    parser = FlagParser("", "")
    with pytest.raises(ValueError, match="action='append'"):
        parser.add_argument("--x", action="append")
    with pytest.raises(ValueError, match="long form"):
        parser.add_argument("-x")
    parser.add_argument("--seed", type=int, default=0)
    with pytest.raises(ValueError, match="--seed is declared twice"):
        parser.add_argument("--seed", type=int, default=1)


def test_own_conversions():
    parser = FlagParser("", "")
    parser.add_argument("--setting", type=json.loads, default={"a": 1}, help="JSON.")
    assert parser.parse([]).setting == {"a": 1}
    assert parser.parse(["--setting", '{"b": 2}']).setting == {"b": 2}
    with pytest.raises(UsageError, match=r"--setting=\{: "):
        parser.parse(["--setting", "{"])


def test_a_config_may_refuse_a_combination(tmp_path, monkeypatch):
    (tmp_path / "strict_config.py").write_text(
        "from dataclasses import dataclass\n"
        "from agents.options import option\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    width: int = option(8, 'Width.')\n"
        "    parts: int = option(4, 'Parts.')\n"
        "    def __post_init__(self):\n"
        "        if self.width % self.parts:\n"
        "            raise ValueError(f'--parts={self.parts} does not divide --width={self.width}')\n"
        "@dataclass(frozen=True)\n"
        "class Hyper:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registered_rl, "strict", ("strict_config:Strict", AlgoType.OTHER, list(ActionType)))
    assert parse("--algo strict --parts 2").parts == 2
    assert refusal("--algo strict --parts 3") == "--parts=3 does not divide --width=8"


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path):
    args = vars(parse("--algo a2c --seed 3 --hyperparam gamma:0.9 --sweep ent_coef:0,0.1 --net-arch 16,16 -r"))
    return create_run_folder(tmp_path, "KukaButtonGymEnv-v0", "ground_truth", "a2c", args, {})


def test_resume_takes_the_flags_of_the_run(run_folder):
    args = parse(f"--resume {run_folder}")
    assert (args.algo, args.seed, args.gamma, args.net_arch) == ("a2c", 3, 0.9, (16, 16))
    assert args.random_target is True and args.sweep == {"ent_coef": [0.0, 0.1]} and args.hyperparam == {"gamma": 0.9}
    assert args.resume == str(run_folder) and args.run_folder is None


def test_resume_accepts_equal_flags_and_those_that_change_nothing(run_folder):
    args = parse(f"--resume={run_folder} --seed 3 --algo a2c -r --wandb-mode disabled -v --num-workers 1")
    assert (args.wandb_mode, args.verbose, args.num_workers) == ("disabled", True, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--seed 4", "--seed was 3 there, 4 is given now"),
        ("--algo ppo2", "--algo was 'a2c' there"),
        ("--gamma 0.8", "--gamma was 0.9 there"),
        ("--num-seeds 2", "--num-seeds cannot be given with --resume"),
        ("--sweep ent_coef:0,0.1", "--sweep cannot be given with --resume"),
        ("--load-rl-model-path .", "--load-rl-model-path cannot be given with --resume"),
    ],
)
def test_resume_refuses_other_flags(run_folder, line, message):
    assert message in refusal(f"--resume {run_folder} {line}")


def test_resume_finds_the_pictures_where_the_run_had_them(tmp_path):
    """Given or not, "auto" is what it chose then; runs from before the flag had all on the device."""
    args = vars(parse("--algo deepq")) | {"replay_memory": "host"}
    folder = create_run_folder(tmp_path, "KukaButtonGymEnv-v0", "raw_pixels", "deepq", args, {})
    for given in ("", "--algo deepq --replay-memory auto", "--replay-memory=host"):
        assert parse(f"--resume {folder} {given}").replay_memory == "host"
    assert "--replay-memory was 'host' there, 'device' is given" in refusal(f"--resume {folder} --replay-memory device")
    del args["replay_memory"]
    older = create_run_folder(tmp_path, "KukaButtonGymEnv-v0", "raw_pixels", "deepq", args, {})
    assert parse(f"--resume {older}").replay_memory == "device"


def test_resume_refuses_what_is_not_a_run(run_folder, tmp_path):
    assert "does not exist" in refusal(f"--resume {tmp_path}/nowhere")
    assert "not a run folder" in refusal(f"--resume {tmp_path}")
    (run_folder / "args.json").write_text('{"algo": "a2')
    assert "truncated" in refusal(f"--resume {run_folder}")
    (run_folder / "args.json").write_text('{"algo": "a3c"}')
    assert "'a3c' does not exist" in refusal(f"--resume {run_folder}")


# --- help and exit codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", BUILT_IN)
@pytest.mark.parametrize("form", ["--help", "-h", "--help=1"])
def test_help_lists_every_flag_of_the_algorithm(algo, form):
    with pytest.raises(HelpRequested) as caught:
        parse(f"--algo={algo} {form}")
    text = str(caught.value)
    assert all(f"{option.flag} " in text.replace("[no]", "") for option in algorithm_options(algo))
    assert "-c, --continuous, --continuous-actions\n" in text and "  -joints, --joints" in text
    assert ("max-step-amplitude" in text) == (algo == "ars")
    assert max(map(len, text.splitlines())) <= 100


def test_help_shows_defaults_and_choices():
    with pytest.raises(HelpRequested) as caught:
        parse("--algo=ars --help")
    text = " ".join(str(caught.value).split())
    assert "(one of v1, v2; default v2)" in text and "(at least 1; default 10)" in text


LIGHT = """
import sys
sys.argv = ["train.py", {flag!r}]
import runpy
try:
    runpy.run_path("launch/train.py", run_name="__main__")
except SystemExit as end:
    assert end.code == {code}, end.code
heavy = {{"jax", "numpy", "gymnasium", "wandb", "pybullet", "flax", "optax", "orbax", "brax"}} & set(sys.modules)
assert heavy <= {allowed!r}, heavy
"""


@pytest.mark.parametrize(
    ("flag", "code", "allowed"),
    [
        ("--help", 0, set()),
        ("--lerning-rate=3", 2, set()),
        ("--env=KukaBotton-v0", 2, {"numpy", "gymnasium"}),
        ("--joints", 2, {"numpy", "gymnasium"}),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(flag, code, allowed):
    script = LIGHT.format(flag=flag, code=code, allowed=allowed)
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def ending(error: BaseException | None, run_folder: str | None = None, verbose: bool = False, **flags: str) -> int:
    args = argparse.Namespace(run_folder=None, verbose=verbose, **flags)

    def body(given: argparse.Namespace) -> None:
        given.run_folder = run_folder
        if error is not None:
            raise error

    return run_command(lambda: args, body)


def test_exit_codes(capsys):
    from envs.host.vector import WorkerError
    from launch.runtime.checkpoint import CheckpointError
    from launch.runtime.errors import RunError

    assert ending(None) == 0
    assert ending(ValueError("sizes differ")) == 2
    assert ending(OSError(13, "Permission denied")) == 2
    assert ending(OSError(28, "No space left on device"), "logs/x") == 3
    assert ending(CheckpointError("disk is full"), "logs/x") == 3
    assert ending(WorkerError("environment 3 raised\nKeyError"), "logs/x") == 3
    assert ending(RunError("stopped"), "logs/x") == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and all(line.startswith("error: ") for line in lines)
    assert lines[4] == "error: environment 3 raised KeyError"


def test_interruption_says_how_to_continue(capsys):
    assert ending(KeyboardInterrupt()) == 130
    assert ending(KeyboardInterrupt(), "logs/x", resume="") == 130
    assert ending(KeyboardInterrupt(), "data/x") == 130  # of a command without that flag
    assert capsys.readouterr().err.splitlines() == [
        "interrupted",
        "interrupted; continue with --resume logs/x",
        "interrupted; the same command continues it",
    ]


def test_defects_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError())
    with pytest.raises(ValueError, match="inside"):
        ending(ValueError("inside"), "logs/x")


def test_verbose_shows_where_an_error_came_from(capsys):
    assert ending(ValueError("sizes differ"), verbose=True) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("\nerror: sizes differ\n")


def test_a_reader_may_leave_early():
    """`--help | head` ends without a word about the closed pipe."""
    command = [sys.executable, ROOT / "launch" / "train.py", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
