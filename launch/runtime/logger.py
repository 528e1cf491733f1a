"""The one place that records what a run does: metrics.jsonl, monitor files, wandb, the progress line.

metrics.jsonl holds one JSON object a line, always with `step` (environment steps of one run) and `time` (seconds since
the start). With K > 1 runs each entry is K lines with `run` (0 ... K-1) and one line of aggregates without it:
`<metric>/mean`, `<metric>/iqm`, `<metric>/low` and `<metric>/high`. What is not a finite number is null.

K > 1 runs write their monitor files to `seed_<k>/`, at most `MAX_MONITORED_RUNS` of them. With more runs than that
none are written (thousands of tiny files), and metrics.jsonl has the aggregates only. `runs.npz` has every metric of
every run in columns, see `launch.runtime.columns`; K > 1 runs and each batch of a sweep have it. It is written with
each checkpoint and at the end.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launch.runtime import files
from launch.runtime.columns import Columns
from launch.runtime.monitor import MonitorFiles
from launch.runtime.progress import ProgressLine
from launch.runtime.wandb_sink import WandbSink, check_mode

METRICS_FILE = "metrics.jsonl"
MAX_MONITORED_RUNS = 64


class RunLogger:
    """Records K runs that train in lockstep into one run folder.

    Args:
        folder: The run folder.
        config: What wandb records of the run.
        env_id: Environment id, for the monitor files.
        num_runs: K.
        total_steps: Environment steps of one run.
        wandb_mode: "auto", "online", "offline" or "disabled", see `WandbSink`.
        wandb_project: wandb project.
        progress: Whether to show the progress line.
        episode_window: Episodes in the running mean of the return.
        tags: wandb tags.
        settings: What each of the K runs has of its own, in place of entries of `config`; none by default.

    Attributes:
        has_columns: Whether `runs.npz` is written; set before anything is recorded.

    Raises:
        ValueError: an unknown wandb mode.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any],
        env_id: str,
        num_runs: int,
        total_steps: int,
        wandb_mode: str = "auto",
        wandb_project: str = "srl-jax",
        progress: bool = True,
        episode_window: int = 40,
        tags: Sequence[str] = (),
        settings: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        check_mode(wandb_mode)
        self.folder = Path(folder)
        self.num_runs, self.has_columns = num_runs, num_runs > 1
        self.best_evaluation = np.full(num_runs, -np.inf)
        self._env_id = env_id
        self._columns = Columns(config.get("labels", [str(run) for run in range(num_runs)]))
        self._wandb_options = (files.json_safe(config), wandb_project, wandb_mode, tuple(tags), tuple(settings))
        self._wandb_state: dict[str, str] = {}
        self._wandb: WandbSink | None = None
        self._recent = [deque[float](maxlen=episode_window) for _ in range(num_runs)]
        self._progress = ProgressLine(total_steps, num_runs) if progress else None
        self._begin(time.time(), 0.0, 0)

    def _begin(self, t_start: float, elapsed: float, step: int) -> None:
        self._t_start = t_start
        self._clock_zero = time.monotonic() - elapsed
        folders = [self.folder] if self.num_runs == 1 else [self.folder / f"seed_{k}" for k in range(self.num_runs)]
        self._monitors = [
            MonitorFiles(folder, self._env_id, t_start) for folder in folders if self.num_runs <= MAX_MONITORED_RUNS
        ]
        self._step = step
        if self._progress:
            self._progress.start(step)

    def elapsed(self) -> float:
        """Seconds of the run so far; the time between a kill and the resumption does not count."""
        return time.monotonic() - self._clock_zero

    def log(self, iteration: int, step: int, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of one iteration.

        Args:
            iteration: Updates so far.
            step: Environment steps of one run so far, counted in Python integers (an int32 would wrap).
            metrics: name -> array [K], or a number where K is 1.

        Raises:
            ValueError: a metric has another shape.
            OSError: metrics.jsonl cannot be written.
        """
        self._record({"step": int(step), "iteration": int(iteration)}, metrics)
        if any(name.startswith("score/") for name in metrics):  # the last there is: readers may come from now on
            self._save_columns()

    def episodes(self, run: Any, rank: Any, returns: Any, lengths: Any, times: Any = None) -> None:
        """Record finished episodes, in order of their end; all arguments are broadcast to one length [n].

        Args:
            run: Which of the K runs.
            rank: Which environment of that run.
            returns: Sum of rewards.
            lengths: Number of steps.
            times: Seconds since the start at which they ended; now by default.

        Raises:
            OSError: a monitor file cannot be written.
        """
        columns = [run, rank, returns, lengths, self.elapsed() if times is None else times]
        runs, ranks, returns, lengths, times = np.broadcast_arrays(*(np.atleast_1d(column) for column in columns))
        for group in _groups(runs):
            known = returns[group][np.isfinite(returns[group])]  # others are in the monitor files
            self._recent[runs[group[0]]].extend(known.tolist())
        if self._monitors:
            for group in _groups(runs, ranks):
                monitor = self._monitors[runs[group[0]]]
                monitor.write(int(ranks[group[0]]), returns[group], lengths[group], times[group])

    def evaluation(self, step: int, returns: Any) -> np.ndarray:
        """Record an evaluation.

        Args:
            step: Environment steps of one run so far.
            returns: Return of each evaluation episode, [K, E].

        Returns:
            bool [K]: for which runs the mean return is strictly better than ever before.
        """
        returns = np.asarray(returns, np.float64)
        mean = returns.mean(axis=1)
        improved = np.isfinite(mean) & (mean > self.best_evaluation)
        self.best_evaluation = np.where(improved, mean, self.best_evaluation)
        self._record({"step": int(step)}, {"eval/return": mean, "eval/std": returns.std(axis=1)})
        return improved

    def video(self, path: Path) -> None:
        """Send a video to wandb."""
        self._sink().video(path)

    def artifact(self, folder: Path, kind: str, **options: Any) -> None:
        """Send the files of a folder to wandb as an artifact, see `WandbSink.artifact`."""
        self._sink().artifact(folder, kind, **options)

    def recent_returns(self) -> np.ndarray:
        """Mean return of the last `episode_window` episodes of each run, float64 [K]; NaN where none has ended."""
        return np.array([np.mean(recent) if recent else np.nan for recent in self._recent])

    def message(self, text: str) -> None:
        """Tell the user something, without breaking the progress line."""
        if self._progress:
            self._progress.message(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def state(self) -> dict[str, Any]:
        """Where the record stands: a JSON object for the checkpoint's metadata."""
        self._save_columns()
        return {
            "columns": self._columns.lengths(),
            "t_start": self._t_start,
            "elapsed": self.elapsed(),
            "step": self._step,
            "metrics_bytes": files.size(self.folder / METRICS_FILE),
            "monitors": [monitor.state() for monitor in self._monitors],
            "recent": [list(recent) for recent in self._recent],
            "best_evaluation": [float(best) if np.isfinite(best) else None for best in self.best_evaluation],
            "wandb": self._wandb.state() if self._wandb else self._wandb_state,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`: what was recorded after it is removed, so that nothing appears twice.

        To be called before anything is recorded.

        Raises:
            ValueError: the state is of another number of runs, or a file has lost rows that it counts on.
        """
        if len(state["recent"]) != self.num_runs:
            raise ValueError(f"the checkpoint has {len(state['recent'])} runs, this command makes {self.num_runs}")
        self._begin(state["t_start"], state["elapsed"], state["step"])
        files.truncate(self.folder / METRICS_FILE, state["metrics_bytes"])
        self._columns.restore(self.folder, state["columns"])
        for monitor, lengths in zip(self._monitors, state["monitors"], strict=True):
            monitor.restore(lengths)
        for recent, returns in zip(self._recent, state["recent"], strict=True):
            recent.extend(returns)
        self.best_evaluation = np.array([-np.inf if best is None else best for best in state["best_evaluation"]])
        self._wandb_state = dict(state["wandb"])

    def close(self, exit_code: int = 0) -> None:
        """Finish the progress line and wandb; files need no closing. Harmless when repeated.

        Args:
            exit_code: Not 0 where the run failed.
        """
        if self._progress:
            self._progress.close()
        if self._columns.lengths():
            self._save_columns()
        if self._wandb:
            self._wandb.close(exit_code)

    def _save_columns(self) -> None:
        if self.has_columns:
            self._columns.save(self.folder)

    def _record(self, head: dict[str, int], metrics: Mapping[str, Any]) -> None:
        values = {name: self._per_run(name, value) for name, value in sorted(metrics.items())}
        aggregates = aggregate(values) if self.num_runs > 1 else {}
        self._step = head["step"]
        seconds = {"time": round(self.elapsed(), 3)}
        lines: list[dict[str, Any]] = []
        if self.has_columns:
            self._columns.add(self._step, values)
        for run in range(self.num_runs if self.num_runs <= MAX_MONITORED_RUNS else 0):
            which = {"run": run} if self.num_runs > 1 else {}
            lines.append({**head, **seconds, **which, **{name: _number(value[run]) for name, value in values.items()}})
        if aggregates:
            lines.append({**head, **seconds, **{name: _number(value) for name, value in aggregates.items()}})
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        files.append(self.folder / METRICS_FILE, text.encode())
        self._sink().log(self._step, values, aggregates)
        scores = {name: value for name, value in values.items() if name.startswith("score/")}
        if scores and self.num_runs > 1:
            self._sink().table("runs", self._columns.labels, scores)
        self._show()

    def _per_run(self, name: str, value: Any) -> np.ndarray:
        array = np.atleast_1d(np.asarray(value, np.float64))
        if array.shape != (self.num_runs,):
            raise ValueError(
                f"metric '{name}' has shape {array.shape}, expected one value for each of {self.num_runs} runs"
            )
        return array

    def _sink(self) -> WandbSink:
        """The wandb sink, started at the first record: only then are the ids of a resumed run known."""
        if self._wandb is None:
            config, project, mode, tags, settings = self._wandb_options
            self._wandb = WandbSink(
                self.folder,
                config,
                project,
                mode,
                self.num_runs,
                self._warn,
                self._wandb_state,
                tags,
                settings=settings,
            )
        return self._wandb

    def _warn(self, text: str) -> None:
        self.message(f"warning: {text}")

    def _show(self) -> None:
        if self._progress:
            returns, best = self.recent_returns(), self.best_evaluation
            self._progress.update(
                self._step,
                float(np.nanmean(returns)) if np.isfinite(returns).any() else None,
                float(best.mean()) if np.isfinite(best).all() else None,
            )


class SilentLogger:
    """Takes what a `RunLogger` records and records nothing: for a process of several of which another one does.

    Args:
        num_runs: K.
    """

    def __init__(self, num_runs: int) -> None:
        self._num_runs = num_runs

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """Record nothing."""

    log = episodes = evaluation = message = restore = close = _ignore

    def recent_returns(self) -> np.ndarray:
        """Not known here: NaN [K]."""
        return np.full(self._num_runs, np.nan)

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def aggregate(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean, interquartile mean and 95 % interval of each metric over the runs.

    The interquartile mean drops floor(K/4) runs at either end. The interval is mean +- 1.96 standard errors. A metric
    that is not a number in any run is not a number here: a diverged run is not hidden.

    Args:
        values: name -> [K], K > 1.
    """
    result: dict[str, float] = {}
    for name, value in values.items():
        cut = len(value) // 4
        mean = float(value.mean())
        with np.errstate(invalid="ignore"):  # infinities
            half = 1.96 * float(value.std(ddof=1)) / math.sqrt(len(value))
        iqm = float(np.sort(value)[cut : len(value) - cut].mean()) if np.isfinite(mean) else math.nan
        result |= {f"{name}/mean": mean, f"{name}/iqm": iqm, f"{name}/low": mean - half, f"{name}/high": mean + half}
    return result


def _groups(*keys: np.ndarray) -> list[np.ndarray]:
    """Split row numbers by the values of `keys`, in ascending order of these; rows keep their order within a group."""
    if not len(keys[0]):
        return []
    order = np.lexsort(keys[::-1])
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
