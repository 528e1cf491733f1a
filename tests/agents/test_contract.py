"""What `BaseRLObject` promises holds for every built-in algorithm: search ranges, playing, saving, a warm start."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from agents.base_classes import JaxAlgorithm
from agents.options import options_of, validate
from agents.registry import ActionType, algorithm_class, registered_rl
from envs.make import EnvOptions
from envs.types import Discrete
from launch.runtime.policy import read_policies
from launch.runtime.sweep import plan
from launch.runtime.training import build_driver
from launch.runtime.trees import named_leaves
from tests.launch.play import untrained

BUILT_IN = [name for name in registered_rl if isinstance(registered_rl[name][0], str)]
EACH = pytest.mark.parametrize("name", BUILT_IN)
OBSERVATIONS = {
    "CartPole-v1": np.linspace(-0.1, 0.1, 12, dtype=np.float32).reshape(3, 4),
    "Pendulum-v1": np.linspace(-0.5, 0.5, 9, dtype=np.float32).reshape(3, 3),
}


def task(name: str) -> EnvOptions:
    """A small environment with a kind of actions that the algorithm has."""
    discrete = ActionType.DISCRETE in registered_rl[name][2]
    return EnvOptions("CartPole-v1" if discrete else "Pendulum-v1", simulator="jax")


def network(name: str) -> dict[str, tuple[int, ...]]:
    """Small networks, where there are any."""
    return {"net_arch": (8,)} if any(o.name == "net_arch" for o in options_of(*declared(name))) else {}


def declared(name: str) -> tuple[type, type]:
    cls: type[JaxAlgorithm] = algorithm_class(name)
    return cls.Config, cls.Hyper


@EACH
def test_search_ranges_are_sane(name: str) -> None:
    """The right way round, of the option's own type, within what its flag accepts, and worth a search."""
    options = {option.name: option for option in options_of(*declared(name))}
    ranges = algorithm_class(name)().getOptParam()
    if name == "random_agent":
        assert ranges is None
        return
    assert ranges
    for parameter, (kind, values) in ranges.items():
        option = options[parameter]
        assert kind is option.type, parameter
        assert len(values) >= 2 and len(set(values)) == len(values), parameter
        for value in values:
            assert validate(option, value) == value
        if isinstance(values, tuple):
            low, high = values
            assert low < high, parameter
            assert high <= max(1e4, 1e6 * abs(low)) or low == 0, parameter  # the original had ranges to 10^10
    if any(parameter in ranges for parameter in ("learning_rate", "actor_lr")):
        low, high = ranges.get("learning_rate", ranges.get("actor_lr"))[1]
        assert 0 < low < high <= 1


@EACH
def test_a_policy_is_saved_and_plays_again(name: str, tmp_path: Path) -> None:
    options = task(name)
    observations = OBSERVATIONS[options.env]
    loaded = algorithm_class(name).load(str(untrained(tmp_path / "model", name, options, **network(name))))
    actions, proba = loaded.getAction(observations), loaded.getActionProba(observations)
    space = loaded.spec.action
    if isinstance(space, Discrete):
        assert actions.shape == (3,) and set(actions.tolist()) <= set(range(space.n))
        assert proba.shape == (3, space.n) and (proba >= 0).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-5)
        if name != "random_agent":
            np.testing.assert_array_equal(actions, proba.argmax(axis=1))
    else:
        assert actions.shape == proba.shape == (3, space.size)
        assert (np.abs(actions) <= 2.0).all()
        np.testing.assert_allclose(actions, proba, rtol=1e-5, atol=1e-6)
    loaded.save(str(tmp_path / "copy"))
    again = algorithm_class(name).load(str(tmp_path / "copy"))
    np.testing.assert_array_equal(again.getActionProba(observations), proba)
    if name != "random_agent":
        np.testing.assert_array_equal(again.getAction(observations), actions)


@pytest.mark.parametrize(
    "name", [name if name in ("ars", "deepq") else pytest.param(name, marks=pytest.mark.slow) for name in BUILT_IN]
)
def test_a_warm_start_begins_with_the_loaded_policy(name: str, tmp_path: Path) -> None:
    """What --load-rl-model-path does, for two runs at once."""
    options = task(name)
    folder = untrained(tmp_path / "model", name, options, **network(name))
    algorithm = algorithm_class(name)()
    config, hyper = algorithm.configure(network(name))
    driver = build_driver(algorithm, options, config, plan(hyper, {}, 7, 2), 10_000)
    policies = read_policies(folder, algorithm, driver.spec, 2)
    fresh = {path: np.asarray(x) for path, x in named_leaves(driver.acting()).items()}
    driver.adopt(policies)
    source = named_leaves(algorithm_class(name).load(str(folder)).state.acting)
    adopted = named_leaves(driver.acting())
    assert adopted.keys() == source.keys() == fresh.keys()
    for path, value in adopted.items():
        assert value.shape == fresh[path].shape and value.shape[0] == 2
        for run in range(2):
            np.testing.assert_array_equal(value[run], source[path], err_msg=path)
    if name not in ("ars", "cma-es", "random_agent"):  # these begin at the same point with every seed
        assert any(not np.array_equal(fresh[path], np.asarray(value)) for path, value in adopted.items())
    assert not isinstance(jax.tree.leaves(driver.state)[0], np.ndarray)
    state = driver.state.agent
    followers = {  # what begins as the policy, and the policy's part that it is
        "deepq": lambda: (state.learning.target, state.acting.params),
        "ddpg": lambda: (state.learning.learned.actor_target, state.acting.actor),
        "acer": lambda: (state.learning.average, state.acting.params),
    }
    if name in followers:
        jax.tree.map(np.testing.assert_array_equal, *followers[name]())


@pytest.mark.parametrize("name", ["ars", "cma-es"])
def test_evolution_has_no_actions_to_sample(name: str, tmp_path: Path) -> None:
    options = task(name)
    loaded = algorithm_class(name).load(str(untrained(tmp_path / "model", name, options, **network(name))))
    with pytest.raises(ValueError, match="explores by its parameters"):
        loaded.play(OBSERVATIONS[options.env], explore=True)
