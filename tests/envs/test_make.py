"""From options to environments: what is passed on, what is refused, and how the refusal reads."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from envs.make import EnvOptions, device_env, host_factory, host_spec
from envs.registry import PlottingType, ThreadingType, registered_env
from envs.types import Box, Discrete, Spec

HOST_TESTS = Path(__file__).parent / "host"


@pytest.fixture
def switchable(monkeypatch: pytest.MonkeyPatch):
    """A Gymnasium id whose constructor takes continuous=, True by default."""
    monkeypatch.syspath_prepend(HOST_TESTS)
    gymnasium.register("Switchable-v0", entry_point="faulty_envs:SwitchableEnv", max_episode_steps=3)
    gymnasium.register("SwitchableContinuous-v0", entry_point="faulty_envs:SwitchableEnv", kwargs={"continuous": True})
    yield "Switchable-v0"
    del gymnasium.registry["Switchable-v0"], gymnasium.registry["SwitchableContinuous-v0"]


def test_specs_of_host_environments() -> None:
    assert host_spec(EnvOptions("CartPole-v1")) == Spec("CartPole-v1", (4,), "float32", Discrete(2), 500)
    pendulum = Spec("Pendulum-v1", (3,), "float32", Box((-2.0,), (2.0,)), 200)
    assert host_spec(EnvOptions("Pendulum-v1")) == pendulum
    assert host_spec(EnvOptions("Pendulum-v1", continuous=True)) == pendulum
    cheetah = host_spec(EnvOptions("HalfCheetahBulletEnv-v0", num_stack=2))
    assert (cheetah.obs_shape, cheetah.action_shape, cheetah.max_episode_steps) == ((52,), (6,), 1000)
    assert host_spec(EnvOptions("LunarLander-v3")) == Spec("LunarLander-v3", (8,), "float32", Discrete(4), 1000)
    lander = host_spec(EnvOptions("LunarLander-v3", continuous=True))
    assert (lander.action, lander.obs_shape) == (Box((-1.0, -1.0), (1.0, 1.0)), (8,))
    mobile = host_spec(EnvOptions("MobileRobotGymEnv-v0"))
    assert mobile == Spec("MobileRobotGymEnv-v0", (2,), "float32", Discrete(4), 251)
    options = EnvOptions("KukaButtonGymEnv-v0", continuous=True, joints=True, srl_model="joints", action_repeat=2)
    kuka = host_spec(options)
    assert (kuka.obs_shape, kuka.action.size) == ((14,), 7)


def test_picture_spec() -> None:
    options = EnvOptions("MobileRobotGymEnv-v0", srl_model="raw_pixels", fpv=True, image_size=32, num_stack=3)
    spec = host_spec(options)
    assert (spec.obs_shape, spec.obs_dtype, spec.pixels) == ((32, 32, 18), "uint8", True)


def test_options_are_passed_on() -> None:
    env = host_factory(EnvOptions("MobileRobotGymEnv-v0", continuous=True, random_target=True, shape_reward=True))()
    targets = []
    for seed in (0, 1):
        env.reset(seed=seed)
        targets.append(env.unwrapped.getTargetPos().copy())
    assert not np.allclose(*targets)
    _, reward, *_ = env.step(np.zeros(2, np.float32))
    assert reward < 0  # shaped: minus the distance
    env.close()


def test_factory_works_where_the_id_is_not_registered(switchable: str) -> None:
    factory = host_factory(EnvOptions(switchable, num_stack=2))
    code = "import sys, pickle; e = pickle.load(sys.stdin.buffer)(); e.reset(seed=7); print(*e.step(3)[0], e.spec.id)"
    code += "; assert not any(name in sys.modules for name in ('jax', 'pybullet'))"
    path = f"{HOST_TESTS.parents[2]}:{HOST_TESTS}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, input=pickle.dumps(factory), capture_output=True, env={"PYTHONPATH": path}, check=True
    )
    assert done.stdout.decode() == "7.0 0.0 -1.0 7.0 1.0 3.0 Switchable-v0\n"


def test_continuous_where_the_constructor_takes_it(switchable: str) -> None:
    assert host_spec(EnvOptions(switchable)).action == Discrete(10)
    assert host_spec(EnvOptions(switchable, continuous=True)).action == Box((-2.0,), (2.0,))
    assert host_spec(EnvOptions("SwitchableContinuous-v0")).action == Box((-2.0,), (2.0,))  # the id decided
    with pytest.raises(ValueError, match="--continuous: CartPole-v1 has discrete actions only"):
        host_spec(EnvOptions("CartPole-v1", continuous=True))


def test_a_users_environment_is_made_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HOST_TESTS)
    from faulty_envs import CountingEnv

    entry = (CountingEnv, gymnasium.Env, PlottingType.PLOT_2D, ThreadingType.PROCESS)
    monkeypatch.setitem(registered_env, "Counting-v0", entry)
    spec = host_spec(EnvOptions("Counting-v0"))
    assert (spec.id, spec.obs_shape, spec.max_episode_steps) == ("Counting-v0", (3,), None)
    assert pickle.loads(pickle.dumps(host_factory(EnvOptions("Counting-v0"))))().reset(seed=2)[0][0] == 2


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (EnvOptions("CartPole-v1", random_target=True), "--random-target"),
        (EnvOptions("CartPole-v1", srl_model="raw_pixels"), "--srl-model=raw_pixels"),
        (EnvOptions("HalfCheetahBulletEnv-v0", action_repeat=4), "--action-repeat=4"),
        (EnvOptions("MobileRobotGymEnv-v0", multi_view=True), "--multi-view"),
        (EnvOptions("MobileRobotGymEnv-v0", joints=True, continuous=True), "--joints"),
        (EnvOptions("KukaButtonGymEnv-v0", fpv=True), "--fpv"),
        (EnvOptions("Pendulum-v1", image_size=64), "--image-size=64"),
    ],
)
def test_options_without_meaning(options: EnvOptions, flag: str) -> None:
    with pytest.raises(ValueError, match=rf"^{flag} has no meaning for {options.env}: leave it out$"):
        host_factory(options)


@pytest.mark.parametrize(
    ("env", "nearest"),
    [
        ("CartPole", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("KukaButton-v0", "KukaButtonGymEnv-v0"),
        ("MobileRobotGymEnv-v1", "MobileRobotGymEnv-v0"),
        ("HalfCheetahBulletEnv-v1", "HalfCheetahBulletEnv-v0"),
        ("HalfCheetaBulletEnv-v0", "HalfCheetahBulletEnv-v0"),
        ("Pendulum", "Pendulum-v1"),
        ("no_such_module:CartPole-v1", "CartPole-v1"),
    ],
)
def test_unknown_ids_name_the_nearest(env: str, nearest: str) -> None:
    for make, simulator in ((host_factory, "pybullet"), (device_env, "jax")):
        with pytest.raises(ValueError) as error:
            make(EnvOptions(env, simulator=simulator))
        assert str(error.value) == f"unknown environment '{env}': did you mean '{nearest}'?"


def test_simulators_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"BipedalWalker-v3 has no JAX twin; these have one: Acrobot-v1, CartPole-v1"):
        device_env(EnvOptions("BipedalWalker-v3", simulator="jax"))
    with pytest.raises(ValueError, match=r"unknown environment 'brax/aant': did you mean 'brax/ant'"):
        device_env(EnvOptions("brax/aant"))
    with pytest.raises(ValueError, match=r"brax/ant .* runs on the device"):
        host_factory(EnvOptions("brax/ant"))
    with pytest.raises(ValueError, match="--shape-reward has no meaning for brax/ant"):
        device_env(EnvOptions("brax/ant", shape_reward=True))


def test_other_impossible_combinations() -> None:
    with pytest.raises(ValueError, match="--joints needs --continuous"):
        host_factory(EnvOptions("KukaButtonGymEnv-v0", joints=True))
    with pytest.raises(ValueError, match="--num-stack=0: at least 1"):
        host_factory(EnvOptions("CartPole-v1", num_stack=0))
    with pytest.raises(ValueError, match=r"FrozenLake-v1: observations of type Discrete\(16\) are not supported"):
        host_spec(EnvOptions("FrozenLake-v1"))
    with pytest.raises(ValueError, match=r"GymV21Environment-v0 needs a package that is not installed"):
        host_spec(EnvOptions("GymV21Environment-v0"))


@pytest.mark.parametrize(
    ("env", "option", "srl_model"),
    [
        ("MobileRobotGymEnv-v0", "fpv", "ground_truth"),
        ("MobileRobotGymEnv-v0", "fpv", "scene_poses"),
        ("KukaButtonGymEnv-v0", "multi_view", "joints"),
    ],
)
def test_a_camera_that_nobody_looks_through_is_refused(env: str, option: str, srl_model: str) -> None:
    flag = f"--{option.replace('_', '-')}"
    said = rf"^{flag} adds a picture: it needs --srl-model=raw_pixels, not {srl_model}$"
    options = EnvOptions(env, srl_model=srl_model, **{option: True})
    for make, simulator in ((host_factory, "pybullet"), (host_spec, "pybullet"), (device_env, "jax")):
        with pytest.raises(ValueError, match=said):
            make(dataclasses.replace(options, simulator=simulator))
    assert host_factory(options, pictured=True).spec.kwargs[option] is True  # somebody else looks
    seen = dataclasses.replace(options, srl_model="autoencoder", srl_model_path="models/autoencoder", image_size=16)
    assert host_spec(seen.seen()).obs_shape == (16, 16, 6)
    assert host_factory(seen).spec.kwargs == host_factory(seen.seen()).spec.kwargs


def test_device_environments() -> None:
    cartpole = device_env(EnvOptions("CartPole-v1", simulator="jax"))
    assert cartpole.spec == host_spec(EnvOptions("CartPole-v1"))
    stacked = device_env(EnvOptions("MobileRobotGymEnv-v0", simulator="jax", continuous=True, num_stack=3))
    assert stacked.spec.obs_shape == (6,) and isinstance(stacked.spec.action, Box)
    with pytest.raises(ValueError, match="--continuous: CartPole-v1 has discrete actions only"):
        device_env(EnvOptions("CartPole-v1", simulator="jax", continuous=True))
    with pytest.raises(ValueError, match="--multi-view has no meaning for MobileRobotGymEnv-v0"):
        device_env(EnvOptions("MobileRobotGymEnv-v0", simulator="jax", multi_view=True))


def test_options_from_flags() -> None:
    options = EnvOptions.from_args(Namespace(env="CartPole-v1", num_stack=4, seed=3, simulator="jax"))
    assert options == EnvOptions("CartPole-v1", num_stack=4, simulator="jax")
    assert options.on_device and EnvOptions("brax/ant").on_device and not EnvOptions("CartPole-v1").on_device
    assert hash(options) == hash(dataclasses.replace(options))
