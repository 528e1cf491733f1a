"""Probe environments: device environments so small that the right answer is known, one skill of a learner each.

After Andy Jones (2021), "Debugging Reinforcement Learning Systems", with two more for time limits. Each class tells the
right answer in its docstring, and `answers(gamma)` gives it as numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Box, Discrete, Spec, TimeStep


class Answers(NamedTuple):
    """What a learner must find, one row per observation that is acted on.

    Attributes:
        obs: float32 [K, D], the observations.
        value: float32 [K], value of each under the best policy.
        action: Best action for each: int32 [K] (discrete) or float32 [K, 1] (continuous); None if every action is best.
    """

    obs: np.ndarray
    value: np.ndarray
    action: np.ndarray | None


class Probe:
    """What the probes share: float32 observations, and two actions or one action within +-1.

    Args:
        continuous: Whether actions are continuous.
    """

    obs_size = 1
    length = 1  # steps of an episode

    def __init__(self, continuous: bool = False) -> None:
        self.continuous = continuous
        action = Box((-1.0,), (1.0,)) if continuous else Discrete(2)
        self.spec = Spec(f"probe/{type(self).__name__}", (self.obs_size,), "float32", action, self.length)

    def best(self, discrete: list[int], continuous: list[float]) -> np.ndarray:
        """The best actions for the kind of actions that this probe has."""
        return np.array(continuous, np.float32)[:, None] if self.continuous else np.array(discrete, np.int32)


def _rows(*obs: float) -> np.ndarray:
    """Observations of one number each, float32 [K, 1]."""
    return np.array(obs, np.float32)[:, None]


def _end(obs: jax.Array, reward: Any, terminated: Any = True, truncated: Any = False) -> TimeStep:
    """A TimeStep from Python or traced numbers."""
    return TimeStep(obs, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated), jnp.asarray(truncated))


def _sign(key: jax.Array) -> jax.Array:
    """-1 or +1 with equal chance, float32 [1]."""
    return jax.random.rademacher(key, (1,), jnp.float32)


class ConstantValue(Probe):
    """Observation 0, reward 1, terminated after one step. Right: V(0) = 1. Tests the value loss and the optimiser."""

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode."""
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """End it."""
        return state, _end(state, 1.0)

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        return Answers(_rows(0), np.ones(1, np.float32), None)


class ObservedValue(Probe):
    """Observation -1 or +1 at random, reward = observation, terminated after one step. Right: V(o) = o.

    Tests that the value depends on the observation and that rewards stay with their observations.
    """

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode."""
        obs = _sign(key)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """End it."""
        return state, _end(state, state[0])

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        return Answers(_rows(-1, 1), np.array([-1, 1], np.float32), None)


class DiscountedValue(Probe):
    """Observation 0 then 1, reward 0 then 1, terminated after two steps. Right: V(0) = gamma, V(1) = 1.

    Tests discounting and bootstrapping.
    """

    length = 2

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode."""
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """Go from 0 to 1, then end at 1."""
        return jnp.ones(1), _end(jnp.ones(1), state[0], state[0] > 0)

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        return Answers(_rows(0, 1), np.array([gamma, 1], np.float32), None)


class ActionReward(Probe):
    """Observation 0, terminated after one step; the reward depends on the action only.

    Discrete: +1 for action 1, else -1. Right: action 1, V(0) = 1. Continuous: -(action - 0.5)^2. Right: action 0.5,
    V(0) = 0. Tests the policy gradient and, for values of actions, their maximum.
    """

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode."""
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """End it."""
        reward = -((action[0] - 0.5) ** 2) if self.continuous else jnp.where(action == 1, 1.0, -1.0)
        return state, _end(state, reward)

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        return Answers(_rows(0), np.array([0 if self.continuous else 1], np.float32), self.best([1], [0.5]))


class ObservedActionReward(Probe):
    """Observation -1 or +1 at random, terminated after one step; the reward depends on observation and action.

    Discrete: +1 if the action is 1 at +1 or 0 at -1, else -1. Right: that policy, V = 1. Continuous:
    -(action - 0.5 observation)^2. Right: action = 0.5 observation, V = 0. Tests that the policy reads the observation.
    """

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode."""
        obs = _sign(key)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """End it."""
        if self.continuous:
            return state, _end(state, -((action[0] - 0.5 * state[0]) ** 2))
        return state, _end(state, jnp.where((action == 1) == (state[0] > 0), 1.0, -1.0))

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        value = np.full(2, 0 if self.continuous else 1, np.float32)
        return Answers(_rows(-1, 1), value, self.best([0, 1], [-0.5, 0.5]))


