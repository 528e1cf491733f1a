"""The pictures of the arm tasks in JAX against PyBullet's: colours, structure, outlines and speed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pybullet as p
import pytest

from envs import kuka_scene as scene
from envs.device.kuka_arm import link_poses
from envs.host.kuka_button import KukaButtonGymEnv
from envs.host.kuka_variants import Kuka2ButtonGymEnv, KukaMovingButtonGymEnv, KukaRandButtonGymEnv
from envs.host.srl_env import Camera
from envs.render.kuka_picture import ARM_BODIES, ONE_BUTTON, TWO_BUTTONS, WITH_OBJECTS, KukaRenderer, KukaScene
from envs.render.rasteriser import poses_of
from tests.ssim import ssim

SCENES: dict[str, tuple[type[KukaButtonGymEnv], KukaScene]] = {
    "KukaButton": (KukaButtonGymEnv, ONE_BUTTON),
    "Kuka2Button": (Kuka2ButtonGymEnv, TWO_BUTTONS),
    "KukaMovingButton": (KukaMovingButtonGymEnv, ONE_BUTTON),
    "KukaRandButton": (KukaRandButtonGymEnv, WITH_OBJECTS),
}
MAX_DIFFERENCE, MIN_SSIM, MIN_OVERLAP = 8.0, 0.9, 0.9


def photograph(env: KukaButtonGymEnv, camera: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """PyBullet's picture uint8 [size, size, 3], and the body that each pixel shows, -1 for none."""
    shot = Camera(*scene.CAMERAS[camera])
    view = p.computeViewMatrixFromYawPitchRoll(shot.target, shot.distance, shot.yaw, shot.pitch, 0, 2)
    projection = p.computeProjectionMatrixFOV(shot.fov, 1.0, shot.near, shot.far)
    _, _, picture, _, bodies = p.getCameraImage(
        size, size, view, projection, renderer=p.ER_TINY_RENDERER, physicsClientId=env._client
    )
    picture = np.asarray(picture, np.uint8).reshape(size, size, 4)[..., :3]
    return picture, np.asarray(bodies).reshape(size, size)


