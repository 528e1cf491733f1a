"""How an algorithm declares its options: two dataclasses, `Config` (static) and `Hyper` (traced).

They are the only source for flags, documentation, search ranges and sweeps. This module stays light (no jax), and
`declared` reads the two classes out of an algorithm file without running its imports, so that `--help` is quick.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LR_SCHEDULES = ("linear", "constant", "double_linear_con", "middle_drop", "double_middle_drop")
POLICIES = ("feedforward", "lstm", "lnlstm")
REPLAY_MEMORIES = ("auto", "device", "host")  # where the pictures of a replay memory are kept


@dataclass(frozen=True)
class Option:
    """One declared option.

    Attributes:
        name: Field name; the flag is the same with dashes.
        type: bool, int, float, str or tuple (of ints, typed as "64,64").
        default: Value when the flag is not given.
        help: One line for `--help` and the docs.
        choices: The valid values, or None.
        minimum: Smallest valid value of a number, or None.
        maximum: Largest valid value of a number, or None.
        search: (low, high) range or list of values for hyperparameter search, or None.
        traced: True for a `Hyper` field, which may be swept within one compilation.
        jax_default: Value when the flag is not given but `--simulator=jax` is; None for `default`.
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    search: tuple[float, float] | list[Any] | None
    traced: bool
    jax_default: Any = None

    @property
    def flag(self) -> str:
        """The flag as typed, for instance "--learning-rate"."""
        return "--" + self.name.replace("_", "-")

    def default_in(self, simulator: str | None) -> Any:
        """The value that `launch/train.py` takes where none is given, in the simulator "pybullet" or "jax"."""
        return self.default if self.jax_default is None or simulator != "jax" else self.jax_default


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    search: tuple[float, float] | list[Any] | None = None,
    jax_default: Any = None,
) -> Any:
    """Declare one field of `Config` or `Hyper` with its default, help text and valid range.

    `jax_default` is what `launch/train.py` takes with `--simulator=jax` instead of `default`.
    """
    limits = {"choices": choices, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(
        default=default, metadata={"help": help, **limits, "search": search, "jax_default": jax_default}
    )


def options_of(config: type, hyper: type) -> list[Option]:
    """List the options that a `Config` and a `Hyper` dataclass declare, in order of declaration."""
    return [
        Option(field.name, type(field.default), field.default, traced=traced, **field.metadata)
        for cls, traced in ((config, False), (hyper, True))
        for field in dataclasses.fields(cls)
    ]


def declared(module: str) -> tuple[type, type]:
    """Read (`Config`, `Hyper`) out of an algorithm module without importing it.

    Only the two class statements run, in a namespace that holds this module's names and `dataclass`.

    Raises:
        ValueError: The module cannot be found or does not declare both classes.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no module named {module}")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes: list[ast.stmt] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in ("Config", "Hyper")]
    if len(classes) != 2:
        raise ValueError(f"{module} must declare the dataclasses Config and Hyper")
    constants = {"LR_SCHEDULES": LR_SCHEDULES, "POLICIES": POLICIES, "REPLAY_MEMORIES": REPLAY_MEMORIES}
    namespace = {"dataclass": dataclass, "option": option, "__name__": module, **constants}
    # Our own source file, run as an import would; without this module's postponed annotations.
    exec(compile(ast.Module(classes, []), spec.origin, "exec", dont_inherit=True), namespace)
    return namespace["Config"], namespace["Hyper"]  # type: ignore[return-value]


def validate(option: Option, value: Any) -> Any:
    """Return `value` cast to the option's type.

    Raises:
        ValueError: The value is of the wrong type or outside the option's choices or range.
    """
    cast = _cast(option, value)
    if option.choices is not None and cast not in option.choices:
        raise ValueError(f"{option.flag}={value}: choose one of {', '.join(map(str, option.choices))}")
    for number in cast if option.type is tuple else (cast,):
        if option.minimum is not None and not number >= option.minimum:
            raise ValueError(f"{option.flag}={value}: must be at least {option.minimum:g}")
        if option.maximum is not None and not number <= option.maximum:
            raise ValueError(f"{option.flag}={value}: must be at most {option.maximum:g}")
    return cast


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _cast(option: Option, value: Any) -> Any:
    """Cast a flag's text, or a Python value, to the option's type."""
    try:
        if option.type is bool:
            return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
        if option.type is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(int(part) for part in parts)
        if option.type is int and float(value) != int(float(value)):
            raise ValueError(value)
        if option.type is float and not math.isfinite(float(value)):
            raise ValueError(value)
        return int(float(value)) if option.type is int else option.type(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        kind = {tuple: "comma-separated integers", bool: "true or false", int: "an integer", float: "a finite number"}
        raise ValueError(f"{option.flag}={value}: expected {kind.get(option.type, 'text')}") from None
