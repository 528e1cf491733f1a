"""Training of a representation from the flags to the model's folder: data, checkpoints, records, pictures."""

from __future__ import annotations

import json
import math
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from launch.runtime import files
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.compiler import compiler_options
from launch.runtime.errors import RunError
from launch.runtime.interrupt import Interrupt
from launch.runtime.logger import RunLogger
from launch.runtime.progress import EpochLines
from launch.runtime.run_folder import ARGS_FILE, CHECKPOINTS_FOLDER, DATE_FORMAT
from launch.runtime.srl_charts import draw_losses, draw_reconstructions
from launch.runtime.srl_flags import saved_flags
from launch.runtime.sweep import Plan, plan
from launch.runtime.wandb_sink import artifact_name
from representations.dataset import Dataset, PictureError, load_dataset
from representations.encoder import Encoder, EncoderSpec, encode_function, load_encoder, save_encoder
from representations.latent import encode_frames
from representations.learner import Learner
from representations.loss_flags import family_of
from representations.models import SMALLEST
from representations.objective import Design, Hyper, Objective, Weights
from representations.pca import principal_components


def train_representation(args: Namespace) -> Path:
    """Train as the flags of `launch/train_srl.py` say, and return the folder.

    Raises:
        ValueError: the dataset or the flags are wrong; nothing was written.
        RunError: every run has diverged, or a picture of the dataset is damaged.
        OSError: a file cannot be written.
    """
    data = first_frames(load_dataset(args.data_folder), args.training_set_size)
    spec = make_spec(args, data)
    check_data(args, data, spec)
    if spec.model_type == "pca":
        return _fit_components(args, data, spec)
    return _Training(args, data, spec).run()


def first_frames(data: Dataset, count: int) -> Dataset:
    """The first `count` frames of a dataset; all where it is -1."""
    if count < 0 or count >= len(data.rewards):
        return data
    episodes = int(np.count_nonzero(data.episode_starts[:count]))
    cut = {name: getattr(data, name)[:count] for name in ("actions", "rewards", "episode_starts", "ground_truth")}
    return replace(data, frames=_First(data.frames, count), targets=data.targets[:episodes], **cut)


