"""Flags of `launch/pipeline.py`, and the jobs that they stand for, all checked as `launch/train.py` checks its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from argparse import Namespace
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from agents.registry import AlgoType, registered_rl
from launch.runtime.cluster import add_address_flag, check_cluster
from launch.runtime.errors import HelpRequested, UsageError
from launch.runtime.experiments.forward import share_out
from launch.runtime.experiments.jobs import Job
from launch.runtime.files import read_json
from launch.runtime.flag_parser import FlagParser, peek
from launch.runtime.flags import DEFAULT_ALGO, DEFAULT_ENV, parse_train_args
from launch.runtime.plugin import load_plugin
from representations.registry import registered_srl

MAX_SEED = 2**32 - 1
PIPELINE_FILE = "pipeline.json"
SLURM = ("slurm_partition", "slurm_time", "slurm_cpus", "slurm_gpus")  # what a job asks for
_USAGE = "python launch/pipeline.py [--flag value ...]"
_DESCRIPTION = (
    "Train every algorithm on every environment with every representation, several seeds each. All further flags are "
    "those of launch/train.py and of the algorithms (see its --help); a flag goes to the algorithms that have it."
)
# What a continued pipeline may change: how its jobs are run, not what they are.
_FREE_ON_RESUME = {"resume", "num_jobs", "verbose", "plugin", "launcher", "ray_address", *SLURM}


def pipeline_flags() -> FlagParser:
    """Return the parser of this command's own flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is trained"):
        _add_grid_flags(parser)
    with parser.group("How"):
        _add_run_flags(parser)
    return parser


def _add_grid_flags(parser: FlagParser) -> None:
    """Declare the three lists and the seeds."""
    add = parser.add_argument
    add("--algo", nargs="+", choices=tuple(registered_rl), metavar="NAME", help=f"Learners (default {DEFAULT_ALGO}).")
    add("--env", nargs="+", metavar="ID", help=f"Environments (default {DEFAULT_ENV}).")
    add(
        "--srl-model",
        nargs="+",
        choices=tuple(registered_srl),
        metavar="NAME",
        help="What is observed (default ground_truth).",
    )
    add("--num-iteration", type=int, default=15, minimum=1, metavar="K", help="Runs of each cell.")
    add("--seed", type=int, default=0, minimum=0, maximum=MAX_SEED, help="Seed of the first; run i has seed + i.")
    add("--plugin", metavar="MODULE", help="Import this module first, as launch/train.py does.")


def _add_run_flags(parser: FlagParser) -> None:
    """Declare where and how the jobs are run."""
    add = parser.add_argument
    add(
        "--num-jobs",
        type=int,
        default=0,
        minimum=0,
        metavar="N",
        help="Trainings at a time; 0 is one with --simulator=jax, else as many as the cores have room for.",
    )
    add_launcher_flags(parser)
    add("--log-dir", default="logs/", metavar="DIR", help="Root of the pipelines' folders.")
    add("--resume", metavar="DIR", help="Continue the pipeline in this folder; finished runs are not repeated.")
    add("-v", "--verbose", action="store_true", help="Show the output of the trainings.")
    add("-h", "--help", action="store_true", help="Show this text.")


def add_launcher_flags(parser: FlagParser) -> None:
    """Declare where trainings are run."""
    add = parser.add_argument
    add(
        "--launcher",
        default="local",
        choices=("local", "ray", "slurm"),
        metavar="NAME",
        help="Run trainings as processes of this machine, on a Ray cluster, or as jobs of Slurm.",
    )
    add_address_flag(parser)
    add("--slurm-partition", metavar="NAME", help="Partition. Without this flag: Slurm's default")
    add("--slurm-time", type=int, minimum=1, metavar="MINUTES", help="Longest job. Without this flag: 1440, a day")
    add("--slurm-cpus", type=int, minimum=1, help="Cores of a training. Without this flag: those it keeps busy, or 4")
    add("--slurm-gpus", type=int, minimum=0, help="GPUs of a training. Without this flag: none")


def check_launcher(args: Namespace) -> None:
    """Refuse a launcher that is not installed, and flags of another one.

    Raises:
        UsageError: It is so.
    """
    check_cluster(args, "launcher")
    for name in SLURM:
        if getattr(args, name) is not None and args.launcher != "slurm":
            raise UsageError(f"--{name.replace('_', '-')} needs --launcher=slurm")
    if args.launcher == "slurm":
        for command in ("sbatch", "srun", "scancel", "sacct"):
            if shutil.which(command) is None:
                raise UsageError(f"--launcher=slurm: there is no Slurm here ({command} is not on the PATH)")
        if importlib.util.find_spec("submitit") is None:
            raise UsageError("--launcher=slurm needs the package submitit: pip install -r requirements-cluster.txt")


