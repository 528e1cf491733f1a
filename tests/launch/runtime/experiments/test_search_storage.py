"""The journal that Optuna keeps in a search's folder, after a kill in the middle of a line."""

from __future__ import annotations

import pytest

from launch.runtime.experiments.search import open_study
from launch.runtime.experiments.search_flags import parse_search_args
from launch.runtime.experiments.space import distributions

SEARCH = ["--algo=ppo2", "--env=CartPole-v1", "--simulator=jax", "--study-name=one"]


@pytest.mark.parametrize("half", [b'{"op_code":4,"worker_id":"none', b'{"op_code":4}', b"\0\0\0\0"])
def test_a_line_half_written_is_no_end_of_a_search(half, tmp_path):
    args, path = parse_search_args(SEARCH), tmp_path / "optuna.log"
    study = open_study(args, path)
    study.tell(study.ask(distributions(args.space)).number, 3.0)
    whole = path.read_bytes()
    path.write_bytes(whole + half)
    args.resume = str(tmp_path)
    for number in (1, 2):  # what is written after the cut can be read again, too
        study = open_study(args, path)
        assert [trial.number for trial in study.trials] == list(range(number)) and study.best_value == 3.0
        study.tell(study.ask(distributions(args.space)).number, float(-number))
    assert path.read_bytes().startswith(whole) and half not in path.read_bytes()


def test_nothing_but_half_a_line_is_an_empty_journal(tmp_path):
    args, path = parse_search_args(SEARCH), tmp_path / "optuna.log"
    path.write_bytes(b'{"op_code":0,"wor')
    args.resume = str(tmp_path)
    open_study(args, path)
    assert open_study(args, path).trials == []
