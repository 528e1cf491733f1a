"""What the tests of launch/enjoy.py share: trained and untrained models, playing them, and reading what was written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from agents.registry import algorithm_class
from envs.make import EnvOptions, device_env, host_spec
from launch import enjoy, train
from launch.runtime.policy import model_info
from launch.runtime.sweep import plan

SMALL = ["--algo=ppo2", "--net-arch=16,16", "--noptepochs=1", "--no-vis", "--eval-episodes=2"]
SMALL += ["--final-eval-episodes=2", "--min-episodes-save=0"]
MOBILE, CARTPOLE, KUKA = "MobileRobotGymEnv-v0", "CartPole-v1", "KukaButtonGymEnv-v0"
EPISODE = re.compile(r"^episode \d+: return (-?[\d.]+), length (\d+)$", re.MULTILINE)
SUMMARY = re.compile(r"^(\d+) episodes?, mean return (-?[\d.]+) ± ([\d.]+), mean length ([\d.]+)$", re.MULTILINE)


def trained(log_dir: Path, *flags: str) -> Path:
    """The run folder of a short training."""
    assert train.main([*SMALL, *flags, f"--log-dir={log_dir}"]) == 0
    (args,) = log_dir.glob("*/*/*/*/args.json")
    return args.parent


def untrained(folder: Path, algo: str, options: EnvOptions, **config: Any) -> Path:
    """A model folder that stands alone, with the policy that a training would start from."""
    algorithm = algorithm_class(algo)()
    settings, hyper = algorithm.configure(config)
    spec = device_env(options).spec if options.on_device else host_spec(options)
    runs = plan(hyper, {}, 0, 1)
    agent = type(algorithm).make(spec, settings)
    acting = agent.init(jax.random.key(1), algorithm.hyper_tree(hyper)).acting
    algorithm.adopt(agent, spec, acting, model_info(algo, settings, runs, options, spec))
    algorithm.save(str(folder))
    return folder


def played(capsys: pytest.CaptureFixture, *flags: Any) -> tuple[list[float], list[int], str]:
    """Play, and return the episodes' returns, their lengths and everything that was printed."""
    capsys.readouterr()
    assert enjoy.main([str(flag) for flag in flags]) == 0
    out = capsys.readouterr().out
    episodes = EPISODE.findall(out)
    return [float(r) for r, _ in episodes], [int(n) for _, n in episodes], out


def refused(capsys: pytest.CaptureFixture, *flags: Any) -> str:
    """Play what cannot be played, and return the one line that says why."""
    capsys.readouterr()
    assert enjoy.main([str(flag) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err.strip()


def edited(run: Path, target: Path, **env: Any) -> Path:
    """A copy of a run folder whose models say that they were trained in another environment."""
    shutil.copytree(run, target)
    for file in target.glob("ppo2_model/*/model.json"):
        info = json.loads(file.read_text())
        info["env"].update(env)
        file.write_text(json.dumps(info))
    return target


def frames_of(path: Path) -> np.ndarray:
    """The frames of a video [T, height, width, 3].

    Read in another process: imageio starts ffmpeg by a fork, which in a process with jax may deadlock.
    """
    target = path.with_suffix(".npy")
    code = f"import numpy, imageio.v3 as iio; numpy.save({str(target)!r}, iio.imread({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return np.load(target)


def rate_of(path: Path) -> float:
    """Frames per second of a video."""
    code = f"import imageio.v3 as iio; print(iio.immeta({str(path)!r})['fps'])"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout)
