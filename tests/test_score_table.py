"""The table of scores: its commands are valid, its records are theirs, and docs/results.md says what is recorded."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest

from benchmarks.score_table import TABLE, Entry
from benchmarks.scores import RESULTS, ROOT, command, verdict
from launch.results.statistics import iqm
from launch.runtime.flags import parse_train_args

RECORDED = json.loads(RESULTS.read_text())
THOUSANDS = {"k": 1_000, "M": 1_000_000}


def key_of(entry: Entry) -> str:
    return entry.key


@pytest.mark.parametrize("entry", TABLE, ids=key_of)
def test_commands_are_valid(entry: Entry):
    args = parse_train_args(command(entry, 3, 0))
    assert (args.algo, args.num_timesteps, args.num_seeds) == (entry.algo, entry.steps, 3)


def test_what_is_recorded_stands_in_the_table():
    assert set(RECORDED) <= {entry.key for entry in TABLE}


@pytest.mark.parametrize("entry", [entry for entry in TABLE if entry.key in RECORDED], ids=key_of)
def test_a_record_was_earned_by_the_tables_command(entry: Entry):
    record = RECORDED[entry.key]
    assert len(record["final"]) >= 3
    assert shlex.split(record["command"])[2:] == command(entry, len(record["final"]), 0)
    assert record["iqm"] == pytest.approx(float(iqm([np.asarray(record["final"])])))
    assert record["steps"] == entry.steps


def documented_scores() -> dict[str, list[str]]:
    """{task/algorithm: [steps, IQM and interval, published, verdict]} of the first table of docs/results.md."""
    page = (ROOT / "docs" / "results.md").read_text()
    rows = page.split("| task | algorithm |")[1].split("\n\n")[0].splitlines()[2:]
    found = {}
    for row in rows:
        task, algo, *rest = [cell.strip() for cell in row.strip("|").split("|")]
        task = re.sub(r", (\w+)$", r" (\1)", task)
        found[f"{task}/{re.split('[ ,]', algo)[0]}"] = [algo, *rest]
    return found


def test_the_page_of_results_shows_what_is_recorded():
    shown = documented_scores()
    assert set(shown) == set(RECORDED)
    for entry in TABLE:
        if entry.key not in RECORDED:
            continue
        record = RECORDED[entry.key]
        algo, steps, score, published, word = shown[entry.key]
        number, unit = steps.split()
        assert int(number) * THOUSANDS[unit] == entry.steps
        seeds = re.search(r"(\d+) seeds", algo)
        assert len(record["final"]) == (int(seeds[1]) if seeds else 3)
        value, low, high = (float(x) for x in re.findall(r"-?[\d.]+", score)[:3])
        assert (value, low, high) == pytest.approx((record["iqm"], *record["interval"]), abs=0.051), entry.key
        assert published in (str(entry.published), f"{entry.published.mean:g} (target)"), entry.key
        assert word == verdict(entry, record), entry.key
