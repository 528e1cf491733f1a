"""Random orders: permutations, uniform, different for different keys."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from agents.common.shuffle import PACKED_LIMIT, shuffled_indices


@pytest.mark.parametrize("n", [1, 2, 5, 1000, PACKED_LIMIT, PACKED_LIMIT + 1])
def test_every_index_once(n: int) -> None:
    order = np.asarray(shuffled_indices(jax.random.key(0), n))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_every_index_is_equally_likely_everywhere() -> None:
    n, draws = 6, 12_000
    orders = np.asarray(jax.vmap(lambda key: shuffled_indices(key, n))(jax.random.split(jax.random.key(1), draws)))
    counts = np.stack([(orders == index).sum(axis=0) for index in range(n)])
    expected = draws / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 52.6  # 25 degrees of freedom, p = 0.001


def test_all_orders_of_three_are_equally_likely() -> None:
    draws = 12_000
    orders = np.asarray(jax.vmap(lambda key: shuffled_indices(key, 3))(jax.random.split(jax.random.key(2), draws)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - draws / 6) ** 2 / (draws / 6)).sum() < 20.6  # 5 degrees of freedom, p = 0.001


def test_neighbours_do_not_keep_their_order_in_a_full_batch() -> None:
    orders = np.asarray(
        jax.vmap(lambda key: shuffled_indices(key, PACKED_LIMIT))(jax.random.split(jax.random.key(3), 64))
    )
    place = np.argsort(orders, axis=1)
    in_order = (np.diff(place, axis=1) > 0).mean()
    assert abs(in_order - 0.5) < 0.005
