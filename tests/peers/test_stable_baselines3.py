"""Every simulated environment under stable-baselines3: its checker, short trainings, and one that must learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from environments import CASES, SMALL_PICTURE, kinds_of_action, option_cases

pytest.importorskip("stable_baselines3")
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor

import envs  # noqa: F401  registers the ids
from envs.registry import simulated_envs

pytestmark = pytest.mark.peers

MOBILE = "MobileRobotGymEnv-v0"


@pytest.fixture
def make() -> Iterator[Callable[..., gymnasium.Env]]:
    """Make environments by id, under Gymnasium's own wrappers, that are closed when the test ends."""
    opened: list[gymnasium.Env] = []

    def build(env_id: str, **options: Any) -> gymnasium.Env:
        opened.append(gymnasium.make(env_id, **options))
        return opened[-1]

    yield build
    for env in opened:
        env.close()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch in one thread: quicker for networks of this size, and it sums in the same order everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def play(env: gymnasium.Env, act: Callable[[np.ndarray], Any], episodes: int, seed: int) -> list[float]:
    """Return of each of several episodes, the first of which begins from the seed."""
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=None if episode else seed)
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


@pytest.mark.parametrize(("env_id", "case"), CASES)
@pytest.mark.filterwarnings("error")  # nothing that the checker warns about is excused
def test_checker_accepts_it(make, env_id: str, case: str) -> None:
    check_env(make(env_id, render_mode="rgb_array", **option_cases(env_id)[case]), warn=True, skip_render_check=False)


@pytest.mark.parametrize("env_id", simulated_envs())
def test_checker_warns_of_pictures_too_small_for_its_network(make, env_id: str) -> None:
    """Also shows that what the checker has to say reaches a test here."""
    with pytest.warns(UserWarning, match="minimal resolution for an image is 36x36"):
        check_env(make(env_id, image_size=SMALL_PICTURE - 1, srl_model="raw_pixels"), warn=True)


@pytest.mark.parametrize(
    ("env_id", "action"), [(env_id, action) for env_id in simulated_envs() for action in kinds_of_action(env_id)]
)
@pytest.mark.filterwarnings("error")
def test_ppo_trains(make, env_id: str, action: str) -> None:
    env = Monitor(make(env_id, **kinds_of_action(env_id)[action]))
    limit = env.unwrapped.max_episode_steps
    model = PPO("MlpPolicy", env, n_steps=256, device="cpu", seed=0)
    before = [weights.detach().clone() for weights in model.policy.parameters()]
    ended: list[tuple[int, bool]] = []

    def record(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
        """Note length and truncation of the episodes that end; never stops the training."""
        for info in local_variables["infos"]:
            if "episode" in info:
                ended.append((info["episode"]["l"], info["TimeLimit.truncated"]))
        return True

    model.learn(2_000, callback=record)

    assert model.num_timesteps == 2_048  # whole rollouts
    after = list(model.policy.parameters())
    assert all(bool(torch.isfinite(weights).all()) for weights in after)
    assert not any(torch.equal(old, new) for old, new in zip(before, after))
    lengths = env.get_episode_lengths()
    assert lengths == [length for length, _ in ended]
    # No episode is longer than the limit that the environment declares, so this many must have ended.
    assert len(lengths) >= model.num_timesteps // limit
    for length, truncated in ended:
        assert 0 < length <= limit
        # A task that ends in the very last step would be an exception; no seeded run here has one.
        assert truncated == (length == limit)


@pytest.mark.parametrize("seed", range(3))
def test_ppo_learns_to_reach_the_target(make, seed: int) -> None:
    """The default task: sparse reward, fixed target, at most 1 per step for 251 steps."""
    # Larger than the default 3e-4: the task is easy, and the test has seconds.
    model = PPO("MlpPolicy", make(MOBILE), n_steps=256, learning_rate=1e-3, device="cpu", seed=seed)
    model.learn(8_192)
    env = make(MOBILE)
    env.action_space.seed(seed)
    by_chance = play(env, lambda _: env.action_space.sample(), episodes=10, seed=seed)
    # Actions are drawn: the most probable one alone can push the robot against a wall for ever.
    learned = play(env, lambda observation: model.predict(observation)[0], episodes=10, seed=seed)
    print(f"seed {seed}: mean return {np.mean(learned):.0f}, random actions {np.mean(by_chance):.0f}")
    # Over ten seeds, means of 179 to 219 were measured, and of -8 to 6 for random actions.
    assert np.mean(learned) > np.mean(by_chance) + 100
