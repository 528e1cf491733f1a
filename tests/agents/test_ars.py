"""ARS against updates computed by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from agents import ars
from agents.common.evolution import episode_returns
from agents.types import Agent, AgentState, Clock, Transition
from envs.types import Box, Discrete, Spec

CONTINUOUS = Spec("continuous", (2,), "float32", Box((-1.0,), (1.0,)), 4)
DISCRETE = Spec("discrete", (2,), "float32", Discrete(3), 4)
KEY = jax.random.key(0)
CLOCK = Clock(jnp.int32(0), jnp.float32(0.0))
DIRECTIONS = np.array([[[1.0], [0.0]], [[0.0], [1.0]], [[1.0], [1.0]]], np.float32)
# Three pairs of episodes of 1 to 4 steps; columns are + and - of directions 0, 1 and 2.
LENGTHS = np.array([4, 2, 3, 1, 2, 4])
BEYOND = 1e4  # what stands in the batch after an episode's end


def hyper_of(**changes: float) -> ars.Hyper:
    """nu 0.5, alpha 0.1, b 2, amplitude 10."""
    values = {"exploration_noise": 0.5, "step_size": 0.1, "top_population": 2, "max_step_amplitude": 10.0} | changes
    return ars.Hyper(**{name: jnp.float32(value) for name, value in values.items()})


def agent_of(spec: Spec = CONTINUOUS, **options: Any) -> Agent:
    """ARS with three directions."""
    return ars.make(spec, ars.Config(num_population=3, **options))


def state_of(agent: Agent, weights: list[float], hyper: ars.Hyper) -> AgentState:
    """A state with known weights (one output) and directions."""
    state = agent.init(KEY, hyper)
    acting = state.acting._replace(weights=jnp.asarray(weights)[:, None])
    return AgentState(acting, state.learning._replace(directions=jnp.asarray(DIRECTIONS)))


def episodes(returns: list[float], seed: int = 0) -> Transition:
    """A batch [4, 6] whose first episodes have these returns, half of each paid by the last reward."""
    rng = np.random.default_rng(seed)
    reward, obs = np.full((4, 6), BEYOND, np.float32), np.full((4, 6, 2), BEYOND, np.float32)
    terminated, truncated = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    for n, (length, total) in enumerate(zip(LENGTHS, returns)):
        reward[:length, n] = 0.0
        reward[0, n] = total / 2
        reward[length - 1, n] += total / 2
        obs[:length, n] = rng.normal(size=(length, 2)) * [1.0, 3.0] + [0.0, 5.0]
        (truncated if length == 4 else terminated)[length - 1, n] = True
    return Transition(obs, np.zeros((4, 6, 1), np.float32), reward, terminated, truncated, obs, {})


@pytest.mark.parametrize("algo_type", ["v1", "v2"])
def test_update_by_hand(algo_type: str) -> None:
    """Directions 0 and 1 are kept for their better sides (3, 2, 1); their returns 3, -5, 0, 2 deviate by 3.082207."""
    hyper = hyper_of()
    agent = agent_of(algo_type=algo_type)
    batch = episodes([3.0, -5.0, 0.0, 2.0, 1.0, -1.0])
    after, metrics = jax.jit(agent.update)(state_of(agent, [1.0, -1.0], hyper), batch, KEY, hyper, CLOCK)
    # 0.1 / (2 * 3.082207) * ((3 + 5) * [1, 0] + (0 - 2) * [0, 1])
    np.testing.assert_allclose(after.acting.weights[:, 0], [1 + 0.129777, -1 - 0.032444], atol=1e-5)
    np.testing.assert_allclose(metrics["fitness_spread"], 3.082207, rtol=1e-5)
    np.testing.assert_allclose(metrics["fitness_mean"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["fitness_best"], 3.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["step_norm"], np.hypot(0.129777, 0.032444), rtol=1e-4)


def test_all_directions_may_be_kept() -> None:
    hyper, agent = hyper_of(top_population=3), agent_of()
    returns = [3.0, 1.0, 1.0, 2.0, 0.0, -4.0]
    after, _ = jax.jit(agent.update)(state_of(agent, [0.0, 0.0], hyper), episodes(returns), KEY, hyper, CLOCK)
    # (3 - 1) * [1, 0] + (1 - 2) * [0, 1] + (0 + 4) * [1, 1] = [6, 3]
    np.testing.assert_allclose(after.acting.weights[:, 0], 0.1 / (3 * np.std(returns)) * np.array([6, 3]), rtol=1e-5)


def test_amplitude_is_capped() -> None:
    """2 * std is 0.0087, less than 1/10: the step is 0.1 * 10 * 0.01 * [1, 0]."""
    hyper, agent = hyper_of(), agent_of()
    returns = [1.01, 1.0, 1.0, 1.0, 0.0, 0.0]
    after, _ = jax.jit(agent.update)(state_of(agent, [0.0, 0.0], hyper), episodes(returns), KEY, hyper, CLOCK)
    np.testing.assert_allclose(after.acting.weights[:, 0], [0.01, 0.0], rtol=1e-3)


def test_equal_returns_move_nothing() -> None:
    hyper, agent = hyper_of(), agent_of()
    after, _ = jax.jit(agent.update)(state_of(agent, [1.0, 2.0], hyper), episodes([1.0] * 6), KEY, hyper, CLOCK)
    np.testing.assert_array_equal(after.acting.weights[:, 0], [1.0, 2.0])


def test_returns_end_with_the_episode() -> None:
    returns = [3.0, 1.0, -1.0, 2.0, 0.5, -4.0]
    np.testing.assert_allclose(episode_returns(episodes(returns)), returns, rtol=1e-6)


def test_statistics_count_only_steps_that_were_played() -> None:
    hyper, agent = hyper_of(), agent_of(algo_type="v2")
    state, seen = state_of(agent, [0.0, 0.0], hyper), []
    update = jax.jit(agent.update)
    for seed in range(2):
        batch = episodes([1.0] * 6, seed)
        state, _ = update(state, batch, KEY, hyper, CLOCK)
        seen += [batch.obs[t, n] for n in range(6) for t in range(LENGTHS[n])]
    stats = state.acting.stats
    np.testing.assert_allclose(stats.mean, np.mean(seen, axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stats.var, np.var(seen, axis=0), rtol=1e-3)
    np.testing.assert_allclose(stats.number, 2 * LENGTHS.sum(), rtol=1e-4)


def test_v1_keeps_no_statistics() -> None:
    hyper, agent = hyper_of(), agent_of(algo_type="v1")
    assert not agent.traits.keep_obs
    assert agent_of(algo_type="v2").traits.keep_obs
    state = state_of(agent, [0.0, 0.0], hyper)
    batch = episodes([3.0, 1.0, 1.0, 2.0, 0.0, -4.0])._replace(obs=(), next_obs=())
    after, _ = agent.update(state, batch, KEY, hyper, CLOCK)
    assert state.acting.stats == after.acting.stats == ()


@pytest.mark.parametrize("algo_type", ["v1", "v2"])
def test_each_environment_plays_its_own_side(algo_type: str) -> None:
    """Environment 2k plays M + nu delta_k, 2k + 1 plays M - nu delta_k, on standardised observations in v2."""
    hyper, agent = hyper_of(), agent_of(algo_type=algo_type)
    state = state_of(agent, [2.0, -1.0], hyper)
    if algo_type == "v2":
        state, _ = agent.update(state, episodes([1.0] * 6), KEY, hyper, CLOCK)
        state = state._replace(learning=state.learning._replace(directions=jnp.asarray(DIRECTIONS)))
    obs = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    x = obs
    if algo_type == "v2":
        x = (obs - np.asarray(state.acting.stats.mean)) / np.sqrt(np.asarray(state.acting.stats.var))
    weights = np.array([2.0, -1.0])
    expected = [x[n] @ (weights + (-1) ** n * 0.5 * DIRECTIONS[n // 2, :, 0]) for n in range(6)]
    action, extras = agent.act(state, obs, KEY, True)
    assert extras == {}
    np.testing.assert_allclose(action[:, 0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(agent.act(state, obs, KEY, False)[0][:, 0], x @ weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(agent.act(state, obs[:1], KEY, False)[0][0, 0], x[0] @ weights, rtol=1e-4, atol=1e-5)


def test_an_mlp_starts_at_random_and_each_environment_plays_its_own_side() -> None:
    hyper, agent = hyper_of(), agent_of(algo_type="v1", policy="mlp", net_arch=(3,))
    state = agent.init(KEY, hyper)
    obs = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    weights, directions = np.asarray(state.acting.weights), np.asarray(state.learning.directions)
    assert weights.shape == (3 + 2 * 3 + 1 + 3,)
    assert directions.shape == (3, *weights.shape)
    assert np.count_nonzero(weights) == 2 * 3 + 3  # biases are 0

    def outputs(w: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Bias and kernel of the output, then those of the hidden layer."""
        return np.maximum(w[4:7] + x @ w[7:].reshape(2, 3), 0.0) @ w[1:4] + w[0]

    expected = [outputs(weights + (-1) ** n * 0.5 * directions[n // 2], obs[n]) for n in range(6)]
    np.testing.assert_allclose(agent.act(state, obs, KEY, True)[0][:, 0], expected, rtol=1e-4, atol=1e-5)
    greedy = [outputs(weights, x) for x in obs]
    np.testing.assert_allclose(agent.act(state, obs, KEY, False)[0][:, 0], greedy, rtol=1e-4, atol=1e-5)
    after, _ = agent.update(state, episodes([3.0, -5.0, 0.0, 2.0, 1.0, -1.0]), KEY, hyper, CLOCK)
    moved = 0.1 / (2 * 3.082207) * (8 * directions[0] - 2 * directions[1])
    np.testing.assert_allclose(after.acting.weights - weights, moved, atol=1e-5)


def test_an_mlp_is_refused_for_pictures() -> None:
    with pytest.raises(ValueError, match="--policy=mlp is for states, pictures observes pictures: use --policy=linear"):
        agent_of(Spec("pictures", (64, 64, 3), "uint8", Discrete(3), 4), policy="mlp")


def test_discrete_actions_are_sampled_while_exploring() -> None:
    hyper = hyper_of()
    sampling, greedy = agent_of(DISCRETE, algo_type="v1"), agent_of(DISCRETE, algo_type="v1", deterministic=True)
    state = sampling.init(KEY, hyper)
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    weights = jnp.stack([jnp.asarray(logits), jnp.zeros(3)])
    state = AgentState(state.acting._replace(weights=weights), state.learning._replace(noise=jnp.float32(0.0)))
    obs = jnp.tile(jnp.array([[1.0, 0.0]]), (6, 1))
    keys = jax.random.split(KEY, 2000)
    drawn = np.asarray(jax.vmap(lambda k: sampling.act(state, obs, k, True)[0])(keys))
    frequency = np.bincount(drawn.reshape(-1), minlength=3) / drawn.size
    np.testing.assert_allclose(frequency, scipy.special.softmax(logits), atol=0.02)
    np.testing.assert_array_equal(greedy.act(state, obs, KEY, True)[0], [2] * 6)
    np.testing.assert_array_equal(sampling.act(state, obs, KEY, False)[0], [2] * 6)
    np.testing.assert_allclose(sampling.probabilities(state, obs)[0], scipy.special.softmax(logits), rtol=1e-5)


def test_directions_are_drawn_anew_each_iteration() -> None:
    hyper, agent = hyper_of(), ars.make(CONTINUOUS, ars.Config(num_population=2000))
    state = agent.init(KEY, hyper)
    batch = jax.tree.map(lambda x: np.zeros((4, 4000, *np.shape(x)[2:]), x.dtype), episodes([1.0] * 6))
    after, _ = jax.jit(agent.update)(state, batch, jax.random.key(1), hyper_of(exploration_noise=0.3), CLOCK)
    old, new = np.asarray(state.learning.directions), np.asarray(after.learning.directions)
    assert abs(np.corrcoef(old.reshape(-1), new.reshape(-1))[0, 1]) < 0.1
    for directions in (old, new):
        assert abs(directions.mean()) < 0.1 and abs(directions.std() - 1) < 0.1
    np.testing.assert_allclose([state.learning.noise, after.learning.noise], [0.5, 0.3], rtol=1e-6)
