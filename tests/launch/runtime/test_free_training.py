"""A learner with a loop of its own: its run comes to an end with scores, which reports and pipelines read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.base_classes import BaseRLObject
from agents.registry import ActionType, AlgoType, registered_rl
from launch import train
from launch.results.read import read_runs
from launch.runtime.experiments.jobs import final_scores, progress

STEPS = 300


class Sided(BaseRLObject):
    """Pushes to one side, so that episodes of CartPole-v1 end after 8 to 10 steps; its best model alternates sides."""

    def __init__(self, alternates: bool = False) -> None:
        self.alternates, self.steps = alternates, 0

    def save(self, save_path: str, _locals: Any = None) -> None:
        Path(save_path).mkdir(parents=True, exist_ok=True)
        Path(save_path, "sided.json").write_text(json.dumps(Path(save_path).name == "best"))

    @classmethod
    def load(cls, load_path: str, args: Any = None) -> BaseRLObject:
        return cls(json.loads(Path(load_path, "sided.json").read_text()))

    def customArguments(self, parser: Any) -> Any:
        return parser

    def getAction(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray:
        assert dones is not None and dones.shape == (len(observation),)
        self.steps += 1
        return np.full(len(observation), self.steps % 2 if self.alternates else 0)

    def train(self, args: Any, callback: Any, env_kwargs: Any = None, hyperparam: Any = None) -> None:
        env = self.makeEnv(args, env_kwargs)
        try:
            env.reset()
            going = True
            while going:
                env.step(np.zeros(env.num_envs, np.int64))
                going = callback(locals(), globals())
        finally:
            env.close()


class Forgetful(Sided):
    """Cannot be loaded, and acts in training only."""

    @classmethod
    def load(cls, load_path: str, args: Any = None) -> BaseRLObject:
        raise NotImplementedError("never\nwritten")

    def getAction(self, observation: np.ndarray, dones: np.ndarray | None = None) -> np.ndarray:
        raise TypeError("no policy")


def trained(root: Path, monkeypatch: pytest.MonkeyPatch, cls: type) -> Path:
    """The run folder of a short training."""
    entry = (cls, AlgoType.REINFORCEMENT_LEARNING, [ActionType.DISCRETE])
    monkeypatch.setitem(registered_rl, "mine", entry)
    flags = [f"--num-timesteps={STEPS}", "--min-episodes-save=1", "--final-eval-episodes=9", "--no-vis"]
    assert train.main(["--algo=mine", "--env=CartPole-v1", f"--log-dir={root}", *flags]) == 0
    (args,) = root.glob("*/*/*/*/args.json")
    return args.parent


def test_both_policies_are_evaluated_at_the_end(tmp_path, monkeypatch, capsys):
    folder = trained(tmp_path, monkeypatch, Sided)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert 8 <= last["score/final"] <= 10.5 and 15 < last["score/best"] < 100 and last["score/std"] > 0
    assert last["step"] >= STEPS
    (run,) = read_runs(tmp_path).runs
    assert run.finished and run.score == last["score/best"]
    assert final_scores(folder) == [run.score] and progress(folder).finished
    assert f"mean return of 9 evaluation episodes: final {last['score/final']:.2f} ± " in capsys.readouterr().err
    assert f"**{run.score:.2f}**" in (folder / "README.md").read_text()


def test_a_learner_that_cannot_be_evaluated_keeps_its_run(tmp_path, monkeypatch, capsys):
    folder = trained(tmp_path, monkeypatch, Forgetful)
    err = capsys.readouterr().err
    assert "warning: the final policy has no score: TypeError: no policy" in err
    assert "warning: the best policy has no score: NotImplementedError: never written" in err
    assert "score/" not in (folder / "metrics.jsonl").read_text()
    assert {path.name for path in (folder / "mine_model").iterdir()} == {"best", "final"}
    (run,) = read_runs(tmp_path).runs
    assert not run.finished and run.score is not None
