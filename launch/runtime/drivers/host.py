"""Host driver: environments in worker processes, the same jitted `act` and `update`, K runs in one pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from agents.types import Agent, AgentState, Clock, Player, Transition
from envs.types import Spec
from launch.runtime.drivers import frames
from launch.runtime.drivers.common import (
    EVALUATION,
    INIT,
    NO_LIMIT,
    TRAINING,
    Chunk,
    Episodes,
    clip_action,
    lean,
    over_runs,
    run_keys,
    tree_bytes,
)
from launch.runtime.drivers.frame_ring import FrameRing

EVALUATION_SEED = 2**32  # of the evaluation environments; run seeds are smaller
EVALUATION_ROUNDS = 2**20  # episodes that one evaluation may play in an environment, so that no two begin alike


class Pool(Protocol):
    """What the driver needs of a pool of environments; `envs.host.vector.VectorPool` is one."""

    spec: Spec
    num_envs: int
    groups: list[np.ndarray]

    def reset(self, episode: int | None = None) -> np.ndarray:
        """Begin an episode (the next, or the one of this number) everywhere; returns observations [num_envs, ...]."""

    def send(self, group: int, actions: np.ndarray, active: np.ndarray | None = None) -> None:
        """Step a group; returns at once."""

    def ready(self) -> int:
        """Wait until a group can be received; which one."""

    def receive(self, group: int) -> Any:
        """Wait for the group's results."""

    def close(self) -> None:
        """End the workers."""


# (seeds [(run seed, index)], groups or None, auto_reset) -> pool
PoolFactory = Callable[[Sequence[tuple[int, int]], Sequence[Any] | None, bool], Pool]


