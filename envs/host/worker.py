"""What steps environments in a worker, and the process that does so for `envs.host.vector.VectorPool`.

Never imports jax: a worker starts in well under a second and stays small.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np

from envs.host.gymnasium_env import spec_of
from envs.host.lifeline import die_with
from envs.host.protocol import BUILT, CLOSE, FAILED, LAST, Failure, Memory, Setup, receive_object, send_object
from envs.types import Spec


def episode_seed(run_seed: int, index: int, episode: int) -> int:
    """Seed of one episode's reset: 32 bits, different for every (run seed, index, episode)."""
    return int(np.random.SeedSequence(run_seed, spawn_key=(index, episode)).generate_state(1)[0])


class EnvironmentFault(Exception):
    """An environment misbehaved; the message is the line that the user reads."""


class Slot:
    """One environment and its rows of the shared arrays.

    Rows and scalars are reached by views that are made once: a step of a simulator takes a few hundred microseconds,
    and what happens around it runs with cold caches, where every Python operation counts.
    """

    def __init__(self, env: gymnasium.Env, slot: int, setup: Setup, memory: Memory, spec: Spec) -> None:
        self.env, self.slot, self.worker, self.memory = env, slot, setup.worker, memory
        self.seed, self.index, self.auto_reset = setup.seeds[slot], setup.indices[slot], setup.auto_reset
        self.discrete = spec.action_shape == ()
        self.finite = setup.finite
        self.floats = self.finite and spec.obs_dtype == "float32"
        self.obs, self.next_obs = memory.obs[slot, ...], memory.next_obs[slot, ...]
        self.action = memory.action[slot, ...]
        self.lost = bool(memory.lost[slot])  # the episode vanished with the worker that this one replaces
        names = ("active", "reward", "terminated", "truncated", "steps", "current")
        views: list[Any] = [memoryview(getattr(memory, name)) for name in names]
        self.active, self.reward, self.terminated, self.truncated, self.steps, self.current = views

    def reset(self) -> None:
        """Begin the next episode and store its first observation."""
        memory, slot = self.memory, self.slot
        memory.episode[slot] += 1
        self.current[self.worker] = slot
        seed = episode_seed(*self.seed, int(memory.episode[slot]))
        try:
            observation, _ = self.env.reset(seed=seed)
            self.obs[...] = observation
        except Exception as error:
            raise self.failure(f"{_line(error)} (in reset, episode {memory.episode[slot]})") from error
        self.check(self.obs)
        self.lost = memory.lost[slot] = False

    def step(self) -> None:
        """Step and store what came of it; see `VectorPool.receive`."""
        slot = self.slot
        if not self.active[slot] or self.lost:
            self.reward[slot] = 0.0
            self.terminated[slot] = False
            self.truncated[slot] = ended = self.active[slot]
            self.next_obs[...] = self.obs
        else:
            ended = self.simulate()
        if ended and self.auto_reset:
            self.reset()
        else:
            self.obs[...] = self.next_obs

    def simulate(self) -> bool:
        """Step for real; whether the episode ended."""
        slot, row = self.slot, self.next_obs
        action = int(self.action) if self.discrete else self.action.copy()
        self.current[self.worker] = slot
        try:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            row[...] = observation
            self.reward[slot] = reward
        except Exception as error:
            raise self.failure(f"{_line(error)} (in step, episode {self.memory.episode[slot]})") from error
        self.terminated[slot] = terminated
        self.truncated[slot] = truncated
        self.steps[slot] += 1
        if self.finite and not math.isfinite(self.reward[slot]):
            raise self.failure(f"its reward is not finite: {reward} (episode {self.memory.episode[slot]})")
        self.check(row)
        return bool(terminated or truncated)

    def check(self, row: np.ndarray) -> None:
        """Raise unless every number of an observation is finite, or need not be."""
        # The squared norm is the cheapest look at every number; where it overflows, each is looked at.
        if self.floats and not math.isfinite(np.vdot(row, row)) and not np.isfinite(row).all():
            raise self.failure(f"its observation is not finite (episode {self.memory.episode[self.slot]})")

    def failure(self, text: str) -> EnvironmentFault:
        """The error that names the environment by its index."""
        return EnvironmentFault(f"environment {self.index}: {text}")


