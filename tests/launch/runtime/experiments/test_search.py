"""Hyperparameter searches: flags, trials in lockstep, what is written, kills, bad storages."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from agents.base_classes import BaseRLObject
from agents.ppo2 import PPO2
from agents.registry import ActionType, AlgoType, registered_rl
from envs.make import EnvOptions
from launch import hyperparam_search
from launch.runtime.errors import UsageError
from launch.runtime.experiments.candidates import Candidate
from launch.runtime.experiments.journal import Journal
from launch.runtime.experiments.lockstep import Lockstep
from launch.runtime.experiments.search import Search, open_study
from launch.runtime.experiments.search_flags import parse_search_args
from launch.runtime.experiments.search_plots import importances
from launch.runtime.experiments.space import chosen, distributions, searchable
from launch.runtime.experiments.table import Table
from launch.runtime.flags import parse_train_args
from launch.runtime.sweep import plan
from launch.runtime.training import EVALUATION_SEED, build_driver

ROOT = Path(__file__).resolve().parents[4]
SMALL = ["--algo=ppo2", "--env=CartPole-v1", "--simulator=jax", "--num-cpu=4", "--n-steps=16", "--net-arch=16,16"]
SMALL += ["--noptepochs=1", "--eval-episodes=4", "--num-timesteps=1280"]


class FreeLearner(BaseRLObject):
    """Brings its own loop."""

    def customArguments(self, parser):
        parser.add_argument("--momentum", type=float, default=0.5, help="How much is kept.")
        return parser

    def getOptParam(self):
        return {"momentum": (float, (0, 1))}

    def save(self, save_path, _locals=None): ...
    def getAction(self, observation, dones=None): ...
    def train(self, args, callback, env_kwargs=None, hyperparam=None): ...
    @classmethod
    def load(cls, load_path, args=None): ...


def table(log_dir: Path) -> list[dict[str, str]]:
    (path,) = log_dir.glob("searches/*/*.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


# --- what is searched ------------------------------------------------------------------------------------------------


def test_ranges_come_from_the_algorithm():
    assert set(searchable("ppo2")) == set(PPO2().getOptParam())
    found = distributions(chosen("ppo2", [], [], together=False))
    assert found["learning_rate"] == optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)
    assert found["cliprange"] == optuna.distributions.FloatDistribution(0.05, 0.5)
    assert found["n_steps"].choices == (32, 64, 128, 256, 512, 1024, 2048)
    assert found["noptepochs"] == optuna.distributions.IntDistribution(1, 10)
    assert "lr_schedule" in distributions(chosen("a2c", [], [], together=False))


def test_one_program_searches_what_it_can_vary():
    assert set(chosen("ppo2", [], ["gamma"], together=True)) == {
        "learning_rate",
        "lam",
        "cliprange",
        "vf_coef",
        "ent_coef",
        "max_grad_norm",
    }
    assert set(chosen("ppo2", ["n_steps", "gamma"], [], together=True)) == {"n_steps", "gamma"}


@pytest.mark.parametrize("simulator", ["pybullet", "jax"])
@pytest.mark.parametrize("algo", [name for name in registered_rl if name != "random_agent"])
def test_the_first_setting_tried_is_the_defaults(algo, simulator, tmp_path):
    words = [f"--algo={algo}", "--env=MobileRobotGymEnv-v0", *["-c"] * (algo in ("ddpg", "sac"))]
    args = parse_search_args([*words, *["--simulator=jax"] * (simulator == "jax"), "--search", *searchable(algo)])
    study = optuna.create_study(direction="maximize")
    with Journal(tmp_path, "search") as journal:
        (first,) = Search(args, tmp_path, study, journal, Lockstep(args.train, tmp_path, print), Table())._asked(
            "a", 0, 1
        )
    assert first.values == {name: getattr(args.train, name) for name in searchable(algo)}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--algo random_agent", "has no hyperparameters to search"),
        ("--optimizer hyperopt", "choose one of hyperband"),
        ("--search lerning_rate", "did you mean learning_rate?"),
        ("--search gamma --gamma 0.9", "both searched and given"),
        ("--algo cma-es --sigma 0.1", "nothing is left to search"),
        ("--sweep gamma:0.9,0.99", "--sweep has no place in a search"),
        ("--eval-every 9", "--eval-every has no place in a search"),
        ("--algo ppo3", "did you mean ppo2?"),
        ("--num-population 3", "belongs to ars and cma-es, not ppo2"),
        ("--max-eval 0", "at least 1"),
        ("--resume nowhere", "is not a search's folder"),
        ("--resume nowhere --algo a2c", "cannot be given with --resume"),
        ("--env Nowhere-v0", "unknown environment"),
        (
            "--env OmnirobotEnv-v0 --real-robot localhost:9 --algo a2c",
            "--real-robot has no place in a search: settings are compared by evaluations during their training",
        ),
        (
            "--algo deepq --buffer-size 200000 --env CartPole-v1 --simulator jax --optimizer tpe --max-eval 1000000 "
            "--bracket-size 1000000",
            "1000000 settings of a bracket would need",
        ),
    ],
)
def test_bad_lines_are_refused_in_one_line(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert hyperparam_search.main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and said in error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("further", [[], ["--search", "momentum"], ["--simulator=jax"]])
def test_a_learner_with_its_own_loop_is_refused_in_one_line(further, tmp_path, monkeypatch, capsys):
    entry = (FreeLearner, AlgoType.OTHER, [ActionType.DISCRETE])
    monkeypatch.setitem(registered_rl, "free", entry)
    words = ["--algo=free", "--env=CartPole-v1", f"--log-dir={tmp_path}", *further]
    assert hyperparam_search.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "free brings its own training loop and cannot be searched" in error
    assert not any(tmp_path.iterdir())


# --- storages --------------------------------------------------------------------------------------------------------


def test_a_locked_database_is_one_line(tmp_path, capsys):
    database = tmp_path / "a.db"
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    url = f"sqlite:///{database}?timeout=0.2"
    assert hyperparam_search.main([*SMALL, f"--storage={url}", f"--log-dir={tmp_path}/logs"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the storage sqlite") and "locked" in error and error.count("\n") == 1
    assert not (tmp_path / "logs").exists()
    holder.close()


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/a.db", "mysql+nothing://a/b"])
def test_a_storage_that_does_not_exist_is_one_line(url, tmp_path, capsys):
    assert hyperparam_search.main([*SMALL, f"--storage={url}", f"--log-dir={tmp_path}/logs"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the storage ") and error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_a_refused_search_leaves_no_study(tmp_path, capsys):
    words = [*SMALL, "--nminibatches=7", f"--log-dir={tmp_path}"]
    assert hyperparam_search.main([*words, f"--storage=sqlite:///{tmp_path}/a.db"]) == 2
    assert "--nminibatches=7 does not divide" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_a_study_is_not_mixed_with_another(tmp_path):
    args = parse_search_args([*SMALL, f"--storage=sqlite:///{tmp_path}/a.db", "--study-name=one"])
    open_study(args, args.storage)
    with pytest.raises(ValueError, match="has a study one already: choose another --study-name"):
        open_study(args, args.storage)


def test_trials_that_were_not_noted_down_are_forgotten_and_lost_ones_missed(tmp_path):
    """A search was killed while it asked for its first settings; another one's storage is gone."""
    args = parse_search_args(SMALL)
    study = open_study(args, tmp_path / "optuna.log")
    study.ask(distributions(args.space))
    study.enqueue_trial({"gamma": 0.95})
    with Journal(tmp_path, "search") as journal:
        evaluator = Lockstep(args.train, tmp_path, print)
        Search(args, tmp_path, study, journal, evaluator, Table())
        assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.FAIL] * 2
        journal.write("asked", "bracket 0", trials=[2])
        with pytest.raises(ValueError, match="its trials are not in"):
            Search(args, tmp_path, study, journal, evaluator, Table())


