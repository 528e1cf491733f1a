"""Networks for an action space: which torso and heads an actor-critic has."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from networks.heads import GaussianHead, LogitsHead, ValueHead
from networks.torsos import MLP, NatureCNN


class ActorCritic(nn.Module):
    """Policy and value function.

    States: two separate MLPs. Pictures: one Nature CNN that both heads share.

    Attributes:
        obs_ndim: Trailing axes of one observation.
        pixels: Whether observations are uint8 pictures.
        num_actions: Number of discrete actions, or 0 where actions are continuous.
        action_size: Number of action components where actions are continuous.
        sizes: Hidden layers of each MLP.
        activation: "tanh" or "relu".
        log_std_init: Initial log standard deviation of continuous actions.
        action_values: Whether the value is that of each discrete action instead of that of the state.
    """

    obs_ndim: int
    pixels: bool
    num_actions: int
    action_size: int
    sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    log_std_init: float = 0.0
    action_values: bool = False

    def setup(self) -> None:
        """Create the sub-modules."""
        self.policy_torso: nn.Module = self._torso()
        self.value_torso: nn.Module = self.policy_torso if self.pixels else self._torso()
        self.policy_head: nn.Module = (
            LogitsHead(self.num_actions) if self.num_actions else GaussianHead(self.action_size, self.log_std_init)
        )
        self.value_head: nn.Module = LogitsHead(self.num_actions) if self.action_values else ValueHead()

    def _torso(self) -> nn.Module:
        """One feature extractor."""
        return NatureCNN() if self.pixels else MLP(self.sizes, self.activation, self.obs_ndim)

    def policy(self, obs: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Map observations [..., *obs_shape] to logits [..., n], or (mean [..., size], log_std [size])."""
        return self.policy_head(self.policy_torso(obs))

    def value(self, obs: jax.Array) -> jax.Array:
        """Map observations [..., *obs_shape] to values [...], or [..., n] with `action_values`."""
        return self.value_head(self.value_torso(obs))

    def __call__(self, obs: jax.Array) -> tuple[jax.Array | tuple[jax.Array, jax.Array], jax.Array]:
        """Return (policy output, value), computing a shared torso once."""
        features = self.policy_torso(obs)
        value_features = features if self.pixels else self.value_torso(obs)
        return self.policy_head(features), self.value_head(value_features)
