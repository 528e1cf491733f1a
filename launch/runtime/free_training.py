"""Training of a learner that brings its own loop: the toolbox keeps the run folder, the records and the best model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from agents.base_classes import BaseRLObject, check_action_kind
from envs.make import EnvOptions, host_spec
from launch.runtime.env_globals import environment_globals
from launch.runtime.finishing import complete
from launch.runtime.logger import RunLogger
from launch.runtime.model import BEST, FINAL, model_folder
from launch.runtime.run_folder import create_run_folder
from launch.runtime.srl_models import encoding_of


class Callback:
    """What a learner calls as `callback(locals(), globals())`; returns False when the budget is spent.

    From the learner's locals it takes `env` (a VecEnv: its finished episodes are recorded) and `self` (saved as the
    best model when the mean return of the last `--episode-window` episodes is the best so far).
    """

    def __init__(self, algorithm: BaseRLObject, args: Namespace, logger: RunLogger, models: Path) -> None:
        self._algorithm, self._args, self._logger, self._models = algorithm, args, logger, models
        self._best = -np.inf
        self._steps = self._calls = self._episodes = 0

    def __call__(self, _locals: dict[str, Any], _globals: dict[str, Any] | None = None) -> bool:
        """Record what happened since the last call."""
        env = _locals["env"]
        self._calls += 1
        finished, env.episodes[:] = list(env.episodes), []
        if finished:
            rank, returns, lengths = (np.asarray(column) for column in zip(*finished, strict=True))
            self._logger.episodes(0, rank, returns, lengths)
            self._steps += int(lengths.sum())
            self._episodes += len(finished)
            mean = float(self._logger.recent_returns()[0])
            self._logger.log(self._calls, self._steps, {"train/return": mean})
            if self._episodes >= self._args.min_episodes_save and mean > self._best:
                self._best = mean
                self._algorithm.save(str(self._models / BEST), _locals)
        return self._steps < self._args.num_timesteps


def check_free(args: Namespace) -> EnvOptions:
    """Check that a learner with its own loop can be trained as the flags say, and return the environment's options.

    Raises:
        ValueError: A flag that only built-in drivers understand, or actions that the learner does not have.
    """
    given_flags = {"--num-seeds": args.num_seeds > 1, "--sweep": args.sweep, "--resume": args.resume}
    given_flags["--on-nan=skip"] = args.on_nan == "skip"
    given_flags["--rollout-launcher=ray"] = args.rollout_launcher == "ray"
    given_flags["--simulator=jax"] = args.simulator == "jax"
    refused = [flag for flag, is_given in given_flags.items() if is_given]
    if refused:
        raise ValueError(f"{args.algo} brings its own training loop and cannot do {', '.join(refused)}: leave it out")
    options = EnvOptions.from_args(args)
    check_action_kind(args.algo, host_spec(options, encoding_of(options)))
    return options


def train_free(algorithm: BaseRLObject, args: Namespace) -> None:
    """Train a `BaseRLObject` that is no `JaxAlgorithm`; sets `args.run_folder` once the folder exists.

    Raises:
        ValueError: A flag that only built-in drivers understand, actions that the learner does not have, or a folder
            that cannot be written; nothing has been written then.
    """
    options = check_free(args)
    given = {name: value for name, value in vars(args).items() if name != "run_folder"}
    folder = create_run_folder(args.log_dir, args.env, args.srl_model, args.algo, given, environment_globals(options))
    args.run_folder = folder
    models = model_folder(folder, args.algo)
    mode = "disabled" if args.no_vis else args.wandb_mode
    logger = RunLogger(
        folder,
        given,
        args.env,
        1,
        args.num_timesteps,
        mode,
        args.wandb_project,
        episode_window=args.episode_window,
        tags=getattr(args, "tags", ()),
    )
    logger.message(f"run folder: {folder}")
    exit_code = 1
    try:
        algorithm.train(args, Callback(algorithm, args, logger, models), options, args.hyperparam)
        algorithm.save(str(models / FINAL))
        mean = float(logger.recent_returns()[0])
        logger.message(f"mean return of the last {args.episode_window} training episodes: {mean:.2f}")
        complete(folder, args, logger)
        exit_code = 0
    finally:
        logger.close(exit_code)
