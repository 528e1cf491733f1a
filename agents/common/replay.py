"""Replay memory: a ring of the last steps of N environments, sampled evenly or by priority.

It is on the device, but for pictures that the host driver keeps. Where the ring is written follows from the clock,
which all runs of a sweep share: a vmapped run writes in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from agents.types import Clock, Place, Recall, Recalled, Transition
from envs.types import Spec


class Replay(NamedTuple):
    """The ring; leaves lead with [rows, N].

    `next_obs` is () for pictures: a frame is stored once, its successor is the frame in the row after it. `obs` is ()
    where they are in host memory.
    """

    obs: Any
    action: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: Any


class Minibatch(NamedTuple):
    """Transitions ready for learning, leaves [B, ...]; the target of a value is reward + discount * V(next_obs).

    Attributes:
        obs: Observation that was acted on.
        action: What was done.
        reward: Discounted sum of the rewards of up to n steps, float32.
        discount: gamma to the number of those steps, 0 after a death; float32.
        next_obs: Observation after those steps.
        weight: 0 where the successor is not known (a picture after a time limit) or a number was not finite, else 1;
            float32.
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_obs: jax.Array
    weight: jax.Array


class ReplayMemory:
    """Layout of a replay memory, and the pure functions that fill and read it; holds no data.

    Args:
        spec: Environment whose steps are stored.
        capacity: Steps to remember, of all environments together; rounded down to whole rollouts.
        rollout_length: T, steps of each environment that are added at a time.
        num_envs: N.
        n_step: Steps that a transition spans at most; it ends earlier with its episode.
        frames_on_host: Whether the host driver keeps the pictures.

    Raises:
        ValueError: The capacity is less than one rollout and the steps of one transition.
    """

    def __init__(
        self,
        spec: Spec,
        capacity: int,
        rollout_length: int,
        num_envs: int,
        n_step: int = 1,
        frames_on_host: bool = False,
    ) -> None:
        self.spec, self.num_envs, self.length, self.n_step = spec, num_envs, rollout_length, n_step
        self.stores_next = not spec.pixels
        self.stores_obs = not frames_on_host
        # The newest rows do not yet have all that a transition spans.
        self.unripe = n_step - 1 if self.stores_next else n_step
        self.blocks = capacity // (num_envs * rollout_length)
        self.rows = self.blocks * rollout_length
        if self.rows <= self.unripe:
            least = num_envs * rollout_length * (1 + self.unripe // rollout_length)
            raise ValueError(f"a replay memory of {capacity} steps is too small: at least {least} are needed")

    def first_update(self, learning_starts: int) -> int:
        """The iteration after which learning begins: so many steps are stored, and a transition is complete."""
        return max(-(-learning_starts // (self.num_envs * self.length)), self.unripe // self.length)

    def init(self) -> Replay:
        """An empty memory."""
        spec, lead = self.spec, (self.rows, self.num_envs)
        obs = (*lead, *spec.obs_shape), spec.obs_dtype
        return Replay(
            obs=jnp.zeros(*obs) if self.stores_obs else (),
            action=jnp.zeros((*lead, *spec.action_shape), spec.action_dtype),
            reward=jnp.zeros(lead),
            terminated=jnp.zeros(lead, bool),
            truncated=jnp.zeros(lead, bool),
            next_obs=jnp.zeros(*obs) if self.stores_next else (),
        )

    def add(self, replay: Replay, batch: Transition, clock: Clock) -> Replay:
        """Write the rollout of this iteration over the oldest.

        A step of which a number is not finite is kept with the reward NaN and zeros in its place: see `read`.
        """
        start = clock.iteration % self.blocks * self.length

        def write(ring: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(ring, new.astype(ring.dtype), start, axis=0)

        next_obs = batch.next_obs if self.stores_next else ()
        reward = jnp.where(self._known((batch.obs, batch.action, batch.reward, next_obs)), batch.reward, jnp.nan)
        obs, action, next_obs = jax.tree.map(_finite_part, (batch.obs, batch.action, next_obs))
        obs = obs if self.stores_obs else ()
        rollout = Replay(obs, action, reward, batch.terminated, batch.truncated, next_obs)
        return jax.tree.map(write, replay, rollout)

    def cut(self, replay: Replay, iteration: jax.Array | int) -> Replay:
        """The memory where all environments begin anew after this many iterations: what was under way goes no further.

        The last step counts as truncated, unless its episode had ended.
        """
        last = (iteration * self.length - 1) % self.rows
        cut = ~replay.terminated[last] & (jnp.asarray(iteration) > 0)
        return replay._replace(truncated=replay.truncated.at[last].set(replay.truncated[last] | cut))

    def read(self, replay: Replay, place: Place, gamma: ArrayLike, frames: Recalled | None = None) -> Minibatch:
        """The transitions at `place` [B]: rewards summed over up to n steps, until a death or a time limit.

        One that has a step whose numbers were not finite gets the reward 0 and the weight 0. `frames` are its pictures
        [B, ...] where they are in host memory.
        """
        reward, discount, last = self._span(replay, place, gamma)
        terminated, truncated = replay.terminated[last], replay.truncated[last]
        if self.stores_next:
            weight = jnp.ones_like(reward)
        else:
            weight = jnp.where(truncated & ~terminated, 0.0, 1.0)
        if frames is not None:
            obs, next_obs = frames.obs, frames.next_obs
        else:
            obs = replay.obs[place]
            next_obs = replay.next_obs[last] if self.stores_next else replay.obs[self._row_after(last)]
        discount = jnp.where(terminated, 0.0, discount)
        known = jnp.isfinite(reward)
        reward, weight = jnp.where(known, reward, 0.0), jnp.where(known, weight, 0.0)
        return Minibatch(obs, replay.action[place], reward, discount, next_obs, weight)

    def recall(
        self,
        replay: Replay,
        batch: Transition,
        sample: Callable[[jax.Array], tuple[Place, jax.Array]],
        keys: jax.Array,
        clock: Clock,
    ) -> Recall:
        """Which transitions an update draws from the memory once it has added the batch; see `HostFrames`.

        Args:
            replay: The memory before that.
            batch: What is added.
            sample: (key) -> (places, weights) of one minibatch.
            keys: Typed keys [G], one for each minibatch.
            clock: When.
        """
        here, weight = jax.vmap(sample)(keys)
        *_, last = self._span(self.add(replay, batch, clock), here, 1.0)
        return Recall(here, self._row_after(last), weight)

    def _row_after(self, place: Place) -> Place:
        """Where the next frame of these environments is."""
        return Place((place.row + 1) % self.rows, place.env)

    def _span(self, replay: Replay, place: Place, gamma: ArrayLike) -> tuple[jax.Array, jax.Array, Place]:
        """Discounted rewards of the transitions that begin at `place`, gamma to their steps, and their last steps."""
        reward, discount, going = jnp.float32(0.0), jnp.float32(1.0), jnp.ones_like(place.row, bool)
        last = place
        for step in range(self.n_step):
            here = Place((place.row + step) % self.rows, place.env)
            reward = reward + jnp.where(going, discount * replay.reward[here], 0.0)
            discount = jnp.where(going, discount * gamma, discount)
            last = Place(jnp.where(going, here.row, last.row), place.env)
            going = going & ~(replay.terminated[here] | replay.truncated[here])
        return reward, discount, last

    def _known(self, steps: tuple) -> jax.Array:
        """Whether all numbers of each step are finite; leaves [T, N, ...] to bool [T, N]."""
        known = jnp.ones((self.length, self.num_envs), bool)
        for x in jax.tree.leaves(steps):
            if jnp.issubdtype(x.dtype, jnp.floating):
                known &= jnp.isfinite(x).reshape(*known.shape, -1).all(axis=-1)
        return known

    def bytes(self) -> int:
        """Size of one run's memory."""
        return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(self.init)))


def _finite_part(x: jax.Array) -> jax.Array:
    """The array with 0 in place of what is not finite."""
    return jnp.where(jnp.isfinite(x), x, 0) if jnp.issubdtype(x.dtype, jnp.floating) else x


class UniformSampler:
    """Draws all stored transitions alike; has the methods of `PrioritizedSampler` and keeps nothing."""

    def __init__(self, memory: ReplayMemory) -> None:
        self.memory = memory

    def init(self) -> tuple[()]:
        """Nothing to keep."""
        return ()

    def add(self, priorities: Any, alpha: ArrayLike, clock: Clock) -> tuple[()]:
        """Nothing to note."""
        return ()

    def update(self, priorities: Any, place: Place, error: jax.Array, weight: jax.Array, alpha: ArrayLike) -> tuple[()]:
        """Nothing to note."""
        return ()

    def sample(
        self, priorities: Any, key: jax.Array, size: int, beta: ArrayLike, clock: Clock
    ) -> tuple[Place, jax.Array]:
        """Draw `size` transitions with repetition: (where they lie, weights of 1 [size])."""
        memory, (row_key, env_key) = self.memory, jax.random.split(key)
        stored = jnp.minimum(clock.iteration + 1, memory.blocks) * memory.length - memory.unripe
        oldest = jnp.where(clock.iteration < memory.blocks, 0, (clock.iteration + 1) % memory.blocks * memory.length)
        row = (oldest + jax.random.randint(row_key, (size,), 0, stored)) % memory.rows
        return Place(row, jax.random.randint(env_key, (size,), 0, memory.num_envs)), jnp.ones(size)


class Priorities(NamedTuple):
    """Priorities of the transitions as segment trees, float32 [2 * leaves]: 1 is the root, 2i and 2i+1 are below i.

    Attributes:
        sum: Sums of priority^alpha; 0 for what may not be drawn.
        min: Minima of priority^alpha; infinite for what may not be drawn.
        highest: Largest priority so far [], which new transitions get.
    """

    sum: jax.Array
    min: jax.Array
    highest: jax.Array


class PrioritizedSampler:
    """Proportional prioritised replay (Schaul et al. 2016, arXiv 1511.05952, section 3.3) of a `ReplayMemory`."""

    def __init__(self, memory: ReplayMemory) -> None:
        self.memory = memory
        self.depth = (memory.rows * memory.num_envs - 1).bit_length()
        self.leaves = 1 << self.depth

    def init(self) -> Priorities:
        """No transition yet."""
        size = 2 * self.leaves
        return Priorities(jnp.zeros(size), jnp.full(size, jnp.inf), jnp.float32(1.0))

    def add(self, priorities: Any, alpha: ArrayLike, clock: Clock) -> Priorities:
        """Give the transitions that this iteration's rollout completed the highest priority; take the rest out."""
        memory = self.memory
        start = clock.iteration % memory.blocks * memory.length
        # In a small ring the oldest of these rows are those that were just written over.
        offset = jnp.arange(max(-memory.unripe, memory.length - memory.rows), memory.length)
        ripe = offset < memory.length - memory.unripe
        exists = offset >= -jnp.minimum(clock.iteration, memory.blocks) * memory.length
        rows = (start + offset) % memory.rows
        value = jnp.where(ripe & exists, priorities.highest**alpha, 0.0)
        index = rows[:, None] * memory.num_envs + jnp.arange(memory.num_envs)
        return self._set(priorities, index.reshape(-1), jnp.repeat(value, memory.num_envs))

    def update(
        self, priorities: Any, place: Place, error: jax.Array, weight: jax.Array, alpha: ArrayLike
    ) -> Priorities:
        """Set priorities to |temporal-difference error| [B] + 1e-6, to the highest where that is not finite.

        What teaches nothing, its weight [B] being 0, is not drawn again: its priority would make the least of all.
        """
        value = jnp.where(jnp.isfinite(error), jnp.abs(error) + 1e-6, priorities.highest)
        value = jnp.where(weight > 0, value, 0.0)
        highest = jnp.maximum(priorities.highest, jnp.max(value))
        index = place.row * self.memory.num_envs + place.env
        return self._set(priorities._replace(highest=highest), index, jnp.where(value > 0, value**alpha, 0.0))

    def sample(
        self, priorities: Any, key: jax.Array, size: int, beta: ArrayLike, clock: Clock
    ) -> tuple[Place, jax.Array]:
        """Draw `size` transitions by priority, one from each of as many equal shares of the sum.

        Returns:
            (where they lie, importance weights [size], of which the largest possible is 1)
        """
        total = priorities.sum[1]
        mass = (jnp.arange(size) + jax.random.uniform(key, (size,))) / size * total
        node = jnp.ones(size, jnp.int32)
        for _ in range(self.depth):
            left, right = priorities.sum[2 * node], priorities.sum[2 * node + 1]
            # Rounding may leave a mass beyond all priorities: never go where there are none.
            to_right = ((mass >= left) & (right > 0)) | (left <= 0)
            mass = jnp.where(to_right, mass - left, mass)
            node = 2 * node + to_right
        weight = (priorities.sum[node] / priorities.min[1]) ** -jnp.asarray(beta)
        weight = jnp.where(total > 0, weight, 0.0)  # all that is stored may teach nothing
        leaf = node - self.leaves
        return Place(leaf // self.memory.num_envs, leaf % self.memory.num_envs), weight

    def _set(self, priorities: Priorities, index: jax.Array, value: jax.Array) -> Priorities:
        """Set leaves [B] and mend the nodes above them."""
        node = index + self.leaves
        low = jnp.where(value > 0, value, jnp.inf)
        sums, minima = priorities.sum.at[node].set(value), priorities.min.at[node].set(low)
        for _ in range(self.depth):
            node = node // 2
            sums = sums.at[node].set(sums[2 * node] + sums[2 * node + 1])
            minima = minima.at[node].set(jnp.minimum(minima[2 * node], minima[2 * node + 1]))
        return Priorities(sums, minima, priorities.highest)
