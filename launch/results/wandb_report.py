"""The same comparison as a report on a wandb server (wandb-workspaces), or its specification as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.results.command import command_line
from launch.results.groups import Group
from launch.results.read import EVALUATION, TRAINING
from launch.runtime.files import warn, write_atomic

if TYPE_CHECKING:
    from launch.results.report import Report

SPECIFICATION_FILE = "wandb_report.json"


def publish(report: Report, project: str, entity: str | None, folder: Path) -> str:
    """Create a report on the wandb server where a key is configured; else write its specification to a file.

    Nothing is asked, and a server that does not answer is a warning.

    Returns:
        Its address, or the path of the file.

    Raises:
        OSError: The file cannot be written.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if wandb.login(prompt=False, verify=False):
        try:
            return str(build(report, project, entity).save().url)
        except Exception as error:  # whatever wandb raises: the specification is there to be used later
            reason = (str(error).splitlines() or [""])[0][:200]
            warn(f"wandb: the report could not be created ({type(error).__name__}: {reason}); its file is written")
    specification = build(report, project, entity or "")._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    said = {"project": project, "entity": entity, "title": report.title, "spec": specification}
    write_atomic(folder / SPECIFICATION_FILE, (json.dumps(said, indent=2, default=str) + "\n").encode())
    return str(folder / SPECIFICATION_FILE)


def build(report: Report, project: str, entity: str | None) -> Any:
    """The report as an object of wandb-workspaces."""
    from wandb_workspaces.reports import v2 as reports

    blocks: list[Any] = [reports.TableOfContents()]
    for task, groups in report.tasks.items():
        blocks += [reports.H2(text=task), reports.MarkdownBlock(text=_table(report, task))]
        runsets = [_runset(reports, group, project, entity) for group in groups]
        panels: list[Any] = [
            reports.LinePlot(title=title, x="Step", y=[metric, f"{metric}/mean"], layout=reports.Layout(x=x, w=12, h=8))
            for x, (title, metric) in zip((0, 12), (("Evaluation", EVALUATION), ("Training", TRAINING)))
        ]
        blocks.append(reports.PanelGrid(runsets=runsets, panels=panels))
        commands = list(dict.fromkeys(command_line(group.runs[0].flags) for group in groups))
        blocks.append(reports.MarkdownBlock(text="```sh\n" + "\n".join(commands) + "\n```"))
    given = {"entity": entity} if entity is not None else {}
    return reports.Report(project=project, title=report.title[:128], blocks=blocks, width="fluid", **given)


def _runset(reports: Any, group: Group, project: str, entity: str | None) -> Any:
    """The wandb runs of a group, found by their settings."""
    names = ["env", "algo", "srl_model", *(n for n in ("random_target", "shape_reward") if group.settings.get(n))]
    names += group.distinct
    filters = " and ".join(f"Config('{name}') = {_literal(group.settings.get(name))}" for name in names)
    return reports.Runset(project=project, entity=entity or "", name=group.label, filters=filters)


def _literal(value: Any) -> str:
    return str(value) if value is None or isinstance(value, (bool, int, float)) else f"'{value}'"


def _table(report: Report, task: str) -> str:
    """The final scores of a task in Markdown."""
    header, rows = report.scores()
    lines = ["| " + " | ".join(header[1:]) + " |", "|" + "---|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row[1:]) + " |" for row in rows if row[0] == task)])
