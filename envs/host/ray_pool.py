"""Environments in actors of a Ray cluster: the worker pool of one run, spread over several machines.

Imported only where the cluster is asked for. What an actor is sent for a step of a group are the actions, what comes
back are the results; the first observation of a new episode travels only where an episode ended.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections import deque
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from envs.host.pool import CLOSE_TIMEOUT, Pool
from envs.host.process import START_TIMEOUT, THREAD_LIMITS
from envs.host.protocol import Failure, Memory, Setup, anonymous_memory
from envs.host.worker import EnvironmentFault, Slot, environments, reset_all
from envs.types import Spec

logger = logging.getLogger(__name__)

_QUIET = 1.0  # seconds without an answer after which the pool looks whether a worker hangs


class Results(NamedTuple):
    """What came of a step or a reset, a row for each of the worker's slots in it.

    Attributes:
        next_obs: As `PoolStep.next_obs`.
        begun: Indices of the rows where an episode has begun within a step.
        obs: First observations of these episodes; elsewhere they are as `next_obs`.
        reward, terminated, truncated: As in `PoolStep`.
        episode, steps: As in `Memory`.
    """

    next_obs: np.ndarray
    begun: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode: np.ndarray
    steps: np.ndarray


class Simulations:
    """The environments of one worker; made an actor by `RayPool`."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup._replace(memory=anonymous_memory())
        self._envs: dict[int, gymnasium.Env] = {}

    def build(self) -> Spec | Failure:
        """Make the environments; their spec."""
        spec: Any = None  # there is at least one
        try:
            for slot, env, made in environments(self._setup):
                self._envs[slot], spec = env, made
        except EnvironmentFault as error:
            return Failure(str(error), traceback.format_exc())
        return spec

    def begin(self, spec: Spec, episode: np.ndarray, obs: np.ndarray, lost: bool) -> None:
        """Take the place of a worker that is gone, if there was one.

        Args:
            spec: That of the pool.
            episode: Episodes that each slot has begun.
            obs: Last observation of each slot.
            lost: Whether these episodes vanished with the worker.
        """
        setup = self._setup
        self._memory = memory = Memory(setup.memory, spec, setup.num_envs, len(setup.groups) + 1, setup.num_workers)
        mine = sorted(self._envs)
        memory.episode[mine], memory.obs[mine], memory.lost[mine] = episode, obs, lost
        self._slots = {slot: Slot(self._envs[slot], slot, setup, memory, spec) for slot in mine}

    def step(self, group: int, action: np.ndarray, active: np.ndarray) -> Results | Failure:
        """Step the worker's part of a group.

        Args:
            group: Which group.
            action: [n, ...], for each of the worker's slots in it.
            active: bool [n].
        """
        memory, slots = self._memory, list(self._setup.groups[group])
        memory.action[slots], memory.active[slots] = action, active
        before = memory.episode[slots]
        try:
            for slot in slots:
                self._slots[slot].step()
        except EnvironmentFault as error:
            return Failure(str(error), traceback.format_exc())
        return self._results(slots, before)

    def reset(self, episode: np.ndarray) -> Results | Failure:
        """Begin the episode after `episode` [n] in every slot."""
        slots = sorted(self._slots)
        self._memory.episode[slots] = episode
        try:
            reset_all(self._slots.values())
        except EnvironmentFault as error:
            return Failure(str(error), traceback.format_exc())
        return self._results(slots, self._memory.episode[slots])

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs.values():
            env.close()

    def _results(self, slots: list[int], before: np.ndarray) -> Results:
        """The rows of some slots; `before` [n] are their episodes until now."""
        memory = self._memory
        begun = np.flatnonzero(memory.episode[slots] != before)
        return Results(
            next_obs=memory.next_obs[slots],
            begun=begun,
            obs=memory.obs[np.array(slots)[begun]],
            reward=memory.reward[slots],
            terminated=memory.terminated[slots],
            truncated=memory.truncated[slots],
            episode=memory.episode[slots],
            steps=memory.steps[slots],
        )