# --- lockstep --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_side_by_side_are_the_runs_that_they_would_be_alone(tmp_path):
    """Two comparisons with a restart from disk between them, against a run of each setting by itself."""
    args = parse_train_args([*SMALL, "--seed=5"])
    settings = [Candidate(i, {"learning_rate": rate}) for i, rate in enumerate((1e-4, 1e-3, 1e-2, 3e-3))]
    first = Lockstep(args, tmp_path, print)
    first.advance(settings, 640)
    kept = [settings[1], settings[3]]
    first.keep(kept)
    first.save(0, kept)
    second = Lockstep(args, tmp_path, print)
    assert not second.restore(7, kept) and second.restore(0, kept)
    scores = second.advance(kept, 1280)
    algorithm = PPO2()
    for one, score in zip(kept, scores):
        config, hyper = algorithm.configure({**vars(args), **one.values})
        driver = build_driver(algorithm, EnvOptions.from_args(args), config, plan(hyper, {}, 5, 1), args.num_timesteps)
        driver.run(20)
        trained = second._families[config].states[one.number].run
        for a, b in zip(*(map(np.asarray, _leaves(run.agent.acting.params)) for run in (trained, driver.state))):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        assert abs(driver.evaluate(4, EVALUATION_SEED).mean() - score) < 30
    second.save(1, kept[:1])  # killed after this, before the comparison was noted down
    assert not second.restore(0, kept)


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_a_setting_that_an_algorithm_refuses_costs_no_other(tmp_path, capsys):
    args = parse_train_args(["--algo=ars", *SMALL[1:3], "--num-population=2", "--num-timesteps=4000"])
    scores = Lockstep(args, tmp_path, print).advance(
        [Candidate(0, {"top_population": 5.0}), Candidate(1, {"top_population": 1.0})], 1000
    )
    assert np.isnan(scores[0]) and scores[1] > 0
    assert "trial 0 is refused: --top-population=5 is larger" in capsys.readouterr().out


