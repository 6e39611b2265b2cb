"""The members of a collection that a function returned, in an order that is the same in every
process.

A set has the order of its members' hashes, and the hashes of texts differ from process to process
(PYTHONHASHSEED).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import ItemsView, KeysView, Set, ValuesView
from typing import Any

from ..errors import ResultError

# their members keep the order of insertion
ORDERED_TYPES = (deque, range, KeysView, ValuesView, ItemsView)
UNORDERED_TYPES = (set, frozenset, Set)
COLLECTION_TYPES = (*ORDERED_TYPES, *UNORDERED_TYPES)


def ordered_members(values: Any) -> list[Any]:
    """Return the members of one of COLLECTION_TYPES: those of a set sorted, with None and NaN last.

    Raises:
        ResultError: the members of a set cannot be sorted.
    """
    if isinstance(values, ORDERED_TYPES):
        return list(values)
    try:
        return sorted(values, key=_sort_key)
    except TypeError as error:
        kinds = " and ".join(sorted({type(value).__name__ for value in values}))
        raise ResultError(
            f"returned a set of {kinds}, which cannot be sorted; the order of a set changes from"
            " run to run:"
            " wanted a list, such as sorted(..., key=str)"
        ) from error


def _sort_key(value: Any) -> tuple[Any, ...]:
    """Return the key that sorts members by value; values of different types do not compare."""
    if value is None:
        return (2,)
    if isinstance(value, enum.Enum):
        return _sort_key(value.value)
    if isinstance(value, tuple):
        return (0, tuple(map(_sort_key, value)))
    if isinstance(value, frozenset):  # `<` means "is a subset of"
        return (0, tuple(sorted(map(_sort_key, value))))
    return (1,) if value != value else (0, value)
