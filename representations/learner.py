"""Training of representations: one jitted loop over minibatches, for one run or several with own seeds and options.

On an accelerator a call runs many minibatches and all runs at once (`scan` and `vmap`), and pictures stay there where
they fit. On a CPU XLA's convolutions are fast outside of loops only, and with one kernel for all pictures (jaxlib
0.10.2: 50 times): a call is one minibatch of one run, whose pictures come straight from the memory map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from representations.batches import Batches, give_pairs, has_pair, make_batches, negatives
from representations.dataset import Dataset
from representations.objective import Batch, Hyper, Objective, Weights

_MINIBATCHES_PER_CALL = 64  # on an accelerator
_IN_FLIGHT = 2  # calls whose pictures may wait in memory
_SHARE_OF_MEMORY = 0.5  # of what is free on the accelerator may hold the pictures
_ADAM = optax.scale_by_adam()


class Table(NamedTuple):
    """What is known of each frame, on the device: T rows, fields as in `Batch`."""

    action: jax.Array
    reward: jax.Array
    episode: jax.Array
    truth: jax.Array


class RunState(NamedTuple):
    """A run between two minibatches; leaves lead with the runs of a group.

    Attributes:
        weights: What is learned.
        adam: State of the optimiser.
        best: The weights with the lowest validation loss so far.
    """

    weights: Weights
    adam: Any
    best: Weights


class Learner:
    """K runs of one design on one dataset.

    Attributes:
        states: State of each group of runs.
        best_loss: Lowest validation loss so far, float64 [K].
        minibatches: Training minibatches of an epoch.
        placement: In words, where the pictures are, and how much memory that takes.

    Args:
        objective: The networks and their loss.
        data: The dataset.
        seeds: Seed of each run.
        hyper: Options, leaves [K, ...].
        batch_size: Transitions per minibatch.
        validation_share: Part of the minibatches that validate.
        together: Whether runs are vmapped; on an accelerator by default.
        resident: Whether pictures are kept on the device; where they fit on an accelerator by default.
        compiler_options: What XLA is told, as in `jax.jit`.

    Raises:
        ValueError: the dataset is too small, or lacks what a loss needs.
    """

    def __init__(
        self,
        objective: Objective,
        data: Dataset,
        seeds: Sequence[int],
        hyper: Hyper,
        batch_size: int,
        validation_share: float,
        together: bool | None = None,
        resident: bool | None = None,
        compiler_options: dict[str, str | bool] | None = None,
    ) -> None:
        accelerated = jax.default_backend() != "cpu"
        self._objective, self._data, self.seeds = objective, data, list(seeds)
        self._scanned = _MINIBATCHES_PER_CALL if accelerated else 1
        runs = range(len(self.seeds))
        together = accelerated if together is None else together
        self._groups = [list(runs)] if together else [[run] for run in runs]
        self._batches = [self._compose(seed, batch_size, validation_share) for seed in self.seeds]
        self.minibatches = len(self._batches[0].train)
        truth = np.asarray(data.true_states(), np.float32)
        self._table = Table(
            jnp.asarray(data.actions),
            jnp.asarray(data.rewards),
            jnp.asarray(data.episodes, jnp.int32),
            jnp.array(truth),
        )
        self._hyper = [
            jax.tree.map(lambda leaf, g=group: jnp.asarray(leaf)[np.array(g)], hyper) for group in self._groups
        ]
        self.placement, keep = _placement(data.frames, accelerated if resident is None else resident, resident is None)
        self._frames = jnp.asarray(np.asarray(data.frames)) if keep else None
        self._train, self._evaluate, self._keep_best = self._compiled(keep, compiler_options)
        init = jax.jit(jax.vmap(self._init))
        self.states = [init(self._keys(group)) for group in self._groups]
        self.best_loss = np.full(len(self.seeds), np.inf)

    def _compose(self, seed: int, batch_size: int, share: float) -> Batches:
        """The minibatches of a run."""
        rng = np.random.default_rng([seed, 0])
        batches = make_batches(self._data.episode_starts, batch_size, share, rng)
        if "priors" in self._objective.design.names:
            actions, rewards = self._data.actions, self._data.rewards
            train = give_pairs(batches.train, actions, rewards, rng)
            validation = batches.validation
            if has_pair(validation, actions, rewards):  # else causality cannot be validated, and is 0 there
                validation = give_pairs(validation, actions, rewards, rng)
            batches = Batches(train, validation)
        return batches

    def _keys(self, group: list[int]) -> jax.Array:
        return jnp.stack([jax.random.key(self.seeds[run]) for run in group])

    def _init(self, key: jax.Array) -> RunState:
        weights = self._objective.init(key)
        return RunState(weights, _ADAM.init(weights.params), jax.tree.map(jnp.copy, weights))

    def epoch(self, number: int, tell: Callable[[int, int], None] = lambda done, total: None) -> dict[str, np.ndarray]:
        """Train once on every training minibatch, in an order of its own, then validate; keeps the best weights.

        Args:
            number: Of the epoch, from 0; with the seed it decides the order.
            tell: Told again and again how many minibatches are done, validation and all groups of runs included, and
                how many there are.

        Returns:
            name -> float64 [K]: `train_loss`, `val_loss`, and each loss of the design as the mean over the epoch.
        """
        results = []
        told = _Count(tell, len(self._groups) * (self.minibatches + len(self._batches[0].validation)))
        for place, group in enumerate(self._groups):
            train, order = [], [np.random.default_rng([self.seeds[run], 1, number]) for run in group]
            rows = np.stack([rng.permutation(self._batches[run].train) for rng, run in zip(order, group, strict=True)])
            step = number * self.minibatches
            for frames, places, index in self._feed(rows, order):
                args = (self._hyper[place], frames, places, index, self._table, self._keys(group), jnp.int32(step))
                self.states[place], metrics = self._train(self.states[place], *args)
                train.append((metrics, index.shape[1]))
                step += index.shape[1]
                _wait(train)
                told.add(index.shape[1])
            results.append(self._validate(place, group, _mean(train), told))
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def _validate(
        self, place: int, group: list[int], train: dict[str, np.ndarray], told: _Count
    ) -> dict[str, np.ndarray]:
        """Losses of a group on its validation minibatches, added to those of training; keeps the best weights."""
        rows = np.stack([self._batches[run].validation for run in group])
        order = [np.random.default_rng([self.seeds[run], 2]) for run in group]
        found: list[tuple[Any, int]] = []
        for frames, places, index in self._feed(rows, order):
            args = (self._hyper[place], frames, places, index, self._table, self._keys(group), jnp.int32(0))
            found.append((self._evaluate(self.states[place].weights, *args), index.shape[1]))
            _wait(found)
            told.add(index.shape[1])
        validation = _mean(found)["loss"]
        better = validation < self.best_loss[group]
        self.best_loss[group] = np.where(better, validation, self.best_loss[group])
        self.states[place] = self._keep_best(self.states[place], jnp.asarray(better))
        return {"train_loss": train.pop("loss"), "val_loss": validation, **train}

    def best(self, run: int) -> Weights:
        """The weights of one run with the lowest validation loss; the initial ones before any epoch."""
        place = next(place for place, group in enumerate(self._groups) if run in group)
        return jax.tree.map(lambda leaf: leaf[self._groups[place].index(run)], self.states[place].best)

    def _feed(
        self, rows: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        """For each call (pictures, where in them the minibatches are [G, n, 3, B], rows of the table [G, n, B])."""
        with_negatives = "triplet" in self._objective.design.names
        for start in range(0, rows.shape[1], self._scanned):
            index = rows[:, start : start + self._scanned]
            parts = [index, index + 1]
            if with_negatives:
                drawn = [negatives(part, self._data.episodes, rng) for part, rng in zip(index, rngs, strict=True)]
                parts.append(np.stack(drawn))
            places = np.stack(parts, axis=2)
            frames = self._frames
            if frames is None:
                wanted, places = np.unique(places, return_inverse=True)
                places = places.reshape(*index.shape[:2], len(parts), -1)
                # Of one size, so that nothing is compiled again.
                padded = np.resize(wanted, places.size)
                frames = jnp.asarray(np.asarray(self._data.frames[padded]))
            yield frames, jnp.asarray(places, jnp.int32), jnp.asarray(index, jnp.int32)

    def _compiled(
        self, keep: bool, options: dict[str, str | bool] | None
    ) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        """The jitted functions of a group of runs."""
        axes = (0, 0, None, 0, 0, None, 0, None)
        jit = partial(jax.jit, compiler_options=options)
        train = jit(_over_runs(partial(_train_some, self._objective), axes), donate_argnums=0)
        evaluate = jit(_over_runs(partial(_evaluate_some, self._objective), axes))

        def keep_best(state: RunState, better: jax.Array) -> RunState:
            def choose(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return state._replace(best=jax.tree.map(choose, state.weights, state.best))

        return train, evaluate, jax.jit(keep_best, donate_argnums=0)


class _Count:
    """How much of an epoch is done."""

    def __init__(self, tell: Callable[[int, int], None], total: int) -> None:
        self._tell, self._total, self._done = tell, total, 0

    def add(self, count: int) -> None:
        """Take some more minibatches."""
        self._done += count
        self._tell(self._done, self._total)


def _train_some(
    objective: Objective,
    state: RunState,
    hyper: Hyper,
    frames: jax.Array,
    places: jax.Array,
    index: jax.Array,
    table: Table,
    key: jax.Array,
    first: jax.Array,
) -> tuple[RunState, dict[str, jax.Array]]:
    """Gradient steps of one run on n minibatches; returns the mean of their losses."""

    def step(state: RunState, work: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[RunState, dict[str, jax.Array]]:
        where, rows, number = work
        weights, batch = state.weights, _batch(frames, where, rows, table)

        def loss(params: Any) -> Any:
            step_key = jax.random.fold_in(key, number)
            return objective.loss(weights._replace(params=params), batch, hyper, step_key, True)

        gradients, (stats, metrics) = jax.grad(loss, has_aux=True)(weights.params)
        direction, adam = _ADAM.update(gradients, state.adam)
        params = jax.tree.map(lambda p, d: p - hyper.learning_rate * d, weights.params, direction)
        return state._replace(weights=Weights(params, stats), adam=adam), metrics

    return _loop(step, state, places, index, first)


def _evaluate_some(
    objective: Objective,
    weights: Weights,
    hyper: Hyper,
    frames: jax.Array,
    places: jax.Array,
    index: jax.Array,
    table: Table,
    key: jax.Array,
    first: jax.Array,
) -> dict[str, jax.Array]:
    """The mean of the losses of one run on n minibatches."""

    def step(weights: Weights, work: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Weights, dict[str, jax.Array]]:
        where, rows, number = work
        batch = _batch(frames, where, rows, table)
        return weights, objective.loss(weights, batch, hyper, jax.random.fold_in(key, number), False)[1][1]

    return _loop(step, weights, places, index, first)[1]


def _loop(step: Callable[..., Any], carry: Any, places: jax.Array, index: jax.Array, first: jax.Array) -> Any:
    """Run `step` on n minibatches; one is not put into a loop."""
    numbers = first + jnp.arange(len(index))
    if len(index) == 1:
        return step(carry, (places[0], index[0], numbers[0]))
    carry, metrics = jax.lax.scan(step, carry, (places, index, numbers))
    return carry, jax.tree.map(lambda values: values.mean(axis=0), metrics)


def _batch(frames: jax.Array, where: jax.Array, rows: jax.Array, table: Table) -> Batch:
    """The minibatch whose pictures are at `where` [2 or 3, B] in `frames` and whose facts are in `rows` [B]."""
    negative = frames[where[2]] if len(where) > 2 else jnp.zeros(0, jnp.uint8)
    truth = jnp.stack([table.truth[rows], table.truth[rows + 1]])
    facts = (table.action[rows], table.reward[rows], table.episode[rows])
    return Batch(frames[where[0]], frames[where[1]], negative, *facts, truth)


def _over_runs(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Map a function of one run over those of a group; a single one is not vmapped."""

    def mapped(*args: Any) -> Any:
        if len(args[4]) > 1:
            return jax.vmap(function, in_axes=axes)(*args)
        first = [arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg) for arg, axis in zip(args, axes)]
        return jax.tree.map(lambda leaf: leaf[None], function(*first))

    return mapped


