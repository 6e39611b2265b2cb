"""Types of the rows that a work function receives, where each unit begins in them, and the columns
with the effects of a price, which several results and the price table have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.object_]
Rows = dict[str, np.ndarray]


class Columns(Protocol):
    """A mapping from a column's name to one value per row."""

    def __getitem__(self, name: str, /) -> NDArray[Any]: ...


class Units(Columns, Protocol):
    """Many units, one after another: unit `u` has the rows `offsets[u]:offsets[u + 1]`."""

    @property
    def offsets(self) -> Ints: ...

    @property
    def keys(self) -> Mapping[str, NDArray[Any]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ExpectedChanges:
    """The expected changes by a price, against staying at the current one.  Per week.

    The contract of the price table has these fields from here, in this order.

    ..._lo, ..._hi   at the ends of the elasticity's 90 % interval
    """

    expected_volume_delta: float
    expected_revenue_delta: float
    expected_margin_delta: float
    expected_volume_delta_lo: float
    expected_volume_delta_hi: float
    expected_revenue_delta_lo: float
    expected_revenue_delta_hi: float
    expected_margin_delta_lo: float
    expected_margin_delta_hi: float


@dataclass(frozen=True, slots=True)
class PriceEffects(ExpectedChanges):
    """The effects of a price in the results of the models.

    p_gain   probability that the margin rises; null in the price table where nothing moves
    """

    p_gain: float


EFFECT_COLUMNS = tuple(field.name for field in fields(PriceEffects))


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """Return the distinct labels, sorted, and the position of each value among them.

    The result is that of `np.unique`, by hashing: sorting objects takes ten times as long.
    """
    given = values.tolist()
    labels = sorted(set(given))
    at = dict(zip(labels, range(len(labels)), strict=True))
    codes = np.fromiter(map(at.__getitem__, given), dtype=np.int64, count=len(given))
    return np.array(labels, dtype=values.dtype), codes


def key_offsets(rows: Columns, key: Sequence[str]) -> Ints:
    """Return the first row of each unit, and the end, in sorted rows; shape (units + 1,)."""
    columns = [rows[name] for name in key]
    count = len(columns[0])
    changed = np.zeros(count, dtype=np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.append(np.flatnonzero(changed), count).astype(np.int64)
