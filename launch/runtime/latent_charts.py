"""Pictures of a latent space: nearest neighbours, all states, grids and paths; and a page to look around."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from representations.metrics import Neighbours, project

THUMB = 48  # pixels of a picture in the page
MAX_POINTS = 2000  # states in the page
_COLUMNS = 40
_SHOWN = 6  # components that the page prints


def neighbours_picture(path: Path, frames: Any, neighbours: Neighbours, count: int, title: str) -> None:
    """Write one row for each of the first `count` frames: the frame, then its nearest neighbours."""
    from matplotlib.figure import Figure

    rows, columns = min(count, len(neighbours.frames)), neighbours.nearest.shape[1] + 1
    figure = Figure(figsize=(1.6 * columns, 1.8 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        shown = [int(neighbours.frames[row]), *neighbours.nearest[row].tolist()]
        labels = [f"frame {shown[0]}", *(f"{d:.3g}" for d in neighbours.distances[row])]
        for axis, frame, label in zip(axes[row], shown, labels, strict=True):
            axis.imshow(first_view(np.asarray(frames[frame])))
            axis.set_title(label, fontsize=8)
            axis.axis("off")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=100)


def latent_picture(path: Path, states: np.ndarray, colours: np.ndarray, label: str, title: str) -> None:
    """Write a scatter of the states [T, S], in 2 or 3 dimensions, of principal components where there are more."""
    from matplotlib.figure import Figure

    dimensions = 2 if states.shape[1] <= 2 else 3
    points = (
        project(states, dimensions)
        if states.shape[1] > 3
        else np.pad(states, ((0, 0), (0, dimensions - states.shape[1])))
    )
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes: Any = figure.add_subplot(projection="3d" if dimensions == 3 else None)
    dots = axes.scatter(*points.T, s=7, c=colours, cmap="coolwarm", linewidths=0.1)
    figure.colorbar(dots, ax=axes, label=label)
    axes.set_title(title)
    figure.savefig(path, dpi=100)


def sheet_picture(path: Path, pictures: np.ndarray, title: str) -> None:
    """Write pictures [rows, columns, H, W, C] on one sheet."""
    from matplotlib.figure import Figure

    rows, columns = pictures.shape[:2]
    sheet = first_view(np.concatenate(np.concatenate(pictures, axis=1), axis=1))
    figure = Figure(figsize=(1.2 * columns, 1.2 * rows + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet)
    axes.axis("off")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=100)


def first_view(picture: np.ndarray) -> np.ndarray:
    """The first camera's picture [..., 3]."""
    return picture[..., :3]


def latent_page(
    path: Path, states: np.ndarray, rewards: np.ndarray, times: np.ndarray, frames: Any, title: str
) -> None:
    """Write a page without any other file or network: states that can be turned, with the pictures they stand for.

    Args:
        path: The .html file.
        states: float [T, S]; principal components are shown where S > 3.
        rewards, times: float [T], what colours may show.
        frames: uint8 [T, H, W, C].
        title: Heading.
    """
    chosen = np.unique(np.linspace(0, len(states) - 1, min(MAX_POINTS, len(states))).astype(int))
    points = project(states, 3)[chosen]
    points /= max(float(np.abs(points).max()), 1e-12)
    data = {
        "points": points.round(4).tolist(),
        "flat": bool(np.abs(points[:, 2]).max() == 0.0),
        "reward": np.asarray(rewards, float)[chosen].round(5).tolist(),
        "time": np.asarray(times, float)[chosen].tolist(),
        "frames": chosen.tolist(),
        "states": np.asarray(states, float)[chosen, :_SHOWN].round(5).tolist(),
        "more": states.shape[1] > _SHOWN,
    }
    template = (Path(__file__).parent / "latent_view.html").read_text(encoding="utf-8")
    replacements: Sequence[tuple[str, str]] = (
        ("__THUMB__", str(THUMB)),
        ("__COLUMNS__", str(_COLUMNS)),
        ("__SHEET__", _thumbnails(frames, chosen)),
        ("__DATA__", json.dumps(data, allow_nan=False)),
        ("__TITLE__", escape(title)),  # last, as it may hold any text
    )
    for name, value in replacements:
        template = template.replace(name, value)
    path.write_text(template, encoding="utf-8")


def _thumbnails(frames: Any, chosen: np.ndarray) -> str:
    """Small pictures of the chosen frames on one sheet, as a data URL."""
    from PIL import Image

    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * THUMB, rows * THUMB))
    for number, frame in enumerate(chosen):
        picture = Image.fromarray(np.ascontiguousarray(first_view(np.asarray(frames[int(frame)]))))
        place = (number % _COLUMNS * THUMB, number // _COLUMNS * THUMB)
        sheet.paste(picture.resize((THUMB, THUMB), Image.Resampling.BOX), place)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
