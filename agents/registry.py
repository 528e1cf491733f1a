"""The registry of algorithms: NAME: (CLASS, ALGO_TYPE, [ACTION_TYPE])."""

from __future__ import annotations

import importlib
from enum import Enum


class AlgoType(Enum):
    """Family of a learner."""

    REINFORCEMENT_LEARNING = 1
    EVOLUTION_STRATEGIES = 2
    OTHER = 3


class ActionType(Enum):
    """Kind of action that a learner supports."""

    DISCRETE = 1
    CONTINUOUS = 2


_BOTH = [ActionType.DISCRETE, ActionType.CONTINUOUS]

# CLASS is a class, or "module:Class" where importing it early would slow the command line down.
registered_rl: dict[str, tuple[type | str, AlgoType, list[ActionType]]] = {
    "a2c": ("agents.a2c:A2C", AlgoType.REINFORCEMENT_LEARNING, _BOTH),
    "acer": ("agents.acer:ACER", AlgoType.REINFORCEMENT_LEARNING, [ActionType.DISCRETE]),
    "acktr": ("agents.acktr:ACKTR", AlgoType.REINFORCEMENT_LEARNING, _BOTH),
    "ars": ("agents.ars:ARS", AlgoType.EVOLUTION_STRATEGIES, _BOTH),
    "cma-es": ("agents.cma_es:CMAES", AlgoType.EVOLUTION_STRATEGIES, _BOTH),
    "ddpg": ("agents.ddpg:DDPG", AlgoType.REINFORCEMENT_LEARNING, [ActionType.CONTINUOUS]),
    "deepq": ("agents.deepq:DeepQ", AlgoType.REINFORCEMENT_LEARNING, [ActionType.DISCRETE]),
    "ppo1": ("agents.ppo1:PPO1", AlgoType.REINFORCEMENT_LEARNING, _BOTH),
    "ppo2": ("agents.ppo2:PPO2", AlgoType.REINFORCEMENT_LEARNING, _BOTH),
    "random_agent": ("agents.random_agent:RandomAgent", AlgoType.OTHER, _BOTH),
    "sac": ("agents.sac:SAC", AlgoType.REINFORCEMENT_LEARNING, [ActionType.CONTINUOUS]),
    "trpo": ("agents.trpo:TRPO", AlgoType.REINFORCEMENT_LEARNING, _BOTH),
}


def algorithm_class(name: str) -> type:
    """Return the class registered under `name`, importing it if need be.

    Raises:
        KeyError: No such algorithm.
    """
    entry = registered_rl[name][0]
    if isinstance(entry, type):
        return entry
    module, _, cls = entry.partition(":")
    return getattr(importlib.import_module(module), cls)
