"""KukaButtonGymEnv-v0: a robot arm presses a button that lies on a table (PyBullet).

Scene, constants, rewards and cameras are those of the S-RL Toolbox (Raffin et al., 2018, arXiv:1809.09369).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pybullet as p

from envs import kuka_scene as scene
from envs.host.kuka import KukaArm
from envs.host.srl_env import Camera, SRLGymEnv
from envs.kuka_scene import (
    BUTTON_LINK,
    BUTTON_POSITION,
    FLOOR_Z,
    GLIDER_TARGET,
    INITIAL_JOINTS,
    LARGE_WORKSPACE,
    NUM_ARM_JOINTS,
    NUM_JOINTS,
    RANDOM_RANGE,
    RESETTLING_STEPS,
    SETTLING_STEPS,
    TABLE_POSITION,
    WORKSPACE,
    Z_TABLE,
)

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BASE = -1  # link index of a body's base
CAMERAS = tuple(Camera(*view) for view in scene.CAMERAS)


class KukaButtonGymEnv(SRLGymEnv):
    """Press the button 5 times: reward 1 for each step with a contact; terminated by the 5th or by touching the table.

    Actions, in metres of the commanded effector point per step (the arm follows at about 1.3 mm a step):
      - discrete, 6: -x, +x, -y, +y, -z and +z (again -z with `force_down`), each 0.03 + N(0, 0.01);
      - continuous, Box(-1, 1, 3): action * (0.0035 + N(0, 1e-4)), z as -|dz| with `force_down`;
      - `action_joints`, Box(-1, 1, 7): each joint's target is its *present* angle + action * (0.1 + N(0, 0.002)) rad.
        The original added to the initial angles, so the button was out of reach. `force_down` has no effect.
    Continuous actions are not clipped here: drivers clip them to the bounds.

    Reward: 1 on contact of the cap with the arm, -1 (instead) on contact with the table or farther than `max_distance`
    from the target, else 0. With `shape_reward`, -distance; with continuous actions also 50 or -250 at a termination
    with positive or negative reward.

    Time limit: truncated once 1,001 simulation steps are counted, unless the task ended in that step.

    Args:
        srl_model: "ground_truth" (finger position relative to the target, 3), "joints" (present joint angles, 14),
            "joints_position" (both, position first, 17), "raw_pixels" or "scene_poses".
        is_discrete: Discrete or continuous actions.
        action_joints: Steer joints instead of the effector point (continuous only).
        random_target: Place the button at random at each reset, x 0.5 +- 0.15 and y +- 0.3 m, with a larger workspace.
        shape_reward: Dense reward.
        action_repeat: Simulation steps for each environment step.
        multi_view: Add the second camera to picture observations: 6 channels.
        max_distance: Radius of the safety sphere around the target [m]; by default the class's MAX_DISTANCE.
        force_down: Whether the arm can never be commanded upwards; by default the class's FORCE_DOWN.
        image_size: Width and height of pictures in pixels.
        render_mode: None, "rgb_array" or "human".

    Raises:
        ValueError: `action_joints` with discrete actions, `action_repeat` below 1, `max_distance` not positive, or
            what `SRLGymEnv` refuses.
    """

    srl_models: ClassVar[tuple[str, ...]] = scene.HOST_SRL_MODELS
    MAX_STEPS: ClassVar[int] = scene.MAX_STEPS
    N_CONTACTS_BEFORE_TERMINATION: ClassVar[int] = scene.N_CONTACTS_BEFORE_TERMINATION
    N_STEPS_OUTSIDE_SAFETY_SPHERE: ClassVar[int] = scene.N_STEPS_OUTSIDE_SAFETY_SPHERE
    N_RANDOM_ACTIONS_AT_INIT: ClassVar[int] = scene.N_RANDOM_ACTIONS_AT_INIT
    N_DISCRETE_ACTIONS: ClassVar[int] = scene.N_DISCRETE_ACTIONS
    BUTTON_DISTANCE_HEIGHT: ClassVar[float] = scene.BUTTON_DISTANCE_HEIGHT
    DELTA_V: ClassVar[float] = scene.DELTA_V
    DELTA_V_CONTINUOUS: ClassVar[float] = scene.DELTA_V_CONTINUOUS
    DELTA_THETA: ClassVar[float] = scene.DELTA_THETA
    NOISE_STD: ClassVar[float] = scene.NOISE_STD
    NOISE_STD_CONTINUOUS: ClassVar[float] = scene.NOISE_STD_CONTINUOUS
    NOISE_STD_JOINTS: ClassVar[float] = scene.NOISE_STD_JOINTS
    MAX_DISTANCE: ClassVar[float] = scene.MAX_DISTANCE  # default of the option
    FORCE_DOWN: ClassVar[bool] = scene.FORCE_DOWN  # default of the option
    SCENE_SHAPE: ClassVar[tuple[int, ...]] = (scene.NUM_JOINTS + 1 + 2, 7)
    button_links: ClassVar[tuple[int, ...]] = (BUTTON_LINK,)  # which count as the button in a contact
    bonus_when_discrete: ClassVar[bool] = False  # whether the shaped reward of discrete actions has a bonus at the end

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
        render_mode: str | None = None,
    ) -> None:
        max_distance = self.MAX_DISTANCE if max_distance is None else max_distance
        scene.check_options(
            srl_model, is_discrete, action_joints, action_repeat, max_distance, image_size, self.srl_models
        )
        self.action_joints = action_joints
        self.random_target = random_target
        self.shape_reward = shape_reward
        self.action_repeat = action_repeat
        self.multi_view = multi_view
        self.max_distance = max_distance
        self.force_down = self.FORCE_DOWN if force_down is None else force_down
        super().__init__(
            srl_model=srl_model,
            is_discrete=is_discrete,
            image_size=image_size,
            channels=6 if multi_view else 3,
            render_mode=render_mode,
        )
        self.action_space: gym.spaces.Space[Any]
        if is_discrete:
            self.action_space = gym.spaces.Discrete(self.N_DISCRETE_ACTIONS)
        else:
            size = NUM_ARM_JOINTS if action_joints else 3
            self.action_space = gym.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.max_episode_steps = self.MAX_STEPS // action_repeat + 1

    def getTargetPos(self) -> np.ndarray:
        """The point 0.28 m above the button's cap at the reset [m], float64 [3]."""
        self._require_client()
        return np.array(self._target)

    def getGroundTruth(self) -> np.ndarray:
        """World position of the left finger's centre of mass [m], float64 [3]."""
        self._require_client()
        return np.array(self._finger)

    def getGroundTruthDim(self) -> int:
        """3: x, y, z."""
        return 3

    def getObservationDim(self) -> int:
        """3 for a position, 14 for joints, 17 for both."""
        return {"joints": NUM_JOINTS, "joints_position": 3 + NUM_JOINTS}.get(self.srl_model, 3)

    def getSRLState(self) -> np.ndarray:
        """The state observation, float32 [getObservationDim()]; joints in radians, positions in metres."""
        self._require_client()
        if self.srl_model == "joints":
            return np.array(self._arm.joint_positions(), dtype=np.float32)
        position = super().getSRLState()
        if self.srl_model == "joints_position":
            return np.concatenate([position, np.array(self._arm.joint_positions(), dtype=np.float32)])
        return position

    def situation(self) -> dict[str, Any]:
        """All that decides how the episode goes on, but for its noise; what the twin's state holds.

        Returns:
            angles, speeds: float32 [7], of the arm's joints (rad, rad/s).
            point, finger: float32 [3], where the arm is commanded to and where its left finger is (m).
            grip, grip_speeds: float32 [4], of the gripper's joints 8, 10, 11 and 13 (rad, rad/s).
            buttons: float32 [buttons, 2], x and y of the buttons (m).
            speed: float32, of the buttons along y (m a step).
            goal, contacts, steps_outside, steps: int32, as the attributes of the twin's `KukaState`.
            objects: float32 [bodies, 7], poses of other objects as in `scene_poses`.
        """
        client = self._require_client()
        joints = p.getJointStates(self._arm.body, range(NUM_ARM_JOINTS), physicsClientId=client)
        places = [p.getBasePositionAndOrientation(button, physicsClientId=client)[0][:2] for button in self._buttons]
        arm: dict[str, Any] = {"angles": [joint[0] for joint in joints], "speeds": [joint[1] for joint in joints]}
        arm |= {"point": self._arm.point, "finger": self._finger}
        grip = p.getJointStates(self._arm.body, scene.FOLDING_JOINTS, physicsClientId=client)
        arm |= {"grip": [joint[0] for joint in grip], "grip_speeds": [joint[1] for joint in grip]}
        counts = {"contacts": self._contacts, "steps_outside": self._steps_outside, "steps": self._steps}
        counts["goal"] = self._buttons.index(self._button)
        return {
            **{name: np.array(value, np.float32) for name, value in arm.items()},
            "buttons": np.array(places, np.float32),
            "speed": np.float32(getattr(self, "_speed", 0.0)),
            **{name: np.int32(value) for name, value in counts.items()},
            "objects": self.scene_poses()[scene.NUM_JOINTS + 1 + 2 * len(self._buttons) :],
        }

    def scene_poses(self) -> np.ndarray:
        """Where all that moves in a picture is, for a renderer outside the simulator.

        Returns:
            float32 [bodies, 7]: x, y, z (m) and the quaternion x, y, z, w of links 0 to 13 of the arm, its base, and
            base plate and cap of each button, in the frames of the models' files.
        """
        arm = self._arm.body
        bodies = [(arm, link) for link in (*range(NUM_JOINTS), BASE)]
        for button in self._buttons:
            bodies += [(button, BASE), (button, BUTTON_LINK)]
        return np.array([self._pose(*body) for body in bodies], dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode from the settled scene, after 5 random commands of one simulation step each.

        Args:
            seed: Seed of this and the following episodes; the same seed gives the same episode.
            options: Unused.

        Returns:
            The first observation and an empty dict.
        """
        super().reset(seed=seed, options=options)
        if self._client is None:
            self._build()
        client = self._require_client()
        self._restore()
        self._arrange()
        for _ in range(self.N_RANDOM_ACTIONS_AT_INIT):
            self._random_command()
            p.stepSimulation(physicsClientId=client)
        self._target = self._target_point()
        for button in self._buttons:
            p.setJointMotorControl2(
                button, BUTTON_LINK, p.POSITION_CONTROL, targetPosition=GLIDER_TARGET, physicsClientId=client
            )
        self._finger = self._arm.finger_position()
        self._steps = self._contacts = self._steps_outside = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply one action for `action_repeat` simulation steps.

        Args:
            action: An integer below 6, or an array [3] (effector point) or [7] (joints).

        Returns:
            Observation, reward, terminated (the task ended), truncated (the time limit cut it), and an empty dict.

        Raises:
            ValueError: an action that is not of the action space's shape or range of integers, or not finite.
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        client = self._require_client()
        command = self._command(action)
        self._before_step()
        for _ in range(self.action_repeat):
            self._apply(command)
            self._before_simulation()
            p.stepSimulation(physicsClientId=client)
            if self._steps > self.MAX_STEPS:
                break
            self._steps += 1
        if self.render_mode == "human":
            time.sleep(1.0 / 240.0)
        self._finger = self._arm.finger_position()
        reward, terminated = self._reward()
        truncated = not terminated and self._steps > self.MAX_STEPS
        return self._observe(), reward, terminated, truncated, {}

    def _pose(self, body: int, link: int) -> tuple[float, ...]:
        """Position [m] and quaternion of a link's frame, [7]; not of its frame of inertia."""
        client = self._require_client()
        if link != BASE:
            state = p.getLinkState(body, link, computeForwardKinematics=True, physicsClientId=client)
            return (*state[4], *state[5])
        inertial = p.invertTransform(*p.getDynamicsInfo(body, BASE, physicsClientId=client)[3:5])
        centre = p.getBasePositionAndOrientation(body, physicsClientId=client)
        position, orientation = p.multiplyTransforms(*centre, *inertial)
        return (*position, *orientation)

    def _cameras(self) -> Sequence[Camera]:
        return CAMERAS if self.multi_view else CAMERAS[:1]

    def _build(self) -> None:
        """Load the scene, let it settle and save it: every episode starts from this state."""
        client = self._connect()
        self._load(client)
        self._settle(SETTLING_STEPS)
        self._settled: int = p.saveState(physicsClientId=client)

    def _load(self, client: int) -> None:
        """Load floor, table, buttons and arm."""
        p.loadURDF("plane.urdf", (0, 0, FLOOR_Z), physicsClientId=client)
        self._table: int = p.loadURDF("table/table.urdf", TABLE_POSITION, physicsClientId=client)
        self._buttons = self._load_buttons(client)
        self._button = self._buttons[0]
        self._arm = self._load_arm(client)
        self._release_caps()

    def _load_buttons(self, client: int) -> list[int]:
        """Load the bodies of the buttons, in the order in which they are to be pressed."""
        return [p.loadURDF(str(ASSETS / "simple_button.urdf"), (*BUTTON_POSITION, Z_TABLE), physicsClientId=client)]

    def _load_arm(self, client: int) -> KukaArm:
        """Load the arm."""
        return KukaArm(client, LARGE_WORKSPACE if self.random_target else WORKSPACE)

    def _release_caps(self) -> None:
        """Stop driving the caps of the buttons."""
        for button in self._buttons:
            p.setJointMotorControl2(button, BUTTON_LINK, p.VELOCITY_CONTROL, force=0, physicsClientId=self._client)

    def _settle(self, steps: int) -> None:
        """Simulate with the arm held where it starts."""
        for _ in range(steps):
            if self.action_joints:
                self._arm.drive_joints(INITIAL_JOINTS)
            else:
                self._arm.move_point(0.0, 0.0, 0.0)
            p.stepSimulation(physicsClientId=self._client)

    def _restore(self) -> None:
        """Return to the settled scene, whatever happened since."""
        client = self._client
        # A saved state does not hold what collision detection caches for touching pairs of bodies. Taking the bodies
        # apart for a moment drops it; otherwise an episode depends on the one before, by about 1e-5 m.
        for index, body in enumerate((self._arm.body, *self._buttons)):
            p.resetBasePositionAndOrientation(body, (0, 0, 20 + 30 * index), (0, 0, 0, 1), physicsClientId=client)
        p.performCollisionDetection(physicsClientId=client)
        p.restoreState(self._settled, physicsClientId=client)
        # Nor does it hold motor commands: the cap is not driven before the first step of an episode.
        self._release_caps()
        self._arm.reset_point()

    def _arrange(self) -> None:
        """Put the bodies of the settled scene where this episode has them."""
        if self.random_target:
            x, y = self.np_random.uniform(-1.0, 1.0, 2)
            x, y = BUTTON_POSITION[0] + RANDOM_RANGE[0] * x, BUTTON_POSITION[1] + RANDOM_RANGE[1] * y
            self._place_button(self._button, x, y)
            self._settle(RESETTLING_STEPS)

    def _place_button(self, button: int, x: float, y: float) -> None:
        """Put a settled button elsewhere on the table [m]."""
        (_, _, z), orientation = p.getBasePositionAndOrientation(button, physicsClientId=self._client)
        p.resetBasePositionAndOrientation(button, (x, y, z), orientation, physicsClientId=self._client)

    def _target_point(self) -> tuple[float, float, float]:
        """The target point of an episode that starts now [m]."""
        x, y, z = p.getLinkState(self._button, BUTTON_LINK, physicsClientId=self._client)[0]
        return x, y, z + self.BUTTON_DISTANCE_HEIGHT

    def _before_step(self) -> None:
        """What happens in the scene before each step of the environment: nothing."""

    def _before_simulation(self) -> None:
        """What acts on the scene in the coming step of the simulation, besides the arm: nothing."""

    def _random_command(self) -> None:
        """Give the arm a random command: a step along an axis, a step in any direction, or joint displacements."""
        rng = self.np_random
        if self.action_joints:
            self._apply(scene.INIT_STD_JOINTS * rng.standard_normal(NUM_ARM_JOINTS))
        elif self.is_discrete:
            delta = np.zeros(3)
            delta[rng.integers(3)] = rng.choice((-1.0, 1.0)) * self.DELTA_V
            self._apply(delta)
        else:
            direction = rng.standard_normal(3)
            self._apply(self.DELTA_V_CONTINUOUS * direction / np.linalg.norm(direction))

    def _command(self, action: Any) -> np.ndarray:
        """Turn an action into a displacement with noise: metres [3], or radians [7] for joints."""
        if self.is_discrete:
            if not self.action_space.contains(action):
                raise ValueError(f"action {action} is not an integer from 0 to {self.N_DISCRETE_ACTIONS - 1}")
            size = self.DELTA_V + self.np_random.normal(0.0, self.NOISE_STD)
            axis, positive = divmod(int(action), 2)
            delta = np.zeros(3)
            delta[axis] = size if positive and not (axis == 2 and self.force_down) else -size
            return delta
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"an action of shape {action.shape} was given: expected {self.action_space.shape}")
        if not np.isfinite(action).all():  # it would stay in the simulator's solver, beyond the next reset
            raise ValueError(f"action {action} is not finite")
        if self.action_joints:
            return action * (self.DELTA_THETA + self.np_random.normal(0.0, self.NOISE_STD_JOINTS))
        delta = action * (self.DELTA_V_CONTINUOUS + self.np_random.normal(0.0, self.NOISE_STD_CONTINUOUS))
        if self.force_down:
            delta[2] = -abs(delta[2])
        return delta

    def _apply(self, command: np.ndarray) -> None:
        """Drive the arm by a displacement of the effector point [m] or of the joints' present angles [rad]."""
        if self.action_joints:
            present = self._arm.joint_positions()
            self._arm.drive_joints([angle + delta for angle, delta in zip(present, command.tolist(), strict=False)])
        else:
            self._arm.move_point(*command.tolist())

    def _reward(self) -> tuple[float, bool]:
        """Reward of the step just simulated, and whether it ended the task."""
        on_button, on_table = self._touches()
        self._contacts += on_button
        distance = math.dist(self._target, self._finger)
        failed = self._fails(on_table, distance)
        reward = -1.0 if failed else float(on_button)
        terminated = self._ends(on_table)
        if not self.shape_reward:
            return reward, terminated
        if terminated and reward and (self.bonus_when_discrete or not self.is_discrete):
            return (scene.SHAPED_SUCCESS if reward > 0 else scene.SHAPED_FAILURE), terminated
        return -distance, terminated

    def _touches(self) -> tuple[bool, bool]:
        """Whether the arm touches the button, and whether it touches the table."""
        on_button = on_table = False
        for contact in p.getContactPoints(bodyA=self._arm.body, physicsClientId=self._client):
            on_button |= contact[2] == self._button and contact[4] in self.button_links
            on_table |= contact[2] == self._table
        return on_button, on_table

    def _fails(self, on_table: bool, distance: float) -> bool:
        """Whether this step costs 1: the arm is on the table or outside the safety sphere. Counts such steps."""
        failed = on_table or distance > self.max_distance
        self._steps_outside = self._steps_outside + 1 if failed else 0
        return failed

    def _ends(self, on_table: bool) -> bool:
        """Whether the task is over: the button is pressed, the table touched, or the arm outside for too long."""
        return (
            on_table
            or self._contacts >= self.N_CONTACTS_BEFORE_TERMINATION
            or self._steps_outside >= self.N_STEPS_OUTSIDE_SAFETY_SPHERE
        )
