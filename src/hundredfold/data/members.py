"""The members of a collection that a function returned, in an order that is the same in every process.

A set has the order of its members' hashes, and the hashes of texts differ from process to process (PYTHONHASHSEED).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import ItemsView, KeysView, Set, ValuesView
from typing import Any

from ..errors import ResultError

IN_ORDER = (deque, range, KeysView, ValuesView, ItemsView)  # as their members were put in
UNORDERED = (set, frozenset, Set)
COLLECTIONS = (*IN_ORDER, *UNORDERED)


def members_of(values: Any) -> list[Any]:
    """Return the members of one of COLLECTIONS: those of a set sorted, with None and NaN last.

    Raises:
        ResultError: the members of a set cannot be sorted.
    """
    if isinstance(values, IN_ORDER):
        return list(values)
    try:
        return sorted(values, key=_rank)
    except TypeError as error:
        kinds = " and ".join(sorted({type(value).__name__ for value in values}))
        raise ResultError(
            f"returned a set of {kinds}, which cannot be sorted; the order of a set changes from run to run:"
            " wanted a list, such as sorted(..., key=str)"
        ) from error


def _rank(value: Any) -> tuple[Any, ...]:
    """Return what sorts members by their values; those of different types do not compare."""
    if value is None:
        return (2,)
    if isinstance(value, enum.Enum):
        return _rank(value.value)
    if isinstance(value, tuple):
        return (0, tuple(map(_rank, value)))
    if isinstance(value, frozenset):  # `<` asks whether one holds the other
        return (0, tuple(sorted(map(_rank, value))))
    return (1,) if value != value else (0, value)
