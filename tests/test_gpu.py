"""What only an accelerator can show: the same training and the same pictures as on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# In a process of its own: a driver takes the devices of the default backend, which is chosen once.
TRAIN = """
import sys
import jax, numpy as np
jax.config.update("jax_default_matmul_precision", "highest")
from agents.ppo2 import PPO2, make
from envs.device.cartpole import CartPole
from launch.runtime.drivers.device import DeviceDriver
config, hyper = PPO2.configure({"num_cpu": 8, "n_steps": 32, "net_arch": (16, 16)})
tree = PPO2.hyper_tree({name: np.full(1, value, np.float32) for name, value in hyper.items()})
driver = DeviceDriver(CartPole(), make(CartPole.spec, config), tree, np.zeros(1, int), 10, max_chunk=1)
driver.run(1)
leaves = jax.tree.leaves(driver.acting())
assert {device.platform for leaf in leaves for device in leaf.devices()} == {jax.default_backend()}
np.savez(sys.argv[1], *leaves)
"""
DRAW = """
import sys
import jax, numpy as np
from envs.device.mobile_robot import MobileRobotTwin
from envs.device.kuka_button import KukaButtonTwin
arrays = []
for env in (MobileRobotTwin(srl_model="raw_pixels", random_target=True), KukaButtonTwin(srl_model="raw_pixels")):
    arrays.append(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 16))[1])
np.savez(sys.argv[1], *arrays)
"""

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu() -> None:
    """Skip where there is none."""
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU")


def computed(code: str, platform: str, folder: Path) -> list[np.ndarray]:
    """Arrays that a program saves when it runs on a platform."""
    target = folder / f"{platform}.npz"
    environment = os.environ | {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    subprocess.run([sys.executable, "-c", code, str(target)], check=True, cwd=ROOT, env=environment, timeout=300)
    with np.load(target) as arrays:
        return list(arrays.values())


def test_training_is_that_of_the_cpu(tmp_path: Path) -> None:
    pairs = zip(computed(TRAIN, "cuda", tmp_path), computed(TRAIN, "cpu", tmp_path), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_pictures_are_those_of_the_cpu(tmp_path: Path) -> None:
    for ours, theirs in zip(computed(DRAW, "cuda", tmp_path), computed(DRAW, "cpu", tmp_path), strict=True):
        assert theirs.std() > 20
        assert np.abs(ours.astype(int) - theirs).mean() < 0.1
