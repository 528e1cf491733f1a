"""What `launch/dataset_generator.py` does: play episodes, write them, tell how far it is."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from agents.base_classes import JaxAlgorithm
from agents.registry import algorithm_class
from envs.make import EnvOptions
from launch.runtime.env_globals import environment_globals
from launch.runtime.files import json_safe, read_json, warn
from launch.runtime.policy import actor
from launch.runtime.recording import DeviceRecorder, HostRecorder, Policy, Recorder
from launch.runtime.validation import constructor_keywords
from launch.runtime.wandb_sink import DATASET, WandbSink
from representations.dataset import PROGRESS_FILE, load_dataset
from representations.dataset_writer import DatasetWriter, check_folder

DEFAULT_MAX_DISTANCE = 0.28  # m, that of the original's generator
_EVERY = 5.0  # seconds between lines of progress
_UPLOAD_TIMEOUT = 3600.0  # seconds; datasets are large
_FOLLOWS = ("continuous", "joints", "random_target", "shape_reward")  # flags whose default is what the policy knew


def generate(args: Namespace) -> Path:
    """Record a dataset.

    Returns:
        Its folder.

    Raises:
        ValueError: The flags cannot be carried out; nothing has been written.
        WorkerError: The environment failed; what was recorded is kept.
    """
    folder = Path(args.save_path, args.name)
    if not (args.force or args.no_record_data):
        check_folder(folder)
    policy = _policy(args, folder)
    options = _options(args, policy)
    recorder: Recorder
    share = args.toward_target_timesteps_proportion
    if options.on_device:
        recorder = DeviceRecorder(options, args.seed, share, policy)
    else:
        options.check_count(args.num_cpu)
        recorder = HostRecorder(options, args.seed, args.num_cpu, share, policy)
    try:
        _record(args, folder, options, recorder)
    finally:
        recorder.close()
    if args.artifacts:
        _send(args, folder)
    return folder


def _send(args: Namespace, folder: Path) -> None:
    """Keep the dataset in wandb."""
    data = load_dataset(folder)
    metadata = {"frames": len(data.rewards), "episodes": len(data.targets), **data.config}
    config, mode = json_safe(vars(args)), args.wandb_mode
    sink = WandbSink(folder, config, args.wandb_project, mode, 1, warn, finish_timeout=_UPLOAD_TIMEOUT)
    sink.artifact(folder, DATASET, folder.name, metadata=metadata)
    sink.close()


def _policy(args: Namespace, folder: Path) -> Policy | None:
    """The trained policy that acts, if one does."""
    if args.run_ppo2:
        args.run_policy = _policy_before(args, folder) or str(_train_ppo2(args))
    if not args.run_policy:
        return None
    from launch.runtime.replay import find_subject

    subject = find_subject(args.run_policy, None)
    cls: Any = algorithm_class(subject.algo)
    algorithm = cls.load(str(subject.model), args)
    deterministic = not isinstance(algorithm, JaxAlgorithm)
    try:
        act = actor(algorithm, deterministic, args.seed)
    except ValueError:  # evolution with continuous actions has nothing to draw from
        act = actor(algorithm, True, args.seed)
    if "env" in args.given and args.env != subject.options.env:
        raise ValueError(f"--run-policy={args.run_policy} plays {subject.options.env}, not {args.env}")
    args.env = subject.options.env
    return Policy(dataclasses.replace(subject.options, render_mode=None, simulator=args.simulator), act)


def _policy_before(args: Namespace, folder: Path) -> str | None:
    """The run folder of the ppo2 that was trained when the dataset was begun, None where there is no dataset yet.

    Raises:
        ValueError: It was begun otherwise.
    """
    if args.force or args.no_record_data or not (folder / PROGRESS_FILE).is_file():
        return None
    plan = read_json(folder / PROGRESS_FILE, f"dataset {folder}").get("plan", {})
    if plan.get("ppo2_timesteps") != args.ppo2_timesteps:
        raise ValueError(
            f"dataset {folder} was not begun with --ppo2-timesteps={args.ppo2_timesteps}: give the same flags to "
            "continue it, or --force to begin anew"
        )
    return plan["policy"]


def _train_ppo2(args: Namespace) -> Path:
    """Train ppo2 on the task's pictures; returns its run folder."""
    from launch.runtime.flags import parse_train_args
    from launch.train import run

    words = ["--algo=ppo2", f"--env={args.env}", f"--simulator={args.simulator}", "--srl-model=raw_pixels", "--no-vis"]
    words += [f"--num-timesteps={args.ppo2_timesteps}", f"--image-size={args.image_size}", f"--seed={args.seed}"]
    words += [f"--num-workers={args.num_cpu}", "--final-eval-episodes=1", "--eval-episodes=1"]
    flags = ("continuous", "joints", "random_target", "shape_reward", "multi_view", "fpv")
    words += [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]
    trained = parse_train_args(words)
    run(trained)
    return Path(trained.run_folder)


