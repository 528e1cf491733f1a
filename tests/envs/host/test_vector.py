"""The worker pool: results against plain stepping, groups, masks, faults, and processes that go away."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from faulty_envs import (
    CountingEnv,
    DyingEnv,
    DyingInResetEnv,
    ModulesEnv,
    NotFiniteEnv,
    PictureEnv,
    RaisingEnv,
    SleepingEnv,
    UnbuildableEnv,
)
from pool_cases import END, check_death_without_auto_reset, seeds, step

from envs.host.vector import PoolStep, VectorPool, WorkerError
from envs.host.worker import episode_seed
from envs.make import EnvOptions, host_factory

ROOT = Path(__file__).resolve().parents[3]


def plain_steps(env_id: str, index: int, actions: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
    """Step one Gymnasium environment by hand with the pool's seeds: first observation, then PoolStep rows."""
    env = gymnasium.make(env_id)
    episode, rows = 0, []
    first, _ = env.reset(seed=episode_seed(3, index, episode))
    for action in actions:
        successor, reward, terminated, truncated, _ = env.step(action)
        obs = successor
        if terminated or truncated:
            episode += 1
            obs, _ = env.reset(seed=episode_seed(3, index, episode))
        rows.append((obs, np.float32(reward), terminated, truncated, successor))
    return first, rows


@pytest.mark.parametrize(("env_id", "steps"), [("CartPole-v1", 120), ("Pendulum-v1", 420)])
def test_pool_equals_plain_stepping(env_id: str, steps: int) -> None:
    generator = np.random.default_rng(0)
    discrete = env_id == "CartPole-v1"
    actions = generator.integers(2, size=(steps, 3)) if discrete else generator.uniform(-2, 2, (steps, 3, 1))
    actions = actions if discrete else actions.astype(np.float32)
    with closing(VectorPool(host_factory(EnvOptions(env_id)), seeds(3, run=3), num_workers=2)) as pool:
        first = pool.reset()
        steps_of_pool = [step(pool, action) for action in actions]
    ends = 0
    for index in range(3):
        expected_first, rows = plain_steps(env_id, index, actions[:, index])
        np.testing.assert_array_equal(first[index], expected_first)
        for got, row in zip(steps_of_pool, rows, strict=True):
            for name, value, expected in zip(PoolStep._fields, got, row, strict=True):
                np.testing.assert_array_equal(value[index], expected, err_msg=name)
        ends += sum(row[2] or row[3] for row in rows)
    assert ends >= 6  # otherwise nothing was seen of a reset


def test_groups_do_not_change_trajectories() -> None:
    factory = host_factory(EnvOptions("CartPole-v1"))
    actions = np.random.default_rng(1).integers(2, size=(80, 5))
    with closing(VectorPool(factory, seeds(5), num_workers=2)) as pool:
        whole = [pool.reset(), *(step(pool, action).next_obs for action in actions)]
    groups = [[3, 0], [4, 1, 2]]
    with closing(VectorPool(factory, seeds(5), groups=groups, num_workers=2)) as pool:
        assert [group.tolist() for group in pool.groups] == groups
        np.testing.assert_array_equal(pool.reset(), whole[0])
        for number, group in enumerate(groups):
            pool.send(number, actions[0, group])
        for t in range(80):
            for number, group in reversed(list(enumerate(groups))):  # in another order than they were sent
                np.testing.assert_array_equal(pool.receive(number).next_obs, whole[t + 1][group])
                if t + 1 < 80:
                    pool.send(number, actions[t + 1, group])


def test_groups_are_spread_over_all_workers() -> None:
    with closing(VectorPool(CountingEnv, seeds(5), groups=[[3, 0], [4, 1, 2]], num_workers=2)) as pool:
        assert [sorted(worker.setup.indices.values()) for worker in pool._workers] == [[2, 3, 4], [0, 1]]


