"""How far long work is, on standard error: the live line of a run, and lines within epochs."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import TextIO

# A terminal is redrawn at most this often (seconds); elsewhere a line is written this often, or at this share of the
# budget, whichever comes first, so that log files stay short.
_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 10.0
_LINE_SHARE = 0.05
# Speed is measured over this many updates: a compilation at the start is soon forgotten.
_WINDOW = 30


class ProgressLine:
    """Shows how far a run is.

    Args:
        total_steps: Environment steps of one run.
        num_runs: Runs in lockstep; the speed counts the steps of all.
        stream: Where to write; a terminal gets one line that is redrawn, anything else a line now and then.
    """

    def __init__(self, total_steps: int, num_runs: int = 1, stream: TextIO | None = None) -> None:
        self.total_steps = total_steps
        self.num_runs = num_runs
        self.stream = sys.stderr if stream is None else stream
        self._live = self.stream.isatty()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._shown_time = float("-inf")
        self._shown_step = 0
        self._text = ""

    def start(self, step: int) -> None:
        """Begin to measure: the run stands at `step` (not 0 when resumed)."""
        self._samples.clear()
        self._samples.append((time.monotonic(), step))
        self._shown_time, self._shown_step = time.monotonic(), step

    def update(self, step: int, mean_return: float | None, best_evaluation: float | None) -> None:
        """Tell the state of the run; writes when it is time to.

        Args:
            step: Environment steps of one run so far.
            mean_return: Mean return of the last episodes; None where none has ended.
            best_evaluation: Best evaluation so far; None where there was none.
        """
        now = time.monotonic()
        self._samples.append((now, step))
        self._text = self._line(step, mean_return, best_evaluation)
        if self._live:
            due = now - self._shown_time >= _REDRAW_SECONDS
        else:
            due = now - self._shown_time >= _LINE_SECONDS or step - self._shown_step >= _LINE_SHARE * self.total_steps
        if due or step >= self.total_steps:
            self._shown_time, self._shown_step = now, step
            self._draw()

    def message(self, text: str) -> None:
        """Write a line of text without breaking the live line."""
        self.stream.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        if self._live and self._text:
            self._draw()
        self.stream.flush()

    def close(self) -> None:
        """Leave the last state of a live line standing."""
        if self._live and self._text:
            self._draw()
            self.stream.write("\n")
            self.stream.flush()
        self._text = ""

    def _draw(self) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{self._text[:width]}")
        else:
            self.stream.write(f"{self._text}\n")
        self.stream.flush()

    def _line(self, step: int, mean_return: float | None, best_evaluation: float | None) -> str:
        share = 100 * step / self.total_steps
        parts = [f"{step:,}/{self.total_steps:,} steps ({share:.0f}%)"]
        if self.num_runs > 1:
            parts[0] = f"{self.num_runs} runs, {parts[0]}"
        seconds = self._samples[-1][0] - self._samples[0][0]
        speed = (self._samples[-1][1] - self._samples[0][1]) / seconds if seconds > 0 else 0.0
        parts.append(f"{speed * self.num_runs:,.0f} steps/s" + (" in all" if self.num_runs > 1 else ""))
        parts.append("return -" if mean_return is None else f"return {mean_return:.2f}")
        if best_evaluation is not None:
            parts.append(f"best {best_evaluation:.2f}")
        if speed > 0:
            parts.append(f"left {timedelta(seconds=round(max(0, self.total_steps - step) / speed))}")
        return " | ".join(parts)


class EpochLines:
    """Tells now and then how far an epoch is; one that is over before has no such line.

    Args:
        say: Takes a line.
        epochs: Epochs of the training.
    """

    def __init__(self, say: Callable[[str], None], epochs: int) -> None:
        self._say, self._epochs = say, epochs
        self._epoch, self._began, self._shown = 0, 0.0, 0.0

    def begin(self, epoch: int) -> None:
        """An epoch begins, numbered from 1."""
        self._epoch, self._began = epoch, time.monotonic()
        self._shown = self._began

    def update(self, done: int, total: int) -> None:
        """So many of its minibatches are done."""
        now = time.monotonic()
        if now - self._shown < _LINE_SECONDS or done == total:
            return
        self._shown = now
        speed = done / (now - self._began)
        left = timedelta(seconds=round(((self._epochs - self._epoch + 1) * total - done) / speed))
        share = f"{done}/{total} minibatches ({100 * done / total:.0f}%)"
        self._say(f"epoch {self._epoch}/{self._epochs} | {share} | {speed:.1f} minibatches/s | left {left}")
