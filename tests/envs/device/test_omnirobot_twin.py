"""The Omnirobot in JAX against the host environment: states, rewards, flags, pictures and noise."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import omnirobot_arena as arena
from envs.device.batch import BatchEnv
from envs.device.omnirobot import OmniRobotState, OmniRobotTwin, _pixel_noise
from envs.host.omnirobot import OmniRobotEnv
from envs.types import Box, Discrete, Spec

EPISODES = 4  # of 251 steps


def situation(twin: OmniRobotTwin, robot, target, sizes=(1.0, 1.0), seed=0) -> OmniRobotState:
    """The twin's state at the start of an episode."""
    robot, target, sizes = (jnp.array(value, jnp.float32) for value in (robot, target, sizes))
    return twin.situation(robot, target, jnp.float32(0.0), sizes, jax.random.key(seed))


def play_host(env: OmniRobotEnv, robot, target, actions) -> tuple[np.ndarray, ...]:
    """Observations, rewards and flags of the host environment from a situation on."""
    env.reset(seed=0, options={"robot": robot, "target": target})
    steps = [env.step(action)[:4] for action in actions]
    return tuple(np.array(column) for column in zip(*steps, strict=True))


@pytest.mark.parametrize(
    ("is_discrete", "random_target", "shape_reward"), list(itertools.product((True, False), repeat=3))
)
def test_a_thousand_random_steps_agree(is_discrete, random_target, shape_reward) -> None:
    options = {"is_discrete": is_discrete, "random_target": random_target, "shape_reward": shape_reward, "noise": False}
    host, twin = OmniRobotEnv(**options), OmniRobotTwin(**options)
    play = jax.jit(lambda state, actions: jax.lax.scan(twin.step, state, actions)[1])
    rng = np.random.default_rng(3)
    rewards = []
    for _ in range(EPISODES):
        robot = np.clip(rng.uniform(-1.1, 1.1, 2), -0.84, 0.84).astype(np.float32)
        target = (0.5, -0.3)
        if random_target:
            target = np.clip(robot + rng.uniform(-0.4, 0.4, 2), -0.7, 0.7).astype(np.float32)
        actions = rng.integers(4, size=251) if is_discrete else rng.uniform(-1.3, 1.3, (251, 2)).astype(np.float32)
        obs, reward, terminated, truncated = play_host(host, robot, target, actions)
        ours = play(situation(twin, robot, target), jnp.asarray(actions))
        # Both add in float32 and in the same order: the states are not merely close.
        np.testing.assert_array_equal(ours.obs, obs)
        np.testing.assert_array_equal(ours.terminated, terminated)
        np.testing.assert_array_equal(ours.truncated, truncated)
        if shape_reward:
            np.testing.assert_allclose(ours.reward, reward, rtol=1e-6)
        else:
            np.testing.assert_array_equal(ours.reward, reward)
        rewards.append(reward)
    if not shape_reward:
        assert {-1.0, 0.0} <= set(np.concatenate(rewards)), "walls were met"
        assert not random_target or 1.0 in np.concatenate(rewards)


def test_rewards_agree_on_the_edge_of_the_target() -> None:
    host, twin = OmniRobotEnv(noise=False), OmniRobotTwin(noise=False)
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 400)
    targets = rng.uniform(-0.4, 0.4, (400, 2)).astype(np.float32)
    # One step to +x brings the robot to a distance of 0.2 m, give or take a few units of float32's last place.
    robots = (targets + 0.2 * np.stack([np.cos(angles), np.sin(angles)], 1) - (0.1, 0.0)).astype(np.float32)
    starts = jax.vmap(lambda robot, target: situation(twin, robot, target))(robots, targets)
    _, ours = jax.jit(jax.vmap(twin.step))(starts, jnp.zeros(400, jnp.int32))
    theirs = [play_host(host, robots[i], targets[i], [0])[1][0] for i in range(400)]
    np.testing.assert_array_equal(ours.reward, theirs)
    assert 100 < sum(theirs) < 300


def test_an_action_that_is_not_a_number_moves_neither() -> None:
    host, twin = (cls(is_discrete=False, noise=False) for cls in (OmniRobotEnv, OmniRobotTwin))
    action = np.array([np.nan, 0.5], np.float32)
    obs, reward, _, _ = play_host(host, (0.0, 0.0), (0.5, 0.5), [action])
    _, ours = jax.jit(twin.step)(situation(twin, (0.0, 0.0), (0.5, 0.5)), action)
    np.testing.assert_array_equal(ours.obs, obs[0])
    assert ours.reward == reward[0] == -1


