"""The two drivers: they agree, runs are independent, nothing recompiles, a resumed run is the same run."""

from __future__ import annotations

import operator
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.runtime.drivers.common import Chunk, lean
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.trees import from_host, to_host
from tests.device_pool import DeviceEnvPool
from tests.driver_cases import (
    ITERATIONS,
    LIMIT,
    MAX_CHUNK,
    Case,
    Drift,
    assert_same,
    assert_same_report,
    bits,
    give,
    learner,
    nudge,
    pick,
    run,
)
from tests.probes import ObservedActionReward

OFF_POLICY = ("acer", "ddpg", "deepq", "sac")
SEEDS = (3, 4, 5, 6)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
ROOT = Path(__file__).parents[3]
ENDLESS_DRIFT = Drift(max_episode_steps=None)
PROBE = ObservedActionReward(continuous=True)
EITHER = pytest.mark.parametrize("build", [Case.device, Case.host], ids=["device", "host"])

# What the drivers jit, by the names that jax.log_compiles shows.
PROGRAMS = re.compile(r"Compiling jit\((single|act|_play_runs|_play_episodes|_start|_act_one|at_iteration)\)")


def compilations(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Names of the drivers' programs that were compiled since the last call, small eager operations left out."""
    names = [match.group(1) for message in caplog.messages if (match := PROGRAMS.match(message))]
    caplog.clear()
    return names


# -- the two agree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("ppo2", (3,)),
        ("a2c", (3,)),
        ("acktr", (3,)),
        ("trpo", (3,)),
        ("ppo1", (3,)),
        ("ars", (3, 4)),
        ("cma-es", (3, 4)),
        pytest.param("ppo2-lnlstm", (3, 4), marks=pytest.mark.slow),
        pytest.param("acer-lstm", (3, 4), marks=pytest.mark.slow),
        pytest.param("sac-sde", (3, 4), marks=pytest.mark.slow),
    ]
    + [(name, (3, 4)) for name in OFF_POLICY],
)
def test_host_and_device_learn_the_same(name: str, seeds: tuple[int, ...]) -> None:
    on_device, on_host = learner(name).device(seeds), learner(name).host(seeds)
    before = bits(on_device.acting())
    reports = run(on_host, 3), run(on_device, 3)
    assert_same_report(*reports, 1e-4)
    assert len(reports[0].episodes.run) >= 4
    learned = on_host.checkpoint()["agent"]
    assert_same(learned, on_device.checkpoint()["run"].agent, 1e-5)
    weights = [path for path in before if "kernel" in path or "weights" in path]
    assert weights
    for path in weights:
        assert np.abs(bits(learned.acting)[path] - before[path]).max() > 1e-5


