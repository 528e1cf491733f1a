"""Trainings of a pipeline or a search that are over when they have been begun."""

from __future__ import annotations


class Done:
    """A training that has ended already."""

    def __init__(self, code: int) -> None:
        self._code = code

    def poll(self) -> int:
        return self._code

    def interrupt(self) -> None:
        """Too late."""

    kill = interrupt
