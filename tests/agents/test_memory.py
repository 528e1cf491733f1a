"""Free memory is that of the machine, or less where its container has less."""

from __future__ import annotations

import os

import jax
import numpy as np
import pytest

from agents.common import memory

TOTAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_what_is_taken_is_no_longer_free() -> None:
    before = memory.free_host_memory()
    assert 0 < before <= TOTAL
    taken = np.ones(2**26, np.uint8)  # 64 MiB, all touched
    others = 2**25  # what other programs may free meanwhile
    assert memory.free_host_memory() < before + others
    assert taken.sum() == 2**26


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB"}, 5000 * 1024),
        ({"/proc/meminfo": "MemAvailable: 5000 kB", "/sys/fs/cgroup/memory.max": "1000000"}, 1_000_000),
        ({"/proc/meminfo": "MemAvailable: 5000 kB", "/sys/fs/cgroup/memory.max": "max"}, 5000 * 1024),
        ({}, TOTAL),
    ],
)
def test_the_smaller_limit_counts(files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert memory.free_host_memory() == expected


def test_an_accelerator_counts_without_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 1000, "bytes_in_use": 300}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    assert memory.available_memory() == 1400
