"""Flags of `launch/train.py`: the common ones, then those of the chosen algorithm, parsed strictly and checked.

Nothing heavy is imported by `--help` or by a parse: jax, pybullet and wandb come after the command line is accepted.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.registry import registered_rl
from launch.runtime.algorithm_flags import (
    add_algorithm_flags,
    apply_simulator_defaults,
    check_choices,
    check_options,
    explain_unknown,
    read_hyperparam,
    read_sweep,
)
from launch.runtime.cluster import add_address_flag
from launch.runtime.distributed import FLAGS as DISTRIBUTED
from launch.runtime.errors import HelpRequested, UsageError, hint
from launch.runtime.flag_parser import FlagParser, UnknownFlag, add_wandb_flags, peek
from launch.runtime.plugin import load_plugin
from launch.runtime.srl_models import DEFAULT_CONFIG, check_saved_model, kind_of, model_spec, resolve_srl_model
from launch.runtime.validation import MAX_PORT, check_arguments, damaged, saved_value
from representations.registry import registered_srl

DEFAULT_ALGO = "ppo2"
DEFAULT_ENV = "KukaButtonGymEnv-v0"
_USAGE = "python launch/train.py [--flag value ...]"
_DESCRIPTION = (
    "Train a reinforcement-learning or evolution algorithm on a robotics task. Flags may be written with dashes or "
    "underscores and with a space or = before the value; --noflag switches a boolean flag off. `--algo NAME --help` "
    "shows the options of another algorithm."
)
# What a resumed run may change: nothing that decides what is computed.
_FREE_ON_RESUME = {
    "resume",
    "num_workers",
    "rollout_launcher",
    "ray_address",
    "no_vis",
    "wandb_project",
    "wandb_mode",
    "tags",
    "artifacts",
    "video",
    "port",
    "verbose",
    "on_nan",
    "log_dir",  # the folder is there already, wherever it is now
    "srl_model_path",  # which may have moved as well, see `_check_moved`
    *DISTRIBUTED,
}
_FIXED_ON_RESUME = ("num_seeds", "sweep", "hyperparam", "load_rl_model_path")


def parse_train_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line of `launch/train.py` (without the program name).

    Returns:
        All flags by underscored name, with `hyperparam` as {name: value}, `sweep` as {name: [value, ...]}, `simulator`
        resolved, and `run_folder`, which is None until the training has created its folder. With `--resume DIR` the
        values are those of the saved run.

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    folder, algo, plugin = peek(argv, "--resume"), peek(argv, "--algo"), peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    saved = _saved_args(folder, plugin) if folder else {}
    algo = saved.get("algo", DEFAULT_ALGO) if algo is None else algo
    if algo == "":
        raise UsageError("--algo needs a value")
    if algo not in registered_rl:
        raise UsageError(f"unknown algorithm {algo}{hint(algo, registered_rl)}")
    parser = common_flags()
    own = add_algorithm_flags(parser, algo)
    if {"-h", "--help"} & set(argv):  # before the strict parse: help helps with the rest of the line too
        raise HelpRequested(parser.format_help())
    check_choices(algo, lambda flag: peek(argv, flag))
    try:
        args = parser.parse(argv)
    except UnknownFlag as error:
        raise explain_unknown(error, algo, peek(argv, error.spelling)) from None
    if args.help:
        raise HelpRequested(parser.format_help())
    if saved:
        _restore(args, saved, parser)
        if args.rollout_launcher == "local" and "ray_address" not in parser.given:
            args.ray_address = None  # of a run that goes on without its cluster
    else:
        args.hyperparam = read_hyperparam(args, parser, own)
        args.sweep = read_sweep(args, parser)
    args.simulator = args.simulator or ("jax" if args.env.startswith("brax/") else "pybullet")
    if not saved:
        apply_simulator_defaults(args, parser)
    del args.help
    args.run_folder = None
    check_options(args)
    if saved:
        check_saved_model(args)
        _check_moved(args, saved)
    else:
        resolve_srl_model(args, parser.given)
    check_arguments(args)
    return args


def common_flags() -> FlagParser:
    """Return a parser with the flags that every algorithm shares."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("Task"):
        _add_task_flags(parser)
    with parser.group("Training"):
        _add_training_flags(parser)
    with parser.group("Evaluation"):
        _add_evaluation_flags(parser)
    with parser.group("Records"):
        _add_record_flags(parser)
    return parser