class _Worker:
    """The pool's side of one actor.

    Attributes:
        slots: The worker's slots.
        pending: (answer to come, number of its channel) in the order in which the actor does it.
        since: When the first of these could begin.
        node: Where the actor is.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.slots = np.array(sorted(setup.indices), np.int64)
        self.pending: deque[tuple[Any, int]] = deque()
        self.since = 0.0
        self.node = ""

    def start(self, node: str) -> None:
        """Start the actor on a node."""
        self.node = node
        # It asks for no core: what a lost node did must find a place on the others, however busy they are. An actor
        # that asks for nothing is put anywhere unless it may be nowhere else.
        options = {
            "num_cpus": 0,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "runtime_env": {"env_vars": dict.fromkeys(THREAD_LIMITS, "1")},
        }
        self.actor = ray.remote(Simulations).options(**options).remote(self.setup)
        self.spec = self.actor.build.remote()

    def slots_of(self, channel: int) -> np.ndarray:
        """Those of the worker's slots that a channel is about."""
        groups = self.setup.groups
        return np.array(groups[channel], np.int64) if channel < len(groups) else self.slots

    def ask(self, channel: int, memory: Memory) -> None:
        """Ask for a step of a group or for a reset; returns at once."""
        slots = self.slots_of(channel)
        if channel < len(self.setup.groups):
            answer = self.actor.step.remote(channel, memory.action[slots], memory.active[slots])
        else:
            answer = self.actor.reset.remote(memory.episode[slots])
        if not self.pending:
            self.since = time.monotonic()
        self.pending.append((answer, channel))


class _Channel:
    """One thing that workers are asked for together; see `envs.host.pool.Channel`."""

    def __init__(self, number: int, memory: Memory, workers: list[_Worker]) -> None:
        self.number = number
        self.busy = self.complete = False
        self._memory, self._workers, self._left = memory, workers, 0

    def start(self) -> None:
        """Ask for it."""
        self.busy, self.complete, self._left = True, False, len(self._workers)
        for worker in self._workers:
            worker.ask(self.number, self._memory)

    def count(self) -> None:
        """Count that a worker has done it."""
        self._left -= 1
        self.complete = not self._left


