"""The mobile robot in JAX against the PyBullet environment: states, rewards, flags and pictures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from envs.device.mobile_robot import MobileRobotState, MobileRobotTwin
from envs.host.mobile_robot import MobileRobotGymEnv
from envs.types import Box, Discrete, Spec

LOW, HIGH = (0.425, 0.2), (3.575, 3.8)


def situation(robot, target) -> MobileRobotState:
    """The twin's state at the start of an episode."""
    return MobileRobotState(jnp.array(robot, jnp.float32), jnp.array(target, jnp.float32), jnp.zeros((), jnp.int32))


def play_host(env: MobileRobotGymEnv, state: MobileRobotState, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Observations, rewards and flags of the PyBullet environment from a situation on."""
    env.reset(seed=0, options={"robot": np.asarray(state.robot), "target": np.asarray(state.target)})
    steps = [env.step(action)[:4] for action in actions]
    return tuple(np.array(column) for column in zip(*steps, strict=True))


def test_rewards_agree_on_the_edge_of_the_target() -> None:
    host, twin = MobileRobotGymEnv(), MobileRobotTwin()
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 400)
    targets = rng.uniform(1.0, 3.0, (400, 2)).astype(np.float32)
    # One step to +x brings the robot to a distance of 0.4 m, give or take a few units of float32's last place.
    robots = (targets + 0.4 * np.stack([np.cos(angles), np.sin(angles)], 1) - (0.1, 0.0)).astype(np.float32)
    starts = MobileRobotState(jnp.asarray(robots), jnp.asarray(targets), jnp.zeros(400, jnp.int32))
    _, ours = jax.jit(jax.vmap(twin.step))(starts, jnp.ones(400, jnp.int32))
    theirs = [play_host(host, jax.tree.map(lambda leaf, i=i: leaf[i], starts), [1])[1][0] for i in range(400)]
    host.close()
    np.testing.assert_array_equal(ours.reward, theirs)
    assert 100 < sum(theirs) < 300


def test_an_action_that_is_not_a_number_moves_neither() -> None:
    host, twin = MobileRobotGymEnv(is_discrete=False), MobileRobotTwin(is_discrete=False)
    start = situation((2.0, 2.0), (3.0, 3.0))
    action = np.array([np.nan, 0.5], np.float32)
    obs, reward, _, _ = play_host(host, start, [action])
    host.close()
    _, ours = jax.jit(twin.step)(start, action)
    np.testing.assert_array_equal(ours.obs, obs[0])
    assert ours.reward == reward[0] == -1


def spots(camera: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Positions of robot and target to draw: corners, the target under the robot, and random ones."""
    rng = np.random.default_rng(camera)
    chosen = [((2.0, 2.0), (3.6, 3.0)), (LOW, (0.4, 3.6)), (HIGH, (3.6, 3.6)), ((1.5, 1.8), (1.7, 1.9))]
    return chosen + [(rng.uniform(LOW, HIGH), rng.uniform(0.4, 3.6, 2)) for _ in range(6)]


def centre(mask: np.ndarray) -> np.ndarray:
    """Mean row and column of the pixels of a mask."""
    return np.argwhere(mask).mean(axis=0)


def is_target(picture: np.ndarray) -> np.ndarray:
    """Pixels of the yellow disc."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (red > 100) & (green > 100) & (blue < 60)


def is_chassis(picture: np.ndarray) -> np.ndarray:
    """Pixels of the robot's blue body; the blue wall above row 30 is left out."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (red < 20) & (green < 20) & (blue > 100) & (np.arange(len(picture))[:, None] > 30)


@pytest.fixture(scope="module")
def pictures() -> list[tuple[np.ndarray, np.ndarray]]:
    """Six-channel pictures of PyBullet and of the twin in the same situations."""
    options = {"srl_model": "raw_pixels", "fpv": True}
    host, twin = MobileRobotGymEnv(**options), MobileRobotTwin(**options)
    observe = jax.jit(twin.observe)
    pairs = []
    for robot, target in spots(0):
        theirs, _ = host.reset(seed=0, options={"robot": robot, "target": target})
        pairs.append((theirs, np.asarray(observe(situation(robot, target)))))
    host.close()
    return pairs


@pytest.mark.parametrize(("name", "first"), [("top-down", 0), ("first-person", 3)])
def test_pictures_agree(pictures, name, first) -> None:
    compared = 0
    for theirs, ours in pictures:
        theirs, ours = theirs[..., first : first + 3], ours[..., first : first + 3]
        assert ours.dtype == np.uint8 and ours.shape == (224, 224, 3)
        difference = np.abs(theirs.astype(int) - ours).mean()
        assert difference <= (0.5 if name == "top-down" else 1.5), "asked for: at most 6"
        assert np.abs(centre(is_chassis(theirs)) - centre(is_chassis(ours))).max() < 1
        if is_target(theirs).sum() > 10:
            compared += 1
            assert np.abs(centre(is_target(theirs)) - centre(is_target(ours))).max() < 1
    assert compared >= (8 if name == "top-down" else 2)


@pytest.mark.parametrize("size", [32, 64, 65, 84])
def test_small_pictures_agree(size) -> None:
    options = {"srl_model": "raw_pixels", "image_size": size}
    host, twin = MobileRobotGymEnv(**options), MobileRobotTwin(**options)
    observe = jax.jit(twin.observe)
    for robot, target in spots(1)[:4]:
        theirs, _ = host.reset(seed=0, options={"robot": robot, "target": target})
        ours = np.asarray(observe(situation(robot, target)))
        assert ours.shape == theirs.shape
        assert np.abs(theirs.astype(int) - ours).mean() <= 3
        assert np.abs(centre(is_target(theirs)) - centre(is_target(ours))).max() < 1
    host.close()


def test_pictures_of_a_batch_are_those_of_its_members() -> None:
    twin = MobileRobotTwin(srl_model="raw_pixels", fpv=True, image_size=48)
    states, batch = jax.jit(jax.vmap(twin.reset))(jax.random.split(jax.random.key(0), 5))
    observe = jax.jit(twin.observe)
    for i in range(5):
        alone = observe(jax.tree.map(lambda leaf, i=i: leaf[i], states))
        different = np.any(np.asarray(alone) != np.asarray(batch[i]), axis=-1)
        assert different.mean() < 0.005, "only pixels on an edge may be rounded to the other side"


@pytest.mark.parametrize("size", [1, 2, 9])
def test_tiny_pictures_are_drawn(size) -> None:
    twin = MobileRobotTwin(srl_model="raw_pixels", fpv=True, image_size=size)
    assert jax.jit(twin.reset)(jax.random.key(0))[1].shape == (size, size, 6)


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({}, Spec("MobileRobotGymEnv-v0", (2,), "float32", Discrete(4), 251)),
        ({"is_discrete": False}, Spec("MobileRobotGymEnv-v0", (2,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), 251)),
        ({"srl_model": "raw_pixels"}, Spec("MobileRobotGymEnv-v0", (224, 224, 3), "uint8", Discrete(4), 251)),
        (
            {"srl_model": "raw_pixels", "fpv": True, "image_size": 20},
            Spec("MobileRobotGymEnv-v0", (20, 20, 6), "uint8", Discrete(4), 251),
        ),
    ],
)
def test_spec_is_what_reset_and_step_return(options, spec) -> None:
    twin = MobileRobotTwin(**options)
    assert twin.spec == spec
    state, obs = jax.eval_shape(twin.reset, jax.random.key(0))
    action = jnp.zeros(spec.action_shape, spec.action_dtype)
    after, step = jax.eval_shape(twin.step, state, action)
    assert (obs.shape, obs.dtype.name) == (step.obs.shape, step.obs.dtype.name) == (spec.obs_shape, spec.obs_dtype)
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (jnp.float32, bool, bool)
    kinds = [[(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves] for leaves in (state, after)]
    assert kinds[0] == kinds[1], "another type would make a second program of the second step"


def test_a_key_fixes_the_episode_and_starts_cover_the_ranges() -> None:
    twin = MobileRobotTwin(random_target=True)
    keys = jax.random.split(jax.random.key(0), 2000)
    states, _ = jax.jit(jax.vmap(twin.reset))(keys)
    again, _ = jax.jit(jax.vmap(twin.reset))(keys)
    np.testing.assert_array_equal(states.robot, again.robot)
    np.testing.assert_array_equal(states.target, again.target)
    for position, low, high in ((states.robot, 2 - 4 / 3, 2 + 4 / 3), (states.target, 0.4, 3.6)):
        np.testing.assert_allclose(position.min(0), low, atol=0.02)
        np.testing.assert_allclose(position.max(0), high, atol=0.02)
        np.testing.assert_allclose(position.mean(0), 2, atol=0.1)
    drawn = np.concatenate([states.robot, states.target], axis=1)
    correlation = np.corrcoef(drawn.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.1, "robot and target are drawn independently"


def test_fixed_target_does_not_depend_on_the_key() -> None:
    states, _ = jax.jit(jax.vmap(MobileRobotTwin().reset))(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(states.target, [(3.6, 3.0)] * 3, atol=1e-6)


def greedy(robot: jax.Array, target: jax.Array) -> jax.Array:
    """The discrete action that brings the robot nearest to the target without touching a wall."""
    goals = robot + jnp.array([(-0.1, 0.0), (0.1, 0.0), (0.0, -0.1), (0.0, 0.1)])
    inside = jnp.all((goals > jnp.array(LOW)) & (goals < jnp.array(HIGH)), axis=-1)
    return jnp.argmin(jnp.where(inside, jnp.linalg.norm(goals - target, axis=-1), jnp.inf))


def test_greedy_controller_earns_what_the_task_allows() -> None:
    env = BatchEnv(MobileRobotTwin(random_target=True))

    def body(state, _):
        state, step = env.step(state, jax.vmap(greedy)(state.env.robot, state.env.target))
        return state, (step.reward, step.truncated)

    state, _ = env.reset(jax.random.split(jax.random.key(1), 500))
    _, (reward, truncated) = jax.jit(lambda s: jax.lax.scan(body, s, length=251))(state)
    assert np.all(truncated[-1]) and not np.any(truncated[:-1])
    assert reward.sum(axis=0).mean() == pytest.approx(237, abs=3)


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
        MobileRobotTwin(**options)
