"""Shared test set-up: quick compilation, and a persistent cache of it, so that a second run compiles nothing again."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.registry import registered_env, registered_twin

# Most of the time goes into compiling programs that run for a moment. Inherited by the processes that tests start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True)
def own_environments() -> Iterator[None]:
    """Environments that a test's plugin registers are gone after it; the next one that wants them loads it anew."""
    registries = registered_env, registered_twin
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before):
        if registry != entries:
            registry.clear()
            registry.update(entries)
            sys.modules.pop("tests.poison", None)
