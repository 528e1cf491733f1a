"""The generator of datasets: what it records in both simulators, who acts, how it continues, and what it refuses."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from envs.make import EnvOptions, device_env
from envs.registry import registered_env, resolve
from launch import dataset_generator, dataset_tools
from launch.runtime import recording
from launch.runtime.files import read_json
from representations.dataset import load_dataset
from tests.launch.play import untrained

ENV = "MobileRobotGymEnv-v0"
ARRAYS = ("frames", "actions", "rewards", "episode_starts", "ground_truth", "targets")


@pytest.fixture
def generate(tmp_path, capsys):
    """Record a small dataset; returns it, or where the command fails its exit code and message."""

    def run(name, *words, env=ENV):
        command = [f"--env={env}", f"--save-path={tmp_path}", f"--name={name}", *words]
        command += [] if any(word.startswith("--image-size") for word in words) else ["--image-size=16"]
        code = dataset_generator.main(command)
        return load_dataset(tmp_path / name) if code == 0 else (code, capsys.readouterr().err)

    return run


def same(a, b):
    for name in ARRAYS:
        np.testing.assert_array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)), err_msg=name)


def test_both_simulators_record_what_happened(generate):
    """Each row against a host environment that plays the same actions from the same situation."""
    for simulator in ("pybullet", "jax"):
        dataset = generate(simulator, "--num-episode=2", "-r", f"--simulator={simulator}")
        assert dataset.frames.shape == (502, 16, 16, 3) and dataset.targets.shape == (2, 2)
        assert dataset.config["num_actions"] == 4 and dataset.config["env_id"] == ENV and dataset.config["relative_pos"]
        assert set(np.unique(dataset.actions)) == {0, 1, 2, 3}
        env = resolve(registered_env[ENV][0])(srl_model="raw_pixels", image_size=16)
        for episode, start in enumerate(np.flatnonzero(dataset.episode_starts)):
            place = {"robot": dataset.ground_truth[start], "target": dataset.targets[episode]}
            picture, _ = env.reset(options=place)
            for row in range(start, start + 60):
                np.testing.assert_allclose(env.getGroundTruth(), dataset.ground_truth[row], atol=1e-5)
                error = np.abs(picture.astype(int) - dataset.frames[row]).mean()
                assert error < (0.01 if simulator == "pybullet" else 6)
                picture, reward, *_ = env.step(dataset.actions[row])
                assert reward == dataset.rewards[row]
        env.close()


@pytest.mark.parametrize("simulator", ["pybullet", "jax"])
def test_neither_workers_nor_interruptions_change_a_dataset(generate, simulator, monkeypatch):
    monkeypatch.setattr(recording, "LANES", 2)
    words = ("-r", f"--simulator={simulator}")
    whole = generate("whole", "--num-episode=3", "--num-cpu=2", *words)
    play = recording.DeviceRecorder.play if simulator == "jax" else recording.HostRecorder.play

    def killed(self, first, count):
        for number, episode in enumerate(play(self, first, count)):
            if number == 2:
                raise KeyboardInterrupt
            yield episode

    cls = recording.DeviceRecorder if simulator == "jax" else recording.HostRecorder
    with monkeypatch.context() as patch:
        patch.setattr(cls, "play", killed)
        code, said = generate("part", "--num-episode=3", *words)
    assert code == 130
    code, said = generate("part", "--num-episode=4", *words)
    assert code == 2 and "num_episode 3, not 4" in said
    episode = 251 * 16 * 16 * 3  # bytes of pictures: what is recorded already needs no more room
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=episode - 1))
        code, said = generate("part", "--num-episode=3", *words)
        assert code == 2 and "1 episodes may take" in said
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=episode))
        same(generate("part", "--num-episode=3", *words), whole)


def doomed(at):
    """A pool whose first worker is killed before the sends with these numbers."""

    class Doomed(recording.VectorPool):
        sends = 0

        def send(self, *words):
            self.sends += 1
            if at(self.sends):
                self._workers[0].process.kill()
                self._workers[0].process.wait()
            super().send(*words)

    return Doomed


def test_a_worker_that_dies_changes_nothing_in_a_dataset(generate, monkeypatch, caplog):
    monkeypatch.setattr(recording, "LANES", 2)
    words = ("-r", "--num-episode=2", "--num-cpu=2")
    whole = generate("whole", *words)
    # the second time before the first step of the round that is played again
    monkeypatch.setattr(recording, "VectorPool", doomed({60, 61}.__contains__))
    same(generate("disturbed", *words), whole)
    assert caplog.text.count("worker 0 died") == 2


def test_workers_that_die_in_every_try_end_the_recording(generate, monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "LANES", 1)
    monkeypatch.setattr(recording, "VectorPool", doomed(lambda number: number > 251 and number % 10 == 0))
    code, said = generate("a", "--num-episode=2")
    assert code == 3 and said.splitlines()[-1] == "error: episode 1: a worker died in each of 4 tries"
    assert read_json(tmp_path / "a" / "progress.json", "a")["episodes"] == 1


def test_a_policy_that_sees_no_pictures_is_recorded_by_two_cameras(generate, tmp_path):
    folder = untrained(tmp_path / "final", "random_agent", EnvOptions(ENV))
    dataset = generate("seen", "--num-episode=1", "--fpv", f"--run-policy={folder}")
    assert dataset.frames.shape == (251, 16, 16, 6) and np.ptp(dataset.frames[0, ..., 3:]) > 0


@pytest.mark.slow
def test_a_dataset_that_ppo2_plays_is_continued_with_the_same_policy(generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("-r", "--simulator=jax", "--run-ppo2", "--ppo2-timesteps=128", "--image-size=36", "--format=original")
    play = recording.DeviceRecorder.play

    def killed(self, first, count):
        yield next(play(self, first, count))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recording.DeviceRecorder, "play", killed)
        code, said = generate("a", "--num-episode=2", *words)
    assert code == 130 and said.endswith("interrupted; the same command continues it\n")
    code, said = generate("a", "--num-episode=2", *(word.replace("=128", "=64") for word in words))
    assert code == 2 and "was not begun with --ppo2-timesteps=64" in said
    dataset = generate("a", "--num-episode=2", *words)
    assert dataset.frames.shape == (502, 36, 36, 3) and len(list(tmp_path.glob("logs/*/*/ppo2/*"))) == 1
    assert read_json(tmp_path / "a" / "dataset.json", "a")["plan"]["policy"].startswith("logs/")


@pytest.mark.parametrize("simulator", ["pybullet", "jax"])
def test_a_share_of_the_steps_goes_toward_the_target(generate, simulator):
    words = ("--num-episode=1", "-r", f"--simulator={simulator}")
    straight = generate("straight", "--toward-target-timesteps-proportion=1", *words)
    assert straight.rewards.min() == 0 and straight.rewards[-1] == 1 and straight.rewards.sum() > 200
    half = generate("half", "--toward-target-timesteps-proportion=0.5", *words)
    np.testing.assert_array_equal(half.targets, straight.targets)
    assert 20 < half.rewards.sum() <= straight.rewards.sum()


@pytest.mark.parametrize("env", ["OmnirobotEnv-v0", pytest.param("KukaButtonGymEnv-v0", marks=pytest.mark.slow)])
def test_scripted_twins_reach_their_targets(env):
    """Without pictures: the controller of `envs.device.scripted` solves the task."""
    import jax

    from envs.device.scripted import controller_for

    for continuous in (False, True):
        twin = device_env(EnvOptions(env, simulator="jax", continuous=continuous, random_target=True))
        control = controller_for(twin)

        length = twin.spec.max_episode_steps

        def step(state, _, twin=twin, control=control):
            state, out = twin.step(state, control(state))
            return state, (out.reward, out.terminated)

        state = twin.reset(jax.random.key(0))[0]
        play = jax.jit(lambda state, step=step, length=length: jax.lax.scan(step, state, None, length))
        rewards, terminated = play(state)[1]
        ends = np.append(np.flatnonzero(terminated), len(rewards) - 1)[0]
        assert np.sum(rewards[: ends + 1]) >= (5 if env.startswith("Kuka") else 180)


def test_two_views_and_the_arm_are_recorded_as_the_original_has_them(generate, tmp_path):
    dataset = generate(
        "arm", "--num-episode=1", "--multi-view", "--format=original", "--max-distance=0.05", env="KukaButtonGymEnv-v0"
    )
    assert dataset.frames.shape[1:] == (16, 16, 6) and dataset.ground_truth.shape[1] == 3
    assert dataset.config["max_distance"] == 0.05
    assert (tmp_path / "arm" / "record_000" / "frame000000_2.jpg").is_file()
    with np.load(tmp_path / "arm" / "ground_truth.npz") as truth:
        assert truth["images_path"][0] == "arm/record_000/frame000000" and truth["target_positions"].shape == (1, 3)


def test_datasets_are_joined_and_made_relative(generate, tmp_path, capsys):
    a = generate("a", "--num-episode=1", "-r", "--simulator=jax", "-c")
    b = generate("b", "--num-episode=2", "-r", "--simulator=jax", "-c", "--seed=1", "--format=original")
    assert dataset_tools.main(["--merge", str(a.folder), str(b.folder), str(tmp_path / "both")]) == 0
    both = load_dataset(tmp_path / "both")
    for name in ARRAYS:
        parts = [np.asarray(getattr(part, name)) for part in (a, b)]
        np.testing.assert_array_equal(np.asarray(getattr(both, name)), np.concatenate(parts))
    assert both.actions.dtype == np.float32 and both.config["num_actions"] == 0
    assert dataset_tools.main(["--data-src", str(both.folder), "--data-dst", str(tmp_path / "relative")]) == 0
    relative = load_dataset(tmp_path / "relative")
    np.testing.assert_array_equal(relative.ground_truth, both.true_states())
    np.testing.assert_array_equal(relative.true_states(), both.true_states())
    other = generate("other", "--num-episode=1", "--simulator=jax", "-c", env="MobileRobot1DGymEnv-v0")
    assert dataset_tools.main(["--merge", str(a.folder), str(other.folder), str(tmp_path / "no")]) == 2
    assert "do not go together: env_id" in capsys.readouterr().err and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-episode=0"], "--num-episode"),
        (["--env=MobileRobot-v0"], "did you mean MobileRobot"),
        (["--env=CartPole-v1"], "unknown environment CartPole-v1"),
        (["--reward-dist", "--shape-reward"], "--reward-dist counts rewards"),
        (["--run-ppo2", "--toward-target-timesteps-proportion=0.5"], "both say who acts"),
        (["--simulator=jax", "--display"], "--display is for --simulator=pybullet"),
        (["--display"], "there is no display here: leave it out"),
        (["--multi-view"], "--multi-view has no meaning"),
        (["--max-distance=1"], "--max-distance has no meaning"),
        (["--name=a/b"], "--name=a/b is no name"),
        (["--run-policy=nowhere"], "nowhere"),
        (["--artifacts", "--no-record-data"], "--artifacts sends what is recorded"),
        (["--env=CarRacingGymEnv-v0", "--simulator=jax"], "has no JAX twin"),
        (["--env=CarRacingGymEnv-v0", "--toward-target-timesteps-proportion=1"], "has no scripted controller"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")  # no server answers there; PyBullet would end the process
    base = [f"--env={ENV}", f"--save-path={tmp_path}", "--image-size=16", "--num-episode=1"]
    base = [word for word in base if word.split("=")[0] not in [w.split("=")[0] for w in words]]
    assert dataset_generator.main([*base, *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_a_dataset_is_replaced_by_force_only(generate, tmp_path):
    first = generate("a", "--num-episode=1", "--simulator=jax")
    code, said = generate("a", "--num-episode=1", "--simulator=jax", "--seed=5")
    assert code == 2 and "exists already" in said
    assert not np.array_equal(
        generate("a", "--num-episode=1", "--simulator=jax", "--seed=5", "-f").actions, first.actions
    )
