"""Variants of the arm task in JAX: two buttons, a moving button, and one among objects, which are seen but not felt."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from envs import kuka_scene as scene
from envs.device.kuka_button import KukaButtonTwin, KukaState
from envs.device.kuka_contact import Touch
from envs.device.kuka_motion import DAMPED, Solver
from envs.render.kuka_picture import TWO_BUTTONS, WITH_OBJECTS, KukaScene

# Where objects of `KukaRandButtonGymEnv` came to rest in PyBullet: z (m) and quaternion. Ducks fall over.
_DUCK_RESTS = (
    (-0.199, 0.672, 0.221, 0.221, 0.672),
    (-0.199, 0.671, 0.222, 0.222, 0.671),
    (-0.199, 0.595, 0.383, 0.383, 0.595),
    (-0.199, 0.699, 0.106, 0.106, 0.699),
    (-0.199, 0.686, 0.170, 0.170, 0.686),
    (-0.199, -0.124, 0.696, 0.696, -0.124),
    (-0.183, 0.339, 0.080, 0.053, 0.936),
    (-0.183, 0.320, 0.110, 0.136, 0.931),
)
_OTHER_RESTS = ((-0.1835, 0.0, 0.0, 0.0, 1.0), (-0.17, 0.0, 0.0, 0.0, 1.0))  # brick, cube
_BALL_REST = (-0.165, 0.0, 0.0, 0.0, 1.0)
# How far (m) the pushed ball has rolled after how many simulation steps, measured where nothing was in its way.
_ROLL_STEPS = (10.0, 31.0, 61.0, 91.0, 121.0, 151.0, 201.0, 251.0, 301.0, 351.0, 400.0)
_ROLL_DISTANCES = (0.0, 0.054, 0.160, 0.254, 0.339, 0.415, 0.527, 0.623, 0.704, 0.770, 0.822)
_PUSH = 2**31 - 1  # stream of the direction of the push, beyond the numbers of steps


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
    FINGERS_FOLD: ClassVar[bool] = True

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
        pressed = [cap | body for cap, body in zip(touch.cap, touch.body, strict=True)]
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
    """Press the button of `KukaRandButtonGymEnv`, whose ball and other objects are seen but never touched.

    Objects lie where PyBullet's would, had they not met each other, in poses that they came to rest in there. The ball
    rolls straight on through whatever lies in its way.
    """

    ENV_ID: ClassVar[str] = "KukaRandButtonGymEnv-v0"
    SCENE: ClassVar[KukaScene] = WITH_OBJECTS

    def _objects(self, key: jax.Array, buttons: jax.Array) -> jax.Array | tuple[()]:
        if not self._shows_objects():
            return ()
        kind_key, place_key, rest_key = jax.random.split(key, 3)
        count, kinds = scene.N_OBJECT_DRAWS, len(scene.OBJECTS)
        draw = jax.random.uniform(place_key, (count, 2), jnp.float32, -1.0, 1.0)
        places = draw * jnp.array(scene.RANDOM_RANGE) + jnp.array(scene.BUTTON_POSITION)
        clear = (abs(places - buttons[0]) > scene.OBJECT_CLEARANCE).any(1)
        ducks = jnp.array(_DUCK_RESTS)[jax.random.randint(rest_key, (count,), 0, len(_DUCK_RESTS))]
        rests = jnp.stack([ducks, *(jnp.broadcast_to(jnp.array(rest), (count, 5)) for rest in _OTHER_RESTS)])
        poses = jnp.concatenate([jnp.broadcast_to(places, (kinds, count, 2)), rests], axis=-1)
        chosen = (jax.random.randint(kind_key, (count,), 0, kinds) == jnp.arange(kinds)[:, None]) & clear
        absent = jnp.array([*scene.ABSENT, 0.0, 0.0, 0.0, 1.0])
        lying = jnp.where(chosen[..., None], poses, absent).reshape(kinds * count, 7)
        return jnp.concatenate([jnp.array([[*scene.SPHERE_POSITION[:2], *_BALL_REST]]), lying])

    def _before_step(self, state: KukaState) -> KukaState:
        if not self._shows_objects():
            return state
        direction = abs(jax.random.normal(jax.random.fold_in(state.key, _PUSH), (2,)))
        direction /= jnp.linalg.norm(direction)
        steps = state.steps + jnp.array([0, self._action_repeat])
        before, after = jnp.interp(steps.astype(jnp.float32), jnp.array(_ROLL_STEPS), jnp.array(_ROLL_DISTANCES))
        objects = jnp.asarray(state.objects).at[0, :2].add((after - before) * direction)
        return state._replace(objects=objects)