def test_the_first_group_that_is_done_is_ready() -> None:
    with closing(VectorPool(SleepingEnv, seeds(2), groups=[[1], [0]], num_workers=2)) as pool:
        pool.reset()
        with pytest.raises(RuntimeError, match="without send"):
            pool.ready()
        pool.send(0, np.array([2]))  # which takes 0.3 s
        pool.send(1, np.array([5]))
        for steps in range(1, 4):
            assert pool.ready() == pool.ready() == 1
            assert pool.receive(1).obs[0, 1] == steps
            pool.send(1, np.array([5]))
        pool.receive(1)
        assert pool.ready() == 0
        assert pool.receive(0).obs[0, 1] == 1


def test_results_are_views_and_more_workers_than_a_group_has_environments_are_fine() -> None:
    with closing(VectorPool(CountingEnv, seeds(3), groups=[[0], [1, 2]], num_workers=3)) as pool:
        pool.reset()
        pool.send(0, np.array([4]))
        first = pool.receive(0)
        assert first.obs[0, 1:].tolist() == [1, 4]
        pool.send(0, np.array([5]))
        assert pool.receive(0).obs is first.obs
        assert first.obs[0, 1:].tolist() == [2, 5]
        assert step(pool, [6, 7], group=1).obs[:, 1:].tolist() == [[1, 6], [1, 7]]


def test_inactive_environments_are_left_alone() -> None:
    with closing(VectorPool(CountingEnv, seeds(3), num_workers=2)) as pool:
        first = pool.reset()
        got = step(pool, [1, 2, 3], active=np.array([True, False, True]))
        assert got.reward.tolist() == [1, 0, 1]
        np.testing.assert_array_equal(got.obs[1], first[1])
        np.testing.assert_array_equal(got.next_obs[1], first[1])
        got = step(pool, [4, 5, 6])
        assert got.obs[:, 1:].tolist() == [[2, 4], [1, 5], [2, 6]]


def test_without_auto_reset_an_ended_environment_waits() -> None:
    with closing(VectorPool(partial(CountingEnv, 2), seeds(2), num_workers=1, auto_reset=False)) as pool:
        first = pool.reset()
        step(pool, [0, 0], active=np.array([True, False]))
        flags = [step(pool, [t, t]).truncated.tolist() for t in (1, 2, 3)]
        assert flags == [[True, False], [False, True], [False, False]]
        got = step(pool, [4, 4])
        assert got.reward.tolist() == [0, 0]
        assert got.obs[:, 1:].tolist() == [[2, 1], [2, 2]]  # the final observations stay
        again = pool.reset()
        assert again[:, 1:].tolist() == [[0, -1], [0, -1]]
        assert (again[:, 0] != first[:, 0]).all()  # the next episode has another seed
        assert step(pool, [1, 1]).reward.tolist() == [1, 1]


def test_pictures_and_continuous_actions() -> None:
    with closing(VectorPool(PictureEnv, seeds(2), num_workers=2)) as pool:
        assert (pool.spec.obs_dtype, pool.spec.obs_shape, pool.spec.action_shape) == ("uint8", (4, 4, 3), (2,))
        pool.reset()
        got = [step(pool, np.zeros((2, 2))) for _ in range(4)][-1]
        assert got.terminated.tolist() == [True, True]
        assert (got.next_obs == 14).all() and (got.obs == 10).all()
        assert got.obs.dtype == np.uint8 and got.reward.dtype == np.float32


def test_episode_seeds_differ() -> None:
    values = {episode_seed(run, index, episode) for run in range(4) for index in range(4) for episode in range(4)}
    assert len(values) == 64
    assert episode_seed(1, 2, 3) == episode_seed(1, 2, 3)


def test_workers_load_no_jax_and_keep_to_one_thread() -> None:
    import jax  # noqa: F401  # what the parent has loaded must not matter

    with closing(VectorPool(ModulesEnv, seeds(2), num_workers=2)) as pool:
        assert pool.reset()[:, :2].tolist() == [[0, 1], [0, 1]]


def test_environment_that_raises() -> None:
    pool = VectorPool(RaisingEnv, seeds(4), num_workers=2)
    pool.reset()
    pool.send(0, np.array([0, 0, 1, 0]))
    with pytest.raises(
        WorkerError, match=rf"^environment 2: ZeroDivisionError: .* \(in step, episode 0\){END}"
    ) as error:
        pool.receive(0)
    assert "misbehave" in error.value.__notes__[0]  # where it happened
    with pytest.raises(RuntimeError, match="closed"):
        pool.reset()
    pool.close()


