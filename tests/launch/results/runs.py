"""Run folders for the tests of plots and reports, written as launch/train.py writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def make_run(
    root: Path,
    name: str = "26-01-01_10h00_00",
    algo: str = "ppo2",
    env: str = "CartPole-v1",
    srl_model: str = "ground_truth",
    scores: Sequence[float] = (1.0,),
    points: int = 20,
    episodes: int = 60,
    workers: int = 2,
    finished: bool = True,
    **args: Any,
) -> Path:
    """A run folder with one run per score; returns of episode i are i / episodes of the score, lengths are 10."""
    folder = root / env / srl_model / algo / name
    folder.mkdir(parents=True)
    flags = {"algo": algo, "env": env, "srl_model": srl_model, "num_timesteps": 1000, "seed": 0, "sweep": {}}
    (folder / "args.json").write_text(json.dumps({**flags, "num_seeds": len(scores), **args}))
    (folder / "env_globals.json").write_text("{}")
    lines: list[dict[str, Any]] = []
    for run, score in enumerate(scores):
        which = {"run": run} if len(scores) > 1 else {}
        for i in range(1, points + 1):
            lines.append({"step": i * 1000 // points, "time": i, **which, "train/return": score * i / points})
            lines.append({"step": i * 1000 // points, "time": i, **which, "eval/return": score * i / points})
        if finished:
            lines.append({"step": 1000, "time": 99, **which, "score/final": score - 1, "score/best": score})
        home = folder / f"seed_{run}" if len(scores) > 1 else folder
        for worker in range(workers):
            write_monitor(home / f"{worker}.monitor.csv", score * np.arange(1, episodes + 1) / episodes)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_monitor(path: Path, returns: np.ndarray) -> None:
    """A monitor file with episodes of 10 steps that end once a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{value:.6f},10,{i:.6f}\n" for i, value in enumerate(returns))
    path.write_text(f'#{{"t_start": 0.0, "env_id": "CartPole-v1"}}\nr,l,t\n{rows}')


def refused(capsys: Any, main: Any, *flags: object) -> str:
    """Run a command that cannot be carried out, and return the one line that says why."""
    capsys.readouterr()
    assert main([str(flag) for flag in flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    return last
