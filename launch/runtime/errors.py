"""User errors, and how every entry point turns an exception into one line and an exit code.

Exit codes: 0 done, 2 the command line or a named file is wrong (nothing was started), 3 a failure while running,
130 interrupted. A defect of the program keeps its traceback.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any


class UsageError(ValueError):
    """The command line cannot be carried out; the message is one line that names the nearest valid choice."""


REFUSED, FAILED = 2, 3  # exit codes
LEAVE_OUT = "--on-nan=skip leaves such updates out"  # advice at the end of the line of a run that would fail again


class RunError(RuntimeError):
    """A run that was under way cannot go on; the message is one line. What it has saved stays usable."""


class HelpRequested(Exception):
    """`--help` was given; the text to print is the message."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like `word` (upper and lower case alike), or None where nothing is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def hint(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X?", or "; choose one of A, B" where no choice is close to `word`."""
    choices = list(choices)
    match = nearest(word, choices)
    return f"; did you mean {match}?" if match else f"; choose one of {', '.join(choices)}"


def run_command(parse: Callable[[], Any], body: Callable[[Any], None]) -> int:
    """Parse the command line, run the command, and return the exit code.

    Args:
        parse: () -> args.
        body: The command, given args. Once it has a run folder that can be continued it sets `args.run_folder`; from
            then on a failure is one of the run (exit code 3), before that one of the command line (exit code 2).
            Where args have no `resume`, the run is continued by the same command.
    """
    args = None
    try:
        args = parse()
        body(args)
    except HelpRequested as request:
        _print_to_reader(str(request))
    except KeyboardInterrupt:
        folder = getattr(args, "run_folder", None)
        how = f"continue with --resume {folder}" if hasattr(args, "resume") else "the same command continues it"
        print("interrupted" + (f"; {how}" if folder else ""), file=sys.stderr)
        return 130
    except Exception as error:
        code = _exit_code(error, started=getattr(args, "run_folder", None) is not None)
        if code is None:
            raise
        if getattr(args, "verbose", False):
            traceback.print_exception(error)
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return code
    return 0


def _print_to_reader(text: str) -> None:
    """Print a long text; the reader may close the pipe early, as `| head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more at its end, where it could not be caught.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_code(error: Exception, started: bool) -> int | None:
    """Return the exit code of an expected failure, None for a defect of the program."""
    if isinstance(error, RunError):
        return FAILED
    if isinstance(error, OSError):
        return FAILED if started else REFUSED
    if isinstance(error, ValueError):
        return None if started else REFUSED
    from envs.host.vector import WorkerError  # here because only a failed run needs it

    return FAILED if isinstance(error, WorkerError) else None
