"""Agents on learned representations: what they observe, in both simulators; training, resuming and playing them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from envs.host.vector import VectorPool
from envs.make import EnvOptions, device_env, host_factory, host_spec
from envs.render.seen_pool import observed
from launch import dataset_generator, enjoy, train
from launch.runtime.flags import parse_train_args
from launch.runtime.srl_models import encoding_of, kind_of
from representations.dataset import load_dataset
from representations.encoder import load_encoder
from representations.registry import learned
from tests.launch.play import MOBILE, SMALL, played, trained
from tests.learned import linear_model

SEEDS, GROUPS = [(3, 0), (3, 1), (3, 2)], [[0, 2], [1]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return linear_model(tmp_path_factory.mktemp("srl") / "random", MOBILE)


def options(model, **changes: Any) -> EnvOptions:
    return EnvOptions(
        MOBILE, srl_model="random", srl_model_path=str(model), image_size=16, random_target=True, **changes
    )


def test_the_twin_is_observed_through_the_encoder(model) -> None:
    """Against the encoder applied to the twin's pictures, stacked by hand."""
    chosen = options(model, simulator="jax", num_stack=2)
    encoder = load_encoder(model)
    learned, pictures = device_env(chosen, encoding_of(chosen)), device_env(chosen.seen())
    assert learned.spec.obs_shape == (10,) and learned.spec.obs_dtype == "float32"
    assert learned.spec.action == pictures.spec.action

    def play(env):
        def step(state, action):
            state, out = env.step(state, action)
            return state, (out.obs, out.reward)

        def run(key):
            state, obs = env.reset(key)
            return obs, jax.lax.scan(step, state, jax.random.randint(key, (20,), 0, 4))[1]

        return jax.jit(run)(jax.random.key(2))

    first, (states, rewards) = play(learned)
    begun, (frames, expected) = play(pictures)
    encoded = encoder.encode(encoder.params, np.concatenate([begun[None], frames]))
    before = np.concatenate([np.zeros((1, 5)), encoded[:-1]])
    stacked = np.concatenate([before, encoded], axis=1)
    np.testing.assert_allclose(np.concatenate([first[None], states]), stacked, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rewards, expected)


@pytest.mark.parametrize("renderer", ["tiny", "jax"])
def test_workers_are_observed_through_the_encoder(model, renderer) -> None:
    """Against the encoder applied to what a pool of pictures shows, through ends of episodes."""
    chosen = options(model, renderer=renderer)
    encoding, seen = encoding_of(chosen), chosen.seen()
    encode = jax.jit(encoding.encode)

    def pool(which):
        return VectorPool(host_factory(which), SEEDS, groups=GROUPS, num_workers=1)

    learned = observed(pool(chosen), chosen, encoding, True)
    pictures = observed(pool(seen), seen, None, True)
    try:
        assert learned.spec == host_spec(chosen, encoding)
        np.testing.assert_allclose(learned.reset(), encode(pictures.reset()), rtol=1e-4, atol=1e-4)
        rng, ends = np.random.default_rng(0), 0
        for _ in range(253):
            for group, members in enumerate(GROUPS):
                actions = rng.integers(0, 4, len(members))
                learned.send(group, actions)
                pictures.send(group, actions)
                got, expected = learned.receive(group), pictures.receive(group)
                np.testing.assert_allclose(got.obs, encode(expected.obs), rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(got.next_obs, encode(expected.next_obs), rtol=1e-4, atol=1e-4)
                np.testing.assert_array_equal(got.reward, expected.reward)
                ends += int(got.truncated.sum())
        assert ends == 3
    finally:
        learned.close()
        pictures.close()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--simulator=jax",), id="twin", marks=pytest.mark.slow),
        pytest.param(("--num-stack=2", "--renderer=jax"), id="pybullet"),
    ],
)
def test_a_run_on_a_learned_representation(model, flags, tmp_path, capsys) -> None:
    """It trains, resumes, plays in either simulator, and generates a dataset."""
    common = ("--env=" + MOBILE, "-r", "--srl-model=random", f"--srl-model-path={model}", "--num-cpu=2", "--n-steps=16")
    run = trained(tmp_path / "logs", *common, "--num-timesteps=64", *flags)
    assert run.parts[-3] == "random"
    assert train.main([f"--resume={run}", "--no-vis"]) == 0
    for simulator in ("pybullet", "jax"):
        returns, _, _ = played(capsys, f"--log-dir={run}", f"--simulator={simulator}", "--num-episodes=1")
        assert len(returns) == 1
    words = [f"--run-policy={run}", f"--save-path={tmp_path}", "--name=set", "--num-episode=1", *flags[:1]]
    words = [word for word in words if word != "--num-stack=2"]
    assert dataset_generator.main(words) == 0
    assert load_dataset(tmp_path / "set").frames.shape == (251, 16, 16, 3)


@pytest.mark.slow
def test_a_watched_play_sees_what_was_trained_on(model, tmp_path, headless) -> None:
    common = ("--env=" + MOBILE, "--simulator=jax", "--srl-model=random", f"--srl-model-path={model}", "--num-cpu=2")
    run = trained(tmp_path / "logs", *common, "--n-steps=16", "--num-timesteps=32")
    for simulator in ("pybullet", "jax"):
        words = [f"--log-dir={run}", f"--simulator={simulator}", "--plotting", "--num-episodes=1"]
        assert enjoy.main([*words, f"--output={tmp_path / simulator}"]) == 0
        assert (tmp_path / simulator / "states.png").is_file()