class RayPool(Pool):
    """N environments in actors of the Ray cluster that this process has joined; otherwise as `VectorPool`.

    Actors are spread over the nodes by the number of their cores. They hold no cores: pools of one training take turns.

    What `make_env` refers to must be importable on the nodes. `timeout` is an average over the environments that a
    worker is asked for at a time; where it is exceeded the pool ends. For other arguments and errors see `Pool`; a
    WorkerError tells too that no node is there.
    """

    def _cores(self) -> int:
        """Those of the cluster."""
        return int(sum(_cores().values()))

    def _place(self) -> str:
        """The node that has the most cores for each of the pool's workers on it, with one more."""
        cores, here = _cores(), [worker.node for worker in self._workers]
        if not cores:
            raise self._fail("the Ray cluster has no node left")
        return max(cores, key=lambda node: cores[node] / (here.count(node) + 1))

    def _begin(self, setups: list[Setup]) -> None:
        """Start the workers, learn the environments' spec from them and lay out the arrays."""
        for setup in setups:
            worker = _Worker(setup)
            worker.start(self._place())
            self._workers.append(worker)
        for worker in self._workers:
            try:
                self.spec = self._built(worker)
            except RayError as error:
                died = f"worker {worker.setup.worker} died while it made its environments ({_reason(error)})"
                failure = self._fail(died)
                failure.add_note(str(error))
                raise failure from None
        count = len(self.groups) + 1
        self._memory = Memory(anonymous_memory(), self.spec, self.num_envs, count, len(self._workers))
        self._lay_out()
        for number in range(count):
            workers = [worker for worker in self._workers if len(worker.slots_of(number))]
            self._channels.append(_Channel(number, self._memory, workers))
        for worker in self._workers:
            self._acquaint(worker, lost=False)

    def _built(self, worker: _Worker) -> Spec:
        """Wait until a new worker has made its environments; RayError when it died of it."""
        if not ray.wait([worker.spec], timeout=START_TIMEOUT * (1 + len(worker.slots)))[0]:
            raise self._fail(f"worker {worker.setup.worker} did not make its environments in time")
        answer = ray.get(worker.spec)
        if isinstance(answer, Failure):
            raise self._failed(answer)
        return answer

    def _acquaint(self, worker: _Worker, lost: bool) -> None:
        """Tell a new worker what it needs to know of the pool; if it dies of it, it does not answer later."""
        memory, slots = self._memory, worker.slots
        worker.actor.begin.remote(self.spec, memory.episode[slots], memory.obs[slots], lost)

    def close(self) -> None:
        """End the workers, in order where they answer; may be called again."""
        workers, self._workers = self._workers, []
        if not workers or not ray.is_initialized():
            return
        ended = {worker.actor.close.remote(): worker.setup.worker for worker in workers}
        for late in ray.wait(list(ended), num_returns=len(ended), timeout=CLOSE_TIMEOUT)[1]:
            logger.warning("worker %d did not close its environments in time: killed", ended[late])
        for worker in workers:
            ray.kill(worker.actor)

    def _await(self, *channels: _Channel) -> _Channel:
        """Wait until every worker has done what one of the channels asked for; which one."""
        while True:
            for channel in channels:
                if channel.complete:
                    return channel
            # A worker answers in the order in which it was asked.
            pending = {worker.pending[0][0]: worker for worker in self._workers if worker.pending}
            # Of one channel nothing is of use before all of it is there.
            number = len(pending) if sum(channel.busy for channel in self._channels) == 1 else 1
            answered = ray.wait(list(pending), num_returns=number, timeout=_QUIET)[0]
            for answer in answered:
                self._hear(pending[answer])
            if not answered:
                self._look_for_hung()

    def _hear(self, worker: _Worker) -> None:
        """Take a worker's first answer, or replace it where it died."""
        answer, channel = worker.pending[0]
        try:
            results = ray.get(answer)
        except RayTaskError:  # a defect of this module
            raise
        except RayError as error:
            self._revive(worker, error)
            return
        if isinstance(results, Failure):
            raise self._failed(results)
        worker.pending.popleft()
        worker.since = time.monotonic()
        self._store(worker.slots_of(channel), results)
        self._channels[channel].count()

    def _store(self, slots: np.ndarray, results: Results) -> None:
        """Write a worker's results into the arrays."""
        memory = self._memory
        memory.next_obs[slots] = memory.obs[slots] = results.next_obs
        memory.obs[slots[results.begun]] = results.obs
        for name in ("reward", "terminated", "truncated", "episode", "steps"):
            getattr(memory, name)[slots] = getattr(results, name)

    def _revive(self, worker: _Worker, error: RayError) -> None:
        """Replace a worker that died: its episodes are lost, what is unanswered is asked for again.

        Gives up with a WorkerError after MAX_RESTARTS deaths at the same call without a step of it in between.
        """
        number, asked = worker.setup.worker, [channel for _, channel in worker.pending]
        steps = int(self._memory.steps[worker.slots_of(asked[0])].sum())
        worker.pending.clear()
        while True:
            ray.kill(worker.actor)
            died = f"worker {number} died ({_reason(error)})"
            self._count_death((number, asked[0]), steps, died, len(worker.slots))
            worker.node = ""
            worker.start(self._place())
            with contextlib.suppress(RayError):
                self._built(worker)
                break
        self._acquaint(worker, lost=True)
        for channel in asked:
            worker.ask(channel, self._memory)

    def _look_for_hung(self) -> None:
        """End the pool where a worker does not answer."""
        for worker in self._workers:
            if worker.pending:
                # A step may be followed by a reset.
                limit = 2 * self.timeout * len(worker.slots_of(worker.pending[0][1]))
                if time.monotonic() - worker.since > limit:
                    ray.kill(worker.actor)
                    number = worker.setup.worker
                    raise self._fail(f"worker {number} did not answer within {limit:g} s: it was killed")


def _cores() -> dict[str, float]:
    """Cores of each node that runs tasks, or one for each node where none has any."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cores = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in nodes}
    return {node: count for node, count in cores.items() if count} or dict.fromkeys(cores, 1.0)


def _reason(error: RayError) -> str:
    """Why a worker died, in one line."""
    told = "creation task" in str(error)  # most likely a package is missing on its node: the last line says which
    return str(error).strip().splitlines()[-1] if told else type(error).__name__
