"""A trained policy that needs nothing but NumPy: `Policy("policy.safetensors")(observations) -> actions`.

This file is written beside the weights by srl-jax's launch/export.py and stands alone. The weights are a safetensors
file (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the header, the
numbers. The header's metadata says of which layers the policy is made.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

TYPES = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "U8": np.uint8}


def read_safetensors(path: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file: ({name: array}, {name: text} metadata)."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Valid convolution of pictures [n, height, width, channels] with a kernel [side, side, channels, features]."""
    seen = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nyxcij,ijcf->nyxf", seen, kernel, optimize=True)


class Policy:
    """The deterministic policy.

    Attributes:
        metadata: What the file says of it: algorithm, environment, shapes, layers.
    """

    def __init__(self, path: Any) -> None:
        """Read the weights."""
        self.tensors, texts = read_safetensors(path)
        self.metadata = json.loads(texts["policy"])

    def __call__(self, observations: Any) -> Any:
        """Return actions [n, ...] for observations [n, ...], or one action for one observation.

        Raises:
            ValueError: The observations have another shape.
        """
        obs, shape = np.asarray(observations), tuple(self.metadata["obs_shape"])
        if obs.shape == shape:
            return self(obs[None])[0]
        if obs.shape[1:] != shape:
            raise ValueError(f"observations are {obs.shape}, the policy takes {shape} or [n, {shape}]")
        x: Any = obs.astype(np.float32)
        for layer in self.metadata["layers"]:
            x = getattr(self, "_" + layer["kind"])(x, layer)
        return x

    def _standardise(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """Observation statistics of the training, clipped."""
        mean, var = self.tensors[layer["mean"]], self.tensors[layer["var"]]
        return np.clip((x - mean) / np.sqrt(var + np.float32(layer["epsilon"])), -layer["clip"], layer["clip"])

    def _scale(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """Multiply by a number."""
        return x * np.float32(layer["factor"])

    def _flatten(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """One row for each observation."""
        return x.reshape(len(x), -1)

    def _dense(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """Fully connected, with a bias where there is one."""
        x = x @ self.tensors[layer["kernel"]]
        return x + self.tensors[layer["bias"]] if "bias" in layer else x

    def _conv(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """Valid convolution with bias."""
        return convolve(x, self.tensors[layer["kernel"]], layer["stride"]) + self.tensors[layer["bias"]]

    def _relu(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        return np.maximum(x, 0.0)

    def _tanh(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        return np.tanh(x)

    def _argmax(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """The best discrete action."""
        return np.argmax(x, axis=-1)

    def _affine(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """From -1 ... 1 to the action's bounds."""
        low, high = np.float32(layer["low"]), np.float32(layer["high"])
        return (low + high) / 2 + (high - low) / 2 * x

    def _clip(self, x: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
        """To the action's bounds."""
        return np.clip(x, np.float32(layer["low"]), np.float32(layer["high"]))
