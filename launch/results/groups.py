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
    *("srl_config_file", "launcher", "rollout_launcher", "ray_address", "runs_per_batch", "replay_memory"),
    *("distributed", "coordinator", "num_processes", "process_id", "join_timeout"),
}
_TASK = ("env", "random_target", "shape_reward")  # what decides the rewards
_NAMED = ("algo", "srl_model")
_APART = {*_TASK, *_NAMED}  # what a label does not repeat as a setting


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
    """Group runs by their settings, sorted by task and label, with labels and styles.

    No two groups have the same task and label. A setting that a run does not have counts as one that was not given.
    """
    groups: dict[tuple[str, str, str, str], Group] = {}
    for run in runs:
        settings = {name: value for name, value in run.args.items() if name not in _IMMATERIAL}
        task, algo, srl_model = task_of(run.args), run.args["algo"], run.args["srl_model"]
        told = {name: settings[name] for name in sorted(settings) if name not in _APART and settings[name] is not None}
        key = (task, algo, srl_model, _exact(told))
        if key not in groups:
            groups[key] = Group(task, algo, srl_model, settings)
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
    unclear = _unclear(groups, set().union(*told_apart.values()))
    for group in groups:
        group.distinct = names = sorted(told_apart[group.algo, group.srl_model])
        words = [group.algo, *([group.srl_model] if several_models else [])]
        for name in names:
            value = group.settings.get(name)
            text = _exact(value) if name in unclear and value is not None else as_text(value)
            words.append(f"{name}={text}")
        group.label = ", ".join(words)


def _unclear(groups: Sequence[Group], names: Iterable[str]) -> set[str]:
    """The settings of which two values look alike as one types them, such as 0.1 and 0.10000001."""
    found = set()
    for name in names:
        values = {_exact(group.settings.get(name)): as_text(group.settings.get(name)) for group in groups}
        if len(set(values.values())) < len(values):
            found.add(name)
    return found


def _split(groups: Sequence[Group], key: Any) -> list[list[Group]]:
    """Groups that share a key."""
    found: dict[Any, list[Group]] = {}
    for group in groups:
        found.setdefault(key(group), []).append(group)
    return list(found.values())


def differing(groups: Sequence[Group]) -> list[str]:
    """Names of the settings that differ between groups, learner and task aside.

    A setting that some groups of a learner have and others do not, as a flag that was added between two trainings,
    differs. One that a learner alone has is compared among its own groups only.
    """
    of_learners = _split(groups, lambda group: group.algo)
    owned = [set().union(*(group.settings for group in same)) - _APART for same in of_learners]
    found = {name for name in set.intersection(*owned) if _differs(groups, name)}
    for same, names in zip(of_learners, owned, strict=True):
        found |= {name for name in names if _differs(same, name)}
    return sorted(found)


def _differs(groups: Sequence[Group], name: str) -> bool:
    return len({_exact(group.settings.get(name)) for group in groups}) > 1


def _exact(value: Any) -> str:
    """A setting as text that no other value has; 2 and 2.0 are one value, True and 1 are two."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


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