def test_only_what_is_read_is_passed() -> None:
    def function(state: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.where(x > 0, state["used"]["weight"], state["used"]["bias"]), state["returned"]

    state = {"idle": jnp.ones(2), "returned": jnp.arange(3), "used": {"bias": jnp.ones(2), "weight": jnp.zeros(2)}}
    reduced, read = lean(function, state, jnp.ones(2))
    leaves = jax.tree.leaves(state)
    assert [leaves[i] is state["idle"] for i in read] == [False] * 3
    x = jnp.array([-1.0, 1.0])
    assert_same(jax.jit(reduced)([leaves[i] for i in read], x), function(state, x), 0.0)


@pytest.mark.parametrize("seeds", [(3,), (3, 4)], ids=["one", "two"])
def test_groups_and_runs_keep_their_places(seeds: tuple[int, ...]) -> None:
    """Without exploration noise, which two groups draw differently from one, everything else is the same."""
    on_device = nudge().device((3, 4), noise=[0.0, 0.0])
    on_host = nudge().host(seeds, num_groups=2, noise=[0.0] * len(seeds))
    runs = slice(0, len(seeds))
    host_report, device_report = run(on_host, 4), run(on_device, 4)
    assert_same_report(host_report, pick(device_report, runs), 1e-4)
    assert_same(on_host.state, jax.tree.map(lambda x: x[runs], on_device.state.agent), 1e-5)


def test_several_runs_on_the_host_are_those_on_the_device() -> None:
    on_device, on_host = nudge().device((3, 4), rate=[0.0, 0.1]), nudge().host((3, 4), rate=[0.0, 0.1])
    reports = run(on_host, 4), run(on_device, 4)
    assert_same_report(*reports, 1e-4)
    assert_same(on_host.state, on_device.state.agent, 1e-5)


def test_no_two_environments_or_steps_share_their_noise() -> None:
    driver = nudge().host((3, 4), num_groups=2)
    driver.adopt((jnp.zeros((2, 2)), jnp.ones(2)))
    noise = [np.copy(driver._buffers.action) for _ in range(2) if driver.run(1)]
    assert np.unique(noise).size == np.size(noise) == 2 * 2 * 5 * 3 * 2


def test_actions_are_clipped_for_the_environment_only() -> None:
    driver, sent = nudge().host((3, 4), noise=[3.0, 3.0]), []
    make_pool = driver._make_pool

    def spying(*args: Any) -> DeviceEnvPool:
        pool = make_pool(*args)
        send = pool.send
        pool.send = lambda group, actions, active=None: sent.append(actions.copy()) or send(group, actions, active)
        return pool

    driver._make_pool = spying
    driver.run(1)
    stored = driver._buffers.action.swapaxes(0, 1)  # [T, K, N, 2]
    assert np.abs(stored).max() > 1.5
    np.testing.assert_array_equal(sent, np.clip(stored, -1, 1).reshape(5, 6, 2))


# -- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_runs() -> tuple[DeviceDriver, Chunk]:
    """Four runs of a2c with their own seeds and learning rates, after three iterations."""
    driver = learner("a2c").device(SEEDS, learning_rate=RATES)
    return driver, run(driver, 3)


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_runs_of_a_sweep_are_single_runs(four_runs: tuple[DeviceDriver, Chunk], index: int) -> None:
    together, report = four_runs
    alone = learner("a2c").device([SEEDS[index]], learning_rate=[RATES[index]])
    runs = slice(index, index + 1)
    assert_same_report(run(alone, 3), pick(report, runs), 1e-4)
    assert_same(alone.state, jax.tree.map(lambda x: x[runs], together.state), 1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("acer", "sac") else []) for name in OFF_POLICY]
)
def test_runs_of_off_policy_sweeps_are_single_runs(name: str) -> None:
    """A replay memory is written and read in one place by all runs of a sweep, and yet each keeps its own."""
    together, alone = learner(name).device((3, 4)), learner(name).device((4,))
    reports = run(together, 3), run(alone, 3)
    assert_same_report(reports[1], pick(reports[0], slice(1, 2)), 1e-4)
    assert_same(alone.state, jax.tree.map(lambda x: x[1:2], together.state), 1e-4)


@pytest.mark.parametrize(
    ("name", "swept"),
    [
        ("trpo", {"max_kl": (0.01, 0.1)}),
        ("ppo1", {"clip_param": (0.01, 0.2)}),
        ("ppo2-lnlstm", {"learning_rate": (0.01, 0.02)}),
        pytest.param("acer-lstm", {"learning_rate": (0.01, 0.02)}, marks=pytest.mark.slow),
        pytest.param("sac-sde", {"learning_rate": (0.01, 0.02)}, marks=pytest.mark.slow),
    ],
)
def test_runs_of_a_sweep_with_branches_are_single_runs(name: str, swept: dict[str, tuple[float, float]]) -> None:
    """Under vmap a branch, as in TRPO's line search, computes both sides and has to choose."""
    together = learner(name).device((3, 4), **swept)
    report = run(together, 3)
    for index in range(2):
        runs = slice(index, index + 1)
        alone = learner(name).device((3, 4)[runs], **{key: values[runs] for key, values in swept.items()})
        assert_same_report(run(alone, 3), pick(report, runs), 1e-4)
        assert_same(alone.state, jax.tree.map(lambda x, runs=runs: x[runs], together.state), 1e-4)


def test_natural_gradients_of_a_sweep_are_those_of_single_runs() -> None:
    """Inverses of the Fisher factors of several runs are computed together."""
    rates = (0.1, 0.2, 0.3, 0.4)
    together = learner("acktr").device(SEEDS, learning_rate=rates)
    report = run(together, 4)
    assert (report.metrics["trust_region_scale"] < 1).any()
    for index in (0, 3):
        alone = learner("acktr").device([SEEDS[index]], learning_rate=[rates[index]])
        runs = slice(index, index + 1)
        assert_same_report(run(alone, 4), pick(report, runs), 1e-3)
        assert_same(alone.acting(), jax.tree.map(operator.itemgetter(runs), together.acting()), 1e-3)


def test_seeds_and_hyperparameters_matter() -> None:
    kernels = []
    for seed, rate in ((3, 1e-3), (4, 1e-3), (3, 0.05)):
        driver = learner("a2c").device([seed], learning_rate=[rate])
        run(driver, 1)
        kernels += [x for path, x in bits(driver.acting()).items() if path.endswith("policy_torso/Dense_0/kernel")]
    assert len(kernels) == 3
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    assert np.abs(kernels[0] - kernels[2]).max() > 5e-6


