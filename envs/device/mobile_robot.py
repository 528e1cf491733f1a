"""MobileRobotGymEnv-v0 in JAX: the twin of `envs.host.mobile_robot`, state for state and picture for picture."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs import mobile_arena as arena
from envs.render.first_person import FirstPersonRenderer
from envs.render.mobile_scene import Renderer
from envs.render.top_down import TopDownRenderer
from envs.types import Box, Discrete, Spec, TimeStep

_UNREACHED = 1e30  # m^2


class MobileRobotState(NamedTuple):
    """State of an episode; build one directly to start from a chosen situation.

    Attributes:
        robot: float32 [2], x and y of the robot (m).
        target: float32 [2], x and y of the target (m).
        steps: int32 [], steps played.
    """

    robot: jax.Array
    target: jax.Array
    steps: jax.Array


class MobileRobotTwin:
    """Drive to a target in a walled arena: the actions, rewards and episodes of `MobileRobotGymEnv`.

    The options too, and their defaults, but for `render_mode`. Observations are float32 [2], or with
    `srl_model="raw_pixels"` uint8 [image_size, image_size, 3], with `fpv` 6 channels.

    Raises:
        ValueError: an unknown `srl_model`, an `action_repeat` other than 1, or an `image_size` below 1.
    """

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        random_target: bool = False,
        shape_reward: bool = False,
        action_repeat: int = 1,
        fpv: bool = False,
        image_size: int = 224,
    ) -> None:
        arena.check_options(srl_model, action_repeat, image_size)
        self._is_discrete = is_discrete
        self._random_target = random_target
        self._shape_reward = shape_reward
        self._renderers: tuple[Renderer, ...] = ()
        if srl_model == "raw_pixels":
            self._renderers = (TopDownRenderer(image_size),)
            if fpv:
                self._renderers += (FirstPersonRenderer(image_size),)
        self.spec = Spec(
            arena.ENV_ID,
            (image_size, image_size, 3 * len(self._renderers)) if self._renderers else (2,),
            "uint8" if self._renderers else "float32",
            Discrete(arena.N_DISCRETE_ACTIONS) if is_discrete else Box((-1.0, -1.0), (1.0, 1.0)),
            arena.MAX_STEPS + 1,
        )

    def reset(self, key: jax.Array) -> tuple[MobileRobotState, jax.Array]:
        """Start an episode from a typed key []: the robot at random, the target too with `random_target`."""
        robot_key, target_key = jax.random.split(key)
        robot = jax.random.uniform(robot_key, (2,), jnp.float32, arena.START_LOW, arena.START_HIGH)
        target = jnp.array(arena.TARGET_POSITION, jnp.float32)
        if self._random_target:
            low, high = arena.RANDOM_TARGET_LOW, arena.RANDOM_TARGET_HIGH
            target = jax.random.uniform(target_key, (2,), jnp.float32, low, high)
        state = MobileRobotState(robot, target, jnp.zeros((), jnp.int32))
        return state, self.observe(state)

    def step(self, state: MobileRobotState, action: jax.Array) -> tuple[MobileRobotState, TimeStep]:
        """Move once; `action` is int32 [] below 4, or float32 [2]."""
        goal = state.robot + self._move(action)
        low, high = jnp.array(arena.POSITION_LOW, jnp.float32), jnp.array(arena.POSITION_HIGH, jnp.float32)
        bumped = ~jnp.all((low <= goal) & (goal <= high))
        state = MobileRobotState(jnp.where(bumped, state.robot, goal), state.target, state.steps + 1)
        truncated = state.steps > arena.MAX_STEPS
        step = TimeStep(self.observe(state), self._reward(state, bumped), jnp.zeros((), bool), truncated)
        return state, step

    def observe(self, state: MobileRobotState) -> jax.Array:
        """The observation that `spec` declares."""
        if not self._renderers:
            return state.robot - state.target
        return jnp.concatenate([render(state.robot, state.target) for render in self._renderers], axis=-1)

    def _move(self, action: jax.Array) -> jax.Array:
        """Displacement [2] (m) that an action asks for."""
        if self._is_discrete:
            return jnp.array(arena.DISCRETE_MOVES, jnp.float32)[action]
        # Clipped after the product: a compiler cannot then fuse product and sum, which would round differently from
        # the reference environment.
        return jnp.clip(action * arena.STEP_LENGTH, -arena.STEP_LENGTH, arena.STEP_LENGTH)

    def _reward(self, state: MobileRobotState, bumped: jax.Array) -> jax.Array:
        """Reward of the step that led to `state`, float32 []."""
        dx, dy = state.robot - state.target
        # The bound is never reached: it keeps a compiler from fusing product and sum (see `_move`).
        squared = jnp.minimum(dx * dx, _UNREACHED) + jnp.minimum(dy * dy, _UNREACHED)
        if self._shape_reward:
            return -jnp.sqrt(squared)
        near = squared <= jnp.float32(arena.REWARD_DISTANCE) ** 2
        return jnp.where(bumped, jnp.float32(-1.0), near.astype(jnp.float32))
