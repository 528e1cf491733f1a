"""Flags of `launch/train_srl.py`, those of the original's train.py first. Imports nothing heavy."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.runtime.errors import HelpRequested, UsageError, hint
from launch.runtime.flag_parser import FlagParser, add_wandb_flags, peek
from launch.runtime.plugin import load_plugin
from launch.runtime.validation import saved_value
from representations.loss_flags import DEFAULT_WEIGHTS, Term, family_of, parse_losses

MODEL_TYPES = ("custom_cnn", "resnet", "mlp", "linear")
SWEPT = ("learning_rate", "beta", "occlusion_percentage", "l1_reg", "l2_reg")
_USAGE = "python launch/train_srl.py --data-folder DIR [--flag value ...]"
_DESCRIPTION = (
    "Learn a representation of pictures from a dataset that launch/dataset_generator.py or the original toolbox has "
    "recorded. The model is then used by `launch/train.py --srl-model-path FOLDER`."
)
MOVABLE = ("data_folder", "path_to_dae")  # what a training reads; a resumed one finds it at another place by its name
# What a resumed run may change: nothing that decides what was computed.
FREE_ON_RESUME = {
    "resume",
    "epochs",
    "no_vis",
    "wandb_project",
    "wandb_mode",
    "artifacts",
    "verbose",
    "no_cuda",
    "checkpoint_every",
    "log_dir",  # the folder is there already, wherever it is now
    *MOVABLE,
}


def srl_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("Data"):
        _add_data_flags(parser)
    with parser.group("Model"):
        _add_model_flags(parser)
    with parser.group("Training"):
        _add_training_flags(parser)
    with parser.group("Records"):
        _add_record_flags(parser)
    return parser


def _add_data_flags(parser: FlagParser) -> None:
    add = parser.add_argument
    add("--data-folder", metavar="DIR", help="The dataset.")
    add("--training-set-size", type=int, default=-1, minimum=-1, help="Use the first N frames only; -1 is all.")
    add("--multi-view", action="store_true", help="Look at both views of the dataset.")
    add("--val-size", type=float, default=0.2, minimum=0.0, maximum=0.9, help="Part of the minibatches that validate.")
    add("--balanced-sampling", action="store_true", help="episode-prior: as many pairs of one episode as of two.")


def _add_model_flags(parser: FlagParser) -> None:
    add = parser.add_argument
    add("--model-type", default="custom_cnn", choices=MODEL_TYPES, metavar="NAME", help="Network of the encoder.")
    add("--state-dim", type=int, default=2, minimum=1, help="Components of a state.")
    add(
        "--losses",
        nargs="+",
        metavar="NAME[:WEIGHT[:DIM]]",
        help="What to learn from: " + ", ".join(DEFAULT_WEIGHTS) + ". With dimensions each loss shapes a part of the "
        "state of its own; -1 shares that of the loss before. Default: inverse.",
    )
    add("--inverse-model-type", default="linear", choices=("linear", "mlp"), help="Network of the inverse model.")
    add("--beta", type=float, default=1.0, minimum=0.0, help="vae: weight of the KL divergence.")
    add("--occlusion-percentage", type=float, default=0.5, minimum=0.0, maximum=1.0, help="dae: largest hidden part.")
    add("--path-to-dae", metavar="DIR", help="perceptual: folder of a trained denoising autoencoder.")
    add("--state-dim-dae", type=int, default=200, minimum=1, help="Accepted for old scripts: --path-to-dae tells it.")
    add("--plugin", metavar="MODULE", help="Import this module first; it registers your own losses.")


def _add_training_flags(parser: FlagParser) -> None:
    add = parser.add_argument
    add("--epochs", type=int, default=30, minimum=1, help="Passes over the data.")
    add("-bs", "--batch-size", type=int, default=32, minimum=2, help="Transitions per minibatch.")
    add("-lr", "--learning-rate", type=float, default=0.005, minimum=0.0, help="Of Adam.")
    add("--l1-reg", type=float, default=0.0, minimum=0.0, help="Weight of the sum of absolute network weights.")
    add("--l2-reg", type=float, default=0.0, minimum=0.0, help="Weight of the mean norm of the network's arrays.")
    add("--seed", type=int, default=1, minimum=0, maximum=2**32 - 1, help="Seed of the (first) run.")
    add("--num-seeds", type=int, default=1, minimum=1, metavar="K", help="Train K runs at once, seeds --seed and up.")
    add(
        "--sweep",
        nargs="+",
        metavar="NAME:V1,V2",
        help="Train one run per combination of these values: weights of losses, " + ", ".join(SWEPT) + ".",
    )
    add("--no-cuda", action="store_true", help="Train on the CPU.")
    add("--resume", metavar="DIR", help="Continue the training in this folder, with the flags it was begun with.")


def _add_record_flags(parser: FlagParser) -> None:
    add = parser.add_argument
    add("--log-dir", default="logs/srl/", metavar="DIR", help="Root of the model folders.")
    add("--log-folder", metavar="DIR", help="The model's folder. Without it: DATE_MODEL_ST_DIM<n>_LOSSES below.")
    add("-f", "--force", action="store_true", help="Replace what is in --log-folder.")
    add("--checkpoint-every", type=int, default=5, minimum=1, help="Epochs between checkpoints.")
    add("--no-display-plots", action="store_true", help="Draw no pictures.")
    add("--no-vis", action="store_true", help="No wandb.")
    add_wandb_flags(parser)
    add("--artifacts", action="store_true", help="Send the model to wandb at the end, with the name of its dataset.")
    add("-v", "--verbose", action="store_true", help="Say more, and show where an error came from.")
    add("-h", "--help", action="store_true", help="Show this text.")


def parse_srl_args(argv: Sequence[str]) -> Namespace:
    """Parse and check the command line of `launch/train_srl.py`.

    Returns:
        All flags by underscored name, with `terms` (the losses), `sweep` as {name: [value, ...]}, `given` (what was
        typed), and `run_folder`, which is None until the training has created its folder.

    Raises:
        UsageError: The command line cannot be carried out.
        HelpRequested: It asks for help.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    parser = srl_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    del args.help
    args.given = set(parser.given)
    if args.resume:
        _restore(args, parser)
    if not args.data_folder:
        raise UsageError("--data-folder is missing: which dataset?")
    args.losses = args.losses or ["inverse"]
    args.terms = read_terms(args)
    args.sweep = _read_sweep(args.sweep, args.terms, parser, args.given)
    _check(args)
    args.run_folder = None
    return args


