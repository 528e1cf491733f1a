"""The model of a run: `<algo>_model/best/` and `<algo>_model/final/`, each with params.npz and model.json.

params.npz holds the leaves of the acting state (parameters and observation statistics) by their path; model.json
says what they are: algorithm, configuration, environment, step, score. Nothing is pickled: reading a model never runs
code from it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from launch.runtime import files, trees
from launch.runtime.checkpoint import CheckpointError

BEST, FINAL = "best", "final"
PARAMS_FILE, INFO_FILE = "params.npz", "model.json"
_ROOT = "acting"
_LEAVES = "leaves"


def model_folder(run_folder: str | os.PathLike[str], algo: str) -> Path:
    """Where the models of a run are: `<run folder>/<algo>_model`."""
    return Path(run_folder) / f"{algo}_model"


def save_model(folder: str | os.PathLike[str], name: str, acting: Any, info: Mapping[str, Any]) -> Path:
    """Write a model as `<folder>/<name>/`, in place of the one before it; a crash leaves either the old or the new.

    Args:
        folder: As `model_folder` gives it; made where missing.
        name: `BEST` or `FINAL`, or `seed_<k>/...` below either for one of many runs.
        acting: Acting state of one run: a tree of arrays (no typed keys).
        info: Algorithm, configuration, environment, step, score; entries that JSON cannot hold are left out.

    Returns:
        The folder of the model.

    Raises:
        CheckpointError: it could not be written (full disk, ...); the model before it is intact.
    """
    target = Path(folder) / name
    leaves = trees.named_leaves({_ROOT: acting})
    described = {leaf_name: trees.describe(leaf) for leaf_name, leaf in leaves.items()}
    arrays: dict[str, Any] = {leaf_name: trees.to_host(leaf) for leaf_name, leaf in leaves.items()}
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        with (temporary / PARAMS_FILE).open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        files.write_json(temporary / INFO_FILE, {**info, _LEAVES: described})
        temporary.chmod(0o755)
        _replace_folder(temporary, target)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot save the model in {target}: {error.strerror or error}") from error
    return target


def _replace_folder(new: Path, target: Path) -> None:
    """Put `new` where `target` is. A folder cannot be replaced in one step: between the two renames the old one is at
    `_backup(target)`, where `_existing` finds it."""
    backup = _backup(target)
    if target.exists():
        shutil.rmtree(backup, ignore_errors=True)
        os.replace(target, backup)
    os.replace(new, target)
    shutil.rmtree(backup, ignore_errors=True)


def _backup(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _existing(folder: str | os.PathLike[str]) -> Path:
    target = Path(folder)
    return target if target.exists() or not _backup(target).exists() else _backup(target)


def read_info(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What model.json says of the model in `folder` (`<algo>_model/best`, ...).

    Raises:
        ValueError: there is no model, or model.json is damaged.
    """
    source = _existing(folder)
    if not source.is_dir():
        others = sorted(path.parent.name for path in source.parent.glob(f"*/{INFO_FILE}"))
        raise ValueError(f"there is no model in {source}" + (f"; there is {' and '.join(others)}" if others else ""))
    info = files.read_json(source / INFO_FILE, f"model {source}")
    if not isinstance(info.get(_LEAVES), dict):
        raise ValueError(f"model {source}: {INFO_FILE} does not list the leaves")
    return info


def load_model(folder: str | os.PathLike[str], template: Any) -> Any:
    """Read a model.

    Args:
        folder: The folder of the model (`<algo>_model/best`, ...).
        template: An acting state of the same kind; its values are ignored.

    Returns:
        The acting state, bit-equal to the saved one, leaves of the template's types.

    Raises:
        ValueError: there is no model, it is damaged, or a leaf has another name, type or shape than the template's.
    """
    info = read_info(folder)
    source = _existing(folder)
    leaves = trees.named_leaves({_ROOT: template})
    trees.check_leaves(info[_LEAVES], leaves, f"model {source}")
    try:
        with np.load(source / PARAMS_FILE, allow_pickle=False) as stored:
            values = {name: _as_described(stored[name], leaf) for name, leaf in leaves.items()}
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"model {source}: {PARAMS_FILE} is missing or damaged ({type(error).__name__})") from None
    return jax.tree.unflatten(jax.tree.structure(template), list(values.values()))


def _as_described(value: np.ndarray, leaf: Any) -> Any:
    shape, dtype = trees.stored_form(leaf)
    if value.dtype.kind == "V" and value.dtype.itemsize == dtype.itemsize:
        value = value.view(dtype)  # NumPy's format has no name for bfloat16 and the like
    if value.shape != shape or value.dtype != dtype:
        raise ValueError("not the array that model.json describes")
    return trees.from_host(leaf, value)
