"""Sends metrics to Weights & Biases. It never asks a question and never makes a run fail.

One run is one wandb run. K runs are one wandb group: an aggregate run with mean, IQM and 95 % interval of every
metric, and, for at most `MAX_SEED_RUNS` of them, one wandb run per seed. wandb's own files go into the run folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

AUTO, ONLINE, OFFLINE, DISABLED = MODES = ("auto", "online", "offline", "disabled")
# Each live run costs memory and a tenth of a second at the start.
MAX_SEED_RUNS = 8
# Seconds to wait for the server at the start and for the last upload at the end.
_INIT_TIMEOUT = 20.0
FINISH_TIMEOUT = 30.0
DATASET = "dataset"  # kind of an artifact


class WandbSink:
    """The wandb runs of one run folder.

    Any failure of wandb is reported by `warn`, in one line, and ends the sink: calls do nothing from then on.

    Args:
        folder: The run folder; its name becomes the run's or the group's.
        config: What to record of the run; entries are shown in wandb as they are.
        project: wandb project.
        mode: "auto" (online where an API key is configured, else offline), "online" (offline where there is no key or
            no server), "offline", or "disabled". With "auto", WANDB_MODE of the environment comes first.
        num_runs: K.
        warn: Called with a line of text.
        state: What `state` returned before a checkpoint: the same wandb runs are continued.
        tags: wandb tags of every run.
        finish_timeout: Seconds that `close` waits for the last upload; what is not uploaded then stays on disk.
        settings: What each of the K runs has of its own, such as its seed, in place of entries of `config`.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        project: str,
        mode: str,
        num_runs: int,
        warn: Callable[[str], None],
        state: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        finish_timeout: float = FINISH_TIMEOUT,
        settings: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        check_mode(mode)
        self._tags, self._finish_timeout, self._settings = list(tags), finish_timeout, list(settings)
        self._name, self._step = folder.name, 0
        self._warn = warn
        self._runs: dict[str, Any] = {}
        self._live = mode != DISABLED
        self._guard(lambda: self._start(folder, dict(config), project, mode, num_runs, dict(state or {})))

    def log(self, step: int, values: Mapping[str, np.ndarray], aggregates: Mapping[str, float]) -> None:
        """Send one row per run.

        Args:
            step: Environment steps of one run so far; the x axis. It must not decrease.
            values: name -> [K].
            aggregates: name -> value over the K runs; used when K > 1.
        """

        self._step = step

        def send() -> None:
            for name, run in self._runs.items():
                if name == "aggregate":
                    run.log(dict(aggregates), step=step)
                else:
                    run.log({key: float(value[int(name)]) for key, value in values.items()}, step=step)

        self._guard(send)

    def video(self, path: Path) -> None:
        """Show a video beside the last row of the first wandb run."""

        def send() -> None:
            import wandb

            film = wandb.Video(str(path), format="gif" if path.suffix == ".gif" else "mp4")
            next(iter(self._runs.values())).log({"video": film}, step=self._step)

        self._guard(send)

    def artifact(
        self,
        folder: Path,
        kind: str,
        name: str | None = None,
        leave_out: Collection[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the files of a folder as an artifact of the first wandb run.

        Args:
            folder: The folder. Its files are copied first, as they may change before they are uploaded; those of a
                dataset, which may be larger than what the disk has left, are not.
            kind: wandb's type: "model" or `DATASET`.
            name: Of the artifact, as `artifact_name` has it; made of the run folder's name and the folder's by default.
            leave_out: Names of files and folders in it that are not kept, besides wandb's own.
            metadata: What to record of it: JSON values.
        """

        def send() -> None:
            import wandb

            title = artifact_name(f"{self._name}-{folder.name}" if name is None else name)
            artifact = wandb.Artifact(title, type=kind, metadata=dict(metadata or {}))
            policy: Any = "immutable" if kind == DATASET else "mutable"
            for path in sorted(folder.iterdir()):
                if path.name in {"wandb", *leave_out}:
                    continue
                if path.is_dir():
                    artifact.add_dir(str(path), name=path.name, policy=policy)
                else:
                    artifact.add_file(str(path), policy=policy)
            next(iter(self._runs.values())).log_artifact(artifact)

        self._guard(send)

    def table(self, name: str, labels: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
        """Send a table of all K runs to the aggregate run, beside its last row.

        Args:
            name: Of the table.
            labels: Of the runs.
            values: Column -> [K].
        """

        def send() -> None:
            import wandb

            rows = [list(row) for row in zip(labels, *(value.tolist() for value in values.values()), strict=True)]
            table = wandb.Table(columns=["run", *values], data=rows)
            # Without a step wandb takes the row for complete, and drops what is added to it: a video.
            self._runs["aggregate"].log({name: table}, step=self._step)

        if "aggregate" in self._runs:
            self._guard(send)

    def state(self) -> dict[str, str]:
        """wandb's id of each run: a JSON object, for a checkpoint."""
        return {name: run.id for name, run in self._runs.items()}

    def close(self, exit_code: int = 0) -> None:
        """Finish the wandb runs; those of a failed run (`exit_code` not 0) are marked as failed."""

        def finish() -> None:
            for run in self._runs.values():
                run.finish(exit_code=exit_code)

        self._guard(finish)
        self._live = False

    def _guard(self, action: Callable[[], None]) -> None:
        if not self._live:
            return
        try:
            action()
        except Exception as error:  # whatever wandb raises must not end a training run
            self._live = False
            reason = (str(error).splitlines() or [""])[0][:200]
            self._warn(f"wandb is off from here on: {type(error).__name__}: {reason}")

    def _start(
        self, folder: Path, config: dict[str, Any], project: str, mode: str, num_runs: int, ids: dict[str, str]
    ) -> None:
        import wandb  # 0.5 s: only where it is used

        wandb.setup(wandb.Settings(silent=True))
        mode = self._resolve(mode)
        if mode == DISABLED:
            self._live = False
            return
        names = ["0"] if num_runs == 1 else ["aggregate"]
        if 1 < num_runs <= MAX_SEED_RUNS:
            names += [str(run) for run in range(num_runs)]
        for name in names:
            options = {
                "project": project,
                "dir": str(folder),
                "config": config if name == "aggregate" else self._config_of(int(name), config, num_runs),
                "name": folder.name if num_runs == 1 else f"{folder.name}-{_label(name)}",
                "group": folder.name if num_runs > 1 else None,
                "job_type": None if num_runs == 1 else _label(name).split("_")[0],
                "tags": self._tags or None,
                "reinit": "create_new",
            }
            if name in ids:
                options.update(id=ids[name], resume="allow")
            self._runs[name], mode = self._init(mode, options, monitor_machine=name == names[0])

    def _config_of(self, run: int, config: dict[str, Any], num_runs: int) -> dict[str, Any]:
        """What to record of one run: with its own seed and values, not those of the command."""
        own = self._settings[run] if self._settings else {}
        return {**config, **own, **({"run": run} if num_runs > 1 else {})}

    def _resolve(self, mode: str) -> str:
        """Turn "auto" into what it stands for, and "online" without an API key into "offline"."""
        import wandb

        wanted = os.environ.get("WANDB_MODE", "")
        if mode == AUTO and wanted in (ONLINE, OFFLINE, DISABLED):
            mode = wanted
        if mode in (AUTO, ONLINE):
            # wandb looks where it always does (WANDB_API_KEY, settings, netrc) and is forbidden to ask.
            if wandb.login(prompt=False, verify=False):
                return ONLINE
            if mode == ONLINE:
                self._warn("wandb has no API key (set WANDB_API_KEY or run `wandb login`): writing offline")
            return OFFLINE
        return mode

    def _init(self, mode: str, options: dict[str, Any], monitor_machine: bool) -> tuple[Any, str]:
        """Start one wandb run; returns it and the mode that worked."""
        import wandb

        start: Any = wandb.init
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_TIMEOUT,
            finish_timeout=self._finish_timeout,
            x_disable_stats=not monitor_machine,
        )
        try:
            return start(mode=mode, settings=settings, **options), mode
        except wandb.Error as error:
            if mode != ONLINE:
                raise
            reason = (str(error).splitlines() or [""])[0][:200]
            self._warn(f"wandb cannot reach its server ({reason}): writing offline, upload with `wandb sync`")
            return start(mode=OFFLINE, settings=settings, **options), OFFLINE


def check_mode(mode: str) -> None:
    """Check a value of --wandb-mode.

    Raises:
        ValueError: it is not one of `MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"--wandb-mode {mode} is unknown; choose one of {', '.join(MODES)}")


def artifact_name(name: str) -> str:
    """A name as wandb takes it for an artifact: at most 128 letters, digits, dashes, underscores and dots."""
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[:128]


def _label(name: str) -> str:
    return name if name == "aggregate" else f"seed_{name}"
