"""Numbers that are not finite: every learner notices them, and can leave the update out without forgetting."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.common.finite import BROKEN, quantities, watched
from agents.registry import registered_rl
from agents.types import AgentState, Clock, Transition
from tests.driver_cases import assert_same, bits, learner

LEARNERS = sorted(set(registered_rl) - {"random_agent"})
QUICK = ("acer", "cma-es", "deepq")
EACH = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LEARNERS]
)


@cache
class Played:
    """A learner, watched, with one rollout of its environment and its update compiled."""

    def __init__(self, name: str, skip: bool = True) -> None:
        case = learner(name)
        self.agent = watched(case.agent, skip)
        driver = case.device()
        self.hyper = jax.tree.map(jnp.float32, case.hyper)
        self.run = jax.tree.map(lambda x: x[0], driver.state)
        self.batch: Transition = jax.jit(driver._rollout)(self.run, jax.random.key(1))[1]
        self._update = jax.jit(self.agent.update)

    def update(self, state: AgentState, iteration: int, **changed: Any) -> tuple[AgentState, str | None, dict]:
        """One update: (state, what broke, metrics)."""
        clock = Clock(jnp.int32(iteration), jnp.float32(0.1))
        key = jax.random.fold_in(jax.random.key(2), iteration)
        state, metrics = self._update(state, self.batch._replace(**changed), key, self.hyper, clock)
        number = int(metrics[BROKEN])
        return state, quantities(metrics)[number - 1] if number else None, metrics

    def reward(self, value: float) -> jax.Array:
        """Rewards of which one is `value`."""
        return self.batch.reward.at[0, 1].set(value)


def learned(name: str, state: AgentState) -> dict[str, np.ndarray]:
    """What an update changes and a discarded one must not: all but what is played and drawn."""
    drawn = ("replay", "priorities", "samples") if name != "ars" else ("learning/",)
    return {path: x for path, x in bits(state).items() if not any(word in path for word in drawn)}


def all_finite(state: AgentState) -> bool:
    """Whether no number that acting depends on is broken."""
    return all(np.isfinite(x).all() for path, x in bits(state.acting).items() if x.dtype.kind == "f")


@EACH
def test_a_broken_update_is_left_out_and_learning_goes_on(name: str) -> None:
    played = Played(name)
    state = played.run.agent
    for iteration in range(8):  # off-policy learners have begun to learn
        state, broken, _ = played.update(state, iteration)
        assert broken is None
    for iteration, value in ((8, jnp.nan), (9, jnp.inf), (10, -jnp.inf)):
        after, broken, _ = played.update(state, iteration, reward=played.reward(value))
        assert broken == "rewards"
        assert_same(learned(name, after), learned(name, state))
        state = after
    for iteration in range(11, 17):  # what was stored of the broken rollouts does not spread
        after, broken, metrics = played.update(state, iteration)
        assert broken is None and all(np.isfinite(x) for x in metrics.values())
        state = after
    assert all_finite(state)
    moved = [not np.array_equal(x, learned(name, played.run.agent)[path]) for path, x in learned(name, state).items()]
    assert any(moved)


@pytest.mark.parametrize("name", ["deepq", *(pytest.param(name, marks=pytest.mark.slow) for name in ("acer", "ppo2"))])
def test_broken_observations_are_named_and_do_not_reach_a_simulator(name: str) -> None:
    played = Played(name)
    bad = {"next_obs": played.batch.next_obs.at[-1, 0].set(jnp.nan)}
    state, broken, _ = played.update(played.run.agent, 0, **bad)
    assert broken == "observations"
    for iteration in range(1, 12):
        state, broken, _ = played.update(state, iteration)
        assert broken is None
    obs = played.batch.obs[0].at[0].set(jnp.nan)
    action, extras = played.agent.act(state, obs, jax.random.key(0), True)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((action, extras)))


def test_a_step_too_large_is_named_by_its_loss_or_its_parameters() -> None:
    played = Played.__wrapped__("ppo2")
    played.hyper = replace(played.hyper, learning_rate=jnp.float32(1e38))
    state, broken, _ = played.update(played.run.agent, 0)
    assert broken in ("policy_loss", "value_loss", "parameters", "grad_norm")
    assert_same(state, played.run.agent)


def test_stopping_changes_nothing_of_the_learner() -> None:
    """Without `skip` the numbers are those of the bare learner: only the metric is more."""
    played, bare = Played("sac", skip=False), learner("sac").agent
    clock, key = Clock(jnp.int32(7), jnp.float32(0.1)), jax.random.fold_in(jax.random.key(2), 7)
    expected, metrics = jax.jit(bare.update)(played.run.agent, played.batch, key, played.hyper, clock)
    state, broken, watched_metrics = played.update(played.run.agent, 7)
    assert broken is None and watched_metrics.keys() - metrics.keys() == {BROKEN}
    assert_same(state, expected, 1e-6)
    assert played.update(played.run.agent, 7, reward=played.reward(jnp.nan))[1] == "rewards"


def test_causes_come_before_effects() -> None:
    names = quantities(["entropy", "grad_norm", BROKEN, "policy_loss"])
    assert names == ["observations", "actions", "rewards", "policy_loss", "grad_norm", "entropy", "parameters"]
