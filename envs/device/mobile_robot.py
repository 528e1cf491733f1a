"""The mobile robot in JAX: the twins of `envs.host.mobile_robot`, state for state and picture for picture."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from envs import mobile_arena as arena
from envs.device.moves import displacement, squared_norm
from envs.render.first_person import FirstPersonRenderer
from envs.render.mobile_scene import LINE_TARGET, ONE_DIMENSION, ONE_TARGET, TWO_TARGETS, Renderer, Scene
from envs.render.top_down import TopDownRenderer
from envs.types import Box, Discrete, Spec, TimeStep

State = Any  # MobileRobotState or TwoTargetState


class MobileRobotState(NamedTuple):
    """State of an episode; build one directly to start from a chosen situation.

    Attributes:
        robot: float32 [2], x and y of the robot (m); [1], x alone, where it moves along x only.
        target: float32 [2], x and y of the target (m); [1], x alone, in one dimension and for the strip of a line.
        steps: int32 [], steps played.
    """

    robot: jax.Array
    target: jax.Array
    steps: jax.Array


class TwoTargetState(NamedTuple):
    """State of an episode with two targets.

    Attributes:
        robot: float32 [2], x and y of the robot (m).
        target: float32 [2, 2], x and y of both targets (m).
        steps: int32 [], steps played.
        reached: bool [], whether the first target has been reached.
    """

    robot: jax.Array
    target: jax.Array
    steps: jax.Array
    reached: jax.Array


class MobileRobotTwin:
    """Drive to a target in a walled arena: the actions, rewards and episodes of `MobileRobotGymEnv`.

    The options too, and their defaults, but for `render_mode`. Observations are float32 [2], or with
    `srl_model="raw_pixels"` uint8 [image_size, image_size, 3], with `fpv` 6 channels, or with "scene_poses" float32
    [4], where robot and target are.

    Raises:
        ValueError: an unknown `srl_model`, an `action_repeat` other than 1, or an `image_size` below 1.
    """

    ENV_ID: ClassVar[str] = "MobileRobotGymEnv-v0"
    NUM_AXES: ClassVar[int] = 2  # along which the robot moves, x first
    REWARD_DISTANCE: ClassVar[float] = arena.REWARD_DISTANCE
    FIXED_TARGET: ClassVar[Any] = arena.TARGET_POSITION
    SCENE: ClassVar[Scene] = ONE_TARGET

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
            self._renderers = (TopDownRenderer(image_size, self.SCENE),)
            if fpv:
                self._renderers += (FirstPersonRenderer(image_size, self.SCENE),)
        self._tells_poses = srl_model == "scene_poses"
        axes = self.NUM_AXES
        size = 2 + 2 * len(self.SCENE.targets) if self._tells_poses else axes
        self.spec = Spec(
            self.ENV_ID,
            (image_size, image_size, 3 * len(self._renderers)) if self._renderers else (size,),
            "uint8" if self._renderers else "float32",
            Discrete(2 * axes) if is_discrete else Box((-1.0,) * axes, (1.0,) * axes),
            arena.MAX_STEPS + 1,
        )

    def reset(self, key: jax.Array) -> tuple[State, jax.Array]:
        """Start an episode from a typed key []: the robot at random, the target too with `random_target`."""
        robot_key, target_key = jax.random.split(key)
        robot = jax.random.uniform(robot_key, (self.NUM_AXES,), jnp.float32, arena.START_LOW, arena.START_HIGH)
        target = jnp.array(self.FIXED_TARGET, jnp.float32)
        if self._random_target:
            low, high = arena.RANDOM_TARGET_LOW, arena.RANDOM_TARGET_HIGH
            target = jax.random.uniform(target_key, target.shape, jnp.float32, low, high)
        state = self.situation(robot, target)
        return state, self.observe(state)

    def situation(self, robot: jax.Array, target: jax.Array) -> State:
        """The state at the start of an episode, robot and target being there."""
        return MobileRobotState(robot, target, jnp.zeros((), jnp.int32))

    def state_of(self, host: Any) -> State:
        """The state in which a PyBullet environment, the one that this is the twin of, is now."""
        env = host.unwrapped
        state = self.situation(**{name: jnp.asarray(position) for name, position in env.situation().items()})
        return state._replace(steps=jnp.int32(env.steps_played))

    def step(self, state: State, action: jax.Array) -> tuple[State, TimeStep]:
        """Move once; `action` is int32 [] below 4, or float32 [2] (below 2, or [1], where it moves along x only)."""
        moves = [move[: self.NUM_AXES] for move in arena.DISCRETE_MOVES[: 2 * self.NUM_AXES]]
        goal = state.robot + displacement(action, self._is_discrete, moves, arena.STEP_LENGTH)
        bounds = (arena.POSITION_LOW, arena.POSITION_HIGH)
        low, high = (jnp.array(bound[: self.NUM_AXES], jnp.float32) for bound in bounds)
        bumped = ~jnp.all((low <= goal) & (goal <= high))
        state = state._replace(robot=jnp.where(bumped, state.robot, goal), steps=state.steps + 1)
        near, distance = self._distance(state)
        reward = -distance if self._shape_reward else jnp.where(bumped, jnp.float32(-1.0), near.astype(jnp.float32))
        state = self._arrived(state, near)
        truncated = state.steps > arena.MAX_STEPS
        return state, TimeStep(self.observe(state), reward, jnp.zeros((), bool), truncated)

    def observe(self, state: State) -> jax.Array:
        """The observation that `spec` declares."""
        if self._renderers or self._tells_poses:
            robot, targets = self._on_floor(state)
            poses = jnp.concatenate([robot, targets.reshape(-1)])
            return poses if self._tells_poses else self.draw(poses)
        target = self.target(state)
        return jnp.concatenate([state.robot[: target.size] - target, state.robot[target.size :]])

    def draw(self, poses: jax.Array) -> jax.Array:
        """The picture of a scene as `scene_poses` of the host environment tells it, with `srl_model="raw_pixels"`."""
        robot, targets = poses[:2], poses[2:].reshape(-1, 2)
        return jnp.concatenate([render(robot, targets) for render in self._renderers], axis=-1)

    def _distance(self, state: State) -> tuple[jax.Array, jax.Array]:
        """Whether the target is within reach, bool [], and its distance (m), float32 []."""
        target = self.target(state)
        squared = squared_norm(state.robot[: target.size] - target)
        return squared <= jnp.float32(self.REWARD_DISTANCE) ** 2, jnp.sqrt(squared)

    def ground_truth(self, state: State) -> jax.Array:
        """Where the robot is (m), float32 [2], or [1] where it moves along x only."""
        return state.robot

    def target(self, state: State) -> jax.Array:
        """Where to drive (m), float32 [2], or [1] where only x counts."""
        return state.target

    def _arrived(self, state: State, near: jax.Array) -> State:
        """The state after a step that ended within reach of the target, or not."""
        return state

    def _on_floor(self, state: State) -> tuple[jax.Array, jax.Array]:
        """(x, y) of the robot, float32 [2], and of the bodies of the targets [n, 2] (m)."""
        return state.robot, state.target[None]


class MobileRobot2TargetTwin(MobileRobotTwin):
    """Drive to the yellow target, then to the red one: `MobileRobot2TargetGymEnv`."""

    ENV_ID: ClassVar[str] = "MobileRobot2TargetGymEnv-v0"
    FIXED_TARGET: ClassVar[Any] = (arena.TARGET_POSITION, arena.SECOND_TARGET_POSITION)
    SCENE: ClassVar[Scene] = TWO_TARGETS

    def situation(self, robot: jax.Array, target: jax.Array) -> TwoTargetState:
        """The state at the start of an episode, robot [2] and targets [2, 2] being there."""
        return TwoTargetState(robot, target, jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def state_of(self, host: Any) -> TwoTargetState:
        """As that of `MobileRobotTwin`."""
        return super().state_of(host)._replace(reached=jnp.asarray(host.unwrapped.reached_first))

    def target(self, state: TwoTargetState) -> jax.Array:
        """Where to drive (m), float32 [2]: to the second target once the first has been reached."""
        return jnp.where(state.reached, state.target[1], state.target[0])

    def _arrived(self, state: TwoTargetState, near: jax.Array) -> TwoTargetState:
        return state._replace(reached=state.reached | near)

    def _on_floor(self, state: TwoTargetState) -> tuple[jax.Array, jax.Array]:
        return state.robot, state.target


class MobileRobot1DTwin(MobileRobotTwin):
    """Drive along a line to a target on it: `MobileRobot1DGymEnv`."""

    ENV_ID: ClassVar[str] = "MobileRobot1DGymEnv-v0"
    NUM_AXES: ClassVar[int] = 1
    FIXED_TARGET: ClassVar[Any] = arena.TARGET_POSITION[:1]
    SCENE: ClassVar[Scene] = ONE_DIMENSION

    def _on_floor(self, state: MobileRobotState) -> tuple[jax.Array, jax.Array]:
        y = jnp.zeros(1)
        return jnp.concatenate([state.robot, y]), jnp.concatenate([state.target, y])[None]


class MobileRobotLineTargetTwin(MobileRobotTwin):
    """Drive to a line across the arena: `MobileRobotLineTargetGymEnv`."""

    ENV_ID: ClassVar[str] = "MobileRobotLineTargetGymEnv-v0"
    REWARD_DISTANCE: ClassVar[float] = arena.LINE_REWARD_DISTANCE
    FIXED_TARGET: ClassVar[Any] = (arena.LINE_POSITION,)
    SCENE: ClassVar[Scene] = LINE_TARGET

    def target(self, state: MobileRobotState) -> jax.Array:
        """x of the line (m), float32 [1]."""
        return state.target - jnp.float32(arena.LINE_OFFSET)

    def _on_floor(self, state: MobileRobotState) -> tuple[jax.Array, jax.Array]:
        return state.robot, jnp.append(state.target, arena.ARENA_SIZE / 2)[None]