def test_environments_differ_between_runs_and_ranks() -> None:
    starts = np.asarray(nudge().device((3, 4)).state.obs).reshape(-1, 2)
    assert len(np.unique(starts[:, 0])) == len(starts) == 6


SHARDED = """
import jax, numpy as np
from tests.driver_cases import bits, learner, nudge, run
driver = learner("a2c").device({seeds}, learning_rate={rates})
report = run(driver, 3, chunk=1)
assert len(jax.local_devices()) == 4
for leaf in jax.tree.leaves(driver.state):
    assert len(leaf.sharding.device_set) == 4 and not leaf.is_fully_replicated
assert len(nudge().device((1, 2, 3))._sharding.device_set) == 1  # three runs do not spread over four devices
np.savez({out!r}, steps=report.steps, **bits(driver.state.agent))
"""


class Sharded(NamedTuple):
    """What a process with four devices made of the four runs."""

    steps: np.ndarray
    learners: dict[str, np.ndarray]
    log: str


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """Train the four runs on four virtual devices, in three chunks."""
    out = str(tmp_path_factory.mktemp("sharded") / "learners.npz")
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in this process
        "JAX_LOG_COMPILES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "PYTHONPATH": str(ROOT),
    }
    code = SHARDED.format(out=out, seeds=SEEDS, rates=RATES)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    learners = dict(np.load(out))
    return Sharded(learners.pop("steps"), learners, result.stderr)


def test_sharded_over_four_devices_is_the_same(four_runs: tuple[DeviceDriver, Chunk], sharded: Sharded) -> None:
    together, report = four_runs
    np.testing.assert_array_equal(sharded.steps, report.steps)
    assert_same(sharded.learners, together.state.agent, 1e-4)


def test_sharded_chunks_compile_once(sharded: Sharded) -> None:
    assert sharded.log.count("Compiling jit(_play_runs)") == 1


# -- compilation, chunks, resuming --------------------------------------------------------------------------------


def test_device_driver_compiles_once(caplog: pytest.LogCaptureFixture) -> None:
    with jax.log_compiles():
        driver = nudge().new_device((3, 4))
        driver.run(1)
        driver.evaluate(10, seed=1)
        assert len(compilations(caplog)) == 3  # start, chunk and evaluation
        for count in (1, 4, 3):
            driver.run(count)
        driver.adopt(driver.acting())
        driver.run(2)
        driver.restore(driver.checkpoint())
        driver.run(2)
        driver.evaluate(10, seed=2)
        give(driver, nudge().tree(2, rate=[0.1, 0.2]), (8, 9))
        driver.run(4)
        driver.evaluate(10, seed=2, acting=driver.acting())
        assert compilations(caplog) == []


def test_host_driver_compiles_once(caplog: pytest.LogCaptureFixture) -> None:
    with jax.log_compiles():
        driver = nudge().new_host((3, 4), num_groups=2)
        driver.run(1)
        driver.evaluate(10, seed=1)
        assert len(compilations(caplog)) == 5  # start, update, evaluation, groups of two and of one environment
        driver.run(1)
        driver.adopt(driver.acting())
        driver.run(1)
        driver.restore(driver.checkpoint())
        driver.run(1)
        driver.evaluate(10, seed=2)
        give(driver, nudge().tree(2, rate=[0.1, 0.2]), (8, 9))
        driver.run(1)
        assert compilations(caplog) == []


@pytest.mark.parametrize(
    ("name", "seeds", "changes"),
    [
        ("ppo2", (5,), {"learning_rate": [0.1], "gamma": [0.5], "cliprange": [0.3]}),
        ("acktr", (5,), {"learning_rate": [0.1], "kfac_clip": [0.5], "damping": [0.3]}),
        ("cma-es", (5, 6), {"mu": [0.1, 0.2], "sigma": [0.5, 0.3]}),
        ("ppo2-lnlstm", (5, 6), {"learning_rate": [0.1, 0.2], "gamma": [0.5, 0.9]}),
    ],
)
def test_learners_compile_once(name: str, seeds: tuple, changes: dict, caplog: pytest.LogCaptureFixture) -> None:
    """The programs that the tests above have left behind take whatever numbers come."""
    drivers = [build(learner(name), seeds) for build in (Case.device, Case.host)]
    for driver in drivers:
        driver.run(1)
    with jax.log_compiles():
        for driver in drivers:
            driver.run(2)
            give(driver, learner(name).tree(len(seeds), **changes), tuple(range(9, 9 + len(seeds))))
            driver.run(2)
        assert compilations(caplog) == []


