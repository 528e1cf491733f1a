"""Device driver: environments, acting and learning inside one compiled program, vmapped over runs."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.types import Agent, AgentState, Clock, Player, Transition
from envs.device.batch import BatchEnv
from launch.runtime.compiler import compiler_options
from launch.runtime.drivers import frames
from launch.runtime.drivers.common import (
    ENVIRONMENT,
    EVALUATION,
    INIT,
    NO_LIMIT,
    TRAINING,
    Chunk,
    clip_action,
    over_runs,
    run_keys,
    tree_bytes,
)
from launch.runtime.drivers.episodes import finished
from launch.runtime.trees import is_key, to_host

EPISODE_RECORD_BYTES = 64 * 2**20  # a chunk's record of episode ends stays below this
# What runs that a CPU plays side by side work on stays about below this: more leaves its caches. Measured.
SIDE_BY_SIDE_BYTES = 8 * 2**20


class Run(NamedTuple):
    """Everything that one run consists of."""

    agent: AgentState
    env: Any
    obs: jax.Array
    returns: jax.Array  # of the episodes under way, float32 [N]
    lengths: jax.Array  # int32 [N]
    memory: Any  # what the agent remembers, leaves [N, ...]


class Report(NamedTuple):
    """What one iteration reports."""

    metrics: dict[str, jax.Array]
    steps: jax.Array  # int32 []
    ended: jax.Array  # bool [T, N]
    returns: jax.Array  # of episodes that ended, float32 [T, N]
    lengths: jax.Array  # int32 [T, N]


class DeviceDriver:
    """Trains K runs on device environments.

    Args:
        env: Device environment (no batch axis).
        agent: The algorithm.
        hyper: Hyperparameters, float32 leaves [K].
        seeds: Run seeds [K].
        iterations: Planned number of iterations; sets the clock's progress.
        max_chunk: Most iterations that one call of `run` plays.
        data_parallel: Whether each run's environments, not the runs, are spread over all devices of all processes.

    Raises:
        ValueError: With `data_parallel`, the environments do not divide over the devices.
    """

    def __init__(
        self,
        env: Any,
        agent: Agent,
        hyper: Any,
        seeds: np.ndarray,
        iterations: int,
        max_chunk: int = 64,
        data_parallel: bool = False,
    ) -> None:
        self.spec, self.agent, self.hyper = env.spec, agent, hyper
        self.num_runs, self._data_parallel = len(seeds), data_parallel
        self.iteration = 0
        traits = agent.traits
        record = 9 * self.num_runs * traits.rollout_length * traits.num_envs
        self.max_chunk = max(1, min(max_chunk, iterations, EPISODE_RECORD_BYTES // record))
        self._env = env
        self._player = Player(agent)
        self._batch_env = BatchEnv(env, auto_reset=not traits.fresh_episodes, join_runs=not data_parallel)
        self._progress_per_iteration = np.float32(1.0 / iterations)
        self._keys = run_keys(seeds)
        self._shard()
        # Named explicitly: an inferred output sharding would differ from the input's and compile the chunk twice.
        self._chunk = jax.jit(
            self._play_runs,
            donate_argnums=0,
            out_shardings=(self._run_sharding, self._sharding),
            compiler_options=compiler_options(),
        )
        self._init = jax.jit(over_runs(self._start, self.num_runs, (0, 0)), out_shardings=self._run_sharding)
        self._evaluators: dict[tuple[int, bool], Any] = {}
        self._compiled: Any = None  # the chunk, where it was compiled before its first use
        self._run: Run | None = None

    def begin(self, hyper: Any, seeds: np.ndarray) -> None:
        """Start K other runs, with the programs that are compiled already.

        Args:
            hyper: Hyperparameters, float32 leaves [K].
            seeds: Run seeds [K].
        """
        self._keys, self.hyper = _place((run_keys(seeds), hyper), self._sharding)
        self._run, self.iteration = None, 0

    @property
    def state(self) -> Run:
        """The runs, leaves [K, ...]; started on first use."""
        if self._run is None:
            self._run = self._init(self._keys, self.hyper)
        return self._run

    def run(self, count: int) -> Chunk:
        """Play and learn for at most `count` iterations; see Driver.run."""
        count = min(count, self.max_chunk)
        play = self._compiled or self._chunk
        run, reports = play(
            self.state, self._keys, self.hyper, np.int32(self.iteration), np.int32(count), self._progress_per_iteration
        )
        self._run = run
        self.iteration += count
        return Chunk(
            metrics={name: np.asarray(values)[:, :count].T for name, values in reports.metrics.items()},
            steps=np.asarray(reports.steps)[:, :count].T.astype(np.int64),
            episodes=finished(reports.ended, reports.returns, reports.lengths),
        )

    def evaluate(self, episodes: int, seed: int, explore: bool = False, acting: Any = None) -> np.ndarray:
        """Play `episodes` whole episodes per run; see Driver.evaluate."""
        agent = self.state.agent if acting is None else self.state.agent._replace(acting=acting)
        if (episodes, explore) not in self._evaluators:
            play = partial(self._play_episodes, episodes=episodes, explore=explore)
            evaluator = over_runs(play, self.num_runs, (0, None))
            self._evaluators[episodes, explore] = jax.jit(
                evaluator, out_shardings=self._sharding, compiler_options=compiler_options()
            )
        return np.asarray(self._evaluators[episodes, explore](agent, jax.random.key(seed)))

    def acting(self) -> Any:
        """The policies, leaves [K, ...]."""
        return self.state.agent.acting

    def others(self) -> dict[str, Any]:
        """Further policies worth keeping, leaves [K, ...]; see Driver.others."""
        return self.agent.others(self.state.agent)

    def adopt(self, acting: Any) -> None:
        """Play with these policies, leaves [K, ...], from now on; what learns beside them follows."""
        run = self.state
        agent = run.agent._replace(acting=_place(acting, self._sharding))
        self._run = run._replace(agent=self.agent.adopted(agent) if self.agent.adopted else agent)

    def checkpoint(self) -> Any:
        """All that a run consists of, so that a resumed run is bit-equal to an uninterrupted one."""
        return {"run": self._local(self.state), "iteration": np.int64(self.iteration)}

    def restore(self, tree: Any) -> None:
        """Continue from a checkpoint."""
        self._run = Run(*map(_place, tree["run"], self._run_sharding))
        self.iteration = int(tree["iteration"])

    def frame_memory(self) -> int:
        """None: all pictures are on the device; see Driver.frame_memory."""
        return 0

    def memory(self) -> int:
        """Bytes of the runs, one batch of experience each, and a chunk's record."""
        traits = self.agent.traits
        record = 9 * self.max_chunk * traits.rollout_length * traits.num_envs
        run, batch = self._one_run
        return self.num_runs * (tree_bytes(run) + record) + self._side_by_side() * tree_bytes(batch)

    def exact_memory(self) -> int:
        """Bytes that a chunk needs, from the compiler; compiles it, with nothing allocated yet.

        Counted are the runs, what the program works with, and its report, on all devices of this process together.
        """
        if self._compiled is None:
            shapes = jax.eval_shape(self._init, self._keys, self.hyper)

            def placed(shape: Any, sharding: NamedSharding) -> Any:
                return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shape)

            run = Run(*map(placed, shapes, self._run_sharding))
            start, count = np.int32(0), np.int32(1)
            lowered = self._chunk.lower(run, self._keys, self.hyper, start, count, self._progress_per_iteration)
            self._compiled = lowered.compile()
        sizes = self._compiled.memory_analysis()
        used = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return len(self._sharding.addressable_devices) * (used + sizes.temp_size_in_bytes)

    def kept_memory(self) -> tuple[int, int]:
        """Bytes of the runs between chunks, and of their policies among them."""
        run, _ = self._one_run
        return self.num_runs * tree_bytes(run), self.num_runs * tree_bytes(run.agent.acting)

    def close(self) -> None:
        """Nothing to free."""

    def _shard(self) -> None:
        """Spread the run axis over this process's devices where it divides evenly, or the environments over all.

        Environments are spread by saying no more than where they are: losses are means over them, so the compiler
        turns each gradient into an average over devices, and the learner is the same on every one of them.
        """
        if self._data_parallel:
            devices, num_envs = jax.devices(), self.agent.traits.num_envs
            if num_envs % len(devices):
                raise ValueError(f"--data-parallel: {num_envs} environments do not divide over {len(devices)} devices")
            mesh = Mesh(np.asarray(devices), ("env",))
            self._sharding = NamedSharding(mesh, PartitionSpec())
            spread = NamedSharding(mesh, PartitionSpec(None, "env"))
        else:
            devices = jax.local_devices()
            if self.num_runs % len(devices):
                devices = devices[:1]
            self._sharding = spread = NamedSharding(Mesh(np.asarray(devices), ("run",)), PartitionSpec("run"))
        self._run_sharding = Run(*cast(Any, (self._sharding, *[spread] * (len(Run._fields) - 1))))
        self._keys, self.hyper = _place((self._keys, self.hyper), self._sharding)

    def _local(self, run: Run) -> Run:
        """The runs as arrays that lie wholly in this process, gathered from all where they are spread over several."""
        if self._sharding.is_fully_addressable:
            return run
        gathered = jax.jit(lambda x: x, out_shardings=self._sharding)(run)
        return jax.tree.map(lambda x: x.addressable_data(0), gathered)

    def _env_keys(self, key: jax.Array) -> jax.Array:
        """Each environment's own key [N]."""
        base = jax.random.fold_in(key, ENVIRONMENT)
        return jax.vmap(partial(jax.random.fold_in, base))(jnp.arange(self.agent.traits.num_envs))

    def _start(self, key: jax.Array, hyper: Any) -> Run:
        num_envs = self.agent.traits.num_envs
        agent = self.agent.init(jax.random.fold_in(key, INIT), hyper)
        env, obs = self._batch_env.reset(self._env_keys(key))
        return Run(agent, env, obs, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32), self._player.begin(num_envs))

    @cached_property
    def _one_run(self) -> tuple[Run, Transition]:
        """One run and its batch of experience, as shapes."""
        runs = jax.eval_shape(self._init, self._keys, self.hyper)
        run = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), runs)
        return run, jax.eval_shape(self._rollout, run, jax.eval_shape(lambda: jax.random.key(0)))[1]

    def _side_by_side(self) -> int:
        """How many runs are played at once: all, or on a CPU a divisor of them that its caches hold."""
        if jax.default_backend() != "cpu" or len(self._sharding.device_set) > 1:
            return self.num_runs
        run, batch = self._one_run
        # A learner works on several trees like its policy: gradients and their statistics.
        most = SIDE_BY_SIDE_BYTES // (tree_bytes(batch) + 4 * tree_bytes(run.agent.acting))
        if self.num_runs <= most:
            return self.num_runs
        size = max(size for size in range(1, max(most, 1) + 1) if self.num_runs % size == 0)
        return size if 2 * size > most else self.num_runs

    def _play_runs(
        self, runs: Run, keys: jax.Array, hyper: Any, start: jax.Array, count: jax.Array, per_iteration: jax.Array
    ) -> tuple[Run, Report]:
        """`_play_chunk` of all runs, some at a time; leaves [K, ...]."""
        size = self._side_by_side()
        play = over_runs(self._play_chunk, size, (0, 0, 0, None, None, None))
        if size == self.num_runs:
            return play(runs, keys, hyper, start, count, per_iteration)

        def play_some(i: jax.Array, runs: Run) -> tuple[Run, Report]:
            part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), (runs, keys, hyper))
            return play(*part, start, count, per_iteration)

        def body(i: jax.Array, carry: tuple[Run, Report]) -> tuple[Run, Report]:
            played = play_some(i, carry[0])
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, i * size, 0), carry, played
            )

        shape = jax.eval_shape(play_some, jnp.int32(0), runs)[1]
        reports = jax.tree.map(lambda x: jnp.zeros((self.num_runs, *x.shape[1:]), x.dtype), shape)
        return jax.lax.fori_loop(0, self.num_runs // size, body, (runs, reports))

    def _play_chunk(
        self, run: Run, key: jax.Array, hyper: Any, start: jax.Array, count: jax.Array, per_iteration: jax.Array
    ) -> tuple[Run, Report]:
        """`count` iterations into buffers of `max_chunk`, so that a shorter last chunk needs no compilation."""
        step = partial(self._iterate, key=key, hyper=hyper)
        shape = jax.eval_shape(step, run, Clock(start, per_iteration))[1]
        buffers = jax.tree.map(lambda x: jnp.zeros((self.max_chunk, *x.shape), x.dtype), shape)

        def body(i: jax.Array, carry: tuple[Run, Report]) -> tuple[Run, Report]:
            run, buffers = carry
            iteration = start + i
            run, report = step(run, Clock(iteration, jnp.minimum(iteration * per_iteration, 1.0)))
            return run, jax.tree.map(lambda buffer, x: buffer.at[i].set(x), buffers, report)

        return jax.lax.fori_loop(0, count, body, (run, buffers))

    def _iterate(self, run: Run, clock: Clock, *, key: jax.Array, hyper: Any) -> tuple[Run, Report]:
        """One rollout and one update."""
        if self.agent.traits.fresh_episodes:
            env, obs = self._batch_env.reset(run.env.key, clock.iteration)
            memory = self._player.begin(self.agent.traits.num_envs)
            run = Run(run.agent, env, obs, jnp.zeros_like(run.returns), run.lengths * 0, memory)
        act_key, update_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, TRAINING), clock.iteration))
        run, batch, record = self._rollout(run, act_key)
        agent, metrics = self.agent.update(run.agent, batch, update_key, hyper, clock)
        ended, returns, lengths, played = record
        return run._replace(agent=agent), Report(metrics, jnp.sum(played), ended, returns, lengths)

    def _rollout(self, run: Run, key: jax.Array) -> tuple[Run, Transition, tuple]:
        """T steps of N environments."""
        traits = self.agent.traits
        once = traits.keep_obs and self.spec.pixels

        def step(carry: tuple, now: tuple[jax.Array, jax.Array]) -> tuple:
            env, obs, returns, lengths, memory, alive, successors = carry
            key, t = now
            action, extras, memory = self._player.act(run.agent, obs, key, True, memory)
            env, result = self._batch_env.step(env, clip_action(self.spec, action))
            seen = obs if traits.keep_obs else ()
            after = result.next_obs if traits.keep_obs and not once else ()
            row = Transition(seen, action, result.reward, result.terminated, result.truncated, after, extras)
            if once:
                cut = result.truncated & ~result.terminated
                successors = frames.noted(successors, t, cut, result.next_obs, traits.rollout_length)
            done = result.terminated | result.truncated
            returns, lengths = returns + result.reward, lengths + alive
            record = (done, returns, lengths, jnp.sum(alive))
            keep = ~done
            alive = alive & keep if traits.fresh_episodes else alive
            memory = self._player.forget(memory, done)
            # Not a product: a return that is not a number would outlive its episode.
            returns = jnp.where(keep, returns, 0.0)
            return (env, result.obs, returns, lengths * keep, memory, alive, successors), (row, record)

        successors = jax.tree.map(jnp.asarray, frames.empty(self.spec, traits)) if once else ()
        carry = (*run[1:], jnp.ones(traits.num_envs, bool), successors)
        steps = jax.random.split(key, traits.rollout_length), jnp.arange(traits.rollout_length)
        (*after, _, successors), (batch, record) = cast(tuple, jax.lax.scan(step, carry, steps))
        if once:
            batch = batch._replace(next_obs=successors)
        return Run(run.agent, *after), self._player.noted(batch, run.memory), record

    def _play_episodes(self, agent: AgentState, key: jax.Array, *, episodes: int, explore: bool) -> jax.Array:
        """Returns [episodes] of one episode in each of as many environments; stops when the last has ended."""
        env = BatchEnv(self._env, auto_reset=False)
        key = jax.random.fold_in(key, EVALUATION)
        state, obs = env.reset(jax.random.split(key, episodes))
        limit = self.spec.max_episode_steps or NO_LIMIT

        def unfinished(carry: tuple) -> jax.Array:
            step, *_, alive = carry
            return jnp.any(alive) & (step < limit)

        def step(carry: tuple) -> tuple:
            i, state, obs, memory, returns, alive = carry
            action, _, memory = self._player.act(agent, obs, jax.random.fold_in(key, i), explore, memory)
            state, result = env.step(state, clip_action(self.spec, action))
            returns = returns + jnp.where(alive, result.reward, 0.0)
            return i + 1, state, result.obs, memory, returns, alive & ~(result.terminated | result.truncated)

        carry = (jnp.int32(0), state, obs, self._player.begin(episodes), jnp.zeros(episodes), jnp.ones(episodes, bool))
        return jax.lax.while_loop(unfinished, step, carry)[4]


def _place(tree: Any, sharding: NamedSharding) -> Any:
    """Put a tree where it belongs; over several processes, each of which has the whole tree, by a program of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def spread(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        restored = (
            partial(jax.random.wrap_key_data, impl=str(jax.random.key_impl(leaf))) if is_key(leaf) else jnp.asarray
        )
        return jax.jit(restored, out_shardings=sharding)(to_host(leaf))  # from the host: committed to no device

    return jax.tree.map(spread, tree)
