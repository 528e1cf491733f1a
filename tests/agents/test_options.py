"""Declared options: read without imports, validated with one clear line, turned into Config and Hyper."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import ars, ppo2
from agents.options import Option, declared, options_of, validate
from agents.registry import algorithm_class, registered_rl
from envs.types import Discrete, Spec


def option(type: type, **limits: Any) -> Option:
    """An option named `size` with the given limits."""
    unlimited: dict[str, Any] = {"choices": None, "minimum": None, "maximum": None, "search": None}
    return Option("some_size", type, None, "help", **(unlimited | limits), traced=False)


@pytest.mark.parametrize("name", registered_rl)
def test_declared_options_are_those_of_the_module(name: str) -> None:
    entry = registered_rl[name][0]
    assert isinstance(entry, str)
    cls = algorithm_class(name)
    assert options_of(*declared(entry.partition(":")[0])) == options_of(cls.Config, cls.Hyper)


def test_declared_imports_no_jax() -> None:
    code = """
import sys
from agents.options import declared, options_of
assert len(options_of(*declared("agents.ppo2"))) > 10
loaded = {"jax", "flax", "optax"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_declared_refuses_other_modules() -> None:
    with pytest.raises(ValueError, match=r"no module named agents\.nothing"):
        declared("agents.nothing")
    with pytest.raises(ValueError, match=r"agents\.types must declare"):
        declared("agents.types")


@pytest.mark.parametrize("name", registered_rl)
def test_defaults_are_valid_and_documented(name: str) -> None:
    cls = algorithm_class(name)
    for declared_option in options_of(cls.Config, cls.Hyper):
        assert validate(declared_option, declared_option.default) == declared_option.default
        assert declared_option.help.endswith(".")
        if isinstance(declared_option.search, tuple):
            low, high = declared_option.search
            assert validate(declared_option, low) < validate(declared_option, high)
        for value in declared_option.search or ():
            validate(declared_option, value)


@pytest.mark.parametrize(
    ("given", "value", "expected"),
    [
        (option(int), "12", 12),
        (option(int), "1e3", 1000),
        (option(int), 7.0, 7),
        (option(float), "2.5e-4", 2.5e-4),
        (option(bool), "True", True),
        (option(bool), "no", False),
        (option(bool), "0", False),
        (option(bool), True, True),
        (option(tuple), "64,32", (64, 32)),
        (option(tuple), [8], (8,)),
        (option(str, choices=("a", "b")), "b", "b"),
        (option(float, minimum=0, maximum=1), 1, 1.0),
    ],
)
def test_validate_casts(given: Option, value: Any, expected: Any) -> None:
    got = validate(given, value)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("given", "value", "message"),
    [
        (option(int), "2.5", "--some-size=2.5: expected an integer"),
        (option(int), "many", "--some-size=many: expected an integer"),
        (option(int), "inf", "--some-size=inf: expected an integer"),
        (option(int), "nan", "--some-size=nan: expected an integer"),
        (option(float), "fast", "--some-size=fast: expected a finite number"),
        (option(float), "nan", "--some-size=nan: expected a finite number"),
        (option(float), "inf", "--some-size=inf: expected a finite number"),
        (option(float), None, "--some-size=None: expected a finite number"),
        (option(bool), "maybe", "--some-size=maybe: expected true or false"),
        (option(tuple), "64,big", "--some-size=64,big: expected comma-separated integers"),
        (option(tuple), "", "--some-size=: expected comma-separated integers"),
        (option(tuple, minimum=1), "64,0", "--some-size=64,0: must be at least 1"),
        (option(str, choices=("a", "b")), "c", "--some-size=c: choose one of a, b"),
        (option(int, minimum=1), 0, "--some-size=0: must be at least 1"),
        (option(float, minimum=0), "nan", "--some-size=nan"),
        (option(float, maximum=1), 1.5, "--some-size=1.5: must be at most 1"),
    ],
)
def test_validate_refuses(given: Option, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        validate(given, value)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_configure_splits_static_and_traced() -> None:
    values = {"n_steps": "16", "learning_rate": "1e-3", "env": "not an option of the algorithm"}
    config, hyper = ppo2.PPO2.configure(values)
    assert config == dataclasses.replace(ppo2.Config(), n_steps=16)
    assert hyper["learning_rate"] == 1e-3
    assert {name: value for name, value in hyper.items() if name != "learning_rate"} == {
        field.name: field.default for field in dataclasses.fields(ppo2.Hyper) if field.name != "learning_rate"
    }


def test_configure_refuses_contradictions() -> None:
    with pytest.raises(ValueError, match="--top-population=5 is larger than --num-population=4"):
        ars.ARS.configure({"num_population": 4, "top_population": 5})
    with pytest.raises(ValueError, match="--learning-rate=-1: must be at least 0"):
        ppo2.PPO2.configure({"learning_rate": -1})
    config, _ = ppo2.PPO2.configure({"num_cpu": 3, "n_steps": 5, "nminibatches": 4})
    with pytest.raises(ValueError, match="--nminibatches=4 does not divide the batch of 3 environments x 5 steps = 15"):
        ppo2.make(Spec("some", (2,), "float32", Discrete(2), 10), config)


def test_ars_refuses_endless_episodes() -> None:
    with pytest.raises(ValueError, match="Endless-v0 has no limit"):
        ars.make(Spec("Endless-v0", (2,), "float32", Discrete(2)), ars.Config())


def test_hyper_tree_is_traced_float32() -> None:
    tree = ppo2.PPO2.hyper_tree({field.name: np.arange(3) for field in dataclasses.fields(ppo2.Hyper)})
    leaves = jax.tree.leaves(tree)
    assert len(leaves) == len(dataclasses.fields(ppo2.Hyper))
    assert all(leaf.dtype == jnp.float32 and leaf.shape == (3,) for leaf in leaves)
