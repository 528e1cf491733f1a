"""How much memory there is, for those who must say no before they allocate."""

from __future__ import annotations

import os

import jax


def available_memory() -> int:
    """Bytes of memory that programs may use: that of all local accelerators, or the machine's."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in one for one in stats):
        return sum(int(one["bytes_limit"]) for one in stats)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
