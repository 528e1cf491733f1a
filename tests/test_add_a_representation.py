"""The code of docs/add_a_representation.md, taken from the page as it stands: it trains, learns, and is observed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from launch import dataset_generator, train_srl
from launch.runtime.flags import parse_train_args
from representations.encoder import read_model
from representations.loss_flags import DEFAULT_WEIGHTS
from representations.objective import TERMS, register_loss
from representations.registry import registered_srl

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add_a_representation.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = [shlex.split(line) for line in re.findall(r"^python (launch/.*)$", PAGE, re.MULTILINE)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A working directory that holds the page's module; registries and import path are as before afterwards."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    tables = (TERMS, DEFAULT_WEIGHTS, registered_srl)
    before = [dict(table) for table in tables]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_pages_loss_learns_and_its_states_are_observed(folder, capsys):
    (_, *record), (_, *learn), (_, *use) = COMMANDS
    small = [word for word in record if "num-episode" not in word]
    assert dataset_generator.main([*small, "--num-episode=2", "--image-size=24"]) == 0
    assert train_srl.main([*learn, "--epochs=6", "--model-type=linear", "--learning-rate=0.001", "--no-vis"]) == 0
    model = folder / "logs" / "srl" / "MobileRobotGymEnv-v0" / "slow_features"
    assert read_model(model)[0].losses == ("slowness", "inverse")
    with np.load(model / "loss_history.npz") as history:
        # The inverse model wants states to move: of the parts, only their sum has to fall.
        assert {"slowness_loss", "variance_loss", "inverse_loss"} <= set(history)
        assert history["train_loss"][-1] < history["train_loss"][0]
    args = parse_train_args(use)
    assert args.srl_model == "slow_features" and Path(args.srl_model_path) == model and args.image_size == 24
    with pytest.raises(ValueError, match=r"^--srl-model=slow_features is for MobileRobotGymEnv-v0, not for Omnirobot"):
        parse_train_args([word.replace("MobileRobotGymEnv-v0", "OmnirobotEnv-v0") for word in use])


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match=r"^the loss 'inverse' cannot be registered"):
        register_loss("inverse", 1.0, TERMS["inverse"])
