"""The Omnirobot, its room and its camera: numbers that the host environment, the JAX twin and the renderer share.

Lengths in metres, angles in radians unless said. An omnidirectional robot moves on a floor that a camera under the
ceiling looks down on; it keeps its heading. Light: imports nothing heavy.
"""

from __future__ import annotations

import math

from envs.mobile_arena import SRL_MODELS, check_options

__all__ = ["SRL_MODELS", "check_options"]

MAX_STEPS = 250  # an episode is cut once the counter exceeds this: MAX_STEPS + 1 steps are played
STEP_LENGTH = 0.1
DISCRETE_MOVES = ((STEP_LENGTH, 0.0), (-STEP_LENGTH, 0.0), (0.0, STEP_LENGTH), (0.0, -STEP_LENGTH))
REWARD_DISTANCE = 0.2
POSITION_BOUND = 0.85  # of each coordinate, on both sides of the middle
START_BOUND, TARGET_BOUND = 0.7, 0.7
TARGET_POSITION, TARGET_YAW = (0.5, -0.3), 0.0  # without a random target

# Standard deviations of the noise.
POSITION_NOISE = 0.01
YAW_NOISE = math.radians(2.5)
MARKER_SIZE_NOISE = 0.05  # share of the marker's size
MARKER_PIXEL_NOISE = 2.0  # of 255, rounded to integers
COLOUR_NOISE = 0.03  # share of each 8-bit LAB channel, one draw for a whole picture

# The camera, in pixels; it stands above the middle and looks straight down: columns follow -x, rows +y.
CAMERA_HEIGHT = 2.9
FOCAL_LENGTH = (513.251745, 514.199291)  # (along a row, along a column)
OPTICAL_CENTRE = (325.813473, 251.889606)  # (column, row)
DISTORTION = (0.080411, -0.130679, 0.004315, 0.000615, 0.0)  # k1, k2, p1, p2, k3
SENSOR_WIDTH, SENSOR_HEIGHT = 640, 480
CROP = 480  # side of the square in the middle that is kept
CROP_LEFT = (SENSOR_WIDTH - CROP) // 2
