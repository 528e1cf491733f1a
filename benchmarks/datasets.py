"""How fast datasets are generated in the twin, and read.

    python benchmarks/datasets.py --env MobileRobotGymEnv-v0 --episodes 80 --image-size 224

Generates a dataset of random actions with `launch/dataset_generator.py`, in a process of its own, and reads it as a
training does: batches of 32 frames in a random order, copied to NumPy. Prints the time of both; that of the
first includes start-up and compilation. Files are read from the cache of the operating system, if there is room.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from representations.dataset import load_dataset

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="MobileRobotGymEnv-v0")
    parser.add_argument("--episodes", type=int, default=80)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--format", default="compact", choices=("compact", "original"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "launch/dataset_generator.py", f"--env={args.env}", "--random-target"]
        command += ["--simulator=jax", f"--num-episode={args.episodes}", f"--image-size={args.image_size}"]
        command += [f"--save-path={folder}", "--name=set", f"--format={args.format}"]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - started
        dataset = load_dataset(Path(folder, "set"))
        count = len(dataset)
        print(f"{args.env}, {args.image_size} pixels, {args.format}: {count} frames in {seconds:.1f} s")
        order, total = np.random.default_rng(0).permutation(count), 0
        started = time.perf_counter()
        for start in range(0, count - BATCH + 1, BATCH):
            batch = np.asarray(dataset.frames[np.sort(order[start : start + BATCH])])
            total += int(batch[:, 0, 0, 0].sum())
        seconds = time.perf_counter() - started
        print(f"read in batches of {BATCH}: {count / seconds:,.0f} frames/s (checksum {total})")


if __name__ == "__main__":
    main()
