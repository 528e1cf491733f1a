"""Environments in worker processes, stepped in groups so that simulation overlaps acting.

A worker is a fresh interpreter started by `subprocess`, not by `multiprocessing`: spawning through multiprocessing
would import the parent's main module, and jax with it, into every worker, and forking a process that runs jax threads
can deadlock. Observations, actions, rewards and flags lie in anonymous shared memory that has no name to leak; what
travels per worker and group is one byte each way.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.host.worker import BUILT, CLOSE, FAILED, MAX_GROUPS, RESET, Memory, Setup, receive_object, send_object
from envs.types import Spec

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3  # restarts in a row at the same place before a pool gives up
START_TIMEOUT = 120.0  # seconds a worker may take for its imports and for each environment it builds
CLOSE_TIMEOUT = 5.0  # seconds the workers may take together to close their environments
# A worker is one simulation thread of many: numerical libraries in it must not start threads of their own.
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerError(RuntimeError):
    """An environment raised, hung or returned a number that is not finite, or its worker keeps dying.

    The message is one line; the worker's traceback, where there is one, is attached as a note.
    """


class PoolStep(NamedTuple):
    """What a group's environments did; arrays lead with [len(group)] and are overwritten after the group's next send.

    Attributes:
        obs: Observation to act on next, after auto-reset.
        reward: float32.
        terminated: bool, the task ended.
        truncated: bool, a time limit (or the death of a worker) cut the episode.
        next_obs: The true successor, never the observation of a reset.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray


class _Worker:
    """The pool's side of one worker: process, connection, and the messages not yet answered, oldest first."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.slots = np.array(sorted(setup.indices), np.int64)
        self.outstanding: deque[int] = deque()
        self.start()

    def start(self) -> None:
        """Start the process and send it its set-up."""
        self.connection, inherited = socket.socketpair()
        self.connection.settimeout(START_TIMEOUT)
        environment = dict(os.environ) | dict.fromkeys(_THREAD_LIMITS, "1")
        # The parent's own search path, so that both import the same modules from wherever the parent was started.
        environment["PYTHONPATH"] = os.pathsep.join(_import_path())
        fd = inherited.fileno()
        with inherited:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from envs.host.worker import main; main({fd})"],
                stdin=subprocess.DEVNULL,
                stdout=2,  # simulators print banners; the parent's standard output stays its own
                env=environment,
                pass_fds=(fd, self.setup.memory),
                process_group=0,  # Ctrl-C in a terminal reaches the parent only, even while a worker starts
            )
        try:
            send_object(self.connection, self.setup)
        except ConnectionError:
            pass  # dead already: the first read says so

    def send(self, message: int) -> None:
        """Send a message of one byte and note that its answer is outstanding."""
        self.outstanding.append(message)
        self.transmit(message)

    def transmit(self, message: int) -> None:
        """Send one byte; a dead worker is noticed by the read that follows."""
        try:
            self.connection.send(bytes([message]))
        except OSError:
            pass

    def read(self) -> int | None:
        """The worker's next byte, or None when it died; TimeoutError when nothing came in time."""
        try:
            answer = self.connection.recv(1)
        except ConnectionError:
            return None
        return answer[0] if answer else None

    def kill(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def _import_path() -> list[str]:
    """The directories this process imports from, absolute, the root of this package first."""
    root = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([root, *(os.path.abspath(entry) for entry in sys.path)]))


