"""The environments of `tests.poison` in JAX."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs.types import Discrete, Spec, TimeStep
from tests.poison import BAD_STEP, LENGTH, SHARE


class PoisonState(NamedTuple):
    """The episode's key, its observation [2], the steps played, whether it breaks."""

    key: jax.Array
    obs: jax.Array
    steps: jax.Array
    poisoned: jax.Array


class PoisonedRewardTwin:
    """See `tests.poison.PoisonedReward`."""

    spec = Spec("PoisonedReward-v0", (2,), "float32", Discrete(2), LENGTH)
    bad_reward, bad_obs = jnp.inf, 0.0

    def reset(self, key: jax.Array) -> tuple[PoisonState, jax.Array]:
        obs = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        poisoned = jax.random.uniform(jax.random.fold_in(key, LENGTH)) < SHARE
        return PoisonState(key, obs, jnp.int32(0), poisoned), obs

    def step(self, state: PoisonState, action: jax.Array) -> tuple[PoisonState, TimeStep]:
        steps = state.steps + 1
        bad = state.poisoned & (steps == BAD_STEP)
        reward = state.obs[action] + jnp.where(bad, self.bad_reward, 0.0)
        obs = jax.random.uniform(jax.random.fold_in(state.key, steps), (2,), minval=-1.0, maxval=1.0)
        seen = obs + jnp.where(bad, self.bad_obs, 0.0)
        return state._replace(obs=obs, steps=steps), TimeStep(seen, reward, jnp.bool_(False), steps >= LENGTH)


class PoisonedObservationTwin(PoisonedRewardTwin):
    """See `tests.poison.PoisonedObservation`."""

    spec = Spec("PoisonedObservation-v0", (2,), "float32", Discrete(2), LENGTH)
    bad_reward, bad_obs = 0.0, jnp.nan
