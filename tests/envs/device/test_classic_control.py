"""Acrobot, CartPole, both mountain cars and Pendulum against Gymnasium's, step by step from the same states."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp

from envs.device.acrobot import Acrobot
from envs.device.batch import BatchEnv
from envs.device.cartpole import CartPole
from envs.device.mountain_car import MountainCar, MountainCarContinuous
from envs.device.pendulum import Pendulum
from envs.types import Discrete

NUM_ENVS = 4
ALL = (Acrobot(), CartPole(), MountainCar(), MountainCarContinuous(), Pendulum())


def balancing(obs, noise):
    """Random pushes in environments 0 and 1, in the others a controller that stays up for 500 steps."""
    up = obs @ jnp.array([0.1, 0.3, 1.0, 0.5]) > 0
    return jnp.where(jnp.arange(NUM_ENVS) < 2, noise > 0, up).astype(jnp.int32)


def torques(obs, noise):
    """Random torques, half of them beyond the bounds."""
    return 4.0 * noise[:, None]


def pumping(speed):
    """A policy: random pushes in environments 0 and 1, in the others always with the motion in column `speed`."""

    def policy(obs, noise):
        pushes = jnp.where(jnp.arange(NUM_ENVS) < 2, 1.5 * (noise + 1.0), jnp.where(obs[:, speed] >= 0, 2, 0))
        return pushes.astype(jnp.int32)

    return policy


def forces(obs, noise):
    """Random forces, half of them beyond the bounds, in the others always with the car's motion."""
    with_it = jnp.where(obs[:, 1] >= 0, 1.0, -1.0)
    return jnp.where(jnp.arange(NUM_ENVS) < 2, 2.0 * noise, with_it)[:, None]


def record(env, policy, num_steps):
    """States acted on, actions and results [T, N, ...] of a rollout with automatic resets."""
    batch = BatchEnv(env)

    def body(carry, noise):
        state, obs = carry
        action = policy(obs, noise)
        after, step = batch.step(state, action)
        return (after, step.obs), (state.env, action, step)

    noise = jax.random.uniform(jax.random.key(1), (num_steps, NUM_ENVS), minval=-1.0)
    carry = batch.reset(jax.random.split(jax.random.key(0), NUM_ENVS))
    return jax.tree.map(np.asarray, jax.jit(lambda c, n: jax.lax.scan(body, c, n)[1])(carry, noise))


def assert_same_steps(env_id, states, actions, steps):
    """Replay every recorded step in Gymnasium's environment, put into the recorded state first."""
    for i in range(NUM_ENVS):
        reference = gymnasium.make(env_id)
        reference.reset(seed=0)
        for t in range(len(actions)):
            reference.unwrapped.state = tuple(states[t, i].astype(np.float64))
            obs, reward, terminated, truncated, _ = reference.step(actions[t, i])
            np.testing.assert_allclose(steps.next_obs[t, i], obs, atol=2e-6, rtol=1e-5)
            np.testing.assert_allclose(steps.reward[t, i], reward, atol=1e-5, rtol=1e-5)
            assert (steps.terminated[t, i], steps.truncated[t, i]) == (terminated, truncated)
            if terminated or truncated:
                reference.reset()
        reference.close()


def test_cartpole_steps_as_gymnasium_does():
    state, actions, steps = record(CartPole(), balancing, 1100)
    assert steps.terminated[:, :2].sum() > 20 and steps.truncated[:, 2:].sum() == 4
    assert_same_steps("CartPole-v1", state.physics, actions, steps)


def test_cartpole_ends_at_either_side_of_track_and_angle():
    edges = {(2.45, 0.0): True, (-2.45, 0.0): True, (0.0, 0.22): True, (0.0, -0.22): True, (2.3, 0.2): False}
    state, _ = CartPole().reset(jax.random.key(0))
    for (position, angle), ends in edges.items():
        _, step = CartPole().step(state._replace(physics=jnp.array([position, 0.0, angle, 0.0])), jnp.int32(0))
        assert (bool(step.terminated), bool(step.truncated)) == (ends, False)


