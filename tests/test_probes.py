"""The probes themselves: their answers satisfy the Bellman equation, and other actions earn less."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from tests.probes import PROBES, ActionReward, ObservedActionReward, TrueSuccessor

GAMMA = 0.9


def rows_of(answers, obs):
    """For each observation [M, D] its row in the answers [M]; an observation that they do not list is an error."""
    equal = (np.asarray(obs)[:, None] == answers.obs).all(axis=-1)
    assert (equal.sum(axis=1) == 1).all()
    return equal.argmax(axis=1)


def play(probe, num_steps=20, num_envs=16):
    """Under the best policy (obs, reward, terminated, truncated, next_obs, obs after a reset), each [M, ...]."""
    answers = probe.answers(GAMMA)
    batch = BatchEnv(probe)
    state, obs = batch.reset(jax.random.split(jax.random.key(0), num_envs))
    step, seen = jax.jit(batch.step), []
    for _ in range(num_steps):
        action = np.zeros((num_envs, *probe.spec.action_shape), probe.spec.action_dtype)
        if answers.action is not None:
            action = answers.action[rows_of(answers, obs)]
        state, out = step(state, jnp.asarray(action))
        seen.append((obs, out.reward, out.terminated, out.truncated, out.next_obs, out.obs))
        obs = out.obs
    return [np.concatenate(field) for field in zip(*seen)]


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("make", PROBES)
def test_answers_satisfy_the_bellman_equation(make, continuous):
    probe = make(continuous)
    answers = probe.answers(GAMMA)
    obs, reward, terminated, truncated, next_obs, _ = play(probe)
    assert (terminated | truncated).any() and reward.dtype == np.float32 and obs.dtype == np.float32
    row = rows_of(answers, obs)
    assert set(row) == set(range(len(answers.obs)))
    successor = np.zeros(len(obs))
    successor[~terminated] = answers.value[rows_of(answers, next_obs[~terminated])]
    np.testing.assert_allclose(answers.value[row], reward + GAMMA * successor, atol=1e-5)


@pytest.mark.parametrize("make", PROBES)
def test_episodes_have_the_length_that_the_spec_tells(make):
    probe = make()
    _, _, terminated, truncated, _, _ = play(probe, num_steps=2 * probe.length, num_envs=1)
    np.testing.assert_array_equal(np.flatnonzero(terminated | truncated) + 1, [probe.length, 2 * probe.length])


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("make", [ActionReward, ObservedActionReward])
def test_other_actions_earn_less(make, continuous):
    probe = make(continuous)
    answers = probe.answers(GAMMA)
    for key in jax.random.split(jax.random.key(0), 8):
        state, obs = probe.reset(key)
        row = rows_of(answers, obs[None])[0]
        best = answers.action[row]
        others = [best + 0.2, best - 0.2] if continuous else [1 - best]
        _, step = probe.step(state, jnp.asarray(best))
        np.testing.assert_allclose(step.reward, answers.value[row], atol=1e-6)
        for other in others:
            assert probe.step(state, jnp.asarray(other))[1].reward < step.reward - 0.03


def test_true_successor_tells_a_wrong_bootstrap_from_the_right_one():
    probe = TrueSuccessor()
    answers = probe.answers(GAMMA)
    obs, reward, _, _, _, after_reset = play(probe)
    row, wrong = rows_of(answers, obs), rows_of(answers, after_reset)
    value = np.zeros(2)
    for _ in range(200):
        target = reward + GAMMA * value[wrong]
        value = np.array([target[row == k].mean() for k in range(2)])
    assert (value < answers.value - 1.0).all()
