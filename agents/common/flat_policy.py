"""Small policy networks whose parameters are one vector, for learners that search among vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Discrete, Spec
from networks.torsos import MLP, SmallCNN


class Policy(nn.Module):
    """A small network with linear outputs: logits or the action.

    Attributes:
        spec: What it plays; where it observes pictures the hidden layers are those of `SmallCNN`.
        sizes: Hidden layers (ReLU) where it observes states; none is a linear policy with a bias.
    """

    spec: Spec
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] to [..., outputs]."""
        action = self.spec.action
        torso = SmallCNN() if self.spec.pixels else MLP(self.sizes, "relu", len(self.spec.obs_shape))
        return nn.Dense(action.n if isinstance(action, Discrete) else action.size)(torso(obs))


class FlatPolicy(NamedTuple):
    """A policy as functions of its parameters.

    Attributes:
        outputs: Function (weights [size], obs [..., *obs_shape]) -> outputs [..., outputs].
        init: Function (key) -> random weights [size].
        params: Function (weights [size]) -> parameters of `Policy`.
        size: Number of parameters.
    """

    outputs: Callable[[jax.Array, jax.Array], jax.Array]
    init: Callable[[jax.Array], jax.Array]
    params: Callable[[jax.Array], Any]
    size: int


def flat_policy(spec: Spec, sizes: tuple[int, ...]) -> FlatPolicy:
    """The policy for an environment with these hidden layers; pictures are at least `SmallCNN.smallest` a side."""
    net = Policy(spec, sizes)
    obs = jax.ShapeDtypeStruct((1, *spec.obs_shape), spec.obs_dtype)
    leaves, structure = jax.tree.flatten(jax.eval_shape(net.init, jax.random.key(0), obs))
    ends = np.cumsum([leaf.size for leaf in leaves])

    def params(weights: jax.Array) -> Any:
        parts = jnp.split(weights, ends[:-1])
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    def outputs(weights: jax.Array, obs: jax.Array) -> jax.Array:
        return cast(jax.Array, net.apply(params(weights), obs))

    def init(key: jax.Array) -> jax.Array:
        drawn = net.init(key, jnp.zeros(obs.shape, obs.dtype))
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(drawn)])

    return FlatPolicy(outputs, init, params, int(ends[-1]))
