"""Command-line parser: argparse-like declarations and free spelling in front of absl.flags.

The command line is normalised first (dashes or underscores, aliases, short forms, `--noflag`, values in the next word,
lists) into `--name=value` words, which an own absl `FlagValues` then parses and stores.
"""

from __future__ import annotations

import math
import textwrap
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from absl import flags

from agents.options import Option, validate
from launch.runtime.errors import UsageError, nearest

_KINDS = (bool, int, float, str, tuple)
_PLACEHOLDER = {int: "N", float: "X", tuple: "N,N", str: "TEXT"}
_BOOLEAN_WORDS = ("0", "1", "true", "false", "yes", "no")
_WIDTH, _INDENT = 100, 32


class UnknownFlag(UsageError):
    """No flag of this spelling; `.spelling` is the flag as typed, with dashes."""

    def __init__(self, spelling: str, known: Sequence[str]) -> None:
        match = nearest(spelling, known)
        advice = f"did you mean {match}?" if match else "--help lists all flags"
        super().__init__(f"unknown flag {spelling}; {advice}")
        self.spelling = spelling


@dataclass(frozen=True)
class Flag:
    """One flag: a declared option and how it is typed.

    Attributes:
        option: Name, type, default, help and valid values.
        spellings: All forms as typed, with dashes; the first long one is shown in messages.
        group: Heading of `--help` under which it stands.
        many: Whether it takes a list of values.
        convert: Own conversion of a value's text, None for the option's type.
        metavar: What stands for the value in `--help`.
    """

    option: Option
    spellings: tuple[str, ...]
    group: str
    many: bool = False
    convert: Callable[[str], Any] | None = None
    metavar: str | None = None

    @property
    def takes_value(self) -> bool:
        """Whether a value must follow; a boolean flag stands alone."""
        return self.option.type is not bool

    def read(self, value: Any) -> Any:
        """Convert and check one value, given as text or as the value itself.

        Raises:
            UsageError: It is empty, of the wrong type, or not a valid choice.
        """
        option = self.option
        if value == "" != option.default:
            raise UsageError(f"{option.flag} has an empty value")
        if self.convert is not None:
            return self._converted(value)
        try:
            result = validate(option, value)
        except ValueError as error:
            match = nearest(str(value), map(str, option.choices)) if option.type is str and option.choices else None
            raise UsageError(f"{error}" + (f"; did you mean {match}?" if match else "")) from None
        if isinstance(result, float) and not math.isfinite(result):
            raise UsageError(f"{option.flag}={value}: must be a finite number")
        return result

    def _converted(self, value: Any) -> Any:
        """Apply the flag's own conversion, as argparse does: to text only."""
        option, convert = self.option, self.convert
        try:
            result = convert(value) if convert is not None and isinstance(value, str) else value
        except (TypeError, ValueError) as error:
            raise UsageError(f"{option.flag}={value}: {error}") from None
        if option.choices is not None and result not in option.choices:
            raise UsageError(f"{option.flag}={value}: choose one of {', '.join(map(str, option.choices))}")
        return result


class _ValueParser(flags.ArgumentParser):
    """absl's view of one flag's values."""

    def __init__(self, flag: Flag) -> None:
        self._flag = flag

    def parse(self, argument: Any) -> Any:
        """Convert one value."""
        return self._flag.read(argument)

    def flag_type(self) -> str:
        """Name of the type, for absl's own listings."""
        return self._flag.option.type.__name__


class _OnceFlag(flags.Flag):
    """A flag that may be repeated only with the same value."""

    def parse(self, argument: Any) -> None:
        """Store one value."""
        given, before = self.present, self.value
        super().parse(argument)
        if given and self.value != before:
            raise UsageError(f"--{self.name.replace('_', '-')} is given twice, as {before} and as {self.value}")


