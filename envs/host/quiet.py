"""Imports that would print a banner."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def quiet_import(name: str) -> ModuleType:
    """Import a module while the process's standard error goes nowhere; PyBullet's C code prints its build time there.

    pygame, which greets on standard output, is asked not to. An import that fails still raises.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if name in sys.modules:
        return sys.modules[name]
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return importlib.import_module(name)
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
