"""Trials of a search in the JAX simulator: many settings in one compiled program."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agents.base_classes import JaxAlgorithm
from agents.common.finite import BROKEN
from agents.common.memory import free_host_memory
from agents.registry import algorithm_class
from envs.make import EnvOptions
from launch.runtime.batches import check_fits
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.drivers.device import DeviceDriver, Run
from launch.runtime.experiments.brackets import widths
from launch.runtime.experiments.candidates import Candidate
from launch.runtime.sweep import Plan
from launch.runtime.training import EVALUATION_SEED, build_driver
from launch.runtime.trees import is_key

LARGEST_BATCH = 1024  # runs in one program, where memory allows


class Parked(NamedTuple):
    """Where a setting stands while others train.

    Attributes:
        run: All that its runs consist of, leaves [rows, ...]: in main memory, but for PRNG keys, which are small.
        iteration: Iterations that it has played.
        steps: Environment steps that each of its runs has had, int64 [rows].
    """

    run: Run
    iteration: int
    steps: np.ndarray


class Lockstep:
    """Plays settings that differ in traced hyperparameters side by side; the others group them.

    Args:
        args: Flags of a training; its seeds are those of every setting.
        folder: Where `save` writes.
        say: Told of settings that are refused.
    """

    def __init__(self, args: Namespace, folder: Path, say: Callable[[str], None]) -> None:
        cls = algorithm_class(args.algo)
        if not issubclass(cls, JaxAlgorithm):
            raise ValueError(f"{args.algo} brings its own training loop and cannot do --simulator=jax: leave it out")
        self._args, self._say = args, say
        self._algorithm = cls()
        self._families: dict[Any, _Family] = {}
        self._checkpoints = Checkpointer(folder)

    def advance(self, candidates: Sequence[Candidate], steps: int) -> list[float]:
        """Train every setting until it has had `steps` environment steps, and evaluate it.

        Returns:
            Mean return of each, over the evaluation's episodes and the seeds; NaN where a setting is refused, or where
            a number that is not finite would have ended its training.
        """
        scores: dict[int, float] = {}
        groups: dict[Any, list[Candidate]] = {}
        for candidate in candidates:
            try:
                config, hyper = self._algorithm.configure({**vars(self._args), **candidate.values})
                self._families.setdefault(config, _Family(self._algorithm, self._args, config))
                groups.setdefault(config, []).append(candidate._replace(hyper=hyper))
            except ValueError as error:
                self._refuse(candidate, error, scores)
        for config, members in groups.items():
            try:
                scores.update(self._families[config].advance(members, steps))
            except ValueError as error:
                for member in members:
                    self._refuse(member, error, scores)
        return [scores[candidate.number] for candidate in candidates]

    def _refuse(self, candidate: Candidate, error: ValueError, scores: dict[int, float]) -> None:
        self._say(f"trial {candidate.number} is refused: {error}")
        scores[candidate.number] = np.nan

    def keep(self, candidates: Sequence[Candidate]) -> None:
        """Forget all settings but these."""
        numbers = {candidate.number for candidate in candidates}
        for family in self._families.values():
            family.states = {number: state for number, state in family.states.items() if number in numbers}

    def save(self, position: int, candidates: Sequence[Candidate]) -> None:
        """Write where these settings stand.

        Args:
            position: Grows from one call to the next.
            candidates: Settings that were advanced.
        """
        found = {str(one.number): self._family(one).states[one.number] for one in candidates}
        if found:
            metadata = {
                "position": position,
                "iterations": {key: state.iteration for key, state in found.items()},
                "steps": {key: state.steps.tolist() for key, state in found.items()},
            }
            self._checkpoints.save(position, {key: state.run for key, state in found.items()}, metadata)

    def restore(self, position: int, candidates: Sequence[Candidate]) -> bool:
        """Go on from what `save` wrote at `position`; False where that is not there."""
        if position not in self._checkpoints.iterations():
            return False
        template = {str(candidate.number): self._family(candidate).template() for candidate in candidates}
        try:
            tree, metadata = self._checkpoints.restore(template)
        except ValueError:  # the newest is of a comparison that was not noted down, or none can be read
            return False
        if metadata["position"] != position or "steps" not in metadata:  # older versions did not count steps
            return False
        for candidate in candidates:
            key = str(candidate.number)
            steps = np.asarray(metadata["steps"][key], np.int64)
            self._family(candidate).states[candidate.number] = Parked(tree[key], metadata["iterations"][key], steps)
        return True

    def _family(self, candidate: Candidate) -> _Family:
        config, _ = self._algorithm.configure({**vars(self._args), **candidate.values})
        return self._families.setdefault(config, _Family(self._algorithm, self._args, config))


class _Family:
    """Settings with the same static options: the programs that they share, and where each stands."""

    def __init__(self, algorithm: JaxAlgorithm, args: Namespace, config: Any) -> None:
        self._algorithm, self._args, self._config = algorithm, args, config
        self._rows = args.num_seeds
        self._drivers: dict[int, DeviceDriver] = {}
        self._largest, self._settings = 0, 0  # most runs in one program, beside so many settings that wait
        self.states: dict[int, Parked] = {}  # by number

    def advance(self, members: Sequence[Candidate], steps: int) -> dict[int, float]:
        """See `Lockstep.advance`; scores by number."""
        alike: dict[int, list[Candidate]] = {}  # a program has one clock: its settings stand at the same iteration
        for member in members:
            alike.setdefault(self.states[member.number].iteration if member.number in self.states else 0, []).append(
                member
            )
        scores, limit = {}, self._limit(len(members))
        for group in alike.values():
            start = 0
            for count, width in widths(len(group), self._rows, limit):
                scores.update(self._advance_batch(group[start : start + count], width, steps))
                start += count
        return scores

    def _advance_batch(self, members: Sequence[Candidate], width: int, steps: int) -> dict[int, float]:
        """Train and evaluate at most `width` settings; the last one fills the places that are left."""
        filled = [*members, *[members[-1]] * (width - len(members))]
        driver = self._driver(width)
        hyper = {
            name: np.repeat(np.asarray([member.hyper[name] for member in filled], np.float32), self._rows)
            for name in members[0].hyper
        }
        driver.begin(self._algorithm.hyper_tree(hyper), self._seeds(width))
        if members[0].number in self.states:
            found = [self.states[member.number] for member in filled]
            played, iteration = np.concatenate([state.steps for state in found]), found[0].iteration
            run = _joined([state.run for state in found])
        else:
            played, iteration = np.zeros(width * self._rows, np.int64), 0
            run = jax.tree.map(_strong, driver.state)
        driver.restore({"run": run, "iteration": iteration})
        del run  # the driver's alone, to be given away
        broken, acting = self._train(driver, played, steps)
        explore = not self._args.eval_deterministic
        returns = driver.evaluate(self._args.eval_episodes, EVALUATION_SEED, explore, acting)
        means = np.where(broken, np.nan, returns.mean(axis=1)).reshape(width, -1).mean(axis=1)
        means[~np.isfinite(means)] = np.nan
        mine = [slice(i * self._rows, (i + 1) * self._rows) for i in range(len(members))]
        iteration = driver.iteration
        for member, rows, taken in zip(members, mine, _taken(driver, self._seeds(width), mine), strict=True):
            self.states[member.number] = Parked(taken, iteration, played[rows])
        return {member.number: float(mean) for member, mean in zip(members, means)}

    def _train(self, driver: DeviceDriver, played: np.ndarray, steps: int) -> tuple[np.ndarray, Any]:
        """Go on until every setting has had `steps` environment steps.

        Where episodes end an iteration (evolution), some settings have had them before others: these play on, since
        all share one clock, but are judged by the policy that they had by then.

        Args:
            driver: Holds the settings.
            played: Steps that each run has had, counted on here.
            steps: The aim.

        Returns:
            Whether each run has met a number that is not finite that ends it, and the policies to judge, None for the
            present ones.
        """
        traits = driver.agent.traits
        most = traits.rollout_length * traits.num_envs  # steps of an iteration
        broken, acting = np.zeros(len(played), bool), None
        waiting = np.ones(len(played) // self._rows, bool)
        while True:
            least = played.reshape(-1, self._rows).min(axis=1)
            arrived, waiting = waiting & (least >= steps), least < steps
            if arrived.any() and (waiting.any() or acting is not None):
                now = jax.tree.map(np.array, driver.acting())
                rows = np.repeat(arrived, self._rows)
                acting = now if acting is None else jax.tree.map(partial(_chosen, rows), now, acting)
            if not waiting.any():
                break
            # As many iterations as the next to arrive needs at least, so that none arrives within a chunk.
            chunk = driver.run(-(-(steps - int(least[waiting].max())) // most))
            played += chunk.steps.sum(axis=0)
            if self._args.on_nan == "stop":
                broken |= (chunk.metrics[BROKEN] > 0).any(axis=0)
        if acting is not None:  # where the present ones lie, so that the evaluation is not compiled twice
            acting = jax.tree.map(lambda mine, like: jax.device_put(mine, like.sharding), acting, driver.acting())
        return broken, acting

    def template(self) -> Run:
        """A state like that of one setting."""
        driver = self._driver(1)
        driver.begin(driver.hyper, self._seeds(1))
        (run,) = _taken(driver, self._seeds(1), [slice(None)])
        return run

    def _seeds(self, width: int) -> np.ndarray:
        return np.tile(np.arange(self._args.seed, self._args.seed + self._rows), width)

    def _driver(self, width: int) -> DeviceDriver:
        """The driver whose programs hold `width` settings."""
        if width not in self._drivers:
            self._drivers[width] = self.build(width)
        return self._drivers[width]

    def build(self, width: int) -> DeviceDriver:
        """A driver of `width` settings; nothing is allocated."""
        args, seeds = self._args, self._seeds(width)
        _, defaults = self._algorithm.configure(vars(args))
        hyper = {name: np.full(len(seeds), value, np.float32) for name, value in defaults.items()}
        runs = Plan(seeds, hyper, [""] * len(seeds))
        options, steps = EnvOptions.from_args(args), args.num_timesteps
        driver = build_driver(self._algorithm, options, self._config, runs, steps, on_nan=args.on_nan)
        assert isinstance(driver, DeviceDriver)
        return driver

    def _limit(self, settings: int) -> int:
        """Most runs in one program, where so many settings wait in the memory meanwhile.

        Raises:
            ValueError: One setting alone does not fit the memory.
        """
        if settings > self._settings:
            largest = max(LARGEST_BATCH, self._rows)
            while True:
                try:
                    self._check(largest, settings)
                    break
                except ValueError:
                    if largest == self._rows:
                        raise
                    largest = max(self._rows, largest // 2)
            self._largest, self._settings = largest, settings
        return self._largest

    def _check(self, num_runs: int, settings: int) -> None:
        """Raise ValueError where a program of so many runs does not fit the memory beside the settings that wait."""
        driver = self.build(num_runs // self._rows)
        check_fits(driver.memory() + _shared(settings * _waiting_bytes(driver, num_runs // self._rows)), num_runs)


def check_settings(args: Namespace, settings: int, instead: str) -> None:
    """Refuse a search whose settings would not fit the main memory while they wait; nothing is allocated.

    Args:
        args: Flags of a training.
        settings: Most settings of a bracket.
        instead: What to give for a smaller bracket, up to its size.

    Raises:
        ValueError: They would not fit.
    """
    algorithm = algorithm_class(args.algo)()
    config, _ = algorithm.configure(vars(args))
    driver = _Family(algorithm, args, config).build(1)
    one, program = _waiting_bytes(driver, 1), _shared(driver.memory())
    free = free_host_memory()
    if settings * one + program <= free:
        return
    fitting = max(0, free - program) // one
    advice = f"take {instead}{fitting}" if fitting else "take fewer seeds, environments or steps to remember"
    raise ValueError(
        f"{settings} settings of a bracket would need {(settings * one + program) / 2**30:,.1f} GiB of main memory, "
        f"there are {free / 2**30:,.1f} GiB: {advice}"
    )


def _waiting_bytes(driver: DeviceDriver, width: int) -> int:
    """Bytes of main memory that a setting takes while it waits, told by a driver of `width` settings."""
    return driver.kept_memory()[0] // width


def _shared(size: int) -> int:
    """`size` bytes of main memory as bytes of the device's: 0 where these are two."""
    return size if jax.default_backend() == "cpu" else 0


