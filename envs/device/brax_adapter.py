"""Brax environments (`brax/ant`, ...) as device environments."""

from __future__ import annotations

import contextlib
import difflib
import io
import types
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.registry import BRAX_NAMES
from envs.types import Box, Spec, TimeStep

MAX_STEPS = 1000


class BraxState(NamedTuple):
    """State of a brax environment and age of the episode.

    Attributes:
        brax: `brax.envs.State`; its leaves keep the types they had at the reset.
        steps: int32 [], steps played.
    """

    brax: Any
    steps: jax.Array


class BraxEnv:
    """A brax v1 environment by its registered name, with brax's usual limit of 1000 steps.

    `done` of brax is `terminated`, the limit is `truncated`. Every episode starts from a fresh draw, where brax's own
    auto-reset returns to the first one. Actions are float32 within +-1, which brax scales to the actuators.

    Args:
        name: Name in brax's registry: one of `envs.registry.BRAX_NAMES`, or one that the caller gave to
            `brax.envs.register_environment`.

    Raises:
        ValueError: no such environment, brax is not installed, or the observation is not one array.
    """

    def __init__(self, name: str) -> None:
        self._env = _load(name)
        shapes = jax.eval_shape(self._env.reset, jax.random.key_data(jax.random.key(0)))
        if not isinstance(shapes.obs, jax.ShapeDtypeStruct):
            raise ValueError(f"brax environment '{name}' gives several observation arrays; only one is supported")
        size = self._env.action_size
        self.spec = Spec(f"brax/{name}", shapes.obs.shape, "float32", Box((-1.0,) * size, (1.0,) * size), MAX_STEPS)

    def reset(self, key: jax.Array) -> tuple[BraxState, jax.Array]:
        """Start an episode from a typed key []; brax itself knows raw keys only."""
        brax = self._env.reset(jax.random.key_data(key))
        brax = jax.tree.map(lambda leaf: _typed(leaf, jnp.result_type(leaf)), brax)
        return BraxState(brax, jnp.zeros((), jnp.int32)), _typed(brax.obs, jnp.float32)

    def step(self, state: BraxState, action: jax.Array) -> tuple[BraxState, TimeStep]:
        """Advance one control step; `action` float32 [size]."""
        # brax writes into the dictionaries of the state that it is given: hand it its own copy of the tree.
        brax = self._env.step(jax.tree.map(lambda leaf: leaf, state.brax), action)
        brax = jax.tree.map(lambda new, old: _typed(new, old.dtype), brax, state.brax)
        obs, reward = _typed(brax.obs, jnp.float32), _typed(brax.reward, jnp.float32)
        steps = state.steps + 1
        return BraxState(brax, steps), TimeStep(obs, reward, brax.done.astype(bool), steps >= MAX_STEPS)


def _typed(leaf: Any, dtype: Any) -> jax.Array:
    """An array of exactly this dtype: brax mixes in Python numbers, whose weak types would compile twice."""
    return jax.lax.convert_element_type(leaf, dtype)


def _load(name: str) -> Any:
    """Build a brax environment without the import-time chatter of brax and MuJoCo.

    Raises:
        ValueError: no such environment, or brax is not installed.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
        try:
            from brax import envs, fluid
        except ModuleNotFoundError as error:
            raise ValueError(f"brax/{name} needs a package that is not installed: {error.name}") from error
        fluid.jp = _numpy_with_old_clip()
        try:
            return envs.get_environment(name)
        except KeyError as error:
            if error.args != (name,):
                raise
    near = difflib.get_close_matches(name, BRAX_NAMES, 1, 0.0)[0]
    raise ValueError(f"unknown brax environment '{name}'; did you mean 'brax/{near}'?")


def _numpy_with_old_clip() -> types.SimpleNamespace:
    """`jax.numpy` for brax's fluid model (swimmer), which calls `clip(x, a_min=...)`: JAX 0.10 has only `min`."""

    def clip(x: jax.Array, a_min: float) -> jax.Array:
        return jnp.maximum(x, a_min)

    return types.SimpleNamespace(**{**vars(jnp), "clip": clip})
