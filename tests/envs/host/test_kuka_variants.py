"""The variants of the PyBullet arm task: two buttons, a moving button, other objects on the table."""

from __future__ import annotations

import inspect

import gymnasium as gym
import numpy as np
import pybullet as p
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks.greedy import controller_for, play
from envs import kuka_scene as scene
from envs.host.kuka_button import BUTTON_LINK, KukaButtonGymEnv
from envs.host.kuka_variants import Kuka2ButtonGymEnv
from envs.registry import registered_env, resolve
from launch.runtime.errors import UsageError
from launch.runtime.flags import parse_train_args

RAND, TWO, MOVING = (f"Kuka{kind}ButtonGymEnv-v0" for kind in ("Rand", "2", "Moving"))
ALL = [RAND, TWO, MOVING]
CONTINUOUS = {"is_discrete": False}
JOINTS = {"is_discrete": False, "action_joints": True}
DOWN, UP = 4, 5


@pytest.fixture
def make():
    """Build environments by id that are closed when the test ends; `attributes` replace those of the class."""
    opened = []

    def build(env_id, attributes=None, **options):
        cls = resolve(registered_env[env_id][0])
        opened.append(type(cls.__name__, (cls,), attributes or {})(**options))
        return opened[-1]

    yield build
    for env in opened:
        env.close()


def idle(env):
    """An action that leaves the commanded point where it is (continuous)."""
    return np.zeros(env.action_space.shape, np.float32)


def put_arm_over(env, x, y, height=0.25):
    """Bring the finger above a point of the table, at a height of the effector point [m], with real motors."""
    env._arm.point = (x, y - 0.024, height)
    for _ in range(600):
        env._arm.move_point(0.0, 0.0, 0.0)
        p.stepSimulation(physicsClientId=env._client)


def bodies(env):
    """Positions of all bodies of the scene."""
    count = p.getNumBodies(physicsClientId=env._client)
    return np.array([p.getBasePositionAndOrientation(i, physicsClientId=env._client)[0] for i in range(count)])


# Spaces, options, registration


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize(
    "options",
    [
        {"random_target": True, "shape_reward": True},
        {**CONTINUOUS, "srl_model": "joints_position", "random_target": True},
        {**JOINTS, "srl_model": "joints", "action_repeat": 2},
        {"srl_model": "raw_pixels", "image_size": 24, "multi_view": True},
    ],
)
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is -?infinity")
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
@pytest.mark.filterwarnings("ignore:.*For Box action spaces")
@pytest.mark.filterwarnings("error")
def test_gymnasium_checker_accepts_it(make, monkeypatch, env_id, options) -> None:
    monkeypatch.setattr(scene, "SETTLING_STEPS", 10)  # it resets often, and does not look at where objects lie
    env = make(env_id, render_mode="rgb_array", **options)
    check_env(env)
    shapes = {"ground_truth": (3,), "joints": (14,), "joints_position": (17,), "raw_pixels": (24, 24, 6)}
    assert env.reset(seed=0)[0].shape == shapes[env.srl_model] == env.observation_space.shape
    actions = gym.spaces.Discrete(6) if env.is_discrete else gym.spaces.Box(-1, 1, (7 if env.action_joints else 3,))
    assert env.action_space == actions


@pytest.mark.parametrize(
    ("env_id", "length", "max_distance", "force_down"),
    [(RAND, 1001, 0.8, True), (TWO, 1501, 2.0, False), (MOVING, 1501, 0.8, True)],
)
def test_defaults_and_time_limit(make, env_id, length, max_distance, force_down) -> None:
    env = make(env_id, **CONTINUOUS, max_distance=10.0)
    defaults = make(env_id)
    assert (defaults.max_distance, defaults.force_down) == (max_distance, force_down)
    assert make(env_id, action_repeat=4).max_episode_steps == (length - 1) // 4 + 1
    env.reset(seed=0)
    ends = [env.step(idle(env))[2:4] for _ in range(length)]
    assert ends[-1] == (False, True) and set(ends[:-1]) == {(False, False)}
    assert env.max_episode_steps == length


