"""Pictures of replay memories in host memory: where workers leave them, and from where minibatches are sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from agents.types import RECALLED, AgentState, HostFrames, Place, Recall, Recalled, Transition
from envs.types import Spec


def settled(config: Any, spec: Spec, on_device: bool) -> Any:
    """An algorithm's options with `replay_memory`, where it has that, no longer "auto".

    Pictures of worker processes stay in host memory where the accelerator has a memory of its own.

    Args:
        config: Its static options.
        spec: The environment.
        on_device: Whether it is simulated on the device.

    Raises:
        ValueError: Host memory was asked for what never is there.
    """
    wanted = getattr(config, "replay_memory", None)
    if wanted == "host" and (on_device or not spec.pixels):
        instead = "--simulator=jax has them on the device" if on_device else f"{spec.id} shows states"
        raise ValueError(f"--replay-memory=host is for pictures of worker processes, {instead}: choose auto or device")
    if wanted != "auto":
        return config
    on_host = spec.pixels and not on_device and jax.default_backend() != "cpu"
    return dataclasses.replace(config, replay_memory="host" if on_host else "device")


class FrameRing:
    """What K runs saw at each of their last steps: a ring of pictures beside each replay memory.

    Nothing is allocated before its first use.

    Args:
        spec: Environment that shows pictures.
        frames: What the agent says of its replay memory.
        num_runs: K.
        num_envs: N, environments of each run.
        recall: `frames.recall` of all runs, leaves [K, ...], for the arguments of an update.
    """

    def __init__(
        self, spec: Spec, frames: HostFrames, num_runs: int, num_envs: int, recall: Callable[..., Recall]
    ) -> None:
        self._first_update, self._dtype, self._recall = frames.first_update, np.dtype(spec.obs_dtype), recall
        self._shape = (num_runs, frames.rows, num_envs, *spec.obs_shape)
        self._drawn = (num_runs, *frames.minibatches)
        self._minibatches = (*self._drawn, *spec.obs_shape)
        self._ring: np.ndarray | None = None
        self._sent: Recalled | None = None

    @property
    def pictures(self) -> np.ndarray:
        """The ring [K, rows, N, ...]."""
        if self._ring is None:
            self._ring = np.zeros(self._shape, self._dtype)
        return self._ring

    def restore(self, pictures: np.ndarray) -> None:
        """Go on with these pictures [K, rows, N, ...]."""
        self._ring = np.require(pictures, requirements=["C", "W"])

    def bytes(self) -> tuple[int, int]:
        """What it takes of host memory, and of the device's.

        The ring is there twice while a checkpoint is written or read; an update's minibatches are in both memories.
        """
        ring, sent = (int(np.prod(shape)) * self._dtype.itemsize for shape in (self._shape, self._minibatches))
        return 2 * ring + 2 * sent, 2 * sent

    def noted(self, batch: Transition, iteration: int, state: AgentState, *when: Any) -> Transition:
        """Keep a rollout's pictures [K, T, N, ...] in place of the oldest, and add those that its update reads.

        Args:
            batch: The rollout.
            iteration: Its number.
            state: The learners before the update.
            when: The update's arguments after the batch.

        Returns:
            The batch, with minibatches among its extras that are valid until the next call; before the first update
            that learns they hold nothing.
        """
        length = batch.obs.shape[1]
        start = iteration % (self._shape[1] // length) * length
        self.pictures[:, start : start + length] = batch.obs
        if self._sent is None:
            nowhere, weight = Place(*np.zeros((2, *self._drawn), np.int32)), np.zeros(self._drawn, np.float32)
            obs, next_obs = (np.zeros(self._minibatches, self._dtype) for _ in range(2))
            self._sent = Recalled(Recall(nowhere, nowhere, weight), obs, next_obs)
        if iteration >= self._first_update:
            recall = self._recall(state, batch._replace(obs=(), next_obs=()), *when)
            self._sent = self._sent._replace(recall=jax.tree.map(np.asarray, recall))
            self._gather(self._sent.recall.here, self._sent.obs)
            self._gather(self._sent.recall.after, self._sent.next_obs)
        return batch._replace(extras=batch.extras | {RECALLED: self._sent})

    def _gather(self, place: Place, into: np.ndarray) -> None:
        """Copy the pictures at places [K, G, B] of each run's ring."""
        runs, rows, num_envs = self._shape[:3]
        first = np.arange(runs).reshape(runs, 1, 1) * rows
        index = ((first + place.row) * num_envs + place.env).reshape(-1)
        pictures = self.pictures.reshape(runs * rows * num_envs, -1)
        # To clip indices, which are valid where anything is learned, spares NumPy the copy that checking them takes.
        np.take(pictures, index, axis=0, out=into.reshape(len(index), -1), mode="clip")
