"""The pool's side of its workers: starting them, telling them what to do, knowing when it is done."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from envs.host.protocol import BUILT, FAILED, LAST, Failure, Memory, Setup, receive_object, send_object
from envs.types import Spec

START_TIMEOUT = 120.0  # seconds a worker may take for its imports and for each environment it builds
# A worker is one simulation thread of many: numerical libraries in it must not start threads of their own.
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerProcess:
    """The pool's side of one worker: its process, a socket, a pipe for commands, and one that ends it with the pool."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.slots = np.array(sorted(setup.indices), np.int64)
        self.start()

    def start(self) -> None:
        """Start the process and send it its set-up."""
        self.connection, inherited = socket.socketpair()
        self.connection.settimeout(START_TIMEOUT)
        environment = dict(os.environ) | dict.fromkeys(THREAD_LIMITS, "1")
        # The parent's own search path, so that both import the same modules from wherever the parent was started.
        environment["PYTHONPATH"] = os.pathsep.join(_import_path())
        socket_end, (pipe_end, self.lifeline) = inherited.fileno(), os.pipe()
        commands, self._commands = os.pipe()
        setup = self.setup
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from envs.host.worker import main; main{socket_end, commands, pipe_end}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # simulators chatter there; what matters goes to standard error
            env=environment,
            pass_fds=(socket_end, commands, pipe_end, setup.memory, setup.replies, *setup.tokens),
            process_group=0,  # Ctrl-C in a terminal reaches the parent only, even while a worker starts
        )
        inherited.close()
        os.close(pipe_end)
        os.close(commands)
        with contextlib.suppress(ConnectionError):  # dead already: the first read says so
            send_object(self.connection, setup)

    def built(self) -> Spec | Failure | None:
        """Wait until the environments are made: their spec, what went wrong, or None when the worker died of it.

        Raises:
            TimeoutError: One took longer than START_TIMEOUT.
        """
        try:
            for _ in self.slots:
                answer = self.connection.recv(1)
                if answer != bytes([BUILT]):
                    return receive_object(self.connection) if answer else None
            return receive_object(self.connection)
        except (EOFError, ConnectionError):
            return None

    def acquaint(self, spec: Spec) -> None:
        """Tell the worker the spec that the shared arrays are laid out by."""
        with contextlib.suppress(ConnectionError):  # dead: noticed when it does not answer
            send_object(self.connection, spec)

    def transmit(self, message: bytes) -> None:
        """Send a command of one byte; a dead worker is noticed when it does not answer."""
        try:  # not contextlib.suppress: this is in the path of every step
            os.write(self._commands, message)
        except OSError:
            return

    def failure(self) -> Failure | None:
        """What the worker says went wrong in it, if it does."""
        try:
            self.connection.settimeout(0.0)
            failed = self.connection.recv(1) == bytes([FAILED])
            self.connection.settimeout(START_TIMEOUT)
        except OSError:
            return None
        return receive_object(self.connection) if failed else None

    def kill(self) -> None:
        """End the process now, unless it has ended; may be called again."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            os.close(self._commands)
            self.lifeline = self._commands = -1


class Channel:
    """One thing that workers are asked for together: to step a group, or to reset all.

    The last worker that is done says so on the socket for replies. The counters in shared memory confirm it; they also
    tell what is left to do when a worker died.
    """

    def __init__(self, number: int, memory: Memory, workers: list[WorkerProcess], tokens: int) -> None:
        self.number = number
        self.message = bytes([number])
        self.workers = workers
        self.busy = False
        self.complete = False
        self._asked = 0
        self._memory = memory
        self._tokens = tokens
        self._turns = bytes(len(workers) - 1) + LAST
        memory.done[number] = np.iinfo(np.int64).max  # of workers that have no part in it
        memory.done[number, [worker.setup.worker for worker in workers]] = 0
        self._done = memoryview(memory.done[number])

    def start(self) -> None:
        """Ask for it."""
        self._asked += 1
        self.busy, self.complete = True, False
        os.write(self._tokens, self._turns)
        for worker in self.workers:
            worker.transmit(self.message)

    def finished(self) -> bool:
        """Whether every worker is done, by the counters."""
        return min(self._done) >= self._asked

    def lags(self, worker: WorkerProcess) -> bool:
        """Whether a worker still has to do it."""
        return self._done[worker.setup.worker] < self._asked


class ResetChannel(Channel):
    """The channel that resets.

    Attributes:
        before: int64 [num_envs], the episode of each slot when the last reset was asked for. A worker counts an episode
            as it begins it: one that takes a dead worker's place in the middle of a reset counts from here.
    """

    before: np.ndarray

    def start(self) -> None:
        """Ask for it."""
        self.before = self._memory.episode.copy()
        super().start()


def _import_path() -> list[str]:
    """The directories this process imports from, absolute, the root of this package first."""
    root = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([root, *(os.path.abspath(entry) for entry in sys.path)]))
