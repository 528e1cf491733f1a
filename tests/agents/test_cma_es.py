"""CMA-ES as an algorithm: who plays what, fitness, the best member, policies and refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from agents import cma_es
from agents.common import cma
from agents.types import Agent, AgentState, Clock, Transition
from envs.types import Box, Discrete, Spec

CONTINUOUS = Spec("continuous", (2,), "float32", Box((-1.0,), (1.0,)), 4)
DISCRETE = Spec("discrete", (2,), "float32", Discrete(3), 4)
PIXELS = Spec("pixels", (64, 64, 3), "uint8", Discrete(4), 4)
KEY, UPDATE_KEY = jax.random.key(0), jax.random.key(1)
CLOCK = Clock(jnp.int32(0), jnp.float32(0.0))
HYPER = cma_es.Hyper(jnp.float32(0.5), jnp.float32(0.3))
# Three members of two episodes, of 1 to 4 steps.
LENGTHS = np.array([4, 2, 3, 1, 2, 4])
BEYOND = 1e4  # what stands in the batch after an episode's end


def agent_of(spec: Spec = CONTINUOUS, **options: Any) -> Agent:
    """CMA-ES with three members of two episodes each, linear unless told otherwise."""
    options = {"num_population": 3, "num_episodes": 2, "policy": "linear"} | options
    return cma_es.make(spec, cma_es.Config(**options))


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


def members(state: AgentState) -> np.ndarray:
    """Parameters of the generation [population, n]."""
    return np.asarray(state.acting.weights + state.learning.strategy.sigma * state.learning.samples.y)


def test_starts_at_mu_and_sigma() -> None:
    agent = cma_es.make(CONTINUOUS, cma_es.Config(num_population=50))
    state = agent.init(KEY, HYPER)
    assert state.acting.weights.shape == (2 * 100 + 100 + 100 + 1,)
    np.testing.assert_array_equal(state.acting.weights, 0.5)
    np.testing.assert_allclose(members(state).std(), 0.3, rtol=0.03)
    np.testing.assert_allclose(members(state).mean(), 0.5, atol=0.01)
    assert agent.traits.num_envs == 50 and agent.traits.fresh_episodes and agent.traits.rollout_length == 4


def test_members_are_ranked_by_their_mean_return() -> None:
    """Means of the pairs of episodes are 2, 1 and -3; what stands after an episode's end does not count."""
    agent = agent_of()
    state = agent.init(KEY, HYPER)
    update = jax.jit(agent.update)
    after, metrics = update(state, episodes([3.0, 1.0, 4.0, -2.0, 0.0, -6.0]), UPDATE_KEY, HYPER, CLOCK)
    c = cma.constants(3, 3)
    expected, strategy = cma.tell(
        c, state.learning.strategy, state.acting.weights, state.learning.samples, jnp.array([-2.0, -1.0, 3.0]), 0
    )
    np.testing.assert_allclose(after.acting.weights, expected, rtol=1e-5)
    for got, want in zip(after.learning.strategy, strategy):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert float(metrics["fitness_best"]) == 2.0 and float(metrics["fitness_mean"]) == 0.0
    np.testing.assert_allclose(metrics["sigma"], strategy.sigma, rtol=1e-6)
    np.testing.assert_allclose(metrics["step_norm"], np.linalg.norm(expected - state.acting.weights), rtol=1e-4)
    deviations = strategy.sigma * np.sqrt(np.diag(strategy.cov))
    np.testing.assert_allclose(metrics["deviation_min"], deviations.min(), rtol=1e-4)
    np.testing.assert_allclose(metrics["deviation_max"], deviations.max(), rtol=1e-4)
    assert np.abs(after.learning.samples.z - state.learning.samples.z).max() > 0.1


def test_the_best_member_of_all_is_kept_with_its_statistics() -> None:
    agent = agent_of()
    update = jax.jit(agent.update)
    states, kept = [agent.init(KEY, HYPER)], []
    for returns in ([0.0] * 2 + [5.0] * 2 + [1.0] * 2, [4.0] * 6, [np.nan] * 2 + [6.0] * 2 + [9.0, 2.0]):
        after, metrics = update(states[-1], episodes(returns), KEY, HYPER, CLOCK)
        kept.append((agent.others(after)["member"], float(metrics["best_member_return"])))
        states.append(after)
    assert [value for _, value in kept] == [5.0, 5.0, 6.0]
    for (member, _), (generation, number) in zip(kept, [(0, 1), (0, 1), (2, 1)]):
        np.testing.assert_allclose(member.weights, members(states[generation])[number], rtol=1e-5)
        np.testing.assert_array_equal(member.stats.mean, states[generation].acting.stats.mean)
    assert not np.array_equal(kept[2][0].stats.mean, states[3].acting.stats.mean)


