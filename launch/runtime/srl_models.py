"""Learned representations for agents: from `--srl-model NAME` to a model folder, and from there to an encoder.

Finding and checking a folder imports neither jax nor NumPy's heavier parts; `encoding_of` does.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.runtime.errors import UsageError, hint
from launch.runtime.validation import constructor_keywords
from representations.registry import check_environment, learned

if TYPE_CHECKING:
    from envs.make import EnvOptions
    from envs.types import Encoding

DEFAULT_CONFIG = "config/srl_models.yaml"
MODEL_FILE = "srl_model.json"
_ROOT = Path(__file__).resolve().parents[2]
# Names of combinations by their losses; what is not here is a combination or splits.
_BY_LOSSES = {
    ("priors",): "robotic_priors",
    ("triplet",): "multi_view_srl",
    ("autoencoder", "inverse"): "autoencoder_inverse",
    ("autoencoder", "reward"): "autoencoder_reward",
    ("autoencoder", "forward"): "autoencoder_forward",
    ("inverse", "random"): "random_inverse",
    ("inverse", "reward"): "reward_inverse",
}


def resolve_srl_model(args: Namespace, given: Collection[str]) -> None:
    """Find and check the learned representation that the flags name, and set what follows from it.

    Sets `args.srl_model_path`, and where they were not given `args.image_size` and `args.srl_model`.

    Args:
        args: Flags; nothing happens where they name no learned representation.
        given: Names of the flags that were typed.

    Raises:
        UsageError: No such model, or one of another environment, picture size or number of cameras.
        ValueError: A damaged model or configuration file.
    """
    path = args.srl_model_path
    if path is None and not learned(args.srl_model):
        if args.latest:
            raise UsageError(f"--latest is about a learned representation, --srl-model={args.srl_model} is none")
        return
    if path is not None and args.latest:
        raise UsageError("--latest and --srl-model-path both choose a model: give one of them")
    if args.env not in _our_environments():
        raise UsageError(f"--srl-model={args.srl_model}: {args.env} has no pictures to learn from")
    check_environment(args.srl_model, args.env)
    if path is None:
        path = _newest(args) if args.latest else _configured(args)
    spec = model_spec(Path(path))
    if not learned(args.srl_model):
        if "srl_model" in given:
            raise UsageError(f"--srl-model={args.srl_model} is not learned: leave out --srl-model-path={path}")
        args.srl_model = kind_of(spec)
    if args.srl_model == "multi_view_srl":  # the robot's own camera, the second view of --fpv, is not looked at
        args.multi_view = "multi_view" in (constructor_keywords(args.env, "pybullet", real=False) or ())
    if "image_size" not in given:
        args.image_size = spec["image_size"]
    check_model(spec, path, args)
    args.srl_model_path = str(Path(path).resolve())


def check_saved_model(args: Namespace) -> None:
    """Check that the learned representation of a run that is continued is still there.

    Raises:
        ValueError: It is not, or it is damaged.
    """
    if args.srl_model_path is not None:
        check_model(model_spec(Path(args.srl_model_path)), args.srl_model_path, args)


def check_model(spec: dict[str, Any], path: Any, task: Namespace | EnvOptions) -> None:
    """Refuse a model that was trained on other pictures than those of `task`.

    Raises:
        UsageError: It was.
    """
    size = spec["image_size"]
    if spec["env_id"] not in ("", task.env):
        raise UsageError(f"model {path} was trained on pictures of {spec['env_id']}, not of {task.env}")
    if size != task.image_size:
        raise UsageError(f"model {path} takes pictures of {size} pixels: give --image-size={size}")
    if spec["channels"] > (6 if task.multi_view or task.fpv else 3):
        raise UsageError(f"model {path} takes {spec['channels'] // 3} views: add --multi-view, or --fpv")


def model_spec(folder: Path) -> dict[str, Any]:
    """What a model's file says of its encoder.

    Raises:
        ValueError: There is no model, or it is damaged.
    """
    from launch.runtime.files import read_json  # here because it loads NumPy, which --help does not

    if not (folder / MODEL_FILE).is_file():
        raise UsageError(f"there is no learned representation in {folder} ({MODEL_FILE} is missing)")
    spec = read_json(folder / MODEL_FILE, f"model {folder}").get("spec")
    names = ("env_id", "image_size", "channels", "state_dim", "losses", "dimensions")
    if not isinstance(spec, dict) or not set(names) <= set(spec):
        raise ValueError(f"model {folder}: {MODEL_FILE} does not describe an encoder")
    return spec


def kind_of(spec: dict[str, Any]) -> str:
    """The name of the registry that fits a model."""
    losses = tuple(sorted(spec["losses"])) or (spec.get("model_type", ""),)
    if sum(spec["dimensions"]) > 0:
        return "srl_3_splits" if len([d for d in spec["dimensions"] if d > 0]) > 2 else "srl_splits"
    if len(losses) == 1 and learned(losses[0]):
        return losses[0]
    return _BY_LOSSES.get(losses, "srl_combination")


def _our_environments() -> Collection[str]:
    from envs.registry import registered_env

    return registered_env


def _read_config(args: Namespace) -> dict[str, Any]:
    """The entry of the environment in the table of models."""
    import yaml

    path = Path(args.srl_config_file)
    if args.srl_config_file == DEFAULT_CONFIG and not path.exists():
        path = _ROOT / DEFAULT_CONFIG
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--srl-config-file={path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"--srl-config-file={path} is not YAML") from None
    entry = content.get(args.env) if isinstance(content, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("log_folder"), str):
        known = list(content) if isinstance(content, dict) else []
        raise UsageError(f"--srl-config-file={path} has no log_folder for {args.env}{hint(args.env, known)}")
    return entry


def _configured(args: Namespace) -> Path:
    """The folder that the table names for `--srl-model`."""
    entry = _read_config(args)
    folder = Path(entry["log_folder"], str(entry.get(args.srl_model, args.srl_model)))
    if folder.is_file():  # the original's tables name the file in the folder
        folder = folder.parent
    if not (folder / MODEL_FILE).is_file():
        raise UsageError(
            f"--srl-model={args.srl_model}: there is no model in {folder}; train one there, write its folder into "
            f"{args.srl_config_file}, or give --srl-model-path or --latest"
        )
    return folder


def _newest(args: Namespace) -> Path:
    """The newest model of the kind `--srl-model` in the environment's folder."""
    root = Path(_read_config(args)["log_folder"])
    found = []
    for file in root.rglob(MODEL_FILE):
        spec = model_spec(file.parent)
        if kind_of(spec) == args.srl_model and spec["env_id"] in ("", args.env):
            found.append((file.stat().st_mtime, file.parent))
    if not found:
        raise UsageError(f"--latest: there is no model of the kind {args.srl_model} below {root}")
    return max(found)[1]


def encoding_of(options: EnvOptions) -> Encoding | None:
    """The encoder of an environment whose observation is learned, None where it is not; imports jax.

    Raises:
        ValueError: The model is missing or damaged, or does not fit the environment.
    """
    if options.srl_model_path is None:
        return None
    encoding, spec = _load(options.srl_model_path)
    check_model(spec, options.srl_model_path, options)
    return encoding


@lru_cache(maxsize=4)
def _load(path: str) -> tuple[Encoding, dict[str, Any]]:
    from dataclasses import asdict

    from envs.types import Encoding
    from representations.encoder import load_encoder

    encoder = load_encoder(path)
    return Encoding(lambda frames: encoder.encode(encoder.params, frames), encoder.spec.state_dim), asdict(encoder.spec)
