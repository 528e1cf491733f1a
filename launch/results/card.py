"""The model card of a run folder: README.md with command, score, curves and versions."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from launch.results import statistics
from launch.results.command import command_line
from launch.results.figures import draw_curves, save_figure
from launch.results.groups import as_text
from launch.results.one_run import by_sweep, draw_run
from launch.results.read import (
    EVALUATION,
    METRICS_FILE,
    SCORE_ORDER,
    TRAINING,
    VERSIONS_FILE,
    Collection,
    Run,
    read_runs,
)
from launch.runtime.files import write_atomic, write_json

CARD_FILE, CURVES_FILE = "README.md", "curves.png"
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SIMULATORS = {"pybullet": ("gymnasium", "pybullet"), "jax": ("brax",)}
_NORMAL = 1.959964  # standard errors on either side of a 95 % interval
MOST_ROWS = 40


def write_versions(folder: Path, simulator: str) -> None:
    """Record what a run was made with in versions.json.

    Raises:
        OSError: It cannot be written.
    """
    import jax

    devices = jax.local_devices()
    told = {"python": platform.python_version(), "platform": platform.platform(), "srl-jax": _own_version()}
    for package in (*_PACKAGES, *_SIMULATORS.get(simulator, ())):
        try:
            told[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # brax is not needed for other twins
            told[package] = "not installed"
    told["device"] = f"{len(devices)} x {devices[0].device_kind}"
    write_json(folder / VERSIONS_FILE, told)


def _own_version() -> str:
    """The commit that is checked out, with "-dirty" where files differ from it; "unknown" outside a clone."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_card(folder: Path) -> Path:
    """Write README.md and curves.png of a run folder, from what it holds; returns the card.

    Raises:
        ValueError: It is no run folder.
        OSError: It cannot be written.
    """
    collection = read_runs(folder, (TRAINING, EVALUATION) if (folder / METRICS_FILE).is_file() else ())
    args = collection.runs[0].flags
    parts = [f"# {args['algo']} on {args['env']}", _summary(collection.runs)]
    if _draw(collection, folder / CURVES_FILE, int(args.get("episode_window") or 40)):
        parts.append(f"![Learning curves of this run]({CURVES_FILE})")
    parts += ["## Score", _scores(collection.runs), "## Command", _block(command_line(args)), "## Use", _use(args)]
    parts += ["## Settings", _settings(args), "## Versions", _versions(collection.runs[0].versions)]
    path = folder / CARD_FILE
    write_atomic(path, ("\n\n".join(parts) + "\n").encode())
    return path


def _summary(runs: list[Run]) -> str:
    """What was trained, in a sentence."""
    args = runs[0].flags
    how = "continuous" if args.get("continuous") else "discrete"
    count = f"{len(runs)} runs of " if len(runs) > 1 else ""
    return (
        f"{count}{args.get('num_timesteps', 0):,} environment steps from `{args['srl_model']}` observations, {how} "
        f"actions where the environment offers both, simulator `{args.get('simulator')}`. Trained with srl-jax."
    )


def _draw(collection: Collection, path: Path, window: int) -> bool:
    """Draw the curves; False where too little was recorded."""
    try:
        panels, title = draw_run(collection, window, timesteps=True)
    except ValueError:
        return False
    save_figure(draw_curves(panels, title), path)
    return True


def _scores(runs: list[Run]) -> str:
    """The score with its 95 % interval: over runs where there are several, else over evaluation episodes."""
    finished = [run for run in runs if run.finished]
    if not finished:
        known = [run.score for run in runs if run.score is not None]
        if not known:
            return "No episode has ended."
        return f"Mean return of the last training episodes: {np.mean(known):.2f}. The policy was not evaluated."
    if len(runs) == 1:
        return _episode_score(runs[0])
    rows = ["| | runs | mean ± s.e. | IQM | 95 % interval of the IQM |", "|---|---|---|---|---|"]
    for label, group in list(by_sweep(finished).items())[:MOST_ROWS]:
        scores = np.asarray([run.score for run in group], np.float64)
        iqm = statistics.interval(statistics.iqm, [scores])
        error = float(statistics.standard_error(scores))
        bounds = "-" if np.isnan(iqm.low) else f"{iqm.low:.2f} to {iqm.high:.2f}"
        name = label or "all seeds"
        rows.append(f"| {name} | {len(scores)} | {scores.mean():.2f} ± {error:.2f} | {iqm.value:.2f} | {bounds} |")
    if len(by_sweep(finished)) > MOST_ROWS:
        rows.append(f"| {len(by_sweep(finished)) - MOST_ROWS} more | | | | |")
    rows += [
        "",
        "Mean return of each run's best policy (the final one where there is no other) in evaluation episodes.",
    ]
    return "\n".join(rows)


def _episode_score(run: Run) -> str:
    """The score of a lone run, with the interval of its evaluation episodes' mean."""
    which = next(name for name in SCORE_ORDER if name in run.scores)
    score, spread = run.scores[which], run.scores.get("std")
    episodes = int(run.flags.get("final_eval_episodes") or 0)
    text = f"Mean return of the {which} policy: **{score:.2f}**"
    if spread is not None and episodes > 1:
        half = _NORMAL * spread / episodes**0.5
        text += f", 95 % interval {score - half:.2f} to {score + half:.2f},"
        text += f" in {episodes} evaluation episodes that chose nothing"
    return text + "."


def _use(args: Mapping[str, Any]) -> str:
    """How to play and export the policy."""
    plugin = f" --plugin={args['plugin']}" if args.get("plugin") else ""
    return _block(f"python launch/enjoy.py --log-dir RUN{plugin}\npython launch/export.py --log-dir RUN{plugin}")


def _block(text: str) -> str:
    return f"```sh\n{text}\n```"


def _settings(args: Mapping[str, Any]) -> str:
    """All flags, folded away."""
    hidden = ("run_folder", "help", "log_dir", "wandb_project", "wandb_mode", "port", "verbose", "resume")
    lines = [f"{name} = {as_text(value)}" for name, value in sorted(args.items()) if name not in hidden]
    text = "\n".join(lines)
    return f"<details><summary>All flags</summary>\n\n```\n{text}\n```\n\n</details>"


def _versions(versions: Mapping[str, str]) -> str:
    if not versions:
        return "Not recorded."
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in versions.items())])
