"""The score table: which algorithm is trained on which task, with which settings, and the published score there.

Published: the benchmark page of DLR-RM/rl-baselines3-zoo, mean and standard deviation of one trained agent each, with
the page's decimals. The settings are its tuned ones where those are known. The mobile robot's scores are targets of the
project's own: a greedy scripted controller earns 237 there.
"""

from __future__ import annotations

from typing import NamedTuple

ZOO = "rl-baselines3-zoo"
OWN = "this project's target"


class Published(NamedTuple):
    """A score to compare with: mean and standard deviation of the episodes' returns."""

    mean: float
    std: float
    source: str

    def __str__(self) -> str:
        digits = 0 if self.std == 0 else 1 if self.std >= 0.1 else 2
        return f"{self.mean:.{digits}f} ± {self.std:.{digits}f}"


class Entry(NamedTuple):
    """One line of the table: what is trained, for how long, with which flags, and the score to meet.

    Attributes:
        algo: Learner.
        task: Environment id, with "(continuous)" or "(discrete)" where it has both.
        steps: Environment steps of one run, those of the published score.
        published: What others reached.
        flags: Flags of `launch/train.py` besides algorithm, steps and seeds.
    """

    algo: str
    task: str
    steps: int
    published: Published
    flags: str

    @property
    def key(self) -> str:
        """Name of the line, "task/algo"."""
        return f"{self.task}/{self.algo}"


def _zoo(mean: float, std: float) -> Published:
    return Published(mean, std, ZOO)


def _task(task: str, flags: str, lines: dict[str, tuple[int, Published, str]]) -> list[Entry]:
    """Lines of one task: algorithm -> (steps, published, flags)."""
    return [
        Entry(algo, task, steps, published, f"{flags} {more}".strip())
        for algo, (steps, published, more) in lines.items()
    ]


