"""How much memory there is, for those who must say no before they allocate."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import jax

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container, in bytes


def available_memory() -> int:
    """Bytes of memory that are free: on all local accelerators together, or in the machine or its container."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in one for one in stats):
        return sum(int(one["bytes_limit"]) - int(one.get("bytes_in_use", 0)) for one in stats)
    return free_host_memory()


def free_host_memory() -> int:
    """Bytes that programs of this machine can still take without others being swapped out, at most the container's."""
    limits = [int(text) for text in map(_read, _LIMITS) if text.isdecimal()]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, *limits, 2**63)
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits, 2**63)


def give_back() -> None:
    """Let glibc return to the system the freed memory that it holds in a pool for each thread; elsewhere do nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _read(path: str) -> str:
    """Text of a system's file, empty where there is none."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
