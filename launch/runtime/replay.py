"""Playing what a run has learned: which policy, in which environment, for how long, and what is shown of it."""

from __future__ import annotations

import dataclasses
import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.base_classes import BaseRLObject, JaxAlgorithm
from agents.registry import algorithm_class, registered_rl
from envs.host.vector import WorkerError
from envs.make import BRAX_PREFIX, EnvOptions
from envs.registry import registered_robot
from envs.types import Discrete, Spec
from launch.runtime import charts
from launch.runtime.drivers.common import clip_action
from launch.runtime.model import BEST, FINAL, INFO_FILE, model_folder, read_info
from launch.runtime.policy import Actor, OwnActor, actor, find_model, read_options
from launch.runtime.run_folder import ARGS_FILE, read_run
from launch.runtime.stages import HostScene, Scene, Stage, TwinScene, TwinStage, WatchedStage, Watcher

OUTPUT_FOLDER = "enjoy"
EPISODE_LINES = 20  # episodes with a line of their own; later ones share a line a second
SECONDS_PER_LINE = 1.0


class Subject(NamedTuple):
    """What is played.

    Attributes:
        algo: Registry name of the learner.
        model: Folder of the model.
        options: The environment it was trained in.
        home: The run folder, or the model folder where it stands alone.
    """

    algo: str
    model: Path
    options: EnvOptions
    home: Path


def replay(args: Namespace) -> np.ndarray:
    """Play as the flags of `launch/enjoy.py` say, and print the episodes.

    Returns:
        Returns of the episodes that ended, float64 [episodes].

    Raises:
        ValueError: No such run, model or environment, or they do not fit together.
        WorkerError: The environment failed.
    """
    subject = find_subject(args.log_dir, args.model)
    options = played_options(subject.options, args)
    algorithm = _load(subject, args)
    act = actor(algorithm, args.deterministic, args.seed)
    show = _Show(args, subject, options)
    stage = _stage(algorithm, subject, options, args, show)
    log = EpisodeLog()
    try:
        _check_fit(algorithm, stage.spec, options)
        watch = show.action_watcher(act, type(algorithm).__name__, stage.spec)
        show.prepare()
        interrupted: KeyboardInterrupt | WorkerError | None = None
        try:
            _play(stage, act, args, log, watch)
        except (KeyboardInterrupt, WorkerError) as error:  # what was seen until then is kept
            interrupted = error
        show.finish()
        log.finish()
        if interrupted is not None:
            raise interrupted
        show.wait()
    finally:
        stage.close()
    return np.asarray(log.returns)


def find_subject(path: str | Path, which: str | None) -> Subject:
    """Find a model and what is written about it.

    Args:
        path: A run folder, or a model folder.
        which: "best" or "final" to insist on one.

    Raises:
        ValueError: It is neither, it is damaged, or it holds no such model.
    """
    path = Path(path)
    home = next((f for f in (path, *path.absolute().parents[:2]) if (f / ARGS_FILE).is_file()), None)
    if (path / INFO_FILE).is_file():
        if which not in (None, path.name):
            raise ValueError(f"--model={which}: {path} is one model; give the run folder to choose from")
        info = read_info(path)
        return Subject(info.get("algo", ""), path, read_options(info), home or path)
    record = read_run(home or path)
    algo = record.args.get("algo")
    if algo not in registered_rl:
        raise ValueError(
            f"run folder {record.folder}: {algo!r} is not registered: --plugin=MODULE imports one of yours"
        )
    if issubclass(algorithm_class(algo), JaxAlgorithm):
        model = find_model(path, which)
        return Subject(algo, model, read_options(read_info(model)), record.folder)
    return Subject(algo, _free_model(path, record.folder, algo, which), _recorded_options(record.args), record.folder)


def _free_model(path: Path, home: Path, algo: str, which: str | None) -> Path:
    """Where a learner with a format of its own has saved its model."""
    folder = model_folder(home, algo)
    if path.absolute().parent == folder.absolute() and path.exists():
        return path
    for name in (which,) if which else (BEST, FINAL):
        if (folder / name).exists():
            return folder / name
    raise ValueError(f"{home} has no {which or 'saved'} model: the run ended too early")


def _recorded_options(args: dict[str, Any]) -> EnvOptions:
    """The environment's options in a run's args.json."""
    if not isinstance(args.get("env"), str):
        raise ValueError(f"{ARGS_FILE} does not say which environment the run was in")
    return EnvOptions.from_args(Namespace(**args))


