"""KukaButtonGymEnv: dynamics measured on the original, rewards, terminations, determinism, controllers."""

from __future__ import annotations

import numpy as np
import pybullet as p
import pytest

from benchmarks import greedy
from envs.host import kuka, kuka_button
from envs.host.kuka_button import BUTTON_LINK, KukaButtonGymEnv

JOINTS = {"is_discrete": False, "action_joints": True}
DOWN = 4


@pytest.fixture
def make():
    """Builds environments and closes them after the test."""
    made = []

    def build(cls=KukaButtonGymEnv, **options):
        made.append(cls(**options))
        return made[-1]

    yield build
    for env in made:
        env.close()


def down_action(env):
    """The action that lowers the arm as fast as it can."""
    return DOWN if env.is_discrete else np.array([0, 0, -1], np.float32)


def play(env, policy, seed=None):
    """One episode: observations [T + 1, ...], rewards [T] and the two final flags."""
    obs, rewards = [env.reset(seed=seed)[0]], []
    terminated = truncated = False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(policy(env))
        obs.append(observation)
        rewards.append(reward)
    return np.array(obs), np.array(rewards), terminated, truncated


def random_then_down(seed, steps):
    """A policy with its own generator: random actions for some steps, then straight down."""
    rng = np.random.default_rng(seed)
    count = iter(range(10_000))

    def policy(env):
        if next(count) >= steps and not env.action_joints:
            return down_action(env)
        return rng.integers(6) if env.is_discrete else rng.uniform(-1, 1, env.action_space.shape)

    return policy


def far_target_seed(env):
    """A seed that puts the button where an arm that goes straight down misses it."""
    return next(seed for seed in range(100) if env.reset(seed=seed) and env.getTargetPos()[1] > 0.2)


# The scene, against figures measured on the original


def test_settled_scene(make):
    env = make()
    env._build()
    client, arm, button = env._client, env._arm.body, env._button
    np.testing.assert_allclose(env._arm.finger_position(), (0.539, 0.024, 0.371), atol=1e-3)
    tip = p.getLinkState(arm, 10, physicsClientId=client)[0]
    np.testing.assert_allclose(tip, (0.557, 0.024, 0.245), atol=1e-3)
    lowest = min(p.getAABB(arm, link, physicsClientId=client)[0][2] for link in range(8, 14))
    assert lowest == pytest.approx(0.214, abs=0.02)
    base, _ = p.getBasePositionAndOrientation(button, physicsClientId=client)
    np.testing.assert_allclose(base, (0.5, 0, -0.194), atol=5e-4)
    assert p.getLinkState(button, BUTTON_LINK, physicsClientId=client)[0][2] == pytest.approx(-0.189, abs=5e-4)


def test_start_of_an_episode(make):
    env = make()
    distances = [np.linalg.norm(env.reset(seed=seed)[0]) for seed in range(10)]
    np.testing.assert_allclose(env.getTargetPos(), (0.5, 0, 0.091), atol=1e-3)
    np.testing.assert_allclose(distances, 0.284, atol=5e-3)
    np.testing.assert_allclose(env.getSRLState(), env.getGroundTruth() - env.getTargetPos(), atol=1e-6)


def test_holding_down(make):
    class StillStart(KukaButtonGymEnv):
        N_RANDOM_ACTIONS_AT_INIT = 0

    env = make(StillStart)
    obs, rewards, terminated, truncated = play(env, down_action, seed=0)
    contacts = np.flatnonzero(rewards) + 1
    assert terminated and not truncated
    assert rewards.sum() == len(contacts) == 5
    assert contacts[0] == pytest.approx(300, abs=5)
    assert contacts[-1] - contacts[0] == pytest.approx(4, abs=2)
    height = obs[:, 2] + env.getTargetPos()[2]
    np.testing.assert_allclose(height[contacts], -0.003, atol=6e-3)
    fall = height - height[0]
    np.testing.assert_allclose(fall[[10, 50, 100, 200]], [-0.008, -0.063, -0.131, -0.262], atol=2e-3)


def test_holding_down_continuous(make):
    obs, rewards, terminated, truncated = play(make(is_discrete=False), down_action, seed=0)
    assert terminated and not truncated
    assert rewards.sum() == 5
    assert 0.0011 < (obs[50, 2] - obs[250, 2]) / 200 < 0.0015


