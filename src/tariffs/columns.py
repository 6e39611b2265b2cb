"""The ground floor: the shape of what a work function is handed, and how units lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.object_]
Rows = dict[str, np.ndarray]


class Columns(Protocol):
    """Anything that answers to a column's name with one value per row."""

    def __getitem__(self, name: str, /) -> NDArray[Any]: ...


class Units(Columns, Protocol):
    """Many units end to end: unit `u` has the rows `offsets[u]:offsets[u + 1]`, sorted by unit."""

    @property
    def offsets(self) -> Ints: ...

    @property
    def keys(self) -> Mapping[str, NDArray[Any]]: ...

    def __len__(self) -> int: ...


def key_offsets(rows: Columns, key: Sequence[str]) -> Ints:
    """Where each unit begins, and the end, in rows sorted by `key`.  Shape (units + 1,)."""
    columns = [rows[name] for name in key]
    count = len(columns[0])
    changed = np.zeros(count, dtype=np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.append(np.flatnonzero(changed), count).astype(np.int64)