def _taken(driver: DeviceDriver, seeds: np.ndarray, rows: Sequence[slice]) -> list[Run]:
    """Move runs out of a driver into main memory, a tree for each slice; the driver keeps none."""
    leaves, structure = jax.tree.flatten(driver.state)
    driver.begin(driver.hyper, seeds)
    leaves.reverse()
    taken: list[list[Any]] = [[] for _ in rows]
    while leaves:  # each is freed before the next is copied: on the CPU both lie in the same memory
        leaf = leaves.pop()
        whole = leaf if is_key(leaf) else np.asarray(leaf)
        for mine, found in zip(rows, taken, strict=True):
            # A copy: a view would keep all settings of the batch.
            found.append(whole[mine] if is_key(leaf) else whole[mine].copy())
    return [jax.tree.unflatten(structure, found) for found in taken]


def _joined(runs: Sequence[Run]) -> Run:
    """One tree, leaves [K, ...], of the runs of several settings."""

    def join(*leaves: Any) -> Any:
        if is_key(leaves[0]):
            return jnp.concatenate(leaves)
        whole = np.concatenate(leaves)
        # At once where there is one device, so that main memory holds one leaf only; over several devices the driver
        # spreads them, which one alone may not have room for.
        return jnp.array(whole) if len(jax.local_devices()) == 1 else whole

    return jax.tree.map(join, *runs)


def _strong(leaf: Any) -> Any:
    """A leaf of a settled type, as what comes back from main memory has: of a weak one a program is compiled again."""
    return leaf if is_key(leaf) or not leaf.weak_type else jnp.asarray(leaf, leaf.dtype)


def _chosen(chosen: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """`new` for the chosen runs [K], else `old`; leaves [K, ...]."""
    return np.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