def _wait(results: list[tuple[Any, int]]) -> None:
    """Let the device catch up, so that not all pictures of an epoch wait in memory."""
    if len(results) > _IN_FLIGHT:
        jax.block_until_ready(results[-1 - _IN_FLIGHT][0])


def _mean(results: list[tuple[dict[str, jax.Array], int]]) -> dict[str, np.ndarray]:
    """Mean over the minibatches of several calls, by name, float64 [G]."""
    counts = np.array([count for _, count in results], np.float64)
    shares = (counts / counts.sum())[:, None]
    names = results[0][0]
    return {
        name: (shares * np.array([np.asarray(values[name]) for values, _ in results])).sum(axis=0) for name in names
    }


def _placement(frames: Any, wanted: bool, check: bool) -> tuple[str, bool]:
    """Say where the pictures will be, and whether that is on the device."""
    size = float(np.prod(frames.shape))
    free = _free_memory() if check else np.inf
    fits = wanted and size <= _SHARE_OF_MEMORY * free
    if fits:
        return f"{size / 1e9:.2f} GB of pictures are kept on the device", True
    return f"{size / 1e9:.2f} GB of pictures are read as they are needed", False


def _free_memory() -> float:
    """Bytes that are free on the accelerator."""
    stats = jax.devices()[0].memory_stats() or {}
    return float(stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
