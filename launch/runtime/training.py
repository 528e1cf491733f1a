"""Training from start to end: drivers, evaluation, checkpoints, the best and the final policy."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from agents.base_classes import JaxAlgorithm, check_action_kind
from agents.common.finite import BROKEN, quantities, watched
from agents.types import Agent
from envs.make import EnvOptions, device_env, host_spec
from envs.types import Spec
from launch.runtime.batches import check_memory, fitting_driver, split, stated_memory
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.cluster import connect
from launch.runtime.distributed import FLAGS, any_process, first_text, is_first
from launch.runtime.drivers.common import Chunk, Driver
from launch.runtime.drivers.frame_ring import settled
from launch.runtime.env_globals import environment_globals
from launch.runtime.errors import LEAVE_OUT, RunError
from launch.runtime.finishing import complete
from launch.runtime.interrupt import Interrupt
from launch.runtime.logger import MAX_MONITORED_RUNS, RunLogger, SilentLogger, aggregate
from launch.runtime.model import BEST, FINAL, model_folder, save_model
from launch.runtime.policy import model_info, only, read_policies
from launch.runtime.run_folder import create_run_folder
from launch.runtime.srl_models import encoding_of
from launch.runtime.sweep import Plan, plan

EVALUATION_SEED = 1_000_003  # during training always the same episodes, so that evaluations compare
FINAL_EVALUATION_SEED = 2_000_003  # the reported score comes from episodes that chose nothing
LINES_PER_RUN = 200  # about as many lines of metrics a run gets
LINES_OF_MANY = 50  # of a sweep that records aggregates only: fewer, longer chunks are faster
MAX_BLOCK = 64  # iterations
MOST_TOLD = 5  # runs that a message names


def build_driver(
    algorithm: JaxAlgorithm,
    options: EnvOptions,
    config: Any,
    runs: Plan,
    num_timesteps: int,
    num_workers: int = 0,
    data_parallel: bool = False,
    on_nan: str = "stop",
    rollout_launcher: str = "local",
) -> Driver:
    """Build environments, agent and the driver that joins them; nothing is allocated yet.

    The agent is `watched`: its metrics hold `BROKEN`.

    Raises:
        ValueError: The environment or the algorithm refuses the options.
    """
    if not options.on_device:
        # Acting takes some ten microseconds on a CPU: less than waking another thread for it. This has an effect only
        # before the first use of the backend.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    hyper = algorithm.hyper_tree(runs.hyper)
    encoding = encoding_of(options)

    def agent_for(spec: Spec) -> tuple[Agent, int]:
        check_action_kind(algorithm.name, spec)
        placed = settled(config, spec, options.on_device)
        agent = watched(type(algorithm).make(spec, placed), skip=on_nan == "skip")
        per_iteration = agent.traits.rollout_length * agent.traits.num_envs
        return agent, max(1, -(-num_timesteps // per_iteration))

    if options.on_device:
        from launch.runtime.drivers.device import DeviceDriver

        env = device_env(options, encoding)
        agent, iterations = agent_for(env.spec)
        return DeviceDriver(env, agent, hyper, runs.seeds, iterations, data_parallel=data_parallel)

    from launch.runtime.drivers.host import HostDriver
    from launch.runtime.pools import pool_factory

    make_pool = pool_factory(options, encoding, num_workers, on_nan == "stop", rollout_launcher)
    spec = host_spec(options, encoding)
    agent, iterations = agent_for(spec)
    options.check_count(agent.traits.num_envs * len(runs))
    num_groups = 2 if options.learned or spec.pixels else 1  # to look at pictures takes long
    return HostDriver(make_pool, spec, agent, hyper, runs.seeds, iterations, num_groups)


def train(
    algorithm: JaxAlgorithm,
    args: Namespace,
    callback: Callable[..., Any] | None = None,
    env_kwargs: EnvOptions | None = None,
    hyperparam: dict[str, Any] | None = None,
) -> np.ndarray:
    """Train as the flags say.

    Args:
        algorithm: What to train; afterwards it plays the best policy of run 0.
        args: Flags by underscored name; `args.run_folder` is set as soon as the folder exists.
        callback: Called as callback(locals(), globals()) after every chunk; returning False stops the training.
        env_kwargs: Environment options; those of the flags by default.
        hyperparam: Algorithm options by name that replace those of the flags.

    Returns:
        Mean return of the final evaluation for each run [K].

    Raises:
        ValueError: The options are invalid; nothing has been written.
    """
    options, config, runs, driver = prepared = prepare(algorithm, args, env_kwargs, hyperparam)
    try:
        if driver.num_runs < len(runs):
            from launch.runtime.batched_training import train_batches  # here because few need it

            return train_batches(algorithm, args, prepared, callback)
        return Training(algorithm, args, options, config, runs, driver, callback).run()
    finally:
        driver.close()


class Prepared(NamedTuple):
    """A training that could start: everything is checked, nothing is allocated or written.

    Attributes:
        options: What the environment is.
        config: Static options of the algorithm.
        runs: The K runs.
        driver: To be closed; of fewer runs where not all fit the memory at once, see `launch.runtime.batches`.
    """

    options: EnvOptions
    config: Any
    runs: Plan
    driver: Driver


def prepare(
    algorithm: JaxAlgorithm,
    args: Namespace,
    env_kwargs: EnvOptions | None = None,
    hyperparam: dict[str, Any] | None = None,
    exact: bool = True,
) -> Prepared:
    """Build what a training needs; see `train` for the other arguments.

    Args:
        exact: Whether to compile the program of several runs at once, to know exactly what memory they need.

    Raises:
        ValueError: The options are invalid, there is too little memory, or there is no cluster.
    """
    options = env_kwargs or EnvOptions.from_args(args)
    config, hyper = algorithm.configure({**vars(args), **(hyperparam or {})})
    runs = plan(hyper, args.sweep or {}, args.seed, args.num_seeds)
    for run in range(len(runs)) if args.sweep else ():
        algorithm.check(config, {name: float(values[run]) for name, values in runs.hyper.items()})

    def build(size: int) -> Any:
        first, _ = split(runs, size)[0]
        steps, workers, where = args.num_timesteps, args.num_workers, args.rollout_launcher
        return build_driver(algorithm, options, config, first, steps, workers, args.data_parallel, args.on_nan, where)

    if options.on_device and len(runs) > 1 and not args.data_parallel and jax.process_count() == 1:
        # What a resumed sweep has checkpoints of is in its flags, however much memory there is now.
        driver = fitting_driver(build, len(runs), args.runs_per_batch, exact, fixed=bool(args.resume))
        return Prepared(options, config, runs, driver)
    if args.rollout_launcher == "ray":
        connect(args.ray_address)
    driver = build(len(runs))
    try:
        check_memory(driver, len(runs))
    except ValueError:
        driver.close()
        raise
    return Prepared(options, config, runs, driver)


class Training:
    """One call of `train`: the loop and what it keeps between blocks.

    A block is the unit of logging: a fixed number of iterations, so that what is logged does not depend on how fast
    the machine is or on where a run was interrupted.
    """

    def __init__(
        self,
        algorithm: JaxAlgorithm,
        args: Namespace,
        options: EnvOptions,
        config: Any,
        runs: Plan,
        driver: Driver,
        callback: Callable[..., Any] | None,
    ) -> None:
        self.algorithm, self.args, self.options, self.config = algorithm, args, options, config
        self.runs, self.driver, self.callback = runs, driver, callback
        self.first = is_first()  # of several processes: the one that writes
        self.iteration = 0
        self.steps = np.zeros(len(runs), np.int64)
        self.episodes = np.zeros(len(runs), np.int64)
        self.skipped = np.zeros(len(runs), np.int64)  # updates left out because a number was not finite
        self.best_score = np.full(len(runs), -np.inf)
        self.best: Any = None
        self.info = model_info(algorithm.name, config, runs, options, driver.spec)
        traits = driver.agent.traits
        planned = args.num_timesteps // (traits.rollout_length * traits.num_envs)
        lines = LINES_PER_RUN if len(runs) <= MAX_MONITORED_RUNS else LINES_OF_MANY
        self.block = max(1, min(planned // lines, MAX_BLOCK))
        self.eval_every = args.eval_every or max(1, args.num_timesteps // 10)
        self.checkpoint_every = args.checkpoint_every or self.eval_every

    def run(self) -> np.ndarray:
        """Train, evaluate, save; see `train`."""
        args = self.args
        policies = self._start_policies()
        self.folder = Path(args.resume or first_text(str(self._create_folder()) if self.first else ""))
        self.models = model_folder(self.folder, self.algorithm.name)
        self.checkpoints = Checkpointer(self.folder)
        self.logger = self._make_logger() if self.first else SilentLogger(len(self.runs))
        self.logger.message(f"run folder: {self.folder}")
        self.logger.message(f"memory: {stated_memory(self.driver)} for {len(self.runs)} run(s)")
        exit_code = 1
        try:
            if args.resume:
                self._resume()
            elif policies is not None:
                self.driver.adopt(policies)
            args.run_folder = self.folder  # from here on a failure is one of the run, not of the command line
            self._loop()
            score = self._finish()
            self._complete()
            exit_code = 0
            return score
        finally:
            self.logger.close(exit_code)

    def _complete(self) -> None:
        """What a finished run folder gets besides."""
        if isinstance(self.logger, RunLogger):
            complete(self.folder, self.args, self.logger)

    def _make_logger(self) -> RunLogger:
        args = self.args
        return RunLogger(
            self.folder,
            {**vars(args), "labels": self.runs.labels},
            args.env,
            len(self.runs),
            wandb_mode="disabled" if args.no_vis else args.wandb_mode,
            wandb_project=args.wandb_project,
            total_steps=args.num_timesteps,
            episode_window=args.episode_window,
            tags=getattr(args, "tags", ()),
            settings=self.runs.settings(args.sweep or ()),
        )

    def _create_folder(self) -> Path:
        """Make the run folder with its record of flags and environment constants."""
        args = self.args
        given = {name: value for name, value in vars(args).items() if name not in ("run_folder", *FLAGS)}
        if "replay_memory" in given:  # where its checkpoints have it, on whatever machine they are gone on with
            given["replay_memory"] = "device" if self.driver.agent.host_frames is None else "host"
        constants = environment_globals(self.options)
        return create_run_folder(args.log_dir, args.env, args.srl_model, args.algo, given, constants)

    def _start_policies(self) -> Any:
        """The policies of --load-rl-model-path, or None; a resumed run needs them no more."""
        path = None if self.args.resume else self.args.load_rl_model_path
        return read_policies(path, self.algorithm, self.driver.spec, len(self.runs)) if path else None

    def _loop(self) -> None:
        """Blocks until the budget of every run is spent, or until Ctrl-C."""
        next_eval, next_checkpoint = self._next(self.eval_every), self._next(self.checkpoint_every)
        with Interrupt(self.logger.message) as interrupt:
            while self.steps.min() < self.args.num_timesteps:
                self._play_block()
                spent = int(self.steps.min())
                if spent >= next_eval or spent >= self.args.num_timesteps:
                    self._evaluate()
                    next_eval = self._next(self.eval_every)
                interrupted = any_process(interrupt.requested)
                if spent >= next_checkpoint or interrupted:
                    self._checkpoint()
                    next_checkpoint = self._next(self.checkpoint_every)
                if interrupted:
                    raise KeyboardInterrupt
                if self.callback is not None and self.callback(locals(), globals()) is False:
                    break

    def _next(self, every: int) -> int:
        """The next multiple of `every` above the steps done."""
        return (int(self.steps.min()) // every + 1) * every

    def _play_block(self) -> None:
        """Play one block and log the mean of each metric over it, skipped updates left out."""
        sums: dict[str, np.ndarray] = {}
        played, learned = 0, np.zeros(len(self.runs))
        while played < self.block and self.steps.min() < self.args.num_timesteps:
            chunk = self._advance(self.block - played, self.iteration + played)
            good = chunk.metrics[BROKEN] == 0
            if not good.all():
                self._tell_broken(chunk, self.iteration + played)
            played, learned = played + len(chunk.steps), learned + good.sum(axis=0)
            self.steps += chunk.steps.sum(axis=0)
            self.episodes += np.bincount(chunk.episodes.run, minlength=len(self.runs))
            self.logger.episodes(*chunk.episodes)
            for name, values in chunk.metrics.items():
                if name != BROKEN:
                    sums[name] = sums.get(name, 0.0) + np.where(good, values, 0.0).sum(axis=0, dtype=np.float64)
        self.iteration += played
        with np.errstate(invalid="ignore"):  # 0 / 0 where every update was skipped
            metrics = {f"train/{name}": total / learned for name, total in sums.items()}
        metrics["train/return"] = self.logger.recent_returns()
        if self.args.on_nan == "skip":
            metrics["train/skipped_updates"] = self.skipped.astype(np.float64)
        self.logger.log(self.iteration, int(self.steps.min()), metrics)

    def _advance(self, count: int, start: int) -> Chunk:
        """At most `count` iterations of the driver, from iteration `start`.

        Raises:
            RunError: A simulator failed, or returned a number that is not finite, which is to stop the runs.
        """
        try:
            return self.driver.run(count)
        except RuntimeError as error:
            from envs.host.vector import WorkerError  # here because device runs need no Gymnasium

            if not isinstance(error, WorkerError):
                raise
            advice = f"; {LEAVE_OUT}" if "finite" in str(error) else ""
            raise RunError(f"{error}, at iteration {start}; {self._kept()}{advice}") from error

    def _kept(self) -> str:
        """From where a run that ends early can go on."""
        saved = self.checkpoints.iterations()
        if not saved:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is of iteration {saved[-1]}: --resume {self.folder}"

    def _tell_broken(self, chunk: Chunk, start: int) -> None:
        """Say which runs met a number that is not finite, in a chunk that began with iteration `start`, and count.

        Raises:
            RunError: Such a run is to stop. The newest checkpoint is from before.
        """
        broken, names = chunk.metrics[BROKEN], quantities(chunk.metrics)
        said = []
        for run in np.flatnonzero(broken.any(axis=0)):
            at = int(np.flatnonzero(broken[:, run])[0])
            if not self.skipped[run]:
                quantity = names[int(broken[at, run]) - 1]
                said.append(f"{self.runs.labels[run]}: {quantity} not finite at iteration {start + at}")
        self.skipped += (broken > 0).sum(axis=0)
        more = f" and {len(said) - MOST_TOLD} more runs" if len(said) > MOST_TOLD else ""
        text = "; ".join(said[:MOST_TOLD]) + more
        if self.args.on_nan == "stop":
            raise RunError(f"{text}; {self._kept()}; {LEAVE_OUT}")
        if said:
            self.logger.message(f"warning: {text}: such updates are left out")

    def _evaluate(self) -> None:
        """Judge the policies and keep the best."""
        score = self._judge()
        enough = self.episodes >= self.args.min_episodes_save
        better = enough & np.isfinite(score) & (score > self.best_score)
        if better.any():
            acting = jax.tree.map(np.asarray, self.driver.acting())
            self.best = acting if self.best is None else jax.tree.map(partial(_where, better), acting, self.best)
            self.best_score = np.where(better, score, self.best_score)
            self._save_model(BEST, self._best_policies(), self.best_score)

    def _judge(self) -> np.ndarray:
        """Mean return [K] of fixed episodes.

        Of a real robot there is no second one to evaluate on: there it is that of the last training episodes, as in
        the original, and not a number before the first has ended.
        """
        if self.options.single:
            return self.logger.recent_returns()
        returns = self._returns(self.args.eval_episodes, EVALUATION_SEED)
        self.logger.evaluation(int(self.steps.min()), returns)
        return returns.mean(axis=1)

    def _returns(self, episodes: int, seed: int, acting: Any = None) -> np.ndarray:
        """Returns [K, episodes] of the policies, which are deterministic unless the flags say otherwise."""
        return self.driver.evaluate(episodes, seed, explore=not self.args.eval_deterministic, acting=acting)

    def _save_model(self, name: str, acting: Any, score: np.ndarray) -> None:
        if self.first:
            save_model(self.models, name, acting, self.info | {"steps": self.steps.tolist(), "score": score.tolist()})

    def _checkpoint(self) -> None:
        """Write everything a resumed run needs."""
        metadata = {
            "steps": self.steps.tolist(),
            "episodes": self.episodes.tolist(),
            "skipped": self.skipped.tolist(),
            "best_score": [None if score == -np.inf else float(score) for score in self.best_score],
            "logger": self.logger.state(),
        }
        tree = {"driver": self.driver.checkpoint(), "best": self._best_policies()}  # all processes gather it
        if self.first:
            self.checkpoints.save(self.iteration, tree, metadata)

    def _best_policies(self) -> Any:
        """The best policies, leaves [K, ...]; of a run that has no best yet the present one."""
        known = np.isfinite(self.best_score)
        if self.best is not None and known.all():
            return self.best
        acting = jax.tree.map(np.asarray, self.driver.acting())
        return acting if self.best is None else jax.tree.map(partial(_where, known), self.best, acting)

    def _resume(self) -> None:
        """Continue from the newest usable checkpoint."""
        template = {"driver": self.driver.checkpoint(), "best": self._best_policies()}
        tree, metadata = self.checkpoints.restore(template)
        self.driver.restore(tree["driver"])
        self.iteration = int(tree["driver"]["iteration"])
        self.steps = np.asarray(metadata["steps"], np.int64)
        self.episodes = np.asarray(metadata["episodes"], np.int64)
        self.skipped = np.asarray(metadata["skipped"], np.int64)
        self.best_score = np.asarray([-np.inf if s is None else s for s in metadata["best_score"]])
        self.best = tree["best"] if np.isfinite(self.best_score).any() else None
        self.logger.restore(metadata["logger"])

    def _finish(self) -> np.ndarray:
        """Save the final policies and report the score of the ones to use."""
        scores = self._training_scores() if self.options.single else self._final_evaluation()
        acting = jax.tree.map(lambda x: x[0], self._best_policies())
        self.algorithm.adopt(self.driver.agent, self.driver.spec, acting, only(self.info, 0))
        return scores["final" if self.best is None else "best"]

    def _save_final(self, score: np.ndarray) -> None:
        self._save_model(FINAL, self.driver.acting(), score)
        self._checkpoint()

    def _final_evaluation(self) -> dict[str, np.ndarray]:
        """Mean return [K] of the final and of the best policies on fresh episodes."""
        count = self.args.final_eval_episodes
        scores = {"final": self._returns(count, FINAL_EVALUATION_SEED)}
        self._save_final(scores["final"].mean(axis=1))
        if self.best is not None:
            best, known = self._best_policies(), np.isfinite(self.best_score)
            scores["best"] = self._returns(count, FINAL_EVALUATION_SEED, acting=best)
            if not known.all():  # the final policy stands for the best where none has qualified
                self._save_model(BEST, best, np.where(known, self.best_score, scores["final"].mean(axis=1)))
        for name, other in self.driver.others().items():
            scores[name] = self._returns(count, FINAL_EVALUATION_SEED, acting=other)
            self._save_model(name, other, scores[name].mean(axis=1))
        means = {name: returns.mean(axis=1) for name, returns in scores.items()}
        used = scores["final" if self.best is None else "best"]
        metrics = {f"score/{name}": mean for name, mean in means.items()} | {"score/std": used.std(axis=1)}
        self.logger.log(self.iteration, int(self.steps.min()), metrics)
        self._tell_scores(scores, count)
        return means

    def _tell_scores(self, scores: dict[str, np.ndarray], count: int) -> None:
        """Say how each run ended, or all of them where they are many."""
        if len(self.runs) > MAX_MONITORED_RUNS:
            for name, returns in scores.items():
                found = aggregate({"": returns.mean(axis=1)})
                said = ", ".join(f"{key} {found['/' + key]:.2f}" for key in ("mean", "iqm", "low", "high"))
                self.logger.message(f"{name} of {len(self.runs)} runs, {count} evaluation episodes each: {said}")
            return
        for run, label in enumerate(self.runs.labels):
            said = ", ".join(f"{name} {r[run].mean():.2f} ± {r[run].std():.2f}" for name, r in scores.items())
            self.logger.message(f"{label}: mean return of {count} evaluation episodes: {said}")

    def _training_scores(self) -> dict[str, np.ndarray]:
        """Mean return [K] of the last training episodes, and the best that it was: a robot is not evaluated."""
        scores = {"final": self.logger.recent_returns()}
        self._save_final(scores["final"])
        if self.best is not None:
            scores["best"] = self.best_score
        said = ", ".join(f"{name} {score[0]:.2f}" for name, score in scores.items())
        self.logger.message(
            f"{self.runs.labels[0]}: mean return of the last {self.args.episode_window} training episodes: {said}"
        )
        return scores


def _where(chosen: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """`new` for the chosen runs [K], else `old`; leaves [K, ...]."""
    return np.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