def test_environment_that_cannot_be_made() -> None:
    with pytest.raises(
        WorkerError, match=rf"^environment \d cannot be made: FileNotFoundError: no model.urdf here{END}"
    ):
        VectorPool(UnbuildableEnv, seeds(2))
    with pytest.raises(WorkerError, match=r"worker 0 died while it made its environments \(exit code 3\)"):
        VectorPool(partial(os._exit, 3), seeds(1))
    with pytest.raises(ValueError, match="make_env cannot be sent to a worker"):
        VectorPool(lambda: CountingEnv(), seeds(1))


@pytest.mark.parametrize(("action", "what"), [(1, "observation is not finite"), (2, "reward is not finite: inf")])
def test_numbers_that_are_not_finite(action: int, what: str) -> None:
    pool = VectorPool(NotFiniteEnv, seeds(2), num_workers=1)
    pool.reset()
    for _ in range(6):
        step(pool, [3, 3])  # large but finite is fine
    pool.send(0, np.array([0, action]))
    with pytest.raises(WorkerError, match=rf"^environment 1: its {what} \(episode 1\){END}"):
        pool.receive(0)


def test_environment_that_hangs() -> None:
    pool = VectorPool(SleepingEnv, seeds(3), num_workers=1, timeout=0.5)
    processes = [worker.process for worker in pool._workers]
    pool.reset()
    step(pool, [2, 2, 2])  # 0.9 s together, but none longer than the limit
    pool.send(0, np.array([0, 0, 1]))
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"^environment 2 did not answer within 0.5 s: its worker was killed$"):
        pool.receive(0)
    assert time.monotonic() - start < 5
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("during_step", [False, True])
def test_killed_worker_is_restarted(during_step: bool, caplog: pytest.LogCaptureFixture) -> None:
    # three groups, so that the two workers share each
    with closing(VectorPool(SleepingEnv, seeds(6), groups=[[0, 1], [2, 3], [4, 5]], num_workers=2)) as pool:
        pool.reset()
        before = [step(pool, [5, 5], group) for group in (0, 1)]
        victim = pool._workers[0]
        mine = [index in victim.setup.indices.values() for index in (0, 1)]
        assert sum(mine) == 1
        pool.send(1, np.array([6, 6]))
        if during_step:
            pool.receive(1)
            pool.send(0, np.array([2, 2]))
            time.sleep(0.1)
        victim.process.kill()
        victim.process.wait()
        with caplog.at_level(logging.WARNING):
            if not during_step:
                pool.send(0, np.array([6, 6]))
            got = pool.receive(0)
        assert got.truncated.tolist() == mine
        assert not got.terminated.any()
        lost, kept = mine.index(True), mine.index(False)
        np.testing.assert_array_equal(got.next_obs[lost], before[0].obs[lost])
        assert got.obs[lost, 1:].tolist() == [0, -1] and got.reward[lost] == 0
        assert got.next_obs[kept, 1] == 2
        if during_step:
            pool.send(1, np.array([6, 6]))
        # In the other group a step that was not answered is lost too; else it stands and the next tells of the loss.
        cut = pool.receive(1).truncated.sum()
        if during_step:
            assert cut == 1
        assert cut + step(pool, [3, 3], group=1).truncated.sum() == 1
        assert pool.restarts == 1
        assert "worker 0 died" in caplog.text and "restarted, 3 environments" in caplog.text
        for _ in range(2):
            assert step(pool, [3, 3], 0).obs[lost, 2] == 3  # and on it goes
        assert pool.restarts == 1


def test_killed_worker_without_auto_reset() -> None:
    with closing(VectorPool(CountingEnv, seeds(2), num_workers=2, auto_reset=False)) as pool:
        check_death_without_auto_reset(pool, lambda: pool._workers[1].process.kill())


def test_environment_that_keeps_killing_its_worker() -> None:
    pool = VectorPool(DyingEnv, seeds(2), num_workers=1)
    pool.reset()
    truncations = 0
    with pytest.raises(WorkerError, match=r"^worker 0 died in environment 1 \(exit code 7\) 4 times without a step"):
        for _ in range(20):
            truncations += step(pool, [0, 1]).truncated[1]
    assert truncations == pool.restarts == 3


