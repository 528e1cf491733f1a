"""From datasets to others: two joined into one, and states made relative to the target."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from representations.dataset import Dataset, load_dataset
from representations.dataset_writer import DatasetWriter, check_folder


def merge(sources: Sequence[str | Path], destination: str | Path, layout: str = "compact") -> Dataset:
    """Join datasets: all episodes of the first, then those of the next. The sources are left as they are.

    Args:
        sources: Folders of datasets of the same environment, pictures, actions and meaning of positions.
        destination: Folder of the new one, which must not exist.
        layout: "compact" or "original".

    Raises:
        ValueError: A source is no dataset, they differ, or the destination exists.
    """
    check_folder(Path(destination))
    datasets = [load_dataset(source) for source in sources]
    first = datasets[0]
    for other in datasets[1:]:
        for name in first.config:
            if name == "num_actions" and first.config["env_id"] == "":
                continue  # told by the greatest action there is
            if first.config[name] != other.config[name]:
                raise ValueError(
                    f"{first.folder} and {other.folder} do not go together: {name} is {first.config[name]} and "
                    f"{other.config[name]}"
                )
    config = {**first.config, "num_actions": max(dataset.config["num_actions"] for dataset in datasets)}
    return _write(datasets, destination, layout, config, [dataset.ground_truth for dataset in datasets])


def to_relative(source: str | Path, destination: str | Path, layout: str = "compact") -> Dataset:
    """Copy a dataset with positions relative to the target of their episode, on the axes that the target has.

    The copy says that its positions need no target subtracted any more (`relative_pos`).

    Raises:
        ValueError: The source is no dataset, the destination exists, or positions are relative already.
    """
    check_folder(Path(destination))
    dataset = load_dataset(source)
    states = np.array(dataset.ground_truth)
    states[:, : dataset.targets.shape[1]] -= dataset.true_targets()
    return _write([dataset], destination, layout, {**dataset.config, "relative_pos": False}, [states])


def _write(
    datasets: Sequence[Dataset],
    destination: str | Path,
    layout: str,
    config: dict[str, Any],
    positions: Sequence[np.ndarray],
) -> Dataset:
    """Write the episodes of datasets, in order, with other true positions."""
    writer = DatasetWriter(destination, config, {"from": [str(dataset.folder) for dataset in datasets]}, layout)
    try:
        for dataset, states in zip(datasets, positions, strict=True):
            starts = [*np.flatnonzero(dataset.episode_starts), len(dataset)]
            for number, (start, stop) in enumerate(pairwise(starts)):
                rows = slice(start, stop)
                writer.add_episode(
                    dataset.frames[rows],
                    dataset.actions[rows],
                    dataset.rewards[rows],
                    states[rows],
                    dataset.targets[number],
                )
            writer.flush()
        writer.seal()
    finally:
        writer.close()
    return load_dataset(destination)
