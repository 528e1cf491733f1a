"""From the user's options to an environment: on the host (PyBullet, Gymnasium) or on the device (JAX).

Importing this module loads neither jax nor a simulator, so that a worker can unpickle a `HostFactory`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envs.host.quiet import quiet_import
from envs.registry import BRAX_NAMES, ThreadingType, registered_env, registered_robot, registered_twin, resolve
from envs.types import Encoding, Spec

if TYPE_CHECKING:
    import gymnasium

BRAX_PREFIX = "brax/"
# Modules of envs.host that are simulators themselves, or real robots.
_WITHOUT_PYBULLET = ("envs.host.omnirobot:", "envs.host.baxter:", "envs.host.robobo:", "envs.host.real_omnirobot:")

# Options that reach the constructor of an environment: field -> (keyword, flag). An environment takes an option when
# its constructor has the keyword.
_KEYWORDS: dict[str, tuple[str, str]] = {
    "srl_model": ("srl_model", "--srl-model"),
    "joints": ("action_joints", "--joints"),
    "random_target": ("random_target", "--random-target"),
    "shape_reward": ("shape_reward", "--shape-reward"),
    "action_repeat": ("action_repeat", "--action-repeat"),
    "multi_view": ("multi_view", "--multi-view"),
    "fpv": ("fpv", "--fpv"),
    "image_size": ("image_size", "--image-size"),
    "real_robot": ("real_robot", "--real-robot"),
    "max_distance": ("max_distance", "--max-distance"),
    "force_down": ("force_down", "--force-down"),
}

# Seconds that one reset or step may take before its worker is given up: in a simulator, and at a real robot, whose
# client has time-outs of its own (`envs.host.robot_client.Timeouts`, 310 s for a reset) that must come first.
SIMULATOR_TIMEOUT = 60.0
ROBOT_TIMEOUT = 330.0


@dataclass(frozen=True)
class EnvOptions:
    """What the user chose about the environment; hashable and picklable.

    Attributes:
        env: Environment id: one of ours, any Gymnasium id, or "brax/<name>".
        simulator: "pybullet" runs the environment in host processes, "jax" runs its twin on the device.
        srl_model: What is observed: "ground_truth", "joints", "joints_position" or "raw_pixels".
        continuous: Box actions instead of discrete ones.
        joints: Actions are joint angles (arm, continuous only).
        random_target: The target moves to a random place at each reset.
        shape_reward: Dense reward instead of a sparse one.
        action_repeat: Physics steps that repeat one action.
        num_stack: Observations stacked along the last axis, newest last.
        multi_view: A second camera adds three channels.
        fpv: The robot's own camera adds three channels.
        image_size: Width and height of pictures in pixels.
        renderer: "tiny" draws the pictures of PyBullet environments in their workers, "jax" on the device
            (`envs.render.seen_pool`).
        real_robot: "HOST:PORT" of a real robot's server, None for a simulator or the robot's default address.
        render_mode: None, "rgb_array" or "human"; on the host only.
        max_distance: Radius of the safety sphere around the target (m); None for the environment's own.
        force_down: Whether the arm can never be commanded upwards; None for the environment's own.
        srl_model_path: Folder of the learned representation that makes states of pictures, where `srl_model` names
            one; frames are encoded one by one, and the states stacked.
    """

    env: str
    simulator: str = "pybullet"
    srl_model: str = "ground_truth"
    continuous: bool = False
    joints: bool = False
    random_target: bool = False
    shape_reward: bool = False
    action_repeat: int = 1
    num_stack: int = 1
    multi_view: bool = False
    fpv: bool = False
    image_size: int = 224
    renderer: str = "tiny"
    real_robot: str | None = None
    render_mode: str | None = None
    max_distance: float | None = None
    force_down: bool | None = None
    srl_model_path: str | None = None

    @classmethod
    def from_args(cls, args: Any) -> EnvOptions:
        """Pick the environment's options out of parsed flags; those that are not there take their defaults."""
        names = [field.name for field in dataclasses.fields(cls) if hasattr(args, field.name)]
        return cls(**{name: getattr(args, name) for name in names})

    @property
    def on_device(self) -> bool:
        """Whether the environment runs on the device: the JAX simulator, and everything from brax."""
        return self.simulator == "jax" or self.env.startswith(BRAX_PREFIX)

    @property
    def learned(self) -> bool:
        """Whether what is observed is a learned representation of pictures."""
        return self.srl_model_path is not None

    def seen(self) -> EnvOptions:
        """The same environment as a learned representation sees it: single pictures."""
        return dataclasses.replace(self, srl_model="raw_pixels", num_stack=1, srl_model_path=None)

    @property
    def drawn(self) -> bool:
        """Whether pictures of environments on the host are drawn on the device."""
        return self.renderer == "jax" and not self.on_device

    def told(self) -> EnvOptions:
        """What the workers of a `drawn` environment observe: where everything is, of which pictures are drawn later.

        Raises:
            ValueError: There is nothing to draw, or nothing that draws it.
        """
        twin = resolve(registered_twin[self.env]) if self.env in registered_twin else None
        if self.srl_model != "raw_pixels":
            raise ValueError(f"--renderer=jax draws pictures: it needs --srl-model=raw_pixels, not {self.srl_model}")
        if not hasattr(twin, "draw"):
            raise ValueError(f"--renderer=jax does not know {self.env}: leave it out")
        unseen: dict[str, Any] = {
            "multi_view": False,
            "fpv": False,
            "num_stack": 1,
            "image_size": 224,
            "renderer": "tiny",
        }
        return dataclasses.replace(self, srl_model="scene_poses", **unseen)

    def as_twin(self) -> EnvOptions:
        """The same in the JAX simulator, whose twin draws the pictures; one frame at a time."""
        return dataclasses.replace(self, simulator="jax", renderer="tiny", num_stack=1, render_mode=None)

    @property
    def single(self) -> bool:
        """Whether there is only one such environment in the world, as a real robot is (`ThreadingType.NONE`)."""
        registered = registered_env.get(self.env)
        return self.real_robot is not None or (registered is not None and registered[3] is ThreadingType.NONE)

    @property
    def step_timeout(self) -> float:
        """Seconds that one reset or step may take on the host."""
        return ROBOT_TIMEOUT if self.single else SIMULATOR_TIMEOUT

    def check_count(self, count: int) -> None:
        """Refuse to play with `count` environments where there is only one.

        Raises:
            ValueError: There is.
        """
        if self.single and count > 1:
            raise ValueError(
                f"{self.env} is one real robot, {count} environments were asked for: use --num-cpu=1, one run, and an "
                "algorithm that needs one environment only (ppo2, a2c)"
            )


