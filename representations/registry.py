"""The registry of state representations: NAME: (SRL_TYPE, [ENVIRONMENT]), the names of `--srl-model`.

Imports nothing heavy.
"""

from __future__ import annotations

from enum import Enum


class SRLType(Enum):
    """Where a state comes from."""

    SRL = 1  # a learned model
    ENVIRONMENT = 2  # the environment itself


_ARMS = ["KukaButtonGymEnv-v0", "KukaRandButtonGymEnv-v0", "Kuka2ButtonGymEnv-v0", "KukaMovingButtonGymEnv-v0"]

# The environments that a representation is limited to; None: any. The name of a learned one says where its model is
# looked for (config/srl_models.yaml); what it was trained with, the model itself knows.
registered_srl: dict[str, tuple[SRLType, list[str] | None]] = {
    "raw_pixels": (SRLType.ENVIRONMENT, None),
    "ground_truth": (SRLType.ENVIRONMENT, None),
    "joints": (SRLType.ENVIRONMENT, _ARMS),
    "joints_position": (SRLType.ENVIRONMENT, _ARMS),
    "robotic_priors": (SRLType.SRL, None),
    "inverse": (SRLType.SRL, None),
    "forward": (SRLType.SRL, None),
    "multi_view_srl": (SRLType.SRL, None),
    "srl_combination": (SRLType.SRL, None),
    "supervised": (SRLType.SRL, None),
    "autoencoder": (SRLType.SRL, None),
    "autoencoder_inverse": (SRLType.SRL, None),
    "autoencoder_reward": (SRLType.SRL, None),
    "autoencoder_forward": (SRLType.SRL, None),
    "random": (SRLType.SRL, None),
    "random_inverse": (SRLType.SRL, None),
    "reward_inverse": (SRLType.SRL, None),
    "srl_splits": (SRLType.SRL, None),
    "srl_split_forward": (SRLType.SRL, None),
    "srl_3_splits": (SRLType.SRL, None),
    "reward": (SRLType.SRL, None),
    "vae": (SRLType.SRL, None),
    "dae": (SRLType.SRL, None),
    "pca": (SRLType.SRL, None),
}


def learned(name: str) -> bool:
    """Whether a name stands for a learned representation."""
    return name in registered_srl and registered_srl[name][0] is SRLType.SRL


def check_environment(name: str, env_id: str) -> None:
    """Refuse a representation where it is limited to other environments.

    Raises:
        ValueError: It is.
    """
    limit = registered_srl[name][1]
    if limit is not None and env_id not in limit:
        raise ValueError(f"--srl-model={name} is for {', '.join(limit)}, not for {env_id}")