class TimeLimit(Probe):
    """Observation 0, reward 1, truncated after five steps. Right: V(0) = 1 / (1 - gamma), as if it never ended.

    Tests that a time limit is bootstrapped.
    """

    length = 5

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode; the state counts its steps, int32 []."""
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """Count a step."""
        return state + 1, _end(jnp.zeros(1), 1.0, False, state + 1 >= self.length)

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        return Answers(_rows(0), np.array([1 / (1 - gamma)], np.float32), None)


class Death(Probe):
    """Reward 1, terminated after five steps; the observation is the step as a one-hot vector.

    Right: V(t) = 1 + gamma + ... + gamma^(4 - t), t = 0 ... 4. The last observation is that of step 0 again, so that a
    learner which bootstraps at a death would find 1 / (1 - gamma) everywhere.
    """

    obs_size = 5
    length = 5

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode; the state counts its steps, int32 []."""
        return jnp.zeros((), jnp.int32), jax.nn.one_hot(0, self.length)

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """Count a step."""
        obs = jax.nn.one_hot((state + 1) % self.length, self.length)
        return state + 1, _end(obs, 1.0, state + 1 >= self.length)

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        value = [sum(gamma**k for k in range(self.length - t)) for t in range(self.length)]
        return Answers(np.eye(self.length, dtype=np.float32), np.array(value, np.float32), None)


class TrueSuccessor(Probe):
    """Observation 0 or 1 at random; every step leads to 1, gives the observation as reward and is truncated.

    Right: V(0) = gamma / (1 - gamma), V(1) = 1 / (1 - gamma). A learner that bootstraps from the observation after the
    reset, in place of the true successor, finds V(1) - V(0) = 1 all the same, but both values too small.
    """

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start an episode."""
        obs = jax.random.bernoulli(key, 0.5, (1,)).astype(jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        """Go to 1."""
        return jnp.ones(1), _end(jnp.ones(1), state[0], False, True)

    def answers(self, gamma: float) -> Answers:
        """The right answer."""
        return Answers(_rows(0, 1), np.array([gamma, 1], np.float32) / np.float32(1 - gamma), None)


class Recall(Probe):
    """A cue of -1 or +1 at the first of four steps, a question at the last, which alone is paid.

    The observation is (cue, question): the cue is 0 but for the first step, the question 1 at the last. Discrete: +1 if
    the action is 1 after +1 or 0 after -1, else -1. Continuous: -(action - 0.5 cue)^2. Right: what the cue says, for a
    return of 1 or 0. A policy without memory sees the same at every question, so that its action there cannot depend on
    the cue: its expected return is 0 at best, or -0.25. Not among the probes of learners without memory.
    """

    obs_size = 2
    length = 4

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """Show the cue; the state is (cue, steps so far)."""
        cue = _sign(key)[0]
        return (cue, jnp.zeros((), jnp.int32)), jnp.stack([cue, 0.0])

    def step(self, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        """Wait, then ask."""
        cue, steps = state[0], state[1] + 1
        right = -((action[0] - 0.5 * cue) ** 2) if self.continuous else jnp.where((action == 1) == (cue > 0), 1.0, -1.0)
        end = steps >= self.length
        obs = jnp.stack([0.0, jnp.where(steps == self.length - 1, 1.0, 0.0)])
        return (cue, steps), _end(obs, jnp.where(end, right, 0.0), end)


PROBES: tuple[type[Probe], ...] = (
    ConstantValue,
    ObservedValue,
    DiscountedValue,
    ActionReward,
    ObservedActionReward,
    TimeLimit,
    Death,
    TrueSuccessor,
)
