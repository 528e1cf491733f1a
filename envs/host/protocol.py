"""What the worker pool and its workers agree on: messages, the set-up of a worker, the layout of shared memory."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from typing import Any, NamedTuple

import numpy as np

from envs.types import Spec

# Messages are single bytes. Those below CLOSE are channels: a group to step or, after the last group, a reset of all.
MAX_GROUPS = 250
CLOSE, BUILT, FAILED = 252, 253, 254
LAST = b"\1"  # the token of the worker that is done last


class Setup(NamedTuple):
    """What a worker is told at its start. A slot is a row of the shared arrays.

    Attributes:
        factory: Pickled callable that makes one environment; apart, so that a failure to load it can be reported.
        num_envs: Environments of the whole pool.
        num_workers: Workers of the whole pool.
        worker: Number of this worker.
        groups: For each group the slots that this worker steps.
        indices: Environment index of each of this worker's slots, for messages.
        seeds: (run seed, index) of each of this worker's slots.
        auto_reset: Whether an ended environment is reset within the same step.
        finite: Whether a reward or an observation that is not finite is a failure.
        memory: File descriptor of the memory that pool and worker share, or the worker's own where they cannot.
        replies: File descriptor of the socket that all workers share to say that a channel is done.
        tokens: For each channel, the file descriptor of a pipe that holds one byte for each of its workers; each that
            is done takes one, and the one that finds LAST alone wakes the pool.
        patience: Seconds for which the worker looks for its next command before it sleeps.
    """

    factory: bytes
    num_envs: int
    num_workers: int
    worker: int
    groups: tuple[tuple[int, ...], ...]
    indices: dict[int, int]
    seeds: dict[int, tuple[int, int]]
    auto_reset: bool
    finite: bool
    memory: int = -1
    replies: int = -1
    tokens: tuple[int, ...] = ()
    patience: float = 0.0


class Failure(NamedTuple):
    """Why a worker cannot go on: one line, and the traceback for a developer."""

    message: str
    details: str


class Memory:
    """NumPy arrays over memory that the pool and its workers share; the first axis is the slot unless noted.

    `next_obs`, `obs`, `reward`, `terminated`, `truncated` are a step's results, `action` and `active` its inputs.
    `lost`: the episode vanished with a worker that died.
    `episode`, `steps`: episodes begun (from 0) and steps simulated so far. `current` [workers]: the slot that a worker
    is busy with, -1 when idle. `done` [channels, workers]: how often a worker has done what a channel asks for.
    """

    def __init__(self, descriptor: int, spec: Spec, num_envs: int, num_channels: int, num_workers: int) -> None:
        fields: dict[str, tuple[tuple[int, ...], str]] = {
            "obs": ((num_envs, *spec.obs_shape), spec.obs_dtype),
            "next_obs": ((num_envs, *spec.obs_shape), spec.obs_dtype),
            "action": ((num_envs, *spec.action_shape), spec.action_dtype),
            "reward": ((num_envs,), "float32"),
            "terminated": ((num_envs,), "bool"),
            "truncated": ((num_envs,), "bool"),
            "active": ((num_envs,), "bool"),
            "lost": ((num_envs,), "bool"),
            "episode": ((num_envs,), "int64"),
            "steps": ((num_envs,), "int64"),
            "current": ((num_workers,), "int64"),
            "done": ((num_channels, num_workers), "int64"),
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
        self.lost = arrays["lost"]
        self.episode = arrays["episode"]
        self.steps = arrays["steps"]
        self.current = arrays["current"]
        self.done = arrays["done"]


def anonymous_memory() -> int:
    """A file descriptor of memory without a name: it is gone when the last process that holds it is."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("srl_jax_pool")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


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
