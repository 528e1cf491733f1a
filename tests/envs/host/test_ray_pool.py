"""The pool of Ray actors: the same steps as worker processes, faults, and nodes that go away."""

from __future__ import annotations

import logging
import os
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faulty_envs import (
    CountingEnv,
    DyingEnv,
    ModulesEnv,
    NotFiniteEnv,
    PictureEnv,
    RaisingEnv,
    SleepingEnv,
    UnbuildableEnv,
)
from pool_cases import END, check_death_without_auto_reset, seeds, step

from envs.host.pool import WorkerError
from envs.host.vector import VectorPool
from envs.make import EnvOptions, host_factory

ray = pytest.importorskip("ray")
from envs.host.ray_pool import RayPool  # noqa: E402  # needs Ray

ROOT = Path(__file__).resolve().parents[3]
SIZE = {"object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    """A head that simulates nothing and two nodes with one core each."""
    from ray.cluster_utils import Cluster

    # Ray's own niceness would starve the actors where other tests run beside these.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SIZE})
    nodes = [made.add_node(num_cpus=1, **SIZE) for _ in range(2)]
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    ray.init(made.address, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.fixture(autouse=True)
def no_actor_is_left(cluster):
    yield
    limit = time.monotonic() + 20
    while actors():
        assert time.monotonic() < limit
        time.sleep(0.1)


def actors() -> list[dict]:
    """Actors of the cluster that are not dead; the public way to know needs Ray's dashboard."""
    return [actor for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]


def played(kind: type, options: EnvOptions, actions: np.ndarray, **kwargs) -> list[np.ndarray]:
    """All that a pool of two groups returns for actions [T, 5, ...] and a reset to episode 7 in the middle."""
    groups = [[3, 0], [4, 1, 2]]
    with closing(kind(host_factory(options), seeds(5, run=3), groups=groups, num_workers=2, **kwargs)) as pool:
        told = [pool.reset()]
        for t, action in enumerate(actions):
            if t == len(actions) // 2:
                told.append(pool.reset(7))
            for number, group in enumerate(groups):
                pool.send(number, action[group])
            ready = pool.ready()
            for number in (ready, 1 - ready):
                pool.receive(number)
            told += [array.copy() for number in (0, 1) for array in pool._views[number].step]
    return told


@pytest.mark.parametrize(
    ("options", "steps", "auto_reset"),
    [
        (EnvOptions("MobileRobotGymEnv-v0"), 520, True),
        (EnvOptions("CartPole-v1"), 120, True),
        (EnvOptions("CartPole-v1"), 60, False),
        (EnvOptions("MobileRobotGymEnv-v0", srl_model="raw_pixels", image_size=64), 4, True),
    ],
)
def test_the_steps_are_those_of_worker_processes(options: EnvOptions, steps: int, auto_reset: bool) -> None:
    number = 4 if "Mobile" in options.env else 2
    actions = np.random.default_rng(0).integers(number, size=(steps, 5))
    ours, local = (played(kind, options, actions, auto_reset=auto_reset) for kind in (RayPool, VectorPool))
    assert len(ours) == len(local) == 2 + 10 * steps
    for one, other in zip(ours, local, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    if steps > 50:  # something was seen of the ends of episodes
        assert any(array.any() for array in ours if array.dtype == bool)


def test_workers_are_on_all_nodes_import_no_jax_and_have_one_thread(cluster) -> None:
    with closing(RayPool(ModulesEnv, seeds(4))) as pool:
        assert pool.reset()[:, :2].tolist() == [[0, 1]] * 4
        nodes = {node.node_id for node in cluster[1]}
        assert len(pool._workers) == 2
        assert {actor["Address"]["NodeID"] for actor in actors()} == nodes


def test_pictures_and_inactive_environments() -> None:
    with closing(RayPool(PictureEnv, seeds(2), num_workers=2)) as pool:
        pool.reset()
        values = [step(pool, np.zeros((2, 2), np.float32), active=[True, t > 0]) for t in range(4)]
        assert [got.next_obs[:, 0, 0, 0].tolist() for got in values] == [[11, 10], [12, 11], [13, 12], [14, 13]]
        assert values[3].obs[:, 0, 0, 0].tolist() == [10, 13]
        assert values[0].obs.dtype == np.uint8


def test_the_first_that_is_done_is_ready() -> None:
    with closing(RayPool(SleepingEnv, seeds(2), groups=[[1], [0]], num_workers=2)) as pool:
        pool.reset()
        pool.send(0, np.array([2]))  # which takes 0.3 s
        pool.send(1, np.array([5]))
        assert pool.ready() == pool.ready() == 1
        assert pool.receive(1).obs[0, 1] == 1
        assert pool.ready() == 0
        assert pool.receive(0).obs[0, 1] == 1


def test_faults_are_one_line() -> None:
    pool = RayPool(RaisingEnv, seeds(4), num_workers=2)
    pool.reset()
    with pytest.raises(
        WorkerError, match=r"^environment 2: ZeroDivisionError: .* \(in step, episode 0\)" + END
    ) as info:
        step(pool, [0, 0, 1, 0])
    assert "misbehave" in info.value.__notes__[0]
    with pytest.raises(RuntimeError, match="closed"):
        pool.reset()
    with pytest.raises(
        WorkerError, match=r"^environment \d cannot be made: FileNotFoundError: no model.urdf here" + END
    ):
        RayPool(UnbuildableEnv, seeds(2))
    with pytest.raises(WorkerError, match=r"^worker 0 died while it made its environments"):
        RayPool(partial(os._exit, 3), seeds(1))
    for action, what in ((1, "observation"), (2, "reward")):
        pool = RayPool(NotFiniteEnv, seeds(2), num_workers=1)
        pool.reset()
        with pytest.raises(WorkerError, match=f"^environment 1: its {what} is not finite"):
            step(pool, [0, action])
    with closing(RayPool(NotFiniteEnv, seeds(1), finite=False)) as pool:
        pool.reset()
        assert step(pool, [2]).reward == np.inf


def test_an_environment_that_hangs_ends_the_pool() -> None:
    pool = RayPool(SleepingEnv, seeds(2), num_workers=2, timeout=1.0)
    pool.reset()
    with pytest.raises(WorkerError, match=r"^worker 1 did not answer within 2 s: it was killed" + END):
        step(pool, [0, 1])


@pytest.mark.parametrize("during_step", [False, True])
def test_a_killed_actor_is_replaced(during_step: bool, caplog: pytest.LogCaptureFixture) -> None:
    with closing(RayPool(SleepingEnv, seeds(4), num_workers=2)) as pool:
        pool.reset()
        before = step(pool, [5] * 4)
        mine = [i in pool._workers[0].setup.indices.values() for i in range(4)]
        if during_step:
            pool.send(0, np.full(4, 2))
            time.sleep(0.1)
        ray.kill(pool._workers[0].actor)
        if not during_step:
            time.sleep(0.5)
            pool.send(0, np.full(4, 6))
        with caplog.at_level(logging.WARNING):
            got = pool.receive(0)
        assert got.truncated.tolist() == mine and sum(mine) == 2 and not got.terminated.any()
        np.testing.assert_array_equal(got.next_obs[mine], before.obs[mine])
        assert got.reward.tolist() == [0.0 if lost else 2.0 for lost in mine]
        # A new episode has begun, the one after that which was lost.
        with closing(VectorPool(CountingEnv, seeds(4), num_workers=1)) as other:
            np.testing.assert_array_equal(got.obs[mine], other.reset(1)[mine])
        assert pool.restarts == 1
        assert "worker 0 died" in caplog.text and "restarted, 2 environments" in caplog.text
        assert step(pool, [3] * 4).obs[:, 1].tolist() == [1.0 if lost else 3.0 for lost in mine]


def test_a_killed_actor_without_auto_reset() -> None:
    with closing(RayPool(CountingEnv, seeds(2), num_workers=2, auto_reset=False)) as pool:
        check_death_without_auto_reset(pool, lambda: ray.kill(pool._workers[1].actor))


def test_an_environment_that_keeps_killing_its_actor() -> None:
    pool = RayPool(DyingEnv, seeds(2), groups=[[0], [1]], num_workers=1)
    pool.reset()
    truncations = 0
    with pytest.raises(WorkerError, match=r"^worker 0 died \(\w+\) 4 times without a step in between" + END):
        for _ in range(20):  # the other group goes on meanwhile
            pool.send(0, np.array([0]))
            pool.receive(0)
            truncations += step(pool, [1], group=1).truncated[0]
    assert pool.restarts == 3 and 3 <= truncations <= 4


@pytest.mark.slow
def test_a_lost_node_costs_the_episodes_on_it(cluster) -> None:
    made, nodes = cluster
    lost = made.add_node(num_cpus=2, **SIZE)
    with closing(RayPool(partial(CountingEnv, 10**6), seeds(4), num_workers=4)) as pool:
        pool.reset()
        step(pool, [0] * 4)
        there = [worker.node == lost.node_id for worker in pool._workers]
        assert sum(there) == 2
        pool.send(0, np.zeros(4, int))
        made.remove_node(lost, allow_graceful=False)
        cut = pool.receive(0).truncated.copy()
        limit = time.monotonic() + 60
        while not cut[there].all():  # actors may outlive their node for some steps
            assert time.monotonic() < limit
            cut |= step(pool, [0] * 4).truncated
        assert cut.tolist() == there and pool.restarts >= 2
        assert {worker.node for worker in pool._workers} <= {node.node_id for node in nodes}
        assert len({worker.node for worker in pool._workers}) == 2
        assert not step(pool, [0] * 4).truncated.any()