def situations(name: str, count: int, seed: int = 0) -> Any:
    """An environment, put into `count` random situations one after the other."""
    env = SCENES[name][0](random_target=True)
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for number in range(count):
        if number % 20 == 0 and name == "KukaRandButton":
            env.reset(seed=seed + number)
        joints = np.array(scene.INITIAL_JOINTS)
        # Everywhere that the arm gets to, and with some joints at angles that only joint actions reach.
        for joint, angle in enumerate(joints):
            p.resetJointState(env._arm.body, joint, angle, physicsClientId=env._client)
        point = rng.uniform(*np.transpose(scene.LARGE_WORKSPACE))
        for _ in range(20):
            angles = p.calculateInverseKinematics(
                env._arm.body, scene.EFFECTOR_LINK, point, scene.POINTING_DOWN, physicsClientId=env._client
            )
            for joint in range(scene.NUM_ARM_JOINTS):
                p.resetJointState(env._arm.body, joint, angles[joint], physicsClientId=env._client)
        joints = np.array(env._arm.joint_positions())
        joints[:7] += rng.normal(0, 0.15, 7) * (number % 2)
        joints[[7, 8, 10, 11, 13]] = rng.normal(0, 0.01, 5)
        for joint, angle in enumerate(joints):
            p.resetJointState(env._arm.body, joint, angle, physicsClientId=env._client)
        for index, button in enumerate(env._buttons):
            place = np.array(scene.BUTTON_POSITION) + rng.uniform(-1, 1, 2) * scene.RANDOM_RANGE
            if len(env._buttons) == 2:
                place[1] = (0.125, -0.125)[index] + rng.uniform(0, 0.1) * (1, -1)[index]
            p.resetBasePositionAndOrientation(button, (*place, -0.194), (0, 0, 0, 1), physicsClientId=env._client)
            p.resetJointState(button, scene.BUTTON_LINK, rng.uniform(0, 0.01), physicsClientId=env._client)
        yield env
    env.close()


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Pixels in both masks, as a share of those in either."""
    return float((first & second).sum() / max((first | second).sum(), 1))


def compare(name: str, camera: int, size: int, count: int) -> dict[str, float]:
    """Mean agreement over random situations; of masks only where the body has over 20 pixels."""
    renderer = KukaRenderer(size, SCENES[name][1], camera)
    draw = jax.jit(lambda vectors: (renderer(poses_of(vectors)), renderer.parts(poses_of(vectors))))
    rows: dict[str, list[float]] = {"difference": [], "ssim": [], "arm": [], "buttons": [], "objects": []}
    for env in situations(name, count):
        theirs, shown = photograph(env, camera, size)
        assert env.scene_poses().shape == (SCENES[name][1].num_bodies, 7)
        ours, parts = (np.asarray(array) for array in draw(env.scene_poses()))
        assert ours.dtype == np.uint8 and ours.shape == theirs.shape
        rows["difference"].append(np.abs(theirs.astype(int) - ours).mean())
        rows["ssim"].append(ssim(theirs, ours))
        objects = getattr(env, "_objects", [])
        for number, (key, ids) in enumerate(
            (("arm", [env._arm.body]), ("buttons", env._buttons), ("objects", objects))
        ):
            mask = np.isin(shown, ids)
            if mask.sum() > 20:
                rows[key].append(overlap(mask, parts == number + 1))
    return {key: float(np.mean(values)) for key, values in rows.items() if values}


def assert_alike(agreement: dict[str, float]) -> None:
    assert agreement["difference"] <= MAX_DIFFERENCE
    assert agreement["ssim"] >= MIN_SSIM
    assert agreement["arm"] >= MIN_OVERLAP and agreement["buttons"] >= MIN_OVERLAP
    assert agreement.get("objects", 1.0) >= MIN_OVERLAP


@pytest.mark.parametrize("camera", [0, 1])
def test_pictures_agree(camera) -> None:
    assert_alike(compare("KukaButton", camera, 224, 6))


def test_pictures_of_other_scenes_agree() -> None:
    assert_alike(compare("Kuka2Button", 0, 224, 4))
    assert_alike(compare("KukaRandButton", 0, 224, 4))


@pytest.mark.slow
@pytest.mark.parametrize("camera", [0, 1])
@pytest.mark.parametrize("name", list(SCENES))
def test_pictures_of_200_situations_agree(name, camera) -> None:
    agreement = compare(name, camera, 224, 200)
    print(f"{name}, camera {camera + 1}: {agreement}")
    assert_alike(agreement)


@pytest.mark.parametrize("size", [64, 84])
def test_small_pictures_agree(size) -> None:
    assert_alike(compare("KukaButton", 0, size, 6))


def test_a_pose_in_the_simulator_gives_the_picture_of_its_joint_angles() -> None:
    renderer = KukaRenderer(64)
    env = next(situations("KukaButton", 1))
    vectors = env.scene_poses()
    joints = jnp.asarray(env._arm.joint_positions(), jnp.float32)
    env.close()

    @jax.jit
    def draw(vectors: jax.Array, joints: jax.Array) -> tuple[jax.Array, jax.Array]:
        poses, arm = poses_of(vectors), link_poses(joints)
        own = poses._replace(
            position=poses.position.at[:ARM_BODIES].set(arm.position),
            rotation=poses.rotation.at[:ARM_BODIES].set(arm.rotation),
        )
        return renderer(poses), renderer(own)

    theirs, ours = draw(vectors, joints)
    assert np.any(np.asarray(theirs) != np.asarray(ours), axis=-1).mean() < 0.005


def test_pictures_drawn_together_and_one_by_one_agree() -> None:
    renderer = KukaRenderer(40)
    vectors = jnp.asarray(np.stack([env.scene_poses() for env in situations("KukaButton", 3)]))
    rasteriser = renderer.rasteriser
    tiles = jax.jit(jax.vmap(lambda v: rasteriser.words(poses_of(v))))(vectors)
    whole = jax.jit(jax.vmap(lambda v: rasteriser._draw_one(poses_of(v))))(vectors)
    alone = jax.jit(lambda v: rasteriser.words(poses_of(v)))(vectors[1])
    # float32 may round the brightness or a pixel on an edge differently.
    assert (np.asarray(tiles) != np.asarray(whole)).mean() < 0.01
    assert (np.asarray(tiles[1]) != np.asarray(alone)).mean() < 0.01


def test_nothing_behind_the_camera_or_beside_the_picture_is_drawn() -> None:
    renderer = KukaRenderer(32)
    vectors = np.tile(np.array([0, 0, 0, 0, 0, 0, 1], np.float32), (ONE_BUTTON.num_bodies, 1))
    draw = jax.jit(lambda v: renderer(poses_of(v)))
    pictures = []
    for place in ((2.0, 2.0, 2.0), (-50.0, 50.0, 1.0), (0.826, 0.529, 0.547)):
        vectors[:, :3] = place
        pictures.append(np.asarray(draw(vectors)))
    np.testing.assert_array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize("size", [1, 2, 9])
def test_tiny_pictures_are_drawn(size) -> None:
    renderer = KukaRenderer(size)
    shape = jax.ShapeDtypeStruct((ONE_BUTTON.num_bodies, 7), jnp.float32)
    compiled = jax.jit(lambda v: renderer(poses_of(v))).lower(shape).compile()
    vectors = np.zeros(shape.shape, np.float32)
    vectors[:, 6] = 1.0
    assert compiled(vectors).shape == (size, size, 3)


@pytest.mark.parametrize(("keywords", "message"), [({"size": 0}, "image_size is 0"), ({"camera": 2}, "camera is 2")])
def test_bad_options_are_refused(keywords, message) -> None:
    with pytest.raises(ValueError, match=message):
        KukaRenderer(**{"size": 8, **keywords})