def parse_pipeline_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line of `launch/pipeline.py` (without the program name).

    Returns:
        This command's flags by underscored name, and `jobs`, `simulators` (those in use) and `run_folder` (None).

    Raises:
        UsageError: The command line cannot be carried out; nothing has been started.
        HelpRequested: It asks for help.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    parser = pipeline_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    if peek(argv, "--resume") is not None:
        return _resumed(parser, argv)
    algos = _algorithms(argv)
    own, theirs = share_out(argv, parser, algos)
    args = parser.parse(own)
    del args.help
    check_launcher(args)
    if "--num-seeds" in {word.partition("=")[0].replace("_", "-") for words in theirs.values() for word in words}:
        raise UsageError("--num-seeds has no place in a pipeline: --num-iteration says how many runs a cell has")
    if args.seed + args.num_iteration - 1 > MAX_SEED:
        raise UsageError(f"--seed={args.seed}: with {args.num_iteration} runs the last seed is above {MAX_SEED}")
    args.jobs, args.run_folder = _jobs(args, algos, theirs), None
    return args


def _algorithms(argv: Sequence[str]) -> list[str]:
    """The values of --algo, before the rest of the line can be understood.

    Raises:
        UsageError: One of them does not exist.
    """
    parser, words, waiting = pipeline_flags(), [], deque(argv)
    while waiting:
        after = deque(waiting)
        try:
            words += [word for word in parser.take(after) if word.startswith("--algo=")]
            waiting = after
        except UsageError:  # a flag of the training, or one of its values
            waiting.popleft()
    return sorted(set(parser.parse(words).algo)) or [DEFAULT_ALGO]


def _jobs(args: Namespace, algos: Sequence[str], theirs: dict[str, list[str]]) -> list[Job]:
    """All jobs in order: algorithm, representation, environment, seed. Each cell's flags are parsed as train's are."""
    shared = [f"--plugin={args.plugin}"] * (args.plugin is not None) + ["--verbose=true"] * args.verbose
    models = sorted(set(args.srl_model)) or ["ground_truth"]
    envs = sorted(set(args.env)) or [DEFAULT_ENV]
    jobs = []
    for algo in algos:
        for model in models:
            for env in envs:
                words = tuple(shared + theirs[algo])
                draft = Job(algo, env, model, args.seed, 1, 1, 0, words)
                try:
                    parsed = parse_train_args(draft.command(Path(args.log_dir)))
                except ValueError as error:
                    alone = len(algos) * len(models) * len(envs) == 1
                    raise UsageError(str(error) if alone else f"{draft.cell}: {error}") from None
                if parsed.distributed != "off" or parsed.coordinator:
                    raise UsageError("several processes train one run: that has no place in a pipeline")
                if parsed.rollout_launcher != "local":
                    raise UsageError("--rollout-launcher spreads one run: it has no place in a pipeline, leave it out")
                jobs += _cell(draft, parsed, args.num_iteration)
    return jobs


def _cell(draft: Job, parsed: Namespace, count: int) -> list[Job]:
    """The jobs of one cell: all seeds at once in the JAX simulator, else one each."""
    spans = [(draft.seed, count)] if parsed.simulator == "jax" else [(draft.seed + i, 1) for i in range(count)]
    return [
        dataclasses.replace(
            draft, seed=seed, num_seeds=number, num_timesteps=parsed.num_timesteps, cores=cores_of(parsed)
        )
        for seed, number in spans
    ]


def cores_of(args: Namespace) -> int:
    """Cores that a training keeps busy; 0 is all of them, or all that there is: devices, a robot."""
    if args.simulator == "jax" or args.real_robot or registered_rl[args.algo][1] is AlgoType.EVOLUTION_STRATEGIES:
        return 0
    return min(args.num_workers or os.cpu_count() or 1, getattr(args, "num_cpu", 1))


def _resumed(parser: FlagParser, argv: Sequence[str]) -> Namespace:
    """The jobs of a pipeline that was begun earlier."""
    args = parser.parse(argv)
    del args.help
    check_launcher(args)
    other = sorted(parser.given - _FREE_ON_RESUME)
    if other:
        raise UsageError(f"{parser[other[0]].option.flag} cannot be given with --resume: the pipeline has its own")
    folder = Path(args.resume)
    if not (folder / PIPELINE_FILE).is_file():
        raise UsageError(f"--resume={folder} is not a pipeline's folder: {PIPELINE_FILE} is missing")
    stored = read_json(folder / PIPELINE_FILE, f"pipeline {folder}")
    try:
        args.jobs = [Job.restored(job) for job in stored["jobs"]]
    except (KeyError, TypeError):
        raise UsageError(f"pipeline {folder}: {PIPELINE_FILE} is damaged") from None
    plugins = {word for job in args.jobs for word in job.words if word.startswith("--plugin=")}
    if plugins and not args.plugin:  # what a folder says is never taken as code to run
        raise UsageError(f"--resume={folder}: that pipeline used {plugins.pop()}, give it again")
    args.run_folder = None
    return args


def default_num_jobs(jobs: Sequence[Job]) -> int:
    """How many trainings run at a time: one that needs all there is, or as many as there are cores for."""
    if not all(job.cores for job in jobs):
        return 1
    return max(1, (os.cpu_count() or 1) // max(job.cores for job in jobs))
