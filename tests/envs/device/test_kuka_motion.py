"""Inverse kinematics and sines of the arm in JAX against PyBullet and NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pybullet as p
import pybullet_data
import pytest

from envs import kuka_scene as scene
from envs.device.kuka_arm import arm_frames, cosine_sine
from envs.device.kuka_motion import DAMPED, PRECISE, inverse_kinematics


@pytest.mark.parametrize(
    ("solver", "damping", "mean", "largest"),
    [(PRECISE, {"jointDamping": scene.JOINT_DAMPING}, 1e-5, 1e-3), (DAMPED, {}, 1e-3, 0.012)],
)
def test_solves_as_pybullet_does(solver, damping, mean, largest) -> None:
    client = p.connect(p.DIRECT)
    p.setAdditionalSearchPath(pybullet_data.getDataPath(), physicsClientId=client)
    body = p.loadSDF(scene.MODEL, physicsClientId=client)[0]
    p.resetBasePositionAndOrientation(body, scene.BASE_POSITION, (0, 0, 0, 1), physicsClientId=client)
    rng = np.random.default_rng(0)
    home = np.array(scene.INITIAL_JOINTS)
    angles, points, answers = [], [], []
    for _ in range(200):
        joints = home + np.append(rng.uniform(-0.15, 0.15, 7), np.zeros(7))
        for joint, angle in enumerate(joints):
            p.resetJointState(body, joint, angle, physicsClientId=client)
        # Points ahead of the arm by up to 0.25 m, all within its reach: what a commanded point is in play.
        here = p.getLinkState(body, scene.EFFECTOR_LINK, computeForwardKinematics=True, physicsClientId=client)[4]
        low, high = np.array(scene.LARGE_WORKSPACE).T
        point = np.clip(np.array(here) + rng.uniform(-0.25, 0.25, 3), low, (*high[:2], 0.4))
        answer = p.calculateInverseKinematics(
            body, scene.EFFECTOR_LINK, point, scene.POINTING_DOWN, **damping, physicsClientId=client
        )
        angles.append(joints[:7])
        points.append(point)
        answers.append(answer[:7])
    p.disconnect(client)

    def solve(angles: jax.Array, point: jax.Array) -> jax.Array:
        return jnp.stack(inverse_kinematics(tuple(angles), tuple(point), solver))

    ours = jax.jit(jax.vmap(solve))(np.array(angles, np.float32), np.array(points, np.float32))
    error = np.abs(ours - np.array(answers))
    assert error.mean() < mean
    assert error.max() < largest
    if solver is PRECISE:
        reached = jax.vmap(lambda q: jnp.stack(arm_frames(tuple(q))[-1].origin))(ours)
        np.testing.assert_allclose(reached, points, atol=1e-4)


def test_cosine_and_sine_are_exact_to_single_precision() -> None:
    angles = np.linspace(-7, 7, 100_001).astype(np.float32)
    cosine, sine = jax.jit(cosine_sine)(angles)
    np.testing.assert_allclose(cosine, np.cos(angles.astype(np.float64)), atol=1.2e-7)
    np.testing.assert_allclose(sine, np.sin(angles.astype(np.float64)), atol=1.2e-7)
