"""The kinematics of the arm in JAX against PyBullet's model."""

from __future__ import annotations

import jax
import numpy as np
import pybullet as p
import pybullet_data

from envs.device.kuka_arm import BASE_LINK, CENTRES_OF_MASS, NUM_LINKS, link_poses
from envs.host.kuka import BASE_POSITION, MODEL


def test_links_are_where_pybullet_has_them() -> None:
    client = p.connect(p.DIRECT)
    p.setAdditionalSearchPath(pybullet_data.getDataPath(), physicsClientId=client)
    body = p.loadSDF(MODEL, physicsClientId=client)[0]
    p.resetBasePositionAndOrientation(body, BASE_POSITION, (0, 0, 0, 1), physicsClientId=client)
    assert p.getNumJoints(body, physicsClientId=client) == NUM_LINKS
    rng = np.random.default_rng(0)
    angles = np.concatenate([np.zeros((1, NUM_LINKS)), rng.uniform(-2.0, 2.0, (20, NUM_LINKS))])
    poses = jax.jit(jax.vmap(link_poses))(angles.astype(np.float32))
    for row, joints in enumerate(angles):
        for joint, angle in enumerate(joints):
            p.resetJointState(body, joint, angle, physicsClientId=client)
        for link in range(NUM_LINKS):
            state = p.getLinkState(body, link, computeForwardKinematics=True, physicsClientId=client)
            position, rotation = poses.position[row, link], np.asarray(poses.rotation[row, link])
            np.testing.assert_allclose(position, state[4], atol=2e-5)
            np.testing.assert_allclose(rotation, np.reshape(p.getMatrixFromQuaternion(state[5]), (3, 3)), atol=2e-5)
            np.testing.assert_allclose(position + rotation @ CENTRES_OF_MASS[link], state[0], atol=2e-5)
    p.disconnect(client)
    np.testing.assert_allclose(poses.position[0, BASE_LINK], (0, 0, -0.22), atol=1e-7)
    np.testing.assert_array_equal(poses.rotation[0, BASE_LINK], np.eye(3))
