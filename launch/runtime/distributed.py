"""One run trained by several processes: how they find each other, and what only the first of them does.

JAX is imported when processes join and not before: a single process never asks for any of this.
"""

from __future__ import annotations

import json
import os
import socket
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from launch.runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

FLAGS = ("distributed", "coordinator", "num_processes", "process_id", "join_timeout")
_RETRY = 0.2  # seconds between attempts to reach the coordinator
_SLACK = 2.0  # seconds that the word of process 0 may take to arrive
_LINGER = 30  # seconds that a process that ends waits for the others


def check_flags(args: Namespace) -> None:
    """Check the flags of this module.

    Raises:
        UsageError: They do not go together, or one is out of range.
    """
    given = [name for name in FLAGS[1:4] if getattr(args, name) is not None]
    if args.distributed == "off" and not given:
        return
    if not args.data_parallel:
        raise UsageError("several processes train one run together: add --data-parallel (and --simulator=jax)")
    if args.distributed == "auto":
        if given:
            raise UsageError(f"--distributed=auto finds out {_flag(given[0])} by itself: leave it out")
        return
    missing = [_flag(name) for name in FLAGS[1:4] if name not in given]
    if missing:
        raise UsageError(f"{_flag(given[0])} needs {' and '.join(missing)} too")
    _endpoint(args.coordinator)
    if args.process_id >= args.num_processes:
        raise UsageError(
            f"--process-id={args.process_id}: the ids of {args.num_processes} processes go from 0 to "
            f"{args.num_processes - 1}"
        )


def join(args: Namespace) -> None:
    """Become one of the processes that the flags tell of; to be called before anything is computed.

    Raises:
        UsageError: There is no cluster, or not all processes met within `args.join_timeout` seconds.
    """
    if args.distributed == "off" and args.coordinator is None:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where: dict[str, Any] = {}
    if args.coordinator is not None:
        where = {"num_processes": args.num_processes, "process_id": args.process_id}
        _meet(args.coordinator, **where, timeout=args.join_timeout)
        where |= {"coordinator_address": args.coordinator, "cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(**where, initialization_timeout=args.join_timeout, shutdown_timeout_seconds=_LINGER)
    except ValueError as error:
        raise UsageError(
            f"--distributed=auto: neither SLURM nor Open MPI has started this process ({error}); start it with srun or "
            "mpirun, or give --coordinator, --num-processes and --process-id"
        ) from None


def is_first() -> bool:
    """Whether this process is the one that keeps the records; a single process is."""
    import jax

    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them must ask."""
    import numpy as np

    return bool(_gathered(np.array([flag])).any())


def first_text(text: str, size: int = 4096) -> str:
    """The `text` of the first process, at most `size` bytes; all of them must ask."""
    import numpy as np

    padded = np.frombuffer(text.encode().ljust(size, b"\0"), np.uint8)
    return _gathered(padded)[0].tobytes().rstrip(b"\0").decode()


def _gathered(values: np.ndarray) -> np.ndarray:
    """The arrays of all processes, [processes, ...]."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return values[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _endpoint(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        UsageError: It is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"--coordinator={address}: expected HOST:PORT, for instance node1:4321")
    return host.strip("[]"), int(port)


def _meet(address: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Wait until all processes are there.

    jax.distributed would end the process with a stack trace where one is missing; this says it in one line, and
    notices processes that disagree about their number.

    Raises:
        UsageError: One of these.
    """
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _receive_others(address, num_processes, deadline)
        return
    while True:
        try:
            with socket.create_connection(_endpoint(address), timeout=max(_RETRY, deadline - time.monotonic())) as sock:
                # Process 0 may have begun just now, and tells at the end of its own time who is missing.
                sock.settimeout(timeout + _SLACK)
                sock.sendall(json.dumps([process_id, num_processes]).encode() + b"\n")
                wrong = json.loads(sock.makefile(errors="replace").readline())
            break
        except (OSError, ValueError) as error:  # ValueError: what answered is not process 0, or it was closed
            reason = error if isinstance(error, OSError) else "something else answers there"
        if time.monotonic() + _RETRY > deadline:
            raise UsageError(
                f"--coordinator={address}: process 0 was not there, or waited for others, for {timeout:g} s ({reason})"
            ) from None
        time.sleep(_RETRY)
    if wrong:
        raise UsageError(wrong)


def _receive_others(address: str, num_processes: int, deadline: float) -> None:
    """Process 0's part of `_meet`: to each, in JSON, "" when all are there, else what is wrong."""
    host, port = _endpoint(address)
    there: dict[int, socket.socket] = {}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family)
    except OSError as error:
        raise UsageError(
            f"--coordinator={address}: port {port} cannot be used here ({os.strerror(error.errno or 0)})"
        ) from None
    wrong = ""
    with server:
        while len(there) < num_processes - 1 and not wrong:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                sock = server.accept()[0]
                sock.settimeout(max(0.01, deadline - time.monotonic()))
                number, count = json.loads(sock.makefile().readline())
            except TimeoutError:
                missing = sorted(set(range(1, num_processes)) - there.keys())
                wrong = f"--coordinator={address}: process {', '.join(map(str, missing))} did not come in time"
                break
            except (OSError, ValueError):  # not one of us
                continue
            if count != num_processes:
                wrong = f"--num-processes={count} in process {number} is {num_processes} in process 0"
            elif number in there:
                wrong = f"--process-id={number} was given to two processes"
            there[number if not wrong else -1] = sock
        for sock in there.values():
            with sock:
                sock.sendall(json.dumps(wrong).encode() + b"\n")
    if wrong:
        raise UsageError(wrong)