def test_a_setting_that_diverges_has_no_score(tmp_path):
    """A policy that is no number still plays, and may win where all others lose."""
    settings = [Candidate(0, {"learning_rate": 1e38}), Candidate(1, {"learning_rate": 1e-3})]
    scores = Lockstep(parse_train_args(SMALL), tmp_path, print).advance(settings, 640)
    assert np.isnan(scores[0]) and scores[1] > 0


# --- whole searches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer", ["tpe", pytest.param("random", marks=pytest.mark.slow), pytest.param("cma", marks=pytest.mark.slow)]
)
def test_a_search_leaves_what_it_promises(optimizer, tmp_path, capsys):
    words = [*SMALL, f"--optimizer={optimizer}", "--max-eval=5", "--bracket-size=3", f"--log-dir={tmp_path}"]
    assert hyperparam_search.main(words) == 0
    printed = capsys.readouterr().out
    rows = table(tmp_path)
    assert len(rows) == 5 and rows[0]["learning_rate"] == "0.00025"  # the defaults take part
    assert {row["timesteps"] for row in rows} == {"1280"}
    best = max(rows, key=lambda row: float(row["reward"]))
    command = printed.splitlines()[-1]
    assert command.startswith("python launch/train.py") and f"--learning-rate={best['learning_rate']}" in command
    args = parse_train_args(command.split()[2:])
    assert args.gamma == float(best["gamma"]) and args.n_steps == 16
    (folder,) = (tmp_path / "searches").iterdir()
    assert all((folder / name).stat().st_size > 5_000 for name in ("history.png", "importance.png"))
    assert hyperparam_search.main([f"--resume={folder}"]) == 0  # done: nothing is repeated
    assert table(tmp_path) == rows and capsys.readouterr().out == printed


def test_what_matters_is_found_to_matter():
    # A sampler that learns would gather its trials in a corner of b too, whose share then is chance.
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("a", "b")}
    rng = np.random.default_rng(0)
    for _ in range(60):
        trial = study.ask(space)
        trial.report(-((trial.params["a"] - 0.5) ** 2) + 0.01 * rng.normal() * 0.1, 1)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    found = importances(study)
    assert found["a"] > 3 * found["b"]


@pytest.mark.slow
def test_a_killed_search_ends_as_one_that_was_not(tmp_path):
    words = [*SMALL[:-1], "--num-timesteps=90000"]
    assert hyperparam_search.main([*words, f"--log-dir={tmp_path}/whole"]) == 0
    command = [sys.executable, str(ROOT / "launch/hyperparam_search.py"), *words, f"--log-dir={tmp_path}/killed"]
    process = subprocess.Popen(command, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")})
    wanted = 1
    while process.poll() is None and wanted < 4:  # killed after the first, the second and the third comparison
        journal = list((tmp_path / "killed").glob("searches/*/journal.jsonl"))
        events = [
            json.loads(line) for path in journal for line in path.read_text().splitlines(True) if line[-1] == "\n"
        ]
        if [event["event"] for event in events].count("compared") >= wanted:
            process.send_signal(signal.SIGKILL)
            process.wait()
            wanted += 1
            (folder,) = (tmp_path / "killed" / "searches").iterdir()
            process = subprocess.Popen([*command[:2], f"--resume={folder}"], env=process_environment())
        time.sleep(0.02)
    assert process.wait(600) == 0 and wanted == 4
    whole, killed = (
        sorted((row["learning_rate"], row["timesteps"], float(row["reward"])) for row in table(tmp_path / name))
        for name in ("whole", "killed")
    )
    assert whole == killed


def process_environment() -> dict[str, str]:
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}


@pytest.mark.slow
def test_on_the_host_trials_are_processes(tmp_path, capsys):
    words = ["--algo=ppo2", "--env=CartPole-v1", "--num-cpu=2", "--net-arch=16,16", "--num-workers=1", "--no-vis"]
    words += ["--optimizer=tpe", "--max-eval=3", "--bracket-size=3", "--num-timesteps=60000", "--eval-episodes=4"]
    words += ["--final-eval-episodes=4", "--search", "learning_rate", "n_steps", f"--log-dir={tmp_path}"]
    assert hyperparam_search.main(words) == 0
    rows = table(tmp_path)
    assert sorted(row["timesteps"] for row in rows) == ["30000", "30000", "60000"]
    assert all(int(row["n_steps"]) in (32, 64, 128, 256, 512, 1024, 2048) for row in rows)
    (folder,) = (tmp_path / "searches").iterdir()
    assert not list(folder.glob("trials/*/*/*/*/*/checkpoints/*"))
    with pytest.raises(UsageError, match="not a search's folder"):
        parse_search_args([f"--resume={folder}/trials"])
