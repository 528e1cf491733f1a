"""Environments. Importing this package registers the host environments with Gymnasium and loads no simulator."""

from __future__ import annotations

import importlib.util

from envs.registry import registered_env


def _register_host_environments() -> None:
    """Make the built-in ids known to `gymnasium.make`; the environments report their own step cap as `truncated`."""
    import gymnasium

    for name, (entry, *_) in registered_env.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=str(entry))


# The device environments need no Gymnasium: a machine that only trains on an accelerator may lack it.
if importlib.util.find_spec("gymnasium"):
    _register_host_environments()
