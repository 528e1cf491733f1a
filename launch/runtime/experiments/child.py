"""One command of the toolbox in a process of its own, which ends with the process that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.runtime.errors import FAILED, LEAVE_OUT, REFUSED

ROOT = Path(__file__).resolve().parents[3]


def child_environment() -> dict[str, str]:
    """The environment variables of a process that imports this repository's modules."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


class Child:
    """A running `launch/<program>.py`.

    It is out of reach of the terminal's Ctrl-C: its parent passes that on by `interrupt`.

    Args:
        program: "train" or another entry point with `main(words) -> exit code`.
        words: Its command line.
        log: File that its output is appended to; None leaves it its parent's.
        environment: Further environment variables.

    Raises:
        OSError: The log cannot be written, or no process can be started.
    """

    def __init__(
        self, program: str, words: Sequence[str], log: Path | None, environment: Mapping[str, str] | None = None
    ) -> None:
        code = "from launch.runtime.experiments.child import main; main({!r}, {})"
        reading, self._lifeline = os.pipe()
        try:
            with contextlib.nullcontext() if log is None else log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", code.format(program, reading), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**child_environment(), **(environment or {})},
                    pass_fds=(reading,),
                    process_group=0,
                )
        except OSError:
            os.close(self._lifeline)
            raise
        finally:
            os.close(reading)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), None while it runs."""
        code = self._process.poll()
        if code is not None and self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return code

    def interrupt(self) -> None:
        """Ask it to stop at the next safe point, as Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it now and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self.poll()


def last_line(log: Path, start: int = 0) -> tuple[str, bool]:
    """The last words of a command in its output from byte `start` on: its newest error, if not its last line.

    Returns:
        (the line without "error: ", whether it is an error)
    """
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: "), True
    return (lines[-1].strip() if lines else ""), False


def would_fail_again(code: int, log: Path, start: int = 0) -> bool:
    """Whether a command that ended with this exit code, and this output from byte `start` on, need not be tried again.

    Its command line was refused, or it met a number that is not finite, and would meet it again.
    """
    return code == REFUSED or (code == FAILED and LEAVE_OUT in last_line(log, start)[0])


def main(program: str, lifeline: int) -> None:
    """Entry point of the process."""
    import importlib

    from envs.host.lifeline import die_with

    die_with(lifeline)
    sys.exit(importlib.import_module(f"launch.{program}").main(sys.argv[1:]))
