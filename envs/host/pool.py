"""What every pool of environments in workers is to its user, wherever the workers are."""

from __future__ import annotations

import logging
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from envs.host.protocol import MAX_GROUPS, Failure, Memory, Setup
from envs.types import Spec

if TYPE_CHECKING:  # the renderer's pools, which need no simulator, load this module
    import gymnasium

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3  # restarts in a row at the same place before a pool gives up
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


class Views(NamedTuple):
    """A group's rows of the shared arrays, and which of its episodes have ended and wait for a reset."""

    action: np.ndarray
    active: np.ndarray
    step: PoolStep
    ended: np.ndarray


class Channel(Protocol):
    """One thing that workers are asked for together: to step a group, or to reset all.

    Attributes:
        number: That of the group; the last channel resets.
        busy: Whether it was asked for and its result was not taken.
        complete: Whether all workers have done it.
    """

    number: int
    busy: bool
    complete: bool

    def start(self) -> None:
        """Ask for it."""


class Pool(ABC):
    """N environments in workers, stepped in groups; what they are and what came of it lies in a `Memory` here.

    `reset`, then for every group `send` its actions and later `receive` its step. While one group simulates, the caller
    can act for another.

    A subclass says what workers and channels are and how they are waited for.

    Args:
        make_env: Picklable callable that makes one environment whose observations are float32 or uint8 arrays
            (`envs.make.host_factory`); called in the workers.
        seeds: (run seed, index) per environment. The reset of an episode is seeded by (run seed, index, episode).
        groups: Environment indices of each group, every environment in exactly one; None for a single group.
        num_workers: Number of workers; by default one per core, at most one per environment. Every group is spread over
            all of them: two groups keep the workers busy while the caller acts, and wake the caller twice a step.
        auto_reset: Reset an environment within the step that ends its episode. Otherwise it is left alone, as if
            inactive, until `reset`.
        finite: Whether a reward or an observation that is not finite ends the pool; otherwise it is passed on.
        timeout: Seconds that one reset or step of one environment may take.

    Raises:
        ValueError: `seeds` is empty, `groups` is no partition, or `make_env` cannot be pickled.
        WorkerError: An environment cannot be made.
    """

    spec: Spec
    _memory: Memory

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
        factory = _pickled(make_env)
        self.num_envs = len(seeds)
        self.groups = _check_groups(groups, self.num_envs)
        self.timeout = timeout
        self.restarts = 0
        self._auto_reset = auto_reset
        self._ready = False
        self._workers: list[Any] = []
        self._channels: list[Any] = []
        self._views: list[Views] = []
        self._deaths: dict[Hashable, tuple[int, int]] = {}
        self._order = np.concatenate(self.groups)  # environment index of each slot; a group's slots are contiguous
        self._slot = np.argsort(self._order)
        try:
            count = max(1, min(num_workers or self._cores(), self.num_envs))
            self._begin([self._setup_of(number, count, factory, seeds, finite) for number in range(count)])
        except BaseException:
            self.close()
            raise

    def _setup_of(
        self, number: int, count: int, factory: bytes, seeds: Sequence[tuple[int, int]], finite: bool
    ) -> Setup:
        """What one of `count` workers is told: every count-th slot of each group is its own."""
        groups, start = [], 0
        for group in self.groups:
            slots = range(start, start + len(group))
            groups.append(tuple(slot for slot in slots if slot % count == number))
            start += len(group)
        indices = {slot: int(self._order[slot]) for slots in groups for slot in slots}
        return Setup(
            factory=factory,
            num_envs=self.num_envs,
            num_workers=count,
            worker=number,
            groups=tuple(groups),
            indices=indices,
            seeds={slot: (int(seeds[i][0]), int(seeds[i][1])) for slot, i in indices.items()},
            auto_reset=self._auto_reset,
            finite=finite,
        )

    def _lay_out(self) -> None:
        """Begin with no episode, and view the memory by groups."""
        self._memory.episode[:] = -1
        self._memory.current[:] = -1
        start = 0
        for group in self.groups:
            rows = slice(start, start + len(group))
            start += len(group)
            action, active, *results = (
                getattr(self._memory, name)[rows] for name in ("action", "active", *PoolStep._fields)
            )
            self._views.append(Views(action, active, PoolStep(*results), np.zeros(len(group), bool)))

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

    @abstractmethod
    def _cores(self) -> int:
        """Number of cores that there are for workers."""

    @abstractmethod
    def _begin(self, setups: list[Setup]) -> None:
        """Start `_workers`, learn the `spec`, lay out `_memory`, open `_channels`: one for each group, one to reset."""

    @abstractmethod
    def close(self) -> None:
        """End the workers, in order where they answer; may be called again."""

    @abstractmethod
    def _await(self, *channels: Any) -> Channel:
        """Wait until every worker has done what one of the channels asked for; which one."""

    def _require_open(self) -> None:
        """RuntimeError after `close`."""
        if not self._workers:
            raise RuntimeError("the pool is closed")

    def _count_death(self, place: Hashable, steps: int, died: str, num_lost: int) -> None:
        """Count that a worker died.

        Args:
            place: Where.
            steps: How many were completed there before.
            died: What to say of it.
            num_lost: Number of its environments.

        Raises:
            WorkerError: It is the one after MAX_RESTARTS in the same place without a step in between.
        """
        last, deaths = self._deaths.get(place, (-1, 0))
        deaths = deaths + 1 if last == steps else 1
        self._deaths[place] = (steps, deaths)
        if deaths > MAX_RESTARTS:
            raise self._fail(f"{died} {deaths} times without a step in between")
        self.restarts += 1
        logger.warning("%s: restarted, %d environments begin new episodes", died, num_lost)

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
