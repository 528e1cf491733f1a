"""The Omnirobot in JAX: the twin of `envs.host.omnirobot`, state for state and picture for picture."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from envs import omnirobot_arena as arena
from envs.device.moves import displacement, squared_norm
from envs.mobile_arena import check_options
from envs.render.omnirobot_device import OmniRobotDeviceRenderer
from envs.render.omnirobot_scene import ROBOT, TARGET, Patch
from envs.types import Box, Discrete, Spec, TimeStep

_MOTION, _PICTURE = 0, 1  # streams of an episode's noise


class OmniRobotState(NamedTuple):
    """State of an episode; build one directly to start from a chosen situation.

    Attributes:
        command: float32 [2], where the robot was told to be, x and y (m).
        robot: float32 [2], where it is (m): `command` and noise.
        robot_pose: float32 [2], heading (rad) and relative size of its marker.
        target: float32 [2], x and y of the target (m).
        target_pose: float32 [2], as `robot_pose`.
        steps: int32 [], steps played.
        key: Typed key [], fixes the noise of the whole episode; constant.
        marker: The target's marker as it is drawn in this episode, where pictures are observed; () has it drawn in
            each of them.
    """

    command: jax.Array
    robot: jax.Array
    robot_pose: jax.Array
    target: jax.Array
    target_pose: jax.Array
    steps: jax.Array
    key: jax.Array
    marker: Patch | tuple[()] = ()


class OmniRobotTwin:
    """Drive to a target on an open floor, seen from the ceiling: the actions, rewards and episodes of `OmniRobotEnv`.

    The options too, and their defaults, but for `render_mode`. Observations are float32 [2], or with
    `srl_model="raw_pixels"` uint8 [image_size, image_size, 3].

    Raises:
        ValueError: an unknown `srl_model`, an `action_repeat` other than 1, or an `image_size` below 1.
    """

    ENV_ID: ClassVar[str] = "OmnirobotEnv-v0"

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        random_target: bool = False,
        shape_reward: bool = False,
        action_repeat: int = 1,
        image_size: int = 224,
        noise: bool = True,
    ) -> None:
        check_options(srl_model, action_repeat, image_size, arena.SRL_MODELS)
        self._is_discrete = is_discrete
        self._random_target = random_target
        self._shape_reward = shape_reward
        self._noise = noise
        self._renderer = OmniRobotDeviceRenderer(image_size) if srl_model == "raw_pixels" else None
        self.spec = Spec(
            self.ENV_ID,
            (image_size, image_size, 3) if self._renderer else (2,),
            "uint8" if self._renderer else "float32",
            Discrete(len(arena.DISCRETE_MOVES)) if is_discrete else Box((-1.0, -1.0), (1.0, 1.0)),
            arena.MAX_STEPS + 1,
        )

    def reset(self, key: jax.Array) -> tuple[OmniRobotState, jax.Array]:
        """Start an episode from a typed key []: the robot at random, the target too with `random_target`."""
        place_key, target_key, yaw_key, size_key, key = jax.random.split(key, 5)
        command = jax.random.uniform(place_key, (2,), jnp.float32, -arena.START_BOUND, arena.START_BOUND)
        target, yaw = jnp.array(arena.TARGET_POSITION, jnp.float32), jnp.float32(arena.TARGET_YAW)
        if self._random_target:
            target = jax.random.uniform(target_key, (2,), jnp.float32, -arena.TARGET_BOUND, arena.TARGET_BOUND)
            yaw = jax.random.uniform(yaw_key, (), jnp.float32, -jnp.pi, jnp.pi)
        sizes = jnp.ones(2)
        if self._noise:
            sizes = 1.0 + arena.MARKER_SIZE_NOISE * jax.random.normal(size_key, (2,))
        state = self.situation(command, target, yaw, sizes, key)
        return state, self.observe(state)

    def situation(
        self, command: jax.Array, target: jax.Array, yaw: jax.Array, sizes: jax.Array, key: jax.Array
    ) -> OmniRobotState:
        """The state at the start of an episode.

        Args:
            command: float32 [2], where the robot is told to be (m).
            target: float32 [2], where the target is (m).
            yaw: float32 [], heading of the target's marker (rad).
            sizes: float32 [2], relative sizes of the robot's and the target's marker.
            key: Typed key [] of the episode's noise.
        """
        steps = jnp.zeros((), jnp.int32)
        robot, heading = self._arrive(command, key, steps)
        state = OmniRobotState(
            command, robot, jnp.stack([heading, sizes[0]]), target, jnp.stack([yaw, sizes[1]]), steps, key
        )
        return state._replace(marker=self._marker(state) if self._renderer else ())

    def state_of(self, host: Any) -> OmniRobotState:
        """The state in which a host environment, an `OmniRobotEnv`, is now; noise to come differs from the host's."""
        situation = jax.tree.map(jnp.asarray, host.unwrapped.situation())
        return OmniRobotState(**situation, key=jax.random.key(0))

    def step(self, state: OmniRobotState, action: jax.Array) -> tuple[OmniRobotState, TimeStep]:
        """Move once; `action` is int32 [] below 4, or float32 [2]."""
        move = displacement(action, self._is_discrete, arena.DISCRETE_MOVES, arena.STEP_LENGTH)
        free = jnp.abs(state.robot + move) < arena.POSITION_BOUND
        if self._is_discrete:
            free |= move == 0  # only the coordinate that changes counts
        bumped = ~jnp.all(free)
        command, steps = state.command + move, state.steps + 1
        robot, heading = self._arrive(command, state.key, steps)
        pose = state.robot_pose.at[0].set(heading)
        command, robot, pose = jax.tree.map(
            lambda old, new: jnp.where(bumped, old, new),
            (state.command, state.robot, state.robot_pose),
            (command, robot, pose),
        )
        state = state._replace(command=command, robot=robot, robot_pose=pose, steps=steps)
        squared = squared_norm(robot - state.target)
        near = squared < jnp.float32(arena.REWARD_DISTANCE) ** 2
        reward = jnp.where(near, jnp.float32(1.0), -bumped.astype(jnp.float32))
        if self._shape_reward:
            reward = -jnp.sqrt(squared)
        return state, TimeStep(self.observe(state), reward, jnp.zeros((), bool), steps > arena.MAX_STEPS)

    def observe(self, state: OmniRobotState) -> jax.Array:
        """The observation that `spec` declares."""
        if self._renderer is None:
            return state.robot - state.target
        robot_noise = colour = None
        if self._noise:
            robot_key, colour_key = jax.random.split(jax.random.fold_in(self._picture_keys(state)[1], state.steps))
            robot_noise = _pixel_noise(robot_key, ROBOT.rgb.shape)
            colour = jax.random.normal(colour_key, (3,))
        marker = state.marker if isinstance(state.marker, Patch) else self._marker(state)
        return self._renderer.picture(marker, state.robot, state.robot_pose, robot_noise, colour)

    def _marker(self, state: OmniRobotState) -> Patch:
        """The target's marker on the floor, the same throughout an episode."""
        assert self._renderer is not None
        noise = _pixel_noise(self._picture_keys(state)[0], TARGET.rgb.shape) if self._noise else None
        return self._renderer.target_patch(state.target, state.target_pose, noise)

    def _picture_keys(self, state: OmniRobotState) -> jax.Array:
        """Typed keys [2] of the noise on the target's marker and of that on what changes from step to step."""
        return jax.random.split(jax.random.fold_in(state.key, _PICTURE))

    def ground_truth(self, state: OmniRobotState) -> jax.Array:
        """Where the robot is (m), float32 [2]."""
        return state.robot

    def target(self, state: OmniRobotState) -> jax.Array:
        """Where the target is (m), float32 [2]."""
        return state.target

    def _arrive(self, command: jax.Array, key: jax.Array, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where the robot gets to, float32 [2] (m), and its heading [] (rad), when told to be somewhere."""
        if not self._noise:
            return command, jnp.float32(0.0)
        noise = jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, _MOTION), steps), (3,))
        return command + arena.POSITION_NOISE * noise[:2], arena.YAW_NOISE * noise[2]


def _pixel_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise of a marker's pixels: float32 of that shape, whole numbers of mean 0 and standard deviation 2.

    The number of ones among 16 random bits, less 8: a rounded normal but for its tails, at a tenth of the time.
    """
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)  # two pixels each; 16-bit words take far longer
    ones = jax.lax.population_count(jnp.concatenate([words & 0xFFFF, words >> 16]))
    return ones[:count].reshape(shape).astype(jnp.float32) - 8.0
