"""The arena of the mobile robot: numbers that the PyBullet environments, the JAX twin and the renderers share.

Lengths in metres. A wheeled robot moves in a square arena; its position is the middle of its rear axle and it always
heads towards +x. Light: imports nothing.
"""

from __future__ import annotations

SRL_MODELS = ("ground_truth", "raw_pixels", "scene_poses")

MAX_STEPS = 250  # an episode is cut once the counter exceeds this: MAX_STEPS + 1 steps are played
STEP_LENGTH = 0.1
DISCRETE_MOVES = ((-STEP_LENGTH, 0.0), (STEP_LENGTH, 0.0), (0.0, -STEP_LENGTH), (0.0, STEP_LENGTH))
REWARD_DISTANCE = 0.4

ARENA_SIZE = 4.0
ROBOT_LENGTH, ROBOT_WIDTH, COLLISION_MARGIN = 0.65, 0.2, 0.1
POSITION_LOW = (COLLISION_MARGIN + ROBOT_LENGTH / 2, COLLISION_MARGIN + ROBOT_WIDTH / 2)
POSITION_HIGH = (ARENA_SIZE - POSITION_LOW[0], ARENA_SIZE - POSITION_LOW[1])
START_LOW, START_HIGH = ARENA_SIZE / 2 - ARENA_SIZE / 3, ARENA_SIZE / 2 + ARENA_SIZE / 3
TARGET_POSITION = (3.6, 3.0)
SECOND_TARGET_POSITION = (0.4, 3.0)  # of MobileRobot2TargetGymEnv-v0
LINE_POSITION = 3.6  # x of the strip of MobileRobotLineTargetGymEnv-v0
LINE_WIDTH, LINE_TOP = 0.5, 0.005
LINE_OFFSET, LINE_REWARD_DISTANCE = 0.2, 0.1  # where on the strip the target lies: towards -x from its middle
RANDOM_TARGET_LOW, RANDOM_TARGET_HIGH = 0.4, 3.6

WALL_LENGTH, WALL_WIDTH, WALL_HEIGHT = 4.0, 0.1, 0.1
# (centre of the wall on the floor plane, whether it runs along x, colour), walls are half sunk into the floor
WALLS = (
    ((2.0, 0.0), True, (0.8, 0.0, 0.0)),
    ((4.0, 2.0), False, (0.0, 0.0, 0.0)),
    ((2.0, 4.0), True, (0.0, 0.8, 0.0)),
    ((0.0, 2.0), False, (0.0, 0.0, 0.8)),
)

# The camera of picture observations looks straight down: rows follow +x, columns +y.
CAMERA_CENTRE = (2.0, 2.0)
CAMERA_HEIGHT = 4.4
CAMERA_FOV = 60.0  # degrees
# The first-person camera rides on the robot and looks along its heading, towards a point ahead of it.
FPV_TARGET_AHEAD, FPV_TARGET_HEIGHT, FPV_DISTANCE = 0.25, 0.15, 0.3
FPV_PITCH, FPV_FOV = -17.0, 90.0  # degrees


def check_options(
    srl_model: str, action_repeat: int, image_size: int, srl_models: tuple[str, ...] = SRL_MODELS
) -> None:
    """Refuse options that an environment with these `srl_models` does not have.

    Raises:
        ValueError: an unknown `srl_model`, an `action_repeat` other than 1, or an `image_size` below 1.
    """
    if srl_model not in srl_models:
        raise ValueError(f"unknown srl_model {srl_model!r}: choose one of {', '.join(srl_models)}")
    if action_repeat != 1:
        raise ValueError(f"action_repeat is {action_repeat}: a mobile robot moves once per step, it must be 1")
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: it must be at least 1 pixel")
