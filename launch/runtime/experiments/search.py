"""A hyperparameter search from its command line to the best setting."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import shlex
import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from launch.runtime import files
from launch.runtime.experiments import brackets
from launch.runtime.experiments.candidates import Candidate, as_flags
from launch.runtime.experiments.jobs import Job
from launch.runtime.experiments.journal import Journal
from launch.runtime.experiments.pipeline import join_cluster, launcher_of
from launch.runtime.experiments.preflight import needed, preflight
from launch.runtime.experiments.search_flags import SEARCH_FILE, stored
from launch.runtime.experiments.space import distributions
from launch.runtime.experiments.table import Table
from launch.runtime.run_folder import folder_name, make_dated_folder

SEARCHES = "searches"  # folder of searches under --log-dir
OPTUNA_FILE = "optuna.log"
CHECKPOINTS = 10  # of a whole training on the host, besides those at comparisons
STATIC_GROUP = 27  # settings that share one compilation where static options are searched


class SearchError(OSError):
    """The search cannot go on; the message is one line."""


class Evaluator(Protocol):
    """Trains settings; `Lockstep` and `Processes` are ones."""

    def advance(self, candidates: Sequence[Candidate], steps: int) -> list[float]:
        """Train every setting up to `steps` and return its score, NaN where it has none."""

    def keep(self, candidates: Sequence[Candidate]) -> None:
        """Forget all settings but these."""

    def save(self, position: int, candidates: Sequence[Candidate]) -> None:
        """Write where these settings stand; `position` grows from one call to the next."""

    def restore(self, position: int, candidates: Sequence[Candidate]) -> bool:
        """Go on from what `save` wrote at `position`; False where it cannot."""


def run_search(args: Namespace) -> None:
    """Search, and report; sets `args.run_folder` once the folder exists.

    Raises:
        ValueError: The search is refused, or its folder or storage cannot be used.
        KeyboardInterrupt: Ctrl-C; `--resume` goes on from the last comparison.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table()
    args.study_name = args.study_name or _name(args)
    join_cluster(args)
    if not args.resume:
        _check(args)
    # A storage that cannot be used is found out before the folder is made.
    study = open_study(args, args.storage) if args.storage else None
    if args.resume:
        root = Path(args.resume)
    else:
        root = make_dated_folder(args.log_dir, [SEARCHES], {SEARCH_FILE: stored(args)})
    with Journal(root, "search") as journal:
        study = study or open_study(args, root / OPTUNA_FILE)
        try:
            search = Search(args, root, study, journal, evaluator_of(args, root, table), table)
            args.run_folder = root
            table.message(f"search folder: {root}")
            table.message(f"searched: {', '.join(args.space)}")
            search.run()
            report(args, root, study)
        except optuna.exceptions.StorageInternalError as error:
            raise SearchError(f"the storage failed ({_reason(error)}); continue with --resume {root}") from error


def _check(args: Namespace) -> None:
    """Build what a training needs, of which nothing is allocated or written.

    Raises:
        ValueError: The training is refused.
    """
    if args.together:
        from launch.runtime.experiments.lockstep import check_settings

        needed(args.words)
        instead = "--optimizer=tpe --bracket-size=" if args.optimizer == "hyperband" else "--bracket-size="
        check_settings(args.train, max(bracket[0].settings for bracket in plan(args)), instead)
    else:
        preflight({args.algo: args.words})


def evaluator_of(args: Namespace, root: Path, table: Table) -> Evaluator:
    """What trains the settings of a search."""
    if args.together:
        from launch.runtime.experiments.lockstep import Lockstep

        return Lockstep(args.train, root, table.message)
    from launch.runtime.experiments.processes import Processes

    train = args.train
    words = [*args.words, f"--eval-every={brackets.evaluation_interval(plan(args))}", "--no-vis"]
    if not train.checkpoint_every:
        words.append(f"--checkpoint-every={max(1, train.num_timesteps // CHECKPOINTS)}")
    job = Job(
        args.algo,
        train.env,
        train.srl_model,
        train.seed,
        train.num_seeds,
        train.num_timesteps,
        args.cores,
        tuple(words),
    )

    launch, num_jobs = launcher_of(args, root, [job])
    return Processes(root, job, launch, num_jobs, table.message)


def plan(args: Namespace) -> list[brackets.Bracket]:
    """The brackets of a search."""
    steps = args.train.num_timesteps
    if args.optimizer == "hyperband":
        return brackets.hyperband(steps)
    return brackets.batches(args.max_eval, args.bracket_size, steps, args.pruning)


def _name(args: Namespace) -> str:
    """The original's name of a search's table."""
    train = args.train
    parts = (
        f"{args.optimizer}_{args.algo}_{train.env}_{train.srl_model}_seed{train.seed}_numtimestep{train.num_timesteps}"
    )
    return folder_name(parts)