def read_terms(args: Namespace) -> tuple[Term, ...]:
    """The losses of the flags.

    Raises:
        UsageError: They are not valid.
    """
    try:
        return parse_losses(args.losses, args.state_dim)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _restore(args: Namespace, parser: FlagParser) -> None:
    """Take the flags of the saved training, except what may change and was given.

    Raises:
        ValueError: That is no folder of a training, its args.json is damaged, or a flag must be as it was.
    """
    from launch.runtime.files import read_json  # here because they load NumPy, which --help does not
    from launch.runtime.run_folder import ARGS_FILE, compare_args

    saved = read_json(Path(args.resume) / ARGS_FILE, f"--resume={args.resume}")
    if "terms" in saved or "data_folder" not in saved:
        raise UsageError(f"--resume={args.resume}: that is no folder of a representation")
    if saved.get("plugin") and not args.plugin:  # what a folder says is never taken as code to run
        raise UsageError(f"--resume={args.resume}: that training used --plugin={saved['plugin']}, give it again")
    compare_args(saved, {name: getattr(args, name) for name in parser.given}, ignore=FREE_ON_RESUME)
    for name in parser.names:
        if name in saved and not (name in FREE_ON_RESUME and name in parser.given):
            setattr(args, name, saved_value(parser[name], saved[name], args.resume))
    for name in MOVABLE:
        old, new = saved.get(name), getattr(args, name)
        if new != old and (not isinstance(old, str) or Path(old).name != Path(new).resolve().name):
            raise UsageError(f"{parser[name].option.flag}={new}: that training was begun with {old}, of another name")


def _read_sweep(
    items: Sequence[str], terms: Sequence[Term], parser: FlagParser, given: set[str]
) -> dict[str, list[float]]:
    """Read `name:v1,v2` into {name: [v1, v2]}."""
    names = [term.name for term in terms]
    sweep: dict[str, list[float]] = {}
    for item in items or []:
        name, _, text = item.partition(":")
        if name not in names:
            name = name.replace("-", "_")
        if name not in (*names, *SWEPT):
            raise UsageError(f"--sweep {item}: there is nothing of that name{hint(name, [*names, *SWEPT])}")
        if name in sweep or name in given:
            raise UsageError(f"--sweep: {name} is given twice")
        values = text.split(",")
        if not text or len(set(values)) < len(values):
            raise UsageError(f"--sweep {item}: expected name:v1,v2 with different values")
        sweep[name] = [_number(item, name, value, parser) for value in values]
    return sweep


def _number(item: str, name: str, text: str, parser: FlagParser) -> float:
    """One value of a sweep."""
    if name in parser:
        return float(parser[name].read(text))
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--sweep {item}: '{text}' is not a number") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"--sweep {item}: a weight is a finite number of at least 0")
    return value


def _check(args: Namespace) -> None:
    """Refuse what does not go together."""
    names = [term.name for term in args.terms]
    family = family_of(names)
    if family in ("autoencoder", "vae") and args.model_type == "resnet":
        raise UsageError(f"--model-type=resnet has no decoder for {family}: choose custom_cnn or mlp")
    if family == "vae" and args.model_type == "linear":
        raise UsageError("--model-type=linear has no decoder for vae: choose custom_cnn or mlp")
    if "perceptual" in names and not args.path_to_dae:
        raise UsageError("--losses perceptual needs --path-to-dae, the folder of a trained denoising autoencoder")
    if "triplet" in names and not args.multi_view:
        raise UsageError("--losses triplet needs --multi-view: it compares two views")
    if "pca" in names and (args.num_seeds > 1 or args.sweep):
        raise UsageError("--losses pca has no seeds and nothing to sweep")
    if args.training_set_size == 0:
        raise UsageError("--training-set-size=0: give a number of frames, or -1 for all")
    _check_folder(args)


def _check_folder(args: Namespace) -> None:
    """Refuse a folder that holds something already, or cannot be made; a resumed training has its own."""
    if args.resume:
        return
    from launch.runtime.run_folder import check_log_dir

    check_log_dir(args.log_dir)
    if not args.log_folder:
        return
    folder = Path(args.log_folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--log-folder={folder} is a file")
    if not args.force and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"--log-folder={folder} holds something already: add --force to replace it")
    check_log_dir(folder)


def saved_flags(args: Namespace) -> dict[str, Any]:
    """The flags as args.json holds them: what `_restore` reads back."""
    left_out = {"terms", "given", "run_folder", "resume", "force"}
    flags = {name: value for name, value in vars(args).items() if name not in left_out}
    flags["sweep"] = [f"{name}:{','.join(map(repr, values))}" for name, values in args.sweep.items()]
    return flags


def models_of(folder: Path) -> list[Path]:
    """The folders of the models that a training has written: its own, or one for each of several runs."""
    return sorted(path.parent for pattern in ("", "seed_*/") for path in folder.glob(f"{pattern}srl_model.json"))
