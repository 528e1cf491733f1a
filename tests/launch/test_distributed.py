"""Several processes for one run: through the command line, and how they find each other."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from launch.runtime import distributed
from launch.runtime.errors import UsageError
from launch.train import main
from tests.launch.runtime.test_training import metrics, model, run_folder

ROOT = Path(__file__).resolve().parents[2]
COMMON = ["--env=CartPole-v1", "--simulator=jax", "--data-parallel", "--num-cpu=4", "--net-arch=8", "--no-vis"]
COMMON += ["--eval-episodes=4", "--final-eval-episodes=4", "--min-episodes-save=0", "--eval-every=192"]
ALGO = {
    "ppo1": ["--algo=ppo1", "--timesteps-per-actorbatch=16", "--optim-batchsize=16", "--optim-epochs=2"],
    "trpo": ["--algo=trpo", "--timesteps-per-batch=16", "--vf-batchsize=16"],
}


def free_port(above: int = 1024) -> int:
    """A port of this machine that nobody uses."""
    for port in range(max(above, 20_000 + os.getpid() % 10_000), 2**16):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("", port))
            return port
    raise AssertionError("all ports are used")


def start(arguments: list[str], devices: int, environment: dict[str, str]) -> subprocess.Popen:
    """Start `launch/train.py` in a process that has so many devices."""
    surroundings = os.environ | environment | {"JAX_PLATFORMS": "cpu"}
    surroundings |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "launch/train.py", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=pipe, stderr=pipe, text=True)


def finished(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        errors = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def by_address(number: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Flags and environment variables of a process that is told where process 0 is."""
    return [f"--coordinator=127.0.0.1:{port}", "--num-processes=2", f"--process-id={number}"], {}


def by_slurm(number: int, port: int) -> tuple[list[str], dict[str, str]]:
    """The same under SLURM, of which jax takes the port from the number of the job."""
    job = {"SLURM_JOB_ID": str(port - (2**16 - 2**12)), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    job |= {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_STEP_NUM_NODES": "1"}
    return ["--distributed=auto"], job


@pytest.mark.parametrize(
    ("algo", "told"), [("ppo1", by_address), pytest.param("trpo", by_slurm, marks=pytest.mark.slow)]
)
def test_two_processes_are_one(algo: str, told, tmp_path: Path) -> None:
    """They write one run folder, that of a single process; and a single process can go on with it."""
    command = [*COMMON, *ALGO[algo]]
    port = free_port(2**16 - 2**12)
    flags = [told(number, port) for number in range(2)]
    line = [*command, "--num-timesteps=384", f"--log-dir={tmp_path / 'two'}"]
    ended = finished([start([*line, *own], 2, surroundings) for own, surroundings in flags])
    for code, error in ended:
        assert code == 0, error[-2000:]
    assert "run folder" in ended[0][1] and "run folder" not in ended[1][1] and "steps" not in ended[1][1]
    assert main([*command, "--num-timesteps=384", f"--log-dir={tmp_path / 'one'}"]) == 0
    two, one = run_folder(tmp_path / "two"), run_folder(tmp_path / "one")
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    for name in ("best", "final"):
        expected = model(one, name)
        for leaf, value in model(two, name).items():
            np.testing.assert_allclose(value, expected[leaf], rtol=1e-3, atol=1e-4, err_msg=leaf)
    for got, line in zip(metrics(two), metrics(one), strict=True):
        assert got == {key: pytest.approx(value, rel=1e-2, abs=1e-3) for key, value in line.items()}
    for process in range(4):
        name = f"{process}.monitor.csv"
        rows = [[row.split(",")[:2] for row in (run / name).read_text().splitlines()[2:]] for run in (two, one)]
        assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_run_of_two_processes_is_resumed_by_two_or_by_one(tmp_path: Path) -> None:
    """Stopped half-way by a budget in the code of a plugin, it goes on as if it had not been."""
    line = [*COMMON, *ALGO["ppo1"], "--num-timesteps=1280", "--checkpoint-every=128"]
    assert main([*line, f"--log-dir={tmp_path / 'whole'}"]) == 0
    port = free_port()
    pair = [start([*line, f"--log-dir={tmp_path / 'cut'}", *by_address(i, port)[0]], 2, {}) for i in range(2)]
    try:
        while not list(tmp_path.glob("cut/*/*/*/*/checkpoints/[0-9]*")):
            assert pair[0].poll() is None
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    folder = run_folder(tmp_path / "cut")
    port = free_port()
    ended = finished([start([f"--resume={folder}", *by_address(i, port)[0]], 2, {}) for i in range(2)])
    for code, error in ended:
        assert code == 0, error[-2000:]
    expected = model(run_folder(tmp_path / "whole"), "final")
    for leaf, value in model(folder, "final").items():
        np.testing.assert_allclose(value, expected[leaf], rtol=1e-2, atol=1e-3, err_msg=leaf)
    assert main([f"--resume={folder}"]) == 0  # done already: nothing is left to do


def meet(*calls: tuple[int, int], timeout: float = 20.0) -> list[str]:
    """What each of several processes (number, number of processes), here threads, gets to hear; "" if all is well."""
    address = f"127.0.0.1:{free_port()}"

    def one(call: tuple[int, int]) -> str:
        try:
            distributed._meet(address, call[1], call[0], timeout)
        except UsageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_processes_meet() -> None:
    assert meet((0, 3), (2, 3), (1, 3)) == [""] * 3
    assert meet((0, 1)) == [""]


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (((0, 2), (1, 3)), "--num-processes=3 in process 1 is 2 in process 0"),
        (((0, 3), (1, 3), (1, 3)), "--process-id=1 was given to two processes"),
    ],
)
def test_processes_that_disagree_all_hear_of_it(calls, message: str) -> None:
    assert meet(*calls) == [message] * len(calls)


def test_missing_processes_are_named_in_time() -> None:
    (first, second) = meet((0, 4), (2, 4), timeout=1.0)
    assert first.endswith("process 1, 3 did not come in time") and second == first
    (lonely,) = meet((1, 2), timeout=1.0)
    assert "process 0 was not there, or waited for others, for 1 s" in lonely


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match="cannot be used here"):
            distributed._meet(address, 2, 0, 1.0)


def test_without_a_cluster_auto_is_one_line() -> None:
    ((code, error),) = finished([start([*COMMON, "--algo=ppo1", "--distributed=auto"], 1, {})])
    assert code == 2 and error.startswith("error: --distributed=auto: neither SLURM nor Open MPI")
    assert error.count("\n") == 1