@pytest.mark.parametrize("env_id", ALL)
def test_options_of_the_base_task(make, env_id) -> None:
    names = list(inspect.signature(KukaButtonGymEnv).parameters)
    assert list(inspect.signature(resolve(registered_env[env_id][0])).parameters) == names
    for options, message in (
        ({"action_joints": True}, "is_discrete=False"),
        ({"srl_model": "pixels"}, "raw_pixels"),
        ({"action_repeat": 0}, "action_repeat is 0"),
        ({"max_distance": -1.0}, "max_distance is -1.0"),
        ({"image_size": 0}, "image_size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(env_id, **options)


@pytest.mark.parametrize("env_id", ALL)
def test_command_line_knows_its_options(env_id) -> None:
    args = parse_train_args(f"--env {env_id} --algo ppo2 -c -joints --random-target --shape-reward --no-vis".split())
    assert args.env == env_id
    with pytest.raises(UsageError, match="--fpv has no meaning"):
        parse_train_args(f"--env {env_id} --algo ppo2 --srl-model raw_pixels --fpv --no-vis".split())


# Randomness


def episode(env, seed, steps, actions=0):
    """One episode of random actions, then down: observations, rewards and the places of all bodies."""
    rng = np.random.default_rng(actions)
    record = [env.reset(seed=seed)[0]]
    for count in range(steps):
        random = env.action_space.sample() if env.action_joints else rng.integers(6)
        action = random if count < 60 or env.action_joints else DOWN
        obs, reward, terminated, _, _ = env.step(action)
        record += [obs, np.array([reward]), bodies(env).ravel()]
        if terminated:
            break
    return np.concatenate(record)


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize("random_target", [False, True])
def test_same_seed_same_episode(make, env_id, random_target) -> None:
    """Bit-equal, with every body: after other episodes in the same environment, and in another one."""
    env, other = make(env_id, random_target=random_target), make(env_id, random_target=random_target)
    first = episode(env, 7, 400)
    episode(env, 3, 350, actions=1)
    episode(env, 4, 20, actions=2)
    episode(other, 9, 330, actions=3)
    for again in (env, other):
        np.testing.assert_array_equal(episode(again, 7, 400), first)
    assert not np.array_equal(episode(env, 8, 400)[:3], first[:3])


# Two buttons


def test_buttons_are_pressed_in_order(make) -> None:
    """Contacts with the first button pay nothing, the target moves on at the fifth, the second ends the task."""
    env = make(TWO)
    env.reset(seed=0)
    np.testing.assert_allclose(env.getTargetPos(), (0.5, 0.125, 0.08))
    control = controller_for(env)
    targets, rewards, contacts, terminated = [], [], [], False
    while not terminated:
        before = env.getTargetPos()
        obs, reward, terminated, truncated, _ = env.step(control(env))
        touched = [
            bool(p.getContactPoints(env._arm.body, button, physicsClientId=env._client)) for button in env._buttons
        ]
        targets.append(before[1])
        rewards.append(reward)
        contacts.append(touched)
        assert not truncated
        np.testing.assert_allclose(obs, env.getGroundTruth() - env.getTargetPos(), atol=1e-6)
    targets, rewards, contacts = np.array(targets), np.array(rewards), np.array(contacts)
    first = targets == 0.125
    assert set(targets) == {0.125, -0.125} and (np.diff(first.astype(int)) <= 0).all()
    assert contacts[first, 0].sum() == 5 and contacts[first][-1, 0]
    np.testing.assert_array_equal(rewards, np.where(first, 0, contacts[:, 1]))
    assert rewards.sum() == 5


def test_the_second_button_counts_only_after_the_first(make) -> None:
    env = make(TWO, force_down=True)
    env.reset(seed=0)
    put_arm_over(env, *scene.TWO_BUTTON_POSITIONS[1])
    touched = 0
    for _ in range(150):
        _, reward, terminated, _, _ = env.step(DOWN)
        touched += bool(p.getContactPoints(env._arm.body, env._buttons[1], physicsClientId=env._client))
        assert reward == 0 and not terminated
        if touched > 8:
            break
    assert touched > 8 and env.getTargetPos()[1] == 0.125


@pytest.mark.parametrize(("shape_reward", "expected"), [(False, -1), (True, 25)])
def test_any_part_of_a_button_counts_with_two(make, shape_reward, expected) -> None:
    """Beside the button the fingers touch its body and the table; shaped, the contact comes before the table."""
    env = make(TWO, **CONTINUOUS, shape_reward=shape_reward)
    env.reset(seed=0)
    x, y = scene.TWO_BUTTON_POSITIONS[0]
    put_arm_over(env, x + 0.2, y)
    put_arm_over(env, x + 0.2, y, height=0.07)
    _, reward, terminated, _, _ = env.step(idle(env))
    links = {contact[4] for contact in p.getContactPoints(env._arm.body, env._button, physicsClientId=env._client)}
    assert links and BUTTON_LINK not in links
    assert env._contacts == 1 and terminated and reward == expected


@pytest.mark.parametrize("options", [{}, CONTINUOUS])
def test_shaped_reward_of_two_buttons(make, options) -> None:
    env = make(TWO, shape_reward=True, **options)
    env.reset(seed=0)
    control, rewards, terminated = controller_for(env), [], False
    while not terminated:
        target = env.getTargetPos()
        _, reward, terminated, _, _ = env.step(control(env))
        rewards.append(reward)
        if reward < 0:
            assert reward == pytest.approx(-np.linalg.norm(env.getGroundTruth() - target), abs=1e-9)
    assert rewards.count(25) == 9 and rewards[-1] == 50 and rewards.count(50) == 1


@pytest.mark.parametrize("shape_reward", [False, True])
def test_table_and_sphere_with_two_buttons(make, shape_reward) -> None:
    env = make(TWO, shape_reward=shape_reward)
    env.reset(seed=0)
    put_arm_over(env, 0.62, 0.0)
    reward, terminated = 0.0, False
    while not terminated:
        reward, terminated = env.step(DOWN)[1:3]
    assert reward == (-250 if shape_reward else -1)
    env = make(TWO, {"N_STEPS_OUTSIDE_SAFETY_SPHERE": 3}, shape_reward=shape_reward, max_distance=0.1, **CONTINUOUS)
    env.reset(seed=0)
    outside = -20 if shape_reward else -1
    assert [env.step(idle(env))[1:3] for _ in range(3)] == [(outside, False), (outside, False), (outside, True)]
    assert Kuka2ButtonGymEnv.N_STEPS_OUTSIDE_SAFETY_SPHERE == 4999


def test_random_places_of_two_buttons(make) -> None:
    env = make(TWO, random_target=True)
    places = []
    for seed in range(40):
        env.reset(seed=seed)
        positions = bodies(env)[env._buttons]
        np.testing.assert_allclose(positions[0, :2], env.getTargetPos()[:2], atol=1e-3)
        np.testing.assert_allclose(positions[:, 2], -0.194, atol=1e-3)
        assert not p.getContactPoints(*env._buttons, physicsClientId=env._client)
        places.append(positions[:, :2])
    places = np.array(places)
    assert np.abs(places[..., 0] - 0.5).max() < 0.152 and (np.ptp(places[..., 0], axis=0) > 0.2).all()
    for index, (low, high) in enumerate(((0.124, 0.301), (-0.301, -0.124))):
        y = places[:, index, 1]
        assert low < y.min() < low + 0.05 and high - 0.05 < y.max() < high
    fixed = make(TWO)
    fixed.reset(seed=0)
    assert fixed._arm.workspace == scene.LARGE_WORKSPACE
    np.testing.assert_allclose(bodies(fixed)[fixed._buttons][:, :2], scene.TWO_BUTTON_POSITIONS, atol=1e-3)


def test_the_second_action_up_rises(make) -> None:
    env = make(TWO)
    env.reset(seed=0)
    for _ in range(60):
        env.step(DOWN)
    low = env.getGroundTruth()[2]
    for _ in range(60):
        env.step(UP)
    assert env.getGroundTruth()[2] > low + 0.03


# The moving button


def test_button_moves_and_turns_back(make) -> None:
    env = make(MOVING, **CONTINUOUS, max_distance=10.0)
    starts = set()
    for seed in range(8):
        env.reset(seed=seed)
        before = env.getTargetPos()
        env.step(idle(env))
        starts.add(round((env.getTargetPos() - before)[1], 9))
    assert starts == {-0.001, 0.001}
    env.reset(seed=0)
    targets, bases = [env.getTargetPos()], []
    for _ in range(1400):
        obs = env.step(idle(env))[0]
        targets.append(env.getTargetPos())
        bases.append(p.getBasePositionAndOrientation(env._button, physicsClientId=env._client)[0])
        np.testing.assert_allclose(obs, env.getGroundTruth() - targets[-1], atol=1e-6)
    targets, bases = np.array(targets), np.array(bases)
    steps = np.diff(targets[:, 1])
    np.testing.assert_allclose(np.abs(steps), 0.001, atol=1e-9)
    turns = np.flatnonzero(np.diff(np.sign(steps))) + 1
    assert len(turns) >= 2 and (np.abs(targets[turns, 1]) > 0.3).all() and np.abs(targets[:, 1]).max() < 0.3011
    assert (np.ptp(targets[:, [0, 2]], axis=0) == 0).all()
    np.testing.assert_allclose(bases[:, 1], targets[1:, 1], atol=2e-3)
    np.testing.assert_allclose(bases[:, 2], -0.194, atol=2e-3)  # it stays on the table


def test_button_moves_once_for_each_action(make) -> None:
    env = make(MOVING, action_repeat=5, **CONTINUOUS)
    env.reset(seed=0)
    before = env.getTargetPos()[1]
    for _ in range(10):
        env.step(idle(env))
    assert abs(env.getTargetPos()[1] - before) == pytest.approx(0.01)


@pytest.mark.parametrize("options", [{}, CONTINUOUS])
def test_shaped_reward_of_the_moving_button(make, options) -> None:
    env = make(MOVING, shape_reward=True, **options)
    env.reset(seed=0)
    control, terminated = controller_for(env), False
    while not terminated:
        _, reward, terminated, _, _ = env.step(control(env))
        assert terminated or reward == pytest.approx(-np.linalg.norm(env.getGroundTruth() - env.getTargetPos()))
    assert reward == 50
    env.reset(seed=0)
    put_arm_over(env, 0.62, 0.0)
    env._target = (0.5, 0.29, env._target[2])
    terminated = False
    while not terminated:
        _, reward, terminated, _, _ = env.step(DOWN if env.is_discrete else np.array([0, 0, -1.0]))
    assert reward == -250


# Other objects


def test_objects_lie_on_the_table_clear_of_the_button(make) -> None:
    env = make(RAND, random_target=True)
    kinds, counts, targets = set(), [], []
    for seed in range(8):
        env.reset(seed=seed)
        ball, *objects = env._objects
        kinds |= {p.getVisualShapeData(body, physicsClientId=env._client)[0][4].split(b"/")[-1] for body in objects}
        counts.append(len(objects))
        places = bodies(env)
        targets.append(env.getTargetPos())
        clear = np.abs(places[objects, :2] - env.getTargetPos()[:2]).max(1)
        assert clear.min() > 0.02 and np.median(clear) > 0.1  # where they were dropped is clear; some roll
        assert (places[objects, 2] > -0.2).all() and (places[objects, 2] < 0).all()
        assert places[ball, 2] == pytest.approx(-0.165, abs=0.01)
        before = places[objects]
        for _ in range(5):
            env.step(DOWN)
        assert np.median(np.abs(bodies(env)[objects] - before).max(1)) < 1e-3, "they have come to rest"
    assert kinds == {b"duck.obj", b"lego.obj", b"cube.obj"}
    assert max(counts) <= 10 and min(counts) >= 5 and len(set(counts)) > 1
    assert np.ptp(np.array(targets)[:, 1]) > 0.2


@pytest.mark.parametrize("action_repeat", [1, 4])
def test_ball_is_pushed_once_towards_the_middle(make, action_repeat) -> None:
    """In the 11th simulation step, also where that is not the first of an environment step."""
    env = make(RAND, action_repeat=action_repeat)
    directions = []
    for seed in range(6):
        env.reset(seed=seed)
        ball, speeds = env._objects[0], []
        for _ in range(12 if action_repeat == 1 else 3):
            env.step(DOWN)
            speeds.append(p.getBaseVelocity(ball, physicsClientId=env._client)[0])
        speeds = np.array(speeds)[:, :2]
        start = 10 // action_repeat
        assert np.linalg.norm(speeds[:start], axis=1).max(initial=0) < 0.02
        assert np.linalg.norm(speeds[start]) == pytest.approx(10 / 0.1 / 240, rel=0.2)  # 10 N on 0.1 kg for 1/240 s
        assert (speeds[start] > -0.02).all()
        directions.append(speeds[start] / np.linalg.norm(speeds[start]))
    assert np.ptp(np.array(directions), axis=0).max() > 0.1


def test_rewards_are_those_of_the_base_task(make) -> None:
    env = make(RAND)
    env.reset(seed=0)
    terminated, contacts = False, 0
    while not terminated:
        _, reward, terminated, _, _ = env.step(DOWN)
        contact = bool(p.getContactPoints(env._button, env._arm.body, BUTTON_LINK, physicsClientId=env._client))
        contacts += contact
        assert reward == int(contact) and terminated == (contacts == 5)


# The tasks can be solved


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize("options", [{}, {**CONTINUOUS, "random_target": True}], ids=["fixed", "random"])
def test_scripted_controllers_reach_the_optimum(make, env_id, options) -> None:
    env = make(env_id, **options)
    returns, lengths = play(env, controller_for(env), episodes=2)
    np.testing.assert_array_equal(returns, 5)
    assert (lengths < env.max_episode_steps).all()
