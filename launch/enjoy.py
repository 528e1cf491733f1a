"""Play what a run has learned: `python launch/enjoy.py --log-dir logs/ENV/MODEL/ALGO/DATE`; see `--help`.

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

from launch.runtime.errors import HelpRequested, UsageError, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser, peek  # noqa: E402
from launch.runtime.plugin import load_plugin  # noqa: E402
from launch.runtime.validation import check_robot  # noqa: E402

_USAGE = "python launch/enjoy.py --log-dir DIR [--flag value ...]"
_DESCRIPTION = (
    "Play the policy of a run, in the environment that it was trained in, and report its episodes. Flags may be "
    "written with dashes or underscores and with a space or = before the value; --noflag switches a boolean flag off."
)
_SINGLE = ("render", "plotting", "action_proba")  # these show one environment


def enjoy_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is played"):
        _add_play_flags(parser)
    with parser.group("What is shown (a window where there is a display, otherwise a file)"):
        _add_show_flags(parser)
    return parser


def _add_play_flags(parser: FlagParser) -> None:
    """Declare which policy plays, where and for how long."""
    add = parser.add_argument
    add("--log-dir", metavar="DIR", help="Run folder, or a model folder inside it.")
    add("--plugin", metavar="MODULE", help="Import this module first, as in the training.")
    add("--model", choices=("best", "final"), metavar="NAME", help="Without this flag: the best where there is one.")
    add("--run", type=int, default=0, minimum=0, metavar="K", help="Which run of a sweep or of several seeds.")
    add(
        "--simulator",
        choices=("pybullet", "jax"),
        metavar="NAME",
        help="Play in PyBullet (or Gymnasium), or in the JAX twin. Without this flag: where it was trained",
    )
    add(
        "--real-robot",
        metavar="HOST:PORT",
        help="Play on the real robot behind this server. Without this flag: where it was trained",
    )
    add(
        "--srl-model-path",
        metavar="DIR",
        help="Learned representation to observe. Without this flag: that of the training, where it was then",
    )
    add("--shape-reward", action="store_true", help="Dense reward. Without this flag: as in the training.")
    add(
        "--deterministic",
        type=bool,
        default=True,
        help="Play the most probable action, or the mean of continuous ones; --nodeterministic draws actions, as the "
        "original toolbox did for its actor-critic learners.",
    )
    add("--num-timesteps", type=int, default=10_000, minimum=1, help="Environment steps to play, all counted.")
    add("--num-episodes", type=int, default=0, minimum=0, help="Episodes to play; 0 is as --num-timesteps says.")
    add("--num-cpu", type=int, default=1, minimum=1, help="Environments played at once.")
    add("--seed", type=int, default=0, minimum=0, maximum=2**32 - 1, help="Seed of the episodes and of drawn actions.")
    add("-v", "--verbose", action="store_true", help="Show where an error came from.")
    add("-h", "--help", action="store_true", help="Show this text.")


def _add_show_flags(parser: FlagParser) -> None:
    """Declare what is shown of the play, and where files go."""
    add = parser.add_argument
    add("--render", action="store_true", help="The environment; as a file, video.mp4 of the first 1,000 frames.")
    add("--action-proba", action="store_true", help="Action probabilities, or the components of continuous actions.")
    add("--plotting", action="store_true", help="The state space, one line per episode.")
    add("--output", metavar="DIR", help="Folder for files. Without this flag: enjoy/ in the run folder")


def parse_enjoy_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line of `launch/enjoy.py` (without the program name).

    Returns:
        All flags by underscored name; `shape_reward` is None where it was not given.

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    parser = enjoy_flags()
    if {"-h", "--help"} & set(argv):  # before the strict parse: help helps with the rest of the line too
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    if args.log_dir is None:
        raise UsageError("--log-dir is missing: the run folder to play, as launch/train.py prints it")
    if "shape_reward" not in parser.given:
        args.shape_reward = None
    if {"num_timesteps", "num_episodes"} <= parser.given and args.num_episodes:
        raise UsageError("--num-timesteps and --num-episodes both say how long to play: give one of them")
    if args.real_robot is not None:
        check_robot(args.real_robot, args.simulator)
    for name in _SINGLE:
        if getattr(args, name) and args.num_cpu > 1:
            raise UsageError(f"{parser[name].option.flag} shows one environment: leave out --num-cpu={args.num_cpu}")
    return args


def run(args: Namespace) -> None:
    """Play as the flags say."""
    from launch.runtime.replay import replay

    replay(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error; 3: a failure while playing; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_enjoy_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
