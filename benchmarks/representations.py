"""Training speed of the convolutional autoencoder on a CPU against the same model in PyTorch: pictures per second.

    python benchmarks/representations.py --peers-python PEERS/bin/python

PyTorch lives in an environment of its own. The programs take turns, a few gradient steps at a time, so that a machine
whose speed drifts does so for both; the ratio is the median of those of the rounds. A minibatch is 32 transitions, 64
pictures: reconstruct both, the mean squared error, Adam. PyTorch runs in its default memory layout and with channels
last, the faster of which counts. Ours is the learner that `launch/train_srl.py` runs, reading its pictures included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch.runtime.huge_pages import restart_with_huge_pages  # noqa: E402


def ours(size: int, batch: int, state_dim: int, steps: int) -> None:
    """Answer each line on standard input by the pictures per second of `steps` gradient steps."""
    import jax

    from launch.runtime.compiler import compiler_options
    from representations.dataset import Dataset
    from representations.encoder import EncoderSpec
    from representations.learner import Learner
    from representations.loss_flags import parse_losses
    from representations.objective import Design, Hyper, Objective

    rng = np.random.default_rng(0)
    count = batch * (steps + 1) + 1
    frames = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    zeros, starts = np.zeros((count, 2), np.float32), np.arange(count) == 0
    config = {"relative_pos": False}
    data = Dataset("noise", Path(), frames, zeros[:, 0].astype(np.int32), zeros[:, 0], starts, zeros, zeros[:1], config)
    terms = parse_losses(["autoencoder"], state_dim)
    spec = EncoderSpec("", size, 3, state_dim, family="autoencoder", losses=("autoencoder",), num_actions=1)
    hyper = Hyper(*(np.full(shape, value, np.float32) for shape, value in _OPTIONS))
    design = Objective(Design(spec, terms), 1)
    learner = Learner(design, data, [0], hyper, batch, 1 / (steps + 1), compiler_options=compiler_options())
    assert learner.minibatches == steps, "one minibatch validates, the others train"
    rows = np.arange(steps * batch).reshape(1, steps, batch)

    def train() -> float:
        started = time.perf_counter()
        for work in learner._feed(rows, [rng]):
            args = (learner._hyper[0], *work, learner._table, learner._keys([0]), jax.numpy.int32(0))
            learner.states[0], metrics = learner._train(learner.states[0], *args)
        jax.block_until_ready((learner.states[0], metrics))
        return 2 * batch * steps / (time.perf_counter() - started)

    train()  # compiles
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(train()), flush=True)


_OPTIONS = ((1, 0.005), ((1, 1), 1.0), (1, 1.0), (1, 0.5), (1, 0.0), (1, 0.0))


class Program:
    """A process that trains when it is asked to."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def _read(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self._process.args))} failed")  # type: ignore[arg-type]
        return json.loads(line)

    def measure(self) -> float:
        """Pictures per second."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--state-dim", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2, help="gradient steps per turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers-python", help="Python of an environment that has torch")
    parser.add_argument("--only-ours", action="store_true")
    args = parser.parse_args()
    sizes = [args.image_size, args.batch_size, args.state_dim, args.steps]
    if args.only_ours:
        restart_with_huge_pages()  # as launch/train_srl.py does
        return ours(*sizes)
    names = ("--image-size", "--batch-size", "--state-dim", "--steps")
    words = [word for name, size in zip(names, sizes, strict=True) for word in (name, str(size))]
    programs = {"srl-jax": Program([sys.executable, __file__, "--only-ours", *words])}
    if args.peers_python:
        peer = [args.peers_python, str(ROOT / "benchmarks/peers/representations.py"), *words]
        for layout in ("contiguous", "channels_last"):
            programs[f"torch {layout}"] = Program([*peer, "--layout", layout])
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, program in programs.items():
            speeds[name].append(program.measure())
    for program in programs.values():
        program.close()
    base = np.array(speeds["srl-jax"])
    print(f"autoencoder custom_cnn, {args.batch_size} transitions of {args.image_size}x{args.image_size}, CPU")
    for name, values in speeds.items():
        ratios = base / np.array(values)
        print(
            f"{name:20} {np.median(values):8.1f} pictures/s (min {min(values):.1f}, max {max(values):.1f})  "
            f"srl-jax / it {np.median(ratios):.2f} (min {ratios.min():.2f}, max {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main()
