"""The process that steps environments for `envs.host.vector.VectorPool`, and the memory that both share.

Never imports jax: a worker starts in well under a second and stays small.
"""

from __future__ import annotations

import mmap
import os
import pickle
import select
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.host.gymnasium_env import spec_of
from envs.types import Spec

# One byte is one message, both ways; smaller values are a group to step. A worker answers with the byte it was sent.
MAX_GROUPS = 250
RESET, CLOSE, BUILT, FAILED = 251, 252, 253, 254


class Setup(NamedTuple):
    """What a worker is told at its start. A slot is a row of the shared arrays.

    Attributes:
        factory: Pickled callable that makes one environment; apart, so that a failure to load it can be reported.
        memory: File descriptor of the shared memory.
        num_envs: Environments of the whole pool.
        num_workers: Workers of the whole pool.
        worker: Number of this worker.
        groups: For each group the slots that this worker steps.
        indices: Environment index of each of this worker's slots, for messages.
        seeds: (run seed, index) of each of this worker's slots.
        auto_reset: Whether an ended environment is reset within the same step.
    """

    factory: bytes
    memory: int
    num_envs: int
    num_workers: int
    worker: int
    groups: tuple[tuple[int, ...], ...]
    indices: dict[int, int]
    seeds: dict[int, tuple[int, int]]
    auto_reset: bool


class Failure(NamedTuple):
    """Why a worker cannot go on: one line, and the traceback for a developer."""

    message: str
    details: str


class Memory:
    """NumPy arrays over memory that the pool and its workers share; the first axis is the slot unless noted.

    `next_obs`, `obs`, `reward`, `terminated`, `truncated` are a step's results, `action` and `active` its inputs.
    `ended`: the episode is over and waits for a reset (set by the pool, only without auto-reset). `lost`: the episode
    vanished with a worker that died.
    `episode`, `steps`: episodes begun (from 0) and steps simulated so far. `current` [workers]: the slot that a worker
    is busy with, -1 when idle.
    """

    def __init__(self, descriptor: int, spec: Spec, num_envs: int, num_workers: int) -> None:
        fields: dict[str, tuple[tuple[int, ...], str]] = {
            "obs": ((num_envs, *spec.obs_shape), spec.obs_dtype),
            "next_obs": ((num_envs, *spec.obs_shape), spec.obs_dtype),
            "action": ((num_envs, *spec.action_shape), spec.action_dtype),
            "reward": ((num_envs,), "float32"),
            "terminated": ((num_envs,), "bool"),
            "truncated": ((num_envs,), "bool"),
            "active": ((num_envs,), "bool"),
            "ended": ((num_envs,), "bool"),
            "lost": ((num_envs,), "bool"),
            "episode": ((num_envs,), "int64"),
            "steps": ((num_envs,), "int64"),
            "current": ((num_workers,), "int64"),
        }
        offsets, end = {}, 0
        for name, (shape, dtype) in fields.items():
            offsets[name] = end
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            end += -(-size // 64) * 64  # whole cache lines
        if os.fstat(descriptor).st_size < end:
            os.ftruncate(descriptor, end)
        mapping = mmap.mmap(descriptor, end)
        arrays = {n: np.ndarray(s, d, mapping, offsets[n]) for n, (s, d) in fields.items()}
        self.obs = arrays["obs"]
        self.next_obs = arrays["next_obs"]
        self.action = arrays["action"]
        self.reward = arrays["reward"]
        self.terminated = arrays["terminated"]
        self.truncated = arrays["truncated"]
        self.active = arrays["active"]
        self.ended = arrays["ended"]
        self.lost = arrays["lost"]
        self.episode = arrays["episode"]
        self.steps = arrays["steps"]
        self.current = arrays["current"]


def send_object(connection: socket.socket, value: Any) -> None:
    """Send a picklable object, its length first."""
    data = pickle.dumps(value)
    connection.sendall(struct.pack("<Q", len(data)) + data)


def receive_object(connection: socket.socket) -> Any:
    """Receive what `send_object` sent; EOFError when the other side is gone."""
    (size,) = struct.unpack("<Q", _receive_exactly(connection, 8))
    return pickle.loads(_receive_exactly(connection, size))


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Receive `size` bytes; EOFError when the other side is gone."""
    chunks = []
    while size:
        chunk = connection.recv(min(size, 1 << 20))
        if not chunk:
            raise EOFError("the other side closed the connection")
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


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
        self.memory = Memory(self.setup.memory, spec, self.setup.num_envs, self.setup.num_workers)

    def serve(self) -> None:
        """Answer the pool's messages until it says CLOSE or is gone."""
        while True:
            message = self.connection.recv(1)
            if not message or message[0] == CLOSE:
                return
            if message[0] == RESET:
                for slot in self.envs:
                    self.reset(slot)
                    self.memory.next_obs[slot] = self.memory.obs[slot]
            else:
                for slot in self.setup.groups[message[0]]:
                    self.step(slot)
            self.connection.sendall(message)

    def reset(self, slot: int) -> None:
        """Begin the next episode of one environment and store its first observation."""
        memory = self.memory
        memory.episode[slot] += 1
        memory.current[self.setup.worker] = slot
        try:
            observation, _ = self.envs[slot].reset(seed=episode_seed(*self.setup.seeds[slot], int(memory.episode[slot])))
            memory.obs[slot] = observation
        except Exception as error:
            raise self.failure(slot, f"{_line(error)} (in reset, episode {memory.episode[slot]})") from error
        memory.current[self.setup.worker] = -1
        self.check(slot, "observation", memory.obs[slot])
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
        try:
            observation, reward, terminated, truncated, _ = self.envs[slot].step(action)
            memory.next_obs[slot] = observation
            memory.reward[slot] = reward
        except Exception as error:
            raise self.failure(slot, f"{_line(error)} (in step, episode {memory.episode[slot]})") from error
        memory.current[self.setup.worker] = -1
        memory.steps[slot] += 1
        self.check(slot, "observation", memory.next_obs[slot])
        self.check(slot, "reward", memory.reward[slot])
        memory.terminated[slot], memory.truncated[slot] = terminated, truncated
        return bool(terminated or truncated)

    def check(self, slot: int, what: str, value: Any) -> None:
        """Raise unless every number is finite."""
        if (what == "reward" or self.floats) and not np.isfinite(value).all():
            raise self.failure(slot, f"its {what} is not finite (episode {self.memory.episode[slot]})")

    def failure(self, slot: int, text: str) -> _EnvironmentError:
        """The error that names an environment by its index."""
        return _EnvironmentError(f"environment {self.setup.indices[slot]}: {text}")


def _line(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _die_with_parent(connection: socket.socket) -> None:
    """Wait until the pool's end of the connection is gone, then end this process at once, whatever it is doing."""
    poller = select.poll()
    poller.register(connection, 0)  # no events but the hang-up, which is always reported
    poller.poll()
    os._exit(1)


def main(descriptor: int) -> None:
    """Entry point of a worker process.

    Args:
        descriptor: File descriptor of the inherited socket that leads to the pool.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it closes its workers in order
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    worker = _Worker(connection, receive_object(connection))
    try:
        worker.build()
        worker.serve()
    except _EnvironmentError as error:
        connection.sendall(bytes([FAILED]))
        send_object(connection, Failure(str(error), traceback.format_exc()))
        connection.recv(1)  # the pool reads the failure, then closes
    except (EOFError, ConnectionError):
        return  # the pool is gone
    finally:
        for env in worker.envs.values():
            env.close()
