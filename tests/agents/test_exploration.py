"""State-dependent exploration against its definition: noise is a random matrix times features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from agents import a2c, sac
from agents.common.distributions import StateDependentGaussian, distribution
from agents.common.exploration import no_noise, renewed
from agents.common.on_policy import ActorCriticPolicy
from agents.types import Player
from envs.types import Box, Discrete, Spec
from networks.heads import StateDependentHead

SPEC = Spec("box", (3,), "float32", Box((-1.0, -2.0), (1.0, 2.0)), 10)
KEY = jax.random.key(0)


def gaussian() -> StateDependentGaussian:
    """Of 5 observations, 4 features, 2 action components; the features of the first are all 0."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 4))
    features[0] = 0.0
    arrays = rng.normal(size=(5, 2)), 0.5 * rng.normal(size=(4, 2)), features
    return StateDependentGaussian(*(jnp.asarray(x, jnp.float32) for x in arrays))


def test_density_is_that_of_the_definition() -> None:
    pi, action = gaussian(), np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    for n in range(1, 5):
        log_prob = entropy = 0.0
        for j in range(2):
            variance = 0.0
            for i in range(4):
                variance += float(pi.features[n, i]) ** 2 * np.exp(float(pi.log_std[i, j])) ** 2
            law = scipy.stats.norm(float(pi.mean[n, j]), np.sqrt(variance + 1e-6))
            log_prob, entropy = log_prob + law.logpdf(action[n, j]), entropy + law.entropy()
        assert pi.log_prob(action)[n] == pytest.approx(log_prob, rel=1e-4)
        assert pi.entropy()[n] == pytest.approx(entropy, rel=1e-4)
    np.testing.assert_array_equal(pi.mode(), pi.mean)
    np.testing.assert_array_equal(pi.probabilities(), pi.mean)
    assert np.isfinite(pi.log_prob(action)).all()


def test_actions_are_distributed_as_their_density_says() -> None:
    pi = gaussian()
    normals = jax.random.normal(KEY, (4000, 5, 4, 2))
    drawn = np.asarray(jax.vmap(pi.explore)(normals))
    for actions in (drawn, np.asarray(jax.vmap(pi.sample)(jax.random.split(KEY, 4000)))):
        for n, j in np.ndindex(4, 2):
            law = scipy.stats.norm(pi.mean[n + 1, j], np.exp(pi.gaussian().log_std[n + 1, j]))
            assert scipy.stats.kstest(actions[:, n + 1, j], law.cdf).pvalue > 1e-3
    # A matrix is one function of the state: what it does at a sum of features is the sum of what it does at each.
    noise = (drawn - np.asarray(pi.mean)).astype(np.float64)
    one = pi._replace(features=pi.features[1:2] + pi.features[2:3], mean=jnp.zeros((1, 2)))
    matrix = normals[0, 1][None]
    both = pi._replace(features=pi.features[1:3], mean=jnp.zeros((2, 2))).explore(jnp.tile(matrix, (2, 1, 1)))
    np.testing.assert_allclose(one.explore(matrix)[0], both.sum(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(noise[:, 0], 0.0)


def test_divergence_is_that_of_the_gaussians() -> None:
    pi, other = gaussian(), gaussian()._replace(log_std=jnp.zeros((4, 2)))
    np.testing.assert_allclose(pi.kl(pi), 0.0, atol=1e-6)
    np.testing.assert_allclose(pi.kl(other), pi.gaussian().kl(other.gaussian()))


def test_noise_is_drawn_at_an_episodes_start_and_every_few_steps() -> None:
    noise, seen = no_noise(2, 3, 1), []
    for t in range(8):
        noise = renewed(noise, jax.random.key(t), 3)
        seen.append(np.asarray(noise.normals)[..., 0])
        if t == 3:  # environment 1 begins anew
            noise = noise._replace(age=noise.age.at[1].set(0))
    changed = [[t for t in range(1, 8) if (seen[t][n] != seen[t - 1][n]).any()] for n in range(2)]
    assert changed == [[3, 6], [3, 4, 7]]
    assert (seen[0] != 0).all() and (seen[0][0] != seen[0][1]).all()


def test_the_features_of_actor_critics_do_not_learn_from_the_noise() -> None:
    """Raffin et al. 2021 leave the gradient of the spread out of the features for on-policy learners, not for SAC."""

    def slope(head: StateDependentHead) -> float:
        features = jnp.ones((2, 4))
        params = head.init(KEY, features)
        spread = jax.grad(lambda x: distribution(head.apply(params, x)).entropy().sum())
        return float(np.abs(spread(features)).max())

    actor = ActorCriticPolicy(SPEC, (5,), "tanh", 0.0, False, noise_steps=1).network
    assert actor.bind(jax.jit(actor.init)(KEY, jnp.ones((1, 3)))).policy_head.learn_features is False
    assert slope(StateDependentHead(2)) == 0.0
    assert slope(StateDependentHead(2, learn_features=True)) > 1e-3


def test_sac_keeps_its_noise_and_stays_within_bounds() -> None:
    config, hyper = sac.SAC.configure({"use_sde": True, "sde_sample_freq": 2, "net_arch": (5,), "learning_starts": 0})
    agent = sac.make(SPEC, config)
    state = agent.init(KEY, sac.SAC.hyper_tree(hyper))
    state = state._replace(acting=state.acting._replace(at_random=jnp.asarray(False)))
    player, obs = Player(agent), np.ones((4, 3), np.float32)
    act = jax.jit(player.act, static_argnums=3)
    memory, actions = player.begin(4), []
    for t in range(4):
        action, _, memory = act(state, obs, jax.random.key(t), True, memory)
        actions.append(np.asarray(action))
    np.testing.assert_array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[2], actions[3])
    assert (actions[0] != actions[2]).all() and (actions[0][0] != actions[0][1]).all()
    assert (np.abs(actions) <= np.array([1.0, 2.0])).all()
    mean, _, _ = act(state, obs, KEY, False, memory)
    np.testing.assert_allclose(mean, player.probabilities(state, obs, memory), atol=1e-6)


def test_discrete_actions_are_refused() -> None:
    spec = Spec("discrete", (3,), "float32", Discrete(2), 10)
    with pytest.raises(ValueError, match="--use-sde is for continuous actions, those of discrete are discrete"):
        a2c.make(spec, a2c.Config(use_sde=True))
