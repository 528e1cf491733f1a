"""The scene of the arm tasks: numbers and rules that the PyBullet environments, a JAX twin and the renderers share.

Lengths in metres, angles in radians unless said, from the S-RL Toolbox (Raffin et al., 2018, arXiv:1809.09369). A Kuka
LBR iiwa arm with a two-finger gripper stands at a table on which a button lies; what counts as the arm's position is
the centre of mass of the left finger. Light: imports only the standard library.
"""

from __future__ import annotations

import math

Interval = tuple[float, float]
Workspace = tuple[Interval, Interval, Interval]

SRL_MODELS = ("ground_truth", "joints", "joints_position", "raw_pixels")
HOST_SRL_MODELS = (*SRL_MODELS, "scene_poses")  # what is drawn elsewhere

# --- KukaButtonGymEnv-v0, and the others where they do not say otherwise

MAX_STEPS = 1000  # an episode is cut once the counter of simulation steps exceeds this: MAX_STEPS + 1 are played
N_CONTACTS_BEFORE_TERMINATION = 5
N_STEPS_OUTSIDE_SAFETY_SPHERE = 5000
N_RANDOM_ACTIONS_AT_INIT = 5
N_DISCRETE_ACTIONS = 6  # -x, +x, -y, +y, -z, +z
MAX_DISTANCE, FORCE_DOWN = 0.8, True  # defaults of the options
BUTTON_DISTANCE_HEIGHT = 0.28  # of the target point above the button
DELTA_V, NOISE_STD = 0.03, 0.01
DELTA_V_CONTINUOUS, NOISE_STD_CONTINUOUS = 0.0035, 0.0001
DELTA_THETA, NOISE_STD_JOINTS = 0.1, 0.002  # rad
INIT_STD_JOINTS = 0.1  # rad, of the random joint displacements at a reset
# Shaped reward of the step that ends the task, by the sign of the sparse one.
SHAPED_SUCCESS, SHAPED_FAILURE = 50.0, -250.0

SETTLING_STEPS = 500  # after the scene is loaded
RESETTLING_STEPS = 10  # after a button was moved to its random place
TIME_STEP = 1.0 / 240.0  # s
GRAVITY_Z = -10.0  # m/s^2
SOLVER_ITERATIONS = 150

# --- The arm

MODEL = "kuka_iiwa/kuka_with_gripper2.sdf"  # of pybullet_data
BASE_POSITION = (-0.1, 0.0, -0.15)
INITIAL_JOINTS = (
    0.006418,
    0.113184,
    -0.011401,
    -1.289317,
    0.005379,
    1.737684,
    -0.006539,
    0.000048,
    -0.299912,
    0.0,
    -0.000043,
    0.299960,
    0.0,
    -0.000200,
)
NUM_JOINTS = len(INITIAL_JOINTS)
NUM_ARM_JOINTS = 7
INITIAL_POINT = (0.537, 0.0, 0.5)  # of the commanded effector point
EFFECTOR_LINK = 6  # which inverse kinematics moves
FINGER_LINK = 8  # whose centre of mass counts as the arm's position
POINTING_DOWN = (0.0, -1.0, 0.0, math.cos(math.pi / 2))  # quaternion x, y, z, w of the effector
JOINT_DAMPING = (1e-5,) * NUM_JOINTS  # of inverse kinematics
MAX_FORCE = 200.0  # N m, of the arm's motors
MAX_VELOCITY = 0.35  # rad/s
POSITION_GAIN, VELOCITY_GAIN = 0.3, 1.0
# Joint index -> motor force [N m]: gripper yaw, left finger, left tip, right finger, right tip are all held at 0 rad.
GRIPPER_FORCES = {7: 200.0, 8: 2.0, 10: 2.0, 11: 2.5, 13: 2.0}
FOLDING_JOINTS = (8, 10, 11, 13)  # base and tip of the left finger, then of the right one
WORKSPACE: Workspace = ((0.50, 0.65), (-0.17, 0.22), (0.0, 0.5))  # of the commanded point
LARGE_WORKSPACE: Workspace = ((0.35, 0.65), (-0.30, 0.30), (0.0, 0.5))  # with a random target

# --- Floor, table and button

