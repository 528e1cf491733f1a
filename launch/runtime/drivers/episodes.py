"""The episodes that ended in a chunk, found on the device: a wide sweep's whole record would be slow to bring over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from launch.runtime.drivers.common import Episodes

FETCHED = 2**16  # episodes fetched at a time


def finished(ended: jax.Array, returns: jax.Array, lengths: jax.Array) -> Episodes:
    """Compress a record to the episodes that ended, in order of time.

    Args:
        ended: bool [K, I, T, N], by run, iteration, step and environment.
        returns: Of episodes that ended there, float32 [K, I, T, N].
        lengths: int32 [K, I, T, N].
    """
    num_runs, num_envs = len(ended), ended.shape[-1]
    flags = np.asarray(_packed(ended))
    at = np.flatnonzero(flags)
    byte, bit = np.nonzero(np.unpackbits(flags[at, None], axis=1))
    at = 8 * at[byte] + bit  # run by run within a step
    fetched = min(FETCHED, ended.size)
    # At least once, so that a later chunk in which the first episode ends compiles nothing.
    rounds = max(1, -(-len(at) // fetched))
    padded = np.pad(at, (0, rounds * fetched - len(at))).astype(np.int32)
    parts = [_values(returns, lengths, places) for places in np.split(padded, rounds)]
    values = [np.concatenate(leaves)[: len(at)] for leaves in zip(*parts, strict=True)]
    return Episodes(at % num_runs, at // num_runs % num_envs, *values)


@jax.jit
def _packed(ended: jax.Array) -> jax.Array:
    """Flags in order of time, eight in a byte: uint8 [ceil(K * I * T * N / 8)]."""
    return jnp.packbits(jnp.moveaxis(ended, 0, -1).reshape(-1))


@jax.jit
def _values(returns: jax.Array, lengths: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns and lengths at places of the record in order of time."""
    time, run = jnp.divmod(at, len(returns))
    return returns.reshape(len(returns), -1)[run, time], lengths.reshape(len(lengths), -1)[run, time]
