"""Small representations that tests use as if they had been trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from representations.encoder import EncoderSpec, save_encoder
from representations.models import make_encoder


def linear_model(folder: Path, env_id: str, image_size: int = 16, channels: int = 3, **changes: Any) -> Path:
    """Write a linear encoder with random weights and 5 state components."""
    spec = EncoderSpec(env_id, image_size, channels, 5, "linear", "plain", **{"losses": ("random",), **changes})
    pictures = jnp.zeros((1, image_size, image_size, channels))
    params = make_encoder("linear", "plain", 5).init(jax.random.key(7), pictures, False)
    return save_encoder(folder, spec, params)
