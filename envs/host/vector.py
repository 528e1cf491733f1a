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
import socket
import struct
import subprocess
import time

from envs.host.pool import CLOSE_TIMEOUT, Pool, PoolStep, WorkerError
from envs.host.process import START_TIMEOUT, Channel, ResetChannel, WorkerProcess
from envs.host.protocol import CLOSE, FAILED, Failure, Memory, Setup, anonymous_memory
from envs.types import Spec

__all__ = ["PoolStep", "VectorPool", "WorkerError"]

logger = logging.getLogger(__name__)

# Seconds that an idle worker stays awake: for small networks acting and the way there and back take about half of it.
PATIENCE = 5e-4 if hasattr(os, "sched_yield") else 0.0


class VectorPool(Pool):
    """N environments in worker processes.

    For arguments and errors see `Pool`; a worker that takes longer than `timeout` is killed.
    """

    _descriptor = -1

    def _cores(self) -> int:
        """Those of this machine."""
        return os.cpu_count() or 1

    def _begin(self, setups: list[Setup]) -> None:
        """Start the workers, learn the environments' spec from them and map the shared arrays."""
        self._replies, self._replies_end = socket.socketpair()
        self._pipes = [os.pipe() for _ in range(len(self.groups) + 1)]
        for tokens, _ in self._pipes:
            os.set_blocking(tokens, False)
        self._descriptor = anonymous_memory()
        for setup in setups:
            shared = setup._replace(
                memory=self._descriptor,
                replies=self._replies_end.fileno(),
                tokens=tuple(tokens for tokens, _ in self._pipes),
                patience=PATIENCE if len(setups) <= self._cores() else 0.0,
            )
            self._workers.append(WorkerProcess(shared))
        for worker in self._workers:
            spec = self._built(worker)
            if spec is None:
                code = worker.process.wait()
                raise self._fail(f"worker {worker.setup.worker} died while it made its environments (exit code {code})")
            self.spec = spec
        self._memory = Memory(self._descriptor, self.spec, self.num_envs, len(self._pipes), len(self._workers))
        self._lay_out()
        for number in range(len(self.groups)):
            self._add_channel([worker for worker in self._workers if worker.setup.groups[number]])
        self._add_channel(self._workers, ResetChannel)
        for worker in self._workers:
            worker.acquaint(self.spec)
        # A read that hears nothing for so long looks whether the workers are alive and make progress.
        quiet = min(0.1, self.timeout / 4)
        self._replies.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(quiet * 1e6)))

    def _add_channel(self, workers: list[WorkerProcess], kind: type[Channel] = Channel) -> None:
        """Open the next channel to some workers."""
        number = len(self._channels)
        self._channels.append(kind(number, self._memory, workers, self._pipes[number][1]))

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
        memory, number, reset = self._memory, worker.setup.worker, self._channels[-1]
        if reset.busy and reset.lags(worker):  # all its slots begin this episode again
            memory.episode[worker.slots] = reset.before[worker.slots]
        while True:
            worker.kill()
            busy = int(memory.current[number])
            memory.current[number] = -1
            memory.lost[worker.slots] = True
            steps = int(memory.steps[worker.slots if busy < 0 else busy].sum())
            place = busy if busy >= 0 else -1 - number
            where = f"in environment {self._order[busy]}" if busy >= 0 else "between steps"
            died = f"worker {number} died {where} (exit code {worker.process.returncode})"
            self._count_death(place, steps, died, len(worker.slots))
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