def _add_task_flags(parser: FlagParser) -> None:
    """Declare what is learned, where, and from which observation."""
    add = parser.add_argument
    add("--algo", default=DEFAULT_ALGO, choices=tuple(registered_rl), metavar="NAME", help="Learner.")
    add(
        "--plugin",
        metavar="MODULE",
        help="Import this module first; it registers your own algorithms or environments.",
    )
    add(
        "--env",
        default=DEFAULT_ENV,
        metavar="ID",
        help="Environment: one of the toolbox's, any Gymnasium id, or brax/NAME.",
    )
    add(
        "--simulator",
        choices=("pybullet", "jax"),
        metavar="NAME",
        help="pybullet is the reference, in worker processes (Gymnasium ids too); jax is the environment's twin on the "
        "accelerator. Without this flag: jax for brax/NAME, else pybullet",
    )
    add(
        "--srl-model",
        default="ground_truth",
        choices=tuple(registered_srl),
        metavar="NAME",
        help="What is observed: raw_pixels, ground_truth, joints, joints_position, or a learned representation.",
    )
    add("-c", "--continuous", "--continuous-actions", action="store_true", help="Continuous actions.")
    add(
        "-joints",
        "--joints",
        "--action-joints",
        action="store_true",
        help="Actions move the arm's joints, not its hand (Kuka with -c).",
    )
    add("-r", "--random-target", action="store_true", help="A new target position in every episode.")
    add("--shape-reward", action="store_true", help="Dense reward: the distance to the target counts.")
    add("--action-repeat", type=int, default=1, minimum=1, help="Physics steps per action (Kuka).")
    add("--num-stack", type=int, default=1, minimum=1, help="Frames stacked into one observation.")
    add("--multi-view", action="store_true", help="Add the second camera to raw_pixels (Kuka).")
    add("--fpv", action="store_true", help="Add the robot's own camera to raw_pixels (mobile robot).")
    add("--image-size", type=int, default=224, minimum=1, maximum=1024, help="Side of a picture in pixels.")
    add(
        "--renderer",
        default="tiny",
        choices=("tiny", "jax"),
        help="Draw pictures in PyBullet's workers, or all at once on the accelerator.",
    )
    add("--real-robot", metavar="HOST:PORT", help="Server of a real robot (Baxter, Robobo, Omnirobot).")
    add("--srl-config-file", default=DEFAULT_CONFIG, metavar="FILE", help="Where learned representations are.")
    add("--srl-model-path", metavar="DIR", help="Folder of the learned representation, in place of that table.")
    add("--latest", action="store_true", help="Use the environment's newest representation of the kind --srl-model.")


def _add_training_flags(parser: FlagParser) -> None:
    """Declare how long, with which seeds and hyperparameters, and from where."""
    add = parser.add_argument
    add("--num-timesteps", type=int, default=1_000_000, minimum=1, help="Environment steps of one run, all counted.")
    add("--seed", type=int, default=0, minimum=0, maximum=2**32 - 1, help="Seed of the (first) run.")
    add("--num-seeds", type=int, default=1, minimum=1, metavar="K", help="Train K runs at once, seeds --seed and up.")
    add(
        "--hyperparam",
        nargs="+",
        metavar="NAME:VALUE",
        help="Set options of the algorithm; the same as its flags.",
    )
    add(
        "--sweep",
        nargs="+",
        metavar="NAME:V1,V2",
        help="Train one run per combination of these values (times --num-seeds), all at once.",
    )
    add(
        "--runs-per-batch",
        type=int,
        default=0,
        minimum=0,
        metavar="N",
        help="With --simulator=jax, train so many runs of a sweep at a time; 0 is as many as fit the memory.",
    )
    add("--data-parallel", action="store_true", help="Spread the environments of a run, not the runs, over devices.")
    add(
        "--distributed",
        default="off",
        choices=("off", "auto"),
        help="auto: this process is one of several that SLURM or Open MPI has started for one run.",
    )
    add("--coordinator", metavar="HOST:PORT", help="Where process 0 of several for one run is reached.")
    add("--num-processes", type=int, minimum=1, metavar="N", help="How many processes train the run.")
    add("--process-id", type=int, minimum=0, metavar="I", help="Which of them this is, from 0.")
    add("--join-timeout", type=int, default=120, minimum=1, help="Seconds that processes wait for each other.")
    add(
        "--on-nan",
        default="stop",
        choices=("stop", "skip"),
        help="Where rewards, gradients, parameters or losses are not finite: end the run, or leave the update out.",
    )
    add("--num-workers", type=int, default=0, minimum=0, help="Simulation processes; 0 is one per processor core.")
    add(
        "--rollout-launcher",
        default="local",
        choices=("local", "ray"),
        metavar="NAME",
        help="Simulate in processes of this machine, or of a Ray cluster.",
    )
    add_address_flag(parser)
    add("--load-rl-model-path", metavar="DIR", help="Start from the policy in this model folder.")
    add("--resume", metavar="DIR", help="Continue the run in this folder, with the flags it was begun with.")


