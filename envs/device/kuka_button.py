"""The arm tasks in JAX: twins of the PyBullet environments in `envs/host/kuka_button.py` and `kuka_variants.py`.

The arm is a kinematic chain whose motors never fail to hold it (`kuka_motion`), contacts are heights and distances
(`kuka_contact`), and the gripper does not move, but where fingers fold (`kuka_fingers`).
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from envs import kuka_scene as scene
from envs.device.kuka_arm import CENTRES_OF_MASS, Frame, arm_frames, gripper_frames, link_poses, transform
from envs.device.kuka_contact import BUTTON_Z, CAP_DOWN, CAP_UP, Touch, finger_points, nothing_touched, surface, touches
from envs.device.kuka_fingers import pressed
from envs.device.kuka_motion import PRECISE, Solver, drive, inverse_kinematics, lifted, linear_response
from envs.render.kuka_picture import ONE_BUTTON, KukaRenderer, KukaScene
from envs.render.rasteriser import Poses, poses_of
from envs.types import Box, Discrete, Spec, TimeStep

# Angles of the arm's joints (rad) once the scene has settled, measured in PyBullet; with joint actions the arm is held
# at the initial ones.
SETTLED_ANGLES = (0.0045859, 0.3386366, -0.0068436, -1.1197994, 0.0022873, 1.6831621, -0.0016031)
_REST = (0.0,) * (scene.NUM_JOINTS - scene.NUM_ARM_JOINTS)  # angles of the gripper's joints, where they do not fold


class ArmState(NamedTuple):
    """The arm.

    Attributes:
        angles: float32 [7], of its joints (rad).
        speeds: float32 [7], of its joints (rad/s).
        point: float32 [3], where it is commanded to (m).
        finger: float32 [3], the left finger's centre of mass (m), where the last simulation step began: PyBullet
            reports it before it moves the bodies.
        grip, grip_speeds: float32 [4], angles (rad) and speeds (rad/s) of the gripper's joints 8, 10, 11 and 13.
    """

    angles: jax.Array
    speeds: jax.Array
    point: jax.Array
    finger: jax.Array
    grip: jax.Array
    grip_speeds: jax.Array


class KukaState(NamedTuple):
    """State of an episode.

    Attributes:
        arm: The arm.
        buttons: float32 [buttons, 2], x and y of the buttons (m), in the order in which they are to be pressed.
        speed: float32 [], of the buttons along y (m per step).
        goal: int32 [], the button to press.
        contacts: int32 [], with that button so far.
        steps_outside: int32 [], steps in a row outside the safety sphere.
        steps: int32 [], simulation steps played.
        key: Typed key [] of the noise of this episode.
        objects: float32 [bodies, 7], position (m) and quaternion of each other object, where pictures show them; ().
    """

    arm: ArmState
    buttons: jax.Array
    speed: jax.Array
    goal: jax.Array
    contacts: jax.Array
    steps_outside: jax.Array
    steps: jax.Array
    key: jax.Array
    objects: jax.Array | tuple[()] = ()

    @property
    def joints(self) -> jax.Array:
        """Angles of all joints (rad), float32 [14], as `kuka_arm.link_poses` takes them."""
        return jnp.concatenate([self.arm.angles, jnp.stack(_gripper_angles(self.arm))])


class KukaButtonTwin:
    """Press a button with an arm: the actions, rewards and episodes of `KukaButtonGymEnv`.

    The options too, and their defaults, but for `render_mode`. Observations are float32 [3], [14] or [17], or with
    `srl_model="raw_pixels"` uint8 [image_size, image_size, 3], with `multi_view` 6 channels.

    Raises:
        ValueError: what `kuka_scene.check_options` refuses.
    """

    ENV_ID: ClassVar[str] = "KukaButtonGymEnv-v0"
    MAX_STEPS: ClassVar[int] = scene.MAX_STEPS
    MAX_DISTANCE: ClassVar[float] = scene.MAX_DISTANCE  # default of the option
    FORCE_DOWN: ClassVar[bool] = scene.FORCE_DOWN  # default of the option
    NOISE_STD: ClassVar[float] = scene.NOISE_STD
    NOISE_STD_CONTINUOUS: ClassVar[float] = scene.NOISE_STD_CONTINUOUS
    NOISE_STD_JOINTS: ClassVar[float] = scene.NOISE_STD_JOINTS
    N_STEPS_OUTSIDE: ClassVar[int] = scene.N_STEPS_OUTSIDE_SAFETY_SPHERE
    BONUS_WHEN_DISCRETE: ClassVar[bool] = False
    BUTTON_STANDS: ClassVar[bool] = True
    # Whether fingers fold when they are pressed on something. It matters where an episode goes on after 5 contacts.
    FINGERS_FOLD: ClassVar[bool] = False
    SOLVER: ClassVar[Solver] = PRECISE
    SCENE: ClassVar[KukaScene] = ONE_BUTTON
    # Height of the target point (m).
    TARGET_Z: ClassVar[float] = BUTTON_Z + CAP_DOWN + scene.BUTTON_DISTANCE_HEIGHT

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        action_joints: bool = False,
        random_target: bool = False,
        shape_reward: bool = False,
        action_repeat: int = 1,
        multi_view: bool = False,
        max_distance: float | None = None,
        force_down: bool | None = None,
        image_size: int = 224,
    ) -> None:
        max_distance = self.MAX_DISTANCE if max_distance is None else max_distance
        scene.check_options(srl_model, is_discrete, action_joints, action_repeat, max_distance, image_size)
        self._srl_model = srl_model
        cameras = range(1 + multi_view) if srl_model == "raw_pixels" else ()
        self._renderers = [KukaRenderer(image_size, self.SCENE, camera) for camera in cameras]
        self._is_discrete = is_discrete
        self._action_joints = action_joints
        self._random_target = random_target
        self._shape_reward = shape_reward
        self._action_repeat = action_repeat
        self.max_distance = max_distance
        self.force_down = self.FORCE_DOWN if force_down is None else force_down
        self._workspace = self._pick_workspace()
        size = scene.NUM_ARM_JOINTS if action_joints else 3
        state_size = {"ground_truth": 3, "joints": scene.NUM_JOINTS}.get(srl_model, 3 + scene.NUM_JOINTS)
        self.spec = Spec(
            self.ENV_ID,
            (image_size, image_size, 3 * len(self._renderers)) if self._renderers else (state_size,),
            "uint8" if self._renderers else "float32",
            Discrete(scene.N_DISCRETE_ACTIONS) if is_discrete else Box((-1.0,) * size, (1.0,) * size),
            self.MAX_STEPS // action_repeat + 1,
        )

    def reset(self, key: jax.Array) -> tuple[KukaState, jax.Array]:
        """Start an episode from a typed key []: the settled scene after 5 random commands of one simulation step."""
        place_key, speed_key, command_key, noise_key = jax.random.split(key, 4)
        start = scene.INITIAL_JOINTS[: scene.NUM_ARM_JOINTS] if self._action_joints else SETTLED_ANGLES
        arm = ArmState(
            jnp.array(start, jnp.float32),
            jnp.zeros(7),
            jnp.array(scene.INITIAL_POINT, jnp.float32),
            jnp.zeros(3),
            jnp.zeros(4),
            jnp.zeros(4),
        )
        arm = self._shake(arm, command_key)
        state = self.situation(arm, self._places(place_key), self._speed(speed_key), noise_key)
        state = state._replace(objects=self._objects(jax.random.fold_in(place_key, 1), state.buttons))
        return state, self.observe(state)

    def situation(self, arm: ArmState, buttons: jax.Array, speed: jax.Array, key: jax.Array) -> KukaState:
        """The state at the start of an episode, arm and buttons being there."""
        zero = jnp.zeros((), jnp.int32)
        return KukaState(arm, buttons, speed, zero, zero, zero, zero, key)

    def state_of(self, host: Any) -> KukaState:
        """The state in which a host environment, a `KukaButtonGymEnv`, is now; noise to come differs from the host's.

        The arm then follows the host's to the figures in docs/environments.md, not exactly.
        """
        now = jax.tree.map(jnp.asarray, host.unwrapped.situation())
        arm = ArmState(*(now.pop(name) for name in ArmState._fields))
        objects = now.pop("objects")
        return KukaState(arm=arm, **now, key=jax.random.key(0), objects=objects if self._shows_objects() else ())

    def step(self, state: KukaState, action: jax.Array) -> tuple[KukaState, TimeStep]:
        """Play one step; `action` is int32 [] below 6, or float32 [3] (effector point) or [7] (joints)."""
        command = self._command(action, jax.random.normal(jax.random.fold_in(state.key, state.steps)))
        state = self._before_step(state)

        def simulate(_: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            arm, touch, steps, over = carry
            new = self._advance(arm, command, state.buttons)
            arm, touch = jax.tree.map(lambda new, old: jnp.where(over, old, new), new, (arm, touch))
            # As on the host, one step beyond the limit is simulated where actions are repeated, but not counted.
            over |= steps > self.MAX_STEPS
            return arm, touch, steps + ~over, over

        start = state.arm, nothing_touched(len(state.buttons)), state.steps, jnp.zeros((), bool)
        arm, touch, steps, _ = jax.lax.fori_loop(0, self._action_repeat, simulate, start)
        state, reward, terminated = self._judge(state._replace(arm=arm, steps=steps), touch)
        truncated = ~terminated & (steps > self.MAX_STEPS)
        return state, TimeStep(self.observe(state), reward, terminated, truncated)

    def observe(self, state: KukaState) -> jax.Array:
        """The observation that `spec` declares."""
        if self._renderers:
            return self._picture(self._poses(state))
        position = state.arm.finger - self.target(state)
        parts = {"ground_truth": (position,), "joints": (state.joints,)}
        return jnp.concatenate(parts.get(self._srl_model, (position, state.joints)))

    def draw(self, poses: jax.Array) -> jax.Array:
        """The picture of a scene as `scene_poses` of the host environment tells it, with `srl_model="raw_pixels"`.

        Args:
            poses: float32 [7 * bodies], position (m) and quaternion of each body.
        """
        return self._picture(poses_of(poses.reshape(-1, 7)))

    def _picture(self, poses: Poses) -> jax.Array:
        """The pictures of all cameras, uint8 [image_size, image_size, channels]."""
        return jnp.concatenate([render(poses) for render in self._renderers], axis=-1)

    def _poses(self, state: KukaState) -> Poses:
        """Where all that moves in a picture is."""
        arm = link_poses(state.joints)
        # The cap is down until the first step drives it up.
        cap = BUTTON_Z + CAP_DOWN + jnp.where(state.steps > 0, CAP_UP, 0.0)
        places = [jnp.append(place, height) for place in state.buttons for height in (BUTTON_Z, cap)]
        upright = jnp.broadcast_to(jnp.eye(3), (len(places), 3, 3))
        parts = [Poses(arm.position, arm.rotation), Poses(jnp.stack(places), upright)]
        if self._shows_objects():
            parts.append(poses_of(jnp.asarray(state.objects)))
        return Poses(*(jnp.concatenate(leaves) for leaves in zip(*parts, strict=True)))

    def ground_truth(self, state: KukaState) -> jax.Array:
        """The finger's centre of mass (m), float32 [3]."""
        return state.arm.finger

    def target(self, state: KukaState) -> jax.Array:
        """The target point (m), float32 [3]."""
        return jnp.append(self._current_button(state), jnp.float32(self.TARGET_Z))

    def _pick_workspace(self) -> scene.Workspace:
        """Where the commanded point may be."""
        return scene.LARGE_WORKSPACE if self._random_target else scene.WORKSPACE

    def _places(self, key: jax.Array) -> jax.Array:
        """x and y of the buttons of a new episode (m), float32 [buttons, 2]."""
        place = jnp.array(scene.BUTTON_POSITION, jnp.float32)
        if self._random_target:
            place += jnp.array(scene.RANDOM_RANGE) * jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0)
        return place[None]

    def _speed(self, key: jax.Array) -> jax.Array:
        """Speed of the buttons of a new episode (m per step)."""
        return jnp.zeros(())

    def _shows_objects(self) -> bool:
        """Whether pictures of other objects are observed."""
        return self.SCENE.with_objects and bool(self._renderers)

    def _objects(self, key: jax.Array, buttons: jax.Array) -> jax.Array | tuple[()]:
        """Poses of the other objects of a new episode: none."""
        return ()

    def _current_button(self, state: KukaState) -> jax.Array:
        """x and y of the button to press (m)."""
        return state.buttons[0]

    def _before_step(self, state: KukaState) -> KukaState:
        """What happens in the scene before each step: nothing."""
        return state

    def _shake(self, arm: ArmState, key: jax.Array) -> ArmState:
        """The arm after the random commands of a reset.

        Inverse kinematics is linearised about the settled arm, where it is exact enough for 5 steps of at most 1.5 mrad
        each: batches start an episode somewhere in almost every step, so a reset has to be cheap.
        """
        count = scene.N_RANDOM_ACTIONS_AT_INIT
        if self._action_joints:
            commands = scene.INIT_STD_JOINTS * jax.random.normal(key, (count, scene.NUM_ARM_JOINTS))
            respond = jnp.zeros((scene.NUM_ARM_JOINTS, 3))
        else:
            commands = self._random_displacements(key, count)
            respond = linear_response(SETTLED_ANGLES, self.SOLVER)
        rest, home = arm.angles, arm.point
        for index in range(count):
            if self._action_joints:
                targets = arm.angles + commands[index]
            else:
                arm = arm._replace(point=self._displaced(arm.point, commands[index]))
                targets = rest + (respond * (arm.point - home)).sum(1)
            frames = arm_frames(tuple(arm.angles)) if self._action_joints else None
            finger = arm.finger if index < count - 1 else _finger(arm.angles)
            arm = _move(arm, targets, frames)._replace(finger=finger)
        return arm

    def _random_displacements(self, key: jax.Array, count: int) -> jax.Array:
        """Random displacements of the commanded point (m), float32 [count, 3]."""
        if not self._is_discrete:
            direction = jax.random.normal(key, (count, 3))
            return scene.DELTA_V_CONTINUOUS * direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
        choice = jax.random.randint(key, (count,), 0, 6)
        sign = jnp.where(choice % 2 == 0, -1.0, 1.0)
        return scene.DELTA_V * sign[:, None] * jax.nn.one_hot(choice // 2, 3)

    def _command(self, action: jax.Array, noise: jax.Array) -> jax.Array:
        """Displacement with noise that an action asks for: float32 [3] (m), or [7] (rad) of the joints."""
        if self._action_joints:
            return action * (scene.DELTA_THETA + self.NOISE_STD_JOINTS * noise)
        if self._is_discrete:
            size = scene.DELTA_V + self.NOISE_STD * noise
            forwards = (action % 2 == 1) & ~((action == 5) & self.force_down)
            return jnp.where(forwards, size, -size) * (jnp.arange(3) == action // 2)
        delta = action * (scene.DELTA_V_CONTINUOUS + self.NOISE_STD_CONTINUOUS * noise)
        return delta.at[2].set(-abs(delta[2])) if self.force_down else delta

    def _displaced(self, point: jax.Array, delta: jax.Array) -> jax.Array:
        """The commanded point (m) after a displacement, within the workspace."""
        low, high = (jnp.array(bound, jnp.float32) for bound in zip(*self._workspace, strict=True))
        return jnp.clip(point + delta, low, high)

    def _advance(self, arm: ArmState, command: jax.Array, buttons: jax.Array) -> tuple[ArmState, Touch]:
        """One simulation step, in which PyBullet looks for contacts before it moves the arm."""
        frames = arm_frames(tuple(arm.angles))
        gripper = gripper_frames(frames[-1], _gripper_angles(arm) if self.FINGERS_FOLD else _REST)
        touch = touches(finger_points(gripper), buttons, self.BUTTON_STANDS)
        if self._action_joints:
            moved = _move(arm, arm.angles + command, frames)
        else:
            arm = arm._replace(point=self._displaced(arm.point, command))
            moved = _move(arm, jnp.stack(inverse_kinematics(tuple(arm.angles), tuple(arm.point), self.SOLVER)))
        if self.FINGERS_FOLD:
            palm = gripper_frames(arm_frames(tuple(moved.angles))[-1], _REST)[0]
            grip, speeds, rise = pressed(
                tuple(arm.grip), tuple(arm.grip_speeds), gripper, palm, functools.partial(surface, buttons)
            )
            angles = jnp.stack(lifted(tuple(moved.angles), frames, gripper[0].origin, rise))
            moved = moved._replace(angles=angles, grip=jnp.stack(grip), grip_speeds=jnp.stack(speeds))
        finger = jnp.stack(transform(gripper[1], CENTRES_OF_MASS[scene.FINGER_LINK]))
        return moved._replace(finger=finger), touch

    def _judge(self, state: KukaState, touch: Touch) -> tuple[KukaState, jax.Array, jax.Array]:
        """(state, reward, terminated) of the step just simulated."""
        on_button = touch.cap[0]
        state, distance, failed = self._count(state, on_button, touch.table)
        terminated = self._ends(state, touch.table)
        reward = jnp.where(failed, -1.0, on_button.astype(jnp.float32))
        if self._shape_reward:
            shaped = -distance
            if self.BONUS_WHEN_DISCRETE or not self._is_discrete:
                bonus = jnp.where(reward > 0, scene.SHAPED_SUCCESS, scene.SHAPED_FAILURE)
                shaped = jnp.where(terminated & (reward != 0), bonus, shaped)
            reward = shaped
        return state, reward, terminated

    def _count(self, state: KukaState, on_button: jax.Array, on_table: jax.Array) -> tuple[KukaState, Any, Any]:
        """(state with its counters advanced, distance to the target (m), whether the step costs 1)."""
        offset = state.arm.finger - self.target(state)
        distance = jnp.sqrt((offset * offset).sum())
        failed = on_table | (distance > self.max_distance)
        outside = jnp.where(failed, state.steps_outside + 1, 0)
        return state._replace(contacts=state.contacts + on_button, steps_outside=outside), distance, failed

    def _ends(self, state: KukaState, on_table: jax.Array) -> jax.Array:
        """Whether the task is over: the button is pressed, the table touched, or the arm outside for too long."""
        pressed = state.contacts >= scene.N_CONTACTS_BEFORE_TERMINATION
        return on_table | pressed | (state.steps_outside >= self.N_STEPS_OUTSIDE)


def _move(arm: ArmState, targets: jax.Array, frames: tuple[Frame, ...] | None = None) -> ArmState:
    """The arm after one simulation step of its motors towards target angles [7] (rad); `frames` as `drive` has them."""
    angles, speeds = drive(tuple(arm.angles), tuple(arm.speeds), tuple(targets), frames)
    return arm._replace(angles=jnp.stack(angles), speeds=jnp.stack(speeds))


def _gripper_angles(arm: ArmState) -> tuple[jax.Array, ...]:
    """Angles of joints 7 to 13 (rad)."""
    zero = jnp.zeros_like(arm.grip[0])
    return zero, arm.grip[0], zero, arm.grip[1], arm.grip[2], zero, arm.grip[3]


def _finger(angles: jax.Array) -> jax.Array:
    """The left finger's centre of mass (m) for the arm's joint angles [7] (rad)."""
    finger = gripper_frames(arm_frames(tuple(angles))[-1], _REST)[1]
    return jnp.stack(transform(finger, CENTRES_OF_MASS[scene.FINGER_LINK]))
