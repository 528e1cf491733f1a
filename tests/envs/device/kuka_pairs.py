"""Episodes of the arm tasks that PyBullet and the JAX twin play from the same start with the same actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.device.kuka_button import ArmState, KukaButtonTwin
from envs.host.kuka_button import KukaButtonGymEnv

NO_NOISE = {"NOISE_STD": 0.0, "NOISE_STD_CONTINUOUS": 0.0, "NOISE_STD_JOINTS": 0.0}


class Played(NamedTuple):
    """Episodes, leaves [episodes, steps, ...]; after an end its last step is repeated.

    Attributes:
        position: Position of the left finger (m).
        obs: Observations.
        reward, terminated, truncated: As the step returned them.
    """

    position: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Start(NamedTuple):
    """How an episode of the host starts, as the twin needs it."""

    arm: ArmState
    buttons: np.ndarray
    speed: np.ndarray


def quiet(cls: type) -> type:
    """The class with steps that have no noise."""
    return type(cls.__name__, (cls,), NO_NOISE)


def goal_directed(env: Any, rng: np.random.Generator) -> Any:
    """An action towards the target: above the button, then down; one of ten is random.

    Where the arm may rise it does so first if the button is far: fingers that press are not dragged across.
    """
    if rng.random() < 0.1:
        return env.action_space.sample()
    offset = env.getTargetPos() - env.getGroundTruth()
    rises = not env.force_down and np.abs(offset[:2]).max() > 0.05 and offset[2] > 0.05
    if not env.is_discrete:
        return np.clip([offset[0] / 0.05, offset[1] / 0.05, 1.0 if rises else -1.0], -1, 1).astype(np.float32)
    if rises:
        return 5
    for axis in (0, 1):
        if abs(offset[axis]) > 0.02:
            return 2 * axis + int(offset[axis] > 0)
    return 4


def start_of(env: KukaButtonGymEnv) -> Start:
    """The start of the episode that the host has just been reset to."""
    now = env.situation()
    return Start(ArmState(*(now[name] for name in ArmState._fields)), now["buttons"], now["speed"])


def play_host(env: Any, episodes: int, policy: str, seed: int, most: int) -> tuple[Start, np.ndarray, Played]:
    """Play episodes of at most `most` steps in PyBullet: (starts, actions, what happened), leaves [episodes, ...]."""
    rng = np.random.default_rng(seed)
    env.action_space.seed(seed)
    starts, actions, columns = [], [], []
    for episode in range(episodes):
        env.reset(seed=1000 * seed + episode)
        starts.append(start_of(env))
        steps: list[tuple[Any, ...]] = []
        chosen = []
        while len(steps) < most and not (steps and (steps[-1][3] or steps[-1][4])):
            chosen.append(env.action_space.sample() if policy == "random" else goal_directed(env, rng))
            obs, reward, terminated, truncated, _ = env.step(chosen[-1])
            steps.append((env.getGroundTruth(), obs, reward, terminated, truncated))
        missing = most - len(steps)
        actions.append(np.stack(chosen + [chosen[-1]] * missing))
        columns.append([np.stack(column) for column in zip(*(steps + [steps[-1]] * missing), strict=True)])
    played = Played(*(np.stack(column) for column in zip(*columns, strict=True)))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *starts), np.stack(actions), played


def play_twin(twin: KukaButtonTwin, starts: Start, actions: np.ndarray) -> Played:
    """Play the same actions in the twin from the same starts; an episode that ended stands still."""

    def play(start: Start, actions: jax.Array) -> Played:
        state = twin.situation(start.arm, start.buttons, start.speed, jax.random.key(0))

        def body(carry: Any, action: jax.Array) -> tuple[Any, Any]:
            state, last, ended = carry
            new, step = twin.step(state, action)
            now = Played(new.arm.finger, step.obs, step.reward, step.terminated, step.truncated)
            state, now = jax.tree.map(lambda new, old: jnp.where(ended, old, new), (new, now), (state, last))
            return (state, now, ended | now.terminated | now.truncated), now

        no = jnp.zeros((), bool)
        first = Played(start.arm.finger, twin.observe(state), jnp.zeros(()), no, no)
        return jax.lax.scan(body, (state, first, no), actions)[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(starts, actions))
