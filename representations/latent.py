"""The space of learned states: the states of a dataset, and pictures of places in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from representations.dataset import Dataset
from representations.encoder import Encoder, load_decoder
from representations.metrics import nearest_neighbours

BATCH = 128  # frames that are encoded at once


def check_fit(encoder: Encoder, dataset: Dataset, folder: str | Path) -> None:
    """Refuse a dataset whose pictures are not those of an encoder.

    Raises:
        ValueError: One line that says what differs.
    """
    spec, config = encoder.spec, dataset.config
    if spec.env_id and config["env_id"] and spec.env_id != config["env_id"]:
        raise ValueError(f"model {folder} is of {spec.env_id}, dataset {dataset.folder} of {config['env_id']}")
    if spec.image_size != config["image_size"] or spec.channels > config["channels"]:
        raise ValueError(
            f"model {folder} takes pictures of {spec.image_size} pixels and {spec.channels} channels, dataset "
            f"{dataset.folder} has {config['image_size']} and {config['channels']}"
        )


def encode_frames(
    encoder: Encoder, frames: Any, count: int | None = None, compiler_options: dict[str, str | bool] | None = None
) -> np.ndarray:
    """States float32 [n, S] of the first `count` frames (all by default), a batch at a time.

    `compiler_options` is what XLA is told, as in `jax.jit`.
    """
    encode = jax.jit(encoder.encode, compiler_options=compiler_options)
    total = len(frames) if count is None else min(count, len(frames))
    states = np.empty((total, encoder.spec.state_dim), np.float32)
    for start in range(0, total, BATCH):
        batch = np.asarray(frames[start : min(start + BATCH, total)])
        padded = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), axis=0)])
        states[start : start + len(batch)] = np.asarray(encode(encoder.params, padded))[: len(batch)]
    return states


class LatentSpace:
    """Where the states of a dataset lie, and what a place there looks like.

    Args:
        folder: Folder of the model.
        encoder: It.
        dataset: Pictures.
        count: How many of them are looked at.
        compiler_options: What XLA is told, as in `jax.jit`.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: Encoder,
        dataset: Dataset,
        count: int,
        compiler_options: dict[str, str | bool] | None = None,
    ) -> None:
        check_fit(encoder, dataset, folder)
        self._frames, self.channels = dataset.frames, encoder.spec.channels
        self.states = encode_frames(encoder, dataset.frames, count, compiler_options)
        self.low, self.high = self.states.min(axis=0), self.states.max(axis=0)
        decoder = load_decoder(folder)
        self.decodes = decoder is not None
        self._decode: Callable[[np.ndarray], Any] | None = None
        if decoder is not None:
            self._decode = jax.jit(
                lambda states: decoder.decode(decoder.params, states), compiler_options=compiler_options
            )

    def pictures(self, places: np.ndarray) -> np.ndarray:
        """What states [n, S] look like, uint8 [n, H, W, C]: decoded, or the picture of the nearest known state."""
        places = np.asarray(places, np.float32)
        if self._decode is not None:
            return np.asarray(self._decode(places))
        points = np.concatenate([places, self.states])
        ranks = min(len(places), len(points) - 1)  # other places may be nearer than any known state
        found = nearest_neighbours(points, np.arange(len(places)), ranks).nearest
        chosen = [int(row[row >= len(places)][0]) - len(places) for row in found]
        return np.asarray(self._frames[np.array(chosen)])

    def grid(self, components: tuple[int, int], size: int, origin: np.ndarray | None = None) -> np.ndarray:
        """States [size, size, S]: two components from their least to their greatest value, the others as in `origin`.

        `origin` is all zeros by default, as in the original's viewer. The first component grows along the columns.
        """
        places = np.zeros((size, size, len(self.low)), np.float32)
        places += 0.0 if origin is None else origin
        first, second = components
        places[..., first] = np.linspace(self.low[first], self.high[first], size)[None]
        places[..., second] = np.linspace(self.low[second], self.high[second], size)[:, None]
        return places

    def path(self, start: int, stop: int, size: int) -> np.ndarray:
        """States [size, S] on the line from the state of one frame to that of another."""
        share = np.linspace(0.0, 1.0, size, dtype=np.float32)[:, None]
        return (1 - share) * self.states[start] + share * self.states[stop]
