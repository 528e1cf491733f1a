"""Training of a sweep in batches, one after another."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agents.base_classes import JaxAlgorithm
from launch.runtime import batches, files
from launch.runtime.distributed import FLAGS
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.env_globals import environment_globals
from launch.runtime.errors import RunError
from launch.runtime.finishing import complete
from launch.runtime.logger import RunLogger, SilentLogger, aggregate
from launch.runtime.model import BEST, FINAL, model_folder
from launch.runtime.policy import model_info, read_policies
from launch.runtime.run_folder import create_run_folder
from launch.runtime.sweep import Plan
from launch.runtime.training import Prepared, Training
from launch.runtime.wandb_sink import WandbSink


def train_batches(
    algorithm: JaxAlgorithm, args: Namespace, prepared: Prepared, callback: Callable[..., Any] | None
) -> np.ndarray:
    """Train all runs; see `launch.runtime.training.train`.

    Returns:
        Mean return of the final evaluation for each run [K].
    """
    options, config, runs, driver = prepared
    assert isinstance(driver, DeviceDriver)  # on the host there are no batches
    size = driver.num_runs
    parts = batches.split(runs, size)
    _check_policy(algorithm, args, driver, len(parts))
    folder = Path(args.resume) if args.resume else _create_folder(args, prepared)
    files.note(f"run folder: {folder}")
    needed = batches.needed_memory(driver) / 2**20
    files.note(f"memory: {needed:,.1f} MiB for {size} runs at a time, {len(parts)} batches of {len(runs)} runs in all")
    args.run_folder = folder
    done: list[tuple[Path, int]] = []
    for number, (batch, count) in enumerate(parts):
        path = folder / f"batch_{number}"
        done.append((path, count))
        if batches.is_finished(path):
            files.note(f"batch {number + 1} of {len(parts)} is finished already")
            continue
        files.note(f"batch {number + 1} of {len(parts)}")
        driver.begin(algorithm.hyper_tree(batch.hyper), batch.seeds)
        _Batch(type(algorithm)(), batches.batch_args(args, path), options, config, batch, driver, callback, path).run()
    models = model_folder(folder, args.algo)
    batches.join_models(models, done, model_info(args.algo, config, runs, options, driver.spec))
    records = batches.join_records(folder, done)  # last: with its scores the sweep counts as finished
    scores = {name: value for _, found in records for name, value in found.items() if name.startswith("score/")}
    for name, value in scores.items():
        summary = aggregate({"": value})
        text = ", ".join(f"{key} {summary['/' + key]:.2f}" for key in ("mean", "iqm", "low", "high"))
        files.note(f"{name} of {len(runs)} runs: {text}")
    _tell_wandb(args, folder, runs, records)
    card = Namespace(simulator=args.simulator, algo=args.algo)  # no video, no artifacts: they are of one policy
    complete(folder, card, SilentLogger(len(runs)))
    policy = type(algorithm).load(str(models / (BEST if (models / BEST).is_dir() else FINAL)))
    algorithm.__dict__.update(policy.__dict__)
    return scores.get("score/best", scores["score/final"])


class _Batch(Training):
    """The training of one batch, in a folder of its own."""

    def __init__(
        self, algorithm: Any, args: Any, options: Any, config: Any, runs: Any, driver: Any, callback: Any, path: Path
    ) -> None:
        super().__init__(algorithm, args, options, config, runs, driver, callback)
        self._path = path

    def _create_folder(self) -> Path:
        return self._path

    def _make_logger(self) -> RunLogger:
        logger = super()._make_logger()
        logger.has_columns = True  # of a batch of one run, too: they are put together
        return logger

    def _resume(self) -> None:
        try:
            super()._resume()
        except ValueError as error:  # the sweep is under way: this is its failure, not one of the command line
            raise RunError(str(error)) from None

    def _complete(self) -> None:
        """Nothing: the sweep does so for all batches together."""

    def _tell_scores(self, scores: dict[str, np.ndarray], count: int) -> None:
        """Nothing: the sweep tells those of all batches together."""


def _check_policy(algorithm: JaxAlgorithm, args: Namespace, driver: DeviceDriver, count: int) -> None:
    """Refuse a policy to start from that cannot be used, before a folder is made, where a batch of `count` needs it.

    Raises:
        ValueError: There is none, or it does not fit.
    """
    begun = args.resume and all(batches.can_resume(Path(args.resume, f"batch_{number}")) for number in range(count))
    if args.load_rl_model_path and not begun:
        read_policies(args.load_rl_model_path, algorithm, driver.spec, 1)


def _create_folder(args: Namespace, prepared: Prepared) -> Path:
    """Make the run folder; the size of the batches is kept, so that a resumed sweep has the same."""
    args.runs_per_batch = prepared.driver.num_runs
    given = {name: value for name, value in vars(args).items() if name not in ("run_folder", *FLAGS)}
    constants = environment_globals(prepared.options)
    return create_run_folder(args.log_dir, args.env, args.srl_model, args.algo, given, constants)


def _tell_wandb(args: Namespace, folder: Path, runs: Plan, records: list[tuple[int, dict[str, np.ndarray]]]) -> None:
    """One wandb group: the aggregates of all runs, and a table of their scores."""
    mode = "disabled" if args.no_vis else args.wandb_mode
    config = files.json_safe({**vars(args), "labels": runs.labels})
    settings = runs.settings(args.sweep or ())
    sink = WandbSink(folder, config, args.wandb_project, mode, len(runs), files.warn, settings=settings)
    for step, values in records:
        sink.log(step, values, aggregate(values))
    scores = {name: value for _, found in records for name, value in found.items() if name.startswith("score/")}
    sink.table("runs", runs.labels, scores)
    sink.close()