def _options(args: Namespace, policy: Policy | None) -> EnvOptions:
    """The environment whose pictures are recorded.

    Raises:
        ValueError: A policy that sees other pictures.
    """
    if policy is not None:
        known = policy.options
        for name in _FOLLOWS:
            if name not in args.given:
                setattr(args, name, getattr(known, name))
        args.action_repeat = known.action_repeat
        if known.srl_model == "raw_pixels" or known.learned:
            for name in ("image_size", "multi_view", "fpv"):
                seen, flag = getattr(known, name), f"--{name.replace('_', '-')}"
                if name in args.given and getattr(args, name) != seen:
                    raise ValueError(f"the policy sees pictures with {name} {seen}: leave out {flag}")
                setattr(args, name, getattr(known, name))
    keywords = constructor_keywords(args.env, args.simulator, real=args.real_robot is not None) or set()
    if args.max_distance is not None and "max_distance" not in keywords:
        raise ValueError(f"--max-distance has no meaning for {args.env}: leave it out")
    distance = args.max_distance
    if distance is None and "max_distance" in keywords:
        distance = DEFAULT_MAX_DISTANCE
    return EnvOptions(
        args.env,
        simulator=args.simulator,
        srl_model="raw_pixels",
        **{name: getattr(args, name) for name in (*_FOLLOWS, "action_repeat", "multi_view", "fpv", "image_size")},
        renderer=args.renderer,
        real_robot=args.real_robot,
        render_mode="human" if args.display else None,
        max_distance=distance,
        force_down=True if "force_down" in keywords else None,
    )


def _record(args: Namespace, folder: Path, options: EnvOptions, recorder: Recorder) -> None:
    """Play the episodes and write them."""
    plan = {
        "seed": args.seed,
        "num_episode": args.num_episode,
        "toward_target": args.toward_target_timesteps_proportion,
        "policy": args.run_policy,
        **({"ppo2_timesteps": args.ppo2_timesteps} if args.run_ppo2 else {}),
        **dataclasses.asdict(dataclasses.replace(options, render_mode=None)),
    }
    writer = None
    if not args.no_record_data:
        _check_space(args, folder, recorder)
        constants = environment_globals(options)
        writer = DatasetWriter(folder, recorder.config, plan, args.format, constants, args.force)
        args.run_folder = folder  # from here on a failure is one of the run, which can be continued
    progress = _Progress(args.num_episode, writer.episodes if writer else 0)
    rewards: Counter[float] = Counter()
    try:
        for episode in recorder.play(progress.done, args.num_episode):
            if writer is not None:
                writer.add_episode(*episode)
                if writer.episodes % recorder.round == 0:
                    writer.flush()
            rewards.update(episode.rewards.tolist())
            progress.update(len(episode.rewards))
        if writer is not None:
            writer.seal()
    finally:
        if writer is not None:
            writer.close()
    progress.finish(folder if writer else None)
    if args.reward_dist:
        for reward, count in sorted(rewards.items()):
            print(f"reward {reward + 0.0:g}: {count} times ({100 * count / rewards.total():.1f} %)")


def _check_space(args: Namespace, folder: Path, recorder: Recorder) -> None:
    """Refuse a dataset of which the episodes that are left could not fit the disk.

    Raises:
        ValueError: They could not.
    """
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free, done = shutil.disk_usage(place).free, 0
    if args.force:
        free += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    elif (folder / PROGRESS_FILE).is_file():
        done = int(read_json(folder / PROGRESS_FILE, f"dataset {folder}")["episodes"])
    most = (args.num_episode - done) * recorder.max_steps * recorder.frame_bytes
    print(f"at most {most / 2**30:.2f} GiB of pictures, {free / 2**30:.1f} GiB are free", flush=True)
    if most > free and args.format == "compact":
        raise ValueError(
            f"{args.num_episode - done} episodes may take {most / 2**30:.1f} GiB, {place} has "
            f"{free / 2**30:.1f} GiB free: take fewer episodes, smaller pictures (--image-size) or --format=original"
        )


class _Progress:
    """A line now and then: episodes, frames, speed, time left."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self.done, self._begun = total, done, done
        self._frames, self._start = 0, time.monotonic()
        self._last = self._start
        if done:
            print(f"continuing after episode {done} of {total}", flush=True)

    def update(self, frames: int) -> None:
        """Take an episode."""
        self.done += 1
        self._frames += frames
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            left = (now - self._start) / (self.done - self._begun) * (self._total - self.done)
            print(f"{self._text(now)}, {left:.0f} s left", file=sys.stderr, flush=True)

    def finish(self, folder: Path | None) -> None:
        """The last line."""
        print(self._text(time.monotonic()) + (f": {folder}" if folder else ""), flush=True)

    def _text(self, now: float) -> str:
        speed = self._frames / max(now - self._start, 1e-9)
        return f"{self.done}/{self._total} episodes, {self._frames} frames, {speed:.0f} frames/s"
