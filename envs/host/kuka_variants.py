"""Variants of the arm task: two buttons, a moving button, other objects on the table (PyBullet).

Scenes, constants and rewards are those of the S-RL Toolbox (Raffin et al., 2018, arXiv:1809.09369).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pybullet as p

from envs import kuka_scene as scene
from envs.host.kuka import KukaArm
from envs.host.kuka_button import ASSETS, BASE, KukaButtonGymEnv


class Kuka2ButtonGymEnv(KukaButtonGymEnv):
    """Press the yellow button 5 times, then the green one 5 times.

    As `KukaButtonGymEnv`, with these differences. Contacts with any part of a button count, those with the green one
    only once the yellow one had its 5. Observation, distance and `getTargetPos` are about the button to press next;
    the target point is at z = 0.08 m above its place. The workspace is always the large one.

    Reward: 1 on contact with the green button when its turn has come, -1 (instead) on contact with the table or farther
    than `max_distance` from the target, else 0. With `shape_reward`, whatever the actions, the first of: 50 for the
    last contact; 25 for a contact with the button to press; -250 on contact with the table; -20 outside the sphere;
    -distance. The task ends by the 5th contact with the green button, by touching the table, or after too long outside.
    Time limit: 1,501 simulation steps.

    Args:
        random_target: Place the buttons at random, x 0.5 +- 0.15 m, y 0.125 to 0.3 m (yellow) and -0.3 to -0.125 m
            (green), so that they never overlap. The original moved only the green one.
        max_distance: As in the base class, by default 2 m.
        force_down: As in the base class, by default off.
        **options: The others are those of the base class.
    """

    MAX_STEPS: ClassVar[int] = scene.TWO_MAX_STEPS
    MAX_DISTANCE: ClassVar[float] = scene.TWO_MAX_DISTANCE
    FORCE_DOWN: ClassVar[bool] = scene.TWO_FORCE_DOWN
    SCENE_SHAPE: ClassVar[tuple[int, ...]] = (scene.NUM_JOINTS + 1 + 4, 7)
    N_STEPS_OUTSIDE_SAFETY_SPHERE: ClassVar[int] = scene.TWO_N_STEPS_OUTSIDE
    button_links: ClassVar[tuple[int, ...]] = (-1, 0, scene.BUTTON_LINK)

    def _load_buttons(self, client: int) -> list[int]:
        names = ("simple_button.urdf", "simple_button_2.urdf")
        return [
            p.loadURDF(str(ASSETS / name), (x, y, scene.Z_TABLE), physicsClientId=client)
            for name, (x, y) in zip(names, scene.TWO_BUTTON_POSITIONS, strict=True)
        ]

    def _load_arm(self, client: int) -> KukaArm:
        return KukaArm(client, scene.LARGE_WORKSPACE, damped=scene.TWO_DAMPED)

    def _arrange(self) -> None:
        self._button = self._buttons[0]
        self._places = list(scene.TWO_BUTTON_POSITIONS)
        if self.random_target:
            for index, (button, (x, y)) in enumerate(zip(self._buttons, self._places, strict=True)):
                along, away = self.np_random.uniform((-1.0, 0.0), 1.0)
                x += scene.TWO_RANDOM_RANGE[0] * along
                y += math.copysign(scene.TWO_RANDOM_RANGE[1] * away, y)
                self._places[index] = (x, y)
                self._place_button(button, x, y)
            self._settle(scene.RESETTLING_STEPS)

    def _target_point(self) -> tuple[float, float, float]:
        x, y = self._places[self._buttons.index(self._button)]
        return x, y, scene.TWO_TARGET_Z

    def _reward(self) -> tuple[float, bool]:
        """Reward of the step just simulated, and whether it ended the task."""
        on_button, on_table = self._touches()
        distance = math.dist(self._target, self._finger)
        last = self._button == self._buttons[-1]
        self._contacts += on_button
        if not last and self._contacts >= self.N_CONTACTS_BEFORE_TERMINATION:
            self._button, self._contacts = self._buttons[-1], 0
            self._target = self._target_point()
        reward = -1.0 if self._fails(on_table, distance) else float(on_button and last)
        terminated = self._ends(on_table)
        if self.shape_reward:
            reward = self._shaped(reward, terminated, on_button, on_table, distance)
        return reward, terminated

    def _shaped(self, reward: float, terminated: bool, on_button: bool, on_table: bool, distance: float) -> float:
        """The shaped reward of a step whose sparse reward and ending are known."""
        if terminated and reward > 0:
            return scene.SHAPED_SUCCESS
        if on_button and self._contacts < self.N_CONTACTS_BEFORE_TERMINATION:
            return scene.TWO_SHAPED_CONTACT
        if on_table:
            return scene.SHAPED_FAILURE
        return scene.TWO_SHAPED_OUTSIDE if distance > self.max_distance else -distance


class KukaMovingButtonGymEnv(KukaButtonGymEnv):
    """Press a button that moves along y.

    As `KukaButtonGymEnv`, but before each step of the environment the button moves by 1 mm, at first in a direction
    drawn at the reset; beyond |y| = 0.3 m it turns back. The target point moves with it. With `shape_reward`, the step
    that ends the task pays 50 or -250 for discrete actions too. Time limit: 1,501 simulation steps.
    """

    MAX_STEPS: ClassVar[int] = scene.MOVING_MAX_STEPS
    bonus_when_discrete: ClassVar[bool] = True

    def _arrange(self) -> None:
        super()._arrange()
        self._speed: float = scene.MOVING_SPEED * self.np_random.choice((-1.0, 1.0))

    def _before_step(self) -> None:
        x, y, z = self._target
        if abs(y) > scene.MOVING_LIMIT:
            self._speed = -math.copysign(self._speed, y)
        y += self._speed
        self._target = (x, y, z)
        self._place_button(self._button, x, y)


class KukaRandButtonGymEnv(KukaButtonGymEnv):
    """Press the button among other objects.

    As `KukaButtonGymEnv`, but up to 10 ducks, toy bricks and cubes lie on the table, drawn anew in each episode, none
    within 0.1 m of the button in both x and y, and a ball, which is pushed once, in the 11th simulation step, with 10 N
    in a random direction between +x and +y.
    """

    SCENE_SHAPE: ClassVar[tuple[int, ...]] = (
        scene.NUM_JOINTS + 1 + 2 + 1 + len(scene.OBJECTS) * scene.N_OBJECT_DRAWS,
        7,
    )

    def _build(self) -> None:
        self._connect()

    def _restore(self) -> None:
        # Bodies that come and go leave traces in the order of contacts, even if they are only parked: then an episode
        # depends on those before. So this scene is loaded anew, which takes less time than the objects need to settle.
        client = self._require_client()
        self._empty(client)
        self._load(client)

    def _arrange(self) -> None:
        super()._arrange()
        self._objects = self._load_objects()
        self._settle(scene.SETTLING_STEPS)

    def scene_poses(self) -> np.ndarray:
        """As in `KukaButtonGymEnv`, then the ball, and 10 places each for ducks, bricks and cubes: float32 [48, 7].

        Places that this episode does not need are at `ABSENT`.
        """
        count = scene.N_OBJECT_DRAWS
        objects = np.tile(np.array([*scene.ABSENT, 0, 0, 0, 1], np.float32), (1 + len(scene.OBJECTS) * count, 1))
        objects[0] = self._pose(self._objects[0], BASE)
        free = [1 + count * kind for kind in range(len(scene.OBJECTS))]
        for body, kind in zip(self._objects[1:], self._kinds, strict=True):
            objects[free[kind]] = self._pose(body, BASE)
            free[kind] += 1
        return np.concatenate([super().scene_poses(), objects])

    def _load_objects(self) -> list[int]:
        """Load the ball and the objects of this episode above the table, the ball first."""
        client, rng = self._client, self.np_random
        (x, y, _), _ = p.getBasePositionAndOrientation(self._button, physicsClientId=client)
        kinds = rng.integers(len(scene.OBJECTS), size=scene.N_OBJECT_DRAWS)
        places = rng.uniform(-1.0, 1.0, (scene.N_OBJECT_DRAWS, 2)) * scene.RANDOM_RANGE + scene.BUTTON_POSITION
        clear = (np.abs(places - (x, y)) > scene.OBJECT_CLEARANCE).any(1)
        self._kinds: list[int] = kinds[clear].tolist()
        objects = [p.loadURDF(scene.SPHERE, scene.SPHERE_POSITION, physicsClientId=client)]
        for kind, place in zip(kinds[clear], places[clear].tolist(), strict=True):
            objects.append(p.loadURDF(scene.OBJECTS[kind], (*place, scene.OBJECT_Z), physicsClientId=client))
        return objects

    def _before_simulation(self) -> None:
        if self._steps != scene.PUSH_STEP:
            return
        direction = np.abs(self.np_random.standard_normal(2))
        force = (*(scene.PUSH_FORCE * direction / np.linalg.norm(direction)), scene.PUSH_FORCE_Z)
        p.applyExternalForce(self._objects[0], -1, force, scene.PUSH_POINT, p.WORLD_FRAME, physicsClientId=self._client)
