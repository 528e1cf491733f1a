"""The process that steps environments for `envs.host.vector.VectorPool`.

Never imports jax: a worker starts in well under a second and stays small.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable

import gymnasium
import numpy as np

from envs.host.gymnasium_env import spec_of
from envs.host.protocol import BUILT, CLOSE, FAILED, Failure, Memory, Setup, receive_object, send_object
from envs.types import Spec


def episode_seed(run_seed: int, index: int, episode: int) -> int:
    """Seed of one episode's reset: 32 bits, different for every (run seed, index, episode)."""
    return int(np.random.SeedSequence(run_seed, spawn_key=(index, episode)).generate_state(1)[0])


class _EnvironmentError(Exception):
    """An environment misbehaved; the message is the line that the user reads."""


class _Worker:
    """Builds, resets and steps this worker's environments."""

    memory: Memory
    discrete: bool
    floats: bool

    def __init__(self, connection: socket.socket, setup: Setup) -> None:
        self.connection = connection
        self.setup = setup
        self.envs: dict[int, gymnasium.Env] = {}

    def build(self) -> None:
        """Make the environments, say what they are, and map the shared memory."""
        try:
            factory: Callable[[], gymnasium.Env] = pickle.loads(self.setup.factory)
        except Exception as error:
            raise _EnvironmentError(
                f"the environment factory cannot be loaded in a worker ({_line(error)}): define it in an importable "
                "module, not in the script that is run"
            ) from error
        spec: Spec | None = None
        for slot, index in self.setup.indices.items():
            try:
                env = self.envs[slot] = factory()
                spec = spec_of(env, env.spec.id if env.spec else type(env.unwrapped).__name__)
            except Exception as error:
                raise _EnvironmentError(f"environment {index} cannot be made: {_line(error)}") from error
            self.connection.sendall(bytes([BUILT]))
        send_object(self.connection, spec)
        spec = receive_object(self.connection)
        self.discrete = spec.action_shape == ()
        self.floats = spec.obs_dtype == "float32"
        setup = self.setup
        self.memory = Memory(setup.memory, spec, setup.num_envs, len(setup.tokens), setup.num_workers)

    def serve(self) -> None:
        """Answer the pool's messages until it says CLOSE or is gone."""
        commands, groups = self.connection.fileno(), self.setup.groups
        while True:
            message = os.read(commands, 1)
            if not message or message[0] == CLOSE:
                return
            channel = message[0]
            if channel < len(groups):
                for slot in groups[channel]:
                    self.step(slot)
            else:
                for slot in self.envs:
                    self.reset(slot)
                    self.memory.next_obs[slot] = self.memory.obs[slot]
            self.memory.done[channel, self.setup.worker] += 1
            if self.is_last(channel):
                os.write(self.setup.replies, message)

    def tell(self, failure: Failure) -> None:
        """Say what went wrong, and wait for the pool to close."""
        self.connection.sendall(bytes([FAILED]))
        send_object(self.connection, failure)
        os.write(self.setup.replies, bytes([FAILED]))
        self.connection.recv(1)

    def is_last(self, channel: int) -> bool:
        """Whether all other workers have done what the channel asked for."""
        try:
            return not os.read(self.setup.tokens[channel], 1)
        except BlockingIOError:
            return True

    def reset(self, slot: int) -> None:
        """Begin the next episode of one environment and store its first observation."""
        memory = self.memory
        memory.episode[slot] += 1
        memory.current[self.setup.worker] = slot
        seed = episode_seed(*self.setup.seeds[slot], int(memory.episode[slot]))
        try:
            observation, _ = self.envs[slot].reset(seed=seed)
            memory.obs[slot] = observation
        except Exception as error:
            raise self.failure(slot, f"{_line(error)} (in reset, episode {memory.episode[slot]})") from error
        memory.current[self.setup.worker] = -1
        self.check(slot, memory.obs[slot])
        memory.lost[slot] = False

    def step(self, slot: int) -> None:
        """Step one environment and store what came of it; see `VectorPool.receive`."""
        memory = self.memory
        memory.reward[slot] = 0.0
        memory.terminated[slot] = memory.truncated[slot] = False
        if not memory.active[slot] or memory.ended[slot]:
            memory.next_obs[slot] = memory.obs[slot]
            return
        if memory.lost[slot]:
            memory.next_obs[slot] = memory.obs[slot]
            memory.truncated[slot] = ended = True
        else:
            ended = self.simulate(slot)
        if ended and self.setup.auto_reset:
            self.reset(slot)
            return
        memory.obs[slot] = memory.next_obs[slot]

    def simulate(self, slot: int) -> bool:
        """Step one environment for real; whether its episode ended."""
        memory = self.memory
        memory.current[self.setup.worker] = slot
        action = int(memory.action[slot]) if self.discrete else memory.action[slot].copy()
        row = memory.next_obs[slot]
        try:
            observation, reward, terminated, truncated, _ = self.envs[slot].step(action)
            row[...] = observation
            memory.reward[slot] = reward
            finite = math.isfinite(reward)
        except Exception as error:
            raise self.failure(slot, f"{_line(error)} (in step, episode {memory.episode[slot]})") from error
        memory.current[self.setup.worker] = -1
        memory.steps[slot] += 1
        if not finite:
            raise self.failure(slot, f"its reward is {reward} (episode {memory.episode[slot]})")
        self.check(slot, row)
        ended = bool(terminated or truncated)
        if ended:
            memory.terminated[slot], memory.truncated[slot] = terminated, truncated
        return ended

    def check(self, slot: int, observation: np.ndarray) -> None:
        """Raise unless every number of an observation is finite: only then is their sum, which is cheaper to take."""
        if self.floats and not math.isfinite(np.add.reduce(observation, None, np.float64)):
            raise self.failure(slot, f"its observation is not finite (episode {self.memory.episode[slot]})")

    def failure(self, slot: int, text: str) -> _EnvironmentError:
        """The error that names an environment by its index."""
        return _EnvironmentError(f"environment {self.setup.indices[slot]}: {text}")


def _line(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _die_with_pool(lifeline: int) -> None:
    """Have the kernel end this process as soon as the other end of a pipe is gone, whatever it is doing then.

    A signal rather than a thread that waits: one more thread makes every malloc of a simulator slower.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which terminates
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def main(descriptor: int, lifeline: int) -> None:
    """Entry point of a worker process.

    Args:
        descriptor: File descriptor of the inherited socket that leads to the pool.
        lifeline: File descriptor of the inherited pipe whose other end only the pool holds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it closes its workers in order
    _die_with_pool(lifeline)
    connection = socket.socket(fileno=descriptor)
    with contextlib.suppress(EOFError, ConnectionError):  # the pool is gone
        worker = _Worker(connection, receive_object(connection))
        try:
            worker.build()
            worker.serve()
        except _EnvironmentError as error:
            worker.tell(Failure(str(error), traceback.format_exc()))
        finally:
            for env in worker.envs.values():
                env.close()
