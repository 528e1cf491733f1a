"""A process that ends with its parent, even when that is killed."""

from __future__ import annotations

import fcntl
import os
import select
import signal


def die_with(lifeline: int) -> None:
    """Have the kernel end this process as soon as the other end of a pipe is gone, whatever it is doing then.

    A signal rather than a thread that waits: one more thread makes every malloc of a simulator slower.

    Args:
        lifeline: File descriptor of a pipe's end for reading, whose other end only the parent holds.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which terminates
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # gone before it could be watched
        os.kill(os.getpid(), signal.SIGKILL)
