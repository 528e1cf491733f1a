"""What a search varies: the ranges that an algorithm declares, as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from launch.runtime.algorithm_flags import algorithm_options
from launch.runtime.errors import UsageError, hint

_DECADES = 100  # a range of at least this factor is searched by orders of magnitude
_OCTAVES = 16  # an integer range of at least this factor is searched in powers of two


def searchable(algo: str) -> dict[str, tuple[type, Any, bool]]:
    """NAME: (type, (low, high) or [values], whether it may vary within one compiled batch).

    Raises:
        UsageError: The algorithm has nothing to search.
    """
    found = {o.name: (o.type, o.search, o.traced) for o in algorithm_options(algo) if o.search is not None}
    if not found:
        raise UsageError(f"{algo} has no hyperparameters to search: none of its options has a range")
    return found


def chosen(algo: str, names: Collection[str], fixed: Collection[str], together: bool) -> dict[str, tuple]:
    """What is searched, of `searchable`.

    Args:
        algo: Algorithm.
        names: Names that the user chose; none: all that may vary within a compiled batch where runs train together,
            else all.
        fixed: Names that the user has given a value.
        together: Whether runs train together.

    Raises:
        UsageError: A name that cannot be searched, one that is fixed as well, or nothing is left.
    """
    found = searchable(algo)
    for name in names:
        if name not in found:
            raise UsageError(f"--search {name}: {algo} declares no range for it{hint(name, found)}")
        if name in fixed:
            raise UsageError(f"{name} is both searched and given a value")
    wanted = names or [name for name, (_, _, traced) in found.items() if traced or not together]
    result = {name: found[name] for name in wanted if name not in fixed}
    if not result:
        raise UsageError(f"nothing is left to search: {', '.join(wanted)} are given")
    return result


def distributions(space: dict[str, tuple], defaults: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Optuna's distribution of each name of a space.

    Args:
        space: See `chosen`.
        defaults: Values without a search, by name; each is among the choices where a range is made into choices.
    """
    return {name: _distribution(kind, search, defaults.get(name)) for name, (kind, search, _) in space.items()}


def _distribution(kind: type, search: Any, default: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(search, list):
        return CategoricalDistribution(search)
    low, high = search
    if kind is int:
        if low > 0 and high / low >= _OCTAVES:
            powers = {2**k for k in range(64) if low <= 2**k <= high}
            # A default that is no power of two would otherwise never be tried.
            return CategoricalDistribution(sorted(powers if default is None else {*powers, default}))
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log=low > 0 and high / low >= _DECADES)
