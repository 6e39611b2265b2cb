"""How deep values lie in one another, found before Arrow recurses into them: its recursion has no bound, and ends the process."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

MOST_LEVELS = 64  # of lists, dicts and the like in one another
NESTED = (list, tuple, set, frozenset, dict, np.ndarray)


def is_too_deep(values: Iterable[Any]) -> bool:
    """Return whether a value of a column is nested deeper than MOST_LEVELS, as one that contains itself is.

    All values are looked at level by level: where none is nested, this costs one pass over their types.
    """
    level: Iterable[Any] = (values,)
    for _ in range(MOST_LEVELS + 1):
        level = [*level]
        nested = tuple(
            kind
            for kind in set(map(type, chain.from_iterable(map(_parts, level))))
            if issubclass(kind, NESTED)
        )
        if not nested:
            return False
        inner = (part for each in level for part in _parts(each) if type(part) in nested)
        level = {
            id(part): part for part in inner
        }.values()  # each once: one may be contained many times
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype == object else ()
    return value.values() if isinstance(value, dict) else value