def test_pendulum_steps_as_gymnasium_does():
    state, actions, steps = record(Pendulum(), torques, 450)
    assert steps.truncated.sum() == 2 * NUM_ENVS and not steps.terminated.any()
    assert_same_steps("Pendulum-v1", np.stack([state.angle, state.speed], axis=-1), actions, steps)


def test_acrobot_steps_as_gymnasium_does():
    state, actions, steps = record(Acrobot(), pumping(5), 1010)
    assert steps.terminated[:, 2:].sum() > 10 and steps.truncated[:, :2].sum() > 1
    assert_same_steps("Acrobot-v1", state.physics, actions, steps)


@pytest.mark.parametrize(
    ("env", "policy", "num_steps"), [(MountainCar(), pumping(1), 450), (MountainCarContinuous(), forces, 1010)]
)
def test_mountain_cars_step_as_gymnasiums_do(env, policy, num_steps):
    state, actions, steps = record(env, policy, num_steps)
    assert steps.terminated[:, 2:].sum() > 4 and steps.truncated[:, :2].sum() >= 2
    assert_same_steps(env.spec.id, np.stack([state.position, state.speed], axis=-1), actions, steps)


@pytest.mark.parametrize("env", [MountainCar(), MountainCarContinuous()])
def test_mountain_car_stops_at_the_left_wall(env):
    state, _ = env.reset(jax.random.key(0))
    state = state._replace(position=jnp.float32(-1.19), speed=jnp.float32(-0.05))
    action = jnp.int32(0) if isinstance(env.spec.action, Discrete) else jnp.array([-1.0])
    _, step = env.step(state, action)
    reference = gymnasium.make(env.spec.id).unwrapped
    reference.reset(seed=0)
    reference.state = np.array([-1.19, -0.05])
    np.testing.assert_allclose(step.obs, reference.step(np.asarray(action))[0])
    np.testing.assert_allclose(step.obs, [-1.2, 0.0])


def test_pendulum_angle_stays_wrapped_over_many_turns():
    state, _ = Pendulum().reset(jax.random.key(0))
    state = state._replace(speed=jnp.float32(8.0))
    step = jax.jit(Pendulum().step)
    reference = gymnasium.make("Pendulum-v1").unwrapped
    reference.reset(seed=0)
    reference.state = np.array([state.angle, state.speed], np.float64)
    for _ in range(60):
        torque = np.array([2.0 if state.speed > 0 else -2.0], np.float32)
        state, result = step(state, torque)
        obs, reward, *_ = reference.step(torque)
        assert -np.pi <= state.angle <= np.pi
        np.testing.assert_allclose(result.obs, obs, atol=5e-4)
        np.testing.assert_allclose(result.reward, reward, atol=5e-3)
    assert abs(reference.state[0]) > 4 * np.pi


@pytest.mark.parametrize("env", ALL)
def test_first_states_follow_the_same_distribution(env):
    reference = gymnasium.make(env.spec.id).unwrapped
    theirs = np.array([reference.reset(seed=seed)[0] for seed in range(1500)])
    ours = np.asarray(BatchEnv(env).reset(jax.random.split(jax.random.key(0), 1500))[1])
    for column in range(ours.shape[1]):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
        np.testing.assert_allclose(np.ptp(ours[:, column]), np.ptp(theirs[:, column]), rtol=0.01)


@pytest.mark.parametrize("env", ALL)
def test_spec_is_gymnasiums(env):
    reference = gymnasium.make(env.spec.id)
    assert env.spec.obs_shape == reference.observation_space.shape
    assert env.spec.obs_dtype == reference.observation_space.dtype.name
    assert env.spec.max_episode_steps == reference.spec.max_episode_steps
    if isinstance(env.spec.action, Discrete):
        assert env.spec.action.n == reference.action_space.n
    else:
        np.testing.assert_array_equal(env.spec.action.low, reference.action_space.low)
        np.testing.assert_array_equal(env.spec.action.high, reference.action_space.high)
