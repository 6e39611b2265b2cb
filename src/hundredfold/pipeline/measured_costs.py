"""The cost of each unit of a model: the seconds that it took in the last run, else by its rows.

Batches that are packed by seconds end together though rows do not tell which units are slow, and
the slowest unit begins first. Which units form a batch changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.checksums import get_listed
from ..data.layout import Layout
from ..data.numpy_columns import from_numpy, to_numpy
from ..data.parquet_in_memory import read_parquet
from ..errors import DamagedFile
from ..ports.interfaces import Ledger, Record, Store
from ..sql.queries import UNIT_COST

# of a unit in the last run, on average, and of all: below them, chance decides the differences, and
# workers that are done share the rest
MIN_UNIT_S, MIN_WORK_S = 1e-3, 0.25
ENGINE_S_PER_UNIT = 6e-6
MAX_TRIED_RUNS = 3  # whose files may have been deleted

Floats = NDArray[np.float64]
CostFunction = Callable[[pa.Table, NDArray[np.int64]], "UnitCosts | None"]


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """The expected seconds of each unit. run: that measured them. known: how many it measured."""

    seconds: Floats
    run: str
    known: int

    def in_rows(self, rows: NDArray[np.int64]) -> Floats:
        """Return the costs scaled to the sum that they would have by rows."""
        whole = float(rows.sum()) + UNIT_COST * len(rows)
        return self.seconds * (whole / float(self.seconds.sum()))


def costs_by_rows(_keys: pa.Table, _rows: NDArray[np.int64]) -> UnitCosts | None:
    """Return None: the costs of the units are their rows."""
    return None


def last_costs(
    model: str, runs: Iterable[str], keys: pa.Table, rows: NDArray[np.int64], store: Store
) -> UnitCosts | None:
    """Return the costs of units, by the first of some runs that measured them.

    keys, rows: of each unit, in order. None where no run did, also where the key has other columns.
    """
    for run in islice(runs, MAX_TRIED_RUNS):
        try:
            return _costs_of(run, model, keys, rows, store)
        except (KeyError, DamagedFile, OSError, pa.ArrowException):
            continue  # its files were deleted or changed: a run does not depend on another one
    return None


def earlier_runs(model: str, record: Record, ledger: Ledger) -> Iterator[str]:
    """Yield the earlier runs of a job that measured a model, newest first.

    None where the units of the newest were too cheap for their times to differ by themselves.
    """
    for other in ledger.runs(record.job):
        counts = other.models.get(model, {})
        if "ok" not in counts or (other.created, other.id) >= (record.created, record.id):
            continue
        if counts["seconds"] < max(MIN_UNIT_S * counts["units"], MIN_WORK_S):
            return
        yield other.id


def _costs_of(
    run: str, model: str, keys: pa.Table, rows: NDArray[np.int64], store: Store
) -> UnitCosts | None:
    layout = Layout(run)
    data = get_listed(store, layout.accounts(model), layout.collected(model))
    names = keys.column_names
    columns = [*names, "status", "seconds"]
    before = read_parquet(data, columns).select(columns)
    if not names or [before.schema.field(n).type for n in names] != [f.type for f in keys.schema]:
        return None
    ok = np.array([status == "ok" for status in before.column("status").to_pylist()])
    measured = to_numpy(before.column("seconds"), False)[ok]
    position = positions(before.select(names).filter(pa.array(ok)), keys)
    known = position >= 0
    if not known.any():
        return None
    by_rows = (rows + UNIT_COST).astype(np.float64)
    seconds = np.where(known, measured[np.maximum(position, 0)], 0.0) + ENGINE_S_PER_UNIT
    rate = float(seconds[known].sum()) / float(by_rows[known].sum())
    return UnitCosts(np.where(known, seconds, rate * by_rows), run, int(known.sum()))


def positions(before: pa.Table, now: pa.Table) -> NDArray[np.int64]:
    """Return where each row of `now` is in `before`; -1 where it is not. Rows are distinct in both.

    Both have the same columns. A null is a value like any other.
    """
    count = before.num_rows
    if before.equals(now):
        return np.arange(count)
    if not count:
        return np.full(now.num_rows, -1)
    codes = _codes(pa.concat_tables([before, now]))
    order = np.argsort(codes[:count], kind="stable")
    ascending = codes[:count][order]
    at = np.minimum(np.searchsorted(ascending, codes[count:]), count - 1)
    return np.where(ascending[at] == codes[count:], order[at], -1)


def _codes(table: pa.Table) -> NDArray[np.int64]:
    """Return a number for each row, equal for equal rows."""
    codes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        own, count = _encode(column)
        codes, _ = _encode(pa.chunked_array([from_numpy(codes * count + own)]))
    return codes


def _encode(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], int]:
    """Return the number of each value among the distinct ones, and how many there are."""
    whole = pa.concat_arrays(column.chunks)
    encoded = whole.dictionary_encode(null_encoding="encode")
    return to_numpy(encoded.indices, False).astype(np.int64), len(encoded.dictionary)