@pytest.mark.parametrize("normalize", [False, True])
def test_each_environment_plays_its_member(normalize: bool) -> None:
    """Environments 2k and 2k + 1 play member k; evaluation plays the mean."""
    agent = agent_of(normalize=normalize)
    assert agent.traits.keep_obs == normalize
    state, _ = agent.update(agent.init(KEY, HYPER), episodes([1.0] * 6), KEY, HYPER, CLOCK)
    obs = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    x, stats = obs, state.acting.stats
    if normalize:
        x = (obs - np.asarray(stats.mean)) / np.sqrt(np.asarray(stats.var))
    else:
        assert stats == ()

    def linear(weights: np.ndarray, row: np.ndarray) -> float:  # bias first, as the names of parameters sort
        return weights[0] + row @ weights[1:]

    action, extras = agent.act(state, obs, KEY, True)
    assert extras == {}
    expected = [linear(members(state)[n // 2], x[n]) for n in range(6)]
    np.testing.assert_allclose(action[:, 0], expected, rtol=1e-4, atol=1e-5)
    expected = [linear(np.asarray(state.acting.weights), x[n]) for n in range(6)]
    np.testing.assert_allclose(agent.act(state, obs, KEY, False)[0][:, 0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(agent.act(state, obs[:1], KEY, False)[0][0], expected[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(agent.probabilities(state, obs)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_statistics_count_only_steps_that_were_played() -> None:
    agent = agent_of()
    batch = episodes([1.0] * 6)
    state, _ = jax.jit(agent.update)(agent.init(KEY, HYPER), batch, KEY, HYPER, CLOCK)
    seen = np.concatenate([batch.obs[: LENGTHS[n], n] for n in range(6)])
    np.testing.assert_allclose(state.acting.stats.mean, seen.mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.acting.stats.var, seen.var(axis=0), rtol=1e-3)


def test_discrete_actions_are_sampled_while_exploring() -> None:
    agents = [agent_of(DISCRETE, normalize=False, deterministic=flag) for flag in (False, True)]
    state = agents[0].init(KEY, HYPER)
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    weights = jnp.concatenate([jnp.asarray(logits), jnp.zeros(6)])
    still = state.learning.strategy._replace(sigma=jnp.float32(0.0))
    state = AgentState(state.acting._replace(weights=weights), state.learning._replace(strategy=still))
    obs = jnp.ones((6, 2))
    drawn = np.asarray(jax.vmap(lambda k: agents[0].act(state, obs, k, True)[0])(jax.random.split(KEY, 2000)))
    assert drawn.dtype == np.int32
    frequency = np.bincount(drawn.reshape(-1), minlength=3) / drawn.size
    np.testing.assert_allclose(frequency, scipy.special.softmax(logits), atol=0.02)
    np.testing.assert_array_equal(agents[1].act(state, obs, KEY, True)[0], [2] * 6)
    np.testing.assert_array_equal(agents[0].act(state, obs, KEY, False)[0], [2] * 6)
    np.testing.assert_allclose(agents[0].probabilities(state, obs)[0], scipy.special.softmax(logits), rtol=1e-5)


def test_pictures_are_played_by_a_convolutional_policy() -> None:
    """A member's action depends on its own parameters and on the picture, and on no other picture of the batch."""
    agent = agent_of(PIXELS, policy="auto", deterministic=True)
    assert not agent.traits.keep_obs
    state = agent.init(KEY, HYPER)
    assert state.acting.weights.shape == (5872 + 200 * 3 + 32 * 4 + 4,) and state.acting.stats == ()
    assert state.learning.strategy.cov.ndim == 1
    obs = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)

    @jax.jit
    def play(weights: jax.Array, obs: jax.Array) -> jax.Array:
        return agent.probabilities(state._replace(acting=state.acting._replace(weights=weights)), obs)

    acted = np.asarray(jax.jit(agent.act, static_argnums=3)(state, obs, KEY, True)[0])
    for n in range(6):
        probabilities = np.asarray(play(members(state)[n // 2], obs[n : n + 1]))[0]
        assert acted[n] == probabilities.argmax()
    both, one = play(members(state)[0], obs[:2]), play(members(state)[0], obs[:1])
    np.testing.assert_allclose(both[:1], one, rtol=1e-3, atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-4


def test_covariance_is_full_up_to_a_size() -> None:
    for policy, net_arch, dimensions in (("mlp", (100,), 2), ("mlp", (600,), 1), ("linear", (600,), 2)):
        state = jax.eval_shape(agent_of(policy=policy, net_arch=net_arch).init, KEY, HYPER)
        assert state.learning.strategy.cov.ndim == dimensions
    forced = agent_of(policy="mlp", net_arch=(100,), covariance="diagonal")
    assert jax.eval_shape(forced.init, KEY, HYPER).learning.strategy.cov.ndim == 1


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Endless-v0 has no limit of episode steps"):
        cma_es.make(Spec("Endless-v0", (2,), "float32", Discrete(2)), cma_es.Config())
    with pytest.raises(ValueError, match="--num-population=1: must be at least 2"):
        cma_es.CMAES.configure({"num_population": 1})
    with pytest.raises(ValueError, match="--policy=linear is for states, pixels observes pictures"):
        agent_of(PIXELS)
    with pytest.raises(ValueError, match="at least 43 pixels a side, tiny gives 40x64"):
        agent_of(Spec("tiny", (40, 64, 3), "uint8", Discrete(4), 4), policy="auto")
    # (2 + 1) * 300,000 hidden units and outputs: six matrices of 1.44e12 numbers.
    huge = {"policy": "mlp", "net_arch": (300_000,)}
    with pytest.raises(ValueError, match=r"1,200,001 parameters .* 32,186\.\d GiB, .* --covariance=diagonal"):
        agent_of(**huge, covariance="full")
    monkeypatch.setattr(cma_es, "available_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"diagonal covariance needs .*: use a smaller policy"):
        agent_of(**(huge | {"net_arch": (30_000,)}))
