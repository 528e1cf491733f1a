"""Environments in worker processes, stepped in groups so that simulation overlaps acting.

A worker is a fresh interpreter started by `subprocess`, not by `multiprocessing`: spawning through multiprocessing
would import the parent's main module, and jax with it, into every worker, and forking a process that runs jax threads
can deadlock. Observations, actions, rewards and flags lie in shared memory that has no name to leak. What travels is
one byte to each worker per step of a group, and one byte back from the worker that is done last: the pool sleeps until
a whole group is ready, because every wake-up takes a core away from a simulation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.host.process import START_TIMEOUT, Channel, WorkerProcess
from envs.host.protocol import CLOSE, FAILED, MAX_GROUPS, Failure, Memory, Setup
from envs.types import Spec

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3  # restarts in a row at the same place before a pool gives up
# Seconds that an idle worker stays awake: for small networks acting and the way there and back take about half of it.
PATIENCE = 5e-4 if hasattr(os, "sched_yield") else 0.0
CLOSE_TIMEOUT = 5.0  # seconds the workers may take together to close their environments


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


class _Views(NamedTuple):
    """A group's rows of the shared arrays, and which of its episodes have ended and wait for a reset."""

    action: np.ndarray
    active: np.ndarray
    step: PoolStep
    ended: np.ndarray


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
        num_workers: Number of processes; by default one per core, at most one per environment. Where it divides the
            number of groups, each worker has groups of its own: it waits for no other worker, and while it waits for
            actions it leaves its core to the policy. Otherwise every group is spread over all workers.
        auto_reset: Reset an environment within the step that ends its episode. Otherwise it is left alone, as if
            inactive, until `reset`.
        finite: Whether a reward or an observation that is not finite ends the pool; otherwise it is passed on.
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
        finite: bool = True,
        timeout: float = 60.0,
    ) -> None:
        self.num_envs = len(seeds)
        self.groups = _check_groups(groups, self.num_envs)
        self.timeout = timeout
        self.restarts = 0
        self._auto_reset = auto_reset
        self._ready = False
        self._workers: list[WorkerProcess] = []
        self._channels: list[Channel] = []
        self._views: list[_Views] = []
        self._deaths: dict[int, tuple[int, int]] = {}
        self._order = np.concatenate(self.groups)  # environment index of each slot; a group's slots are contiguous
        self._slot = np.argsort(self._order)
        count = max(1, min(num_workers or os.cpu_count() or 1, self.num_envs))
        factory = _pickled(make_env)
        self._descriptor = _anonymous_memory()
        self._replies, self._replies_end = socket.socketpair()
        self._pipes = [os.pipe() for _ in range(len(self.groups) + 1)]
        for tokens, _ in self._pipes:
            os.set_blocking(tokens, False)
        try:
            for number in range(count):
                self._workers.append(WorkerProcess(self._setup_of(number, count, factory, seeds, auto_reset, finite)))
            self._begin()
        except BaseException:
            self.close()
            raise

    def _setup_of(
        self, number: int, count: int, factory: bytes, seeds: Sequence[tuple[int, int]], auto_reset: bool, finite: bool
    ) -> Setup:
        """What one of `count` workers is told: its own groups, or every count-th slot of each group."""
        groups, start, own = [], 0, len(self.groups) % count == 0
        for place, group in enumerate(self.groups):
            slots = range(start, start + len(group))
            groups.append(tuple(slot for slot in slots if (place if own else slot) % count == number))
            start += len(group)
        indices = {slot: int(self._order[slot]) for slots in groups for slot in slots}
        return Setup(
            factory=factory,
            memory=self._descriptor,
            replies=self._replies_end.fileno(),
            tokens=tuple(tokens for tokens, _ in self._pipes),
            num_envs=self.num_envs,
            num_workers=count,
            worker=number,
            groups=tuple(groups),
            indices=indices,
            seeds={slot: (int(seeds[i][0]), int(seeds[i][1])) for slot, i in indices.items()},
            auto_reset=auto_reset,
            finite=finite,
            patience=PATIENCE if count <= (os.cpu_count() or 1) else 0.0,
        )

    def _begin(self) -> None:
        """Learn the environments' spec from the workers and map the shared arrays."""
        for worker in self._workers:
            spec = self._built(worker)
            if spec is None:
                code = worker.process.wait()
                raise self._fail(f"worker {worker.setup.worker} died while it made its environments (exit code {code})")
            self.spec = spec
        self._memory = Memory(self._descriptor, self.spec, self.num_envs, len(self._pipes), len(self._workers))
        self._memory.episode[:] = -1
        self._memory.current[:] = -1
        start = 0
        for number, group in enumerate(self.groups):
            rows = slice(start, start + len(group))
            start += len(group)
            self._add_channel([worker for worker in self._workers if worker.setup.groups[number]])
            action, active, *results = (
                getattr(self._memory, name)[rows] for name in ("action", "active", *PoolStep._fields)
            )
            self._views.append(_Views(action, active, PoolStep(*results), np.zeros(len(group), bool)))
        self._add_channel(self._workers)  # the last one resets
        for worker in self._workers:
            worker.acquaint(self.spec)
        # A read that hears nothing for so long looks whether the workers are alive and make progress.
        quiet = min(0.1, self.timeout / 4)
        self._replies.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(quiet * 1e6)))

    def _add_channel(self, workers: list[WorkerProcess]) -> None:
        """Open the next channel to some workers."""
        number = len(self._channels)
        self._channels.append(Channel(number, self._memory, workers, self._pipes[number][1]))

    def _built(self, worker: WorkerProcess) -> Spec | None:
        """Wait until a new worker has made its environments; their spec, or None when it died of it."""
        try:
            answer = worker.built()
        except TimeoutError:
            number = worker.setup.worker
            raise self._fail(f"worker {number} did not make an environment within {START_TIMEOUT:g} s") from None
        if isinstance(answer, Failure):
            raise self._failed(answer)
        return answer

    def reset(self, episode: int | None = None) -> np.ndarray:
        """Begin a new episode in every environment.

        Args:
            episode: Number of the episode, which with the environment's seeds decides how it begins; by default the
                next one.

        Returns:
            The first observations [num_envs, ...], in the order of `seeds`; a copy.

        Raises:
            RuntimeError: A group was sent and not received, or the pool is closed.
            WorkerError: An environment failed.
        """
        self._require_open()
        if any(channel.busy for channel in self._channels):
            raise RuntimeError("reset() while a group is still stepping: receive it first")
        for views in self._views:
            views.ended[:] = False
        if episode is not None:
            self._memory.episode[:] = episode - 1
        channel = self._channels[-1]
        channel.start()
        self._await(channel).busy = False
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
        channel = self._channels[group]
        if channel.busy:
            raise RuntimeError(f"send() for group {group} twice: receive() it first")
        views = self._views[group]
        views.action[...] = actions
        views.active[...] = True if active is None else active
        if not self._auto_reset:
            views.active[views.ended] = False
        channel.start()

    def ready(self) -> int:
        """Wait until a group can be received without waiting; its number, the lowest of several.

        Raises:
            RuntimeError: No group was sent, or the pool is closed.
            WorkerError: As `receive` says.
        """
        self._require_open()
        busy = [channel for channel in self._channels if channel.busy]
        if not busy:
            raise RuntimeError("ready() without send()")
        return self._await(*busy).number

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
        channel = self._channels[group]
        if not channel.busy:
            raise RuntimeError(f"receive() for group {group} without send()")
        self._await(channel).busy = False
        views = self._views[group]
        if not self._auto_reset:
            np.logical_or(views.ended, views.step.terminated | views.step.truncated, out=views.ended)
        return views.step

    def close(self) -> None:
        """End the workers, in order where they answer; may be called again."""
        workers, self._workers = self._workers, []
        if self._channels:  # the workers listen
            for worker in workers:
                worker.transmit(bytes([CLOSE]))
            deadline = time.monotonic() + CLOSE_TIMEOUT
            for worker in workers:
                try:
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    logger.warning("worker %d did not close its environments in time: killed", worker.setup.worker)
        for worker in workers:
            worker.kill()
        if self._descriptor >= 0:
            for descriptor in (self._descriptor, *(end for pipe in self._pipes for end in pipe)):
                os.close(descriptor)
            self._replies.close()
            self._replies_end.close()
            self._descriptor = -1

    def _require_open(self) -> None:
        """RuntimeError after `close`."""
        if not self._workers:
            raise RuntimeError("the pool is closed")

    def _await(self, *channels: Channel) -> Channel:
        """Wait until every worker has done what one of the channels asked for; which one."""
        watch: dict[int, tuple[int, float]] = {}
        replies = self._replies.fileno()
        while True:
            for channel in channels:
                if channel.complete:
                    return channel
            try:
                number = os.read(replies, 1)[0]
            except BlockingIOError:
                number = None
            if number is None:
                for channel in channels:
                    self._look_after(channel, watch)
                continue
            if number == FAILED:
                raise self._failed(next(filter(None, map(WorkerProcess.failure, self._workers))))
            heard = self._channels[number]
            heard.complete = heard.finished()

    def _look_after(self, channel: Channel, watch: dict[int, tuple[int, float]]) -> None:
        """Restart workers that died and give up on those that hang.

        Args:
            channel: What is waited for.
            watch: For each worker its progress and since when it is unchanged; kept by the caller.
        """
        for worker in filter(channel.lags, channel.workers):
            if worker.process.poll() is not None:
                self._revive(worker)
                continue
            now, progress = time.monotonic(), self._progress(worker)
            last, since = watch.get(worker.setup.worker, (-1, now))
            watch[worker.setup.worker] = (progress, since if progress == last else now)
            if progress == last and now - since >= self.timeout:
                raise self._hung(worker)
        if channel.finished():  # a worker died before it could say so
            channel.complete = True
            tokens = self._pipes[channel.number][0]
            with contextlib.suppress(BlockingIOError):
                while os.read(tokens, 1):
                    pass

    def _progress(self, worker: WorkerProcess) -> int:
        """A number that grows with every reset that the worker begins and every step that it completes."""
        return int(self._memory.steps[worker.slots].sum() + self._memory.episode[worker.slots].sum())

    def _revive(self, worker: WorkerProcess) -> None:
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
        worker.acquaint(self.spec)
        for channel in self._channels:
            if channel.busy and channel.lags(worker):
                worker.transmit(channel.message)

    def _hung(self, worker: WorkerProcess) -> WorkerError:
        """Kill a worker that does not answer, close the pool; the error to raise."""
        busy = int(self._memory.current[worker.setup.worker])
        name = f"environment {self._order[busy]}" if busy >= 0 else f"worker {worker.setup.worker}"
        worker.kill()
        return self._fail(f"{name} did not answer within {self.timeout:g} s: its worker was killed")

    def _failed(self, failure: Failure) -> WorkerError:
        """Close the pool; the error to raise for what a worker told."""
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
