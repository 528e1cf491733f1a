"""Keeps the comparisons with other libraries out of every run that does not ask for them with `-m peers`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked `peers` unless the marker expression names them.

    They are skipped anyway where stable-baselines3 is missing; this is for environments that have it.
    """
    if "peers" in config.option.markexpr:
        return
    peers = [item for item in items if item.get_closest_marker("peers")]
    if peers:
        config.hook.pytest_deselected(items=peers)
        items[:] = [item for item in items if item not in peers]
