"""A car races round a track, seen from above: CarRacingGymEnv-v0, on Gymnasium's CarRacing-v3 (Box2D)."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs.host.goal_env import GoalEnv, displacement
from envs.host.quiet import quiet_import

quiet_import("pygame")  # which greets on standard output
from gymnasium.envs.box2d import car_racing  # noqa: E402

MAX_STEPS = 10_000
N_DISCRETE_ACTIONS = 4
LOOKAHEAD = 5  # tiles from the nearest one to the target
# (steering, gas, brake) of each discrete action; positive steering turns to the right.
DISCRETE_CONTROLS = np.array([(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)], np.float32)


class _Race(car_racing.CarRacing):
    """Gymnasium's race, without the 96x96 picture that it draws at every step and nobody here looks at."""

    def _render(self, mode: str) -> Any:
        return None if mode == "state_pixels" else super()._render(mode)


class CarRacingEnv(GoalEnv):
    """Drive round a random track: 1000 / N for each of its N tiles that is reached, -0.1 a step.

    An episode is terminated when every tile has been reached, or with reward -100 when the car leaves the field
    (333.3 m from its middle in x or y), and truncated after 10,000 steps. A step is 1/50 s.

    Actions: discrete, 4: right, left, gas, brake, all the way, the other controls being released; continuous,
    Box(-1, 1, 3): steering (1: right), gas (below 0: none; it rises by at most 0.1 a step), brake (below 0: none; the
    wheels lock from 0.9).

    State, float32 [5]: x and y (m), angle (rad), speed (m/s) and angular velocity (rad/s) of the car; x and y are
    relative to the tile five after the nearest. The original's speed was the car's inertia, a constant.

    Pictures show the car from above, and a bar with its speed, wheels, steering and turn rate: Gymnasium's, 600x400,
    made square. Nothing needs a display but `render_mode="human"`.

    Args:
        srl_model: "ground_truth" or "raw_pixels".
        is_discrete: Discrete or continuous actions.
        image_size: Width and height of pictures in pixels.
        render_mode: None, "rgb_array" or "human".

    Raises:
        ValueError: what `GoalEnv` refuses.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": car_racing.FPS}  # type: ignore[misc]
    max_episode_steps = MAX_STEPS

    def __init__(
        self,
        *,
        srl_model: str = "ground_truth",
        is_discrete: bool = True,
        image_size: int = 224,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(srl_model=srl_model, is_discrete=is_discrete, image_size=image_size, render_mode=render_mode)
        self.action_space: gym.spaces.Space[Any]
        if is_discrete:
            self.action_space = gym.spaces.Discrete(N_DISCRETE_ACTIONS)
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._race: _Race | None = None

    def getTargetPos(self) -> np.ndarray:
        """Where to drive, [5]: x and y (m) of the tile five after the nearest, and three zeros."""
        race = self._require_race()
        tiles = np.array(race.track)[:, 2:4]
        nearest = int(np.argmin(((tiles - race.car.hull.position) ** 2).sum(axis=1)))
        return np.array([*tiles[(nearest + LOOKAHEAD) % len(tiles)], 0.0, 0.0, 0.0])

    def getGroundTruth(self) -> np.ndarray:
        """The car, [5]: x, y (m), angle (rad), speed (m/s), angular velocity (rad/s)."""
        hull = self._require_race().car.hull
        return np.array([*hull.position, hull.angle, hull.linearVelocity.length, hull.angularVelocity])

    def getGroundTruthDim(self) -> int:
        """5: x, y, angle, speed, angular velocity."""
        return 5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode on a new track, the car at rest on its first tile.

        Args:
            seed: Seed of this and the following episodes; the same seed gives the same episode.
            options: Not used.

        Returns:
            The first observation and an empty dict.
        """
        super().reset(seed=seed, options=options)
        if self._race is None:
            # Never more than all tiles: Gymnasium's own lap is complete at 95 %.
            mode = "human" if self.render_mode == "human" else None
            self._race = _Race(render_mode=mode, lap_complete_percent=1.0)
        self._race.np_random = self.np_random
        self._race.reset()
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Drive for 1/50 s.

        Args:
            action: An integer below 4, or an array [3].

        Returns:
            Observation, reward, terminated (the lap is complete, or the car left the field), truncated (the time limit
            cut the episode), and an empty dict.

        Raises:
            ValueError: an action that is not of the action space's shape or range of integers, or not finite.
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        race = self._require_race()
        controls = displacement(action, self.is_discrete, DISCRETE_CONTROLS, np.float32(1.0))
        if not np.all(np.isfinite(controls)):  # Box2D would lose the car, and with it count every tile as reached
            raise ValueError(f"action {action} is not made of finite numbers")
        _, reward, terminated, _, _ = race.step(controls)
        self._steps += 1
        return self._observe(), float(reward), terminated, self._steps >= MAX_STEPS, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The picture, uint8 [image_size, image_size, 3], in mode "rgb_array"; None otherwise.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        return self._picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if any; a later `reset` starts anew. May be called more than once."""
        if self._race is not None:
            self._race.close()
            self._race = None

    def _picture(self) -> np.ndarray:
        """The race from above, uint8 [image_size, image_size, 3]."""
        race = self._require_race()
        side = max(self.image_size, 2)  # smoothscale gets the colours of a single pixel wrong
        picture = car_racing.pygame.surfarray.make_surface(race._render("rgb_array").swapaxes(0, 1))
        scaled = car_racing.pygame.transform.smoothscale(picture, (side, side))
        square = np.ascontiguousarray(car_racing.pygame.surfarray.pixels3d(scaled).swapaxes(0, 1))
        return square if side == self.image_size else square.mean((0, 1), keepdims=True).astype(np.uint8)

    def _require_race(self) -> Any:
        """The race, once there is one."""
        if self._race is None:
            raise gym.error.ResetNeeded("call reset() first: the environment has no race yet")
        return self._race