class FlagParser:
    """Declares flags like `argparse.ArgumentParser.add_argument` and parses them into a `Namespace`.

    Attributes:
        given: Names of the flags that the last parsed command line held.
    """

    def __init__(self, usage: str, description: str) -> None:
        self._usage, self._description = usage, description
        self._flags: dict[str, Flag] = {}
        self._spellings: dict[str, Flag] = {}
        self._values = flags.FlagValues()
        self._group = "Options"
        self.given: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether a flag of this name (with underscores) is declared."""
        return name in self._flags

    def __getitem__(self, name: str) -> Flag:
        """Return the flag of this name (with underscores)."""
        return self._flags[name]

    @property
    def names(self) -> list[str]:
        """Names of all flags, with underscores, in order of declaration."""
        return list(self._flags)

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """Collect the flags declared inside under one heading of `--help`."""
        outer, self._group = self._group, title
        yield
        self._group = outer

    def add_argument(
        self,
        *spellings: str,
        type: Callable[[str], Any] = str,
        default: Any = None,
        choices: Sequence[Any] | None = None,
        action: str = "store",
        help: str = "",
        nargs: str | None = None,
        metavar: str | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> None:
        """Declare a flag, as with argparse; `minimum` and `maximum` bound a number.

        Args:
            spellings: "--long-form", "-short" and aliases; the first long one names the flag.
            type: bool, int, float, str, tuple (of ints) or a function of the text.
            default: Value where the flag is not given.
            choices: Valid values.
            action: "store", or "store_true" for a boolean flag.
            help: One line.
            nargs: "+" or "*" for a list of values.
            metavar: What stands for the value in `--help`.
            minimum: Smallest valid number.
            maximum: Largest valid number.

        Raises:
            ValueError: The declaration is not supported or the flag exists already.
        """
        long = [spelling for spelling in spellings if spelling.startswith("--")]
        if not long:
            raise ValueError(f"{spellings[0]}: a flag needs a long form, with two dashes")
        if action not in ("store", "store_true") or nargs not in (None, "+", "*"):
            raise ValueError(f"{spellings[0]}: action={action!r} with nargs={nargs!r} is not supported")
        if action == "store_true":
            type, default = bool, bool(default)
        kind, convert = (type, None) if type in _KINDS else (str, type)
        if nargs is not None and default is None:
            default = []
        option = Option(
            name=long[0][2:].replace("-", "_"),
            type=kind,  # type: ignore[arg-type]  # one of _KINDS, all types
            default=default,
            help=help,
            choices=None if choices is None else tuple(choices),
            minimum=minimum,
            maximum=maximum,
            search=None,
            traced=False,
        )
        self._add(Flag(option, spellings, self._group, nargs is not None, convert, metavar))

    def add_options(self, options: Sequence[Option]) -> None:
        """Declare one flag per option of an algorithm."""
        for option in options:
            self._add(Flag(option, (option.flag,), self._group))

    def _add(self, flag: Flag) -> None:
        """Store a flag under its spellings and define it with absl."""
        name = flag.option.name
        taken = [spelling for spelling in flag.spellings if _dashed(spelling) in self._spellings]
        if taken or name in self._flags:
            raise ValueError(f"flag {taken[0] if taken else flag.option.flag} is declared twice")
        self._flags[name] = flag
        self._spellings.update({_dashed(spelling): flag for spelling in flag.spellings})
        cls = flags.MultiFlag if flag.many else _OnceFlag
        help_text = flag.option.help
        flags.DEFINE_flag(cls(_ValueParser(flag), None, name, flag.option.default, help_text), self._values, __name__)

    def parse(self, argv: Sequence[str]) -> Namespace:
        """Parse a command line (without the program name) strictly.

        Raises:
            UsageError: A word is not understood, or a value is not valid.
        """
        words = self._normalised(argv)
        self._values.unparse_flags()
        try:
            self._values(["", *words])
        except flags.IllegalFlagValueError as error:
            raise UsageError(str(error.__context__)) from None
        self.given = {word[2:].partition("=")[0] for word in words}
        return Namespace(**self._values.flag_values_dict())

    def _normalised(self, argv: Sequence[str]) -> list[str]:
        """Rewrite a command line as `--name=value` words, one per value."""
        words, waiting = [], deque(argv)
        while waiting:
            words += self.take(waiting)
        return words

    def take(self, waiting: deque[str]) -> list[str]:
        """Remove the first flag of a command line and its values; return them as `--name=value` words, one per value.

        Raises:
            UnknownFlag: There is no such flag; the command line is left as it was.
            UsageError: The first word is no flag, or its value is missing or not wanted.
        """
        word = waiting[0]
        spelling, equals, text = word.partition("=")
        if not _looks_like_flag(word):
            known = "--" + word.lstrip("-")
            raise UsageError(
                f"unexpected argument {word!r}" + (f"; did you mean {known}?" if known in self._spellings else "")
            )
        flag, negated = self._find(spelling)
        if negated and equals:
            raise UsageError(f"{spelling} takes no value")
        waiting.popleft()
        values = [text] if equals else []
        if not flag.takes_value:
            if not equals and not negated and waiting and waiting[0].lower() in _BOOLEAN_WORDS:
                values = [waiting.popleft()]
            values = values or ["false" if negated else "true"]
        else:
            while waiting and not _looks_like_flag(waiting[0]) and (flag.many or not values):
                values.append(waiting.popleft())
        if not values:
            raise UsageError(f"{spelling} needs a value")
        return [f"--{flag.option.name}={value}" for value in values]

    def _find(self, spelling: str) -> tuple[Flag, bool]:
        """Return the flag that a spelling stands for, and whether it negates it (`--noflag`)."""
        dashed = _dashed(spelling)
        if dashed in self._spellings:
            return self._spellings[dashed], False
        if dashed.startswith("--no"):
            flag = self._spellings.get("--" + dashed[4:].removeprefix("-"))
            if flag is not None and not flag.takes_value:
                return flag, True
        raise UnknownFlag(dashed, list(self._spellings))

    def format_help(self) -> str:
        """Return the text of `--help`: the flags by group, at most 100 columns wide."""
        lines = [f"usage: {self._usage}", "", *textwrap.wrap(self._description, _WIDTH)]
        for group in dict.fromkeys(flag.group for flag in self._flags.values()):
            lines += ["", group]
            for flag in self._flags.values():
                if flag.group == group:
                    lines += _help_lines(flag)
        return "\n".join(lines)


def add_wandb_flags(parser: FlagParser) -> None:
    """Declare where wandb records."""
    add = parser.add_argument
    add("--wandb-project", default="srl-jax", metavar="NAME", help="wandb project.")
    add(
        "--wandb-mode",
        default="auto",
        choices=("auto", "online", "offline", "disabled"),
        metavar="MODE",
        help="auto is online where a key is configured, else offline.",
    )


def peek(argv: Sequence[str], spelling: str) -> str | None:
    """Return the value of a flag in a command line that is not parsed yet, the last one where it is repeated."""
    value = None
    for word, following in zip(argv, [*argv[1:], ""]):
        head, equals, text = word.partition("=")
        if _looks_like_flag(word) and _dashed(head) == spelling:
            value = text if equals else "" if _looks_like_flag(following) else following
    return value


def _dashed(spelling: str) -> str:
    """Spell a flag with dashes."""
    return spelling.replace("_", "-")


def _looks_like_flag(word: str) -> bool:
    """Whether a word is a flag: it starts with a dash and is no negative number."""
    if not word.startswith("-") or not word.strip("-"):
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _help_lines(flag: Flag) -> list[str]:
    """Return the lines of `--help` for one flag: spellings on the left, description on the right."""
    option = flag.option
    spellings = ", ".join(sorted(flag.spellings, key=lambda spelling: spelling.startswith("--")))
    if flag.takes_value:
        spellings += " " + (flag.metavar or _PLACEHOLDER[option.type]) + (" ..." if flag.many else "")
    elif option.default:
        spellings = spellings.replace("--", "--[no]")
    description = textwrap.wrap(_describe(option), _WIDTH - _INDENT) or [""]
    lines = [f"  {spellings}".ljust(_INDENT)]
    if len(lines[0]) == _INDENT:
        lines[0] += description.pop(0)
    return lines + [" " * _INDENT + line for line in description]


def _describe(option: Option) -> str:
    """Return an option's help with its choices, range and default."""
    facts = []
    if option.choices is not None:
        facts.append("one of " + ", ".join(map(str, option.choices)))
    if option.minimum is not None and option.maximum is not None:
        facts.append(f"{_as_typed(option.minimum)} to {_as_typed(option.maximum)}")
    elif option.minimum is not None:
        facts.append(f"at least {_as_typed(option.minimum)}")
    elif option.maximum is not None:
        facts.append(f"at most {_as_typed(option.maximum)}")
    if option.default not in (None, [], False):
        facts.append("default " + _as_typed(option.default))
    if option.jax_default is not None:
        facts.append(f"{_as_typed(option.jax_default)} with --simulator=jax")
    return f"{option.help.rstrip('.')} ({'; '.join(facts)})" if facts else option.help


def _as_typed(value: Any) -> str:
    """Return a value as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
