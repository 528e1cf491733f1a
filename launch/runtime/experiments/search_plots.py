"""Plots of a search: how the score grew, and which hyperparameters mattered."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.trial import TrialState

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito's, told apart without colour vision


def plot_history(study: optuna.Study, path: Path) -> None:
    """Score of every trial at its last comparison, and the best so far among those trained to the end."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for state, label, colour, marker in (
        (TrialState.PRUNED, "stopped early", _GREY, "x"),
        (TrialState.COMPLETE, "trained to the end", _BLUE, "o"),
    ):
        trials = [trial for trial in study.trials if trial.state is state and trial.intermediate_values]
        scores = [trial.intermediate_values[max(trial.intermediate_values)] for trial in trials]
        axes.scatter([trial.number for trial in trials], scores, c=colour, marker=marker, label=label)
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    best = np.maximum.accumulate(np.asarray([trial.value for trial in complete], np.float64))
    axes.step([trial.number for trial in complete], best, where="post", color=_ORANGE, label="best so far")
    axes.set(xlabel="trial", ylabel="mean return")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each hyperparameter in the variation of scores, by PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255).

    Trials that were stopped early take part with their last score. Empty where there are too few different scores.
    """
    trials = [trial for trial in study.trials if trial.intermediate_values]
    scores = {trial.intermediate_values[max(trial.intermediate_values)] for trial in trials}
    if len(scores) < 4:
        return {}
    copy = optuna.create_study(direction="maximize")
    for trial in trials:
        copy.add_trial(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=trial.intermediate_values[max(trial.intermediate_values)],
            )
        )
    return optuna.importance.get_param_importances(copy, evaluator=optuna.importance.PedAnovaImportanceEvaluator())


def plot_importance(study: optuna.Study, path: Path) -> None:
    """Bars of `importances`."""
    found = dict(sorted(importances(study).items(), key=lambda item: item[1]))
    figure, axes = plt.subplots(figsize=(7, 1 + 0.4 * max(2, len(found))), layout="constrained")
    axes.barh(list(found), list(found.values()), color=_BLUE)
    axes.set(xlabel="importance")
    if not found:
        axes.set(title="too few different scores to tell", yticks=[])
    figure.savefig(path, dpi=150)
    plt.close(figure)
