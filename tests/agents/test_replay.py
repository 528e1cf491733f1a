"""Replay memory: what is stored comes back, transitions end with their episodes, priorities decide what is drawn."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from agents.common.replay import Place, PrioritizedSampler, ReplayMemory, UniformSampler
from agents.types import Clock, Transition
from envs.types import Box, Discrete, Spec

T, N, GAMMA = 3, 2, 0.9
STATES = Spec("States", (2,), "float32", Box((-1.0,), (1.0,)), None)
PICTURES = Spec("Pictures", (4, 4, 1), "uint8", Discrete(3), None)


class Step(NamedTuple):
    """One step of one environment, as a slow reference remembers it."""

    obs: float
    reward: float
    terminated: bool
    truncated: bool
    next_obs: float


def clock(iteration: int) -> Clock:
    return Clock(jnp.int32(iteration), jnp.float32(0))


def play(spec: Spec, iterations: int, seed: int = 0) -> tuple[list[Transition], list[list[Step]]]:
    """Rollouts of environments whose observations count up, and for each environment the list of its steps."""
    rng = np.random.default_rng(seed)
    rollouts: list[Transition] = []
    history: list[list[Step]] = [[] for _ in range(N)]
    count = np.arange(N) * 100.0
    for _ in range(iterations):
        rows = []
        for _ in range(T):
            terminated, truncated = rng.random(N) < 0.2, rng.random(N) < 0.2
            reward, after = rng.normal(size=N).astype(np.float32), count + 1
            rows.append((count, reward, terminated, truncated, after))
            for env in range(N):
                history[env].append(
                    Step(*(float(x[env]) for x in (count, reward)), terminated[env], truncated[env], after[env])
                )
            count = np.where(terminated | truncated, after + 1, after)  # a reset counts on
        obs, reward, terminated, truncated, after = (np.stack(x) for x in zip(*rows))
        wide = partial(_observation, spec)
        action = np.zeros((T, N, *spec.action_shape), spec.action_dtype)
        rollouts.append(Transition(wide(obs), action, reward, terminated, truncated, wide(after), {}))
    return rollouts, history


def _observation(spec: Spec, count: np.ndarray) -> np.ndarray:
    wide = count.reshape(*count.shape, *[1] * len(spec.obs_shape))
    return np.broadcast_to(wide, (*count.shape, *spec.obs_shape)).astype(spec.obs_dtype)


def fill(memory: ReplayMemory, rollouts: list[Transition]) -> Any:
    replay = memory.init()
    for iteration, rollout in enumerate(rollouts):
        replay = memory.add(replay, rollout, clock(iteration))
    return replay


def expected(steps: list[Step], start: int, n: int) -> tuple[float, float, float, Step]:
    """Reward, discount and observation after up to n steps, and the last of them."""
    reward, discount = 0.0, 1.0
    for step in steps[start : start + n]:
        reward += discount * step.reward
        discount *= GAMMA
        if step.terminated or step.truncated:
            break
    return reward, 0.0 if step.terminated else discount, step.next_obs, step


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("spec", [STATES, PICTURES], ids=["states", "pictures"])
@pytest.mark.parametrize("iterations", [2, 4, 11])
def test_transitions_are_those_that_were_played(spec: Spec, n: int, iterations: int) -> None:
    memory = ReplayMemory(spec, 4 * T * N + 1, T, N, n)
    assert memory.rows == 4 * T
    rollouts, history = play(spec, iterations)
    replay = fill(memory, rollouts)
    place, weight = UniformSampler(memory).sample((), jax.random.key(1), 600, 1.0, clock(iterations - 1))
    np.testing.assert_array_equal(weight, 1.0)
    data = jax.tree.map(np.asarray, memory.read(replay, place, GAMMA))
    first = max(0, iterations - 4) * T  # the oldest step that is still there
    drawn = set()
    for i, env in enumerate(np.asarray(place.env)):
        steps = history[env]
        obs = float(data.obs[i].flat[0])
        start = next(t for t, step in enumerate(steps) if _byte(spec, step.obs) == obs and t >= first)
        reward, discount, next_obs, last = expected(steps, start, n)
        np.testing.assert_allclose([data.reward[i], data.discount[i]], [reward, discount], rtol=1e-5, atol=1e-6)
        known = spec is STATES or last.terminated or not last.truncated
        assert data.weight[i] == known
        if known and not last.terminated:
            assert data.next_obs[i].flat[0] == _byte(spec, next_obs)
        drawn.add((start, int(env)))
    unripe = n - 1 if spec is STATES else n
    assert drawn == {(t, env) for t in range(first, iterations * T - unripe) for env in range(N)}


def _byte(spec: Spec, count: float) -> float:
    return count % 256 if spec is PICTURES else count


def test_pictures_are_stored_once() -> None:
    memory = ReplayMemory(PICTURES, 240, T, N)
    assert memory.init().next_obs == ()
    assert memory.bytes() == 240 * (16 + 4 + 4 + 1 + 1)


@pytest.mark.parametrize(("capacity", "n"), [(T * N - 1, 1), (T * N, T + 1)])
def test_too_small_a_memory_is_refused(capacity: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"a replay memory of {capacity} steps is too small"):
        ReplayMemory(STATES, capacity, T, N, n)


@pytest.mark.parametrize("iterations", [1, 2, 9])
@pytest.mark.parametrize("spec", [STATES, PICTURES], ids=["states", "pictures"])
@pytest.mark.parametrize(("blocks", "n"), [(5, 2), (5, 8), (1, 2)])
def test_new_transitions_are_drawn_alike_and_unripe_ones_never(
    spec: Spec, iterations: int, blocks: int, n: int
) -> None:
    memory = ReplayMemory(spec, blocks * T * N, T, N, n)
    sampler = PrioritizedSampler(memory)
    priorities, add = sampler.init(), jax.jit(sampler.add)
    sample = jax.jit(sampler.sample, static_argnums=2)
    for iteration in range(iterations):
        priorities = add(priorities, 0.6, clock(iteration))
    if iterations - 1 < memory.first_update(0):
        assert priorities.sum[1] == 0
        _, weight = sample(priorities, jax.random.key(0), 4000, 0.5, clock(iterations - 1))
        np.testing.assert_array_equal(weight, 0.0)
        return
    place, weight = sample(priorities, jax.random.key(0), 4000, 0.5, clock(iterations - 1))
    even, _ = UniformSampler(memory).sample((), jax.random.key(1), 4000, 0.5, clock(iterations - 1))
    counts, reference = (np.zeros((memory.rows, N)) for _ in range(2))
    np.add.at(counts, (np.asarray(place.row), np.asarray(place.env)), 1)
    np.add.at(reference, (np.asarray(even.row), np.asarray(even.env)), 1)
    np.testing.assert_array_equal(counts > 0, reference > 0)
    np.testing.assert_allclose(weight, 1.0)
    assert np.ptp(counts[counts > 0]) <= 2  # one from each share of the sum


def test_priorities_decide_what_is_drawn_and_weights_make_up_for_it() -> None:
    memory = ReplayMemory(STATES, 6 * T * N, T, N)
    sampler = PrioritizedSampler(memory)
    priorities = sampler.init()
    for iteration in range(6):
        priorities = sampler.add(priorities, 0.7, clock(iteration))
    rng = np.random.default_rng(0)
    table = np.ones((memory.rows, N))
    for _ in range(5):
        chosen = rng.choice(memory.rows * N, 8, replace=False)
        error = rng.normal(size=8) * 3
        table.flat[chosen] = (np.abs(error) + 1e-6) ** 0.7
        place = Place(jnp.asarray(chosen // N), jnp.asarray(chosen % N))
        priorities = sampler.update(priorities, place, jnp.asarray(error, jnp.float32), jnp.ones(8), 0.7)
    np.testing.assert_allclose(priorities.sum[1], table.sum(), rtol=1e-5)
    np.testing.assert_allclose(priorities.min[1], table.min(), rtol=1e-5)
    # independent draws, so that their counts are multinomial
    keys = jax.random.split(jax.random.key(2), 5000)
    place, weight = jax.vmap(lambda key: sampler.sample(priorities, key, 1, 0.4, clock(5)))(keys)
    counts = np.zeros((memory.rows, N))
    np.add.at(counts, (np.asarray(place.row[:, 0]), np.asarray(place.env[:, 0])), 1)
    share = table / table.sum()
    likely = share * 5000 > 5
    got = np.append(counts[likely], counts[~likely].sum())
    hoped = np.append(share[likely], share[~likely].sum()) * 5000
    assert scipy.stats.chisquare(got[hoped > 0], hoped[hoped > 0]).pvalue > 1e-3
    size = memory.rows * N
    of_each = (size * share) ** -0.4
    expected_weight = (of_each / of_each.max())[np.asarray(place.row[:, 0]), np.asarray(place.env[:, 0])]
    np.testing.assert_allclose(weight[:, 0], expected_weight, rtol=1e-4)


def test_rows_that_are_written_over_lose_their_priority() -> None:
    memory = ReplayMemory(STATES, 2 * T * N, T, N)
    sampler = PrioritizedSampler(memory)
    priorities = sampler.add(sampler.add(sampler.init(), 1.0, clock(0)), 1.0, clock(1))
    surprising = Place(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
    priorities = sampler.update(priorities, surprising, jnp.full(1, 7.0), jnp.ones(1), 1.0)
    assert float(priorities.sum[sampler.leaves]) == pytest.approx(7.0)
    priorities = sampler.update(priorities, surprising, jnp.full(1, 0.5), jnp.ones(1), 1.0)
    priorities = sampler.add(priorities, 1.0, clock(2))
    np.testing.assert_allclose(priorities.sum[sampler.leaves : sampler.leaves + T * N], 7.0, rtol=1e-6)
    np.testing.assert_allclose(priorities.sum[sampler.leaves + T * N : sampler.leaves + 2 * T * N], 1.0)


def test_what_teaches_nothing_is_not_drawn_again_and_sets_no_weights() -> None:
    memory = ReplayMemory(STATES, 2 * T * N, T, N)
    sampler = PrioritizedSampler(memory)
    add = jax.jit(sampler.add)
    priorities = add(add(sampler.init(), 0.6, clock(0)), 0.6, clock(1))
    place = Place(jnp.array([0, 1]), jnp.zeros(2, jnp.int32))
    priorities = sampler.update(priorities, place, jnp.array([0.0, 0.5]), jnp.array([0.0, 1.0]), 0.6)
    assert float(priorities.min[1]) == pytest.approx(0.5**0.6, rel=1e-4)
    drawn, weight = jax.jit(sampler.sample, static_argnums=2)(priorities, jax.random.key(0), 2000, 1.0, clock(1))
    assert {(0, 0), (1, 0)} & set(zip(drawn.row.tolist(), drawn.env.tolist())) == {(1, 0)}
    assert weight.max() == pytest.approx(1.0) and weight.min() > 0.5


def test_learning_begins_once_a_transition_is_complete() -> None:
    for spec, n, starts, first in ((STATES, 1, 0, 0), (STATES, 4, 0, 1), (PICTURES, 3, 0, 1), (STATES, 4, 13, 3)):
        memory = ReplayMemory(spec, 20 * T * N, T, N, n)
        assert memory.first_update(starts) == first
        stored = (first + 1) * T
        assert stored > memory.unripe and stored * N >= starts


@pytest.mark.parametrize("spec", [STATES, PICTURES], ids=["states", "pictures"])
@pytest.mark.parametrize("iterations", [2, 5])
def test_episodes_end_where_environments_begin_anew(spec: Spec, iterations: int) -> None:
    """No transition leads from the steps before into those after."""
    memory = ReplayMemory(spec, 4 * T * N, T, N, 2)
    rollouts, history = play(spec, iterations)
    replay = jax.jit(memory.cut)(fill(memory, rollouts), iterations)
    after, _ = play(spec, 1, seed=1)
    replay = memory.add(replay, after[0], clock(iterations))
    last = jnp.full(N, (iterations * T - 1) % memory.rows)
    data = memory.read(replay, Place(last, jnp.arange(N)), GAMMA)
    for env in range(N):
        step = history[env][-1]
        assert data.reward[env] == pytest.approx(step.reward)
        assert bool(replay.truncated[last[env], env]) or step.terminated
        if spec is STATES:
            assert data.next_obs[env, 0] == step.next_obs
            assert float(data.discount[env]) == pytest.approx(0.0 if step.terminated else GAMMA)
        else:
            assert data.weight[env] == step.terminated
    untouched = memory.cut(memory.init(), 0)
    assert not untouched.truncated.any()


def test_runs_of_a_sweep_keep_apart() -> None:
    memory = ReplayMemory(STATES, 4 * T * N, T, N)
    rollouts, _ = zip(*(play(STATES, 5, seed) for seed in (0, 1)))
    stacked = [jax.tree.map(lambda *x: np.stack(x), *pair) for pair in zip(*rollouts)]
    both = jax.vmap(lambda _: memory.init())(jnp.arange(2))
    add = jax.jit(jax.vmap(memory.add, in_axes=(0, 0, None)))
    for iteration, rollout in enumerate(stacked):
        both = add(both, rollout, clock(iteration))
    for run in range(2):
        alone = fill(memory, list(rollouts[run]))
        jax.tree.map(lambda x, y, run=run: np.testing.assert_array_equal(x[run], y), both, alone)