def _add_evaluation_flags(parser: FlagParser) -> None:
    """Declare when a policy is evaluated and which one is kept."""
    add = parser.add_argument
    add("--eval-every", type=int, default=0, minimum=0, help="Steps between evaluations; 0 is a tenth of the budget.")
    add("--eval-episodes", type=int, default=20, minimum=1, help="Episodes of an evaluation during training.")
    add("--final-eval-episodes", type=int, default=100, minimum=1, help="Episodes of the evaluation at the end.")
    add(
        "--eval-deterministic",
        type=bool,
        default=True,
        help="Evaluate the most probable action, or the mean of continuous ones; --noeval-deterministic draws actions, "
        "as in training.",
    )
    add("--min-episodes-save", type=int, default=100, minimum=0, help="Episodes before a best policy is saved.")


def _add_record_flags(parser: FlagParser) -> None:
    """Declare where results go."""
    add = parser.add_argument
    add("--log-dir", default="logs/", metavar="DIR", help="Root of the run folders.")
    add("--checkpoint-every", type=int, default=0, minimum=0, help="Steps between checkpoints; 0 is as --eval-every.")
    add("--episode-window", type=int, default=40, minimum=1, help="Episodes in the running mean of the return.")
    add("--no-vis", action="store_true", help="No wandb.")
    add_wandb_flags(parser)
    add("--tags", nargs="+", metavar="TAG", help="wandb tags.")
    add("--artifacts", action="store_true", help="Send the models to wandb at the end.")
    add("--video", action="store_true", help="Film the policy at the end; wandb gets it, too.")
    add("--port", type=int, default=8097, minimum=0, maximum=MAX_PORT, help="Accepted for old scripts: visdom's port.")
    add("-v", "--verbose", action="store_true", help="Say more, and show where an error came from.")
    add("-h", "--help", action="store_true", help="Show this text.")


def _saved_args(folder: str, plugin: str | None) -> dict[str, Any]:
    """Read the flags that a run folder was begun with.

    A plugin must be named again: what a run folder says is never taken as code to run.

    Raises:
        ValueError: It is not a run folder, its files are damaged, or its plugin was not given.
    """
    from launch.runtime.run_folder import read_run  # here because it needs NumPy, which --help does not

    saved = read_run(folder).args
    if saved.get("plugin") and not plugin:
        raise UsageError(f"--resume={folder}: that run used --plugin={saved['plugin']}, give it again")
    if not isinstance(saved.get("algo"), str) or saved["algo"] not in registered_rl:
        raise UsageError(f"--resume={folder}: its algorithm {saved.get('algo')!r} does not exist")
    return saved


def _restore(args: Namespace, saved: dict[str, Any], parser: FlagParser) -> None:
    """Replace the values of `args` by those of a saved run, except what a resumed run may change and was given.

    Raises:
        ValueError: A given flag differs from the saved run, or may not be given with --resume at all; or the run's
            args.json is damaged.
    """
    from launch.runtime.run_folder import compare_args

    for name in _FIXED_ON_RESUME:
        if name in parser.given:
            raise UsageError(f"{parser[name].option.flag} cannot be given with --resume: the saved run has its own")
    # What "auto" chose is saved; runs from before the flag had all on the device.
    saved = {"replay_memory": "device"} | saved
    same = {"replay_memory"} if getattr(args, "replay_memory", None) == "auto" else set()
    compare_args(saved, {name: getattr(args, name) for name in parser.given}, ignore={*_FREE_ON_RESUME, *same})
    for name in parser.names:
        if name in saved and not (name in _FREE_ON_RESUME and name in parser.given):
            setattr(args, name, _saved(parser, name, saved[name], args.resume))


def _saved(parser: FlagParser, name: str, value: Any, folder: str) -> Any:
    """Check a value of args.json; `hyperparam` is held as {name: value}, `sweep` as {name: [value, ...]}.

    Raises:
        UsageError: It is no value of that flag.
    """
    if name not in ("hyperparam", "sweep"):
        return saved_value(parser[name], value, folder)
    if not isinstance(value, dict):
        raise damaged(folder, name, value)
    if name == "hyperparam":  # each has set a flag, which is checked
        return value
    if not all(option in parser and isinstance(values, list) and values for option, values in value.items()):
        raise damaged(folder, name, value)
    return {option: [saved_value(parser[option], one, folder) for one in values] for option, values in value.items()}


def _check_moved(args: Namespace, saved: dict[str, Any]) -> None:
    """Refuse a learned representation of another kind in place of the one that a resumed run was begun with.

    That its states have as many components is seen when the checkpoint is read.

    Raises:
        ValueError: It is of another kind, or damaged.
    """
    path = args.srl_model_path
    if path is None or path == saved.get("srl_model_path"):
        return
    kind = kind_of(model_spec(Path(path)))
    if kind != args.srl_model:
        raise UsageError(f"--srl-model-path={path}: that model is of the kind {kind}, the run has {args.srl_model}")
    args.srl_model_path = str(Path(path).resolve())
