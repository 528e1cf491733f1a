"""Trials of a search in the JAX simulator: real steps, resuming, what waits and where."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from launch.runtime.experiments.candidates import Candidate
from launch.runtime.experiments.lockstep import Lockstep, Parked, check_settings
from launch.runtime.flags import parse_train_args

JAX = ["--env=CartPole-v1", "--simulator=jax", "--eval-episodes=4"]
ARS = ["--algo=ars", *JAX, "--num-population=2", "--num-timesteps=6000"]
# The first falls at once for long, the last balances soon.
SETTINGS = [Candidate(i, {"step_size": size}) for i, size in enumerate((0.01, 0.1, 1.0))]


def lockstep(words: list[str], folder) -> Lockstep:
    return Lockstep(parse_train_args(words), folder, print)


def states(of: Lockstep) -> dict[int, Parked]:
    (family,) = of._families.values()
    return family.states


def compilations(of: Lockstep) -> set[int]:
    """How often programs were compiled."""
    (family,) = of._families.values()
    programs = [[driver._chunk, *driver._evaluators.values()] for driver in family._drivers.values()]
    return {program._cache_size() for found in programs for program in found}


@pytest.mark.parametrize("algo", [["--algo=ars", "--num-population=2"], ["--algo=cma-es", "--num-population=4"]])
def test_evolution_is_searched_with_real_steps(algo, tmp_path):
    """Episodes end long before the longest one, and nominal steps count what is not played then."""
    search = lockstep([*algo, *JAX, "--num-timesteps=4000", "--num-seeds=2"], tmp_path)
    search.advance([Candidate(0, {})], 4000)
    (state,) = states(search).values()
    assert 4000 <= state.steps.min() < 4000 + 500 * 4  # no further than the iteration that reaches it
    assert state.iteration > 2


def test_a_setting_is_judged_as_if_it_were_alone(tmp_path):
    """By the policy that it had after its own steps, while others of the program still wait for theirs."""
    together = lockstep(ARS, tmp_path)
    scores = together.advance(SETTINGS, 3000)
    steps = [int(states(together)[i].steps.min()) for i in range(3)]
    assert min(steps) >= 3000 and max(steps) > 6000
    assert len({state.iteration for state in states(together).values()}) == 1
    together.advance(SETTINGS, 3001)  # judged by the present policies
    assert compilations(together) == {1}
    for one, score in zip(SETTINGS, scores, strict=True):
        # Thrice, so that the program is the same and its sums are rounded alike.
        alone = lockstep(ARS, tmp_path).advance([one._replace(number=i) for i in range(3)], 3000)
        assert alone == [score] * 3


def test_settings_of_other_iterations_train_apart_and_go_on_from_disk(tmp_path):
    whole = lockstep(ARS, tmp_path)
    whole.advance(SETTINGS[:1], 2000)
    whole.advance(SETTINGS[2:], 2000)  # two programs that have come differently far
    before = {number: state.iteration for number, state in states(whole).items()}
    assert before[0] != before[2]
    both = [SETTINGS[0], SETTINGS[2]]
    whole.save(3, both)
    resumed = lockstep(ARS, tmp_path)
    assert resumed.restore(3, both)
    assert resumed.advance(both, 4000) == whole.advance(both, 4000)
    for number, state in states(whole).items():
        other = states(resumed)[number]
        assert state.steps.min() >= 4000 and np.array_equal(state.steps, other.steps)
        assert state.iteration == other.iteration > before[number]
        for a, b in zip(jax.tree.leaves(state.run.agent), jax.tree.leaves(other.run.agent), strict=True):
            np.testing.assert_array_equal(a, b)


def test_settings_that_wait_hold_no_memory_of_the_device(tmp_path):
    """Replay memories of 2 MB for each of four settings, in programs of widths 1 and 3."""
    words = ["--algo=deepq", *JAX, "--buffer-size=50000", "--num-timesteps=3000", "--net-arch=8"]
    search = lockstep(words, tmp_path)
    settings = [Candidate(i, {"learning_rate": rate}) for i, rate in enumerate((1e-4, 1e-3, 3e-3, 1e-2))]
    before = sum(array.nbytes for array in jax.live_arrays())
    search.advance(settings, 40)
    (run, *_) = [state.run for state in states(search).values()]
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(run))
    assert one > 2e6 and sum(array.nbytes for array in jax.live_arrays()) - before < one / 10
    owned = [leaf for leaf in jax.tree.leaves(run) if isinstance(leaf, np.ndarray)]
    assert sum(leaf.nbytes for leaf in owned) > 0.99 * one and all(leaf.base is None for leaf in owned)
    search.keep(settings[:3])
    search.advance(settings[:3], 80)
    assert compilations(search) == {1}  # what comes back from main memory is of the same types as what began
    assert all((state.steps == 80).all() for state in states(search).values())


def test_a_bracket_that_fits_is_named(tmp_path):
    args = parse_train_args(["--algo=deepq", *JAX, "--buffer-size=200000"])
    with pytest.raises(ValueError, match=r"settings of a bracket would need .* take --bracket-size=\d+$") as refused:
        check_settings(args, 10**6, "--bracket-size=")
    check_settings(args, int(str(refused.value).rpartition("=")[2]) // 2, "--bracket-size=")
