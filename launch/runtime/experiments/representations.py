"""Several representations of a dataset: each trained and judged in a process of its own, and a table of all."""

from __future__ import annotations

import csv
import io
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.runtime.errors import RunError
from launch.runtime.experiments.child import Child
from launch.runtime.files import read_json, write_atomic
from launch.runtime.interrupt import Interrupt
from launch.runtime.srl_flags import models_of
from launch.runtime.srl_training import check_data, first_frames, make_spec
from representations.dataset import Dataset, load_dataset

RESULTS_FILE = "results.csv"
COLUMNS = ("model", "knn_mse", "gt_corr_mean", "reward_balanced", "state_dim", "val_loss")
METRICS = Path("metrics", "metrics.json")
_POLL_SECONDS = 0.2


def train_and_judge(args: Namespace) -> None:
    """Train what is not there yet, judge every model and write `results.csv`; sets `args.run_folder`.

    Raises:
        ValueError: The dataset is none, or not one for a model; nothing was started.
        RunError: A process failed; the models before it are kept.
        KeyboardInterrupt: Ctrl-C; the training under way has saved where it stood.
    """
    data = load_dataset(args.data_folder)
    for name, training in args.trainings.items():
        _check(name, training, data)
    for number, (name, training) in enumerate(args.trainings.items()):
        print(f"[{number + 1}/{len(args.trainings)}] {name}", flush=True)
        folder = Path(training.log_folder)
        if training.words:
            args.run_folder = args.log_folder  # from here on something is there that can be continued
            _run(name, "train_srl", training.words)
        for model in models_of(folder):
            if training.words or not (model / METRICS).is_file():
                args.run_folder = args.log_folder
                size = f"--training-set-size={training.training_set_size}"
                _run(name, "srl_metrics", [f"--log-dir={model}", f"--data-folder={args.data_folder}", size])
    print(_table(Path(args.log_folder), list(args.trainings)), end="")


def _check(name: str, training: Namespace, data: Dataset) -> None:
    """Refuse a training that the dataset is not made for."""
    try:
        part = first_frames(data, training.training_set_size)
        check_data(training, part, make_spec(training, part))
    except ValueError as error:
        raise ValueError(f"model {name}: {error}") from None


def _run(name: str, program: str, words: Sequence[str]) -> None:
    """Run an entry point to its end; Ctrl-C is passed on once, the second time it is ended."""
    child = Child(program, words, None)
    try:
        with Interrupt(lambda _: child.interrupt()) as interrupt:
            while (code := child.poll()) is None:
                time.sleep(_POLL_SECONDS)
    finally:
        child.kill()
    if interrupt.requested:
        raise KeyboardInterrupt
    if code:
        raise RunError(f"model {name}: launch/{program}.py failed with exit code {code}; the same command tries again")


def _table(root: Path, names: Sequence[str]) -> str:
    """Write `results.csv`, and return it as a table."""
    rows = [[*map(_text, _row(root, model))] for name in names for model in models_of(root / name)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomic(root / RESULTS_FILE, text.getvalue().encode())
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in [COLUMNS, *rows]]
    return "\n".join(lines) + f"\nwritten to {root / RESULTS_FILE}\n"


def _row(root: Path, model: Path) -> list[Any]:
    """What is known of a model."""
    judged = read_json(model / METRICS, f"model {model}")
    saved = read_json(model / "srl_model.json", f"model {model}")
    reward = (judged["reward"] or {}).get("balanced_accuracy")
    name = model.relative_to(root).as_posix()
    sizes = [saved["spec"]["state_dim"], saved["info"]["val_loss"]]
    return [name, judged["knn_mse"], judged["gt_corr_mean"], reward, *sizes]


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
