"""Record episodes for state representation learning: `python launch/dataset_generator.py --env ID --name NAME`.

Nothing heavy is imported at the top: an answer to `--help` or to a mistyped flag needs none of it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # started as a script: Python has put launch/ there, not the repository
    sys.path.insert(0, ROOT)

from launch.runtime.errors import HelpRequested, UsageError, hint, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser, add_wandb_flags, peek  # noqa: E402
from launch.runtime.plugin import load_plugin  # noqa: E402
from launch.runtime.validation import check_robot, check_task  # noqa: E402

_USAGE = "python launch/dataset_generator.py --env ID --name NAME [--flag value ...]"
_DESCRIPTION = (
    "Record episodes of a task as a dataset: pictures, actions, rewards, true positions and targets. Actions are drawn "
    "at random unless --toward-target-timesteps-proportion or --run-policy say otherwise. A generator that was "
    "interrupted goes on where it was when the same command is given again."
)


def generator_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("Task"):
        _add_task_flags(parser)
    with parser.group("Who acts"):
        _add_policy_flags(parser)
    with parser.group("Dataset"):
        _add_dataset_flags(parser)
    return parser


def _add_task_flags(parser: FlagParser) -> None:
    """Declare the environment."""
    add = parser.add_argument
    add("--env", default="KukaButtonGymEnv-v0", metavar="ID", help="Environment: one of the toolbox's.")
    add("--plugin", metavar="MODULE", help="Import this module first; it registers your own environments.")
    add(
        "--simulator",
        default="pybullet",
        choices=("pybullet", "jax"),
        metavar="NAME",
        help="pybullet is the reference, in worker processes; jax is the environment's twin on the accelerator.",
    )
    add("-c", "--continuous", "--continuous-actions", action="store_true", help="Continuous actions.")
    add("-joints", "--joints", "--action-joints", action="store_true", help="Actions move joints (Kuka with -c).")
    add("-r", "--random-target", action="store_true", help="A new target position in every episode.")
    add("--shape-reward", action="store_true", help="Dense reward: the distance to the target counts.")
    add("--multi-view", action="store_true", help="Record the second camera too (Kuka).")
    add("--fpv", action="store_true", help="Record the robot's own camera too (mobile robot).")
    add("--image-size", type=int, default=224, minimum=1, maximum=1024, help="Side of a picture in pixels.")
    add(
        "--renderer",
        default="tiny",
        choices=("tiny", "jax"),
        help="Draw PyBullet's scenes in its workers, or all at once on the accelerator.",
    )
    add("--max-distance", type=float, metavar="M", help="Radius of the safety sphere. Without this flag: 0.28 (Kuka)")
    add("--real-robot", metavar="HOST:PORT", help="Server of a real robot (Baxter, Robobo, Omnirobot).")
    add("--display", action="store_true", help="Show PyBullet's window; one episode at a time.")


def _add_policy_flags(parser: FlagParser) -> None:
    """Declare who chooses the actions."""
    add = parser.add_argument
    add(
        "--toward-target-timesteps-proportion",
        type=float,
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        help="Share of the steps that go straight to the target; the others are random.",
    )
    add("--run-policy", metavar="DIR", help="Run folder or model folder of a policy that acts.")
    add("--run-ppo2", action="store_true", help="Train ppo2 on pictures first, and let it act.")
    add("--ppo2-timesteps", type=int, default=1000, minimum=1, help="Its training steps.")


def _add_dataset_flags(parser: FlagParser) -> None:
    """Declare how much is recorded, and where it goes."""
    add = parser.add_argument
    add("--num-episode", type=int, default=50, minimum=1, help="Episodes to record.")
    add("--num-cpu", type=int, default=1, minimum=1, help="Simulation processes; changes nothing in the dataset.")
    add("--seed", type=int, default=0, minimum=0, maximum=2**32 - 1, help="Seed of the episodes and of random actions.")
    add("--save-path", default="data/", metavar="DIR", help="Folder of the datasets.")
    add("--name", default="kuka_button", metavar="NAME", help="Name of the dataset, a folder in --save-path.")
    add(
        "--format",
        default="compact",
        choices=("compact", "original"),
        metavar="NAME",
        help="compact: arrays that are memory-mapped; original: JPEG files as the S-RL Toolbox reads them.",
    )
    add("-f", "--force", action="store_true", help="Replace the dataset of this name, whatever it is.")
    add("--no-record-data", action="store_true", help="Play without saving.")
    add("--reward-dist", action="store_true", help="Print how often each reward was seen.")
    add("--artifacts", action="store_true", help="Send the finished dataset to wandb.")
    add_wandb_flags(parser)
    add("-v", "--verbose", action="store_true", help="Show where an error came from.")
    add("-h", "--help", action="store_true", help="Show this text.")


def parse_generator_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line (without the program name).

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    parser = generator_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    args.given = sorted(parser.given)
    args.srl_model, args.action_repeat, args.srl_model_path = "raw_pixels", 1, None
    from envs.registry import registered_env  # here because it loads Gymnasium

    if args.env not in registered_env:
        raise UsageError(f"unknown environment {args.env}{hint(args.env, registered_env)}")
    if args.real_robot is not None:
        check_robot(args.real_robot, args.simulator)
    if not (args.run_policy or args.run_ppo2):  # else these follow from the policy
        check_task(args)
    _check_combinations(args)
    return args


def _check_combinations(args: Namespace) -> None:
    """Refuse flags that do not go together."""
    if args.max_distance is not None and args.max_distance <= 0:
        raise UsageError(f"--max-distance={args.max_distance}: must be above 0")
    if args.artifacts and args.no_record_data:
        raise UsageError("--artifacts sends what is recorded: with --no-record-data there is nothing")
    if args.reward_dist and args.shape_reward:
        raise UsageError("--reward-dist counts rewards, with --shape-reward there are too many different ones")
    chosen = [
        flag
        for flag, value in (
            ("--toward-target-timesteps-proportion", args.toward_target_timesteps_proportion),
            ("--run-policy", args.run_policy),
            ("--run-ppo2", args.run_ppo2),
        )
        if value
    ]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]} both say who acts: give one of them")
    if args.simulator == "jax":
        for flag, value in (("--display", args.display), ("--renderer=jax", args.renderer == "jax")):
            if value:
                raise UsageError(f"{flag} is for --simulator=pybullet: leave it out")
    if args.display and args.renderer == "jax":
        raise UsageError("--display and --renderer=jax both draw: give one of them")
    if args.display:
        from launch.runtime.charts import has_display  # here because it loads NumPy

        if not has_display():
            raise UsageError("--display opens a window, for which there is no display here: leave it out")
    if Path(args.name).name != args.name:
        raise UsageError(f"--name={args.name} is no name of a folder: --save-path says where it is")


def run(args: Namespace) -> None:
    """Record as the flags say."""
    from launch.runtime.generate import generate

    generate(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was written; 3: a failure while recording; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_generator_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
