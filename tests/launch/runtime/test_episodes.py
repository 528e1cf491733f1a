"""Episodes out of a chunk's record, against a plain loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from launch.runtime.drivers import episodes


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("fetched", [7, 2**16])
def test_episodes_come_in_order_of_time(monkeypatch, rate: float, fetched: int) -> None:
    monkeypatch.setattr(episodes, "FETCHED", fetched)
    generator = np.random.default_rng(0)
    shape = (3, 2, 5, 3)  # runs, iterations, steps, environments
    ended = generator.random(shape) < rate
    returns, lengths = generator.normal(size=shape).astype(np.float32), generator.integers(1, 9, shape, np.int32)
    found = episodes.finished(*map(jnp.asarray, (ended, returns, lengths)))
    expected = [
        (run, rank, returns[run, i, t, rank], lengths[run, i, t, rank])
        for i in range(shape[1])
        for t in range(shape[2])
        for rank in range(shape[3])
        for run in range(shape[0])
        if ended[run, i, t, rank]
    ]
    assert len(found.run) == len(expected)
    for leaf, values in zip(found, zip(*expected, strict=True)):
        np.testing.assert_array_equal(leaf, values)
