"""A report of many runs: one HTML page, and its pictures as PNG and SVG."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.results import page
from launch.results.command import command_line
from launch.results.figures import Estimate, Panel, Series, draw_curves, draw_estimates, save_figure
from launch.results.gather import as_csv
from launch.results.groups import Group, as_text, by_task, differing, group_runs
from launch.results.one_run import summarised
from launch.results.read import EVALUATION, TRAINING, Collection, Run
from launch.results.summary import Aggregates, Row, aggregates, score_rows
from launch.runtime.errors import UsageError, hint
from launch.runtime.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE, SCORES_FILE = "report.html", "scores.csv"
MOST_OPEN = 3  # tasks whose commands are shown at once
FILTERS = {"env": "env", "srl_model": "srl_model", "algo": "algo"}


def select(collection: Collection, args: Namespace) -> list[Run]:
    """The runs that `--env`, `--srl-model` and `--algo` ask for.

    Raises:
        UsageError: One of them, or `--score-range`, names nothing that is there, or together they leave nothing.
    """
    runs = collection.runs
    for name in FILTERS:
        there = sorted({run.args[name] for run in collection.runs})
        for value in getattr(args, name):
            if value not in there:
                raise UsageError(f"--{name.replace('_', '-')} {value}: no run has it{hint(value, there)}")
        if getattr(args, name):
            runs = [run for run in runs if run.args[name] in getattr(args, name)]
    environments = sorted({run.args["env"] for run in collection.runs})
    for env in args.score_range:
        if env not in environments:
            raise UsageError(f"--score-range {env}: no run has this environment{hint(env, environments)}")
    if not runs:
        raise UsageError("no run has the environment, representation and algorithm that are asked for together")
    return runs


class Report:
    """A report of groups of runs; `write` makes its files.

    Args:
        runs: What it is about.
        notices: What the reader has left out; more is added.
        title: Of the page.
        ranges: Scores that count as 0 and 1 by environment.
    """

    def __init__(
        self, runs: Sequence[Run], notices: list[str], title: str, ranges: dict[str, tuple[float, float]]
    ) -> None:
        self.groups = group_runs(runs)
        self.notices, self.title = notices, title
        self.tasks = by_task(self.groups)
        self._name_partial()
        self.rows = {task: score_rows(same) for task, same in self.tasks.items()}
        self.aggregates = aggregates(self.groups, ranges, notices)
        self._figures: dict[str, Figure] = {}

    def _name_partial(self) -> None:
        """Name unfinished runs, empty groups and mixed budgets."""
        for group in self.groups:
            if group.partial:
                names = ", ".join(run.name for run in group.partial[:2])
                names += f" and {len(group.partial) - 2} more" if len(group.partial) > 2 else ""
                self.notices.append(
                    f"{group.task}, {group.label}: {len(group.partial)} of {len(group.runs)} runs did not come to "
                    f"their end; their curves are used, their scores are not ({names})"
                )
        for task, same in self.tasks.items():
            budgets = {group.settings.get("num_timesteps") for group in same}
            if len(budgets) > 1:
                said = ", ".join(f"{group.label} {_steps(group.settings.get('num_timesteps'))}" for group in same)
                self.notices.append(f"{task}: budgets differ ({said}); scores are those at the end of each")

    def write(self, folder: Path) -> Path:
        """Write the page, its pictures and the scores as a table; returns the page.

        Raises:
            OSError: They cannot be written.
        """
        sections = [self._overview()] if self.aggregates else []
        sections += [self._task(number, task) for number, task in enumerate(self.tasks)]
        sections += [self._settings(), self._commands(), self._versions()]
        count = sum(len(group.runs) for group in self.groups)
        subtitle = (
            f"{count:,} run{'s' * (count != 1)} in {len(self.groups)} group{'s' * (len(self.groups) != 1)} on "
            f"{len(self.tasks)} task{'s' * (len(self.tasks) != 1)}{_dates(self.groups)}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        for name, drawn in self._figures.items():
            for suffix in (".png", ".svg"):
                save_figure(drawn, folder / f"{name}{suffix}")
        write_atomic(folder / SCORES_FILE, as_csv(*self.scores()))
        path = folder / PAGE_FILE
        write_atomic(path, page.page(self.title, subtitle, sections, self.notices).encode())
        return path

    def scores(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of final scores."""
        header = ["task", "method", "runs", "steps", "mean", "stderr", "iqm", "low", "high", "welch_p"]
        rows = [
            [task, row.group.label, str(len(row.group.scores)), str(row.group.settings.get("num_timesteps", ""))]
            + ["" if np.isnan(x) else f"{x:.6g}" for x in (row.mean, row.error, *row.iqm, row.welch)]
            for task, rows in self.rows.items()
            for row in rows
        ]
        return header, rows

    def _figure(self, name: str, drawn: Figure, caption: str) -> str:
        """Keep a picture for its files, and return it as a part of the page."""
        self._figures[name] = drawn
        return page.figure(drawn, len(self._figures), caption)

    def _overview(self) -> tuple[str, str, str]:
        """The section that compares methods over all tasks."""
        found = self.aggregates
        assert found is not None
        content = _intervals_text(found)
        columns = [
            (name, [Estimate(label, style, *of) for label, style, of in zip(found.labels, found.styles, intervals)])
            for name, intervals in found.table.items()
        ]
        content += self._figure(
            "aggregates",
            draw_estimates(columns),
            "Aggregate scores with 95 % intervals. Interquartile mean and mean: higher is better; optimality gap, the "
            "mean shortfall from 1: lower is better.",
        )
        beaten = [
            Estimate(f"{found.labels[0]} > {label}", style, *of)
            for label, style, of in zip(found.labels[1:], found.styles[1:], found.improvement)
        ]
        content += '<div class="pair">'
        content += self._figure("profiles", draw_curves([_profile_panel(found)]), _PROFILE_CAPTION)
        content += self._figure("improvement", draw_estimates([("P(improvement)", beaten)]), _IMPROVEMENT_CAPTION)
        content += "</div>" + _range_table(found)
        return "comparison", "Comparison over tasks" if len(found.tasks) > 1 else "Comparison", content

    def _task(self, number: int, task: str) -> tuple[str, str, str]:
        """The section of one task: curves, then scores."""
        groups = self.tasks[task]
        panels = []
        for metric, title, points in ((EVALUATION, "Evaluation", True), (TRAINING, "Training", False)):
            series = [s for g in groups if (s := summarised(g.label, g.style, g.curves(metric), points)) is not None]
            if series:
                panels.append(Panel(title, "Environment steps", "Mean return", series))
        content = ""
        if panels:
            content += self._figure(f"curves_{_file_name(task)}", draw_curves(panels), _CURVES_CAPTION)
        return f"task-{number}", task, content + _score_table(self.rows[task])

    def _settings(self) -> tuple[str, str, str]:
        """The section of settings that differ, and those that do not."""
        names = differing(self.groups)
        rows = [
            f'<tr data-s="{group.style}"><td>{page.key(group.style)}{page.escape(group.label)}</td>'
            f'<td class="text">{page.escape(group.task)}</td>'
            + "".join(f"<td>{page.escape(as_text(group.settings.get(name)))}</td>" for name in names)
            + "</tr>"
            for group in self.groups
        ]
        content = "<p>The groups have the same settings but for what the learners alone have, and these.</p>"
        content += page.table(["Method", "Task", *names], rows) if names else "<p>None differ.</p>"
        common = set.intersection(*(set(group.settings) for group in self.groups)) - set(names) - set(FILTERS)
        first = self.groups[0].settings
        alike = ", ".join(
            f"{name}={as_text(first[name])}"
            for name in sorted(common)
            if all(group.settings[name] == first[name] for group in self.groups)
        )
        content += f"<details><summary>Settings that all have</summary><p>{page.escape(alike)}</p></details>"
        return "settings", "Settings that differ", content

    def _commands(self) -> tuple[str, str, str]:
        """The section of command lines: one for each group, with its first seed."""
        parts = []
        for task, groups in self.tasks.items():
            lines = []
            for group in groups:
                first = min(group.runs, key=lambda run: int(run.args["seed"]))
                folders = len({run.folder for run in group.runs})
                again = f", {folders} commands that differ in --seed" if folders > 1 else ""
                seeds = _spans(sorted({int(run.args["seed"]) for run in group.runs}))
                lines += [f"# {group.label}: seeds {seeds}{again}", command_line(first.flags)]
            opened = " open" if len(self.tasks) <= MOST_OPEN else ""
            text = page.escape("\n".join(lines))
            parts.append(f"<details{opened}><summary>{page.escape(task)}</summary><pre>{text}</pre></details>")
        return "commands", "Commands", "".join(parts)

    def _versions(self) -> tuple[str, str, str]:
        """The section of versions."""
        told: dict[str, set[str]] = {}
        for group in self.groups:
            for run in group.runs:
                for name, value in run.versions.items():
                    told.setdefault(name, set()).add(value)
        rows = [
            f'<tr><td>{page.escape(name)}</td><td class="text">{page.escape(", ".join(sorted(values)))}</td></tr>'
            for name, values in told.items()
        ]
        content = page.table(["", "Version"], rows, sortable=False) if rows else "<p>Not recorded with these runs.</p>"
        return "versions", "Versions", content


