"""Recurrent layers, unrolled over time: axis 0 of what they map is time, axis 1 the environment."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from networks.initializers import orthogonal

Carry = tuple[jax.Array, jax.Array]  # cell and output of an LSTM, each [..., size]


class Scale(nn.Module):
    """A gain (1 at the start) and a shift (0) for each component."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., n] to [..., n]."""
        shape = x.shape[-1:]
        return x * self.param("scale", nn.initializers.ones, shape) + self.param("bias", nn.initializers.zeros, shape)


class Standardised(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450, equation 4)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., n] to [..., n]."""
        return Scale()(nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False)(x))


class _Step(nn.Module):
    """One time step of an LSTM, given what the input adds to the gates."""

    size: int
    layer_norm: bool

    @nn.compact
    def __call__(self, carry: Carry, step: tuple[jax.Array, jax.Array]) -> tuple[Carry, Carry]:
        """Map a carry [N, size] and (gates [N, 4 size], begin bool [N]) to the next carry, twice."""
        gates, begin = step
        cell, out = (jnp.where(begin[:, None], 0.0, part) for part in carry)
        recurrent = nn.Dense(4 * self.size, use_bias=False, kernel_init=orthogonal(1.0), name="recurrent")(out)
        if self.layer_norm:
            recurrent = Standardised(name="recurrent_norm")(recurrent)
        write, keep, show, new = jnp.split(gates + recurrent, 4, axis=-1)
        cell = nn.sigmoid(keep) * cell + nn.sigmoid(write) * jnp.tanh(new)
        out = nn.sigmoid(show) * jnp.tanh(Standardised(name="cell_norm")(cell) if self.layer_norm else cell)
        return (cell, out), (cell, out)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Weights are orthogonal with gain 1, biases 0. With `layer_norm` the input's and the recurrent part of the gates and
    the cell are normalised (Ba et al. 2016, equations 20 to 22); their shifts take the place of the gates' bias.

    Attributes:
        size: Number of cells.
        layer_norm: Whether layers are normalised.
    """

    size: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, carry: Carry, begin: jax.Array) -> tuple[jax.Array, Carry]:
        """Unroll over inputs.

        Args:
            x: Inputs [T, N, features].
            carry: What is remembered before the first step, [N, size] each.
            begin: Where an episode begins and nothing is remembered, bool [T, N].

        Returns:
            (outputs [T, N, size], what is remembered after each step, [T, N, size] each).
        """
        # The input's part of all steps is one product; only the recurrent part has to wait for its turn.
        gates = nn.Dense(4 * self.size, use_bias=not self.layer_norm, kernel_init=orthogonal(1.0), name="input")(x)
        if self.layer_norm:
            gates = Standardised(name="input_norm")(gates)
        # The two further collections are flax's own; K-FAC sees inputs and derivatives of layers through them.
        scan = nn.scan(
            _Step,
            variable_broadcast="params",
            variable_axes={"intermediates": 0, "perturbations": 0},
            split_rngs={"params": False},
        )
        _, carries = scan(self.size, self.layer_norm, name="step")(carry, (gates, begin))
        return carries[1], carries
