"""A pipeline from its command line to its table of results."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from launch.runtime import files
from launch.runtime.cluster import connect
from launch.runtime.errors import UsageError
from launch.runtime.experiments.child import Child
from launch.runtime.experiments.jobs import Job, found_folders, scores_by_setting
from launch.runtime.experiments.journal import Journal
from launch.runtime.experiments.pipeline_flags import PIPELINE_FILE, default_num_jobs
from launch.runtime.experiments.preflight import preflight
from launch.runtime.experiments.scheduler import Launch, Scheduler
from launch.runtime.experiments.table import Table
from launch.runtime.logger import aggregate
from launch.runtime.run_folder import make_dated_folder

PIPELINES = "pipelines"  # folder of pipelines under --log-dir
RESULTS_FILE = "results.csv"
COLUMNS = ("algo", "srl_model", "env", "runs", "mean", "iqm", "low", "high")
SETTING = "setting"  # a further column where something is swept


class PipelineError(OSError):
    """Some of the trainings failed; the message is one line."""


def run_pipeline(args: Namespace) -> None:
    """Train all cells, then gather their scores; sets `args.run_folder` once the folder exists.

    Raises:
        ValueError: A training is refused, or the folder cannot be used; nothing was started.
        PipelineError: Some jobs failed; all others are done.
        KeyboardInterrupt: Ctrl-C; `--resume` goes on.
    """
    jobs: Sequence[Job] = args.jobs
    check_num_jobs(args.num_jobs, jobs)
    join_cluster(args)
    table = Table()
    if args.resume:
        root = Path(args.resume)
    else:
        memory = preflight({job.cell: job.command(Path(args.log_dir)) for job in jobs})
        content = {PIPELINE_FILE: {"jobs": [job.stored() for job in jobs]}}
        root = make_dated_folder(args.log_dir, [PIPELINES], content)
        if memory:
            table.message(f"memory: {max(memory.values()) / 2**20:,.1f} MiB for the largest training")
    with Journal(root, "pipeline") as journal:
        args.run_folder = root
        (root / "output").mkdir(exist_ok=True)
        runs = sum(job.num_seeds for job in jobs)
        launch, num_jobs = launcher_of(args, root, jobs)
        table.message(f"pipeline folder: {root}")
        table.message(f"{runs} runs in {len(jobs)} jobs, {num_jobs} at a time")
        failed = Scheduler(root, jobs, journal, launch, num_jobs, table, args.verbose).run()
    print(gather(root, jobs), end="", flush=True)
    write_report(root, jobs)
    if failed:
        job, reason = failed[0]
        raise PipelineError(
            f"{len(failed)} of {len(jobs)} jobs failed, the first: {job.name} ({reason}); --resume {root} tries again"
        )


def join_cluster(args: Namespace) -> None:
    """Join the Ray cluster where one is wanted, before anything is written.

    Raises:
        UsageError: There is none at the address.
    """
    if args.launcher == "ray":
        connect(args.ray_address)


def launcher_of(args: Namespace, root: Path, jobs: Sequence[Job]) -> tuple[Launch, int]:
    """What starts the jobs, and how many run at a time.

    Args:
        args: Flags of the command.
        root: Its folder; a job's run folders lie below the folder that its command line names.
        jobs: The jobs.

    """
    if args.launcher == "ray":
        from launch.runtime.experiments.ray_launcher import RayLauncher

        launcher = RayLauncher()
        return launcher.start, args.num_jobs or launcher.num_jobs(list(jobs))
    if args.launcher == "slurm":
        from launch.runtime.experiments.slurm_launcher import NUM_JOBS, Resources, SlurmLauncher

        return SlurmLauncher(root, Resources.of(args)).start, args.num_jobs or NUM_JOBS
    num_jobs = args.num_jobs or default_num_jobs(jobs)
    # Several processes on one accelerator: none may take its memory at once.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if num_jobs > 1 else {}

    def launch(job: Job, words: list[str], log: Path, _: Path) -> Child:
        return Child("train", words, log, {**environment, "WANDB_RUN_GROUP": f"{root.name}-{job.cell}"})

    return launch, num_jobs


def check_num_jobs(num_jobs: int, jobs: Sequence[Job]) -> None:
    """Refuse several jobs at a time where a real robot is in use.

    Raises:
        UsageError: They would move it at the same time.
    """
    if num_jobs > 1 and any(word.startswith("--real_robot=") for job in jobs for word in job.words):
        raise UsageError(f"--num-jobs={num_jobs}: there is one robot, leave it out")


def write_report(root: Path, jobs: Sequence[Job]) -> None:
    """The tables of `launch/gather_results.py` for each environment, and the page of `launch/report.py`."""
    from launch import gather_results, report  # here because they load matplotlib

    folders = {folder.relative_to(root).parts[0] for folder in found_folders(root, jobs).values()}
    for name in sorted(folders):
        gather_results.main(["--log-dir", str(root / name)])
    if folders:
        report.main(["--log-dir", str(root), "--title", f"Pipeline {root.name}"])


def gather(root: Path, jobs: Sequence[Job]) -> str:
    """Write the final scores of all cells to `results.csv` and return them as a table.

    A score is the mean return of the evaluation at the end, of the best policy where there is one; over the runs of a
    cell: mean, interquartile mean and the 95 % interval of the mean (see `launch.runtime.logger.aggregate`). With
    `--sweep` each setting of a cell has a row, and there is a column `setting`: runs of several are no sample of one.

    Raises:
        OSError: The file cannot be written.
    """
    folders = found_folders(root, jobs)
    cells: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for job in jobs:
        scores = cells.setdefault((job.algo, job.srl_model, job.env), {})
        for setting, values in (scores_by_setting(folders[job.name]) if job.name in folders else {}).items():
            scores.setdefault(setting, []).extend(values)
    rows = [[*COLUMNS[:3], SETTING, *COLUMNS[3:]]]
    for cell, scores in cells.items():
        for setting, values in (scores or {"": []}).items():
            rows.append([*cell, setting, str(len(values)), *_statistics(values)])
    if not any(row[3] for row in rows[1:]):
        rows = [[*row[:3], *row[4:]] for row in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write_atomic(root / RESULTS_FILE, text.getvalue().encode())
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + f"\nwritten to {root / RESULTS_FILE}\n"


def _statistics(scores: Sequence[float]) -> list[str]:
    """Mean, interquartile mean and interval as text; empty where there are too few runs."""
    if not scores:
        return [""] * 4
    if len(scores) == 1:
        return [f"{scores[0]:.3f}", "", "", ""]
    values = aggregate({"": np.asarray(scores)})
    return [f"{values[key]:.3f}" for key in ("/mean", "/iqm", "/low", "/high")]
