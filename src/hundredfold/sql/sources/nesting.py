"""A check of how deep values are nested, made before Arrow's unlimited recursion would crash the
process.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

MAX_LEVELS = 64  # of nested lists, dicts and the like
NESTED_TYPES = (list, tuple, set, frozenset, dict, np.ndarray)


def is_too_deep(values: Iterable[Any]) -> bool:
    """Return whether a value of a column is nested deeper than MAX_LEVELS, or contains itself.

    All values are examined level by level: without nested ones, this costs one pass over their
    types.
    """
    level: Iterable[Any] = (values,)
    for _ in range(MAX_LEVELS + 1):
        level = [*level]
        nested = tuple(
            kind
            for kind in set(map(type, chain.from_iterable(map(_parts, level))))
            if issubclass(kind, NESTED_TYPES)
        )
        if not nested:
            return False
        inner = (part for each in level for part in _parts(each) if type(part) in nested)
        # once each, since one may be contained many times
        level = {id(part): part for part in inner}.values()
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype == object else ()
    return value.values() if isinstance(value, dict) else value
