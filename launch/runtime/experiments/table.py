"""The live table of an experiment: one row per cell; on anything but a terminal, a line for each event."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, TextIO

_REDRAW_SECONDS = 0.5
_LINE_SECONDS = 60.0


class Row(NamedTuple):
    """What the table says of one cell.

    Attributes:
        cell: Its name.
        finished: Runs that are finished.
        total: Runs in all.
        share: Share of the steps of all runs that are done, 0 to 1.
        mean_return: Mean of the newest returns, None where there is none.
        seconds_left: Estimate, None where there is none.
        state: "waiting", "running", "finished", "failed".
    """

    cell: str
    finished: int
    total: int
    share: float
    mean_return: float | None
    seconds_left: float | None
    state: str


class Table:
    """Shows rows on a stream.

    Args:
        stream: A terminal gets a table that is redrawn, anything else plain lines.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._height = 0
        self._shown = time.monotonic() if not self._live else float("-inf")
        self._rows: Sequence[Row] = ()

    def update(self, rows: Sequence[Row]) -> None:
        """Show the state of all cells, if it is time to."""
        self._rows = rows
        now = time.monotonic()
        if now - self._shown < (_REDRAW_SECONDS if self._live else _LINE_SECONDS):
            return
        self._shown = now
        if self._live:
            self._redraw()
        else:
            for row in rows:
                if row.state == "running":
                    self._stream.write(" | ".join(_cells(row)) + "\n")
            self._stream.flush()

    def message(self, text: str) -> None:
        """Write a line of text above the table."""
        if self._live:
            self._erase()
        self._stream.write(text + "\n")
        if self._live and self._rows:
            self._redraw()
        self._stream.flush()

    def close(self) -> None:
        """Leave the last state standing."""
        if self._live and self._rows:
            self._redraw()
        self._height = 0

    def _erase(self) -> None:
        if self._height:
            self._stream.write(f"\x1b[{self._height}A\r\x1b[J")
        self._height = 0

    def _redraw(self) -> None:
        self._erase()
        size = shutil.get_terminal_size()
        lines = render(self._rows, size.columns - 1, max(4, size.lines - 2))
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()
        self._height = len(lines)


def render(rows: Sequence[Row], width: int, height: int) -> list[str]:
    """The table as lines of at most `width` characters, at most `height` of them: running cells first."""
    order = {"running": 0, "failed": 1, "waiting": 2, "finished": 3}
    shown = sorted(rows, key=lambda row: order[row.state]) if len(rows) + 1 > height else list(rows)
    hidden = len(shown) - (height - 2) if len(rows) + 1 > height else 0
    body = [("cell", "runs", "done", "return", "left", "")] + [_cells(row) for row in shown[: len(shown) - hidden]]
    widths = [max(len(line[i]) for line in body) for i in range(6)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in range(1, 5)), line[5]]).rstrip()
        for line in body
    ]
    lines += [f"... and {hidden} more"] * (hidden > 0)
    return [line[:width] for line in lines]


def _cells(row: Row) -> tuple[str, ...]:
    left = "-" if row.seconds_left is None else str(timedelta(seconds=round(row.seconds_left)))
    mean = "-" if row.mean_return is None else f"{row.mean_return:.2f}"
    return row.cell, f"{row.finished}/{row.total}", f"{100 * row.share:.0f} %", mean, left, row.state