@dataclass(frozen=True)
class HostFactory:
    """Makes one host environment; picklable, and callable in a process without jax.

    Attributes:
        spec: What `gymnasium.make` needs; complete, so that a worker needs no registration of its own.
        num_stack: Observations stacked along the last axis.
    """

    spec: gymnasium.envs.registration.EnvSpec
    num_stack: int

    def __call__(self) -> gymnasium.Env:
        """Make the environment: float32 or uint8 observations, frames stacked.

        Raises:
            ValueError: The environment refuses its options, or has spaces that the toolbox does not know.
        """
        import gymnasium

        from envs.host.gymnasium_env import adapt

        try:
            _quiet_simulator(self.spec)
            env = gymnasium.make(self.spec)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise ValueError(f"{self.spec.id} needs a package that is not installed: {error}") from None
        return adapt(env, self.num_stack, self.spec.id)


def host_factory(options: EnvOptions, pictured: bool = False) -> HostFactory:
    """Return the factory of a host environment; it observes the pictures where the representation is `learned`.

    Args:
        options: What to make.
        pictured: Whether its pictures are looked at besides what is observed, so that more cameras mean something
            without `raw_pixels`.

    Raises:
        ValueError: An unknown id, an option without meaning for this environment, or an impossible combination.
    """
    if options.on_device:
        raise ValueError(f"{options.env} with --simulator={options.simulator} runs on the device, not in host workers")
    if options.learned:
        options = options.seen()
    if options.drawn:
        options = options.told()
    spec = _gymnasium_spec(options.env, real=options.real_robot is not None)
    parameters = {name: value for name, value in _parameters(_entry_class(spec)).items() if name not in spec.kwargs}
    keywords = _keywords(options, parameters, pictured)
    if options.render_mode is not None:
        keywords["render_mode"] = options.render_mode
    return HostFactory(dataclasses.replace(spec, kwargs=spec.kwargs | keywords), options.num_stack)