class _First:
    """The first pictures of an array, a memory map or files, none of which is read before it is asked for."""

    def __init__(self, frames: Any, count: int) -> None:
        self._frames, self.shape, self.dtype = frames, (count, *frames.shape[1:]), frames.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._frames[np.arange(len(self))[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._frames[: len(self)], dtype)


def make_spec(args: Namespace, data: Dataset) -> EncoderSpec:
    """What the encoder will be.

    Raises:
        ValueError: the dataset's pictures do not fit the flags.
    """
    names = tuple(term.name for term in args.terms)
    height, width, channels = data.frames.shape[1:]
    smallest = SMALLEST[args.model_type]
    if height != width or height < smallest:
        raise ValueError(
            f"dataset {data.name} has pictures of {width}x{height} pixels; --model-type={args.model_type} needs square "
            f"ones of at least {smallest}"
        )
    if args.multi_view and channels < 6:
        raise ValueError(
            f"--multi-view: dataset {data.name} has one view; record it with --multi-view, or leave it out"
        )
    state_dim = args.state_dim
    if "supervised" in names:
        state_dim = data.ground_truth.shape[1]
        if "state_dim" in args.given and args.state_dim != state_dim:
            raise ValueError(f"--losses supervised: true states have {state_dim} components, not {args.state_dim}")
    return EncoderSpec(
        env_id=data.config["env_id"],
        image_size=height,
        channels=6 if args.multi_view and "triplet" not in names else 3,
        state_dim=state_dim,
        model_type="pca" if "pca" in names else args.model_type,
        family=family_of(names),
        losses=names,
        weights=tuple(term.weight for term in args.terms),
        dimensions=tuple(term.dimension for term in args.terms),
        num_actions=data.config["num_actions"],
    )


def check_data(args: Namespace, data: Dataset, spec: EncoderSpec) -> None:
    """Refuse losses that need what the dataset lacks.

    Raises:
        ValueError: One line that names the loss and what it needs.
    """
    names, rewards = spec.losses, np.asarray(data.rewards)
    if "priors" in names and np.asarray(data.actions).ndim > 1:
        raise ValueError(
            f"--losses priors compares transitions with the same action: dataset {data.name} is continuous"
        )
    if "reward" in names and not np.isin(rewards, (-1.0, 0.0, 1.0)).all():
        raise ValueError(f"--losses reward needs rewards of -1, 0 and 1: those of dataset {data.name} are shaped")
    if "reward" in names and len(np.unique(rewards > 0)) < 2:
        raise ValueError(f"--losses reward: dataset {data.name} has no transition {_missing(rewards)} a reward")
    if "reward-prior" in names and len(np.unique(rewards)) < 2:
        raise ValueError(f"--losses reward-prior: all rewards of dataset {data.name} are {rewards[0]:g}")
    if "inverse" in names and np.asarray(data.actions).ndim == 1 and len(np.unique(data.actions)) < 2:
        raise ValueError(f"--losses inverse: dataset {data.name} has one action only")


def _missing(rewards: np.ndarray) -> str:
    return "without" if (rewards > 0).all() else "with"


def _new_folder(args: Namespace, data: Dataset, spec: EncoderSpec) -> Path:
    """Make the model's folder."""
    if args.log_folder:
        folder = Path(args.log_folder)
        if folder.exists() and any(folder.iterdir()):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        parent = Path(args.log_dir, spec.env_id or data.name)
        name = f"{datetime.now():{DATE_FORMAT}}_{spec.model_type}_ST_DIM{spec.state_dim}_{'_'.join(spec.losses)}"
        parent.mkdir(parents=True, exist_ok=True)
        number = 0
        while (folder := parent / (name + (f"_{number}" if number else ""))).exists():
            number += 1
        folder.mkdir()
    files.write_json(folder / ARGS_FILE, saved_flags(args))
    return folder


def _fit_components(args: Namespace, data: Dataset, spec: EncoderSpec) -> Path:
    """Principal components in place of a training."""
    params = principal_components(_Views(data.frames, spec.channels), spec.state_dim, args.seed)
    folder = _new_folder(args, data, spec)
    _finish(folder, args, data, spec, Weights({"encoder": params}, {}), {}, None)
    if args.artifacts:
        logger = _logger(folder, args, spec, ["0"], 1)
        _send(logger, data)
        logger.close()
    print(f"model {folder}")
    return folder


def _logger(
    folder: Path,
    args: Namespace,
    spec: EncoderSpec,
    labels: Sequence[str],
    steps: int,
    settings: Sequence[dict[str, Any]] = (),
) -> RunLogger:
    """What records the runs; `steps` are those of one run, `settings` what each has of its own."""
    return RunLogger(
        folder,
        {**saved_flags(args), "labels": labels},
        spec.env_id,
        len(labels),
        steps,
        "disabled" if args.no_vis else args.wandb_mode,
        args.wandb_project,
        progress=False,
        settings=settings,
    )


def _send(logger: RunLogger, data: Dataset) -> None:
    """Keep the models in wandb.

    The dataset is named beside them: wandb's own record of what a run has used (`use_artifact`) needs its server.
    """
    folder = logger.folder
    name, metadata = f"{folder.name}-srl_model", {"dataset": artifact_name(data.name)}
    logger.artifact(folder, "model", name=name, leave_out=(CHECKPOINTS_FOLDER,), metadata=metadata)


class _Views:
    """The first channels of a dataset's pictures."""

    def __init__(self, frames: Any, channels: int) -> None:
        self._frames, self._channels, self.shape = frames, channels, (*frames.shape[:3], channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self._frames[index])[..., : self._channels]


class _Training:
    """K runs on one dataset."""

    def __init__(self, args: Namespace, data: Dataset, spec: EncoderSpec) -> None:
        self._args, self._data, self._spec = args, data, spec
        dae = _perceptual(args, spec)
        self._design = Design(
            spec, args.terms, args.inverse_model_type, args.balanced_sampling, data.ground_truth.shape[1]
        )
        actions = np.asarray(data.actions)
        objective = Objective(self._design, actions.shape[1] if actions.ndim > 1 else spec.num_actions, dae)
        self._plan = _runs(args)
        hyper = _hyper(self._plan, spec)
        self._learner = Learner(
            objective,
            data,
            list(self._plan.seeds),
            hyper,
            args.batch_size,
            args.val_size,
            compiler_options=compiler_options(),
        )
        self._epochs = 0 if set(spec.losses) == {"random"} else args.epochs
        self._history: dict[str, list[list[float]]] = {}
        self._done = 0
        self._diverged = np.zeros(len(self._plan), bool)

    def run(self) -> Path:
        """Train, and write the models."""
        args = self._args
        folder = Path(args.resume) if args.resume else _new_folder(args, self._data, self._spec)
        steps = max(self._epochs * self._learner.minibatches, 1)
        logger = _logger(folder, args, self._spec, self._plan.labels, steps, self._settings())
        checkpoints = Checkpointer(folder)
        if args.resume:
            self._restore(checkpoints, logger)
        code = 1
        try:
            logger.message(f"{self._learner.placement}; {self._learner.minibatches} minibatches an epoch")
            args.run_folder = str(folder)
            self._train(checkpoints, logger)
            self._write(folder)
            if args.artifacts:
                _send(logger, self._data)
            code = 0
        except PictureError as error:
            raise RunError(str(error)) from None
        finally:
            logger.close(code)
        print(f"model {folder}")
        return folder

    def _settings(self) -> list[dict[str, Any]]:
        """The seed and the swept values of each run; the weight of a loss under its name."""
        swept = [f"weight {name}" if name in self._spec.losses else name for name in self._args.sweep]
        own = self._plan.settings(swept)
        return [{name.removeprefix("weight "): value for name, value in each.items()} for each in own]

    def _train(self, checkpoints: Checkpointer, logger: RunLogger) -> None:
        """Run the epochs that are left."""
        lines = EpochLines(logger.message, self._epochs)
        with Interrupt(logger.message, "epoch") as interrupt:
            for epoch in range(self._done, self._epochs):
                lines.begin(epoch + 1)
                result = self._learner.epoch(epoch, lines.update)
                self._note(result, epoch, logger)
                self._done = epoch + 1
                if self._done % self._args.checkpoint_every == 0 or interrupt.requested or self._done == self._epochs:
                    checkpoints.save(self._done, self._learner.states, self._metadata(logger))
                if interrupt.requested and self._done < self._epochs:
                    raise KeyboardInterrupt

    def _note(self, result: dict[str, np.ndarray], epoch: int, logger: RunLogger) -> None:
        """Record an epoch.

        Raises:
            RunError: no run has a finite loss any more.
        """
        for name, values in result.items():
            self._history.setdefault(name, []).append([float(value) for value in values])
        logger.log(epoch + 1, (epoch + 1) * self._learner.minibatches, result)
        bad = ~np.isfinite(result["train_loss"])
        for run in np.flatnonzero(bad & ~self._diverged):
            logger.message(
                f"warning: the loss of {self._plan.labels[run]} is not a number any more (epoch {epoch + 1})"
            )
        self._diverged |= bad
        if bad.all():
            raise RunError(
                f"the loss is not a number after epoch {epoch + 1}; lower --learning-rate (it is "
                f"{self._args.learning_rate:g}), or the weights of the losses"
            )
        train, validation = np.nanmean(result["train_loss"]), np.nanmean(result["val_loss"])
        logger.message(f"epoch {epoch + 1}/{self._epochs} | train {train:.5g} | validation {validation:.5g}")

    def _metadata(self, logger: RunLogger) -> dict[str, Any]:
        best = [value if math.isfinite(value) else None for value in self._learner.best_loss.tolist()]
        history = {
            name: [[v if math.isfinite(v) else None for v in row] for row in rows]
            for name, rows in self._history.items()
        }
        return {"epoch": self._done, "best_loss": best, "history": history, "logger": logger.state()}

    def _restore(self, checkpoints: Checkpointer, logger: RunLogger) -> None:
        """Continue where the newest checkpoint stands."""
        self._learner.states, saved = checkpoints.restore(self._learner.states)
        self._learner.best_loss = np.array([np.inf if value is None else value for value in saved["best_loss"]])
        self._history = {
            name: [[math.nan if v is None else v for v in row] for row in rows]
            for name, rows in saved["history"].items()
        }
        self._done = saved["epoch"]
        logger.restore(saved["logger"])

    def _write(self, folder: Path) -> None:
        """The best model of each run, with what belongs to it."""
        several = len(self._plan) > 1
        for run in range(len(self._plan)):
            target = folder / f"seed_{run}" if several else folder
            target.mkdir(exist_ok=True)
            weights_used = tuple(float(self._plan.hyper[f"weight {name}"][run]) for name in self._spec.losses)
            spec = replace(self._spec, weights=weights_used)
            history = {name: [row[run] for row in rows] for name, rows in self._history.items()}
            weights = jax.tree.map(np.asarray, self._learner.best(run))
            _finish(target, self._args, self._data, spec, weights, history, self._plan.labels[run])


def _runs(args: Namespace) -> Plan:
    """Seeds and values of all runs."""
    values = {f"weight {term.name}": term.weight for term in args.terms}
    values |= {name: getattr(args, name) for name in _SCALARS}
    names = [term.name for term in args.terms]
    sweep = {f"weight {name}" if name in names else name: given for name, given in args.sweep.items()}
    return plan(values, sweep, args.seed, args.num_seeds)


_SCALARS = ("learning_rate", "beta", "occlusion_percentage", "l1_reg", "l2_reg")


def _hyper(runs: Plan, spec: EncoderSpec) -> Hyper:
    """The traced options of all runs, leaves [K, ...]."""
    rate, beta, occlusion, l1, l2 = (runs.hyper[name] for name in _SCALARS)
    weights = np.stack([runs.hyper[f"weight {name}"] for name in spec.losses], axis=1)
    return Hyper(*(jax.numpy.asarray(x, jax.numpy.float32) for x in (rate, weights, beta, occlusion, l1, l2)))


def _perceptual(args: Namespace, spec: EncoderSpec) -> Any:
    """The frozen autoencoder of the perceptual loss.

    Raises:
        ValueError: it is none, or of other pictures.
    """
    if "perceptual" not in spec.losses:
        return None
    encoder = load_encoder(args.path_to_dae)
    if "dae" not in encoder.spec.losses:
        raise ValueError(
            f"--path-to-dae={args.path_to_dae}: trained with {', '.join(encoder.spec.losses)}, not with dae"
        )
    if (encoder.spec.image_size, encoder.spec.channels) != (spec.image_size, spec.channels):
        raise ValueError(f"--path-to-dae={args.path_to_dae}: it takes pictures of another size or number of views")
    return encoder


def _finish(
    folder: Path,
    args: Namespace,
    data: Dataset,
    spec: EncoderSpec,
    weights: Weights,
    history: dict[str, list[float]],
    label: str | None,
) -> None:
    """Write a model and what goes with it: the original's files, as far as they are no pickles."""
    params: Any = weights.params["encoder"] if spec.model_type == "pca" else weights.variables("encoder")
    decoder = weights.variables("decoder") if "decoder" in weights.params else None
    best = min((value for value in history.get("val_loss", []) if math.isfinite(value)), default=None)
    info = {"data_folder": str(args.data_folder), "epochs": len(history.get("val_loss", [])), "val_loss": best}
    config = json.dumps(files.json_safe(_exp_config(args, spec, folder)), indent=2, allow_nan=False)
    files.write_atomic(folder / "exp_config.json", (config + "\n").encode())
    encoder = Encoder(spec, params, encode_function(spec))
    states = encode_frames(encoder, data.frames, compiler_options=compiler_options())
    with (folder / "states_rewards.npz").open("wb") as file:
        np.savez(file, states=states, rewards=np.asarray(data.rewards))
    if history:
        with (folder / "loss_history.npz").open("wb") as file:
            np.savez(file, **{name: np.array(values) for name, values in history.items()})  # type: ignore[arg-type]
        if not args.no_display_plots:
            draw_losses(history, folder / "losses.png")
            if decoder is not None:
                draw_reconstructions(data.frames, spec, params, decoder, folder / "reconstructions.png")
    # Last: a folder that has a model is complete.
    save_encoder(folder, spec, params, decoder, {**info, "run": label})


_RECORDED = (
    "batch-size",
    "beta",
    "data-folder",
    "epochs",
    "inverse-model-type",
    "l1-reg",
    "l2-reg",
    "learning-rate",
    "model-type",
    "multi-view",
    "seed",
    "training-set-size",
    "occlusion-percentage",
    "val-size",
    "balanced-sampling",
)


def _exp_config(args: Namespace, spec: EncoderSpec, folder: Path) -> dict[str, Any]:
    """What the original's exp_config.json says, under its names; the parts of a split in their own order."""
    split = any(spec.dimensions)
    config = {
        **{name: getattr(args, name.replace("-", "_")) for name in _RECORDED},
        "experiment-name": folder.name,
        "log-folder": str(folder),
        "losses": list(spec.losses),
        "losses_weights": [list(pair) for pair in zip(spec.losses, spec.weights, strict=True)],
        "n_actions": spec.num_actions,
        "split-dimensions": dict(zip(spec.losses, spec.dimensions, strict=True)) if split else -1,
        "state-dim": spec.state_dim,
    }
    return dict(sorted(config.items()))
