"""The arm tasks in JAX against the PyBullet environments: positions, contacts, endings, starts and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from envs.device.kuka_button import KukaButtonTwin
from envs.device.kuka_variants import Kuka2ButtonTwin, KukaMovingButtonTwin, KukaRandButtonTwin
from envs.host.gymnasium_env import spec_of
from envs.host.kuka_button import KukaButtonGymEnv
from envs.host.kuka_variants import Kuka2ButtonGymEnv, KukaMovingButtonGymEnv, KukaRandButtonGymEnv
from tests.envs.device.kuka_pairs import Played, goal_directed, play_host, play_twin, quiet

PAIRS = {
    "button": (KukaButtonGymEnv, KukaButtonTwin),
    "rand": (KukaRandButtonGymEnv, KukaRandButtonTwin),
    "two": (Kuka2ButtonGymEnv, Kuka2ButtonTwin),
    "moving": (KukaMovingButtonGymEnv, KukaMovingButtonTwin),
}
RANDOM_TARGET = {"random_target": True}
CONTINUOUS = {"is_discrete": False, "random_target": True}
JOINTS = {"is_discrete": False, "action_joints": True}


def length(played: Played) -> np.ndarray:
    """Steps of each episode."""
    ended = played.terminated | played.truncated
    return np.where(ended.any(1), ended.argmax(1) + 1, ended.shape[1])


def first_contact(played: Played) -> np.ndarray:
    """Index of the first step of each episode that pays for a contact; far beyond its end without one."""
    paid = played.reward > 0
    return np.where(paid.any(1), paid.argmax(1), 10**6)


def check_agreement(name: str, options: dict, policy: str, episodes: int) -> None:
    """Hold a twin to its PyBullet environment over episodes with the same actions and without noise."""
    host_class, twin_class = PAIRS[name]
    host = quiet(host_class)(**options)
    starts, actions, theirs = play_host(host, episodes, policy, 3, host.max_episode_steps)
    host.close()
    ours = play_twin(quiet(twin_class)(**options), starts, actions)
    both = np.arange(theirs.reward.shape[1]) < np.minimum(length(theirs), length(ours))[:, None]
    error = np.linalg.norm(theirs.position - ours.position, axis=-1)[both]
    assert error.mean() < 0.004
    assert error.max() < 0.015
    assert (np.abs(first_contact(theirs) - first_contact(ours)) <= 5).mean() >= 0.95
    reasons = [(p.terminated[:, -1], p.truncated[:, -1], np.sign(p.reward[:, -1])) for p in (theirs, ours)]
    same = np.all([a == b for a, b in zip(*reasons, strict=True)], axis=0)
    assert same.mean() >= 0.95, "a tip that grazes the edge of a button may end either way"
    # The observation is what the position tells, and the joints, if asked for.
    assert np.abs(theirs.obs - ours.obs)[both][:, :3].mean() < 0.004


@pytest.mark.parametrize(
    ("name", "options", "policy"),
    [
        ("button", {}, "goal"),
        ("button", JOINTS | {"srl_model": "joints_position"}, "random"),
        pytest.param("moving", {}, "goal", marks=pytest.mark.slow),
        pytest.param("button", CONTINUOUS | {"action_repeat": 3, "force_down": False}, "goal", marks=pytest.mark.slow),
        pytest.param("two", RANDOM_TARGET, "goal", marks=pytest.mark.slow),
    ],
)
def test_twin_follows_pybullet(name, options, policy) -> None:
    check_agreement(name, options, policy, episodes=20)


# What does not reach its figure, and by how much: the mark is known, the twin is not good enough there.
SHORT = {
    ("rand", True, "random"): "objects on the table stop the arm: 38 mm at most, where 15 mm are asked for",
    ("rand", True, "goal"): "objects on the table stop the arm: 63 mm at most, where 15 mm are asked for",
    ("two", False, "random"): "fingers dragged over the edge of a cap: 45 mm at most, where 15 mm are asked for",
}
FIFTY_EPISODES = [
    pytest.param(
        name,
        options,
        policy,
        marks=[pytest.mark.xfail(strict=True, reason=SHORT[name, "random_target" in options, policy])]
        if (name, "random_target" in options, policy) in SHORT
        else [],
    )
    for name, options in (
        ("button", {}),
        ("button", RANDOM_TARGET),
        ("button", CONTINUOUS),
        ("rand", RANDOM_TARGET),
        ("two", {}),
        ("two", RANDOM_TARGET),
        ("moving", {}),
    )
    for policy in ("random", "goal")
]
FIFTY_EPISODES += [
    pytest.param("button", JOINTS, "random"),
    pytest.param("moving", RANDOM_TARGET, "random"),
    pytest.param("moving", RANDOM_TARGET, "goal"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "policy"), FIFTY_EPISODES)
def test_twin_follows_pybullet_for_fifty_episodes(name, options, policy) -> None:
    check_agreement(name, options, policy, episodes=50)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "options", [{}, {"is_discrete": False, "action_repeat": 4, "srl_model": "joints"}, JOINTS, RANDOM_TARGET]
)
def test_spec_is_the_hosts_and_what_reset_and_step_return(name, options) -> None:
    host_class, twin_class = PAIRS[name]
    twin = twin_class(**options)
    host = host_class(**options)
    assert twin.spec == spec_of(host, twin.ENV_ID)
    host.close()
    state, obs = jax.eval_shape(twin.reset, jax.random.key(0))
    after, step = jax.eval_shape(twin.step, state, jnp.zeros(twin.spec.action_shape, twin.spec.action_dtype))
    assert (obs.shape, obs.dtype.name) == (step.obs.shape, step.obs.dtype.name)
    assert (obs.shape, obs.dtype.name) == (twin.spec.obs_shape, twin.spec.obs_dtype)
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (jnp.float32, bool, bool)
    kinds = [[(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)] for tree in (state, after)]
    assert kinds[0] == kinds[1], "another type would make a second program of the second step"


@pytest.mark.slow
def test_own_pictures_are_those_of_the_hosts_start() -> None:
    """But for the random commands of a reset, which move the hand by a few millimetres."""
    options = {"srl_model": "raw_pixels", "image_size": 48}
    host, twin = KukaMovingButtonGymEnv(**options), KukaMovingButtonTwin(**options)
    theirs, _ = host.reset(seed=0)
    assert twin.spec == spec_of(host, twin.ENV_ID)
    host.close()
    _, ours = jax.jit(twin.reset)(jax.random.key(0))
    assert np.abs(np.asarray(ours).astype(int) - theirs).mean() < 8


@pytest.mark.slow
def test_pressed_fingers_fold_as_in_pybullet() -> None:
    """An arm that sinks on a cap, slides and rises: fingers bend at tips and bases, and stretch again.

    Which joint gives way first is a matter of tenths of a millimetre, so that single presses differ.
    """
    host, twin = quiet(Kuka2ButtonGymEnv)(), quiet(Kuka2ButtonTwin)()
    host.action_space.seed(0)
    rng, step = np.random.default_rng(0), jax.jit(twin.step)
    theirs, ours = [], []
    for seed in range(8):
        host.reset(seed=seed)
        while not host.situation()["contacts"]:
            host.step(goal_directed(host, rng))
        state = twin.state_of(host)
        for action in [4] * 60 + [2] * 15 + [5] * 120:
            host.step(action)
            state, _ = step(state, jnp.int32(action))
            theirs.append(host.situation()["grip"])
            ours.append(np.asarray(state.arm.grip))
        np.testing.assert_allclose(ours[-1], 0, atol=0.02)
    host.close()
    bent, error = np.abs(theirs), np.abs(np.array(theirs) - np.array(ours))
    assert bent.max() > 1, "the fingers were not pressed"
    assert error.sum() < 0.6 * bent.sum(), "stiff fingers would be off by 1"


@pytest.mark.parametrize("name", ["two", "moving"])
def test_state_of_a_host_goes_on_as_the_host_does(name) -> None:
    host_class, twin_class = PAIRS[name]
    host, twin = quiet(host_class)(random_target=True), quiet(twin_class)(random_target=True)
    host.reset(seed=5)
    for action in [4] * 60 + [1] * 20:
        host.step(action)
    state = twin.state_of(host)
    assert int(state.steps) == 80 and state.objects == ()
    step = jax.jit(twin.step)
    for action in [4, 0, 4, 3] * 5:
        obs, reward, *_ = host.step(action)
        state, ours = step(state, jnp.int32(action))
        np.testing.assert_allclose(ours.obs, obs, atol=2e-3)
        assert float(ours.reward) == reward
    host.close()


@pytest.mark.slow
def test_fingers_that_come_from_the_side_press_the_cap() -> None:
    """Beside the button, what meets the cap is the upper part of a tip, or the finger above it."""
    options = {"is_discrete": False, "random_target": True}
    host, twin = quiet(KukaButtonGymEnv)(**options), quiet(KukaButtonTwin)(**options)
    step = jax.jit(twin.step)
    sideways = np.array((0.0, -0.6, -1.0), np.float32)
    for away in (0.098, 0.107, 0.116, 0.125):
        host.reset(seed=0)
        host._place_button(host._button, 0.5, 0.4)
        for _ in range(262):
            host.step(np.array((0.0, 0.0, -1.0), np.float32))
        host._place_button(host._button, 0.537, 0.024 - away)
        state, returns, total, ended = twin.state_of(host), 0.0, 0.0, False
        for _ in range(100):
            _, reward, terminated, _, _ = host.step(sideways)
            returns += reward
            if terminated:
                break
        while not ended and state.steps < 362:
            state, ours = step(state, sideways)
            total, ended = total + float(ours.reward), bool(ours.terminated)
        assert (returns, total) == (5, 5), f"button {away} m to the side"
    host.close()


@pytest.mark.slow
def test_twin_of_the_scene_with_objects_draws_what_the_host_shows() -> None:
    """The host's objects in the host's places; and in the twin's own starts, as many and as far from the button."""
    options = {"srl_model": "raw_pixels", "image_size": 64, "random_target": True}
    host, twin = KukaRandButtonGymEnv(**options), KukaRandButtonTwin(**options)
    theirs, _ = host.reset(seed=1)
    state = twin.state_of(host)
    poses = host.scene_poses()
    host.close()
    ours, drawn = jax.jit(lambda state, poses: (twin.observe(state), twin.draw(poses)))(state, poses)
    assert np.abs(np.asarray(ours).astype(int) - theirs).mean() < 8
    assert (np.asarray(ours) != np.asarray(drawn)).any(-1).mean() < 0.02  # but for the gripper's angles
    states, _ = jax.jit(jax.vmap(twin.reset))(jax.random.split(jax.random.key(0), 64))
    lying = states.objects[:, 1:, 2] > -1
    away = abs(states.objects[:, 1:, :2] - states.buttons[:, :1]).max(-1)
    assert (away[lying] > 0.1).all()
    # Of 10 draws over 0.3 m by 0.6 m, those within 0.1 m of the button are left out: at least 1 in 18, at most 2 in 9.
    assert 7 < lying.sum(1).mean() < 9.6
    kinds = lying.reshape(64, 3, 10).sum((0, 2))
    assert (abs(kinds / kinds.sum() - 1 / 3) < 0.07).all()


