"""What `--losses` says: which losses, with which weights, on which components of the state. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

# Weight of each loss unless said otherwise (those of the original).
DEFAULT_WEIGHTS = {
    "autoencoder": 1.0,
    "dae": 1.0,
    "vae": 0.5e-6,
    "perceptual": 1e-6,
    "forward": 1.0,
    "inverse": 2.0,
    "reward": 1.0,
    "priors": 1.0,
    "reward-prior": 10.0,
    "episode-prior": 1.0,
    "triplet": 1.0,
    "supervised": 1.0,
    "pca": 1.0,
    "random": 1.0,
}
_RECONSTRUCTIONS = ("autoencoder", "dae", "vae")
_ALONE = ("supervised", "pca")


@dataclass(frozen=True)
class Term:
    """One loss.

    Attributes:
        name: Its name.
        weight: Its weight in the total.
        dimension: Components of the state that it owns: 0 all of them, -1 those of the loss before, else how many.
        first: First component that it sees.
        stop: One beyond the last.
    """

    name: str
    weight: float
    dimension: int
    first: int
    stop: int


def parse_losses(words: Sequence[str], state_dim: int) -> tuple[Term, ...]:
    """Read `name`, `name:weight` or `name:weight:dimension` words.

    Args:
        words: All of one form. Dimensions lay out blocks of the state in the order of the words; -1 shares the block
            of the word before.
        state_dim: Components of the state, to which the dimensions must add up.

    Raises:
        ValueError: One line that says which word is wrong, and how it could be right.
    """
    if not words:
        raise ValueError(f"--losses needs at least one of {', '.join(DEFAULT_WEIGHTS)}")
    read = [_read(word) for word in words]
    names = [name for name, _, _ in read]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--losses: {name} is given twice")
    if len({word.count(":") for word in words}) > 1:
        raise ValueError("--losses: give all losses in one form: name, name:weight or name:weight:dimension")
    _check_combination(names, split=any(dimension for _, _, dimension in read))
    return tuple(_blocks(read, state_dim))


def family_of(names: Sequence[str]) -> str:
    """What kind of network losses need: "autoencoder", "vae", "supervised" or "plain"."""
    if "autoencoder" in names or "dae" in names:
        return "autoencoder"
    return next((name for name in ("vae", "supervised") if name in names), "plain")


def _read(word: str) -> tuple[str, float, int]:
    name, *numbers = word.split(":")
    if name not in DEFAULT_WEIGHTS:
        close = get_close_matches(name, DEFAULT_WEIGHTS, n=1, cutoff=0.6)
        advice = f"did you mean {close[0]}?" if close else f"choose from {', '.join(DEFAULT_WEIGHTS)}"
        raise ValueError(f"--losses: there is no loss '{name}'; {advice}")
    if len(numbers) > 2:
        raise ValueError(f"--losses {word}: expected name, name:weight or name:weight:dimension")
    try:
        weight = float(numbers[0]) if numbers else DEFAULT_WEIGHTS[name]
    except ValueError:
        raise ValueError(f"--losses {word}: the weight '{numbers[0]}' is not a number") from None
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"--losses {word}: the weight must be a finite number of at least 0")
    try:
        dimension = int(numbers[1]) if len(numbers) > 1 else 0
    except ValueError:
        raise ValueError(f"--losses {word}: the dimension '{numbers[1]}' is not a whole number") from None
    if dimension < -1 or (len(numbers) > 1 and dimension == 0):
        raise ValueError(f"--losses {word}: the dimension must be at least 1, or -1 to share that of the loss before")
    return name, weight, dimension


def _check_combination(names: Sequence[str], split: bool) -> None:
    """Refuse losses that do not go together."""
    chosen = [name for name in _RECONSTRUCTIONS if name in names]
    if len(chosen) > 1:
        raise ValueError(f"--losses: {' and '.join(chosen)} reconstruct pictures in different ways; give one of them")
    if "perceptual" in names and "vae" not in names:
        raise ValueError("--losses: perceptual replaces what vae compares: give vae as well")
    for name in _ALONE:
        if name in names and len(names) > 1:
            raise ValueError(f"--losses: {name} is trained alone; leave out the other losses")
    if split and (wrong := [name for name in ("triplet", "random", "perceptual", *_ALONE) if name in names]):
        raise ValueError(f"--losses: {wrong[0]} cannot have a part of the state of its own")


def _blocks(read: Sequence[tuple[str, float, int]], state_dim: int) -> list[Term]:
    """Lay out the blocks of a split state."""
    total = sum(dimension for _, _, dimension in read if dimension > 0)
    if not any(dimension for _, _, dimension in read):
        return [Term(name, weight, 0, 0, state_dim) for name, weight, _ in read]
    if read[0][2] == -1:
        raise ValueError(f"--losses {read[0][0]}: the first loss has none before it whose dimension -1 could share")
    if total != state_dim:
        raise ValueError(f"--losses: the dimensions add up to {total}, --state-dim is {state_dim}")
    terms, first, stop = [], 0, 0
    for name, weight, dimension in read:
        if dimension > 0:
            first, stop = stop, stop + dimension
        terms.append(Term(name, weight, dimension, first, stop))
    return terms