_CURVES_CAPTION = (
    "Interquartile mean over runs; bands are its pointwise 95 % interval. Evaluation: the policy, deterministic "
    "unless the settings say otherwise, in episodes of its own. Training: the last episodes as they were played, with "
    "exploration."
)
_PROFILE_CAPTION = "Performance profile: share of runs above a score. A curve above another is better."
_IMPROVEMENT_CAPTION = "Probability that a run of the first method beats one of another. At 0.5 neither is better."


def _intervals_text(found: Aggregates) -> str:
    count = len(found.tasks)
    return (
        f"<p>Scores are normalised on each task and pooled over {count} task{'s' * (count != 1)}; intervals resample "
        "the runs within each task.</p>"
    )


def _range_table(found: Aggregates) -> str:
    """What 0 and 1 are on each task."""
    rows = [
        f'<tr><td>{page.escape(task)}</td><td>{of.low:.5g}</td><td>{of.high:.5g}</td><td class="text">'
        f"{page.escape(of.source)}</td></tr>"
        for task, of in found.ranges.items()
    ]
    inside = page.table(["Task", "0 is", "1 is", "Taken from"], rows, sortable=False)
    return f"<details><summary>How scores are normalised</summary>{inside}</details>"


def _profile_panel(found: Aggregates) -> Panel:
    series = [
        Series(label, style, found.thresholds, *profile)
        for label, style, profile in zip(found.labels, found.styles, found.profiles)
    ]
    return Panel(
        "Performance profile", "Normalised score τ", "Share of runs with score > τ", series, (0.0, 1.02), False
    )


