"""The comparison of state representations of arXiv 1901.08651, as far as the hardware at hand allows.

    python benchmarks/paper.py --output logs/paper [--tasks nav2d ...] [--methods ground_truth ...] [--preset small]

Protocol of the paper: discrete actions, random target, sparse reward; a dataset of 20,000 samples of a random policy;
states of 200 components; ppo2 on each representation, 10 seeds (trained at once), the mean return of 100 evaluation
episodes of each, whose actions are drawn as those of the paper are. Splits are autoencoder and reward on 198
components, inverse on 2, weights 1, 1, 2; the combination has the same losses on all components.

Every step that is done is skipped the next time: datasets, models, metrics and scores are kept below --output, and a
training that was interrupted goes on where it was. `--preset small` takes pictures of 56 pixels, 3 seeds and fewer
steps, `--preset full` the paper's numbers. Prints ours beside the published Tables 1 and 2.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.runtime.files import read_json, write_json

TASKS = {
    "nav1d": "MobileRobot1DGymEnv-v0",
    "nav2d": "MobileRobotGymEnv-v0",
    "arm_random": "KukaButtonGymEnv-v0",
    "arm_moving": "KukaMovingButtonGymEnv-v0",
}
SAMPLES = 20_000
SPLITS = ("autoencoder:1:198", "reward:1:-1", "inverse:2:2")
# method -> words of --losses, None where nothing is learned.
METHODS: dict[str, tuple[str, ...] | None] = {
    "ground_truth": None,
    "supervised": ("supervised",),
    "raw_pixels": None,
    "random": ("random",),
    "autoencoder": ("autoencoder",),
    "robotic_priors": ("priors",),
    "srl_combination": ("autoencoder:1", "reward:1", "inverse:2"),
    "srl_splits": SPLITS,
}
# Table 1: mean reward and standard error, by task.
TABLE_1 = {
    "ground_truth": ((211.6, 14.0), (234.4, 1.3), (4.2, 0.5), (4.6, 0.2)),
    "supervised": ((189.7, 14.8), (213.5, 6.0), (3.1, 0.3), (1.4, 0.4)),
    "raw_pixels": ((215.7, 9.6), (231.5, 3.1), (2.6, 0.3), (2.0, 0.3)),
    "random": ((211.9, 10.0), (208.0, 6.1), (4.1, 0.3), (3.0, 0.3)),
    "autoencoder": ((188.8, 13.5), (192.6, 8.9), (3.4, 0.3), (3.0, 0.4)),
    "srl_combination": ((216.3, 10.0), (183.6, 9.6), (2.9, 0.3), (2.9, 0.4)),
    "srl_splits": ((205.1, 11.7), (232.1, 2.2), (3.7, 0.3), (2.5, 0.3)),
}
# Table 2, nav2d: correlations of x_robot, y_robot, x_target, y_target, and their mean.
TABLE_2 = {
    "ground_truth": (1.0, 1.0, 1.0, 1.0, 1.0),
    "supervised": (0.69, 0.73, 0.70, 0.72, 0.71),
    "random": (0.68, 0.65, 0.34, 0.31, 0.50),
    "robotic_priors": (0.2, 0.2, 0.41, 0.66, 0.37),
    "autoencoder": (0.52, 0.51, 0.24, 0.23, 0.38),
    "srl_combination": (0.92, 0.92, 0.33, 0.42, 0.65),
    "srl_splits": (0.81, 0.84, 0.64, 0.39, 0.67),
}
PRIORS_NAV2D = (6.2, 3.1)  # the reward of robotic priors, from Table 2
# The learner's settings by family of tasks, and besides for states and for pictures themselves.
LEARNER = {"nav": ("--num-cpu=32",), "arm": ("--num-cpu=64", "--n-steps=128", "--nminibatches=16")}
STATES = ("--learning-rate=1e-3",)
# Besides, for what is learned of the mobile robot: pictures cost more than updates, so that each is learned from often.
LEARNED = (
    "--noptepochs=10",
    "--nminibatches=8",
    "--normalize-reward",
    "--noclip-value",
    "--gamma=0.95",
    "--ent-coef=0.003",
    "--net-arch=256,256",
)
PIXELS = ("--learning-rate=5e-4", "--gamma=0.95", "--vf-coef=0.1", "--max-grad-norm=5", "--noclip-value")
# Besides, where the learner sees true positions. In one dimension the distance to the target does not tell that the
# robot stands at a wall; two of them do. Four of a moving button show where it goes, some 300 steps before the end.
POSITIONS = {
    "nav1d": ("--num-stack=2", "--ent-coef=0.03"),
    "arm_moving": ("--num-stack=4", "--gamma=0.999", "--lam=0.98", "--ent-coef=0.001"),
}
PRESETS: dict[str, dict[str, int]] = {
    "small": {"image_size": 56, "num_seeds": 3, "num_timesteps": 1_000_000, "epochs": 20},
    "full": {"image_size": 224, "num_seeds": 10, "num_timesteps": 5_000_000, "epochs": 30},
}


def parse_args() -> argparse.Namespace:
    """The command line; what a preset says can be set one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("logs/paper"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    for name in PRESETS["small"]:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--state-dim", type=int, default=200)
    parser.add_argument("--print-only", action="store_true", help="only the tables of what is there")
    args = parser.parse_args()
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def command(main: Any, words: list[str]) -> None:
    """Run an entry point; ends the program where it fails."""
    print("$ " + " ".join(words), flush=True)
    code = main(words)
    if code:
        sys.exit(code)


def dataset(args: argparse.Namespace, task: str) -> Path:
    """The folder of a task's samples, recorded if need be: episodes until there are enough of them."""
    from launch import dataset_generator
    from representations.dataset import SEAL_FILE

    folder = args.output / task / f"data_{args.image_size}_{args.samples}"
    if not (folder / SEAL_FILE).is_file():
        # An episode of the robot has 251 frames; one of the arm at random has some 380.
        episodes = -(-args.samples // (251 if task.startswith("nav") else 300))
        words = [f"--env={TASKS[task]}", "--random-target", "--simulator=jax", f"--image-size={args.image_size}"]
        words += [f"--num-episode={episodes}", f"--save-path={folder.parent}", f"--name={folder.name}"]
        command(dataset_generator.main, words)
    return folder


def model(args: argparse.Namespace, task: str, method: str, data: Path) -> Path:
    """The folder of a trained representation."""
    from launch import train_srl
    from representations.encoder import MODEL_FILE

    folder = args.output / task / f"{method}_{args.image_size}_{args.samples}_{args.state_dim}_{args.epochs}"
    losses = METHODS[method]
    assert losses is not None
    if not (folder / MODEL_FILE).is_file():
        words = [f"--data-folder={data}", f"--log-folder={folder}", f"--epochs={args.epochs}"]
        words += [f"--training-set-size={args.samples}", "--losses", *losses]
        if method != "supervised":
            words.insert(0, f"--state-dim={args.state_dim}")
        if any(folder.glob("checkpoints/*")):
            words = [f"--resume={folder}"]
        elif folder.exists():  # it was ended before its first checkpoint
            words.append("--force")
        command(train_srl.main, words)
    return folder


def metrics(args: argparse.Namespace, data: Path, folder: Path | None) -> dict[str, Any]:
    """The metrics of a representation, or of the true positions."""
    from launch import srl_metrics

    output = (folder or data) / "metrics"
    if not (output / "metrics.json").is_file():
        words = [f"--data-folder={data}", f"--output={output}", f"--training-set-size={args.samples}"]
        command(srl_metrics.main, [*words, f"--log-dir={folder}" if folder else "--ground-truth"])
    return read_json(output / "metrics.json", f"metrics {output}")


def settings(task: str, method: str) -> tuple[str, ...]:
    """The learner's flags."""
    family = "nav" if task.startswith("nav") else "arm"
    if method == "raw_pixels":
        return LEARNER[family] + PIXELS
    if method == "ground_truth":
        return LEARNER[family] + STATES + POSITIONS.get(task, ())
    return LEARNER[family] + STATES + (LEARNED if family == "nav" else ())


def scores(args: argparse.Namespace, task: str, method: str, folder: Path | None) -> list[float]:
    """Mean return of 100 evaluation episodes for each seed."""
    from agents.registry import algorithm_class
    from launch.runtime.flags import parse_train_args
    from launch.runtime.training import train

    sees = folder.name if folder else f"{method}_{args.image_size}"
    learner = settings(task, method)
    # A folder for each learner, too: what others have earned is not taken for its scores.
    name = f"rl_{sees}_{args.num_timesteps}_{args.num_seeds}_{zlib.crc32(' '.join(learner).encode()):08x}"
    home = args.output / task / name
    if not (home / "score.json").is_file():
        words = [f"--env={TASKS[task]}", "--random-target", "--simulator=jax", f"--srl-model={method}", "--no-vis"]
        words += [f"--num-timesteps={args.num_timesteps}", f"--num-seeds={args.num_seeds}", f"--log-dir={home}"]
        words += ["--final-eval-episodes=100", "--noeval-deterministic", *learner]
        if folder is not None:
            words.append(f"--srl-model-path={folder}")
        if method != "ground_truth":
            words.append(f"--image-size={args.image_size}")
        begun = sorted(path.parent.parent for path in home.glob("*/*/*/*/checkpoints/*"))
        if begun:
            words = [f"--resume={begun[-1]}"]
        print("$ launch/train.py " + " ".join(words), flush=True)
        parsed = parse_train_args(words)
        returns = train(algorithm_class(parsed.algo)(), parsed)
        write_json(home / "score.json", {"returns": returns.tolist(), "steps": args.num_timesteps})
    return read_json(home / "score.json", f"scores {home}")["returns"]


def run(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Do what is not done yet; returns {task: {method: result}}, and keeps it in results.json."""
    path = args.output / "results.json"
    results: dict[str, dict[str, Any]] = read_json(path, "results") if path.is_file() else {}
    if args.print_only:
        return results
    for task in args.tasks:
        data = dataset(args, task)
        for method in args.methods:
            folder = model(args, task, method, data) if METHODS[method] else None
            result: dict[str, Any] = {"returns": scores(args, task, method, folder)}
            if method != "raw_pixels":
                judged = metrics(args, data, folder)
                result |= {name: judged[name] for name in ("knn_mse", "gt_corr", "gt_corr_mean")}
            sizes = {name: getattr(args, name) for name in (*PRESETS["small"], "samples", "state_dim")}
            results.setdefault(task, {})[method] = {**result, "with": sizes}
            write_json(path, results)
    return results


def mean_and_error(returns: list[float]) -> str:
    """Mean and standard error over seeds."""
    import numpy as np

    error = np.std(returns, ddof=1) / len(returns) ** 0.5 if len(returns) > 1 else float("nan")
    return f"{np.mean(returns):.1f} ± {error:.1f}"


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the tables, ours beside the published ones."""
    names = list(TASKS)
    print("\nMean return of 100 episodes ± standard error over seeds: ours (published)\n")
    print("| method | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for method in METHODS:
        cells = []
        for column, task in enumerate(names):
            found = results.get(task, {}).get(method)
            published = TABLE_1[method][column] if method in TABLE_1 else PRIORS_NAV2D if task == "nav2d" else None
            said = f"{published[0]} ± {published[1]}" if published else "-"
            cells.append(f"{mean_and_error(found['returns']) if found else '-'} ({said})")
        print(f"| {method} | " + " | ".join(cells) + " |")
    axes = ("x_robot", "y_robot", "x_target", "y_target")
    print("\nGround-truth correlation, nav2d: ours (published)\n")
    print("| method | " + " | ".join(axes) + " | mean | KNN-MSE |")
    print("|---" * (len(axes) + 3) + "|")
    for method, published in TABLE_2.items():
        found = results.get("nav2d", {}).get(method)
        ours = [found["gt_corr"][axis] for axis in axes] + [found["gt_corr_mean"]] if found else [None] * 5
        cells = [
            f"{'-' if value is None else f'{value:.2f}'} ({theirs:.2f})"
            for value, theirs in zip(ours, published, strict=True)
        ]
        distance = f"{found['knn_mse']:.4f}" if found else "-"
        print(f"| {method} | " + " | ".join(cells) + f" | {distance} |")


if __name__ == "__main__":
    try:
        show(run(parse_args()))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