@pytest.mark.parametrize("size", [64, 224])
def test_pictures_without_noise_agree(size) -> None:
    options = {"srl_model": "raw_pixels", "image_size": size, "noise": False}
    host, twin = OmniRobotEnv(**options), OmniRobotTwin(**options)
    assert twin.spec.obs_shape == host.observation_space.shape
    step = jax.jit(twin.step)
    rng = np.random.default_rng(size)
    for robot, target in [((0.05, 0.0), (0.1, 0.1)), *rng.uniform(-0.7, 0.7, (5, 2, 2)).astype(np.float32)]:
        theirs, _ = host.reset(seed=0, options={"robot": robot, "target": target})
        state = situation(twin, robot, target)
        for action in (0, 2):
            theirs = host.step(action)[0]
            state, ours = step(state, jnp.int32(action))
            difference = np.abs(np.asarray(ours.obs).astype(int) - theirs)
            assert difference.mean() < 0.02 and difference.max() <= 2


def test_noise_is_that_of_the_host() -> None:
    twin = OmniRobotTwin()
    state, _ = jax.vmap(twin.reset)(jax.random.split(jax.random.key(0), 2000))
    state = state._replace(command=jnp.zeros((2000, 2)), robot=jnp.zeros((2000, 2)))
    step = jax.jit(jax.vmap(twin.step))
    forth, _ = step(state, jnp.zeros(2000, jnp.int32))
    back, _ = step(forth, jnp.ones(2000, jnp.int32))
    np.testing.assert_allclose(back.command, 0.0, atol=1e-6)
    for moved, x in ((forth, 0.1), (back, 0.0)):
        np.testing.assert_allclose(moved.robot.mean(0), (x, 0.0), atol=0.001)
        np.testing.assert_allclose(moved.robot.std(0), 0.01, rtol=0.06)
        assert np.rad2deg(moved.robot_pose[:, 0].std()) == pytest.approx(2.5, rel=0.06)
    drawn = np.concatenate([forth.robot, back.robot, forth.robot_pose[:, :1], back.robot_pose[:, :1]], axis=1)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.1, "drawn anew after every move"
    np.testing.assert_array_equal(state.robot_pose[:, 1], back.robot_pose[:, 1])
    np.testing.assert_allclose([state.robot_pose[:, 1].std(), state.target_pose[:, 1].std()], 0.05, rtol=0.1)


def test_an_undone_move_leaves_the_noise_as_it_was() -> None:
    twin = OmniRobotTwin()
    before = situation(twin, (0.84, 0.0), (0.0, 0.0))
    after, step = jax.jit(twin.step)(before, jnp.int32(0))
    assert step.reward == -1 and after.steps == 1
    np.testing.assert_array_equal(after.robot, before.robot)
    np.testing.assert_array_equal(after.robot_pose, before.robot_pose)


def statistics(frames: np.ndarray) -> np.ndarray:
    """Mean and spread of the floor's colour and of the pixels of both markers, over frames [n, size, size, 3]."""
    floor, spread = frames[:, 5:15, 5:15].mean((1, 2)), frames.astype(float).std(0)
    return np.concatenate([floor.mean(0), floor.std(0), [spread[16:20, 30:35].mean(), spread[40:46, 20:26].mean()]])


def test_pictures_are_as_noisy_as_those_of_the_host() -> None:
    options = {"srl_model": "raw_pixels", "image_size": 64, "is_discrete": False}
    host, twin = OmniRobotEnv(**options), OmniRobotTwin(**options)
    still, robot, target = np.zeros(2, np.float32), (0.0, -0.6), (0.4, 0.45)
    theirs = []
    for episode in range(60):
        host.reset(seed=episode, options={"robot": robot, "target": target})
        theirs += [host.step(still)[0] for _ in range(6)]
    sizes = 1 + 0.05 * jax.random.normal(jax.random.key(1), (60, 2))
    starts = jax.vmap(lambda i: situation(twin, robot, target, sizes=sizes[i], seed=i))(jnp.arange(60))
    actions = jnp.zeros((6, 60, 2))
    _, ours = jax.jit(lambda s: jax.lax.scan(jax.vmap(twin.step), s, actions))(starts)
    ours, theirs = (statistics(np.asarray(f).reshape(-1, 64, 64, 3)) for f in (ours.obs, np.array(theirs)))
    np.testing.assert_allclose(ours[:3], theirs[:3], atol=1.2)
    np.testing.assert_allclose(ours[3:], theirs[3:], rtol=0.25)


def test_an_episode_keeps_its_target_and_every_step_has_its_own_picture() -> None:
    twin = OmniRobotTwin(srl_model="raw_pixels", image_size=48, random_target=True)
    state, obs = jax.jit(twin.reset)(jax.random.key(0))
    observe = jax.jit(twin.observe)
    np.testing.assert_array_equal(obs, observe(state))
    later, step = jax.jit(twin.step)(state, jnp.int32(0))
    np.testing.assert_array_equal(later.target_pose, state.target_pose)
    assert np.abs(np.asarray(step.obs).astype(int) - obs).mean() > 0.3
    np.testing.assert_array_equal(step.obs, observe(later))


