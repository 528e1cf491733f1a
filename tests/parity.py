"""Holding a twin to its host environment: the same spec, observations, rewards and flags for the same actions.

What a twin has besides `spec`, `reset` and `step`, so that this can be checked:

    def state_of(self, host: gymnasium.Env) -> State:
        "The state in which the host environment is now; `host` is as the caller made it, wrappers included."

and, if pictures or first observations are to be compared, `observe(state)`, the observation of a state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.host.gymnasium_env import adapt, spec_of


class Compared(NamedTuple):
    """What was compared, for a test to ask whether it was enough.

    Attributes:
        rewards: float64 [steps], the host environment's.
        episodes: Number of episodes played.
        terminated: Number of them that the task ended.
        obs_error: Largest difference of a component of a state observation, or of a picture's mean over its pixels.
        reward_error: Largest difference of a reward.
    """

    rewards: np.ndarray
    episodes: int
    terminated: int
    obs_error: float
    reward_error: float


def assert_twin(
    host: gymnasium.Env,
    twin: Any,
    steps: int,
    *,
    seed: int = 0,
    each_step: bool = False,
    situation: Callable[[np.random.Generator], dict[str, Any]] | None = None,
    action: Callable[[np.random.Generator], Any] | None = None,
    obs_tolerance: float = 1e-5,
    reward_tolerance: float = 1e-5,
    picture_tolerance: float = 3.0,
) -> Compared:
    """Play the same actions in both from the same states, episode after episode, and compare all that they return.

    Args:
        host: The host environment; it stays open.
        twin: Its twin, made with the same options; it has `state_of`.
        steps: Steps to play; the last episode is played to its end.
        seed: Seed of episodes, situations and actions.
        each_step: Whether the twin is put into the host's state before every step, not only when an episode begins;
            for what drifts apart by rounding, such as chaotic motion.
        situation: Draws the options of a reset; without it an episode starts where the host draws it.
        action: Draws an action; uniform within the host's action space without it.
        obs_tolerance: Largest difference allowed of a component of a state observation (its own unit), 0: none.
        reward_tolerance: Largest difference allowed of a reward.
        picture_tolerance: Largest mean difference allowed between two pictures (of 255).

    Raises:
        AssertionError: They differ; the message tells what, in which episode and step.
    """
    assert hasattr(twin, "state_of"), f"{type(twin).__name__} has no state_of(host): see tests/parity.py"
    spec = spec_of(adapt(host, 1, twin.spec.id), twin.spec.id)
    assert twin.spec == spec, f"the twin's spec is {twin.spec}, the host's {spec}"
    rng = np.random.default_rng(seed)
    host.action_space.seed(seed)
    draw = action or (lambda _: host.action_space.sample())
    play = _player(twin, each_step)
    observe = jax.jit(twin.observe) if hasattr(twin, "observe") else None
    tolerance = picture_tolerance if twin.spec.pixels else obs_tolerance
    rewards: list[np.ndarray] = []
    episodes = terminations = 0
    obs_error = reward_error = 0.0
    while sum(map(len, rewards)) < steps:
        options = situation(rng) if situation else None
        place = f"episode {episodes} (seed {seed + episodes}, options {options})"
        first, _ = host.reset(seed=seed + episodes, options=options)
        if observe:
            ours_first = np.asarray(observe(twin.state_of(host)))
            _largest(f"{place}, reset", "observation", _differences(ours_first[None], first[None]), tolerance)
        states, actions, theirs = _host_episode(host, twin, each_step, lambda: draw(rng))
        ours = play(states, actions)
        _assert_flags(place, ours, theirs)
        obs_error = max(obs_error, _largest(place, "observation", _differences(ours[0], theirs[0]), tolerance))
        difference = np.abs(np.asarray(ours[1], np.float64) - theirs[1])
        reward_error = max(reward_error, _largest(place, "reward", difference, reward_tolerance))
        rewards.append(theirs[1])
        terminations += int(theirs[2][-1])
        episodes += 1
    return Compared(np.concatenate(rewards), episodes, terminations, obs_error, reward_error)


def _host_episode(
    host: gymnasium.Env, twin: Any, each_step: bool, draw: Callable[[], Any]
) -> tuple[list[Any], list[Any], tuple[np.ndarray, ...]]:
    """An episode from the host's present state: that state in the twin (all of them, where `each_step`), the actions,
    and columns of what was returned.
    """
    states, actions, rows = [twin.state_of(host)], [], []
    ended = False
    while not ended:
        actions.append(draw())
        row = host.step(actions[-1])[:4]
        rows.append(row)
        ended = bool(row[2] or row[3])
        if each_step and not ended:
            states.append(twin.state_of(host))
    return states, actions, tuple(np.array(column) for column in zip(*rows, strict=True))


def _player(twin: Any, each_step: bool) -> Callable[[list[Any], list[Any]], tuple[np.ndarray, ...]]:
    """(states before each step, actions) -> observations, rewards and flags of the twin, [T, ...]."""
    length = twin.spec.max_episode_steps

    def scanned(state: Any, actions: Any) -> Any:
        return jax.lax.scan(twin.step, state, actions)[1]

    def single(states: Any, actions: Any) -> Any:
        return jax.vmap(twin.step)(states, actions)[1]

    program = jax.jit(single if each_step else scanned)

    def play(states: list[Any], actions: list[Any]) -> tuple[np.ndarray, ...]:
        played = len(actions)
        # Filled up to one length, so that all episodes share a program.
        missing = max(length or 0, played) - played
        column = jnp.asarray(np.array(actions + actions[-1:] * missing, twin.spec.action_dtype))
        start = states[0]
        if each_step:
            start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states, *states[-1:] * missing)
        step = program(start, column)
        return tuple(np.asarray(leaf)[:played] for leaf in (step.obs, step.reward, step.terminated, step.truncated))

    return play


def _differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Difference of each observation [T]: of the worst component of a state, of a picture's mean over its pixels."""
    assert ours.shape == theirs.shape, f"observations of shape {ours.shape[1:]}, the host's are {theirs.shape[1:]}"
    if ours.dtype == np.uint8:
        return np.array([np.abs(a.astype(int) - b).mean() for a, b in zip(ours, theirs)])
    return np.abs(ours.astype(np.float64) - theirs).reshape(len(ours), -1).max(axis=1)


def _largest(place: str, what: str, differences: np.ndarray, tolerance: float) -> float:
    """The largest difference; AssertionError where it is above the tolerance, or not a number."""
    worst = int(np.argmax(differences))
    first = int(np.argmax(~(differences <= tolerance)))
    message = f"{place}, step {first}: {what} differs by {differences[first]}, allowed are {tolerance}"
    assert differences[worst] <= tolerance, message
    return float(differences[worst])


def _assert_flags(place: str, ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> None:
    """Whether both flags are equal in every step."""
    for index, flag in ((2, "terminated"), (3, "truncated")):
        different = np.flatnonzero(ours[index] != theirs[index])
        assert not len(different), f"{place}, step {different[0]}: {flag} is {ours[index][different[0]]} in the twin"