class HostDriver:
    """Trains K runs on K x N environments in worker processes.

    The environments of a run can be split in groups: while the policy acts for one, the others simulate.

    Args:
        make_pool: Builds a worker pool.
        spec: Its environments' spec.
        agent: The algorithm.
        hyper: Hyperparameters, float32 leaves [K].
        seeds: Run seeds [K].
        iterations: Planned number of iterations; sets the clock's progress.
        num_groups: 2 to overlap acting and simulating, 1 not to: that saves every other call of the policy, and where
            it acts in less time than simulating takes the calls cost more than the overlap gains.
    """

    def __init__(
        self,
        make_pool: PoolFactory,
        spec: Spec,
        agent: Agent,
        hyper: Any,
        seeds: np.ndarray,
        iterations: int,
        num_groups: int = 1,
    ) -> None:
        self.spec, self.agent, self.hyper = spec, agent, hyper
        self.num_runs, self._seeds, self._make_pool = len(seeds), seeds, make_pool
        self.iteration = 0
        traits = agent.traits
        self._per_iteration = np.float32(1.0 / iterations)
        self._keys = run_keys(seeds)
        runs = self.num_runs
        self._init = jax.jit(over_runs(self._start, runs, (0, 0)))
        self._rollout_keys = jax.jit(over_runs(self._rollout_keys_one, runs, (0, None)))
        self._player = Player(agent)
        self._begin = jax.jit(lambda count: self._memory_of(count), static_argnums=0)
        self._update = jax.jit(over_runs(_at_iteration(agent.update), runs, (0, 0, 0, 0, None, None)), donate_argnums=0)
        self._ring: FrameRing | None = None
        if agent.host_frames is not None:
            recall = over_runs(_at_iteration(agent.host_frames.recall), runs, (0, 0, 0, 0, None, None))
            self._ring = FrameRing(spec, agent.host_frames, runs, traits.num_envs, jax.jit(recall))
        self._eval_act = {
            explore: jax.jit(over_runs(self._evaluation_act(explore), runs, (0, 0, None, None, 0)))
            for explore in (False, True)
        }
        self._agent_state: AgentState | None = None
        # Environment k * N + i is environment i of run k; group g holds every num_groups-th i of each run.
        index = np.arange(runs * traits.num_envs).reshape(runs, traits.num_envs)
        # Evolution maps environments to members by position, so it acts for all of them at once.
        num_groups = 1 if traits.fresh_episodes else min(num_groups, traits.num_envs)
        self._ranks = [slice(group, None, num_groups) for group in range(num_groups)]
        self._groups = [index[:, ranks].reshape(-1) for ranks in self._ranks]
        act, self._read = lean(self._act_one, *self._shapes_of_acting())
        self._act = jax.jit(over_runs(act, runs, (0, 0, 0, 0, 0)))
        self._pool: Pool | None = None
        self._eval_pool: tuple[int, Pool] | None = None
        self._obs: list[np.ndarray] = []
        self._memory: list[Any] = []
        self._ended: list[Any] = []  # bool [K, n] of each group, () where the agent has no memory
        self._buffers: Transition | None = None
        self._frames_once = self.spec.pixels and traits.keep_obs
        self._returns = np.zeros((runs, traits.num_envs))
        self._lengths = np.zeros((runs, traits.num_envs), np.int64)

    @property
    def state(self) -> AgentState:
        """The learners, leaves [K, ...]; started on first use."""
        if self._agent_state is None:
            self._agent_state = self._init(self._keys, self.hyper)
        return self._agent_state

    def run(self, count: int) -> Chunk:
        """Play and learn for one iteration, however many were asked for: a rollout is long enough; see Driver.run."""
        del count
        iteration = np.int32(self.iteration)
        fresh = self.agent.traits.fresh_episodes
        if self._pool is None or fresh:
            self._begin_episodes()
        known = self._remembered()
        steps, episodes = self._rollout(iteration)
        assert self._buffers is not None
        batch = self._player.noted(self._buffers, known)
        when = self._keys, self.hyper, iteration, self._per_iteration
        if self._ring is not None:
            batch = self._ring.noted(batch, self.iteration, self.state, *when)
        self._agent_state, metrics = self._update(self.state, batch, *when)
        self.iteration += 1
        return Chunk({name: np.asarray(value)[None] for name, value in metrics.items()}, steps[None], episodes)

    def evaluate(self, episodes: int, seed: int, explore: bool = False, acting: Any = None) -> np.ndarray:
        """Play `episodes` whole episodes per run in a pool of their own; see Driver.evaluate.

        Every environment plays the same number of episodes, so that short episodes are not over-represented.
        """
        state = self.state if acting is None else self.state._replace(acting=acting)
        num_envs = min(episodes, 8)
        pool = self._evaluation_pool(num_envs)
        shape = (self.num_runs, num_envs)
        result: list[np.ndarray] = []
        for number in range(-(-episodes // num_envs)):
            obs, key = pool.reset(seed * EVALUATION_ROUNDS + number), jax.random.fold_in(jax.random.key(seed), number)
            returns, alive = np.zeros(shape, np.float32), np.ones(shape, bool)
            memory = self._begin(num_envs)
            for step in range(self.spec.max_episode_steps or NO_LIMIT):
                rows = obs.reshape(*shape, *obs.shape[1:])
                action, memory = self._eval_act[explore](state, rows, key, np.int32(step), memory)
                action = clip_action(self.spec, np.asarray(action), np)
                pool.send(0, action.reshape(-1, *self.spec.action_shape), alive.reshape(-1))
                out = pool.receive(0)
                obs = out.obs
                returns += np.where(alive, out.reward.reshape(shape), 0.0)
                alive &= ~(out.terminated | out.truncated).reshape(shape)
                if not alive.any():
                    break
            result.append(returns)
        return np.concatenate(result, axis=1)[:, :episodes]

    def acting(self) -> Any:
        """The policies, leaves [K, ...]."""
        return self.state.acting

    def others(self) -> dict[str, Any]:
        """Further policies worth keeping, leaves [K, ...]; see Driver.others."""
        return self.agent.others(self.state)

    def adopt(self, acting: Any) -> None:
        """Play with these policies, leaves [K, ...], from now on; what learns beside them follows."""
        state = self.state._replace(acting=jax.device_put(acting))
        self._agent_state = self.agent.adopted(state) if self.agent.adopted else state

    def checkpoint(self) -> Any:
        """The learners. Simulators cannot be saved: a resumed run begins new episodes."""
        frames = {} if self._ring is None else {"frames": self._ring.pictures}
        return {"agent": self.state, "iteration": np.int64(self.iteration), **frames}

    def restore(self, tree: Any) -> None:
        """Continue from a checkpoint, with episodes that are begun anew."""
        self._agent_state = jax.device_put(tree["agent"])
        self.iteration = int(tree["iteration"])
        if self._ring is not None:
            self._ring.restore(tree["frames"])
        if self.agent.cut is not None:
            cut = jax.jit(over_runs(self.agent.cut, self.num_runs, (0, None)), donate_argnums=0)
            self._agent_state = cut(self._agent_state, np.int32(self.iteration))

    def memory(self) -> int:
        """Bytes of the learners and one batch of experience, with what host memory sends of their replay memories."""
        state = jax.eval_shape(self._init, self._keys, self.hyper)
        traits = self.agent.traits
        obs = int(np.prod(self.spec.obs_shape)) * np.dtype(self.spec.obs_dtype).itemsize
        row = 6 + 4 * int(np.prod(self.spec.action_shape)) + (1 if self.spec.pixels else 2) * obs * traits.keep_obs
        sent = 0 if self._ring is None else self._ring.bytes()[1]
        return tree_bytes(state) + self.num_runs * traits.rollout_length * traits.num_envs * row + sent

    def frame_memory(self) -> int:
        """Bytes of host memory that the pictures of replay memories need; see Driver.frame_memory."""
        return 0 if self._ring is None else self._ring.bytes()[0]

    def close(self) -> None:
        """End all workers."""
        for pool in (self._pool, self._eval_pool[1] if self._eval_pool else None):
            if pool is not None:
                pool.close()
        self._pool, self._eval_pool = None, None

    def _start(self, key: jax.Array, hyper: Any) -> AgentState:
        return self.agent.init(jax.random.fold_in(key, INIT), hyper)

    def _rollout_keys_one(self, key: jax.Array, iteration: jax.Array) -> jax.Array:
        """Keys of an iteration's steps, group by group, as data; with a single group they are the device driver's."""
        act_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, TRAINING), iteration))[0]
        keys = jax.random.split(act_key, self.agent.traits.rollout_length * len(self._groups))
        return jax.random.key_data(keys)

    def _memory_of(self, count: int) -> Any:
        """What the agent knows of `count` environments of each run when an episode begins, leaves [K, count, ...]."""
        memory = self._player.begin(count)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_runs, *x.shape)), memory)

    def _remembered(self) -> Any:
        """What the agent knows of its environments now, leaves [K, N, ...]; () where it has no memory."""
        if self.agent.memory is None:
            return ()
        num_envs = self.agent.traits.num_envs
        known = jax.tree.map(np.array, self._begin(num_envs))
        for ranks, memory, ended in zip(self._ranks, self._memory, self._ended, strict=True):

            def keep(new: np.ndarray, old: Any, ranks: slice = ranks, ended: np.ndarray = ended) -> None:
                wide = ended.reshape(*ended.shape, *[1] * (new.ndim - 2))
                new[:, ranks] = np.where(wide, new[:, ranks], np.asarray(old))

            jax.tree.map(keep, known, memory)
        return known

    def _act_one(
        self, state: AgentState, obs: jax.Array, key: jax.Array, memory: Any, ended: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        key = jax.random.wrap_key_data(key)
        return self._player.act(state, obs, key, True, self._player.forget(memory, ended))

    def _shapes_of_acting(self) -> tuple[Any, ...]:
        """What `_act_one` takes for the first group of one run, as shapes."""
        count = self._groups[0].size // self.num_runs

        def arguments(key: jax.Array, hyper: Any) -> tuple[Any, ...]:
            obs = jnp.zeros((count, *self.spec.obs_shape), self.spec.obs_dtype)
            ended = jnp.zeros(count, bool) if self.agent.memory else ()
            return self._start(key, hyper), obs, jax.random.key_data(key), self._player.begin(count), ended

        return jax.eval_shape(arguments, self._keys[0], jax.tree.map(lambda x: x[0], self.hyper))

    def _evaluation_act(self, explore: bool) -> Callable[..., tuple[jax.Array, Any]]:
        def act(
            state: AgentState, obs: jax.Array, key: jax.Array, step: jax.Array, memory: Any
        ) -> tuple[jax.Array, Any]:
            key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION), step)
            action, _, memory = self._player.act(state, obs, key, explore, memory)
            return action, memory

        return act

    def _begin_episodes(self) -> None:
        """Reset every environment, starting the pool if need be."""
        if self._pool is None:
            num_envs = self.agent.traits.num_envs
            seeds = [(int(seed), i) for seed in self._seeds for i in range(num_envs)]
            self._pool = self._make_pool(seeds, self._groups, not self.agent.traits.fresh_episodes)
        # Numbered by the iteration, so that a resumed run does not replay the episodes it began with.
        obs = self._pool.reset(self.iteration)
        self._obs = [obs[group].reshape(self.num_runs, -1, *self.spec.obs_shape) for group in self._groups]
        self._memory = [self._begin(x.shape[1]) for x in self._obs]
        self._ended = [np.zeros(x.shape[:2], bool) if self.agent.memory else () for x in self._obs]
        self._returns[:], self._lengths[:] = 0.0, 0

    def _evaluation_pool(self, num_envs: int) -> Pool:
        """A pool of `num_envs` environments per run, seeded alike for every run; kept between evaluations."""
        if self._eval_pool is None or self._eval_pool[0] != num_envs:
            if self._eval_pool is not None:
                self._eval_pool[1].close()
            seeds = [(EVALUATION_SEED, i) for _ in range(self.num_runs) for i in range(num_envs)]
            self._eval_pool = (num_envs, self._make_pool(seeds, None, False))
        return self._eval_pool[1]

    def _rollout(self, iteration: np.int32) -> tuple[np.ndarray, Episodes]:
        """Fill the buffers with T steps; returns steps played [K] and the episodes that ended.

        What happens between two receives takes a core from a simulation: the loop only stores, the rest comes after.
        """
        traits, groups = self.agent.traits, len(self._groups)
        pool, leaves = self._pool, jax.tree.leaves(self.state)
        assert pool is not None
        read = [leaves[i] for i in self._read]
        keys = np.moveaxis(np.asarray(self._rollout_keys(self._keys, iteration)), 1, 0).copy()
        extras: list[list[Any]] = [[] for _ in range(groups)]
        alive = np.ones((self.num_runs, traits.num_envs), bool)

        def act(group: int, t: int) -> None:
            obs = self._obs[group]
            memory, ended = self._memory[group], self._ended[group]
            choice, extra, self._memory[group] = self._act(read, obs, keys[t * groups + group], memory, ended)
            action = np.asarray(choice)
            sent = clip_action(self.spec, action, np).reshape(-1, *self.spec.action_shape)
            pool.send(group, sent, alive.reshape(-1) if traits.fresh_episodes else None)
            self._store_choice(t, self._ranks[group], obs, action, extra)
            extras[group].append(extra)

        for group in range(groups):
            act(group, 0)
        played = [0] * groups
        while min(played) < traits.rollout_length:
            group = pool.ready()
            out = pool.receive(group)
            self._obs[group] = out.obs.reshape(self._obs[group].shape).copy()
            self._store_result(played[group], group, out)
            played[group] += 1
            if traits.fresh_episodes:
                alive &= ~(out.terminated | out.truncated).reshape(alive.shape)
                if not alive.any():
                    break
            if played[group] < traits.rollout_length:
                act(group, played[group])
        self._store_extras(extras)
        return self._finish(min(played))

    def _store_choice(self, t: int, ranks: slice, obs: np.ndarray, action: np.ndarray, extras: dict) -> None:
        """Write what was seen and chosen at step t, but for the extras."""
        buffers = self._allocated(action, extras)
        if self.agent.traits.keep_obs:
            buffers.obs[:, t, ranks] = obs
        buffers.action[:, t, ranks] = action

    def _store_extras(self, extras: list[list[dict[str, jax.Array]]]) -> None:
        """Write what came with the choices, for each group and step."""
        assert self._buffers is not None
        for ranks, rows in zip(self._ranks, extras, strict=True):
            for t, row in enumerate(rows):
                for name, value in row.items():
                    self._buffers.extras[name][:, t, ranks] = np.asarray(value)

    def _store_result(self, t: int, group: int, out: Any) -> None:
        """Write what came of step t."""
        buffers, ranks, shape = self._buffers, self._ranks[group], self._obs[group].shape
        assert buffers is not None
        if self.agent.memory is not None:
            self._ended[group] = (out.terminated | out.truncated).reshape(shape[:2])
        buffers.reward[:, t, ranks] = out.reward.reshape(shape[:2])
        buffers.terminated[:, t, ranks] = out.terminated.reshape(shape[:2])
        buffers.truncated[:, t, ranks] = out.truncated.reshape(shape[:2])
        if self._frames_once:
            cut = (out.truncated & ~out.terminated).reshape(shape[:2])
            frames.note(buffers.next_obs, t, ranks, cut, out.next_obs.reshape(shape), self.agent.traits.rollout_length)
        elif self.agent.traits.keep_obs:
            buffers.next_obs[:, t, ranks] = out.next_obs.reshape(shape)

    def _finish(self, played: int) -> tuple[np.ndarray, Episodes]:
        """Steps of each run [K] and the episodes that ended within the first `played` rows of the buffers."""
        buffers = self._buffers
        assert buffers is not None
        buffers.reward[:, played:] = 0  # of the rollout before, whose numbers need not have been finite
        if self.agent.traits.keep_obs and not self._frames_once:
            buffers.obs[:, played:] = buffers.next_obs[:, played:] = 0
        done = (buffers.terminated | buffers.truncated)[:, :played]
        reward = buffers.reward[:, :played].astype(np.float64)
        step, rank, run = np.nonzero(done.transpose(1, 2, 0))
        returns, lengths = np.zeros(len(step)), np.zeros(len(step), np.int64)
        begin = np.zeros(self._lengths.shape, np.int64)  # row of the first step of the episode under way
        for i, (k, n) in enumerate(zip(run, rank, strict=True)):
            first, begin[k, n] = begin[k, n], step[i] + 1
            returns[i] = self._returns[k, n] + reward[k, first : begin[k, n], n].sum()
            lengths[i] = self._lengths[k, n] + begin[k, n] - first
            self._returns[k, n] = self._lengths[k, n] = 0
        # Not a difference of sums: a return that is not a number would outlive its episode.
        under_way = np.arange(played)[:, None] >= begin[:, None]
        self._returns += np.where(under_way, reward, 0.0).sum(axis=1)
        self._lengths += played - begin
        steps = np.full((self.num_runs, self.agent.traits.num_envs), played)
        if self.agent.traits.fresh_episodes:  # each ends once, for good
            steps[run, rank] = step + 1
        return steps.sum(axis=1), Episodes(run, rank, returns, lengths)

    def _allocated(self, action: np.ndarray, extras: dict) -> Transition:
        """The rollout buffers [K, T, N, ...], allocated on first use."""
        if self._buffers is None:
            traits = self.agent.traits
            lead = (self.num_runs, traits.rollout_length, traits.num_envs)

            def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
                return np.zeros((*lead, *shape), dtype)

            def observations() -> Any:
                return zeros(self.spec.obs_shape, self.spec.obs_dtype) if traits.keep_obs else ()

            self._buffers = Transition(
                obs=observations(),
                action=zeros(self.spec.action_shape, action.dtype),
                reward=zeros((), np.float32),
                terminated=zeros((), bool),
                truncated=zeros((), bool),
                next_obs=frames.empty(self.spec, traits, lead[:1]) if self._frames_once else observations(),
                extras={name: zeros(value.shape[2:], value.dtype) for name, value in extras.items()},
            )
        return self._buffers


def _at_iteration(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of (state, batch, key, hyper, clock) as one of a run's key, the iteration and its share of all."""

    def at_iteration(
        state: AgentState,
        batch: Transition,
        key: jax.Array,
        hyper: Any,
        iteration: jax.Array,
        per_iteration: jax.Array,
    ) -> Any:
        update_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, TRAINING), iteration))[1]
        return function(state, batch, update_key, hyper, Clock(iteration, jnp.minimum(iteration * per_iteration, 1.0)))

    return at_iteration
