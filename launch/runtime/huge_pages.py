"""Memory in huge pages that is kept, for programs whose time goes into filling large arrays."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLES = "GLIBC_TUNABLES"
# Huge pages, and nothing given back before the end: all of malloc's memory is one heap that never shrinks.
_SETTINGS = {"hugetlb": 1, "arena_max": 1, "mmap_max": 0, "trim_threshold": 2**62}


def restart_with_huge_pages() -> None:
    """Start this program once more, with a C library that asks for huge pages and keeps what it was given.

    XLA allocates the temporaries of a computation anew each time, and on a CPU a convolutional network spends nearly
    half of its time in the page faults of 4 KiB that follow. glibc (2.35 and later) reads the settings only when a
    process begins. Nothing is done where Linux gives huge pages to everybody or to nobody, or where the user has set
    glibc's tunables. Call it first in a script.
    """
    if sys.platform != "linux" or _TUNABLES in os.environ:
        return
    if not _MODE.is_file() or "[madvise]" not in _MODE.read_text(encoding="ascii"):
        return
    os.environ[_TUNABLES] = ":".join(f"glibc.malloc.{name}={value}" for name, value in _SETTINGS.items())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