def sampler_of(args: Namespace, bracket: int) -> Any:
    """What chooses the settings of a bracket; the choice is the same whether the search was interrupted or not."""
    samplers, seed = optuna.samplers, (args.train.seed + 7919 * bracket) % 2**32
    with _warnings_off():
        if args.optimizer == "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        if args.optimizer == "cma":
            return samplers.CmaEsSampler(seed=seed, consider_pruned_trials=True, warn_independent_sampling=False)
        return samplers.RandomSampler(seed=seed)


def open_study(args: Namespace, storage: str | Path) -> optuna.Study:
    """Open or make the study.

    Args:
        args: Flags of the search.
        storage: URL of an Optuna storage, or the file of a journal.

    Raises:
        ValueError: The storage cannot be used; one line says why.
    """
    try:
        with _warnings_off():
            return optuna.create_study(
                storage=_journal_storage(storage) if isinstance(storage, Path) else storage,
                study_name=args.study_name,
                direction="maximize",
                load_if_exists=bool(args.resume),
            )
    except optuna.exceptions.DuplicatedStudyError:
        raise ValueError(
            f"--storage={args.storage} has a study {args.study_name} already: choose another --study-name, or --resume"
        ) from None
    except Exception as error:  # whatever a database's driver raises
        raise ValueError(f"the storage {args.storage or OPTUNA_FILE} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of what a database's driver said."""
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]


def _journal_storage(path: Path) -> optuna.storages.JournalStorage:
    """Optuna's journal file; the folder is ours alone, so what is in the way was left by a process that was killed.

    That is a lock, or a last line half written: Optuna would write its next line behind it and could read neither. What
    the line was to say nobody has counted on, as Optuna returns once a line is on the disk.

    Raises:
        OSError: The file cannot be read or written.
    """
    from optuna.storages.journal import JournalFileBackend

    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


class Search:
    """The loop over brackets and their comparisons.

    Args:
        args: Flags of the search.
        root: Its folder.
        study: Where trials are kept.
        journal: Which trials belong to which bracket, and the scores of comparisons; what is there is not done again.
        evaluator: Trains settings.
        table: Tells how it goes.
    """

    def __init__(
        self, args: Namespace, root: Path, study: optuna.Study, journal: Journal, evaluator: Evaluator, table: Table
    ) -> None:
        self._args, self._root, self._study, self._journal = args, root, study, journal
        self._evaluator, self._table = evaluator, table
        self._distributions = distributions(args.space, vars(args.train))
        self._static = [name for name, (_, _, traced) in args.space.items() if not traced]
        self._members: dict[str, list[int]] = {}
        self._scores: dict[tuple[str, int], dict[str, float | None]] = {}
        self._done: set[str] = set()
        for event in journal.read():
            if event["event"] == "asked":
                self._members[event["job"]] = event["trials"]
            elif event["event"] == "compared":
                self._scores[event["job"], event["rung"]] = event["scores"]
            elif event["event"] == "finished":
                self._done.add(event["job"])
        self._check_trials()
        self._forget_orphans()

    def run(self) -> None:
        """Play all brackets that are not done."""
        for index, bracket in enumerate(plan(self._args)):
            name = f"bracket {index}"
            if name not in self._done:
                self._play(name, index, bracket)
                write_table(self._args, self._root, self._study)
                self._journal.write("finished", name)

    def _play(self, name: str, index: int, bracket: brackets.Bracket) -> None:
        """One bracket: train, compare, drop the worst, until the last comparison."""
        alive = self._asked(name, index, bracket[0].settings)
        behind = False  # whether settings must be trained anew up to where they stood
        for rung, (_, steps) in enumerate(bracket):
            position = index * 100 + rung
            known = self._scores.get((name, rung))
            if known is None:
                if rung and (name, rung - 1) in self._scores and behind:
                    self._evaluator.restore(position - 1, alive)
                scores = dict(zip([one.number for one in alive], self._evaluator.advance(alive, steps), strict=True))
                behind = False
            else:
                scores = {int(number): math.nan if score is None else score for number, score in known.items()}
                behind = True
            last = rung == len(bracket) - 1
            count = len(alive) if last else bracket[rung + 1].settings
            survivors = _best(alive, scores, count)
            if known is None:
                self._evaluator.keep([] if last else survivors)
                if not last:
                    self._evaluator.save(position, survivors)
                saved = {str(k): None if math.isnan(score) else score for k, score in scores.items()}
                self._journal.write("compared", name, rung=rung, steps=steps, scores=saved)
                self._say(name, steps, scores)
            self._tell(alive, survivors, scores, steps, last)
            alive = survivors

    def _asked(self, name: str, index: int, count: int) -> list[Candidate]:
        """The settings of a bracket, chosen now if they have not been."""
        if name not in self._members:
            self._study.sampler = sampler_of(self._args, index)
            if index == 0:
                self._study.enqueue_trial(self._defaults())  # what the search must beat
            numbers: list[int] = []
            for i in range(count):
                if self._static and i % STATIC_GROUP and self._args.together:
                    first = self._study.trials[numbers[i - i % STATIC_GROUP]]
                    self._study.enqueue_trial({key: first.params[key] for key in self._static})
                with _warnings_off():
                    numbers.append(self._study.ask(self._distributions).number)
            self._journal.write("asked", name, trials=numbers)
            self._members[name] = numbers
        trials = {trial.number: trial for trial in self._study.trials}
        return [Candidate(number, dict(trials[number].params)) for number in self._members[name]]

    def _defaults(self) -> dict[str, Any]:
        """The values that the algorithm has without a search, where they are within the ranges."""
        values = {name: getattr(self._args.train, name, None) for name in self._distributions}
        return {
            name: value
            for name, value in values.items()
            if value is not None and _contains(self._distributions[name], value)
        }

    def _tell(
        self,
        alive: Sequence[Candidate],
        survivors: Sequence[Candidate],
        scores: dict[int, float],
        steps: int,
        last: bool,
    ) -> None:
        """Let the study know the scores; trials that it knows the end of already are left alone."""
        kept = {one.number for one in survivors}
        trials = {trial.number: trial for trial in self._study.trials}
        for one in alive:
            trial, score = trials[one.number], scores[one.number]
            if trial.state.is_finished():
                continue
            if math.isnan(score):
                self._study.tell(one.number, state=TrialState.FAIL)
                continue
            if steps not in trial.intermediate_values:  # a process that was killed may have come as far
                optuna.trial.Trial(self._study, trial._trial_id).report(score, steps)
            if last:
                self._study.tell(one.number, score)
            elif one.number not in kept:
                self._study.tell(one.number, state=TrialState.PRUNED)

    def _check_trials(self) -> None:
        """Raise ValueError where the storage does not have the trials of this search any more."""
        ours = {number for numbers in self._members.values() for number in numbers}
        if not ours <= {trial.number for trial in self._study.trials}:
            where = self._args.storage or self._root / OPTUNA_FILE
            raise ValueError(f"search {self._root} cannot go on: its trials are not in {where} any more")

    def _forget_orphans(self) -> None:
        """Trials that were asked for by a process that was killed before it noted them down."""
        ours = {number for numbers in self._members.values() for number in numbers}
        for trial in self._study.trials:
            if trial.number not in ours and not trial.state.is_finished():
                # Not by `tell`, which takes none that waits.
                self._study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _say(self, name: str, steps: int, scores: dict[int, float]) -> None:
        values = [score for score in scores.values() if not math.isnan(score)]
        text = f"best {max(values):.2f}, median {statistics.median(values):.2f}" if values else "all failed"
        self._table.message(f"{name}: {len(scores)} settings at {steps:,} steps: {text}")


