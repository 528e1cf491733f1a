"""The Ray cluster that `--launcher=ray` and `--rollout-launcher=ray` ask for. Ray is imported once it is used."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any

from launch.runtime.errors import UsageError
from launch.runtime.flag_parser import FlagParser

_ROOT = Path(__file__).resolve().parents[2]
_CONNECT_SECONDS = 5.0
# What nodes do not need of the repository.
_EXCLUDES = [
    ".git",
    ".venv*",
    ".cache",
    "logs",
    "wandb",
    "tests",
    "docs",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
]


def add_address_flag(parser: FlagParser) -> None:
    """Declare where the cluster is."""
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="Head of the Ray cluster. Without this flag: one of this machine"
    )


def check_cluster(args: Namespace, name: str) -> None:
    """Refuse a cluster whose package is not installed, and an address without one.

    Args:
        args: Flags.
        name: The flag that asks for a cluster by the value ray, underscored.

    Raises:
        UsageError: It is so.
    """
    flag = f"--{name.replace('_', '-')}=ray"
    wanted = getattr(args, name) == "ray"
    if args.ray_address and not wanted:
        raise UsageError(f"--ray-address needs {flag}")
    if wanted and importlib.util.find_spec("ray") is None:
        raise UsageError(f"{flag} needs the package ray: pip install -r requirements-cluster.txt")


def connect(address: str | None) -> None:
    """Join the cluster at an address, or start one of this machine.

    Raises:
        UsageError: There is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address:  # who answers there and is not Ray would be asked again and again for a quarter of an hour
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray  # reads these when it is imported

    if ray.is_initialized():
        return
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        try:  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise UsageError(f"--ray-address={address}: there is no Ray cluster ({error.strerror or error})") from None
    # Without an address Ray would look for a cluster that was started here before, and wait if it is gone.
    where = address or "local"
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(_ROOT)}}
    if address:  # its nodes may be other machines: they get the code
        environment = {"working_dir": str(_ROOT), "excludes": _EXCLUDES}
    try:
        ray.init(address=where, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--ray-address={address}: there is no Ray cluster ({reason})") from None
