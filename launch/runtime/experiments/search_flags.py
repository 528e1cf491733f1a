"""Flags of `launch/hyperparam_search.py`; everything else is checked as `launch/train.py` checks its own."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from agents.registry import algorithm_class, registered_rl
from launch.runtime.algorithm_flags import algorithm_options
from launch.runtime.errors import HelpRequested, UsageError
from launch.runtime.experiments.forward import share_out
from launch.runtime.experiments.pipeline_flags import SLURM, add_launcher_flags, check_launcher, cores_of
from launch.runtime.experiments.space import chosen
from launch.runtime.files import read_json
from launch.runtime.flag_parser import FlagParser, peek
from launch.runtime.flags import DEFAULT_ALGO, parse_train_args
from launch.runtime.plugin import load_plugin
from launch.runtime.run_folder import check_log_dir

SEARCH_FILE = "search.json"
OPTIMIZERS = ("hyperband", "tpe", "random", "cma")
_USAGE = "python launch/hyperparam_search.py [--flag value ...]"
_DESCRIPTION = (
    "Search the hyperparameters of an algorithm on a task. All further flags are those of launch/train.py and of the "
    "algorithm (see its --help); one that is given a value is not searched."
)
_FREE_ON_RESUME = {"resume", "num_jobs", "verbose", "plugin", "launcher", "ray_address", *SLURM}
_STORED = ("optimizer", "algo", "max_eval", "bracket_size", "pruning", "search", "storage", "study_name")


def search_flags() -> FlagParser:
    """Return the parser of this command's own flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    add = parser.add_argument
    with parser.group("Search"):
        add("--optimizer", default="hyperband", choices=OPTIMIZERS, metavar="NAME", help="How settings are chosen.")
        add("--algo", default=DEFAULT_ALGO, choices=tuple(registered_rl), metavar="NAME", help="Learner.")
        add("--max-eval", type=int, default=100, minimum=1, help="Settings tried by tpe, random and cma.")
        add(
            "--search",
            nargs="+",
            metavar="NAME",
            help="Options to search. Without this flag: all that the algorithm declares a range for, with "
            "--simulator=jax those of them that can vary within one compiled program",
        )
        add("--pruning", type=bool, default=True, help="Stop settings that fall behind (tpe, random, cma).")
        add(
            "--bracket-size",
            type=int,
            default=0,
            minimum=0,
            help="Settings chosen at a time by tpe, random and cma; 0 is 27 with --simulator=jax, else 9.",
        )
        add("--plugin", metavar="MODULE", help="Import this module first, as launch/train.py does.")
    with parser.group("Records"):
        add("--storage", metavar="URL", help="Optuna storage. Without this flag: a journal in the search's folder")
        add("--study-name", metavar="NAME", help="Name in the storage. Without this flag: made of the settings")
        add("--log-dir", default="logs/", metavar="DIR", help="Root of the searches' folders.")
        add("--resume", metavar="DIR", help="Continue the search in this folder.")
        add("--num-jobs", type=int, default=0, minimum=0, help="Trainings at a time without --simulator=jax.")
        add_launcher_flags(parser)
        add("-v", "--verbose", action="store_true", help="Say more, and show where an error came from.")
        add("-h", "--help", action="store_true", help="Show this text.")
    return parser


def parse_search_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line of `launch/hyperparam_search.py` (without the program name).

    Returns:
        This command's flags by underscored name, and `train`, the parsed flags of a training; `words`, its command
        line; `space`, what is searched, see `space.chosen`; `run_folder` (None).

    Raises:
        UsageError: The command line cannot be carried out; nothing has been started.
        HelpRequested: It asks for help.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    parser = search_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    if peek(argv, "--resume") is not None:
        return _resumed(parser, argv)
    algo = peek(argv, "--algo")
    algo = DEFAULT_ALGO if algo is None else algo
    # An unknown one is refused by the parser of this command's own flags.
    own, theirs = share_out(argv, parser, [algo if algo in registered_rl else DEFAULT_ALGO])
    args = parser.parse(own)
    args.search = [name.replace("-", "_") for name in args.search]
    (words,) = theirs.values()
    args.words = [*words, f"--algo={args.algo}", *[f"--plugin={plugin}"] * (plugin is not None)]
    check_log_dir(args.log_dir)
    return _complete(args)


def _complete(args: Namespace) -> Namespace:
    """Add what follows from this command's flags and the words of the training.

    Raises:
        UsageError: The training is refused, or there is nothing to search.
    """
    del args.help
    args.train = parse_train_args(args.words)
    for name in ("sweep", "resume", "load_rl_model_path", "data_parallel", "eval_every", "coordinator"):
        if getattr(args.train, name) or (name == "coordinator" and args.train.distributed != "off"):
            raise UsageError(f"--{name.replace('_', '-')} has no place in a search: leave it out")
    if args.train.rollout_launcher != "local":
        raise UsageError("--rollout-launcher spreads one run: it has no place in a search, leave it out")
    _check_evaluations(args)
    check_launcher(args)
    args.together = args.train.simulator == "jax"
    if args.together and args.launcher != "local":
        raise UsageError(f"--launcher={args.launcher}: with --simulator=jax all trials are one program, leave it out")
    given = {word[2:].partition("=")[0] for word in args.words} | set(args.train.hyperparam)
    args.space = chosen(args.algo, args.search, given, args.together)
    args.bracket_size = args.bracket_size or (27 if args.together else 9)
    args.cores = cores_of(args.train)
    args.run_folder = None
    return args


def _check_evaluations(args: Namespace) -> None:
    """Check that settings can be judged while they train, which is what a search compares them by.

    Raises:
        UsageError: They cannot.
    """
    if args.train.real_robot is not None:
        raise UsageError(
            "--real-robot has no place in a search: settings are compared by evaluations during their training, and "
            "there is no second robot for them; leave it out to search in simulation"
        )
    if algorithm_options(args.algo) and isinstance(registered_rl[args.algo][0], str):
        return  # one that declares its options has no loop of its own; importing it to ask would take a second
    from agents.base_classes import JaxAlgorithm

    if not issubclass(algorithm_class(args.algo), JaxAlgorithm):
        raise UsageError(
            f"{args.algo} brings its own training loop and cannot be searched: settings are compared by evaluations "
            "during their training, which only algorithms of pure functions have; choose another --algo, or train it "
            "once for each setting"
        )


def _resumed(parser: FlagParser, argv: Sequence[str]) -> Namespace:
    """The search that was begun earlier."""
    args = parser.parse(argv)
    other = sorted(parser.given - _FREE_ON_RESUME)
    if other:
        raise UsageError(f"{parser[other[0]].option.flag} cannot be given with --resume: the search has its own")
    folder = Path(args.resume)
    if not (folder / SEARCH_FILE).is_file():
        raise UsageError(f"--resume={folder} is not a search's folder: {SEARCH_FILE} is missing")
    stored = read_json(folder / SEARCH_FILE, f"search {folder}")
    try:
        for name in (*_STORED, "words"):
            setattr(args, name, stored[name])
    except (KeyError, TypeError):
        raise UsageError(f"search {folder}: {SEARCH_FILE} is damaged") from None
    plugins = [word for word in args.words if word.startswith("--plugin=")]
    if plugins and not args.plugin:  # what a folder says is never taken as code to run
        raise UsageError(f"--resume={folder}: that search used {plugins[0]}, give it again")
    return _complete(args)


def stored(args: Namespace) -> dict:
    """What `--resume` needs, a JSON object."""
    return {name: getattr(args, name) for name in (*_STORED, "words")}