def test_table_ends_the_episode(make):
    env = make(random_target=True)
    _, rewards, terminated, truncated = play(env, down_action, seed=far_target_seed(env))
    assert terminated and not truncated
    assert rewards[-1] == -1 and not rewards[:-1].any()
    assert env.getGroundTruth()[2] == pytest.approx(-0.046, abs=0.01)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("simple_button", (0.2, 0.2, 0.035)),
        ("simple_button_2", (0.2, 0.2, 0.035)),
        ("cylinder", (0.36, 0.36, 0.03)),
        ("wall", (4, 0.1, 0.1)),
        ("wall_target", (4, 0.5, 0.1)),
    ],
)
def test_assets_have_their_size(name, size):
    client = p.connect(p.DIRECT)
    body = p.loadURDF(str(kuka_button.ASSETS / f"{name}.urdf"), physicsClientId=client)
    boxes = np.array([p.getAABB(body, i, physicsClientId=client) for i in range(-1, p.getNumJoints(body, client))])
    colours = [shape[7] for shape in p.getVisualShapeData(body, physicsClientId=client)]
    p.disconnect(client)
    # The boxes of cylinders reach 3 mm over the body on each side.
    np.testing.assert_allclose(boxes[:, 1].max(0) - boxes[:, 0].min(0), size, atol=6.5e-3)
    expected = {"simple_button": (1, 1, 0), "simple_button_2": (0.2, 0.6, 0.38), "cylinder": (1, 1, 0)}
    np.testing.assert_allclose(colours[-1][:3], expected.get(name, (0, 0, 0)), atol=1e-6)


# Rewards, terminations and the time limit


@pytest.mark.parametrize("random_target", [False, True])
def test_reward_counts_the_contacts_of_cap_and_table(make, random_target):
    """The one contact query agrees with separate queries for each pair of bodies."""
    env = make(random_target=random_target)
    env.reset(seed=far_target_seed(env) if random_target else 0)
    terminated, contacts = False, 0
    while not terminated:
        _, reward, terminated, _, _ = env.step(DOWN)
        client, arm = env._client, env._arm.body
        on_button = bool(p.getContactPoints(env._button, arm, BUTTON_LINK, physicsClientId=client))
        on_table = bool(p.getContactPoints(env._table, arm, physicsClientId=client))
        contacts += on_button
        assert reward == (-1 if on_table else int(on_button))
        assert terminated == (on_table or contacts == 5)
    assert on_table == random_target


@pytest.mark.parametrize("is_discrete", [True, False])
def test_shaped_reward(make, is_discrete):
    env = make(shape_reward=True, is_discrete=is_discrete)
    obs, rewards, terminated, _ = play(env, down_action, seed=0)
    distance = np.linalg.norm(obs[1:], axis=1)
    assert terminated
    np.testing.assert_allclose(rewards[:-1], -distance[:-1], atol=1e-6)
    assert rewards[-1] == (pytest.approx(-distance[-1], abs=1e-6) if is_discrete else 50)


@pytest.mark.parametrize("is_discrete", [True, False])
def test_shaped_reward_of_touching_the_table(make, is_discrete):
    env = make(shape_reward=True, is_discrete=is_discrete, random_target=True)
    obs, rewards, terminated, _ = play(env, down_action, seed=far_target_seed(env))
    assert terminated
    assert rewards[-1] == (pytest.approx(-np.linalg.norm(obs[-1]), abs=1e-6) if is_discrete else -250)


def test_outside_the_safety_sphere(make):
    class ThreeStepsOutside(KukaButtonGymEnv):
        N_STEPS_OUTSIDE_SAFETY_SPHERE = 3

    env = make(ThreeStepsOutside, max_distance=0.1, is_discrete=False)
    env.reset(seed=0)
    results = [env.step(np.zeros(3))[1:4] for _ in range(3)]
    assert results == [(-1, False, False), (-1, False, False), (-1, True, False)]