def host_spec(options: EnvOptions, encoding: Encoding | None = None) -> Spec:
    """Describe what a learner sees of the environment that `host_factory` makes; makes one and closes it.

    Args:
        options: What it is.
        encoding: The representation where it is `learned`.

    Raises:
        ValueError: As `host_factory`; also where the environment itself refuses the options, or has discrete actions
            only and `continuous` is set.
    """
    from envs.host.gymnasium_env import spec_of

    if options.learned:
        from envs.render.seen_pool import stacked_states

        return stacked_states(host_spec(options.seen()), encoding, options.num_stack)
    if options.drawn:
        options.told()
        from envs.render.seen_pool import stacked

        return stacked(device_env(options.as_twin()).spec, options.num_stack)
    env = host_factory(dataclasses.replace(options, render_mode=None))()
    try:
        spec = spec_of(env, options.env)
    finally:
        env.close()
    _check_action_kind(options, spec)
    return spec


def device_env(options: EnvOptions, encoding: Encoding | None = None) -> Any:
    """Make the environment that runs on the device (a `DeviceEnv`: spec, reset, step); imports jax.

    Args:
        options: What to make.
        encoding: The representation where it is `learned`.

    Raises:
        ValueError: An unknown id, no twin, an option without meaning, an impossible combination, or a user's
            environment that is not as `envs.checker.check_device_types` wants it.
    """
    if options.learned:
        return _encoded_env(options, encoding)
    if options.render_mode is not None:
        raise ValueError(f"--simulator=jax opens no window: {options.env} is rendered with --simulator=pybullet")
    if options.real_robot is not None:
        raise ValueError(f"--real-robot={options.real_robot} is no simulation: leave out --simulator=jax")
    if options.env.startswith(BRAX_PREFIX):
        env = _brax_env(options)
    else:
        cls = resolve(_twin_entry(options.env))
        env = cls(**_keywords(options, _parameters(cls)))
        if not cls.__module__.startswith("envs."):  # a user's
            from envs.checker import check_device_types

            check_device_types(env)
    _check_action_kind(options, env.spec)
    return _stacked(env, options.num_stack)


def _encoded_env(options: EnvOptions, encoding: Encoding | None) -> Any:
    """A device environment that is observed through a learned representation."""
    from envs.device.wrappers import Encoded

    assert encoding is not None, "a learned representation is handed in"
    return _stacked(Encoded(device_env(options.seen()), encoding), options.num_stack)


def _stacked(env: Any, num_stack: int) -> Any:
    """The environment with stacked observations."""
    if num_stack == 1:
        return env
    from envs.device.wrappers import FrameStack

    return FrameStack(env, num_stack)


def _brax_env(options: EnvOptions) -> Any:
    """Make a brax environment."""
    name = options.env.removeprefix(BRAX_PREFIX)
    if name not in BRAX_NAMES:
        raise ValueError(_unknown(options.env, [BRAX_PREFIX + known for known in BRAX_NAMES]))
    _keywords(options, {})
    from envs.device.brax_adapter import BraxEnv

    return BraxEnv(name)


def _twin_entry(env_id: str) -> str | type:
    """The device environment of an id; ValueError that lists those that have one."""
    if env_id not in registered_twin:
        _gymnasium_spec(env_id)  # an id that does not exist at all is the better message
        twins = ", ".join(sorted(registered_twin))
        raise ValueError(f"--simulator=jax: {env_id} has no JAX twin; these have one: {twins}, and {BRAX_PREFIX}<name>")
    return registered_twin[env_id]