def parse(*words: str) -> Any:
    return parse_train_args([*SMALL, "--env=" + MOBILE, *words])


def test_names_are_looked_up(model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "models.yaml"
    table.write_text(f"{MOBILE}:\n  log_folder: {model.parent}/\n  vae: random\n")
    for name in ("random", "vae"):  # by default the folder of that name, else as the table says
        args = parse(f"--srl-model={name}", f"--srl-config-file={table}")
        assert args.srl_model_path == str(model.resolve()) and args.image_size == 16
    assert parse("--srl-model=random", "--latest", f"--srl-config-file={table}").srl_model_path == str(model.resolve())
    args = parse(f"--srl-model-path={model}")
    assert args.srl_model == "random" and EnvOptions.from_args(args).learned
    assert not EnvOptions.from_args(parse()).learned


def test_a_model_of_two_views_needs_the_second_camera_only_where_there_is_one(tmp_path) -> None:
    for env, second in ((MOBILE, False), ("KukaButtonGymEnv-v0", True)):
        model = linear_model(tmp_path / env, env, losses=("triplet",))
        args = parse_train_args([*SMALL, f"--env={env}", f"--srl-model-path={model}"])
        assert (args.srl_model, args.multi_view) == ("multi_view_srl", second)


def test_the_newest_of_a_kind_is_taken(tmp_path) -> None:
    import os

    kinds = {"old": ("autoencoder",), "new": ("autoencoder",), "other": ("vae",)}
    for age, (name, losses) in enumerate(kinds.items()):
        folder = linear_model(tmp_path / name, MOBILE, losses=losses)
        os.utime(folder / "srl_model.json", (age, age))
    table = tmp_path / "models.yaml"
    table.write_text(f"{MOBILE}:\n  log_folder: {tmp_path}\n")
    args = parse("--srl-model=autoencoder", "--latest", f"--srl-config-file={table}")
    assert args.srl_model_path == str(tmp_path / "new")


def test_kinds_of_models() -> None:
    def spec(losses, dimensions=()):
        return {"losses": losses, "dimensions": dimensions}

    assert kind_of(spec(["vae"])) == "vae" and kind_of(spec(["reward", "inverse"])) == "reward_inverse"
    assert kind_of(spec(["priors"])) == "robotic_priors" and learned(kind_of(spec(["autoencoder", "inverse"])))
    assert kind_of(spec(["autoencoder", "reward", "inverse"], [198, -1, 2])) == "srl_splits"
    assert kind_of(spec(["autoencoder", "reward", "inverse"], [0, 0, 0])) == "srl_combination"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--srl-model=vae"], "there is no model in logs/srl"),
        (["--srl-model=vae", "--latest"], "--latest: there is no model of the kind vae"),
        (["--latest"], "--srl-model=ground_truth is none"),
        (["--srl-model=random", "--srl-model-path=nowhere"], "there is no learned representation in nowhere"),
        (["--srl-model=ground_truth", "--srl-model-path=MODEL"], "ground_truth is not learned"),
        (["--srl-model-path=MODEL", "--image-size=64"], "takes pictures of 16 pixels: give --image-size=16"),
        (["--srl-model-path=MODEL", "--env=MobileRobot1DGymEnv-v0"], "pictures of MobileRobotGymEnv-v0, not of"),
        (["--srl-model-path=MODEL", "--env=CartPole-v1"], "CartPole-v1 has no pictures"),
        (["--srl-model-path=TWO"], "takes 2 views: add --multi-view, or --fpv"),
        (["--srl-model-path=MODEL", "--srl-config-file=nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--srl-model=vae", "--srl-config-file=BAD"], "has no log_folder for MobileRobotGymEnv-v0"),
        (["--srl-modl=vae"], "did you mean --srl-model?"),
        (["--srl-model=autoencodr"], "did you mean autoencoder?"),
    ],
)
def test_bad_input(model, words, said, tmp_path, capsys, monkeypatch) -> None:
    two = linear_model(tmp_path / "two", MOBILE, channels=6)
    (tmp_path / "bad.yaml").write_text("a: 1\n")
    places = {"MODEL": str(model), "TWO": str(two), "BAD": str(tmp_path / "bad.yaml")}
    for name, place in places.items():
        words = [word.replace(f"={name}", f"={place}") for word in words]
    monkeypatch.chdir(tmp_path)
    env = [] if any(word.startswith("--env") for word in words) else ["--env=" + MOBILE]
    assert train.main([*SMALL, *env, *words, "--log-dir=logs"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err
    assert not (tmp_path / "logs").exists()


def test_a_damaged_model_is_refused_before_anything_starts(model, tmp_path, capsys) -> None:
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(model, bad)
    (bad / "params.npz").write_bytes(b"nothing")
    words = [*SMALL, "--env=" + MOBILE, "--simulator=jax", f"--srl-model-path={bad}", f"--log-dir={tmp_path / 'logs'}"]
    assert train.main(words) == 2
    assert "params.npz is damaged" in capsys.readouterr().err and not (tmp_path / "logs").exists()


def test_options_of_a_learned_representation_fit_json(model) -> None:
    chosen = options(model)
    assert EnvOptions(**dataclasses.asdict(chosen)) == chosen and chosen.seen().srl_model == "raw_pixels"
