"""How much memory there is, for those who must say no before they allocate."""

from __future__ import annotations

import os

import jax


def available_memory() -> int:
    """Bytes of memory that programs may use on the first device: an accelerator's own, or the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
