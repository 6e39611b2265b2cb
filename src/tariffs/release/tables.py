"""A price table as rows and as bytes: its columns, and writing with equal bytes for equal rows."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tariffs.contracts import PRICE_COLUMNS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

KEY = "unit_key"
NAME = "price_table"  # of a release's files
ORDER = (("kind", "ascending"), (KEY, "ascending"))  # of the published table

SUPPORT_COLUMNS = ("support_lo", "support_hi")  # the range of prices paid, where a table has it
MONEY_DIGITS = 6  # decimals of prices; beyond them are errors of binary fractions

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def read_parquet(data: pa.Buffer | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a Parquet file, in its order, without the file's metadata."""
    names = list(columns) if columns else None
    # by this thread alone: another one of Arrow's may release `data` when the process is ending
    rows = pq.ParquetFile(pa.BufferReader(data)).read(names, use_threads=False)
    return (rows.select(list(columns)) if columns else rows).replace_schema_metadata(None)


def to_parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def to_csv(table: pa.Table) -> bytes:
    """Return CSV as the job publishes it: a header, times in UTC, nothing for null."""
    with tempfile.TemporaryDirectory() as folder, _duckdb().cursor() as duck:
        path = Path(folder) / "table.csv"
        duck.register("rows_out", table)
        duck.sql("SELECT * FROM rows_out").write_csv(str(path), header=True)
        return path.read_bytes()


@cache
def _duckdb() -> DuckDBPyConnection:
    """Return the connection of this process; its start takes as long as many small tables."""
    import duckdb  # expensive, and only needed for writing

    return duckdb.connect(config={"threads": 1})


def in_published_order(table: pa.Table) -> pa.Table:
    """Return the rows in the order of a published table."""
    return table.sort_by([(name, how) for name, how in ORDER if name in table.column_names])


def missing_columns(table: pa.Table) -> list[str]:
    """Return the columns of the contract that a table lacks."""
    found = set(table.column_names)
    return [name for name in PRICE_COLUMNS if name not in found]


def single_value(table: pa.Table, name: str) -> tuple[bool, Any]:
    """Return whether a column has one value in all rows (null is one), and that value."""
    values = pc.unique(table[name].combine_chunks())
    return (len(values) == 1, values[0] if len(values) == 1 else None)


def floats(table: pa.Table, name: str) -> Floats:
    """Return a column of numbers, NaN for null; shape (rows,)."""
    return np.asarray(
        table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64
    )


def bools(table: pa.Table, name: str) -> Bools:
    """Return a column of truth values, false for null; shape (rows,)."""
    return np.asarray(
        pc.fill_null(table[name].cast(pa.bool_()), False).to_numpy(zero_copy_only=False),
        dtype=np.bool_,
    )


def is_voice(table: pa.Table) -> Bools:
    return np.asarray(
        pc.fill_null(pc.equal(table["kind"], "voice"), False).to_numpy(zero_copy_only=False),
        dtype=np.bool_,
    )


def keys_of(table: pa.Table, where: Bools) -> list[str]:
    """Return the keys of those rows, in the table's order."""
    return [str(key) for key in table[KEY].filter(pa.array(where)).to_pylist()]


def match_rows(table: pa.Table, other: pa.Table) -> npt.NDArray[np.int64]:
    """Return for each row the row of `other` with the same key, -1 for none; shape (rows,)."""
    found = pc.index_in(table[KEY].combine_chunks(), value_set=other[KEY].combine_chunks())
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def duplicate_keys(table: pa.Table) -> list[str]:
    """Return the keys of more than one row, in order."""
    counts = pc.value_counts(table[KEY].combine_chunks())
    return sorted(
        str(entry["values"])
        for entry in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    )


def tariff(table: pa.Table) -> Floats:
    """Return the voice price without discount, price / (1 - discount class); NaN for bundles.

    Money, shape (rows,).
    """
    share = floats(table, "discount_class") / 100.0
    found = floats(table, "price") / np.where(share < 1.0, 1.0 - share, np.nan)
    return np.where(is_voice(table), np.round(found, MONEY_DIGITS), np.nan)
