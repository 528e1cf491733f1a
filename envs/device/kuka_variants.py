"""Variants of the arm task in JAX: two buttons, a moving button, and one among objects, which are not modelled."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from envs import kuka_scene as scene
from envs.device.kuka_button import KukaButtonTwin, KukaState
from envs.device.kuka_contact import Touch
from envs.device.kuka_motion import DAMPED, Solver
from envs.render.kuka_picture import TWO_BUTTONS, WITH_OBJECTS, KukaScene
from envs.render.rasteriser import Poses


class Kuka2ButtonTwin(KukaButtonTwin):
    """Press the yellow button 5 times, then the green one: the actions, rewards and episodes of `Kuka2ButtonGymEnv`."""

    ENV_ID: ClassVar[str] = "Kuka2ButtonGymEnv-v0"
    MAX_STEPS: ClassVar[int] = scene.TWO_MAX_STEPS
    MAX_DISTANCE: ClassVar[float] = scene.TWO_MAX_DISTANCE
    FORCE_DOWN: ClassVar[bool] = scene.TWO_FORCE_DOWN
    N_STEPS_OUTSIDE: ClassVar[int] = scene.TWO_N_STEPS_OUTSIDE
    SOLVER: ClassVar[Solver] = DAMPED
    SCENE: ClassVar[KukaScene] = TWO_BUTTONS
    TARGET_Z: ClassVar[float] = scene.TWO_TARGET_Z
    PRESSES_ON: ClassVar[bool] = True

    def _pick_workspace(self) -> scene.Workspace:
        return scene.LARGE_WORKSPACE

    def _places(self, key: jax.Array) -> jax.Array:
        places = jnp.array(scene.TWO_BUTTON_POSITIONS, jnp.float32)
        if self._random_target:
            low = jnp.array((-1.0, 0.0), jnp.float32)
            draw = jax.random.uniform(key, (2, 2), jnp.float32, low, 1.0)
            away = jnp.array([(1.0, 1.0), (1.0, -1.0)], jnp.float32)  # the second one moves towards -y
            places += draw * away * jnp.array(scene.TWO_RANDOM_RANGE, jnp.float32)
        return places

    def _current_button(self, state: KukaState) -> jax.Array:
        return jnp.where(state.goal == 0, state.buttons[0], state.buttons[1])

    def _judge(self, state: KukaState, touch: Touch) -> tuple[KukaState, jax.Array, jax.Array]:
        last = state.goal == 1
        pressed = touch.cap | touch.body
        on_button = jnp.where(last, pressed[1], pressed[0])
        state, distance, failed = self._count(state, on_button, touch.table)
        done = ~last & (state.contacts >= scene.N_CONTACTS_BEFORE_TERMINATION)
        state = state._replace(goal=state.goal + done, contacts=jnp.where(done, 0, state.contacts))
        terminated = self._ends(state, touch.table)
        reward = jnp.where(failed, -1.0, (on_button & last).astype(jnp.float32))
        if self._shape_reward:
            reward = self._shaped(state, reward, terminated, on_button, touch.table, distance)
        return state, reward, terminated

    def _shaped(
        self, state: KukaState, reward: Any, terminated: Any, on_button: Any, on_table: Any, distance: Any
    ) -> Any:
        """The shaped reward of a step whose sparse reward and ending are known."""
        outside = distance > self.max_distance
        shaped = jnp.where(outside, scene.TWO_SHAPED_OUTSIDE, -distance)
        shaped = jnp.where(on_table, scene.SHAPED_FAILURE, shaped)
        again = on_button & (state.contacts < scene.N_CONTACTS_BEFORE_TERMINATION)
        shaped = jnp.where(again, scene.TWO_SHAPED_CONTACT, shaped)
        return jnp.where(terminated & (reward > 0), scene.SHAPED_SUCCESS, shaped)


class KukaMovingButtonTwin(KukaButtonTwin):
    """Press a button that moves along y: the actions, rewards and episodes of `KukaMovingButtonGymEnv`."""

    ENV_ID: ClassVar[str] = "KukaMovingButtonGymEnv-v0"
    MAX_STEPS: ClassVar[int] = scene.MOVING_MAX_STEPS
    BONUS_WHEN_DISCRETE: ClassVar[bool] = True
    BUTTON_STANDS: ClassVar[bool] = False

    def _speed(self, key: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key), scene.MOVING_SPEED, -scene.MOVING_SPEED).astype(jnp.float32)

    def _before_step(self, state: KukaState) -> KukaState:
        y = state.buttons[:, 1]
        back = -jnp.sign(y[0]) * abs(state.speed)
        speed = jnp.where(abs(y[0]) > scene.MOVING_LIMIT, back, state.speed)
        return state._replace(speed=speed, buttons=state.buttons.at[:, 1].set(y + speed))


class KukaRandButtonTwin(KukaButtonTwin):
    """Press the button of `KukaRandButtonGymEnv`, whose ball and other objects are not there.

    It draws PyBullet's scenes (`draw`), but has no pictures of its own.

    Raises:
        ValueError: An own picture was asked for, when it is traced.
    """

    ENV_ID: ClassVar[str] = "KukaRandButtonGymEnv-v0"
    SCENE: ClassVar[KukaScene] = WITH_OBJECTS

    def _poses(self, state: KukaState) -> Poses:
        raise ValueError(
            f"--simulator=jax does not know where the objects of {self.ENV_ID} lie: for --srl-model=raw_pixels use "
            "--simulator=pybullet --renderer=jax"
        )