_CARTPOLE = _task(
    "CartPole-v1",
    "--env=CartPole-v1 --simulator=jax",
    {
        "a2c": (
            500_000,
            _zoo(500, 0),
            "--num-cpu=8 --n-steps=16 --learning-rate=1e-3 --ent-coef=0 --lr-schedule=linear",
        ),
        "trpo": (
            100_000,
            _zoo(500, 0),
            "--num-cpu=2 --timesteps-per-batch=512 --vf-batchsize=64 --cg-iters=15 --cg-damping=0.1 --vf-iters=20 "
            "--vf-stepsize=1e-3 --entcoeff=0",
        ),
        "ppo2": (
            100_000,
            _zoo(500, 0),
            "--num-cpu=8 --n-steps=32 --nminibatches=1 --noptepochs=20 --learning-rate=1e-3 --gamma=0.98 --lam=0.8 "
            "--ent-coef=0",
        ),
        "deepq": (
            50_000,
            _zoo(500, 0),
            "--buffer-size=50000 --learning-rate=1e-3 --lr-schedule=linear --batch-size=64 --train-freq=256 "
            "--gradient-steps=128 "
            "--exploration-fraction=0.16 --exploration-final-eps=0.04 --net-arch=256,256 "
            "--target-network-update-freq=10 --learning-starts=1000 --noprioritized --nodueling --nodouble",
        ),
        "ars": (
            50_000,
            _zoo(500, 0),
            "--num-population=2 --top-population=2 --step-size=0.02 --exploration-noise=0.05 --deterministic",
        ),
    },
)
_DQN_256 = (
    "--learning-rate=6.3e-4 --batch-size=128 --buffer-size=50000 --learning-starts=0 --train-freq=4 "
    "--gradient-steps=4 --target-network-update-freq=250 --exploration-fraction=0.12 --exploration-final-eps=0.1 "
    "--net-arch=256,256 --noprioritized --nodueling --nonormalize"
)
_ACROBOT = _task(
    "Acrobot-v1",
    "--env=Acrobot-v1",
    {
        "a2c": (
            500_000,
            _zoo(-83.353, 17.213),
            "--simulator=jax --num-cpu=16 --n-steps=16 --lam=0.95 --learning-rate=2e-3 --lr-schedule=linear "
            "--ent-coef=0 --normalize-reward",
        ),
        "trpo": (
            100_000,
            _zoo(-83.114, 18.648),
            "--num-cpu=2 --timesteps-per-batch=1024 --vf-batchsize=64 --cg-iters=15 --cg-damping=0.1 --vf-iters=20 "
            "--vf-stepsize=1e-3 --entcoeff=0",
        ),
        "ppo2": (
            1_000_000,
            _zoo(-73.506, 18.201),
            "--simulator=jax --num-cpu=16 --n-steps=256 --nminibatches=16 --noptepochs=10 --gamma=0.999 --lam=0.98 "
            "--ent-coef=0 --learning-rate=1e-3 --normalize-reward --noclip-value",
        ),
        "deepq": (100_000, _zoo(-76.639, 11.752), _DQN_256),
        "ars": (
            500_000,
            _zoo(-82.884, 23.825),
            "--simulator=jax --policy=mlp --net-arch=16 --num-population=8 --top-population=4 --step-size=0.05 "
            "--exploration-noise=0.2",
        ),
    },
)
_PENDULUM = _task(
    "Pendulum-v1",
    "--env=Pendulum-v1 --simulator=jax --continuous",
    {
        "a2c": (
            1_000_000,
            _zoo(-162.965, 103.21),
            "--num-cpu=8 --n-steps=8 --learning-rate=2e-3 --lr-schedule=linear --gamma=0.9 --lam=0.9 --vf-coef=0.4 "
            # PyTorch adds its 1e-5 to the root, not under it.
            "--ent-coef=0 --log-std-init=-2 --use-sde --noortho-init --activation=relu --normalize-reward "
            "--epsilon=1e-10",
        ),
        "trpo": (
            100_000,
            _zoo(-174.631, 127.577),
            "--num-cpu=4 --timesteps-per-batch=200 --vf-batchsize=25 --cg-iters=25 --cg-damping=0.1 --fisher-stride=1 "
            "--vf-iters=20 --vf-stepsize=2e-3 --gamma=0.95 --lam=0.85 --entcoeff=0 --activation=relu "
            "--normalize-reward",
        ),
        "ppo2": (
            100_000,
            _zoo(-172.225, 104.159),
            "--num-cpu=8 --n-steps=128 --nminibatches=16 --noptepochs=20 --activation=relu --noclip-value "
            "--learning-rate=5e-4 --gamma=0.95 --ent-coef=0",
        ),
        "ddpg": (
            20_000,
            _zoo(-152.099, 94.282),
            "--nb-rollout-steps=10 --nb-train-steps=10 --actor-lr=1e-3 --tau=0.005 --gamma=0.98 --critic-l2-reg=0 "
            "--noise-action=normal --noise-action-sigma=0.1 --batch-size=256 --learning-starts=1000 --twin-critics "
            "--policy-delay=2 --target-noise=0.2",
        ),
        "sac": (20_000, _zoo(-156.995, 88.714), "--learning-rate=1e-3 --batch-size=256"),
        "ars": (
            2_000_000,
            _zoo(-212.54, 160.444),
            "--policy=mlp --num-population=32 --top-population=32 --step-size=0.2 --exploration-noise=0.2",
        ),
    },
)
_MOUNTAIN_CAR = _task(
    "MountainCarContinuous-v0",
    "--env=MountainCarContinuous-v0 --simulator=jax --continuous",
    {
        "a2c": (
            100_000,
            _zoo(91.166, 0.255),
            "--num-cpu=1 --n-steps=100 --learning-rate=3e-4 --gamma=0.999 --vf-coef=0.25 --ent-coef=0 --use-sde "
            "--sde-sample-freq=64 --log-std-init=1 --noortho-init --normalize-reward --epsilon=1e-10",
        ),
        "trpo": (
            50_000,
            _zoo(92.489, 0.355),
            "--num-cpu=2 --timesteps-per-batch=1024 --vf-batchsize=64 --fisher-stride=1 --cg-iters=15 --cg-damping=0.1 "
            "--vf-iters=10 --vf-stepsize=1e-3 --entcoeff=0 --use-sde --sde-sample-freq=16 --normalize-reward",
        ),
        "ppo2": (
            20_000,
            _zoo(88.343, 2.572),
            "--num-cpu=1 --n-steps=1000 --nminibatches=10 --noptepochs=10 --gamma=0.999 --lam=0.9 --learning-rate=1e-3 "
            "--lr-schedule=constant --ent-coef=0 --cliprange=0.2 --noclip-value --max-grad-norm=0.5 --use-sde "
            "--sde-sample-freq=64 --log-std-init=1 --noortho-init --normalize-reward",
        ),
        "ddpg": (
            300_000,
            _zoo(93.512, 0.048),
            "--noise-action=ou --noise-action-sigma=0.5 --actor-lr=1e-3 --critic-lr=1e-3 --tau=0.005 --critic-l2-reg=0 "
            "--memory-limit=200000 --learning-starts=1000 --nb-rollout-steps=16 --nb-train-steps=16 --batch-size=100 "
            "--nonormalize --gamma=0.993 --lr-schedule=linear",
        ),
        "sac": (
            50_000,
            _zoo(94.679, 1.134),
            "--buffer-size=50000 --batch-size=512 --noauto-ent-coef --ent-coef=0.1 --train-freq=32 --gradient-steps=32 "
            "--gamma=0.9999 --tau=0.01 --learning-starts=0 --use-sde --log-std-init=-3.67 --net-arch=64,64 "
            "--nonormalize",
        ),
        "ars": (
            500_000,
            _zoo(96.672, 0.784),
            "--num-population=4 --top-population=4 --step-size=0.02 --exploration-noise=0.1",
        ),
    },
)
_LUNAR_LANDER = _task(
    "LunarLander-v3",
    "--env=LunarLander-v3",
    {
        "a2c": (
            200_000,
            _zoo(155.751, 80.419),
            "--num-cpu=8 --n-steps=5 --gamma=0.995 --learning-rate=8.3e-4 --lr-schedule=linear --ent-coef=1e-5",
        ),
        "trpo": (
            200_000,
            _zoo(133.166, 112.173),
            "--num-cpu=2 --timesteps-per-batch=512 --vf-batchsize=64 --cg-iters=15 --cg-damping=0.1 --vf-iters=20 "
            "--vf-stepsize=1e-3 --entcoeff=0 --gamma=0.99",
        ),
        "ppo2": (
            1_000_000,
            _zoo(242.119, 31.823),
            "--num-cpu=16 --n-steps=1024 --nminibatches=256 --noptepochs=4 --gamma=0.999 --lam=0.98 --ent-coef=0.01 "
            "--learning-rate=3e-4 --lr-schedule=constant --noclip-value --vf-coef=1 --nonormalize",
        ),
        "deepq": (100_000, _zoo(154.382, 79.241), _DQN_256),
    },
)
_LUNAR_LANDER_CONTINUOUS = _task(
    "LunarLander-v3 (continuous)",
    "--env=LunarLanderContinuous-v3 --continuous",
    {
        "trpo": (
            200_000,
            _zoo(262.387, 21.428),
            "--num-cpu=2 --timesteps-per-batch=1024 --vf-batchsize=64 --fisher-stride=1 --cg-iters=15 --cg-damping=0.1 "
            "--vf-iters=20 --vf-stepsize=1e-3 --entcoeff=0 --normalize-reward --gamma=0.995 --lam=0.98",
        ),
        "ppo2": (
            1_000_000,
            _zoo(270.863, 32.072),
            "--num-cpu=16 --n-steps=1024 --nminibatches=256 --noptepochs=4 --gamma=0.999 --lam=0.98 --ent-coef=0.01 "
            "--learning-rate=3e-4 --lr-schedule=constant --noclip-value --vf-coef=1 --nonormalize",
        ),
        "a2c": (
            5_000_000,
            _zoo(84.225, 145.906),
            "--num-cpu=8 --n-steps=8 --lam=0.9 --learning-rate=7e-4 --lr-schedule=linear --vf-coef=0.4 --ent-coef=0 "
            "--use-sde --log-std-init=-2 --noortho-init --normalize-reward",
        ),
        "ddpg": (
            300_000,
            _zoo(230.217, 92.372),
            "--gamma=0.98 --memory-limit=200000 --learning-starts=10000 --noise-action=normal "
            "--noise-action-sigma=0.1 --actor-lr=1e-3 --critic-lr=1e-3 --tau=0.005 --critic-l2-reg=0 "
            "--net-arch=256,256 --batch-size=128 --nb-rollout-steps=8 --nb-train-steps=8 --nonormalize",
        ),
        "sac": (
            250_000,
            _zoo(260.39, 65.467),
            "--batch-size=128 --learning-rate=7.3e-4 --lr-schedule=linear --buffer-size=250000 --tau=0.01 "
            "--learning-starts=10000 --net-arch=256,256 --train-freq=8 --gradient-steps=8 --nonormalize",
        ),
        "ars": (
            2_000_000,
            _zoo(167.959, 147.071),
            "--policy=mlp --net-arch=16 --num-population=8 --top-population=4 --step-size=0.02 --exploration-noise=0.1",
        ),
    },
)
_REACHER = _task(
    "ReacherBulletEnv-v0",
    "--env=ReacherBulletEnv-v0 --continuous",
    {
        "a2c": (
            2_000_000,
            _zoo(14.968, 10.978),
            "--num-cpu=8 --n-steps=32 --lam=0.9 --learning-rate=2e-3 --lr-schedule=linear --vf-coef=0.4 --ent-coef=0 "
            "--noortho-init --activation=relu --use-sde --log-std-init=-2 --normalize-advantage --normalize-reward",
        ),
        "trpo": (
            300_000,
            _zoo(14.741, 11.559),
            "--num-cpu=2 --timesteps-per-batch=1024 --vf-batchsize=64 --fisher-stride=1 --cg-iters=25 --cg-damping=0.1 "
            "--vf-iters=20 --vf-stepsize=1e-3 --entcoeff=0 --normalize-reward --net-arch=256,256 --activation=relu "
            "--noortho-init --log-std-init=-1",
        ),
        "ppo2": (
            1_000_000,
            _zoo(17.091, 11.048),
            "--num-cpu=8 --n-steps=512 --nminibatches=64 --noptepochs=20 --lam=0.9 --cliprange=0.4 "
            "--clip-schedule=linear --noclip-value --learning-rate=3e-5 --lr-schedule=constant --ent-coef=0 "
            "--vf-coef=1 --net-arch=256,256 --activation=relu --noortho-init --use-sde --sde-sample-freq=4 "
            "--log-std-init=-2.7 --normalize-reward",
        ),
        "ddpg": (
            300_000,
            _zoo(15.582, 9.606),
            "--gamma=0.98 --memory-limit=200000 --learning-starts=10000 --noise-action=normal "
            "--noise-action-sigma=0.1 --actor-lr=7e-4 --critic-lr=7e-4 --tau=0.005 --critic-l2-reg=0 "
            "--net-arch=400,300 --batch-size=256 --nb-rollout-steps=8 --nb-train-steps=8 --nonormalize",
        ),
        "sac": (
            300_000,
            _zoo(18.062, 9.729),
            "--learning-rate=7.3e-4 --buffer-size=300000 --batch-size=128 --tau=0.02 --gamma=0.98 --train-freq=8 "
            "--gradient-steps=4 --learning-starts=10000 --log-std-init=-3 --net-arch=256,256 --nonormalize --use-sde",
        ),
    },
)
_HALF_CHEETAH = _task(
    "HalfCheetahBulletEnv-v0",
    "--env=HalfCheetahBulletEnv-v0 --continuous",
    {
        "a2c": (
            2_000_000,
            _zoo(2107.384, 36.008),
            "--num-cpu=4 --n-steps=8 --lam=0.9 --learning-rate=9.6e-4 --lr-schedule=linear --vf-coef=0.4 --ent-coef=0 "
            "--noortho-init --use-sde --log-std-init=-2 --normalize-reward",
        ),
        "trpo": (
            2_000_000,
            _zoo(2758.752, 327.032),
            "--num-cpu=2 --timesteps-per-batch=1024 --vf-batchsize=64 --fisher-stride=1 --cg-iters=25 --cg-damping=0.1 "
            "--vf-iters=20 --vf-stepsize=1e-3 --entcoeff=0 --normalize-reward",
        ),
        "ppo2": (
            2_000_000,
            _zoo(2924.721, 64.465),
            "--num-cpu=16 --n-steps=512 --nminibatches=64 --noptepochs=20 --lam=0.9 --cliprange=0.4 "
            "--clip-schedule=constant --noclip-value --learning-rate=3e-5 --lr-schedule=constant --ent-coef=0 "
            "--vf-coef=1 --net-arch=256,256 --activation=relu --noortho-init --use-sde --sde-sample-freq=4 "
            "--log-std-init=-2 --normalize-reward",
        ),
        "ddpg": (
            1_000_000,
            _zoo(2078.325, 208.379),
            "--gamma=0.98 --memory-limit=200000 --learning-starts=10000 --noise-action=normal "
            "--noise-action-sigma=0.1 --actor-lr=7e-4 --critic-lr=7e-4 --tau=0.005 --critic-l2-reg=0 "
            "--net-arch=400,300 --batch-size=256 --nb-rollout-steps=8 --nb-train-steps=8 --nonormalize",
        ),
        "sac": (
            1_000_000,
            _zoo(2792.17, 12.088),
            "--learning-rate=7.3e-4 --buffer-size=300000 --batch-size=256 --tau=0.02 --gamma=0.98 --train-freq=8 "
            "--gradient-steps=8 --learning-starts=10000 --log-std-init=-3 --net-arch=400,300 --nonormalize --use-sde",
        ),
    },
)
_ROBOT = Published(215, 0, OWN)
_ROBOT_ES = Published(150, 0, OWN)
_MOBILE_ROBOT = _task(
    "MobileRobotGymEnv-v0 (discrete)",
    "--env=MobileRobotGymEnv-v0 --simulator=jax --random-target",
    {
        "a2c": (1_000_000, _ROBOT, "--num-cpu=32"),
        "acer": (1_000_000, _ROBOT, "--num-cpu=8"),
        "acktr": (1_000_000, _ROBOT, "--num-cpu=32"),
        "deepq": (1_000_000, _ROBOT, "--num-cpu=8 --buffer-size=50000"),
        "ppo1": (1_000_000, _ROBOT, "--num-cpu=32 --optim-batchsize=32 --optim-stepsize=1e-3"),
        "ppo2": (1_000_000, _ROBOT, "--num-cpu=32 --learning-rate=2e-3"),
        "trpo": (
            1_000_000,
            _ROBOT,
            "--num-cpu=32 --vf-batchsize=32 --vf-iters=10 --vf-stepsize=1e-3 --cg-iters=10 --cg-damping=0.1",
        ),
    },
) + _task(
    "MobileRobotGymEnv-v0 (continuous)",
    "--env=MobileRobotGymEnv-v0 --simulator=jax --random-target --continuous",
    {
        "ddpg": (1_000_000, _ROBOT, "--num-cpu=8"),
        "sac": (1_000_000, _ROBOT, "--num-cpu=8"),
        "ppo2": (1_000_000, _ROBOT, "--num-cpu=32 --learning-rate=2e-3"),
        "ars": (5_000_000, _ROBOT_ES, "--num-population=16 --top-population=8"),
        "cma-es": (5_000_000, _ROBOT_ES, ""),
    },
)

TABLE: tuple[Entry, ...] = (
    *_CARTPOLE,
    *_ACROBOT,
    *_PENDULUM,
    *_MOUNTAIN_CAR,
    *_LUNAR_LANDER,
    *_LUNAR_LANDER_CONTINUOUS,
    *_REACHER,
    *_HALF_CHEETAH,
    *_MOBILE_ROBOT,
)
