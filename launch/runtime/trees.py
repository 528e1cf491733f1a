"""Trees of arrays as named leaves, the form in which checkpoints and models are stored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by their path, such as "acting/params/Dense_0/kernel"; a lone leaf has the name "".

    Raises:
        ValueError: two leaves have the same path (a dict key that contains a slash).
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    if len(named) < len(paths):
        raise ValueError("two leaves of the tree have the same path: a dict key contains '/'")
    return named


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(leaf: Any) -> np.ndarray:
    """The bits of a leaf as a NumPy array; typed keys as their uint32 words, sharded arrays gathered.

    On the CPU this is a view where possible: read it before the next donated call.
    """
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def stored_form(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that `to_host` gives for a leaf, without moving its bits."""
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return tuple(array.shape), np.dtype(array.dtype)


def describe(leaf: Any) -> str:
    """Type and shape of a leaf as it is stored and compared, such as "float32[64,4]" or "key<fry>[8]"."""
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def from_host(template: Any, value: np.ndarray) -> Any:
    """Turn stored bits back into what `template` is: a JAX array with its sharding, typed keys, NumPy or a number.

    Nothing aliases `value`, so JAX arrays may be donated.
    """
    if is_key(template):
        keys = jax.random.wrap_key_data(jnp.array(value), impl=str(jax.random.key_impl(template)))
        return _place(template, keys)
    if isinstance(template, jax.Array):
        return _place(template, jnp.array(value, dtype=template.dtype))
    if isinstance(template, np.ndarray):
        return np.array(value)
    if isinstance(template, np.generic):
        return value[()]
    return type(template)(value.item())


def _place(template: jax.Array, array: jax.Array) -> jax.Array:
    """Give `array` the sharding of `template`; one that was free to move stays free, so nothing recompiles."""
    return jax.device_put(array, template.sharding) if template.committed else array


def check_leaves(stored: dict[str, str], template: dict[str, Any], what: str) -> None:
    """Check that stored leaves (name -> description) are those of a template (name -> leaf).

    Raises:
        ValueError: names the first leaf that is missing, unknown, or of another type or shape.
    """
    for name, leaf in template.items():
        if name not in stored:
            raise ValueError(f"{what} has no '{name}': it was made with another algorithm, network or environment")
        if stored[name] != describe(leaf):
            raise ValueError(
                f"{what} does not fit: '{name}' is {stored[name]} there and {describe(leaf)} here "
                "(another network, environment or number of runs)"
            )
    for name in stored:
        if name not in template:
            raise ValueError(f"{what} has '{name}', which is not wanted here: it was made with another algorithm")