FLOOR_Z = -1.0
TABLE_POSITION = (0.5, 0.0, -0.82)  # its top is the plane z = -0.195 over x -0.25 to 1.25, y -0.5 to 0.5
Z_TABLE = -0.2  # height at which bodies are loaded
BUTTON_LINK = 1  # the cap, and the joint on which it slides
GLIDER_TARGET = 0.1  # position towards which the cap is driven; its limit is 0.01
BUTTON_POSITION = (0.5, 0.0)
# A random place is BUTTON_POSITION + RANDOM_RANGE * U(-1, 1), x and y.
RANDOM_RANGE = (0.15, 0.3)

# --- Cameras of picture observations: (point looked at, distance, yaw, pitch [degrees])

CAMERAS = (
    ((0.316, -0.2, -0.1), 1.1, 145.0, -36.0),
    ((0.316, 0.316, -0.105), 1.05, 32.0, -13.0),
)
CAMERA_FOV, CAMERA_NEAR, CAMERA_FAR = 60.0, 0.1, 100.0  # degrees, m, m

# --- Kuka2ButtonGymEnv-v0

TWO_MAX_STEPS = 1500
TWO_MAX_DISTANCE, TWO_FORCE_DOWN = 2.0, False
TWO_N_STEPS_OUTSIDE = 4999
TWO_BUTTON_POSITIONS = ((0.5, 0.125), (0.5, -0.125))  # yellow cap, then green
# A random place is the above + (0.15 * U(-1, 1), +-0.175 * U(0, 1)), away from the other button: each is 0.2 wide.
TWO_RANDOM_RANGE = (0.15, 0.175)
TWO_TARGET_Z = Z_TABLE + BUTTON_DISTANCE_HEIGHT
TWO_SHAPED_CONTACT, TWO_SHAPED_OUTSIDE = 25.0, -20.0
TWO_CAP_COLOUR = (0.2, 0.6, 0.38)  # of the second; the first is yellow
# Inverse kinematics runs without JOINT_DAMPING here. The original handed it 7 null-space limits; PyBullet ignores them
# because the model has 12 movable joints. Made to count, they bend the elbow of this model the wrong way.
TWO_DAMPED = False

# --- KukaMovingButtonGymEnv-v0

MOVING_MAX_STEPS = 1500
MOVING_SPEED = 0.001  # m along y before each environment step (not each simulation step); its first sign is random
MOVING_LIMIT = 0.3  # |y| beyond which the button turns back

# --- KukaRandButtonGymEnv-v0

N_OBJECT_DRAWS = 10
OBJECTS = ("duck_vhacd.urdf", "lego/lego.urdf", "cube_small.urdf")  # of pybullet_data
OBJECT_Z = -0.1  # height from which objects fall
OBJECT_CLEARANCE = 0.1  # an object drawn so near the button, in x and in y, is left out
SPHERE, SPHERE_POSITION = "sphere_small.urdf", (0.25, -0.2, 0.1)
PUSH_STEP = 10  # counter of simulation steps at which the sphere is pushed, for one step
PUSH_FORCE, PUSH_FORCE_Z = 10.0, 1.0  # N, along a random horizontal direction towards +x, +y, and upwards
PUSH_POINT = (0.0, 0.0, 0.0)  # where the force acts, in the world
ABSENT = (0.0, 0.0, -100.0)  # where a renderer is told that an object is which this episode does not have


def check_options(
    srl_model: str,
    is_discrete: bool,
    action_joints: bool,
    action_repeat: int,
    max_distance: float,
    image_size: int,
    srl_models: tuple[str, ...] = SRL_MODELS,
) -> None:
    """Refuse options that an arm task with these `srl_models` does not have.

    Raises:
        ValueError: an unknown `srl_model`, `action_joints` with discrete actions, an `action_repeat` below 1, a
            `max_distance` that is not positive, or an `image_size` below 1.
    """
    if srl_model not in srl_models:
        raise ValueError(f"unknown srl_model {srl_model!r}: choose one of {', '.join(srl_models)}")
    if action_joints and is_discrete:
        raise ValueError("action_joints needs continuous actions: set is_discrete=False")
    if action_repeat < 1:
        raise ValueError(f"action_repeat is {action_repeat}: it must be at least 1")
    if not max_distance > 0:
        raise ValueError(f"max_distance is {max_distance}: it must be a positive number of metres")
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: it must be at least 1 pixel")
