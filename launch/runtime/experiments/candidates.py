"""What a search tries."""

from __future__ import annotations

from typing import Any, NamedTuple


class Candidate(NamedTuple):
    """One setting.

    Attributes:
        number: Number of its trial.
        values: What is searched, by name.
        hyper: All traced hyperparameters by name, once known.
    """

    number: int
    values: dict[str, Any]
    hyper: dict[str, float] = {}  # noqa: RUF012  # never changed


def as_flags(values: dict[str, Any]) -> list[str]:
    """The flags that stand for a setting, for instance --learning-rate=0.001."""
    return [f"--{name.replace('_', '-')}={value!r}".replace("'", "") for name, value in values.items()]