@pytest.mark.slow
def test_the_ball_rolls_towards_positive_x_and_y_from_the_push_on() -> None:
    twin = KukaRandButtonTwin(srl_model="raw_pixels", image_size=8)
    step = jax.jit(twin.step)
    state, _ = jax.jit(twin.reset)(jax.random.key(0))
    balls = []
    for _ in range(80):
        state, _ = step(state, jnp.int32(1))
        balls.append(state.objects[0, :2] - jnp.array((0.25, -0.2)))
    balls = np.array(balls)
    np.testing.assert_allclose(balls[:10], 0, atol=1e-6)
    assert (np.diff(balls[10:], axis=0) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(balls[60]), 0.16, atol=2e-3)


@pytest.mark.parametrize("options", [{}, {"is_discrete": False}, JOINTS])
def test_starts_are_drawn_as_in_pybullet(options) -> None:
    host = KukaButtonGymEnv(**options)
    theirs = np.array([host.reset(seed=seed)[0] for seed in range(200)])
    host.close()
    _, ours = jax.jit(jax.vmap(KukaButtonTwin(**options).reset))(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=5e-4)
    np.testing.assert_allclose(np.std(ours, 0), theirs.std(0), rtol=0.25, atol=1e-4)
    np.testing.assert_allclose(ours.min(0), theirs.min(0), atol=2e-3)
    np.testing.assert_allclose(ours.max(0), theirs.max(0), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("button", [(0.35, -0.3)], [(0.65, 0.3)]), ("two", [(0.35, 0.125), (0.35, -0.3)], [(0.65, 0.3), (0.65, -0.125)])],
)
def test_random_buttons_cover_their_ranges(name, low, high) -> None:
    twin = PAIRS[name][1](random_target=True)
    keys = jax.random.split(jax.random.key(0), 2000)
    buttons = jax.jit(jax.vmap(lambda key: twin.reset(key)[0].buttons))(keys)
    np.testing.assert_allclose(buttons.min(0), low, atol=3e-3)
    np.testing.assert_allclose(buttons.max(0), high, atol=3e-3)


