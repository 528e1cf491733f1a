"""The command line of representations: what it writes, that it continues, and what it refuses in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from launch.runtime.checkpoint import Checkpointer
from launch.runtime.srl_flags import parse_srl_args, saved_flags
from launch.train_srl import main
from representations.dataset import load_dataset
from representations.encoder import load_encoder, read_model
from tests.representations.twin_data import twin_dataset, written

FAST = ("--model-type=linear", "--learning-rate=0.001", "--no-vis", "--wandb-mode=disabled")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    written(root / "one", twin_dataset())
    written(root / "two", twin_dataset(fpv=True))
    written(root / "far", replace(twin_dataset(), rewards=np.zeros(240, np.float32)))
    return root


def words(data, folder, *more, name="one"):
    return [f"--data-folder={data / name}", f"--log-folder={folder}", *FAST, *more]


def test_a_training_writes_the_model_and_what_the_original_wrote(data, tmp_path, capsys):
    splits = ("--losses", "autoencoder:1:4", "reward:1:-1", "inverse:2:2", "--state-dim=6")
    assert main(words(data, tmp_path / "m", *splits, "--epochs=2")) == 0
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "args.json",
        "checkpoints",
        "exp_config.json",
        "loss_history.npz",
        "losses.png",
        "metrics.jsonl",
        "params.npz",
        "reconstructions.png",
        "srl_model.json",
        "states_rewards.npz",
    }
    encoder = load_encoder(tmp_path / "m")
    assert encoder.spec.env_id == "MobileRobotGymEnv-v0" and encoder.spec.dimensions == (4, -1, 2)
    frames = load_dataset(data / "one").frames
    with np.load(tmp_path / "m" / "states_rewards.npz") as saved:
        assert saved["states"].shape == (240, 6)
        np.testing.assert_allclose(encoder.encode(encoder.params, frames[:9]), saved["states"][:9], atol=1e-3)
    config = json.loads((tmp_path / "m" / "exp_config.json").read_text())
    assert config["split-dimensions"] == {"autoencoder": 4, "reward": -1, "inverse": 2} and config["n_actions"] == 4
    rows = [json.loads(line) for line in (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and {"train_loss", "val_loss", "inverse_loss", "reconstruction_loss"} <= set(rows[0])
    with np.load(tmp_path / "m" / "loss_history.npz") as history:
        assert read_model(tmp_path / "m")[1]["val_loss"] == history["val_loss"].min()
    assert "pictures are read as they are needed" in capsys.readouterr().err


def test_a_resumed_training_is_the_whole_one(data, tmp_path, monkeypatch):
    losses = ("--losses", "inverse", "dae", "--state-dim=3", "--checkpoint-every=1")
    assert main(words(data, tmp_path / "whole", *losses, "--epochs=3")) == 0
    save = Checkpointer.save

    def save_and_die(self, iteration, tree, metadata):
        save(self, iteration, tree, metadata)
        if iteration == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_and_die)
        assert main(words(data, tmp_path / "cut", *losses, "--epochs=3")) == 130
    assert not (tmp_path / "cut" / "srl_model.json").exists()
    assert main([f"--resume={tmp_path / 'cut'}", "--no-vis"]) == 0
    for name in ("params.npz", "loss_history.npz", "states_rewards.npz"):
        with np.load(tmp_path / "whole" / name) as whole, np.load(tmp_path / "cut" / name) as cut:
            assert set(whole) == set(cut)
            for leaf in whole:
                np.testing.assert_array_equal(whole[leaf], cut[leaf])
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 3


def test_several_runs_give_several_models(data, tmp_path):
    more = ("--losses", "inverse", "forward", "--num-seeds=2", "--sweep", "forward:0.5,2", "--epochs=1")
    assert main(words(data, tmp_path / "m", *more)) == 0
    specs = [read_model(tmp_path / "m" / f"seed_{run}")[0] for run in range(4)]
    assert [spec.weights for spec in specs] == [(2.0, 0.5), (2.0, 0.5), (2.0, 2.0), (2.0, 2.0)]
    models = [load_encoder(tmp_path / "m" / f"seed_{run}").params["params"]["Linear_0"]["Dense_0"] for run in range(4)]
    assert len({float(model["kernel"][0, 0]) for model in models}) == 4


@pytest.mark.parametrize(("losses", "dim"), [("random", 2), ("pca", 3), ("supervised", 2)])
def test_baselines(data, tmp_path, losses, dim):
    more = ("--losses", losses, "--epochs=1", *(["--state-dim=3"] if losses == "pca" else []))
    assert main(words(data, tmp_path / "m", *more)) == 0
    encoder = load_encoder(tmp_path / "m")
    states = np.asarray(encoder.encode(encoder.params, load_dataset(data / "one").frames[:50]))
    assert states.shape == (50, dim) and np.isfinite(states).all() and states.std(axis=0).min() > 0


def test_the_first_view_is_what_a_triplet_model_needs(data, tmp_path):
    assert main(words(data, tmp_path / "m", "--losses", "triplet", "--multi-view", "--epochs=1", name="two")) == 0
    assert load_encoder(tmp_path / "m").spec.channels == 3
    assert main(words(data, tmp_path / "n", "--losses", "random", "--multi-view", name="two")) == 0
    assert load_encoder(tmp_path / "n").spec.channels == 6


def test_the_perceptual_loss_compares_what_a_denoising_autoencoder_sees(data, tmp_path):
    assert main(words(data, tmp_path / "d", "--losses", "dae", "--epochs=1")) == 0
    given = words(
        data, tmp_path / "m", "--losses", "vae", "perceptual", f"--path-to-dae={tmp_path / 'd'}", "--epochs=1"
    )
    assert main(["--model-type=mlp" if word == "--model-type=linear" else word for word in given]) == 0
    with np.load(tmp_path / "m" / "loss_history.npz") as history:
        assert set(history) == {"train_loss", "val_loss", "perceptual_loss", "kl_loss"}


REFUSED = [
    (("--losses", "inverse:1:3", "forward:1:3"), "one", "the dimensions add up to 6, --state-dim is 2"),
    (("--losses", "triplet"), "one", "--losses triplet needs --multi-view"),
    (("--losses", "inverse", "--multi-view"), "one", "--multi-view: dataset one has one view"),
    (("--losses", "reward"), "far", "--losses reward: dataset far has no transition with a reward"),
    (("--losses", "reward-prior"), "far", "--losses reward-prior: all rewards of dataset far are 0"),
    (("--losses", "priors"), "far", "--losses priors needs two transitions with the same action and"),
    (("--losses", "supervised", "--state-dim=5"), "one", "true states have 2 components, not 5"),
    (("--losses", "vae"), "one", "--model-type=linear has no decoder for vae: choose custom_cnn or mlp"),
    (("--losses", "inverse", "--batch-size=200"), "one", "less than two minibatches of 200"),
    (("--losses", "vae", "perceptual", "--model-type=mlp"), "one", "perceptual needs --path-to-dae"),
    (("--losses", "inverse", "--epoch=3"), "one", "unknown flag --epoch; did you mean --epochs?"),
    (("--sweep", "lerning_rate:1,2"), "one", "did you mean learning_rate?"),
    (("--losses", "inverse"), "none", "none"),
]


@pytest.mark.parametrize(("more", "name", "message"), REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(data, tmp_path, capsys, more, name, message):
    given = words(data, tmp_path / "m", *more, name=name)
    if "--model-type=mlp" in more:
        given.remove("--model-type=linear")
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_a_damaged_picture_ends_a_training_with_one_line(tmp_path, capsys):
    data = written(tmp_path / "jpeg", twin_dataset(), "original")
    picture = data / "record_000" / "frame000030.jpg"
    picture.write_bytes(picture.read_bytes()[:100])
    more = [f"--data-folder={data}", f"--log-folder={tmp_path / 'm'}", *FAST, "--losses", "autoencoder", "--epochs=1"]
    assert main(more) == 3
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: picture ") and "frame000030.jpg is missing or damaged" in said[-1]
    assert not any("Traceback" in line for line in said) and not (tmp_path / "m" / "srl_model.json").exists()


def test_a_training_with_a_plugin_is_continued_with_it(data, tmp_path, capsys):
    (tmp_path / "m").mkdir()
    saved = {"data_folder": str(data / "one"), "plugin": "my_losses", "losses": ["my_loss"]}
    (tmp_path / "m" / "args.json").write_text(json.dumps(saved))
    assert main([f"--resume={tmp_path / 'm'}"]) == 2
    assert "that training used --plugin=my_losses, give it again" in capsys.readouterr().err


def test_priors_do_without_pairs_where_they_validate(data, tmp_path):
    """A single reward: its transition trains or validates, never both."""
    one = replace(twin_dataset(), rewards=np.zeros(240, np.float32))
    one.rewards[100] = 1.0
    written(tmp_path / "rare", one)
    codes = [
        main(words(tmp_path, tmp_path / f"m{seed}", "--losses", "priors", "--epochs=1", f"--seed={seed}", name="rare"))
        for seed in range(1, 9)
    ]
    assert set(codes) <= {0, 2} and codes.count(0) > 4


def test_the_values_of_a_sweep_are_kept_to_the_last_digit(data, tmp_path):
    more = ("--losses", "inverse", "--sweep", "learning_rate:0.00012345678,0.0001234567")
    given = [word for word in words(data, tmp_path / "m", *more) if not word.startswith("--learning-rate")]
    args = parse_srl_args(given)
    assert saved_flags(args)["sweep"] == ["learning_rate:0.00012345678,0.0001234567"]


def test_a_folder_is_replaced_only_by_force(data, tmp_path, capsys):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "note").write_text("mine")
    assert main(words(data, tmp_path / "m", "--losses", "random")) == 2
    assert "add --force to replace it" in capsys.readouterr().err and (tmp_path / "m" / "note").exists()
    assert main(words(data, tmp_path / "m", "--losses", "random", "--force")) == 0
    assert not (tmp_path / "m" / "note").exists() and load_encoder(tmp_path / "m").spec.losses == ("random",)


def test_a_diverged_training_ends_with_one_line(data, tmp_path, capsys):
    more = [word for word in words(data, tmp_path / "m", "--losses", "forward") if "learning-rate" not in word]
    assert main([*more, "--learning-rate=1e30", "--epochs=5"]) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the loss is not a number after epoch ")
    assert not (tmp_path / "m" / "srl_model.json").exists()
