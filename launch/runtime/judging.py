"""What `launch/srl_metrics.py` and `launch/enjoy_latent.py` do."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from launch.runtime import charts, latent_charts
from launch.runtime.compiler import compiler_options
from launch.runtime.files import warn, write_json
from representations.dataset import Dataset, load_dataset
from representations.encoder import Encoder, load_encoder
from representations.latent import LatentSpace, check_fit, encode_frames
from representations.metrics import (
    ground_truth_correlation,
    knn_mse,
    nearest_neighbours,
    predict_reward,
    sample_frames,
)

_AXES = ("x", "y", "z")


def measures(
    states: np.ndarray, dataset: Dataset, seed: int, k: int, samples: int, relative: bool = True
) -> dict[str, Any]:
    """The metrics of the states [n, S] of a dataset's first n frames.

    Returns:
        `knn_mse` (m^2), `gt_corr` {axis: correlation} of the robot's and the target's axes, `gt_corr_mean`, and
        `reward` with the accuracies of the reward predictor, None where rewards cannot be told apart.

    Raises:
        ValueError: Fewer than k + 1 frames.
    """
    count = len(states)
    truth = (dataset.true_states() if relative else dataset.ground_truth)[:count]
    neighbours = nearest_neighbours(states, sample_frames(count, samples, seed), k)
    positions, targets = dataset.ground_truth[:count], dataset.true_targets()[:count]
    correlations: dict[str, float] = {}
    for name, values in (("robot", positions), ("target", targets)):
        labels = [f"{axis}_{name}" for axis in (*_AXES, *map(str, range(3, values.shape[1])))][: values.shape[1]]
        correlations |= dict(zip(labels, ground_truth_correlation(states, values).tolist(), strict=True))
    try:
        reward: dict[str, float] | None = predict_reward(
            states, dataset.rewards[:count], dataset.episode_starts[:count], seed
        )._asdict()
    except ValueError as error:
        warn(str(error))
        reward = None
    return {
        "knn_mse": knn_mse(neighbours, truth),
        "gt_corr": correlations,
        "gt_corr_mean": float(np.mean(list(correlations.values()))),
        "reward": reward,
        "frames": count,
    }


def judge(args: Namespace) -> dict[str, Any]:
    """Measure, draw and print; returns what `metrics.json` holds.

    Raises:
        ValueError: No such dataset or model, or they do not fit together.
    """
    dataset = load_dataset(args.data_folder)
    count = len(dataset) if args.training_set_size == -1 else min(args.training_set_size, len(dataset))
    if args.ground_truth:
        states = np.concatenate([dataset.ground_truth, dataset.true_targets()], axis=1)[:count]
        home, name = dataset.folder, "ground truth"
    else:
        home = Path(args.log_dir)
        encoder = load_encoder(home)
        check_fit(encoder, dataset, home)
        states = encode_frames(encoder, dataset.frames, count, compiler_options())
        name = home.resolve().name
    result = measures(states, dataset, args.seed, args.n_neighbors, args.n_samples, not args.absolute)
    output = Path(args.output) if args.output else home / "metrics"
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "metrics.json", {**result, "dataset": str(dataset.folder), "seed": args.seed})
    np.savez(output / "states_rewards.npz", states=states, rewards=dataset.rewards[:count])
    _draw(output, states, dataset, args, f"{name} on {dataset.name}")
    _report(result)
    print(f"files in {output}")
    return result


def _draw(output: Path, states: np.ndarray, dataset: Dataset, args: Namespace, title: str) -> None:
    count = len(states)
    starts = np.flatnonzero(dataset.episode_starts)
    times = (np.arange(len(dataset)) - starts[dataset.episodes])[:count]
    rewards = dataset.rewards[:count]
    frames = sample_frames(count, args.n_samples, args.seed)
    frames = np.random.default_rng(args.seed).permutation(frames)[: args.n_to_plot]
    found = nearest_neighbours(states, frames, args.n_neighbors)
    latent_charts.neighbours_picture(
        output / "nearest_neighbours.png", dataset.frames, found, args.n_to_plot, f"nearest neighbours, {title}"
    )
    for name, colours, label in (("reward", rewards, "reward"), ("time", times, "step of the episode")):
        latent_charts.latent_picture(output / f"latent_{name}.png", states, colours, label, title)
    latent_charts.latent_page(output / "latent.html", states, rewards, times, dataset.frames, title)


def _report(result: dict[str, Any]) -> None:
    print(f"KNN-MSE {result['knn_mse']:.5f}")
    axes = ", ".join(f"{axis} {value:.2f}" for axis, value in result["gt_corr"].items())
    print(f"GTC {axes}; mean {result['gt_corr_mean']:.2f}")
    if result["reward"]:
        reward = result["reward"]
        print(
            f"reward prediction: accuracy {reward['accuracy']:.3f}, balanced {reward['balanced_accuracy']:.3f}, always "
            f"the more frequent class {reward['majority']:.3f}"
        )


def walk(args: Namespace) -> None:
    """Show places of a latent space as `launch/enjoy_latent.py` says.

    Raises:
        ValueError: No such dataset or model, they do not fit together, or a component or frame that does not exist.
    """
    dataset, encoder = load_dataset(args.data_folder), load_encoder(args.log_dir)
    space = LatentSpace(args.log_dir, encoder, dataset, args.num_frames, compiler_options())
    _check_places(args, encoder, space)
    how = "decoded" if space.decodes else "pictures of the nearest known states"
    if charts.can_open_windows() and args.frames is None and args.output is None:
        _window(space, encoder, how)
        return
    output = Path(args.output) if args.output else Path(args.log_dir) / "latent"
    output.mkdir(parents=True, exist_ok=True)
    if args.frames is not None:
        start, stop = args.frames
        places, path = space.path(start, stop, args.steps)[None], output / f"path_{start}_{stop}.png"
        title = f"from frame {start} to frame {stop}, {how}"
    else:
        first, second = args.components
        places, path = space.grid((first, second), args.steps), output / f"grid_{first}_{second}.png"
        title = f"component {first} from left to right, {second} from top to bottom, {how}"
    rows, columns, _ = places.shape
    pictures = space.pictures(places.reshape(rows * columns, -1))
    latent_charts.sheet_picture(path, pictures.reshape(rows, columns, *pictures.shape[1:]), title)
    print(f"wrote {path}")


def _check_places(args: Namespace, encoder: Encoder, space: LatentSpace) -> None:
    size = encoder.spec.state_dim
    if args.components is None:
        args.components = (0, min(1, size - 1))
    if max(args.components) >= size:
        raise ValueError(
            f"--components {args.components[0]} {args.components[1]}: states have components 0 to {size - 1}"
        )
    if args.frames is not None and max(args.frames) >= len(space.states):
        raise ValueError(
            f"--frames {args.frames[0]} {args.frames[1]}: frames 0 to {len(space.states) - 1} are looked at"
        )


def _window(space: LatentSpace, encoder: Encoder, how: str) -> None:
    """A slider for each of the first components, and the picture of where they stand."""
    from matplotlib import pyplot
    from matplotlib.widgets import Slider

    count = min(encoder.spec.state_dim, 12)
    figure = pyplot.figure(figsize=(7, 6 + 0.3 * count))
    axes = figure.add_axes((0.1, 0.05 + 0.04 * count, 0.8, 0.9 - 0.04 * count))
    axes.set_title(how)
    axes.axis("off")
    place = np.zeros(encoder.spec.state_dim, np.float32)
    place[:count] = (space.low[:count] + space.high[:count]) / 2
    image = axes.imshow(latent_charts.first_view(space.pictures(place[None])[0]))
    sliders = []
    for index in range(count):
        bar = figure.add_axes((0.2, 0.03 + 0.04 * index, 0.65, 0.03))
        low, high = float(space.low[index]), float(space.high[index])
        slider = Slider(bar, f"state[{index}]", low, high if high > low else low + 1e-6, valinit=float(place[index]))

        def moved(value: float, index: int = index) -> None:
            place[index] = value
            image.set_data(latent_charts.first_view(space.pictures(place[None])[0]))
            figure.canvas.draw_idle()

        slider.on_changed(moved)
        sliders.append(slider)
    pyplot.show()
