"""Options that an algorithm cannot carry out: refused with one line before anything is allocated or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import train

CARTPOLE, PENDULUM = "--env=CartPole-v1 --simulator=jax ", "--env=Pendulum-v1 --simulator=jax -c "
MOBILE = "--env=MobileRobotGymEnv-v0 --simulator=jax --srl-model=raw_pixels "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # Kinds of actions.
        (PENDULUM + "--algo=deepq", "deepq has no continuous actions"),
        (PENDULUM + "--algo=acer", "acer has no continuous actions"),
        (CARTPOLE + "--algo=sac", "sac has no discrete actions, CartPole-v1 has no others; these do: a2c"),
        (CARTPOLE + "--algo=ddpg", "ddpg has no discrete actions"),
        # Recurrent policies.
        (CARTPOLE + "--algo=ppo1 --policy=lstm", "--policy"),
        (CARTPOLE + "--algo=trpo --policy=lstm", "--policy"),
        (CARTPOLE + "--algo=deepq --policy=lstm", "--policy"),
        (CARTPOLE + "--algo=cma-es --policy=lstm", "not cma-es; choose one of them or --policy=auto"),
        # Batches above the replay memory, memories below a rollout.
        (
            CARTPOLE + "--algo=deepq --buffer-size=31",
            "--buffer-size=31 is too small for --batch-size of 32: at least 32",
        ),
        (CARTPOLE + "--algo=deepq --num-cpu=500", "--buffer-size=1000 is too small for a rollout of 2000"),
        (CARTPOLE + "--algo=deepq --n-step=2000", "--buffer-size=1000 is too small for --n-step of 2000"),
        (PENDULUM + "--algo=sac --buffer-size=63", "--buffer-size=63 is too small for --batch-size of 64"),
        (PENDULUM + "--algo=ddpg --memory-limit=1", "--memory-limit=1 is too small"),
        (CARTPOLE + "--algo=acer --buffer-size=19", "--buffer-size=19 holds no rollout of --n-steps=20"),
        (CARTPOLE + "--algo=ppo2 --n-steps=5 --nminibatches=3", "--nminibatches"),
        # Populations.
        (CARTPOLE + "--algo=cma-es --num-population=1", "--num-population=1: must be at least 2"),
        (CARTPOLE + "--algo=ars --num-population=0", "--num-population=0: must be at least 1"),
        (CARTPOLE + "--algo=ars --top-population=11", "--top-population=11 is larger than --num-population=10"),
        (CARTPOLE + "--algo=ars --sweep top_population:5,11", "--top-population"),
        # Pictures that are too small.
        (MOBILE + "--algo=ppo2 --image-size=35", "pictures of 35x35 pixels are too small"),
        (MOBILE + "--algo=deepq --image-size=8", "at least 36 pixels a side are needed"),
        # Pictures that host memory cannot hold.
        (MOBILE + "--algo=deepq --replay-memory=host", "--simulator=jax has them on the device: choose auto or device"),
        ("--env=CartPole-v1 --algo=deepq --replay-memory=host", "worker processes, CartPole-v1 shows states"),
        ("--env=MobileRobotGymEnv-v0 --srl-model=raw_pixels --algo=deepq --buffer-size=1e9", "1 run would need"),
        # What does not fit the memory.
        (CARTPOLE + "--algo=cma-es --covariance=full --net-arch=2000,2000", "use --covariance=diagonal"),
        (CARTPOLE + "--algo=deepq --buffer-size=1e10", "1 run would need"),
        (PENDULUM + "--algo=ddpg --memory-limit=1e11", "1 run would need"),
        (PENDULUM + "--algo=sac --buffer-size=1e10", "1 run would need"),
        # Numbers that are none.
        (CARTPOLE + "--algo=ppo2 --learning-rate=nan", "--learning-rate=nan"),
        (CARTPOLE + "--algo=ppo2 --sweep learning_rate:1e-3,inf", "inf"),
        (CARTPOLE + "--on-nan=ignore", "choose one of stop, skip"),
        (CARTPOLE + "--data-parallel --num-cpu=0", "--num-cpu=0"),
    ],
)
def test_impossible_options_are_one_line(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([*line.split(), "--no-vis", f"--log-dir={tmp_path / 'logs'}"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())