def test_chunks_may_be_cut_anywhere() -> None:
    whole = learner("ppo2").device()
    expected = run(whole, 4)
    for size in (1, 3):
        parts = learner("ppo2").device()
        assert_same_report(run(parts, 4, size), expected)
        assert_same(parts.state, whole.state)


def test_a_chunk_is_no_longer_than_its_limit() -> None:
    driver = nudge().device((3, 4))
    assert len(driver.run(100).steps) == MAX_CHUNK
    assert driver.iteration == MAX_CHUNK


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("ppo2", (3,)), ("acktr", (3, 4, 5, 6)), ("trpo", (3,)), ("ppo1", (3,)), ("ars", (3, 4)), ("cma-es", (3, 4))]
    + [("ppo2-lnlstm", (3, 4)), pytest.param("acer-lstm", (3, 4), marks=pytest.mark.slow)]
    + [(name, (3, 4)) for name in OFF_POLICY],
)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, seeds: tuple[int, ...]) -> None:
    driver = learner(name).device(seeds)
    run(driver, 2)
    stored = jax.tree.map(lambda leaf: np.array(to_host(leaf)), driver.checkpoint())
    expected = run(driver, 3)

    resumed = learner(name).device(seeds)
    resumed.restore(jax.tree.map(from_host, resumed.checkpoint(), stored))
    assert resumed.iteration == 2
    assert_same_report(run(resumed, 3), expected)
    assert_same(resumed.checkpoint(), driver.checkpoint())


def test_a_resumed_host_run_keeps_its_learner_and_iteration() -> None:
    driver, resumed = nudge().host((3, 4)), nudge().host((3, 4))
    run(driver, 2)
    stored = jax.tree.map(lambda leaf: np.array(to_host(leaf)), driver.checkpoint())
    resumed.restore(jax.tree.map(from_host, resumed.checkpoint(), stored))
    assert_same(resumed.state, driver.state)
    np.testing.assert_array_equal(resumed.run(1).metrics["iteration"], [[2.0, 2.0]])
    begun = nudge().host((3, 4))
    begun.run(1)
    assert not np.isclose(begun._buffers.obs[:, 0], resumed._buffers.obs[:, 0]).any()  # no episode is replayed


# -- what is reported ---------------------------------------------------------------------------------------------


@EITHER
def test_the_clock_runs_from_zero_to_one(build: Callable) -> None:
    report = run(build(nudge(), (3, 4)), ITERATIONS + 2)
    numbers = np.arange(ITERATIONS + 2)
    np.testing.assert_array_equal(report.metrics["iteration"], np.stack([numbers, numbers], 1))
    progress = np.minimum(numbers / ITERATIONS, 1.0)
    np.testing.assert_allclose(report.metrics["progress"], np.stack([progress, progress], 1), rtol=1e-6)


def test_episodes_are_those_of_the_rewards_and_flags() -> None:
    """A slow recount over rollouts that cut episodes; the device driver reports the same, see above."""
    driver = nudge().host((3, 4))
    rows, episodes = [], []
    for _ in range(6):
        chunk = driver.run(1)
        buffers = driver._buffers
        rows.append([np.copy(x) for x in (buffers.reward, buffers.terminated | buffers.truncated)])
        episodes += list(zip(*chunk.episodes))
    reward, done = (np.concatenate(column, axis=1) for column in zip(*rows))  # [K, 6 T, N]
    expected = []
    for k in range(2):
        for n in range(3):
            first = 0
            for t in np.flatnonzero(done[k, :, n]):
                expected.append((k, n, reward[k, first : t + 1, n].sum(), t + 1 - first))
                first = t + 1
    assert len(expected) > 15
    np.testing.assert_allclose(sorted(episodes), sorted(expected), rtol=1e-5)


@EITHER
def test_steps_of_a_rollout(build: Callable) -> None:
    steps = run(build(nudge(), (3, 4)), 2).steps
    assert steps.dtype == np.int64
    np.testing.assert_array_equal(steps, np.full((2, 2), 15))


@EITHER
def test_evolution_counts_the_steps_that_were_played(build: Callable) -> None:
    """One episode per environment and iteration, and no steps beyond its end."""
    report = run(build(learner("ars"), (3, 4)), 3, chunk=1)
    episodes = report.episodes
    np.testing.assert_array_equal(np.bincount(2 * episodes.rank + episodes.run), np.full(12, 3))
    for k in range(2):
        assert report.steps[:, k].sum() == episodes.lengths[episodes.run == k].sum() < 3 * 6 * LIMIT
    assert episodes.lengths.min() < LIMIT == episodes.lengths.max()


