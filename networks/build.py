"""Networks for an action space: which torso and heads an actor-critic has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from networks.heads import GaussianHead, LogitsHead, StateDependentHead, ValueHead
from networks.initializers import UNIFORM, orthogonal
from networks.recurrent import LSTM
from networks.torsos import MLP, NatureCNN

Output = jax.Array | tuple[jax.Array, ...]  # logits [..., n], or (mean [..., size], log_std, ...)


class ActorCritic(nn.Module):
    """Policy and value function.

    States: two separate MLPs. Pictures: one Nature CNN that both heads share. With memory: one MLP or Nature CNN and an
    LSTM on it that both heads share; observations then lead with [T, N], time and environment.

    Attributes:
        obs_ndim: Trailing axes of one observation.
        pixels: Whether observations are uint8 pictures.
        num_actions: Number of discrete actions, or 0 where actions are continuous.
        action_size: Number of action components where actions are continuous.
        sizes: Hidden layers of each MLP.
        activation: "tanh" or "relu".
        log_std_init: Initial log standard deviation of continuous actions.
        action_values: Whether the value is that of each discrete action instead of that of the state.
        memory: "feedforward", "lstm" or "lnlstm" (layer-normalised).
        memory_size: Cells of the LSTM.
        state_dependent: Whether the spread of continuous actions depends on the state (gSDE).
        ortho_init: Whether dense layers start orthogonal, or uniform as in PyTorch; convolutions and LSTMs always do.
    """

    obs_ndim: int
    pixels: bool
    num_actions: int
    action_size: int
    sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    log_std_init: float = 0.0
    action_values: bool = False
    memory: str = "feedforward"
    memory_size: int = 256
    state_dependent: bool = False
    ortho_init: bool = True

    def setup(self) -> None:
        """Create the sub-modules."""
        self.recurrent = self.memory != "feedforward"
        self.shared = self.pixels or self.recurrent
        self.policy_torso: nn.Module = self._torso()
        self.value_torso: nn.Module = self.policy_torso if self.shared else self._torso()
        if self.recurrent:
            self.lstm: nn.Module = LSTM(self.memory_size, layer_norm=self.memory == "lnlstm")
        init = orthogonal(0.01) if self.ortho_init else UNIFORM
        gaussian = StateDependentHead if self.state_dependent else GaussianHead
        self.policy_head: nn.Module = (
            LogitsHead(self.num_actions, init)
            if self.num_actions
            else gaussian(self.action_size, self.log_std_init, init)
        )
        self.value_head: nn.Module = (
            LogitsHead(self.num_actions, init)
            if self.action_values
            else ValueHead(orthogonal(1.0) if self.ortho_init else UNIFORM)
        )

    def _torso(self) -> nn.Module:
        """One feature extractor."""
        if self.pixels:
            return NatureCNN()
        return MLP(self.sizes, self.activation, self.obs_ndim, orthogonal(2**0.5) if self.ortho_init else UNIFORM)

    def policy(self, obs: jax.Array) -> Output:
        """Without memory: map observations [..., *obs_shape] to logits [..., n], or (mean [..., size], log_std)."""
        return self.policy_head(self.policy_torso(obs))

    def value(self, obs: jax.Array) -> jax.Array:
        """Without memory: map observations [..., *obs_shape] to values [...], or [..., n] with `action_values`."""
        return self.value_head(self.value_torso(obs))

    def unroll(self, obs: jax.Array, carry: Any = (), begin: Any = ()) -> tuple[Output, jax.Array, Any]:
        """Policy output, values and what is remembered after each step.

        Args:
            obs: [..., *obs_shape]; with memory [T, N, *obs_shape].
            carry: What is remembered before the first step, leaves [N, memory_size]; () without memory.
            begin: Where an episode begins, bool [T, N]; () without memory.
        """
        features, value_features = self._features(obs)
        if self.recurrent:
            features, carry = self.lstm(features, carry, begin)
            value_features = features
        return self.policy_head(features), self.value_head(value_features), carry

    def step(self, obs: jax.Array, carry: Any = ()) -> tuple[Output, jax.Array, Any]:
        """One step of `unroll`, without the axis of time: observations [N, *obs_shape] after what was remembered."""
        features, value_features = self._features(obs)
        if self.recurrent:
            one_step = self.lstm(features[None], carry, jnp.zeros((1, len(obs)), bool))
            features, carry = jax.tree.map(lambda x: x[0], one_step)
            value_features = features
        return self.policy_head(features), self.value_head(value_features), carry

    def _features(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the torsos make of observations, for policy and value."""
        features = self.policy_torso(obs)
        return features, features if self.shared else self.value_torso(obs)

    def __call__(self, obs: jax.Array, carry: Any = (), begin: Any = ()) -> tuple[Output, jax.Array]:
        """Return (policy output, value); the arguments are those of `unroll`."""
        return self.unroll(obs, carry, begin)[:2]
