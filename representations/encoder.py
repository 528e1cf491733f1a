"""A trained encoder in a folder: srl_model.json says what it is, params.npz holds its weights. Nothing is pickled.

params.npz holds `encoder/...` and, where the model reconstructs pictures, `decoder/...`, each leaf by its path.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from representations.models import make_decoder, make_encoder
from representations.preprocessing import denormalise, normalise

MODEL_FILE, PARAMS_FILE = "srl_model.json", "params.npz"
FORMAT = "srl-jax encoder 1"
PCA = "pca"  # the model type of principal components, which are no network


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is; hashable.

    Attributes:
        env_id: Environment whose pictures it was trained on.
        image_size: Pixels a side of a picture.
        channels: Channels that the encoder looks at: 3 for each view.
        state_dim: Components of a state.
        model_type: "custom_cnn", "resnet", "mlp", "linear" or "pca".
        family: "autoencoder", "vae", "supervised" or "plain".
        losses: Names of what it was trained with, in order.
        weights: Weight of each loss.
        dimensions: Components of the state that each loss owns: 0 all, -1 those of the loss before.
        num_actions: Discrete actions of the data; 0 where actions are continuous.
    """

    env_id: str
    image_size: int
    channels: int
    state_dim: int
    model_type: str = "custom_cnn"
    family: str = "plain"
    losses: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    dimensions: tuple[int, ...] = ()
    num_actions: int = 0


class Encoder(NamedTuple):
    """A trained encoder.

    Attributes:
        spec: What it is.
        params: Its weights: a tree of float32 arrays.
        encode: (params, frames uint8 [..., size, size, channels]) -> states float32 [..., state_dim]; pure. Channels
            beyond those of the spec are not looked at.
    """

    spec: EncoderSpec
    params: Any
    encode: Callable[[Any, jax.Array], jax.Array]


class Decoder(NamedTuple):
    """The decoder of an autoencoder.

    Attributes:
        params: Its weights.
        decode: (params, states float32 [..., state_dim]) -> frames uint8 [..., size, size, channels]; pure.
    """

    params: Any
    decode: Callable[[Any, jax.Array], jax.Array]


def network_of(spec: EncoderSpec) -> nn.Module:
    """The network of an encoder that is no PCA: normalised pictures to states, of a VAE with log variances behind.

    Raises:
        ValueError: there is no such model.
    """
    return make_encoder(spec.model_type, spec.family, spec.state_dim * (2 if spec.family == "vae" else 1))


def encode_function(spec: EncoderSpec) -> Callable[[Any, jax.Array], jax.Array]:
    """The pure function (params, frames) -> states of an encoder."""

    def encode(params: Any, frames: jax.Array) -> jax.Array:
        lead, shape = frames.shape[:-3], frames.shape[-3:]
        if shape[:2] != (spec.image_size,) * 2 or shape[2] < spec.channels:
            raise ValueError(
                f"the encoder takes pictures of {spec.image_size}x{spec.image_size} pixels and {spec.channels} "
                f"channels, not {shape[0]}x{shape[1]} with {shape[2]}"
            )
        x = normalise(frames[..., : spec.channels].reshape(-1, *shape[:2], spec.channels))
        if spec.model_type == PCA:
            states = (x.reshape(x.shape[0], -1) - params["mean"]) @ params["components"]
        else:
            out: Any = network_of(spec).apply(params, x, False)
            states = out[:, : spec.state_dim]
        return states.reshape(*lead, spec.state_dim)

    return encode


def decode_function(spec: EncoderSpec) -> Callable[[Any, jax.Array], jax.Array]:
    """The pure function (params, states) -> frames of a decoder.

    Raises:
        ValueError: such a model has none.
    """
    network = make_decoder(spec.model_type, spec.family, spec.image_size, spec.channels)

    def decode(params: Any, states: jax.Array) -> jax.Array:
        x: Any = network.apply(params, states.reshape(-1, spec.state_dim), False)
        return denormalise(x).reshape(*states.shape[:-1], *x.shape[1:])

    return decode


