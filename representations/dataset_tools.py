"""From datasets to others: two joined into one, and states made relative to the target."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from launch.runtime.files import read_json
from representations.dataset import SEAL_FILE, Dataset, load_dataset
from representations.dataset_writer import DatasetWriter, check_folder

_ADVICE = "choose another folder"


def merge(sources: Sequence[str | Path], destination: str | Path, layout: str = "compact") -> Dataset:
    """Join datasets: all episodes of the first, then those of the next. The sources are left as they are.

    What was interrupted goes on where it was.

    Args:
        sources: Folders of datasets of the same environment, pictures, actions and meaning of positions.
        destination: Folder of the new one, which must not exist, or be one that this has begun.
        layout: "compact" or "original".

    Raises:
        ValueError: A source is no dataset, they differ, or the destination exists.
    """
    check_folder(Path(destination), advice=_ADVICE)
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
    positions, relative = [dataset.ground_truth for dataset in datasets], any(map(_made_relative, datasets))
    return _write(datasets, destination, layout, config, positions, relative)


def to_relative(source: str | Path, destination: str | Path, layout: str = "compact") -> Dataset:
    """Copy a dataset with positions relative to the target of their episode, on the axes that the target has.

    The copy says that its positions need no target subtracted any more (`relative_pos`).

    Raises:
        ValueError: The source is no dataset, the destination exists, or positions are relative already.
    """
    check_folder(Path(destination), advice=_ADVICE)
    dataset = load_dataset(source)
    if _made_relative(dataset):
        raise ValueError(f"positions of dataset {dataset.folder} are relative to the target already")
    states = np.array(dataset.ground_truth)
    states[:, : dataset.targets.shape[1]] -= dataset.true_targets()
    return _write([dataset], destination, layout, {**dataset.config, "relative_pos": False}, [states], relative=True)


def _made_relative(dataset: Dataset) -> bool:
    """Whether `to_relative` has written a dataset; what others have written does not tell."""
    seal = dataset.folder / SEAL_FILE
    return seal.is_file() and read_json(seal, f"dataset {dataset.folder}").get("plan", {}).get("relative", False)


def _write(
    datasets: Sequence[Dataset],
    destination: str | Path,
    layout: str,
    config: dict[str, Any],
    positions: Sequence[np.ndarray],
    relative: bool,
) -> Dataset:
    """Write the episodes of datasets, in order, with other true positions."""
    plan = {"from": [str(dataset.folder) for dataset in datasets], "relative": relative}
    writer = DatasetWriter(destination, config, plan, layout, advice=_ADVICE)
    left_out = writer.episodes  # by an earlier call that was interrupted
    try:
        for dataset, states in zip(datasets, positions, strict=True):
            starts = [*np.flatnonzero(dataset.episode_starts), len(dataset)]
            for number, (start, stop) in enumerate(pairwise(starts)):
                if left_out:
                    left_out -= 1
                    continue
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