def test_memory_is_told_before_anything_is_allocated() -> None:
    long = nudge(length=1000, num_envs=10)
    # Of a step: obs and next_obs, action, reward, drawn, two flags; and the record: returns, lengths, ended.
    batch, record = 1000 * 10 * (16 + 8 + 4 + 4 + 2), MAX_CHUNK * 1000 * 10 * 9
    one = long.device()
    assert batch + record <= one.memory() <= 1.05 * (batch + record)
    assert one._run is None
    assert long.device((3, 4, 5)).memory() == 3 * one.memory()
    for seeds in ((3,), (3, 4, 5)):
        on_host = long.host(seeds)
        assert 0.8 * batch * len(seeds) <= on_host.memory() <= 1.05 * batch * len(seeds)
        assert on_host._agent_state is None


# -- evaluation ---------------------------------------------------------------------------------------------------


@EITHER
def test_evaluation_plays_the_given_policy_without_noise(build: Callable) -> None:
    """The reward is -(action - 0.5 observation)^2 for an observation of +-1; actions are clipped to +-1."""
    driver = build(nudge(PROBE), (3, 4))
    for gain, expected in ((0.5, 0.0), (1.0, -0.25), (7.0, -0.25), (-1.0, -2.25)):
        acting = (jnp.array([[gain], [0.5]]), jnp.ones(2))
        returns = driver.evaluate(11, seed=1, acting=acting)
        assert returns.dtype == np.float32
        np.testing.assert_allclose(returns, np.repeat([[expected], [0.0]], 11, axis=1), atol=1e-6)
    assert driver.evaluate(11, seed=1, acting=acting, explore=True)[1].std() > 0.1
    driver.adopt(acting)
    np.testing.assert_array_equal(driver.evaluate(11, seed=1), returns)
    assert_same(driver.acting(), acting)


@EITHER
def test_the_evaluation_seed_alone_decides_how_episodes_begin(build: Callable) -> None:
    driver = build(nudge(), (3, 4))
    same = (jnp.full((2, 2), -1.0), jnp.zeros(2))
    first = driver.evaluate(10, seed=1, acting=same)
    assert first.shape == (2, 10)
    assert len(np.unique(first[0])) == 10
    np.testing.assert_allclose(first[0], first[1], rtol=1e-6)  # every run meets the same episodes
    driver.run(1)
    np.testing.assert_array_equal(driver.evaluate(10, seed=1, acting=same), first)
    assert not np.isclose(driver.evaluate(10, seed=2, acting=same), first).any()


@EITHER
def test_evaluation_leaves_training_alone(build: Callable) -> None:
    disturbed, undisturbed = build(nudge(), (3, 4)), build(nudge(), (3, 4))
    run(disturbed, 2)
    disturbed.evaluate(10, seed=1)
    reports = run(disturbed, 2), run(undisturbed, 4)
    np.testing.assert_array_equal(reports[0].metrics["signal"], reports[1].metrics["signal"][2:])
    assert_same(disturbed.checkpoint(), undisturbed.checkpoint())


@EITHER
def test_evaluation_returns_are_those_of_training(build: Callable) -> None:
    """The same exploring policy earns the same in both, on average over some hundred episodes."""
    driver = build(nudge(), (3, 4), rate=[0.0, 0.0])
    episodes = run(driver, 60).episodes
    evaluated = driver.evaluate(200, seed=1, explore=True)
    for k in range(2):
        training = episodes.returns[episodes.run == k]
        assert len(training) > 90
        error = np.hypot(training.std() / len(training) ** 0.5, evaluated[k].std() / 200**0.5)
        assert abs(training.mean() - evaluated[k].mean()) < 4 * error


@EITHER
def test_evaluation_of_an_environment_without_a_limit(build: Callable) -> None:
    driver = build(nudge(ENDLESS_DRIFT), (3, 4))
    assert np.isfinite(driver.evaluate(10, seed=1)).all()


@EITHER
def test_a_learner_without_parameters(build: Callable) -> None:
    """The random agent's state is empty: nothing in it tells how many runs there are."""
    driver = build(learner("random_agent"), (3, 4))
    report = run(driver, 2)
    assert report.metrics == {}
    np.testing.assert_array_equal(report.steps, np.full((2, 2), 12))
    assert driver.evaluate(10, seed=1).shape == (2, 10)