def played_options(options: EnvOptions, args: Namespace) -> EnvOptions:
    """The environment to play in: that of the training, but for `--simulator`, `--real-robot` and `--shape-reward`.

    Raises:
        ValueError: It does not exist there.
    """
    if args.simulator == "pybullet" and options.env.startswith(BRAX_PREFIX):
        raise ValueError(f"{options.env} runs on the device only: leave out --simulator=pybullet")
    changes: dict[str, Any] = {"render_mode": None, "renderer": "tiny"}
    if args.simulator is not None:
        changes["simulator"] = args.simulator
        if options.env in registered_robot:
            changes["real_robot"] = None
    if args.real_robot is not None:
        # A policy of the simulator or of its twin meets the real robot, whose target a person places.
        changes |= {"simulator": args.simulator or "pybullet", "real_robot": args.real_robot, "random_target": False}
    if args.srl_model_path is not None:
        if not options.learned:
            raise ValueError(f"--srl-model-path={args.srl_model_path}: the policy observes {options.srl_model}")
        changes["srl_model_path"] = args.srl_model_path
    if args.shape_reward is not None:
        changes["shape_reward"] = args.shape_reward
    return dataclasses.replace(options, **changes)


def _load(subject: Subject, args: Namespace) -> BaseRLObject:
    """Load the policy."""
    if subject.algo not in registered_rl:
        raise ValueError(f"model {subject.model} is of algorithm {subject.algo!r}, which is not registered")
    cls: Any = algorithm_class(subject.algo)
    if args.run and not issubclass(cls, JaxAlgorithm):
        raise ValueError(f"--run={args.run}: {subject.algo} trains one run, which is 0")
    return cls.load(str(subject.model), args)


def _check_fit(algorithm: BaseRLObject, played: Spec, options: EnvOptions) -> None:
    """Refuse an environment whose observations or actions are not those of the training."""
    trained = getattr(algorithm, "spec", None)
    if trained is None:
        return
    for name in ("obs_shape", "obs_dtype", "action_shape"):
        if getattr(trained, name) != getattr(played, name):
            raise ValueError(
                f"the policy was trained with {name} {getattr(trained, name)}, but {options.env} with "
                f"--simulator={options.simulator} has {getattr(played, name)}"
            )
    if isinstance(played.action, Discrete) and trained.action != played.action:
        raise ValueError(
            f"the policy chooses among {trained.action.n} actions, but {options.env} with "
            f"--simulator={options.simulator} has {played.action.n}"
        )


def _stage(algorithm: BaseRLObject, subject: Subject, options: EnvOptions, args: Namespace, show: _Show) -> Stage:
    """The environments to play in."""
    own = getattr(type(algorithm).makeEnv, "__func__", None) is not getattr(BaseRLObject.makeEnv, "__func__", None)
    if own and (args.render or args.plotting or options.on_device):
        raise ValueError(
            f"{subject.algo} makes its own environments (makeEnv): --render, --plotting and --simulator=jax are not "
            "for it"
        )
    if args.render or args.plotting:
        return show.stage()
    if options.on_device:
        return TwinStage(options, args.num_cpu, args.seed)
    return algorithm.makeEnv(args, options, load_path_normalise=str(subject.model))


def _play(
    stage: Stage,
    act: Callable[[Any, np.ndarray], Any],
    args: Namespace,
    log: EpisodeLog,
    watch: Callable[[Any, Any, bool], None] | None,
) -> None:
    """Act and step until the steps or the episodes are played.

    Several environments share the episodes evenly: taking the first that end would prefer short ones.
    """
    obs = stage.reset()
    count = len(obs)
    ranks = np.arange(count)
    quota = args.num_episodes // count + (ranks < args.num_episodes % count)
    played, dones = np.zeros(count, np.int64), np.zeros(count, bool)
    returns, lengths = np.zeros(count), np.zeros(count, np.int64)
    while np.any(played < quota) if args.num_episodes else log.steps < args.num_timesteps:
        actions = act(obs, dones)
        if watch is not None:
            watch(obs, actions, bool(lengths[0] == 0))
        obs, rewards, dones = stage.step(actions)[:3]
        log.steps += count
        returns += rewards
        lengths += 1
        for rank in np.flatnonzero(dones):
            if not args.num_episodes or played[rank] < quota[rank]:
                log.add(float(returns[rank]), int(lengths[rank]))
            played[rank] += 1
            returns[rank], lengths[rank] = 0.0, 0


