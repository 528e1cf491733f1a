"""docs/representations.md against the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.runtime.srl_flags import MODEL_TYPES, srl_flags
from launch.srl_pipeline import pipeline_flags
from representations import models
from representations.loss_flags import DEFAULT_WEIGHTS
from tests.test_docs import as_number, default_text, rows, section

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "representations.md").read_text(encoding="utf-8")


def test_losses_are_documented_with_their_weights():
    table = rows(section(PAGE, "Losses"))
    assert {name: as_number(cells[0]) for name, cells in table.items()} == DEFAULT_WEIGHTS


def test_encoders_are_documented():
    assert MODEL_TYPES == models.MODEL_TYPES
    assert sorted(rows(section(PAGE, "Encoders"))) == sorted(MODEL_TYPES)


@pytest.mark.parametrize(
    ("title", "parser"), [("Flags of the training", srl_flags()), ("Several models", pipeline_flags())]
)
def test_flags_are_documented_with_their_defaults(title, parser):
    table = rows(section(PAGE, title))
    assert list(table) == [parser[name].option.flag for name in parser.names]
    for name in parser.names:
        option = parser[name].option
        assert as_number(table[option.flag][0]) == default_text(option.default), name
        assert all(spelling in PAGE for spelling in parser[name].spellings)
