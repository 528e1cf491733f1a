"""What only an accelerator can show: the same training and the same pictures as on the CPU."""

from __future__ import annotations

from typing import Any

import chex
import jax
import numpy as np
import pytest

from agents.ppo2 import PPO2, make
from envs.device.cartpole import CartPole
from envs.device.mobile_robot import MobileRobotTwin
from launch.runtime.drivers.device import DeviceDriver

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def devices() -> dict[str, Any]:
    """The first GPU and the CPU."""
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU")
    return {"gpu": jax.devices()[0], "cpu": jax.devices("cpu")[0]}


def trained(device: Any, iterations: int) -> Any:
    """The policy after some iterations on a device, on the host."""
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        config, hyper = PPO2.configure({"num_cpu": 8, "n_steps": 32, "net_arch": (16, 16)})
        tree = PPO2.hyper_tree({name: np.full(1, value, np.float32) for name, value in hyper.items()})
        env = CartPole()
        driver = DeviceDriver(env, make(env.spec, config), tree, np.zeros(1, int), 10, max_chunk=iterations)
        driver.run(iterations)
        return jax.device_get(driver.acting())


def test_training_is_that_of_the_cpu(devices: dict[str, Any]) -> None:
    chex.assert_trees_all_close(trained(devices["gpu"], 1), trained(devices["cpu"], 1), rtol=1e-3, atol=1e-4)


def test_pictures_are_those_of_the_cpu(devices: dict[str, Any]) -> None:
    env = MobileRobotTwin(srl_model="raw_pixels", random_target=True)
    pictures = []
    for device in devices.values():
        with jax.default_device(device):
            _, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 16))
            pictures.append(np.asarray(obs, np.float32))
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1