def test_misuse() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        VectorPool(CountingEnv, seeds(3), groups=[[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="at least one environment"):
        VectorPool(CountingEnv, [])
    descriptors = len(os.listdir("/proc/self/fd"))
    pool = VectorPool(CountingEnv, seeds(2), num_workers=1)
    with pytest.raises(RuntimeError, match="before reset"):
        pool.send(0, np.zeros(2, int))
    pool.reset()
    with pytest.raises(RuntimeError, match="without send"):
        pool.receive(0)
    with pytest.raises(ValueError, match="broadcast"):
        pool.send(0, np.zeros((2, 3), int))
    pool.send(0, np.zeros(2, int))
    with pytest.raises(RuntimeError, match="twice"):
        pool.send(0, np.zeros(2, int))
    with pytest.raises(RuntimeError, match="receive it first"):
        pool.reset()
    pool.receive(0)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.send(0, np.zeros(2, int))
    del pool  # and with it the mapping of the shared memory
    assert len(os.listdir("/proc/self/fd")) == descriptors


SCRIPT = """
    import signal
    import sys
    import numpy as np
    from faulty_envs import SleepingEnv
    from envs.host.vector import VectorPool

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
    pool = VectorPool(SleepingEnv, [(0, i) for i in range(2)], num_workers=2)
    pool.reset()
    if {hang}:
        pool.send(0, np.ones(2, int))
    print(*(worker.process.pid for worker in pool._workers), flush=True)
    try:
        if {hang}:
            pool.receive(0)
        while True:
            pool.send(0, np.zeros(2, int))
            pool.receive(0)
    except KeyboardInterrupt:
        pool.close()
        sys.exit(5)
"""


def start_script(hang: bool) -> tuple[subprocess.Popen, list[int]]:
    """Run a program that steps a pool for ever; its workers' process ids."""
    script = textwrap.dedent(SCRIPT).format(hang=hang)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("hang", [False, True])
def test_no_orphans_after_kill_9(hang: bool) -> None:
    memory = set(os.listdir("/dev/shm"))
    process, workers = start_script(hang)
    assert len(workers) == 2 and all(map(alive, workers))
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))
    assert set(os.listdir("/dev/shm")) <= memory


def test_ctrl_c_closes_in_order() -> None:
    process, workers = start_script(hang=False)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 5
    assert "Traceback" not in errors
    assert not any(map(alive, workers))


def test_reset_to_a_numbered_episode() -> None:
    """The same number begins the same episode, whatever was played before."""
    with_number = VectorPool(host_factory(EnvOptions("CartPole-v1")), [(7, 0), (7, 1)], num_workers=1)
    try:
        first = with_number.reset(5)
        other = with_number.reset()
        again = with_number.reset(5)
    finally:
        with_number.close()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("workers", "times"), [(1, 1), (1, 3), (2, 1)])
def test_a_worker_that_dies_in_a_reset_changes_no_episode(workers: int, times: int, tmp_path: Path) -> None:
    fatal = episode_seed(0, 1, 5)  # environment 1, after environment 0 of the same worker has begun
    factory = partial(DyingInResetEnv, tmp_path / "deaths", fatal, times)
    with closing(VectorPool(factory, seeds(2), num_workers=workers)) as pool:
        for number, begun in ((0, pool.reset()), (5, pool.reset(5)), (6, pool.reset()), (5, pool.reset(5))):
            assert begun[:, 0].tolist() == [episode_seed(0, index, number) % 1000 for index in range(2)]
        assert pool.restarts == times
        assert step(pool, [4, 5]).obs[:, 1:].tolist() == [[1, 4], [1, 5]]


def test_a_reset_that_always_kills_its_worker_ends_the_pool(tmp_path: Path) -> None:
    factory = partial(DyingInResetEnv, tmp_path / "deaths", episode_seed(0, 1, 0), 9)
    pool = VectorPool(factory, seeds(2), num_workers=1)
    with pytest.raises(WorkerError, match=r"^worker 0 died in environment 1 \(exit code 7\) 4 times without a step"):
        pool.reset()
