"""Networks of off-policy algorithms: values of actions, and actors that are squashed to -1 ... 1."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from networks.heads import StateDependentHead
from networks.torsos import MLP, NatureCNN

GLOROT = nn.initializers.glorot_uniform()
LOG_STD_RANGE = (-20.0, 2.0)
LARGEST_MEAN = 2.0  # under a tanh, with state-dependent noise


class Encoder(nn.Module):
    """Pictures through a Nature CNN, states flattened.

    Attributes:
        pixels: Whether observations are uint8 pictures.
        obs_ndim: Trailing axes of one observation.
    """

    pixels: bool
    obs_ndim: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] to [..., features]."""
        return NatureCNN()(obs) if self.pixels else obs.reshape(*obs.shape[: obs.ndim - self.obs_ndim], -1)


class QNetwork(nn.Module):
    """Values of all discrete actions; with `dueling` as value plus advantage (Wang et al. 2016, equation 9).

    Attributes:
        encoder: What turns observations into features.
        num_actions: Number of actions.
        dueling: Whether value and advantage have networks of their own.
        sizes: Hidden layers of each; above pictures the advantage has none.
    """

    encoder: Encoder
    num_actions: int
    dueling: bool = True
    sizes: Sequence[int] = (64, 64)

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] to [..., num_actions]."""
        features = self.encoder(obs)
        hidden = () if self.encoder.pixels else self.sizes
        advantage = nn.Dense(self.num_actions, kernel_init=GLOROT)(MLP(hidden, "relu", kernel_init=GLOROT)(features))
        if not self.dueling:
            return advantage
        value = nn.Dense(1, kernel_init=GLOROT)(MLP(self.sizes, "relu", kernel_init=GLOROT)(features))
        return value + advantage - advantage.mean(axis=-1, keepdims=True)


class _Critic(nn.Module):
    """Value of a pair of features and action."""

    sizes: Sequence[int]

    @nn.compact
    def __call__(self, pair: jax.Array) -> jax.Array:
        return nn.Dense(1, kernel_init=GLOROT)(MLP(self.sizes, "relu", kernel_init=GLOROT)(pair))[..., 0]


class Critics(nn.Module):
    """Several independent values of continuous actions, on one encoder.

    Attributes:
        encoder: What turns observations into features.
        count: Number of critics.
        sizes: Hidden layers of each.
    """

    encoder: Encoder
    count: int
    sizes: Sequence[int] = (64, 64)

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] and actions [..., size] in -1 ... 1 to values [count, ...]."""
        ensemble = nn.vmap(
            _Critic, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=self.count
        )
        return ensemble(self.sizes)(jnp.concatenate([self.encoder(obs), action], axis=-1))


class DeterministicActor(nn.Module):
    """Action as a function of the observation (Lillicrap et al. 2016): last layer uniform in +-3e-3, then tanh.

    Attributes:
        encoder: What turns observations into features.
        size: Number of action components.
        sizes: Hidden layers.
    """

    encoder: Encoder
    size: int
    sizes: Sequence[int] = (64, 64)

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map [..., *obs_shape] to actions [..., size] in -1 ... 1."""
        hidden = MLP(self.sizes, "relu", kernel_init=GLOROT)(self.encoder(obs))
        small = nn.initializers.uniform(6e-3)

        def init(key: jax.Array, shape: Sequence[int], dtype: object = jnp.float32) -> jax.Array:
            return small(key, shape, dtype) - 3e-3

        return jnp.tanh(nn.Dense(self.size, kernel_init=init)(hidden))


class SquashedGaussianActor(nn.Module):
    """Mean and log standard deviation of the Gaussian under a tanh (Haarnoja et al. 2018), both functions of the state.

    With `state_dependent` noise is a matrix times the last hidden layer (gSDE, Raffin et al. 2021, arXiv 2005.05719);
    the mean is then held within +-2, as there.

    Attributes:
        encoder: What turns observations into features.
        size: Number of action components.
        sizes: Hidden layers.
        log_std_init: Initial bias of the log standard deviation; with `state_dependent` that of the matrix' entries.
        state_dependent: Whether noise is a matrix.
    """

    encoder: Encoder
    size: int
    sizes: Sequence[int] = (64, 64)
    log_std_init: float = 0.0
    state_dependent: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, ...]:
        """Map [..., *obs_shape] to (mean [..., size], log_std [..., size] within -20 ... 2).

        With `state_dependent` to (mean [..., size], log_std [features, size], features [..., features]).
        """
        hidden = MLP(self.sizes, "relu", kernel_init=GLOROT)(self.encoder(obs))
        if self.state_dependent:
            head = StateDependentHead(self.size, self.log_std_init, GLOROT, learn_features=True)
            mean, *rest = head(hidden)
            return jnp.clip(mean, -LARGEST_MEAN, LARGEST_MEAN), *rest
        mean = nn.Dense(self.size, kernel_init=GLOROT)(hidden)
        bias = nn.initializers.constant(self.log_std_init)
        log_std = nn.Dense(self.size, kernel_init=GLOROT, bias_init=bias)(hidden)
        return mean, jnp.clip(log_std, *LOG_STD_RANGE)
