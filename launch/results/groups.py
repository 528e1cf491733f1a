"""Runs grouped for comparison: which belong together, on which task, and what tells the groups apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from launch.results.read import Curve, Run

# Flags that do not change what is computed, or only how long and how finely it is watched.
_IMMATERIAL = {
    *("seed", "num_seeds", "sweep", "hyperparam", "resume", "log_dir", "run_folder", "plugin", "verbose", "port"),
    *("no_vis", "wandb_project", "wandb_mode", "tags", "video", "artifacts", "num_workers", "data_parallel", "latest"),
    *("checkpoint_every", "eval_every", "eval_episodes", "final_eval_episodes", "episode_window", "min_episodes_save"),
    *("srl_config_file", "device", "launcher", "rollout_launcher", "ray_address"),
}
_TASK = ("env", "random_target", "shape_reward")  # what decides the rewards
_NAMED = ("algo", "srl_model")


@dataclass
class Group:
    """Runs with the same settings but for their seeds.

    Attributes:
        task: What they learn.
        algo, srl_model: How.
        settings: All flags that matter.
        runs: They.
        label: What tells the group from the others of its task.
        distinct: The settings that its label names, learner and representation aside.
        style: Number of its colour and dashes; groups of one label have the same.
    """

    task: str
    algo: str
    srl_model: str
    settings: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    label: str = ""
    distinct: list[str] = field(default_factory=list)
    style: int = 0

    @property
    def scores(self) -> np.ndarray:
        """Scores of its finished runs [n]."""
        return np.asarray([run.score for run in self.runs if run.finished and run.score is not None], np.float64)

    @property
    def partial(self) -> list[Run]:
        """Its runs that did not come to their end."""
        return [run for run in self.runs if not run.finished]

    def curves(self, metric: str) -> list[Curve]:
        """The curves of one metric of its runs, those that have one."""
        return [run.curves[metric] for run in self.runs if metric in run.curves]


def task_of(args: dict[str, Any]) -> str:
    """What a run learns, in words."""
    extra = {"random_target": "random target", "shape_reward": "shaped reward"}
    return ", ".join([args["env"], *(word for name, word in extra.items() if args.get(name))])


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Group runs by their settings, sorted by task and label, with labels and styles."""
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {name: value for name, value in run.args.items() if name not in _IMMATERIAL}
        key = json.dumps(settings, sort_keys=True)
        if key not in groups:
            groups[key] = Group(task_of(run.args), run.args["algo"], run.args["srl_model"], settings)
        groups[key].runs.append(run)
    found = list(groups.values())
    _label(found)
    found.sort(key=lambda group: (group.task, _natural(group.label)))
    labels = sorted({group.label for group in found}, key=_natural)
    for group in found:
        group.style = labels.index(group.label)
    return found


def _natural(label: str) -> list[tuple[int, float, str]]:
    """Sort key in which the numbers of a label count as numbers."""
    words = label.replace(",", " ").replace("=", " ").split()
    return [(0, float(word), "") if _is_number(word) else (1, 0.0, word) for word in words]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _label(groups: Sequence[Group]) -> None:
    """Give each group the shortest name that tells it from the others of its task."""
    several_models = len({group.srl_model for group in groups}) > 1
    told_apart: dict[tuple[str, str], set[str]] = {}
    for same in _split(groups, lambda g: (g.task, g.algo, g.srl_model)):
        told_apart.setdefault((same[0].algo, same[0].srl_model), set()).update(differing(same))
    for group in groups:
        group.distinct = names = sorted(told_apart[group.algo, group.srl_model])
        words = [group.algo, *([group.srl_model] if several_models else [])]
        words += [f"{name}={as_text(group.settings.get(name))}" for name in names]
        group.label = ", ".join(words)


def _split(groups: Sequence[Group], key: Any) -> list[list[Group]]:
    """Groups that share a key."""
    found: dict[Any, list[Group]] = {}
    for group in groups:
        found.setdefault(key(group), []).append(group)
    return list(found.values())


def differing(groups: Sequence[Group]) -> list[str]:
    """Names of the settings that differ between groups and that all of them have, learner and task aside."""
    common = set.intersection(*(set(group.settings) for group in groups)) - {*_TASK, *_NAMED}
    first = groups[0].settings
    return sorted(name for name in common if any(group.settings[name] != first[name] for group in groups))


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups of each task."""
    return {same[0].task: same for same in _split(groups, lambda group: group.task)}


def as_text(value: Any) -> str:
    """A setting as one types it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)