def environments(setup: Setup) -> Iterator[tuple[int, gymnasium.Env, Spec]]:
    """Make a worker's environments, one after the other.

    Yields:
        Slot, environment, spec.

    Raises:
        EnvironmentFault: The factory cannot be loaded, or an environment cannot be made.
    """
    try:
        factory: Callable[[], gymnasium.Env] = pickle.loads(setup.factory)
    except Exception as error:
        raise EnvironmentFault(
            f"the environment factory cannot be loaded in a worker ({_line(error)}): define it in an importable "
            "module, not in the script that is run"
        ) from error
    for slot, index in setup.indices.items():
        try:
            env = factory()
            spec = spec_of(env, env.spec.id if env.spec else type(env.unwrapped).__name__)
        except Exception as error:
            raise EnvironmentFault(f"environment {index} cannot be made: {_line(error)}") from error
        yield slot, env, spec


def reset_all(slots: Iterable[Slot]) -> None:
    """Begin the next episode in every environment."""
    for slot in slots:
        slot.reset()
        slot.next_obs[...] = slot.obs


class _Worker:
    """Builds this worker's environments and does what the pool asks for."""

    memory: Memory

    def __init__(self, connection: socket.socket, commands: int, setup: Setup) -> None:
        self.connection = connection
        self.commands = commands
        os.set_blocking(commands, False)
        self.command = select.poll()
        self.command.register(commands, select.POLLIN)
        self.setup = setup
        self.envs: dict[int, gymnasium.Env] = {}

    def build(self) -> None:
        """Make the environments, say what they are, and map the shared memory."""
        spec: Spec | None = None
        for slot, env, made in environments(self.setup):
            self.envs[slot], spec = env, made
            self.connection.sendall(bytes([BUILT]))
        send_object(self.connection, spec)
        spec = receive_object(self.connection)
        setup = self.setup
        self.memory = Memory(setup.memory, spec, setup.num_envs, len(setup.tokens), setup.num_workers)
        self.slots = {slot: Slot(env, slot, setup, self.memory, spec) for slot, env in self.envs.items()}

    def serve(self) -> None:
        """Answer the pool's messages until it says CLOSE or is gone."""
        setup = self.setup
        groups = [[self.slots[slot].step for slot in group] for group in setup.groups]
        arrays: Any = self.memory
        current, done = memoryview(arrays.current), memoryview(arrays.done)
        # What exists now stays: the collector need not walk over it again and again.
        gc.freeze()
        while True:
            message = self.message()
            if not message or message[0] == CLOSE:
                return
            channel = message[0]
            if channel < len(groups):
                for step in groups[channel]:
                    step()
            else:
                reset_all(self.slots.values())
            current[setup.worker] = -1
            done[channel, setup.worker] += 1
            if self.is_last(channel):
                os.write(setup.replies, message)

    def message(self) -> bytes:
        """The pool's next message; empty when the pool is gone.

        A core that falls asleep takes tens of microseconds to wake, and whoever runs on it meanwhile empties its
        caches: this worker stays awake for as long as a small network takes to act, and gives way to all others.
        """
        until = time.monotonic() + self.setup.patience
        while True:
            try:
                return os.read(self.commands, 1)
            except BlockingIOError:
                if time.monotonic() < until:
                    os.sched_yield()
                else:
                    self.command.poll()

    def is_last(self, channel: int) -> bool:
        """Whether all other workers have done what the channel asked for."""
        try:
            return os.read(self.setup.tokens[channel], 1) == LAST
        except BlockingIOError:  # so late that the pool has seen for itself that all is done
            return False

    def tell(self, failure: Failure) -> None:
        """Say what went wrong, and wait for the pool to close."""
        self.connection.sendall(bytes([FAILED]))
        send_object(self.connection, failure)
        os.write(self.setup.replies, bytes([FAILED]))
        self.command.poll()


def _line(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def main(descriptor: int, commands: int, lifeline: int) -> None:
    """Entry point of a worker process.

    Args:
        descriptor: File descriptor of the inherited socket that leads to the pool: what is said before and after work.
        commands: File descriptor of the inherited pipe of commands: a pipe costs half of what a socket does.
        lifeline: File descriptor of the inherited pipe whose other end only the pool holds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it closes its workers in order
    die_with(lifeline)
    connection = socket.socket(fileno=descriptor)
    with contextlib.suppress(EOFError, ConnectionError):  # the pool is gone
        worker = _Worker(connection, commands, receive_object(connection))
        try:
            worker.build()
            worker.serve()
        except EnvironmentFault as error:
            worker.tell(Failure(str(error), traceback.format_exc()))
        finally:
            for env in worker.envs.values():
                env.close()
