"""The command line of launch/pipeline.py: which flags reach which cells, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from launch.pipeline import main
from launch.runtime.errors import UsageError
from launch.runtime.experiments.pipeline_flags import default_num_jobs, parse_pipeline_args
from launch.runtime.flags import parse_train_args

MOBILE, LINE = "MobileRobotGymEnv-v0", "MobileRobotLineTargetGymEnv-v0"


def test_the_originals_command_makes_its_cells(tmp_path):
    line = "--algo ppo2 --srl-model ground_truth raw_pixels --random-target --num-cpu 4 --num-iteration 15"
    jobs = parse_pipeline_args([*shlex.split(line), "--simulator=jax", f"--log-dir={tmp_path}"]).jobs
    assert [(job.srl_model, job.seed, job.num_seeds) for job in jobs] == [
        ("ground_truth", 0, 15),
        ("raw_pixels", 0, 15),
    ]
    args = parse_train_args(jobs[0].command(tmp_path))
    assert (args.num_seeds, args.num_cpu, args.random_target, args.simulator) == (15, 4, True, "jax")


def test_on_the_host_each_seed_is_a_job():
    args = parse_pipeline_args(["--env", MOBILE, LINE, MOBILE, "--num_iteration=3", "--seed=7", "-r"])
    assert [(job.env, job.seed, job.num_seeds) for job in args.jobs] == [
        (env, seed, 1) for env in (MOBILE, LINE) for seed in (7, 8, 9)
    ]
    assert len({job.name for job in args.jobs}) == 6
    assert default_num_jobs(args.jobs) >= 1


def test_flags_go_to_the_algorithms_that_have_them():
    line = shlex.split("--algo ars ppo2 a2c -c --n-steps 64 --num-population 8 --num-iteration 1 --env=CartPole-v1")
    line += ["--hyperparam", "learning_rate:1e-3", "step-size:0.1", "--sweep", "gamma:0.9,0.99", "--env", MOBILE]
    jobs = {(job.algo, job.env): job for job in parse_pipeline_args(line).jobs}
    parsed = {algo: parse_train_args(jobs[algo, MOBILE].command(Path())) for algo in ("a2c", "ars", "ppo2")}
    assert parsed["ppo2"].n_steps == parsed["a2c"].n_steps == 64 and parsed["ars"].num_population == 8
    assert parsed["ppo2"].hyperparam == {"learning_rate": 1e-3} and parsed["ars"].hyperparam == {"step_size": 0.1}
    assert parsed["a2c"].sweep == {"gamma": [0.9, 0.99]} and not parsed["ars"].sweep
    assert all(args.continuous for args in parsed.values())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--algo ppo2 pp02", "did you mean ppo2?"),
        ("--env MobileRobotGymEnv", "did you mean MobileRobotGymEnv-v0?"),
        (f"--env {MOBILE} CartPole-v1 -r", "ppo2 ground_truth CartPole-v1: --random-target has no meaning"),
        ("--srl-model ground_truth raw_pixel", "did you mean raw_pixels?"),
        ("--algo ppo2 a2c --num-population 4", "--num-population belongs to ars and cma-es, not"),
        ("--algo ppo2 a2c --numtimesteps 4", "did you mean --num-timesteps?"),
        ("--algo ppo2 a2c --hyperparam lerning_rate:1", "none of a2c, ppo2 has lerning_rate; did you mean"),
        ("--algo ppo2 sac", "sac has no discrete actions"),
        ("--num-seeds 3", "--num-iteration says"),
        ("--num-iteration 0", "at least 1"),
        ("--seed 4294967290", "last seed"),
        ("--resume nowhere", "is not a pipeline's folder"),
        ("--resume nowhere --algo ppo2", "cannot be given with --resume"),
        ("--algo ppo2 --num-timesteps", "needs a value"),
        ("--algo", "needs a value"),
        ("ppo2", "unexpected argument"),
    ],
)
def test_bad_lines_are_refused_in_one_line(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and said in error
    assert not any(tmp_path.iterdir())


def test_what_only_an_algorithm_knows_is_refused_before_anything_starts(tmp_path, capsys):
    line = ["--algo=ppo2", "--env=CartPole-v1", "--simulator=jax", "--num-cpu=1", "--n-steps=15", "--num-iteration=2"]
    assert main([*line, f"--log-dir={tmp_path}"]) == 2
    assert "--nminibatches=4 does not divide" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_plugin_must_be_named_again(tmp_path):
    (tmp_path / "pipeline.json").write_text(
        '{"jobs": [{"algo": "ppo2", "env": "CartPole-v1", "srl_model": "ground_truth", "seed": 0, "num_seeds": 1, '
        '"num_timesteps": 9, "cores": 1, "words": ["--plugin=mine"]}]}'
    )
    with pytest.raises(UsageError, match=r"used --plugin=mine, give it again"):
        parse_pipeline_args([f"--resume={tmp_path}"])
    (tmp_path / "pipeline.json").write_text('{"jobs": [{"algo": "ppo2"}]}')
    with pytest.raises(UsageError, match="is damaged"):
        parse_pipeline_args([f"--resume={tmp_path}"])
