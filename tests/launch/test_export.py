"""launch/export.py: exported policies act as the originals do, with JAX and with NumPy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from agents.base_classes import JaxAlgorithm
from agents.registry import algorithm_class
from envs.make import EnvOptions
from envs.types import Box, Discrete, Spec
from launch import export
from launch.runtime.drivers.common import clip_action
from launch.runtime.export import EXPORTED, LOADER, WEIGHTS, remembers, write_export
from launch.runtime.numpy_policy import Policy
from launch.runtime.policy import model_info
from launch.runtime.sweep import plan

STATES, PICTURES = ((5,), "float32"), ((40, 44, 3), "uint8")
CHOICE, VECTOR = Discrete(4), Box((-0.4, -2.0), (0.4, 1.0))


def policy_of(algo: str, shape: tuple[int, ...], dtype: str, action: Any, **config: Any) -> JaxAlgorithm:
    """A learner whose parameters and observation statistics are arbitrary, so that every part of it counts."""
    algorithm = algorithm_class(algo)()
    settings, hyper = algorithm.configure(config)
    spec = Spec("Test-v0", shape, dtype, action, 10)
    agent = type(algorithm).make(spec, settings)
    acting = agent.init(jax.random.key(1), algorithm.hyper_tree(hyper)).acting
    rng, spread = np.random.default_rng(2), 0.4 if isinstance(action, Discrete) else 0.15

    def moved(leaf: jax.Array) -> np.ndarray:
        value = np.asarray(leaf)
        if value.dtype.kind != "f":
            return value
        positive = bool((value > 0).all())  # variances stay so
        value = value + rng.normal(0.0, spread, value.shape).astype(value.dtype)
        return np.abs(value) + np.float32(0.1) if positive else value

    info = model_info(algo, settings, plan(hyper, {}, 0, 1), EnvOptions("Test-v0"), spec)
    algorithm.adopt(agent, spec, jax.tree.map(moved, acting), info)
    return algorithm


def observations(spec: Spec) -> np.ndarray:
    rng = np.random.default_rng(3)
    if spec.pixels:
        shades = rng.integers(0, 256, (7, 1, 1, spec.obs_shape[2]))
        return np.clip(shades + rng.integers(-40, 40, (7, *spec.obs_shape)), 0, 255).astype(np.uint8)
    return rng.normal(0.0, 3.0, (7, *spec.obs_shape)).astype(np.float32)


CASES = [
    ("ppo2", *STATES, CHOICE, {}),
    ("ppo2", *STATES, VECTOR, {"activation": "relu", "net_arch": (16, 8, 8)}),
    ("deepq", *STATES, CHOICE, {}),
    ("sac", *STATES, VECTOR, {}),
    ("ars", *STATES, CHOICE, {}),
    ("ppo2", *PICTURES, CHOICE, {}),
]
MORE_CASES = [
    ("ppo2", (3, 5), "float32", CHOICE, {"normalize": False}),
    ("a2c", *STATES, VECTOR, {}),
    ("deepq", *STATES, CHOICE, {"dueling": False, "net_arch": (32,)}),
    ("ddpg", *STATES, VECTOR, {}),
    ("ars", *STATES, VECTOR, {"algo_type": "v1"}),
    ("ars", *STATES, VECTOR, {"policy": "mlp"}),
    ("cma-es", *STATES, VECTOR, {}),
    ("cma-es", *STATES, CHOICE, {"policy": "linear"}),
    ("sac", *PICTURES, VECTOR, {"buffer_size": 256}),
]
ALL_CASES = [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_CASES)]


def name_of(case: tuple) -> str:
    return f"{case[0]}-{len(case[1])}d-{type(case[3]).__name__}"


@pytest.mark.parametrize("case", ALL_CASES, ids=name_of)
def test_exported_policies_act_as_the_original(case, tmp_path):
    algo, shape, dtype, action, config = case
    algorithm = policy_of(algo, shape, dtype, action, **config)
    paths, why_not = write_export(algorithm, tmp_path / "export")
    assert why_not is None and [path.name for path in paths] == [EXPORTED, WEIGHTS, LOADER]
    obs = observations(algorithm.spec)
    expected = clip_action(algorithm.spec, algorithm.getAction(obs), np)
    assert len(np.unique(expected.round(4), axis=0)) > 1  # else anything would do
    program = jax.export.deserialize(bytearray(paths[0].read_bytes()))
    in_numpy = Policy(paths[1])
    assert program.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 7):
        for actions in (np.asarray(program.call(obs[:count])), in_numpy(obs[:count])):
            if isinstance(action, Discrete):
                np.testing.assert_array_equal(actions, expected[:count])
            else:
                np.testing.assert_allclose(actions, expected[:count], atol=2e-5)
    np.testing.assert_allclose(in_numpy(obs[3]), expected[3], atol=2e-5)


def test_a_robot_needs_numpy_alone(tmp_path):
    algorithm = policy_of("ppo2", *STATES, VECTOR)
    write_export(algorithm, tmp_path)
    obs = observations(algorithm.spec)
    np.save(tmp_path / "obs.npy", obs)
    code = (
        "import sys; sys.path.insert(0, '.'); from policy import Policy; import numpy as np, json; "
        "print(json.dumps(Policy('policy.safetensors')(np.load('obs.npy')).tolist())); "
        "assert not {'jax', 'flax', 'safetensors', 'launch', 'agents'} & set(sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    expected = clip_action(algorithm.spec, algorithm.getAction(obs), np)
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=2e-5)


def test_the_weights_are_a_safetensors_file(tmp_path):
    from safetensors.numpy import load_file

    algorithm = policy_of("ars", *STATES, CHOICE)
    write_export(algorithm, tmp_path)
    np.testing.assert_array_equal(load_file(tmp_path / WEIGHTS)["weights"], np.asarray(algorithm.state.acting.weights))
    with pytest.raises(ValueError, match=r"observations are \(2, 3\), the policy takes \(5,\)"):
        Policy(tmp_path / WEIGHTS)(np.zeros((2, 3)))


def test_what_numpy_does_not_play_is_exported_for_jax(tmp_path):
    algorithm = policy_of("cma-es", (48, 48, 3), "uint8", CHOICE)
    paths, why_not = write_export(algorithm, tmp_path)
    assert [path.name for path in paths] == [EXPORTED] and "cma-es is no chain of plain layers" in why_not
    obs = observations(algorithm.spec)
    actions = jax.export.deserialize(bytearray(paths[0].read_bytes())).call(obs)
    np.testing.assert_array_equal(actions, algorithm.getAction(obs))


def test_memory_that_only_explores_is_left_out():
    assert not remembers(policy_of("ddpg", *STATES, VECTOR)) and not remembers(policy_of("sac", *STATES, VECTOR))


def test_an_lstm_takes_and_returns_its_memory(tmp_path):
    algorithm = policy_of("ppo2", *STATES, CHOICE, policy="lstm", n_lstm=16, nminibatches=1)
    paths, why_not = write_export(algorithm, tmp_path)
    assert remembers(algorithm) and len(paths) == 1 and "remembers" in why_not
    program = jax.export.deserialize(bytearray(paths[0].read_bytes()))
    memory, rng = tuple(jax.tree.leaves(algorithm.agent.memory(7))), np.random.default_rng(4)
    assert memory and not any(np.any(leaf) for leaf in memory)  # zeros, as the docs say
    for _ in range(4):
        obs = rng.normal(0.0, 3.0, (7, 5)).astype(np.float32)
        actions, memory = program.call(obs, memory)
        np.testing.assert_array_equal(actions, algorithm.getAction(obs))


def test_a_run_folder_is_exported(mobile: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    actions = []
    for run in (0, 1):
        target = tmp_path / str(run)
        assert export.main(["--log-dir", str(mobile), "--run", str(run), "-o", str(target), "--model=final"]) == 0
        actions.append(Policy(target / WEIGHTS).tensors["params/params/policy_head/Dense_0/kernel"])
    assert (actions[0] != actions[1]).any() and "policy.jaxexport" in capsys.readouterr().out


def test_bad_input_is_refused_in_one_line(mobile: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cases = [
        ([], "--log-dir is missing"),
        (["--log-dir", tmp_path], "has no saved model"),
        (["--log-dir", mobile, "--run=5"], "has runs 0 to 1"),
        (["--log-dir", mobile, "--model=bst"], "did you mean best?"),
        (["--log-dir", mobile / "ppo2_model" / "final", "--model=best", "-o", tmp_path / "e"], "final is one model"),
        (["--log-dir", mobile, "-o", tmp_path / "file"], "File exists"),
    ]
    for flags, reason in cases:
        capsys.readouterr()
        assert export.main([str(flag) for flag in flags]) == 2
        err = capsys.readouterr().err
        assert reason in err and err.count("\n") == 1, flags


def test_random_actions_are_no_policy(tmp_path):
    with pytest.raises(ValueError, match="random_agent has learned no policy"):
        write_export(policy_of("random_agent", *STATES, CHOICE), tmp_path)
