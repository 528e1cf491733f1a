"""Training of a learner that brings its own loop: the toolbox keeps the run folder, the records and the best model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from agents.base_classes import BaseRLObject, check_action_kind
from envs.make import EnvOptions, host_spec
from launch.runtime.drivers.common import NO_LIMIT
from launch.runtime.env_globals import environment_globals
from launch.runtime.finishing import complete
from launch.runtime.logger import RunLogger
from launch.runtime.model import BEST, FINAL, model_folder
from launch.runtime.run_folder import create_run_folder
from launch.runtime.srl_models import encoding_of
from launch.runtime.training import FINAL_EVALUATION_SEED

MOST_ENVS = 8  # that an evaluation plays in at once


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

    def scores(self, metrics: dict[str, float]) -> None:
        """Record how the run ended, after all that was recorded of its training."""
        self._logger.log(self._calls, self._steps, metrics)


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
        callback = Callback(algorithm, args, logger, models)
        algorithm.train(args, callback, options, args.hyperparam)
        algorithm.save(str(models / FINAL))
        mean = float(logger.recent_returns()[0])
        logger.message(f"mean return of the last {args.episode_window} training episodes: {mean:.2f}")
        if not options.single:  # of a real robot there is no second one to evaluate on
            scores = _final_evaluation(algorithm, args, options, logger, models)
            if scores:
                callback.scores(scores)
        complete(folder, args, logger)
        exit_code = 0
    finally:
        logger.close(exit_code)


def _final_evaluation(
    algorithm: BaseRLObject, args: Namespace, options: EnvOptions, logger: RunLogger, models: Path
) -> dict[str, float]:
    """Scores of the final policy, and of the best one as it was saved, on episodes that chose nothing.

    All of it is the learner's own code. What it raises is a warning, and the policy has no score: a training that went
    well is not lost by it.
    """
    found: dict[str, np.ndarray] = {}
    for name in (FINAL, BEST):
        if not (models / name).exists():
            continue
        try:
            policy = algorithm if name == FINAL else type(algorithm).load(str(models / name), args)
            found[name] = _returns(policy, args, options, models / name)
        except Exception as error:
            reason = " ".join(str(error).split())
            logger.message(f"warning: the {name} policy has no score: {type(error).__name__}: {reason}")
    if not found:
        return {}
    said = ", ".join(f"{name} {returns.mean():.2f} ± {returns.std():.2f}" for name, returns in found.items())
    logger.message(f"mean return of {args.final_eval_episodes} evaluation episodes: {said}")
    used = found.get(BEST, found.get(FINAL))
    assert used is not None
    scores = {f"score/{name}": float(returns.mean()) for name, returns in found.items()}
    return {**scores, "score/std": float(used.std())}


def _returns(policy: BaseRLObject, args: Namespace, options: EnvOptions, model: Path) -> np.ndarray:
    """Returns [`--final-eval-episodes`] of the actions that `getAction` chooses, in environments of `makeEnv`.

    Every environment plays the same number of episodes, so that short ones are not over-represented.

    Raises:
        ValueError: An episode does not end.
    """
    count = args.final_eval_episodes
    own = Namespace(**{**vars(args), "seed": FINAL_EVALUATION_SEED, "num_cpu": min(count, MOST_ENVS)})
    env = policy.makeEnv(own, options, load_path_normalise=str(model))
    try:
        rounds = -(-count // env.num_envs)
        played: list[list[float]] = [[] for _ in range(env.num_envs)]
        obs, dones = env.reset(), np.zeros(env.num_envs, bool)
        for _ in range(rounds * (env.spec.max_episode_steps or NO_LIMIT)):
            obs, _, dones, _ = env.step(policy.getAction(obs, dones))
            for rank, value, _ in env.episodes:
                played[rank].append(value)
            env.episodes[:] = []
            if min(map(len, played)) >= rounds:
                return np.asarray([returns[:rounds] for returns in played]).T.reshape(-1)[:count]
    finally:
        env.close()
    raise ValueError("an evaluation episode does not end")