def _gymnasium_spec(env_id: str, real: bool = False) -> gymnasium.envs.registration.EnvSpec:
    """How to make an id: from our registries, else from Gymnasium's; ValueError with the nearest id.

    `real` asks for the real robot where the id is a simulated one without.
    """
    import gymnasium

    if env_id in registered_env or (real and env_id in registered_robot):
        entry: Any = registered_robot[env_id] if real and env_id in registered_robot else registered_env[env_id][0]
        return gymnasium.envs.registration.EnvSpec(env_id, entry_point=entry)
    if env_id.endswith("BulletEnv-v0"):
        quiet_import("pybullet_envs_gymnasium")  # registers its ids
    module, separator, name = env_id.rpartition(":")
    try:
        if separator:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError):
        quiet_import("pybullet_envs_gymnasium")
        brax = [BRAX_PREFIX + known for known in BRAX_NAMES]
        raise ValueError(_unknown(env_id, [*registered_env, *gymnasium.registry, *brax])) from None


def _unknown(env_id: str, known: list[str]) -> str:
    """The message for an id that does not exist."""
    folded = {name.lower(): name for name in reversed(known)}
    nearest = difflib.get_close_matches(env_id.lower(), folded, n=1, cutoff=0.0)[0]
    return f"unknown environment '{env_id}': did you mean '{folded[nearest]}'?"


def _entry_class(spec: gymnasium.envs.registration.EnvSpec) -> Any:
    """The class or function that makes an environment; ValueError where its package is missing."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    if not isinstance(spec.entry_point, str):
        return spec.entry_point
    try:
        _quiet_simulator(spec)
        return load_env_creator(spec.entry_point)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ValueError(f"{spec.id} needs a package that is not installed: {error}") from None


def _quiet_simulator(spec: gymnasium.envs.registration.EnvSpec) -> None:
    """Import PyBullet or pygame, where the environment needs it, without its banner."""
    entry = str(spec.entry_point)
    if entry.startswith(("envs.host.car_racing:", "gymnasium.envs.box2d.")):
        quiet_import("pygame")
    elif entry.startswith(("envs.host.", "pybullet_envs_gymnasium.")) and not entry.startswith(_WITHOUT_PYBULLET):
        quiet_import("pybullet")


def _parameters(maker: Any) -> dict[str, inspect.Parameter]:
    """The keywords that a class or function takes by name."""
    return dict(inspect.signature(maker).parameters)


def _keywords(options: EnvOptions, parameters: dict[str, Any], pictured: bool = False) -> dict[str, Any]:
    """The constructor keywords of an environment; ValueError for an option that would do nothing.

    `pictured` as in `host_factory`. Where the representation is learned, `options` are those of its pictures.
    """
    if options.num_stack < 1:
        raise ValueError(f"--num-stack={options.num_stack}: at least 1")
    keywords: dict[str, Any] = {}
    defaults = {field.name: field.default for field in dataclasses.fields(EnvOptions)}
    for field, (keyword, flag) in _KEYWORDS.items():
        value = getattr(options, field)
        if value == defaults[field]:
            continue
        if keyword not in parameters:
            shown = flag if value is True else f"{flag}={value}"
            raise ValueError(f"{shown} has no meaning for {options.env}: leave it out")
        keywords[keyword] = value
    for field in ("multi_view", "fpv"):
        if getattr(options, field) and options.srl_model != "raw_pixels" and not pictured:
            flag = _KEYWORDS[field][1]
            raise ValueError(f"{flag} adds a picture: it needs --srl-model=raw_pixels, not {options.srl_model}")
    if options.joints and not options.continuous:
        raise ValueError(f"--joints needs --continuous ({options.env})")
    if "is_discrete" in parameters:
        keywords["is_discrete"] = not options.continuous
    elif "continuous" in parameters:
        keywords["continuous"] = options.continuous
    return keywords


def _check_action_kind(options: EnvOptions, spec: Spec) -> None:
    """ValueError when continuous actions are asked of an environment that has discrete ones only."""
    if options.continuous and spec.action_shape == ():
        raise ValueError(f"--continuous: {options.env} has discrete actions only, leave it out")
