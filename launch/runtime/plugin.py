"""`--plugin MODULE`: import a user's module, which registers algorithms or environments, before flags are looked up."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from launch.runtime.errors import UsageError


def load_plugin(module: str) -> None:
    """Import a module by its dotted name; the working directory is searched too, last.

    Raises:
        UsageError: There is no such module, or importing it fails.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(_missing(module))
    folder = os.getcwd()
    if folder not in sys.path:  # absolute, so that worker processes find it as well
        sys.path.append(folder)
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(_missing(module)) from None
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if isinstance(error, SyntaxError) else f" ({Path(where.filename).name}, line {where.lineno})"
        reason = " ".join(str(error).split())
        raise UsageError(f"--plugin={module} cannot be imported: {type(error).__name__}: {reason}{place}") from error


def _missing(module: str) -> str:
    """The message for a module that does not exist; a path of a file is turned into the name to use."""
    as_name = module.removesuffix(".py").strip("./").replace("/", ".")
    if as_name not in ("", module):
        return f"--plugin={module}: give a module's name, --plugin={as_name}"
    return f"--plugin={module}: no module of that name in the working directory or on PYTHONPATH"