def _score_table(rows: Sequence[Row]) -> str:
    """Final scores of one task, best first."""
    everything = np.concatenate([row.group.scores for row in rows])
    span = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    made = []
    for row in rows:
        group, scores = row.group, row.group.scores
        steps = group.settings.get("num_timesteps")
        count = f"{len(scores)}" + (f" + {len(group.partial)}" if group.partial else "")
        cells = [
            f"<td>{page.key(group.style)}{page.escape(group.label)}</td>",
            f'<td data-v="{len(scores)}">{count}</td>',
            f'<td data-v="{steps or 0}">{_steps(steps)}</td>',
            f'<td data-v="{row.mean}">{_plus_minus(row.mean, row.error)}</td>',
            f'<td data-v="{row.iqm.value}">{_score(row.iqm.value)}</td>',
            f'<td data-v="{row.iqm.low}">{_bounds(row.iqm.low, row.iqm.high)}</td>',
            f"<td>{page.forest(*row.iqm, scores.tolist(), span, group.style)}</td>",
            f'<td data-v="{row.welch}">{_p_value(row.welch)}</td>',
        ]
        best = ' class="best"' if row.iqm.value == rows[0].iqm.value else ""
        made.append(f'<tr{best} data-s="{group.style}">{"".join(cells)}</tr>')
    header = ["Method", "Runs", "Steps", "Mean ± s.e.", "IQM", "95 % interval", "", "Welch p"]
    note = (
        '<p class="note">Final score of each finished run: mean return of its best policy in evaluation episodes that '
        "chose nothing. Rings are runs, the bar is the interval of the interquartile mean. Welch p: two-sided test "
        "against the first row.</p>"
    )
    return "<h3>Final scores</h3>" + page.table(header, made) + note


def _score(value: float, beside: float = 0.0) -> str:
    """A score with as many decimals as it and the one beside it need together."""
    return "–" if np.isnan(value) else f"{value:,.1f}" if max(abs(value), abs(beside)) >= 10 else f"{value:.3f}"


def _plus_minus(value: float, error: float) -> str:
    return _score(value) + ("" if np.isnan(error) else f" ± {_score(error, beside=value)}")


def _bounds(low: float, high: float) -> str:
    return "–" if np.isnan(low) else f"{_score(low, beside=high)} … {_score(high, beside=low)}"


def _p_value(p: float) -> str:
    return "" if np.isnan(p) else "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def _steps(steps: Any) -> str:
    """A number of steps in thousands or millions."""
    if not isinstance(steps, (int, float)):
        return "–"
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if steps >= size:
            return f"{steps / size:.4g}{letter}"
    return f"{steps:g}"


def _spans(numbers: Sequence[int]) -> str:
    """Numbers in ascending order as spans: 0–9, 12."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in parts)


def _dates(groups: Sequence[Group]) -> str:
    """The days of the first and the last run, as their folders are named."""
    days = sorted(
        {run.folder.name[:8] for g in groups for run in g.runs if re.match(r"\d\d-\d\d-\d\d", run.folder.name)}
    )
    if not days:
        return ""
    return f", 20{days[0]}" + (f" to 20{days[-1]}" if days[-1] != days[0] else "")


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "_", task)