def _best(alive: Sequence[Candidate], scores: dict[int, float], count: int) -> list[Candidate]:
    """The `count` settings with the highest scores, those without one never."""
    able = [one for one in alive if not math.isnan(scores[one.number])]
    return sorted(able, key=lambda one: -scores[one.number])[:count]


def _contains(distribution: Any, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


@contextlib.contextmanager
def _warnings_off() -> Iterator[None]:
    """Without Optuna's warnings that a feature is experimental."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _told(study: optuna.Study) -> list[FrozenTrial]:
    """Trials with a score."""
    return [trial for trial in study.trials if trial.intermediate_values]


def write_table(args: Namespace, root: Path, study: optuna.Study) -> Path:
    """Write all settings and scores as the original did: an index, the hyperparameters, timesteps, reward."""
    names = sorted(args.space)
    rows: list[list[Any]] = [["", *names, "timesteps", "reward"]]
    for index, trial in enumerate(_told(study)):
        steps = max(trial.intermediate_values)
        rows.append([index, *(trial.params.get(name, "") for name in names), steps, trial.intermediate_values[steps]])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path = root / f"{_name(args)}.csv"
    files.write_atomic(path, text.getvalue().encode())
    return path


def best_command(args: Namespace, values: dict[str, Any]) -> str:
    """The command line of a training with a setting."""
    words = [word for word in args.words if word not in ("--verbose=true",)]
    return f"python launch/train.py {shlex.join([*words, *as_flags(values)])}"


def report(args: Namespace, root: Path, study: optuna.Study) -> None:
    """Write the table and the plots, and print the best setting."""
    path = write_table(args, root, study)
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    print(f"{len(_told(study))} settings tried, written to {path}")
    if not complete:
        raise SearchError("no setting was trained to the end: see the messages above")
    from launch.runtime.experiments.search_plots import plot_history, plot_importance

    plot_history(study, root / "history.png")
    plot_importance(study, root / "importance.png")
    print(f"plots: {root / 'history.png'}, {root / 'importance.png'}")
    print(f"best: {study.best_value:.3f} with {', '.join(f'{k}={v}' for k, v in study.best_params.items())}")
    print(best_command(args, study.best_params))
