"""A contact sheet: what the cameras of each environment see, on the host and beside it in the twin.

jax is imported only when an environment has a twin.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from envs.host.quiet import quiet_import
from envs.registry import registered_env, registered_twin, resolve

WARM_UP = 50  # steps of random actions before the picture; the car race takes that long to zoom in
_CAMERAS = ("multi_view", "fpv")  # options that add a camera
_INCH = 100.0  # pixels per inch of the sheet
_LABEL = 16  # pixels above a picture


def draw_scenes(env_ids: list[str], image_size: int, output: Path) -> None:
    """Write the sheet: a row for each environment, with a picture for each camera and simulator.

    Args:
        env_ids: Ids of `registered_env`, not of real robots.
        image_size: Width and height of a picture in pixels.
        output: The PNG file.

    Raises:
        ValueError: An environment refuses the picture size.
        OSError: The file cannot be written.
    """
    rows = [(env_id, scene_pictures(env_id, image_size)) for env_id in env_ids]
    from matplotlib.figure import Figure

    columns = max(len(pictures) for _, pictures in rows)
    width, height = columns * (image_size + 4), len(rows) * (image_size + 2 * _LABEL)
    figure = Figure(figsize=(width / _INCH, height / _INCH), dpi=_INCH, facecolor="white")
    for row, (env_id, pictures) in enumerate(rows):
        top = height - row * (image_size + 2 * _LABEL) - _LABEL
        figure.text(2 / width, top / height, env_id, fontsize=7, weight="bold", va="bottom")
        for column, (label, picture) in enumerate(pictures):
            left = column * (image_size + 4) + 2
            figure.text(left / width, (top - 2) / height, label, fontsize=6, va="top")
            bottom = top - _LABEL - image_size + 2
            axes = figure.add_axes((left / width, bottom / height, image_size / width, image_size / height))
            axes.imshow(picture, interpolation="nearest")
            axes.axis("off")
    figure.savefig(output, dpi=_INCH, pil_kwargs={"optimize": True})


def scene_pictures(env_id: str, image_size: int) -> list[tuple[str, np.ndarray]]:
    """The pictures of one environment after some random actions.

    Returns:
        (label, uint8 [image_size, image_size, 3]) of each camera: the host's, then the twin's of the same situation,
        where there is one that can draw it (`draw`) or get into it (`state_of`).
    """
    quiet_import("pybullet")
    cls = resolve(registered_env[env_id][0])
    options: dict[str, Any] = {"srl_model": "raw_pixels", "image_size": image_size}
    parameters = inspect.signature(cls).parameters
    options |= {name: True for name in _CAMERAS if name in parameters}
    if "noise" in parameters:
        options["noise"] = False  # whose draws in the host and in the twin differ
    host = cls(**options)
    try:
        host.action_space.seed(0)
        observation, _ = host.reset(seed=0)
        for _ in range(WARM_UP):
            observation, _, terminated, truncated, _ = host.step(host.action_space.sample())
            if terminated or truncated:
                observation, _ = host.reset()
        pictures = _split("host", observation)
        drawn = _drawn_by_twin(env_id, options, host)
        if drawn is not None:
            pictures += _split("JAX twin", drawn)
    finally:
        host.close()
    return pictures


def _drawn_by_twin(env_id: str, options: dict[str, Any], host: Any) -> np.ndarray | None:
    """The twin's picture of the host's situation, uint8 [image_size, image_size, channels], if there is one."""
    if env_id not in registered_twin:
        return None
    import jax

    twin = resolve(registered_twin[env_id])(**options)
    if hasattr(twin, "draw"):
        return np.asarray(jax.jit(twin.draw)(host.scene_poses().ravel()))
    if hasattr(twin, "state_of") and hasattr(twin, "observe"):
        return np.asarray(jax.jit(twin.observe)(twin.state_of(host)))
    return None


def _split(simulator: str, observation: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The pictures that an observation [height, width, 3 * cameras] consists of."""
    cameras = np.split(observation, observation.shape[-1] // 3, axis=-1)
    return [(f"{simulator}, camera {number + 1}", camera) for number, camera in enumerate(cameras)]
