"""Trials of a search in the JAX simulator: many settings in one compiled program."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.base_classes import JaxAlgorithm
from agents.common.finite import BROKEN
from agents.registry import algorithm_class
from envs.make import EnvOptions
from launch.runtime.checkpoint import Checkpointer
from launch.runtime.drivers.device import DeviceDriver, Run
from launch.runtime.experiments.brackets import widths
from launch.runtime.experiments.candidates import Candidate
from launch.runtime.sweep import Plan
from launch.runtime.training import EVALUATION_SEED, build_driver, check_memory

LARGEST_BATCH = 1024  # runs in one program, where memory allows


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
            metadata = {"position": position, "iterations": {key: iteration for key, (_, iteration) in found.items()}}
            self._checkpoints.save(position, {key: run for key, (run, _) in found.items()}, metadata)

    def restore(self, position: int, candidates: Sequence[Candidate]) -> bool:
        """Go on from what `save` wrote at `position`; False where that is not there."""
        if position not in self._checkpoints.iterations():
            return False
        template = {str(candidate.number): self._family(candidate).template() for candidate in candidates}
        try:
            tree, metadata = self._checkpoints.restore(template)
        except ValueError:  # the newest is of a comparison that was not noted down, or none can be read
            return False
        if metadata["position"] != position:
            return False
        for candidate in candidates:
            key = str(candidate.number)
            self._family(candidate).states[candidate.number] = tree[key], metadata["iterations"][key]
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
        self._largest: int | None = None
        self.states: dict[int, tuple[Run, int]] = {}  # number -> (state [rows, ...], iterations)

    def advance(self, members: Sequence[Candidate], steps: int) -> dict[int, float]:
        """See `Lockstep.advance`; scores by number."""
        scores, start = {}, 0
        for count, width in widths(len(members), self._rows, self._limit()):
            scores.update(self._advance_batch(members[start : start + count], width, steps))
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
            run = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[state for state, _ in found])
            driver.restore({"run": run, "iteration": found[0][1]})
        traits = driver.agent.traits
        iterations = -(-steps // (traits.rollout_length * traits.num_envs))
        broken = np.zeros(width * self._rows, bool)
        while driver.iteration < iterations:
            chunk = driver.run(iterations - driver.iteration)
            if self._args.on_nan == "stop":
                broken |= (chunk.metrics[BROKEN] > 0).any(axis=0)
        explore = not self._args.eval_deterministic
        returns = driver.evaluate(self._args.eval_episodes, EVALUATION_SEED, explore)
        means = np.where(broken, np.nan, returns.mean(axis=1)).reshape(width, -1).mean(axis=1)
        means[~np.isfinite(means)] = np.nan
        run = driver.state
        for i, member in enumerate(members):
            mine = slice(i * self._rows, (i + 1) * self._rows)
            self.states[member.number] = jax.tree.map(lambda x, mine=mine: x[mine], run), driver.iteration
        return {member.number: float(mean) for member, mean in zip(members, means)}

    def template(self) -> Run:
        """A state like that of one setting."""
        return self._driver(1).state

    def _seeds(self, width: int) -> np.ndarray:
        return np.tile(np.arange(self._args.seed, self._args.seed + self._rows), width)

    def _driver(self, width: int) -> DeviceDriver:
        """The driver whose programs hold `width` settings."""
        if width not in self._drivers:
            self._drivers[width] = self._build(width)
        return self._drivers[width]

    def _build(self, width: int) -> DeviceDriver:
        args, seeds = self._args, self._seeds(width)
        _, defaults = self._algorithm.configure(vars(args))
        hyper = {name: np.full(len(seeds), value, np.float32) for name, value in defaults.items()}
        runs = Plan(seeds, hyper, [""] * len(seeds))
        options, steps = EnvOptions.from_args(args), args.num_timesteps
        driver = build_driver(self._algorithm, options, self._config, runs, steps, on_nan=args.on_nan)
        assert isinstance(driver, DeviceDriver)
        return driver

    def _limit(self) -> int:
        """Most runs in one program.

        Raises:
            ValueError: One setting alone does not fit the memory.
        """
        if self._largest is None:
            self._largest = LARGEST_BATCH
            while self._largest > self._rows:
                try:
                    check_memory(self._build(self._largest // self._rows), self._largest)
                    break
                except ValueError:
                    self._largest = max(self._rows, self._largest // 2)
            else:
                check_memory(self._build(1), self._rows)
        return self._largest
