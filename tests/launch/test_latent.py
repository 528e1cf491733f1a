"""Judging representations and walking through their space, from the command line."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import enjoy_latent, srl_metrics
from representations.dataset import load_dataset
from representations.dataset_writer import DatasetWriter
from representations.encoder import EncoderSpec, load_decoder, load_encoder, save_encoder
from representations.latent import BATCH, LatentSpace, encode_frames
from representations.metrics import ground_truth_correlation
from representations.models import make_decoder, make_encoder
from tests.learned import linear_model

ENV, SIZE, FRAMES = "MobileRobotGymEnv-v0", 16, 300


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A bright square on a dark floor, at the true position; the reward tells whether it is on the right."""
    folder = tmp_path_factory.mktemp("data") / "square"
    config = {"env_id": ENV, "image_size": SIZE, "channels": 3, "num_actions": 4}
    writer = DatasetWriter(folder, {**config, "relative_pos": False, "max_distance": None}, {})
    random = np.random.default_rng(0)
    for _ in range(3):
        places = random.integers(0, SIZE - 3, (FRAMES // 3, 2))
        frames = np.zeros((len(places), SIZE, SIZE, 3), np.uint8)
        for frame, (row, column) in zip(frames, places, strict=True):
            frame[row : row + 4, column : column + 4] = 255
        rewards = (places[:, 1] > 7).astype(np.float32)
        writer.add_episode(frames, random.integers(0, 4, len(places)), rewards, places / SIZE, np.full(2, 0.5))
    writer.seal()
    return folder


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    spec = EncoderSpec(ENV, SIZE, 3, 5, "linear", "autoencoder", ("autoencoder",))
    pictures, states = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros((1, 5))
    params = make_encoder("linear", "autoencoder", 5).init(jax.random.key(0), pictures, False)
    decoder = make_decoder("linear", "autoencoder", SIZE, 3).init(jax.random.key(1), states, False)
    return save_encoder(tmp_path_factory.mktemp("model") / "ae", spec, params, decoder)


def test_states_are_the_same_in_any_batch(data, autoencoder):
    dataset, encoder = load_dataset(data), load_encoder(autoencoder)
    states = encode_frames(encoder, dataset.frames)
    assert states.shape == (FRAMES, 5) and FRAMES % BATCH
    expected = encoder.encode(encoder.params, np.asarray(dataset.frames[-7:]))
    np.testing.assert_allclose(states[-7:], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(encode_frames(encoder, dataset.frames, 10), states[:10])


def test_a_representation_is_judged(data, autoencoder, tmp_path, capsys):
    words = [f"--data-folder={data}", f"--log-dir={autoencoder}", f"--output={tmp_path}"]
    assert srl_metrics.main(words) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert f"KNN-MSE {result['knn_mse']:.5f}" in said and 0 < result["knn_mse"] < 0.2
    dataset = load_dataset(data)
    with np.load(tmp_path / "states_rewards.npz") as stored:
        expected = ground_truth_correlation(stored["states"], dataset.ground_truth)
    assert [result["gt_corr"][axis] for axis in ("x_robot", "y_robot")] == pytest.approx(expected.tolist())
    assert result["gt_corr"]["x_target"] == 0 and result["gt_corr_mean"] == pytest.approx(expected.sum() / 4)
    for name in ("nearest_neighbours.png", "latent_reward.png", "latent_time.png"):
        assert (tmp_path / name).stat().st_size > 5000
    page = (tmp_path / "latent.html").read_text()
    assert "http" not in page and "__" not in page and "data:image/jpeg;base64," in page
    told = json.loads(page.split("const data = ")[1].split(", size = ")[0])
    assert len(told["points"]) == len(told["reward"]) == len(told["time"]) == FRAMES and told["time"][100] == 0


def test_true_positions_correlate_with_themselves(data, tmp_path):
    assert srl_metrics.main([f"--data-folder={data}", "--ground-truth", f"--output={tmp_path}"]) == 0
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["gt_corr"] == pytest.approx({"x_robot": 1, "y_robot": 1, "x_target": 0, "y_target": 0})


def test_places_are_decoded_or_looked_up(data, autoencoder, tmp_path):
    dataset = load_dataset(data)
    space = LatentSpace(autoencoder, load_encoder(autoencoder), dataset, 100)
    places = space.grid((1, 3), 4)
    assert places.shape == (4, 4, 5) and not places[..., [0, 2, 4]].any()
    np.testing.assert_allclose(places[0, :, 1], np.linspace(space.states[:, 1].min(), space.states[:, 1].max(), 4))
    np.testing.assert_allclose(places[:, 0, 3], np.linspace(space.states[:, 3].min(), space.states[:, 3].max(), 4))
    decoder = load_decoder(autoencoder)
    np.testing.assert_array_equal(space.pictures(places[0]), decoder.decode(decoder.params, places[0]))
    plain = linear_model(tmp_path / "plain", ENV, SIZE)
    space = LatentSpace(plain, load_encoder(plain), dataset, 100)
    path = space.path(5, 60, 7)
    pictures = space.pictures(path)
    for place, picture in zip(path, pictures, strict=True):
        nearest = np.linalg.norm(space.states - place, axis=1).argmin()
        np.testing.assert_array_equal(picture, dataset.frames[nearest])
    np.testing.assert_array_equal(pictures[[0, -1]], dataset.frames[[5, 60]])


def test_the_walk_writes_pictures(data, autoencoder, tmp_path, headless):
    words = [f"--log-dir={autoencoder}", f"--data-folder={data}", f"--output={tmp_path}", "--steps=3"]
    assert enjoy_latent.main(words) == 0 and enjoy_latent.main([*words, "--frames", "2", "9"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"grid_0_1.png", "path_2_9.png"}


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        (srl_metrics.main, ["--data-folder=DATA"], "give either --log-dir"),
        (srl_metrics.main, ["--log-dir=MODEL"], "--data-folder is missing"),
        (srl_metrics.main, ["--log-dir=nowhere", "--data-folder=DATA"], "nowhere"),
        (srl_metrics.main, ["--log-dir=MODEL", "--data-folder=nowhere"], "there is no such folder"),
        (srl_metrics.main, ["--log-dir=MODEL", "--data-folder=DATA", "-k", "400"], "there are 300 states"),
        (srl_metrics.main, ["--log-dir=LARGE", "--data-folder=DATA"], "takes pictures of 32 pixels"),
        (srl_metrics.main, ["--log-dir=OTHER", "--data-folder=DATA"], "is of OmnirobotEnv-v0"),
        (enjoy_latent.main, ["--log-dir=MODEL"], "--data-folder is missing"),
        (enjoy_latent.main, ["--log-dir=MODEL", "--data-folder=DATA", "--components", "0", "9"], "components 0 to 4"),
        (enjoy_latent.main, ["--log-dir=MODEL", "--data-folder=DATA", "--frames", "1"], "two numbers"),
    ],
)
def test_bad_input(main, words, said, data, autoencoder, tmp_path, capsys):
    places = {"DATA": data, "MODEL": autoencoder}
    places["LARGE"] = linear_model(tmp_path / "large", ENV, 32)
    places["OTHER"] = linear_model(tmp_path / "other", "OmnirobotEnv-v0", SIZE)
    before = sorted(tmp_path.rglob("*"))
    for name, place in places.items():
        words = [word.replace(f"={name}", f"={place}") for word in words]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before
