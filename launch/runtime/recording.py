"""Episodes as a dataset holds them, played in either simulator.

How an episode begins and which random actions it takes follows from (seed, number of the episode), whatever the number
of workers and wherever a dataset was interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from envs.device.batch import BatchEnv
from envs.host.pool import MAX_RESTARTS, WorkerError
from envs.host.recorded import RecordedFactory
from envs.host.vector import VectorPool
from envs.make import EnvOptions, device_env, host_factory
from envs.render.seen_pool import encoder_of
from envs.types import Discrete, Spec
from launch.runtime.drivers.common import clip_action
from launch.runtime.srl_models import encoding_of

LANES = 32  # environments that play at once on the host, whatever the number of processes
LANE_BYTES = 2 * 2**30  # that the frames of their longest episodes may take
BATCH = 64  # episodes that the twin plays at once
CHUNK = 32  # frames that are drawn at once, and steps between two looks at whether all episodes have ended
ACTIONS = 1  # stream of an episode's key


class Episode(NamedTuple):
    """One episode of n frames.

    Attributes:
        frames: uint8 [n, H, W, C].
        actions: [n] int32 or [n, A] float32, taken at each frame.
        rewards: float32 [n], of those actions.
        ground_truth: float32 [n, d] (m).
        target: float32 [d_t] (m), at the start.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ground_truth: np.ndarray
    target: np.ndarray


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained policy that plays.

    Attributes:
        options: What it observes.
        act: (observations [N, ...], dones bool [N]) -> actions [N, ...].
    """

    options: EnvOptions
    act: Callable[[Any, np.ndarray], Any]


class Recorder(Protocol):
    """Plays episodes.

    Attributes:
        config: What `representations.dataset.CONFIG_KEYS` names.
        frame_bytes: Bytes of a frame.
        max_steps: Longest episode.
        round: Episodes after which playing can be continued.
    """

    config: dict[str, Any]
    frame_bytes: int
    max_steps: int
    round: int

    def play(self, first: int, count: int) -> Iterator[Episode]:
        """Yield the episodes first, ..., count - 1, in order."""

    def close(self) -> None:
        """Free what the recorder holds."""


def _config(spec: Spec, shape: tuple[int, ...], relative: bool, distance: float | None) -> dict[str, Any]:
    return {
        "env_id": spec.id,
        "image_size": int(shape[0]),
        "channels": int(shape[2]),
        "num_actions": spec.action.n if isinstance(spec.action, Discrete) else 0,
        "relative_pos": relative,
        "max_distance": distance,
    }


class HostRecorder:
    """Plays environments of the host in worker processes.

    Args:
        options: The environment, whose pictures are recorded; what it observes is ignored.
        seed: Seed of the dataset.
        num_cpu: Number of processes.
        toward_target: Probability with which a step is the scripted controller's.
        policy: Who plays in its place.

    Raises:
        ValueError: The environment refuses its options, tells no true position, or has no scripted controller.
    """

    def __init__(
        self, options: EnvOptions, seed: int, num_cpu: int, toward_target: float, policy: Policy | None
    ) -> None:
        observed = policy.options if policy else options
        plain = dataclasses.replace(
            options, srl_model=observed.srl_model, num_stack=observed.num_stack, renderer="tiny", srl_model_path=None
        )
        self._encode, self._stack = None, observed.num_stack
        if observed.learned:
            encoding = encoding_of(observed)
            assert encoding is not None
            plain, self._encode = plain.seen(), encoder_of(dataclasses.replace(observed, renderer="tiny"), encoding)
        told = policy is not None
        self._factory = RecordedFactory(host_factory(plain, pictured=True), toward_target, told, options.drawn)
        self._policy, self._seed, self._num_cpu, self._options = policy, seed, num_cpu, options
        env = self._factory()
        try:
            self._layout, task = env.layout, env.task
            self._spec = Spec(options.env, (1,), "uint8", _action(env), task.max_episode_steps)
            relative, distance = task.relative_pos, getattr(task, "max_distance", None)
        finally:
            env.close()
        shape, self._draw = self._layout.shapes[0], None
        if options.drawn:
            twin = device_env(dataclasses.replace(options.as_twin(), srl_model="raw_pixels"))
            shape, self._draw = twin.spec.obs_shape, jax.jit(jax.vmap(twin.draw))
        self.config = _config(self._spec, shape, relative, distance)
        self.frame_bytes, self.max_steps = int(np.prod(shape)), task.max_episode_steps
        single = options.single or options.render_mode == "human"
        self.round = 1 if single else max(1, min(LANES, LANE_BYTES // (self.frame_bytes * self.max_steps)))
        self._pool: VectorPool | None = None

    def play(self, first: int, count: int) -> Iterator[Episode]:
        """Yield episodes; `first` is where a round of them begins.

        Raises:
            WorkerError: An environment failed, or a worker died in each of 1 + MAX_RESTARTS tries at a round.
        """
        lanes = min(self.round, count)
        seeds = [(self._seed, lane) for lane in range(lanes)]
        self._pool = VectorPool(
            self._factory, seeds, num_workers=self._num_cpu, auto_reset=False, timeout=self._options.step_timeout
        )
        for start in range(first, count, self.round):
            yield from self._round(start // self.round, min(lanes, count - start))

    def _round(self, number: int, count: int) -> list[Episode]:
        """Play an episode of the first `count` lanes to its end; again where a worker died and cut some short."""
        for _ in range(1 + MAX_RESTARTS):
            episodes = self._try(number, count)
            if episodes is not None:
                return episodes
        first = number * self.round
        which = f"episode {first}" if count == 1 else f"episodes {first} to {first + count - 1}"
        raise WorkerError(f"{which}: a worker died in each of {1 + MAX_RESTARTS} tries")

    def _try(self, number: int, count: int) -> list[Episode] | None:
        """The episodes of a round, None where a worker died."""
        assert self._pool is not None
        now = self._layout.split(self._pool.reset(number))
        restarts = self._pool.restarts  # one in the reset has lost nothing
        lanes = len(now["target"])
        targets, records = now["target"].copy(), [_Record() for _ in range(lanes)]
        alive, dones, states = np.arange(lanes) < count, np.ones(lanes, bool), None
        while alive.any():
            actions = np.zeros((lanes, *self._spec.action_shape), self._spec.action_dtype)
            if self._policy is not None:
                obs = now["obs"]
                if self._encode is not None:
                    obs = states = self._states(states, obs)
                actions = clip_action(self._spec, np.asarray(self._policy.act(obs, dones)), np)
                dones = np.zeros(lanes, bool)
            frames = now["frame"] if self._draw is None else np.asarray(self._draw(now["frame"]))
            self._pool.send(0, actions, alive)
            step = self._pool.receive(0)
            if self._pool.restarts != restarts:
                return None
            after = self._layout.split(step.next_obs)
            for lane in np.flatnonzero(alive):
                records[lane].add(frames[lane], after["action"][lane], step.reward[lane], now["ground_truth"][lane])
            alive &= ~(step.terminated | step.truncated)
            now = after
        return [record.episode(targets[lane]) for lane, record in enumerate(records[:count])]

    def _states(self, before: np.ndarray | None, pictures: np.ndarray) -> np.ndarray:
        """The learned states of the last pictures, stacked as the policy observes them."""
        assert self._encode is not None
        state = np.asarray(self._encode(pictures))
        if before is None:
            before = np.zeros((len(state), self._stack * state.shape[1]), np.float32)
        return np.concatenate([before[:, state.shape[1] :], state], axis=1)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()


def _action(env: Any) -> Any:
    from envs.host.gymnasium_env import spec_of

    return spec_of(env, "").action


class _Record:
    """Rows of an episode under way."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []

    def add(self, *row: Any) -> None:
        """Take a frame, the action taken there, its reward and the true position."""
        self._rows.append(tuple(np.array(value) for value in row))

    def episode(self, target: np.ndarray) -> Episode:
        """The whole episode."""
        frames, actions, rewards, truth = (np.stack(column) for column in zip(*self._rows, strict=True))
        return Episode(frames, actions, rewards, truth, target)


