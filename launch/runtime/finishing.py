"""What a finished run gets besides: its model card, a video, and what wandb keeps of its files.

None of it may cost a run that has trained for days: whatever fails is a warning.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np

from envs.host.vector import WorkerError
from launch.runtime.files import warn
from launch.runtime.logger import RunLogger
from launch.runtime.model import model_folder

VIDEO_EPISODES = 3


def complete(folder: Path, args: Namespace, logger: RunLogger) -> None:
    """Write the card of a run folder; with `--video` a video of its policy; with `--artifacts` send the models."""
    try:
        from launch.results.card import write_card, write_versions

        write_versions(folder, args.simulator)
        write_card(folder)
    except (OSError, ValueError) as error:
        warn(f"no model card: {error}")
    if getattr(args, "video", False):
        path = record_video(folder, args)
        if path is not None:
            logger.video(path)
    if getattr(args, "artifacts", False):
        logger.artifact(model_folder(folder, args.algo), "model")


def record_video(folder: Path, args: Namespace) -> Path | None:
    """Film episodes of a run's policy (of run 0) into video.mp4 or video.gif; None, and a warning, where it cannot."""
    from launch.runtime.charts import Video
    from launch.runtime.policy import actor, load_policy
    from launch.runtime.replay import find_subject
    from launch.runtime.stages import WatchedStage, film_scene

    try:
        options = find_subject(folder, None).options
        scene = film_scene(options, args.seed)
    except (ValueError, WorkerError) as error:
        warn(f"no video: {error}")
        return None
    video = Video(folder, scene.frame_rate)
    stage = WatchedStage(scene, [lambda scene, first, last: None if video.full else video.add(scene.frame())])
    try:
        act = actor(load_policy(folder), True, args.seed)
        obs, dones, ended = stage.reset(), np.zeros(1, bool), 0
        while ended < VIDEO_EPISODES and not video.full:
            obs, _, dones = stage.step(act(obs, dones))[:3]
            ended += int(dones[0])
        video.finish()
    except (OSError, ValueError, WorkerError) as error:
        warn(f"no video: {error}")
        return None
    finally:
        stage.close()
    return video.path
