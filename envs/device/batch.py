"""N device environments as one, with exact automatic resets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from envs.types import Spec, TimeStep


class DeviceEnv(Protocol):
    """One environment as pure functions of its state; settings are fixed when it is built."""

    spec: Spec

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Start an episode from a typed key []; returns (state, observation)."""

    def step(self, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        """Advance one step; returns (state, TimeStep), whose observation is the true successor."""


class BatchState(NamedTuple):
    """State of N environments.

    Attributes:
        env: Their states, leaves [N, ...].
        key: Typed keys [N], each environment's own; constant for as long as the environments live.
        episode: int32 [N], number of the episode being played; with `key` it fixes how that episode starts.
    """

    env: Any
    key: jax.Array
    episode: jax.Array


class BatchStep(NamedTuple):
    """What one step of N environments returns, leaves [N, ...].

    Attributes:
        obs: Observation to act on next: after an end, the first of the new episode.
        reward: float32.
        terminated: bool, the task ended.
        truncated: bool, a time limit cut the episode; may be true together with `terminated`, which then wins.
        next_obs: The true successor, before any reset.
    """

    obs: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: Any


class BatchEnv:
    """`vmap` of a device environment.

    Episodes are begun in a branch that is taken in the steps in which some environment has ended. In an outer `vmap`,
    over runs, it would become a select, which begins one everywhere in every step: as much work as the step itself.
    The branch is therefore that of all runs together. On an accelerator it is so only where a start is a picture, or
    one that is encoded: there a branch waits for the host, and a few more numbers cost nothing.

    The start of an episode is drawn from `fold_in(key of the environment, number of the episode)`: it does not depend
    on the other environments, on their number, or on how long earlier episodes took.

    Args:
        env: A device environment, without batch axis.
        auto_reset: Whether an environment that ended starts its next episode in the same step. Where False it is
            frozen from then on: state and observation stay, reward is 0 and both flags are False; the flags are True
            only in the step in which it ended. This is what evolution plays, one episode per environment.
        join_runs: Whether runs may share that branch. Where the N environments of a run lie on several devices they
            would have to be gathered for it.
    """

    def __init__(self, env: DeviceEnv, auto_reset: bool = True, join_runs: bool = True) -> None:
        self.spec: Spec = env.spec
        self.auto_reset = auto_reset
        self._env: DeviceEnv = env if auto_reset else _Freeze(env)
        restart = _restart_of(jax.vmap(self._restart))
        dear = jax.default_backend() == "cpu" or env.spec.pixels or getattr(env, "encodes", False)
        self._restart_ended = _for_all_runs(restart) if dear and join_runs else restart

    def reset(self, keys: jax.Array, episode: jax.Array | int = 0) -> tuple[BatchState, Any]:
        """Start an episode in every environment.

        Args:
            keys: Typed keys [N].
            episode: Number of the episode, int32 [N] or one for all: `reset(state.key, state.episode + 1)` starts the
                next one everywhere.

        Returns:
            (state, observations [N, ...])

        Raises:
            ValueError: `keys` is not a vector of typed keys.
        """
        if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
            raise ValueError(f"keys must be typed keys [N] (jax.random.key, split), got {keys.dtype}{list(keys.shape)}")
        number = jnp.broadcast_to(jnp.asarray(episode, jnp.int32), keys.shape)
        state, obs = jax.vmap(self._start)(keys, number)
        return BatchState(state, keys, number), obs

    def step(self, state: BatchState, action: jax.Array) -> tuple[BatchState, BatchStep]:
        """Advance every environment by one step.

        Args:
            state: State of N environments.
            action: [N] int32 (discrete) or [N, size] float32 (continuous), within the bounds of the spec.

        Returns:
            (state, BatchStep)
        """
        env, step = jax.vmap(self._env.step)(state.env, action)
        out = BatchStep(step.obs, step.reward, step.terminated, step.truncated, step.obs)
        if not self.auto_reset:
            return state._replace(env=env), out
        done = step.terminated | step.truncated
        episode = state.episode + done
        env, obs = self._restart_ended(done, env, step.obs, state.key, episode)
        return BatchState(env, state.key, episode), out._replace(obs=obs)

    def _start(self, key: jax.Array, episode: jax.Array) -> tuple[Any, Any]:
        """First state and observation of one environment's episode."""
        return self._env.reset(jax.random.fold_in(key, episode))

    def _restart(self, done: jax.Array, env: Any, obs: Any, key: jax.Array, episode: jax.Array) -> tuple[Any, Any]:
        """State and observation of one environment, those of its next episode's start if it is `done`."""
        return _select(done, self._start(key, episode), (env, obs))


def _restart_of(restart: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """`restart(done, ...)` where an environment has ended, else states and observations as they are."""

    def restarted(done: jax.Array, env: Any, obs: Any, keys: jax.Array, episode: jax.Array) -> tuple[Any, Any]:
        return jax.lax.cond(jnp.any(done), restart, _keep, done, env, obs, keys, episode)

    return restarted


def _for_all_runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of N environments that treats the K x N of a `vmap` over runs as one batch."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def of_all(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        def joined(x: jax.Array, has_runs: bool) -> jax.Array:
            x = x if has_runs else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(size * x.shape[1], *x.shape[2:])

        result = mapped(*jax.tree.map(joined, args, tuple(batched)))
        result = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), result)
        return result, jax.tree.map(lambda x: True, result)

    return mapped


def _keep(done: jax.Array, env: Any, obs: Any, keys: jax.Array, episode: jax.Array) -> tuple[Any, Any]:
    """States and observations of a step in which no environment ended."""
    return env, obs


def _select(chosen: jax.Array, new: Any, old: Any) -> Any:
    """The tree `new` where the bool [] `chosen` is set, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)


class _FreezeState(NamedTuple):
    """State of an environment that stops for good when its episode ends."""

    env: Any
    obs: Any
    ended: jax.Array


class _Freeze:
    """A device environment that stands still after its episode: same observation, reward 0, flags False."""

    def __init__(self, env: DeviceEnv) -> None:
        self.spec = env.spec
        self._env = env

    def reset(self, key: jax.Array) -> tuple[_FreezeState, Any]:
        """Start the episode."""
        state, obs = self._env.reset(key)
        return _FreezeState(state, obs, jnp.zeros((), bool)), obs

    def step(self, state: _FreezeState, action: jax.Array) -> tuple[_FreezeState, TimeStep]:
        """Advance, or stand still where the episode has ended."""
        env, step = self._env.step(state.env, action)
        live = ~state.ended
        env, obs = _select(live, (env, step.obs), (state.env, state.obs))
        terminated, truncated = step.terminated & live, step.truncated & live
        ended = state.ended | terminated | truncated
        return _FreezeState(env, obs, ended), TimeStep(obs, step.reward * live, terminated, truncated)
