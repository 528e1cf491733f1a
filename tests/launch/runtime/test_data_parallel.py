"""One run over several devices, and over several processes: the learner is that of a single device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from launch.runtime.drivers.device import DeviceDriver
from tests.driver_cases import ITERATIONS, MAX_CHUNK, assert_same, bits, learner, run

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
import jax, numpy as np
from launch.runtime.drivers.device import DeviceDriver
from tests.driver_cases import ITERATIONS, MAX_CHUNK, bits, learner, run
name, out, process, port = sys.argv[1:]
if port != "0":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
assert len(jax.devices()) == 4 and len(jax.local_devices()) == (4 if port == "0" else 2)
case = learner(name)
driver = DeviceDriver(case.env, case.agent, case.tree(1), np.array([3]), ITERATIONS, MAX_CHUNK, data_parallel=True)
report = run(driver, 3, chunk=1)
for leaf in jax.tree.leaves((driver.state.env, driver.state.obs)):  # one environment on each device
    assert leaf.sharding.num_devices == 4 and leaf.addressable_shards[0].data.shape[1] == 1
for leaf in jax.tree.leaves(driver.state.agent):
    assert leaf.sharding.num_devices == 4 and leaf.is_fully_replicated
returns = driver.evaluate(10, seed=1)
driver.adopt(driver.acting())
np.savez(out, steps=report.steps, evaluation=returns, episodes=report.episodes.returns, **bits(driver.state.agent))
"""


def trained(name: str, folder: Path, processes: int) -> list[dict[str, np.ndarray]]:
    """What each of the processes, which have four devices together, made of a run."""
    port = 0
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    outputs = [folder / f"{number}.npz" for number in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name, str(out), str(number), str(port)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, out in enumerate(outputs)
    ]
    for process in started:
        log = process.communicate(timeout=300)[1]
        assert process.returncode == 0, log[-2000:]
    return [dict(np.load(out)) for out in outputs]


@pytest.mark.parametrize(
    ("name", "processes"), [("ppo1", 1), ("trpo", 1), pytest.param("trpo", 2, marks=pytest.mark.slow)]
)
def test_spread_over_four_devices_a_run_is_the_same(name: str, processes: int, tmp_path: Path) -> None:
    single = learner(name).device()
    before = bits(single.acting())
    report = run(single, 3)
    learners = bits(single.state.agent)
    returns = single.evaluate(10, seed=1)
    for got in trained(name, tmp_path, processes):
        np.testing.assert_array_equal(got.pop("steps"), report.steps)
        np.testing.assert_allclose(got.pop("episodes"), report.episodes.returns, rtol=1e-4)
        np.testing.assert_allclose(got.pop("evaluation"), returns, rtol=1e-3, atol=1e-4)
        assert_same(got, learners, 1e-4)
    moved = [np.abs(learners[f"acting/{path}"] - x).max() for path, x in before.items() if f"acting/{path}" in learners]
    assert max(moved) > 1e-3  # it has learned something to compare


def test_environments_must_divide_over_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    case = learner("ppo1")
    three = jax.devices() * 3
    monkeypatch.setattr(jax, "devices", lambda: three)
    with pytest.raises(ValueError, match="--data-parallel: 4 environments do not divide over 3 devices"):
        DeviceDriver(case.env, case.agent, case.tree(1), np.array([3]), ITERATIONS, MAX_CHUNK, data_parallel=True)
