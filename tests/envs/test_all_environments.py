"""Every simulated environment of the registry under Gymnasium's checker and the toolbox's, with each of its options."""

from __future__ import annotations

import pytest
from environments import CASES, SMALL_PICTURE, environment_class, option_cases
from gymnasium.utils.env_checker import check_env

from envs.checker import check_host_env
from envs.registry import simulated_envs


def test_cases_cover_all_ids_and_their_options() -> None:
    assert {env_id for env_id, _ in CASES} == set(simulated_envs()) and len(CASES) >= 40
    assert set(option_cases("KukaButtonGymEnv-v0")) == {
        "defaults",
        "srl_model=joints",
        "srl_model=joints_position",
        "srl_model=raw_pixels",
        "srl_model=scene_poses",
        "is_discrete",
        "action_joints",
        "random_target",
        "shape_reward",
        "multi_view",
        "force_down",
        "action_repeat",
        "all",
    }
    assert "action_repeat" not in option_cases("MobileRobotGymEnv-v0") and "fpv" in option_cases("MobileRobotGymEnv-v0")


def is_long(env_id: str, case: str) -> bool:
    """Whether a case is left to the slow tests: this scene is loaded anew in each reset, in a tenth of a second."""
    return env_id == "KukaRandButtonGymEnv-v0" and case not in ("defaults", "all")


@pytest.mark.parametrize(
    ("env_id", "case"), [pytest.param(*case, marks=pytest.mark.slow) if is_long(*case) else case for case in CASES]
)
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is -?infinity")
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_accepts_it(env_id: str, case: str) -> None:
    env = environment_class(env_id)(render_mode="rgb_array", **option_cases(env_id)[case])
    check_env(env)
    env.close()


@pytest.mark.parametrize("env_id", [env_id for env_id in simulated_envs() if env_id != "CarRacingGymEnv-v0"])
def test_it_keeps_the_toolboxs_contract(env_id: str) -> None:
    env = environment_class(env_id)(render_mode="rgb_array", image_size=SMALL_PICTURE)
    check_host_env(env)
    env.close()


@pytest.mark.slow
def test_the_long_race_keeps_the_toolboxs_contract() -> None:
    """Three episodes of up to 10,000 steps."""
    env = environment_class("CarRacingGymEnv-v0")()
    check_host_env(env)
    env.close()