def save_encoder(
    folder: str | os.PathLike[str],
    spec: EncoderSpec,
    params: Any,
    decoder_params: Any = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model into `folder` (made where missing), in place of the one before it.

    Args:
        folder: The model's folder; other files in it are left alone.
        spec: What the encoder is.
        params: Its weights.
        decoder_params: Weights of its decoder, where it has one.
        info: What else to record: JSON values.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    leaves = {f"encoder/{name}": np.asarray(leaf) for name, leaf in _flatten(params).items()}
    leaves |= {f"decoder/{name}": np.asarray(leaf) for name, leaf in _flatten(decoder_params or {}).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **leaves)  # type: ignore[arg-type]  # names are not keywords of savez
    content = buffer.getvalue()
    model = {"format": FORMAT, "spec": asdict(spec), "info": dict(info or {}), "params_crc32": zlib.crc32(content)}
    text = json.dumps(model, indent=2, sort_keys=True, allow_nan=False) + "\n"
    written = []
    try:
        for name, data in ((PARAMS_FILE, content), (MODEL_FILE, text.encode())):
            written.append(path / f".{name}.tmp")
            with written[-1].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name in (PARAMS_FILE, MODEL_FILE):
            os.replace(path / f".{name}.tmp", path / name)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)
    return path


def read_model(folder: str | os.PathLike[str]) -> tuple[EncoderSpec, dict[str, Any]]:
    """What srl_model.json says of the model in `folder`: (spec, info).

    Raises:
        ValueError: One line: there is no model, it is damaged, or of another kind.
    """
    return _read_json(Path(folder))[:2]


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """Read a model's encoder.

    Raises:
        ValueError: One line: there is no model, it is damaged, or of another kind.
    """
    spec, _, checksum = _read_json(Path(folder))
    params = _read_params(Path(folder), checksum, "encoder/", _encoder_shapes(spec, Path(folder)))
    return Encoder(spec, params, encode_function(spec))


def load_decoder(folder: str | os.PathLike[str]) -> Decoder | None:
    """Read a model's decoder; None where it has none.

    Raises:
        ValueError: One line: there is no model, it is damaged, or of another kind.
    """
    spec, _, checksum = _read_json(Path(folder))
    if spec.family not in ("autoencoder", "vae") or spec.model_type == PCA:
        return None
    network = make_decoder(spec.model_type, spec.family, spec.image_size, spec.channels)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, spec.state_dim)), False))
    return Decoder(_read_params(Path(folder), checksum, "decoder/", shapes), decode_function(spec))


def _encoder_shapes(spec: EncoderSpec, folder: Path) -> Any:
    """The tree of an encoder's weights, as shapes."""
    size = spec.image_size**2 * spec.channels
    if spec.model_type == PCA:
        shape = jax.ShapeDtypeStruct
        return {
            "components": shape((size, spec.state_dim), jnp.float32),
            "mean": shape((size,), jnp.float32),
        }
    try:
        network = network_of(spec)
    except ValueError as error:
        raise ValueError(f"model {folder}: {error}") from None
    x = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, spec.channels), jnp.float32)
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), x)


def _read_json(folder: Path) -> tuple[EncoderSpec, dict[str, Any], int]:
    """Read and check srl_model.json."""
    try:
        content = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no representation in {folder}: {MODEL_FILE} is missing") from None
    except OSError as error:
        raise ValueError(f"model {folder}: {MODEL_FILE} cannot be read ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"model {folder}: {MODEL_FILE} is truncated or is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"model {folder}: {MODEL_FILE} is not of the format '{FORMAT}'")
    try:
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content["spec"].items()}
        return EncoderSpec(**fields), dict(content["info"]), int(content["params_crc32"])
    except (LookupError, TypeError, AttributeError, ValueError):
        raise ValueError(f"model {folder}: {MODEL_FILE} lacks what describes the encoder") from None


def _read_params(folder: Path, checksum: int, prefix: str, shapes: Any) -> Any:
    """Read the leaves of params.npz below `prefix` into a tree of given shapes."""
    try:
        content = (folder / PARAMS_FILE).read_bytes()
    except OSError as error:
        raise ValueError(f"model {folder}: {PARAMS_FILE} cannot be read ({error.strerror})") from None
    if zlib.crc32(content) != checksum:
        raise ValueError(f"model {folder}: {PARAMS_FILE} is damaged, or not the one that {MODEL_FILE} describes")
    named = _flatten(shapes)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            values = [stored[prefix + name] for name in named]
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"model {folder}: {PARAMS_FILE} is damaged ({error})") from None
    for (name, shape), value in zip(named.items(), values, strict=True):
        if value.shape != shape.shape:
            raise ValueError(f"model {folder}: '{name}' is {list(value.shape)}, its description says {shape.shape}")
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(value, jnp.float32) for value in values])


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their path."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