class DeviceRecorder:
    """Plays the twin, whole batches of episodes on the device; pictures are drawn of frames that are kept only.

    Args:
        options: The environment, whose pictures are recorded; what it observes is ignored.
        seed: Seed of the dataset.
        toward_target: Probability with which a step is the scripted controller's.
        policy: Who plays in its place.

    Raises:
        ValueError: There is no twin that tells its true position and draws pictures, or no scripted controller.
    """

    def __init__(self, options: EnvOptions, seed: int, toward_target: float, policy: Policy | None) -> None:
        observed = dataclasses.replace(options, srl_model="ground_truth", num_stack=1, image_size=224)
        observed = dataclasses.replace(observed, multi_view=False, fpv=False)
        played = observed
        if policy is not None:
            names = ("srl_model", "srl_model_path", "num_stack", "image_size", "multi_view", "fpv")
            played = dataclasses.replace(options, **{name: getattr(policy.options, name) for name in names})
        self._env = device_env(played, encoding_of(played))
        twin, painter = device_env(observed), device_env(options.seen())
        if not (hasattr(twin, "ground_truth") and hasattr(painter, "observe")):
            raise ValueError(f"--simulator=jax: {options.env} tells no true position or draws no pictures")
        jax.eval_shape(painter.reset, jax.random.key(0))  # a twin may find out only here that it cannot draw
        self._policy, self._stacked, self._spec = policy, played.num_stack > 1, twin.spec
        self._batch = BatchEnv(self._env, auto_reset=False)
        keys = jax.random.split(jax.random.key(seed), 2)
        self._reset_key, self._action_key = keys[0], keys[1]
        self._choose = jax.jit(jax.vmap(self._chooser(twin, toward_target), (0, 0, None)))
        self._begin = jax.jit(lambda numbers: self._batch.reset(jnp.broadcast_to(keys[0], numbers.shape), numbers))
        self._advance = jax.jit(self._batch.step)
        self._truth = jax.jit(jax.vmap(jax.vmap(twin.ground_truth)))
        self._target = jax.jit(jax.vmap(twin.target))
        self._draw = jax.jit(jax.vmap(painter.observe))
        self.round = 1
        shape = painter.spec.obs_shape
        self.config = _config(self._spec, shape, True, getattr(twin, "max_distance", None))
        self.frame_bytes, self.max_steps = int(np.prod(shape)), self._spec.max_episode_steps or 0

    def play(self, first: int, count: int) -> Iterator[Episode]:
        """Yield episodes."""
        for start in range(first, count, BATCH):
            yield from self._play_batch(start, min(BATCH, count - start))

    def close(self) -> None:
        """Nothing to free."""

    def _chooser(self, twin: Any, toward_target: float) -> Callable[..., jax.Array]:
        """(state, number of the episode, step) -> action, random or of the scripted controller."""
        space = self._spec.action
        control: Callable[[Any], jax.Array] | None = None
        if toward_target > 0:
            from envs.device.scripted import controller_for

            control = controller_for(twin)

        def choose(state: Any, episode: jax.Array, step: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.fold_in(self._action_key, episode), step)
            whether, which = jax.random.split(key)
            if isinstance(space, Discrete):
                action = jax.random.randint(which, (), 0, space.n)
            else:
                low, high = jnp.array(space.low, jnp.float32), jnp.array(space.high, jnp.float32)
                action = jax.random.uniform(which, (space.size,), jnp.float32, low, high)
            if control is None:
                return action
            return jnp.where(jax.random.uniform(whether) < toward_target, control(state), action)

        return choose

    def _bare(self, state: Any) -> Any:
        """The twin's own states, of those of the batch."""
        inner = state.env.env
        return inner.env if self._stacked else inner

    def _play_batch(self, first: int, count: int) -> Iterator[Episode]:
        """Play `BATCH` episodes from number `first` on, and yield `count` of them."""
        numbers = first + jnp.arange(BATCH)
        state, obs = self._begin(numbers)
        targets = np.asarray(self._target(self._bare(state)))
        alive, dones = np.ones(BATCH, bool), np.ones(BATCH, bool)
        chunks: list[tuple[Any, Any]] = []
        living: list[np.ndarray] = []
        while alive[:count].any():
            rows: list[tuple[Any, ...]] = []
            for _ in range(CHUNK):
                bare, step = self._bare(state), len(chunks) * CHUNK + len(rows)
                if self._policy is None:
                    action = self._choose(bare, numbers, step)
                else:
                    action = clip_action(self._spec, jnp.asarray(self._policy.act(obs, dones)))
                    dones = np.zeros(BATCH, bool)
                state, out = self._advance(state, action)
                obs = out.obs
                rows.append((bare, action, out.reward, out.terminated | out.truncated))
            states, *told = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
            actions, rewards, ended = (np.asarray(value) for value in told)
            before = alive & ~np.logical_or.accumulate(np.concatenate([np.zeros((1, BATCH), bool), ended[:-1]]))
            chunks.append((states, (actions, rewards, np.asarray(self._truth(states)))))
            living.append(before)
            alive = alive & ~ended.any(axis=0)
        for lane in range(count):
            yield self._episode(lane, chunks, living, targets[lane])

    def _episode(self, lane: int, chunks: list[tuple[Any, Any]], living: list[np.ndarray], target: Any) -> Episode:
        """Draw one of a batch of episodes."""
        frames, columns = [], []
        for (states, told), before in zip(chunks, living, strict=True):
            length = int(before[:, lane].sum())
            if length == 0:
                break
            drawn = self._draw(jax.tree.map(lambda x: x[:, lane], states))
            frames.append(np.asarray(drawn)[:length])
            columns.append([value[:length, lane] for value in told])
        actions, rewards, truth = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        return Episode(np.concatenate(frames), actions, rewards, truth, target)