class EpisodeLog:
    """Prints episodes as they end, and their mean.

    Attributes:
        returns: Sum of rewards of each episode.
        lengths: Its steps.
        steps: Steps played, unfinished episodes included.
    """

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.steps = 0
        self._told = 0
        self._last = 0.0

    def add(self, episode_return: float, length: int) -> None:
        """Take an episode that ended."""
        self.returns.append(episode_return)
        self.lengths.append(length)
        if len(self.returns) <= EPISODE_LINES or time.monotonic() - self._last >= SECONDS_PER_LINE:
            self._tell()

    def finish(self) -> None:
        """Print what is left to print, and the mean."""
        if self._told < len(self.returns):
            self._tell()
        if self.returns:
            count = len(self.returns)
            print(
                f"{count} episode{'s' * (count != 1)}, mean return {np.mean(self.returns):.2f} ± "
                f"{np.std(self.returns):.2f}, mean length {np.mean(self.lengths):.1f}",
                flush=True,
            )
        else:
            print(f"0 episodes: none ended within {self.steps} steps", flush=True)

    def _tell(self) -> None:
        """One line for the episodes since the last line."""
        first, last = self._told + 1, len(self.returns)
        if first == last:
            line = f"episode {last}: return {self.returns[-1]:.2f}, length {self.lengths[-1]}"
        else:
            returns, lengths = self.returns[first - 1 :], self.lengths[first - 1 :]
            line = f"episodes {first} to {last}: mean return {np.mean(returns):.2f}, mean length {np.mean(lengths):.1f}"
        print(line, flush=True)
        self._told, self._last = last, time.monotonic()


class _Show:
    """What `--render`, `--plotting` and `--action-proba` ask for: windows where there is a display, else files."""

    def __init__(self, args: Namespace, subject: Subject, options: EnvOptions) -> None:
        self._args, self._options = args, options
        self._title = f"{subject.algo} on {options.env}"
        self._outputs: list[charts.Drawing | charts.Video] = []
        asked = args.render or args.plotting or args.action_proba
        self._display = asked and charts.has_display()
        self._windows = asked and charts.can_open_windows()
        self._folder = Path(args.output) if args.output else subject.home / OUTPUT_FOLDER

    def prepare(self) -> None:
        """Make the folder where files are to come.

        Raises:
            ValueError: It cannot be made.
        """
        if any(output.path is not None for output in self._outputs):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"--output {self._folder} cannot be written: {error.strerror}") from None

    def stage(self) -> Stage:
        """The one environment that is watched, and what watches it."""
        scene = self._scene()
        watchers: list[Watcher] = []
        if self._args.render and (self._options.on_device or not self._display):
            watchers.append(self._frames(scene))
        if self._args.plotting:
            path = None if self._windows else self._folder / "states.png"
            plot = charts.StatePlot(path, self._title, scene.state_labels, scene.state_target)
            self._outputs.append(plot)
            watchers.append(lambda scene, first, last: plot.add(scene.position(), first, last))
        return WatchedStage(scene, watchers)

    def _scene(self) -> Scene:
        args, options = self._args, self._options
        if options.on_device:
            return TwinScene(options, args.seed, args.render, args.plotting)
        mode = ("human" if self._display else "rgb_array") if args.render else None
        if mode == "rgb_array":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame complains that there is no display
        return HostScene(dataclasses.replace(options, render_mode=mode), args.seed, args.plotting)

    def _frames(self, scene: Scene) -> Watcher:
        """Watch the pictures of an environment without a window of its own."""
        output = charts.FrameWindow() if self._windows else charts.Video(self._folder, scene.frame_rate)
        self._outputs.append(output)

        def watch(scene: Scene, first: bool, last: bool) -> None:
            if not output.full:
                output.add(scene.frame())

        return watch

    def action_watcher(self, act: Actor | OwnActor, name: str, spec: Spec) -> Callable[[Any, Any, bool], None] | None:
        """What takes (observations [1, ...], actions [1, ...], first) of each step, None where nobody asks."""
        if not self._args.action_proba:
            return None
        chart = charts.ActionChart(None if self._windows else self._folder / "action_proba.png", self._title, spec)
        self._outputs.append(chart)
        discrete = isinstance(spec.action, Discrete)

        def watch(obs: Any, actions: Any, first: bool) -> None:
            if chart.full:
                return
            values = act.probabilities(obs) if discrete else clip_action(spec, np.asarray(actions), np)
            if values is None:
                raise ValueError(f"--action-proba: {name} tells no probabilities (getActionProba)")
            chart.add(np.asarray(values)[0], first)

        return watch

    def finish(self) -> None:
        """Complete every file and window."""
        for output in self._outputs:
            output.finish()

    def wait(self) -> None:
        """Keep matplotlib's windows open until the user closes them."""
        if any(output.path is None for output in self._outputs):
            charts.wait_for_windows()