def _anonymous_memory() -> int:
    """A file descriptor of memory without a name: it is gone when the last process that holds it is."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("srl_jax_pool")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class VectorPool:
    """N environments in worker processes.

    `reset`, then for every group `send` its actions and later `receive` its step. While one group simulates, the caller
    can act for another; two groups keep the workers busy.

    Args:
        make_env: Picklable callable that makes one environment whose observations are float32 or uint8 arrays
            (`envs.make.host_factory`); called in the workers.
        seeds: (run seed, index) per environment. The reset of an episode is seeded by (run seed, index, episode).
        groups: Environment indices of each group, every environment in exactly one; None for a single group.
        num_workers: Number of processes; by default one per core, at most one per environment. Every group is spread
            over all of them.
        auto_reset: Reset an environment within the step that ends its episode. Otherwise it is left alone, as if
            inactive, until `reset`.
        timeout: Seconds that one reset or step of one environment may take before its worker is killed.

    Raises:
        ValueError: `seeds` is empty, `groups` is no partition, or `make_env` cannot be pickled.
        WorkerError: An environment cannot be made.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        seeds: Sequence[tuple[int, int]],
        *,
        groups: Sequence[Sequence[int]] | None = None,
        num_workers: int | None = None,
        auto_reset: bool = True,
        timeout: float = 60.0,
    ) -> None:
        self.num_envs = len(seeds)
        self.groups = _check_groups(groups, self.num_envs)
        self.timeout = timeout
        self.restarts = 0
        self._workers: list[_Worker] = []
        self._auto_reset = auto_reset
        self._ready = False
        self._deaths: dict[int, tuple[int, int]] = {}
        self._order = np.concatenate(self.groups)  # environment index of each slot; a group's slots are contiguous
        self._slot = np.argsort(self._order)
        self._descriptor = _anonymous_memory()
        count = max(1, min(num_workers or os.cpu_count() or 1, self.num_envs))
        try:
            factory = _pickled(make_env)
            for number in range(count):
                self._workers.append(_Worker(self._setup_of(number, count, factory, seeds, auto_reset)))
            self._begin()
        except BaseException:
            self.close()
            raise

    def _setup_of(
        self, number: int, count: int, factory: bytes, seeds: Sequence[tuple[int, int]], auto_reset: bool
    ) -> Setup:
        """What one of `count` workers is told: its slots are every count-th, so that each group meets all workers."""
        groups, start = [], 0
        for group in self.groups:
            slots = range(start, start + len(group))
            groups.append(tuple(slot for slot in slots if slot % count == number))
            start += len(group)
        indices = {slot: int(self._order[slot]) for slots in groups for slot in slots}
        return Setup(
            factory=factory,
            memory=self._descriptor,
            num_envs=self.num_envs,
            num_workers=count,
            worker=number,
            groups=tuple(groups),
            indices=indices,
            seeds={slot: (int(seeds[i][0]), int(seeds[i][1])) for slot, i in indices.items()},
            auto_reset=auto_reset,
        )

    def _begin(self) -> None:
        """Learn the environments' spec from the workers and map the shared arrays."""
        specs = [self._built(worker) for worker in self._workers]
        if None in specs:
            number = specs.index(None)
            code = self._workers[number].process.wait()
            raise self._fail(f"worker {number} died while it made its environments (exit code {code})")
        assert specs[0] is not None
        self.spec: Spec = specs[0]
        self._memory = memory = Memory(self._descriptor, self.spec, self.num_envs, len(self._workers))
        memory.episode[:] = -1
        memory.current[:] = -1
        for worker in self._workers:
            self._acquaint(worker)
        self._results, start = [], 0
        for group in self.groups:
            rows = slice(start, start + len(group))
            arrays = (memory.obs, memory.reward, memory.terminated, memory.truncated, memory.next_obs)
            self._results.append((rows, PoolStep(*(array[rows] for array in arrays))))
            start += len(group)
        self._users = [[w for w in self._workers if w.setup.groups[g]] for g in range(len(self.groups))]

    def _built(self, worker: _Worker) -> Spec | None:
        """Wait until a new worker has made its environments; their spec, or None when the worker died of it."""
        try:
            for _ in worker.slots:
                answer = worker.read()
                if answer is None:
                    return None
                if answer == FAILED:
                    raise self._failure(worker)
                assert answer == BUILT
            return receive_object(worker.connection)
        except TimeoutError:
            number = worker.setup.worker
            raise self._fail(f"worker {number} did not make an environment within {START_TIMEOUT:g} s") from None
        except (EOFError, ConnectionError):
            return None

    def _acquaint(self, worker: _Worker) -> None:
        """Tell a worker the layout of the shared arrays; from now on a call may take `timeout` seconds."""
        try:
            send_object(worker.connection, self.spec)
        except ConnectionError:
            pass  # noticed by the next read
        worker.connection.settimeout(self.timeout)

    def reset(self) -> np.ndarray:
        """Begin a new episode in every environment.

        Returns:
            The first observations [num_envs, ...], in the order of `seeds`; a copy.

        Raises:
            RuntimeError: A group was sent and not received, or the pool is closed.
            WorkerError: An environment failed.
        """
        self._require_open()
        if any(worker.outstanding for worker in self._workers):
            raise RuntimeError("reset() while a group is still stepping: receive it first")
        self._memory.ended[:] = False
        for worker in self._workers:
            worker.send(RESET)
        for worker in self._workers:
            self._await(worker, RESET)
        self._ready = True
        return self._memory.obs[self._slot]

    def send(self, group: int, actions: np.ndarray, active: np.ndarray | None = None) -> None:
        """Start a step of one group; returns at once.

        Args:
            group: Which group.
            actions: [len(group), ...] in the group's order, within the environments' bounds.
            active: bool [len(group)]; an inactive environment is not stepped: its observation stays, its reward is 0.

        Raises:
            RuntimeError: Before the first `reset`, twice without `receive`, or after `close`.
        """
        self._require_open()
        if not self._ready:
            raise RuntimeError("send() before reset()")
        users = self._users[group]
        if group in users[0].outstanding:
            raise RuntimeError(f"send() for group {group} twice: receive() it first")
        rows, _ = self._results[group]
        self._memory.action[rows] = actions
        self._memory.active[rows] = True if active is None else active
        for worker in users:
            worker.send(group)

    def receive(self, group: int) -> PoolStep:
        """Wait for the step of one group.

        Returns:
            Views of the shared arrays, in the group's order, valid until the group's next `send`. An environment whose
            worker died has truncated=True, reward 0 and its last observation as `next_obs`.

        Raises:
            RuntimeError: Nothing was sent to the group, or the pool is closed.
            WorkerError: An environment raised, hung or returned a number that is not finite, or a worker died
                repeatedly. The pool is closed then.
        """
        self._require_open()
        users = self._users[group]
        if group not in users[0].outstanding:
            raise RuntimeError(f"receive() for group {group} without send()")
        for worker in users:
            self._await(worker, group)
        rows, step = self._results[group]
        if not self._auto_reset:
            self._memory.ended[rows] |= step.terminated | step.truncated
        return step

    def close(self) -> None:
        """End the workers, in order where they answer; may be called again."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.transmit(CLOSE)
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for worker in workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("worker %d did not close its environments in time: killed", worker.setup.worker)
            worker.kill()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _require_open(self) -> None:
        """RuntimeError after `close`."""
        if not self._workers:
            raise RuntimeError("the pool is closed")

    def _await(self, worker: _Worker, message: int) -> None:
        """Take a worker's answers until it has answered `message`."""
        while message in worker.outstanding:
            before = self._progress(worker)
            try:
                answer = worker.read()
            except TimeoutError:
                if self._progress(worker) == before:
                    raise self._hung(worker) from None
                continue
            if answer is None:
                self._revive(worker)
            elif answer == FAILED:
                raise self._failure(worker)
            else:
                worker.outstanding.popleft()

    def _progress(self, worker: _Worker) -> int:
        """A number that grows with every reset and step that the worker begins or completes."""
        return int(self._memory.steps[worker.slots].sum() + self._memory.episode[worker.slots].sum())

    def _revive(self, worker: _Worker) -> None:
        """Replace a worker that died: its episodes are lost, unanswered messages are sent again.

        Gives up with a WorkerError after MAX_RESTARTS deaths in the same environment without a step of it in between.
        """
        memory, number = self._memory, worker.setup.worker
        while True:
            worker.kill()
            busy = int(memory.current[number])
            memory.current[number] = -1
            memory.lost[worker.slots] = True
            steps = int(memory.steps[worker.slots if busy < 0 else busy].sum())
            place = busy if busy >= 0 else -1 - number
            last, deaths = self._deaths.get(place, (-1, 0))
            deaths = deaths + 1 if last == steps else 1
            self._deaths[place] = (steps, deaths)
            where = f"in environment {self._order[busy]}" if busy >= 0 else "between steps"
            died = f"worker {number} died {where} (exit code {worker.process.returncode})"
            if deaths > MAX_RESTARTS:
                raise self._fail(f"{died} {deaths} times without a step in between")
            self.restarts += 1
            logger.warning("%s: restarted, %d environments begin new episodes", died, len(worker.slots))
            worker.start()
            if self._built(worker) is not None:
                break
        self._acquaint(worker)
        for message in worker.outstanding:
            worker.transmit(message)

    def _hung(self, worker: _Worker) -> WorkerError:
        """Kill a worker that does not answer, close the pool; the error to raise."""
        busy = int(self._memory.current[worker.setup.worker])
        name = f"environment {self._order[busy]}" if busy >= 0 else f"worker {worker.setup.worker}"
        worker.kill()
        return self._fail(f"{name} did not answer within {self.timeout:g} s: its worker was killed")

    def _failure(self, worker: _Worker) -> WorkerError:
        """Read what a worker says of an environment that failed, close the pool; the error to raise."""
        failure = receive_object(worker.connection)
        error = self._fail(failure.message)
        error.add_note(failure.details)
        return error

    def _fail(self, message: str) -> WorkerError:
        """Close the pool; the error to raise."""
        self.close()
        return WorkerError(message)


def _pickled(make_env: Callable[[], gymnasium.Env]) -> bytes:
    """The factory as bytes; ValueError for one that a worker cannot load."""
    try:
        return pickle.dumps(make_env)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"make_env cannot be sent to a worker ({error}): use envs.make.host_factory") from None


def _check_groups(groups: Sequence[Sequence[int]] | None, num_envs: int) -> list[np.ndarray]:
    """The groups as index arrays; ValueError unless they hold every environment once."""
    if num_envs < 1:
        raise ValueError("seeds is empty: a pool needs at least one environment")
    arrays = [np.arange(num_envs)] if groups is None else [np.array(group, np.int64) for group in groups]
    if not all(array.size for array in arrays) or sorted(np.concatenate(arrays).tolist()) != list(range(num_envs)):
        raise ValueError(f"groups {groups} must hold every environment from 0 to {num_envs - 1} exactly once")
    if len(arrays) > MAX_GROUPS:
        raise ValueError(f"{len(arrays)} groups are too many: at most {MAX_GROUPS}")
    return arrays
