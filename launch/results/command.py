"""The command line that a run folder was made with, from its flags."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from agents.registry import registered_rl
from launch.runtime.algorithm_flags import add_algorithm_flags
from launch.runtime.flags import common_flags

_NOT_TYPED = {"help", "resume", "run_folder", "hyperparam", "sweep", "verbose", "log_dir"}
_ALWAYS = ("algo", "env")


def command_line(args: Mapping[str, Any]) -> str:
    """The shortest `launch/train.py` command with these flags: those that differ from their defaults.

    Where the run folder lies (`--log-dir`) is left out. Flags of an algorithm that is not registered here are written
    as `--name=value` without knowing their defaults.
    """
    parser = common_flags()
    algo = args.get("algo")
    if algo in registered_rl:
        add_algorithm_flags(parser, algo)
    words = [f"--{name}={args[name]}" for name in _ALWAYS]
    for name in (*parser.names, *sorted(set(args) - set(parser.names))):
        if name in _NOT_TYPED or name in _ALWAYS or name not in args:
            continue
        value, known = args[name], name in parser.names
        if known and _plain(value) == _plain(parser[name].option.default_in(args.get("simulator"))):
            continue
        words += _typed(name, value)
    sweep = args.get("sweep") or {}
    if sweep:
        words += [
            "--sweep",
            *(f"{name}:{','.join(f'{value:g}' for value in values)}" for name, values in sweep.items()),
        ]
    return "python launch/train.py " + shlex.join(words)


def _typed(name: str, value: Any) -> list[str]:
    """A flag as words."""
    flag = "--" + name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else "--no" + flag[2:]]
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return [flag, *value]
    return [f"{flag}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else _number(value)}"]


def _number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """A value in the form in which JSON keeps it."""
    return list(value) if isinstance(value, tuple) else value