def test_noise_has_the_declared_size_and_is_new_in_every_step() -> None:
    twin = KukaButtonTwin()
    state, _ = jax.jit(twin.reset)(jax.random.key(0))

    def fall(key: jax.Array) -> jax.Array:
        first, _ = twin.step(state._replace(key=key), jnp.int32(4))
        second, _ = twin.step(first, jnp.int32(4))
        heights = jnp.stack([state.arm.point[2], first.arm.point[2], second.arm.point[2]])
        return heights[:-1] - heights[1:]

    falls = np.asarray(jax.jit(jax.vmap(fall))(jax.random.split(jax.random.key(1), 4000)))
    # The first fall begins at the upper edge of the workspace: what would be upwards is cut there, 1 in 700.
    np.testing.assert_allclose(falls.mean(0), 0.03, atol=6e-4)
    np.testing.assert_allclose(falls.std(0), 0.01, atol=5e-4)
    assert abs(np.corrcoef(falls.T)[0, 1]) < 0.06


def test_a_batch_plays_and_restarts() -> None:
    env = BatchEnv(KukaButtonTwin())

    def body(state, key):
        state, step = env.step(state, jax.random.randint(key, (64,), 0, 6))
        return state, step

    state, _ = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 64))
    last, steps = jax.jit(lambda s, k: jax.lax.scan(body, s, k))(state, jax.random.split(jax.random.key(1), 450))
    assert np.isfinite(steps.obs).all() and np.isfinite(steps.next_obs).all()
    assert (last.episode >= 1).mean() > 0.9, "random actions press the button or the table within 450 steps"
    assert not steps.truncated.any()
    assert (steps.reward.sum(0) >= 4).mean() > 0.3
    jumps = np.linalg.norm(np.diff(steps.obs, axis=0), axis=-1)
    assert (jumps[~np.asarray(steps.terminated[1:])] < 0.003).all(), "the arm moves by at most 2 mm a step"
    assert (jumps[np.asarray(steps.terminated[1:])] > 0.2).all(), "after an end it is back at its start"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"srl_model": "raw_pixels", "image_size": 0}, "image_size is 0"),
        ({"srl_model": "pixels"}, "unknown srl_model 'pixels'"),
        ({"action_joints": True}, "needs continuous actions"),
        ({"action_repeat": 0}, "action_repeat is 0"),
        ({"max_distance": 0.0}, "max_distance is 0.0"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        KukaButtonTwin(**options)