def test_safety_sphere_allows_a_return(make):
    """-1 outside the sphere, 0 inside; leaving it does not end an episode."""
    env = make(max_distance=0.25)
    obs, rewards, terminated, _ = play(env, down_action, seed=0)
    outside = np.linalg.norm(obs[1:], axis=1) > 0.25
    assert outside[0] and not outside[100]
    assert terminated and (rewards[outside] == -1).all() and (rewards[~outside] >= 0).all()


@pytest.mark.parametrize(("action_repeat", "steps"), [(1, 1001), (4, 251)])
def test_time_limit_truncates(make, action_repeat, steps):
    env = make(is_discrete=False, action_repeat=action_repeat)
    _, rewards, terminated, truncated = play(env, lambda _: np.zeros(3))
    assert truncated and not terminated
    assert len(rewards) == steps == env.max_episode_steps
    assert not rewards.any()


# Actions


@pytest.mark.parametrize("force_down", [True, False])
def test_discrete_actions_move_the_arm(make, force_down):
    env = make(force_down=force_down)
    ends = []
    for action in range(6):
        env.reset(seed=0)
        for _ in range(20 if action >= DOWN else 0):
            env.step(DOWN)
        for _ in range(80):
            env.step(action)
        ends.append(env.getGroundTruth())
    for axis in range(2):
        moved = ends[2 * axis + 1] - ends[2 * axis]
        assert moved[axis] > 0.04 and np.abs(np.delete(moved, axis)).max() < 0.03
    assert ends[0][2] - ends[4][2] > 0.1
    if force_down:
        np.testing.assert_allclose(ends[5], ends[4], atol=0.01)
    else:
        np.testing.assert_allclose(ends[5][2], ends[0][2], atol=0.02)


def test_size_and_noise_of_commands(make):
    env = make()
    env.reset(seed=0)
    sizes = np.array([env._command(1) for _ in range(4000)])
    assert not sizes[:, 1:].any()
    assert sizes[:, 0].mean() == pytest.approx(0.03, abs=6e-4)
    assert sizes[:, 0].std() == pytest.approx(0.01, rel=0.05)
    env = make(is_discrete=False)
    env.reset(seed=0)
    action = np.array([2.0, -0.5, 1.0])
    sizes = np.array([env._command(action) for _ in range(4000)])
    np.testing.assert_allclose(sizes.mean(0), [0.007, -0.00175, -0.0035], rtol=2e-3)
    np.testing.assert_allclose(sizes.std(0), np.abs(action) * 1e-4, rtol=0.05)
    env = make(is_discrete=False, force_down=False)
    env.reset(seed=0)
    assert env._command(action)[2] > 0
    env = make(**JOINTS)
    env.reset(seed=0)
    sizes = np.array([env._command(np.full(7, -1.0)) for _ in range(4000)])
    np.testing.assert_allclose(sizes.mean(0), -0.1, rtol=2e-3)
    np.testing.assert_allclose(sizes.std(0), 0.002, rtol=0.05)


@pytest.mark.parametrize("options", [{"is_discrete": False}, JOINTS])
def test_an_action_that_is_not_finite_is_refused(make, options):
    env = make(**options)
    first, _ = env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    action[-1] = np.nan
    with pytest.raises(ValueError, match="is not finite"):
        env.step(action)
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)


def test_workspace_bounds_the_commanded_point(make):
    for random_target, bounds in ((False, (0.65, 0.22)), (True, (0.65, 0.30))):
        env = make(random_target=random_target)
        env.reset(seed=0)
        for action in [1] * 30 + [3] * 30:
            env.step(action)
        assert env._arm.point[:2] == bounds


def test_action_repeat_is_that_many_simulation_steps(make):
    once, four = make(is_discrete=False), make(is_discrete=False, action_repeat=4)
    first, _ = once.reset(seed=0)
    np.testing.assert_array_equal(four.reset(seed=0)[0], first)
    action = np.array([0, 0, -1.0])
    for _ in range(20):
        repeated = four.step(action)[0]
    for _ in range(80):
        single = once.step(action)[0]
    # The noise differs: one draw for four steps.
    np.testing.assert_allclose(repeated, single, atol=2e-3)
    assert first[2] - single[2] > 0.08


