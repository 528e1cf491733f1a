"""Saved encoders: what is saved comes back, and what is no model is refused in one line."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from representations.encoder import (
    MODEL_FILE,
    PARAMS_FILE,
    EncoderSpec,
    decode_function,
    encode_function,
    load_decoder,
    load_encoder,
    read_model,
    save_encoder,
)
from representations.models import make_decoder, make_encoder

SPEC = EncoderSpec("MobileRobotGymEnv-v0", 24, 3, 5, family="autoencoder", losses=("autoencoder",), weights=(1.0,))
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 24, 3), np.uint8)


@pytest.fixture
def saved(tmp_path):
    encoder, decoding = make_encoder("custom_cnn", "autoencoder", 5), make_decoder("custom_cnn", "autoencoder", 24, 3)
    params = jax.jit(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 24, 24, 3)), False))()
    decoder = jax.jit(lambda: decoding.init(jax.random.key(1), jnp.zeros((1, 5)), False))()
    save_encoder(tmp_path / "model", SPEC, params, decoder, {"epoch": 3})
    return tmp_path / "model", params, decoder


def test_a_saved_model_comes_back(saved):
    folder, params, decoder_params = saved
    encoder, decoder = load_encoder(folder), load_decoder(folder)
    assert encoder.spec == SPEC and read_model(folder) == (SPEC, {"epoch": 3})
    jax.tree.map(np.testing.assert_array_equal, (encoder.params, decoder.params), (params, decoder_params))
    states = jax.jit(encoder.encode)(encoder.params, FRAMES)
    assert states.shape == (2, 3, 5) and states.dtype == jnp.float32
    one_by_one = [encode_function(SPEC)(params, frame) for frame in FRAMES.reshape(-1, 24, 24, 3)]
    np.testing.assert_allclose(states.reshape(-1, 5), np.stack(one_by_one), atol=1e-5)
    frames = decoder.decode(decoder.params, states)
    assert frames.shape == FRAMES.shape and frames.dtype == jnp.uint8
    np.testing.assert_array_equal(frames, decode_function(SPEC)(decoder_params, states))


def test_channels_beyond_the_encoders_are_not_looked_at(saved):
    encoder = load_encoder(saved[0])
    both = np.concatenate([FRAMES, 255 - FRAMES], axis=-1)
    np.testing.assert_array_equal(encoder.encode(encoder.params, both), encoder.encode(encoder.params, FRAMES))


def test_pictures_of_another_size_are_refused(saved):
    encoder = load_encoder(saved[0])
    with pytest.raises(ValueError, match=r"^the encoder takes pictures of 24x24 pixels and 3 channels, not 32x32"):
        encoder.encode(encoder.params, np.zeros((1, 32, 32, 3), np.uint8))


def _rewrite(folder, change):
    content = json.loads((folder / MODEL_FILE).read_text())
    change(content)
    (folder / MODEL_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / MODEL_FILE).unlink(), "there is no representation in .*: srl_model.json is missing"),
        (lambda f: (f / MODEL_FILE).write_text("{"), "truncated or is not JSON"),
        (lambda f: (f / MODEL_FILE).write_text('{"algo": "ppo2"}'), "is not of the format"),
        (lambda f: _rewrite(f, lambda c: c["spec"].pop("env_id")), "lacks what describes"),
        (lambda f: _rewrite(f, lambda c: c["spec"].update(state_dim=7)), "its description says"),
        (lambda f: _rewrite(f, lambda c: c["spec"].update(model_type="vit")), "there is no model type 'vit'"),
        (lambda f: (f / PARAMS_FILE).unlink(), "params.npz cannot be read"),
        (lambda f: (f / PARAMS_FILE).write_bytes((f / PARAMS_FILE).read_bytes()[:-9]), "params.npz is damaged"),
    ],
)
def test_damaged_and_foreign_folders_are_refused_in_one_line(saved, damage, message):
    damage(saved[0])
    with pytest.raises(ValueError, match=message) as refusal:
        load_encoder(saved[0])
    assert "\n" not in str(refusal.value)


def test_principal_components_project(tmp_path):
    spec = EncoderSpec("MobileRobotGymEnv-v0", 24, 3, 2, model_type="pca", losses=("pca",))
    rng = np.random.default_rng(1)
    params = {"components": rng.normal(size=(24 * 24 * 3, 2)).astype(np.float32), "mean": np.ones(1728, np.float32)}
    save_encoder(tmp_path, spec, params)
    encoder = load_encoder(tmp_path)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = (FRAMES[0] / 255.0 - mean) / std
    expected = (x.reshape(3, -1) - 1.0) @ params["components"]
    np.testing.assert_allclose(encoder.encode(encoder.params, FRAMES[0]), expected, rtol=1e-4, atol=1e-3)
    assert load_decoder(tmp_path) is None
