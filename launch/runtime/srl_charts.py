"""Pictures of a representation's training: its losses, and what it makes of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from representations.encoder import EncoderSpec, decode_function, encode_function

_SHOWN = 8  # pictures beside their reconstructions


def draw_losses(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw each loss over the epochs, [number of epochs] values by name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for name, values in history.items():
        bold = name in ("train_loss", "val_loss")
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, label=name, linewidth=2.0 if bold else 1.0, marker="o" if len(values) < 2 else None)
    positive = all(np.nanmin(values) > 0 for values in history.values())
    axes.set(xlabel="epoch", ylabel="loss", yscale="log" if positive else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_reconstructions(frames: Any, spec: EncoderSpec, params: Any, decoder_params: Any, path: Path) -> None:
    """Draw pictures of the dataset, evenly spread over it, above their reconstructions; views below each other."""
    from matplotlib.image import imsave

    rows = np.unique(np.linspace(0, len(frames) - 1, _SHOWN).astype(int))
    shown = np.asarray(frames[rows])[..., : spec.channels]
    decoded = np.asarray(decode_function(spec)(decoder_params, encode_function(spec)(params, jnp.asarray(shown))))
    lines = [
        np.concatenate(list(pictures[..., 3 * view : 3 * view + 3]), axis=1)
        for view in range(spec.channels // 3)
        for pictures in (shown, decoded)
    ]
    imsave(path, np.concatenate(lines, axis=0))