def test_joint_commands_start_from_the_present_angles(make):
    """Two seconds of one command turn a joint much further than 0.1 rad, at 0.35 rad/s."""
    env = make(**JOINTS, srl_model="joints")
    start, _ = env.reset(seed=0)
    action = np.zeros(7)
    action[0] = 1
    for _ in range(480):
        obs = env.step(action)[0]
    assert obs[0] - start[0] == pytest.approx(0.7, abs=0.02)
    assert np.abs(obs[1:7] - start[1:7]).max() < 0.05


# Randomness


def test_random_target(make):
    env = make(random_target=True)
    targets = np.array([(env.reset(seed=s), env.getTargetPos())[1] for s in range(60)])
    assert (np.abs(targets[:, 0] - 0.5) <= 0.151).all() and np.ptp(targets[:, 0]) > 0.25
    assert (np.abs(targets[:, 1]) <= 0.301).all() and np.ptp(targets[:, 1]) > 0.5
    np.testing.assert_allclose(targets[:, 2], 0.091, atol=1e-3)
    # It lies flat and still on the table.
    (_, _, z), orientation = p.getBasePositionAndOrientation(env._button, physicsClientId=env._client)
    assert z == pytest.approx(-0.194, abs=3e-4)
    assert np.abs(orientation[:3]).max() < 1e-3


def test_first_commands_go_in_any_direction(make):
    """The original's continuous first commands all went to +x, +y, +z, and its joints all moved alike."""
    env = make(is_discrete=False)
    points = np.array([(env.reset(seed=s), env._arm.point)[1] for s in range(60)]) - kuka.INITIAL_POINT
    assert (points[:, :2] > 0).mean(0) == pytest.approx([0.5, 0.5], abs=0.2)
    assert np.linalg.norm(points, axis=1).max() <= 5 * 0.0035 + 1e-9
    assert (points[:, 2] < 0).any() and points[:, 2].max() <= 0
    env = make(**JOINTS, srl_model="joints")
    joints = np.array([env.reset(seed=s)[0][:7] for s in range(60)]) - kuka.INITIAL_JOINTS[:7]
    assert np.abs(np.corrcoef(joints.T) - np.eye(7)).max() < 0.6
    assert (joints > 0).mean() == pytest.approx(0.5, abs=0.15)


OPTIONS = [
    {},
    {"is_discrete": False, "srl_model": "joints_position"},
    {"random_target": True},
    {**JOINTS, "random_target": True, "srl_model": "joints"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_same_seed_same_episode(make, options):
    """Bit-equal: after other episodes in the same environment, and in another one."""
    env, other = make(**options), make(**options)
    obs, rewards, _, _ = play(env, random_then_down(0, 60), seed=7)
    for seed in range(2):
        play(env, random_then_down(seed, 30), seed=seed)
    play(other, random_then_down(5, 10), seed=9)
    for again in (env, other):
        obs_again, rewards_again, _, _ = play(again, random_then_down(0, 60), seed=7)
        np.testing.assert_array_equal(obs_again, obs)
        np.testing.assert_array_equal(rewards_again, rewards)


def test_seeds_and_episodes_differ(make):
    env = make(random_target=True)
    first = [env.reset(seed=0)[0], env.reset()[0], env.reset(seed=1)[0]]
    assert len({tuple(obs) for obs in first}) == 3
    np.testing.assert_array_equal(env.reset(seed=0)[0], first[0])
    np.testing.assert_array_equal(env.reset()[0], first[1])


def test_environments_do_not_share_a_simulation(make):
    one, two = make(), make()
    one.reset(seed=0)
    two.reset(seed=0)
    before = p.getJointStates(two._arm.body, range(14), physicsClientId=two._client)
    for _ in range(20):
        one.step(DOWN)
    assert p.getJointStates(two._arm.body, range(14), physicsClientId=two._client) == before


# The task can be solved: scripted controllers press the button five times


@pytest.mark.parametrize("random_target", [False, True])
@pytest.mark.parametrize("options", [{}, {"is_discrete": False}, JOINTS])
def test_scripted_controllers_reach_the_optimum(make, options, random_target):
    env = make(random_target=random_target, **options)
    returns, _ = greedy.play(env, greedy.controller_for(env), episodes=3)
    np.testing.assert_array_equal(returns, 5)
