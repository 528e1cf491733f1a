"""Shared test set-up: quick compilation, and a persistent cache of it, so that a second run compiles nothing again."""

import os
from pathlib import Path

# Most of the time goes into compiling programs that run for a moment. Inherited by the processes that tests start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