def test_pixel_noise_has_the_standard_deviation_of_the_simulator() -> None:
    noise = np.asarray(_pixel_noise(jax.random.key(0), (100, 100, 3)))
    assert np.all(noise == np.round(noise))
    assert noise.std() == pytest.approx(arena.MARKER_PIXEL_NOISE, rel=0.02) and abs(noise.mean()) < 0.03


def test_pictures_of_a_batch_are_those_of_its_members() -> None:
    twin = OmniRobotTwin(srl_model="raw_pixels", image_size=48)
    states, batch = jax.jit(jax.vmap(twin.reset))(jax.random.split(jax.random.key(0), 5))
    observe = jax.jit(twin.observe)
    for i in range(5):
        alone = np.asarray(observe(jax.tree.map(lambda leaf, i=i: leaf[i], states)))
        assert np.abs(alone.astype(int) - batch[i]).max() <= 1


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({}, Spec("OmnirobotEnv-v0", (2,), "float32", Discrete(4), 251)),
        ({"is_discrete": False}, Spec("OmnirobotEnv-v0", (2,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), 251)),
        (
            {"srl_model": "raw_pixels", "image_size": 20, "noise": False},
            Spec("OmnirobotEnv-v0", (20, 20, 3), "uint8", Discrete(4), 251),
        ),
        ({"srl_model": "raw_pixels"}, Spec("OmnirobotEnv-v0", (224, 224, 3), "uint8", Discrete(4), 251)),
    ],
)
def test_spec_is_what_reset_and_step_return(options, spec) -> None:
    twin = OmniRobotTwin(**options)
    assert twin.spec == spec
    state, obs = jax.eval_shape(twin.reset, jax.random.key(0))
    action = jnp.zeros(spec.action_shape, spec.action_dtype)
    after, step = jax.eval_shape(twin.step, state, action)
    assert (obs.shape, obs.dtype.name) == (step.obs.shape, step.obs.dtype.name) == (spec.obs_shape, spec.obs_dtype)
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (jnp.float32, bool, bool)
    kinds = [[(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)] for tree in (state, after)]
    assert kinds[0] == kinds[1], "another type would make a second program of the second step"


def test_starts_cover_the_ranges_and_depend_on_the_key_alone() -> None:
    twin = OmniRobotTwin(random_target=True)
    keys = jax.random.split(jax.random.key(0), 2000)
    states, _ = jax.jit(jax.vmap(twin.reset))(keys)
    again, _ = jax.jit(jax.vmap(twin.reset))(keys)
    drawn = np.concatenate([states.command, states.target], axis=1)
    np.testing.assert_array_equal(states.robot, again.robot)
    np.testing.assert_array_equal(states.target, again.target)
    np.testing.assert_allclose(drawn.min(0), -0.7, atol=0.01)
    np.testing.assert_allclose(drawn.max(0), 0.7, atol=0.01)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.1, "robot and target are drawn independently"
    np.testing.assert_allclose(
        [states.target_pose[:, 0].min(), states.target_pose[:, 0].max()], (-np.pi, np.pi), atol=0.02
    )
    fixed, _ = jax.jit(jax.vmap(OmniRobotTwin().reset))(keys[:3])
    np.testing.assert_allclose(fixed.target, [(0.5, -0.3)] * 3, atol=1e-6)


def test_greedy_controller_earns_what_the_task_allows() -> None:
    env = BatchEnv(OmniRobotTwin(random_target=True))

    def body(carry, _):
        state, obs = carry
        axis = (jnp.abs(obs[:, 1]) > jnp.abs(obs[:, 0])).astype(jnp.int32)
        offset = jnp.take_along_axis(obs, axis[:, None], axis=1)[:, 0]
        state, step = env.step(state, 2 * axis + (offset > 0))
        return (state, step.obs), (step.reward, step.truncated)

    start = env.reset(jax.random.split(jax.random.key(1), 500))
    _, (reward, truncated) = jax.jit(lambda s: jax.lax.scan(body, s, length=251))(start)
    assert np.all(truncated[-1]) and not np.any(truncated[:-1])
    assert reward.sum(axis=0).mean() == pytest.approx(244.8, abs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"srl_model": "joints"}, "unknown srl_model 'joints': choose one of ground_truth, raw_pixels"),
        ({"action_repeat": 4}, "action_repeat is 4"),
        ({"image_size": -1}, "image_size is -1"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        OmniRobotTwin(**options)
