"""What a recorded environment declares before its first reset is what it observes then."""

from __future__ import annotations

import numpy as np
import pytest

from envs.host.recorded import RecordedEnv, RecordedFactory
from envs.make import EnvOptions, host_factory
from envs.registry import registered_env, registered_twin, resolve, simulated_envs
from tests.envs.host.robot_server import Omnirobot, RobotServer

DRAWN = [name for name in simulated_envs() if hasattr(resolve(registered_env[name][0]), "SCENE_SHAPE")]


def check_parts(env: RecordedEnv) -> None:
    """Each part of the bytes is what the environment itself tells."""
    packed, _ = env.reset(seed=3)
    assert env.observation_space.contains(packed)
    parts = env.layout.split(packed)
    np.testing.assert_array_equal(parts["ground_truth"], np.float32(env.task.getGroundTruth()))
    np.testing.assert_array_equal(parts["target"], np.float32(env.task.getTargetPos()))
    packed = env.step(env.action_space.sample())[0]
    assert env.observation_space.contains(packed)


@pytest.mark.parametrize("env_id", simulated_envs())
def test_pictures(env_id: str) -> None:
    options = EnvOptions(env_id, srl_model="raw_pixels", image_size=16, num_stack=2)
    env = RecordedFactory(host_factory(options), told=True)()
    check_parts(env)
    parts = env.layout.split(env.reset(seed=4)[0])
    np.testing.assert_array_equal(parts["frame"], env.task.picture())
    np.testing.assert_array_equal(parts["obs"][..., 3:], parts["frame"])
    env.close()


@pytest.mark.parametrize("env_id", [name for name in DRAWN if name in registered_twin])
def test_poses(env_id: str) -> None:
    env = RecordedFactory(host_factory(EnvOptions(env_id, continuous=True)), poses=True)()
    check_parts(env)
    frame = env.layout.split(env.reset(seed=4)[0])["frame"]
    np.testing.assert_array_equal(frame, env.task.scene_poses().ravel())  # type: ignore[attr-defined]
    env.close()


def test_a_target_of_another_shape_than_declared_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = resolve(registered_env["MobileRobotLineTargetGymEnv-v0"][0])
    monkeypatch.setattr(cls, "getTargetDim", cls.getGroundTruthDim)  # as where a user's class forgets to say so
    env = RecordedFactory(host_factory(EnvOptions("MobileRobotLineTargetGymEnv-v0", image_size=16)))()
    with pytest.raises(ValueError, match=r"^target has shape \(1,\), the environment declares \(2,\)$"):
        env.reset(seed=0)
    env.close()


def test_a_real_robot_is_not_touched_before_the_first_reset() -> None:
    with RobotServer(Omnirobot()) as server:
        options = EnvOptions("OmnirobotEnv-v0", srl_model="raw_pixels", image_size=16, real_robot=server.address)
        factory = RecordedFactory(host_factory(options))
        factory().close()  # as who wants to know the layout only
        assert not server.commands and not server.ended(0.1)
        env = factory()
        check_parts(env)
        env.close()
        assert server.ended()
    assert [command["command"] for command in server.commands] == ["reset", "action", "exit"]
