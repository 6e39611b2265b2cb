"""A profile of each column of the results: nulls, distinct values, range, quantiles, shape.

DuckDB counts, and NumPy describes the numbers: for the many columns of a small table it is several
times cheaper than an aggregate of each. Of a large table every n-th row is described.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types as t

from ..contract import quote
from ..data.numpy_columns import to_numpy
from ..figures import counted
from .charts import histogram
from .html import Content, Markup, element
from .run_files import RunFiles
from .tables import cut, details, percent, table, value_text

MAX_PROFILED_ROWS = 2_000_000  # of a table whose numbers are described
MAX_VALUES = 20_000_000  # in memory at a time
MAX_COLUMNS = 80  # of a table
BINS = 20
TOP = 3  # most frequent values of a column of texts
QUANTILES = (0.05, 0.5, 0.95)
HEADS = (
    *("column", "type", "nulls", "distinct", "least", "5 %", "median", "95 %", "greatest", "mean"),
    "shape or most frequent values",
)


def columns_section(files: RunFiles) -> Markup | None:
    """Return the profile of the published tables, and that of the results of each model."""
    parts: list[Markup] = []
    for name, select, rows in _tables(files):
        title = f"{name}: {counted(rows, 'row')}"
        parts.append(details(title, profile(files, name, select, rows), open_=not parts))
    return Markup("".join(parts)) if parts else None


def _tables(files: RunFiles) -> Iterator[tuple[str, str, int]]:
    """Yield the title, the SQL table and the number of rows of each table with results."""
    release = files.run.release
    if release is not None:
        for name, rows in release.rows.items():
            if rows:
                yield f"published table {name}", f"({files.published(release, name)})", rows
    for model in reversed(files.collected):
        if rows := files.summary["models"][model].get("rows_out", 0):
            yield f"results of {model}", files.results(model), rows


def profile(files: RunFiles, name: str, select: str, rows: int) -> Markup:
    """Return the profile of the columns of a table, as a table."""
    schema = files.warehouse.query(f"SELECT * FROM {select} LIMIT 0").schema
    fields = [schema.field(i) for i in range(len(schema))][:MAX_COLUMNS]
    (found,) = files.query(f"SELECT {', '.join(_facts(fields))} FROM {select}")
    step = -(-rows // MAX_PROFILED_ROWS)
    numbers = dict(_numbers(files, select, fields, step))
    lines = []
    for i, field in enumerate(fields):
        nulls, seen = found[f"nulls{i}"], numbers.get(i)
        distinct = found.get(f"distinct{i}")
        if distinct is not None:  # the estimate can exceed what is possible
            distinct = min(distinct, rows - nulls)
        place: Sequence[object] = [
            found.get(f"low{i}"),
            None,
            None,
            None,
            found.get(f"high{i}"),
            None,
        ]
        lines.append(
            (
                field.name,
                str(field.type),
                percent(nulls / rows) if nulls and rows else None,
                distinct,
                *(seen.cells if seen is not None else place),
                seen.shape if seen is not None else _values(found.get(f"top{i}")),
            )
        )
    return table(
        f"Columns of the {name}", HEADS, lines, _note(len(schema) - len(fields), rows, step)
    )


def _note(left: int, rows: int, step: int) -> str:
    notes = [f"{left:,} more columns are left out."] if left else []
    notes.append("Numbers of distinct values are estimates.")
    if step > 1:
        notes.append(
            f"Numbers are described by every row in {step:,}: {rows // step:,} of {rows:,} rows."
        )
    return " ".join(notes)


def _facts(fields: Sequence[pa.Field]) -> Iterator[str]:
    """Yield the SQL of the facts about each column, in one pass over the table."""
    for i, field in enumerate(fields):
        column, kind = quote(field.name), field.type
        yield f"count(*) - count({column}) AS nulls{i}"
        if not t.is_nested(kind):
            yield f"approx_count_distinct({column}) AS distinct{i}"
        if t.is_string(kind) or t.is_large_string(kind) or t.is_boolean(kind):
            yield f"approx_top_k({column}::VARCHAR, {TOP}) AS top{i}"
        if t.is_date(kind) or t.is_timestamp(kind) or t.is_time(kind):
            yield f"min({column}) AS low{i}, max({column}) AS high{i}"


@dataclass(frozen=True, slots=True)
class Numbers:
    """The description of a column of numbers."""

    cells: Sequence[object]  # least, quantiles, greatest, mean
    shape: Markup | None


def _numbers(
    files: RunFiles, select: str, fields: Sequence[pa.Field], step: int
) -> Iterator[tuple[int, Numbers]]:
    """Yield the description of each column of numbers, from every row or every `step`-th one.

    A group of columns is read at a time, to bound the memory.
    """
    wanted = [i for i, field in enumerate(fields) if is_number(field.type)]
    group = max(MAX_VALUES // MAX_PROFILED_ROWS, 1) if step > 1 else 0
    source = select
    if step > 1:
        source = (
            f"(SELECT * FROM (SELECT *, row_number() OVER () AS __n FROM {select}) "
            f"WHERE __n % {step} = 0)"
        )
    group = group or max(len(wanted), 1)
    for first in range(0, len(wanted), group):
        part = wanted[first : first + group]
        columns = ", ".join(f"{quote(fields[i].name)}::DOUBLE AS v{i}" for i in part)
        rows = files.warehouse.query(f"SELECT {columns} FROM {source}")
        for i in part:
            yield i, describe(to_numpy(rows.column(f"v{i}"), nullable=True))


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of a type have quantiles and a mean."""
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind))


def describe(values: NDArray[np.float64]) -> Numbers:
    """Return the description of numbers. NaN (or null) and infinities are left out."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Numbers([None] * (len(QUANTILES) + 3), None)
    low, high = float(finite.min()), float(finite.max())
    places = [int(q * (len(finite) - 1)) for q in QUANTILES]
    ranked = np.partition(finite, places)
    cells = [low, *(float(ranked[place]) for place in places), high, float(finite.mean())]
    return Numbers(cells, _shape(finite, low, high))


def _shape(values: NDArray[np.float64], low: float, high: float) -> Markup | None:
    width = (high - low) / BINS
    if not 0 < width < np.inf:
        return None
    bins = np.minimum(((values - low) / width).astype(np.int64), BINS - 1)
    return histogram(np.bincount(bins, minlength=BINS).tolist())


def _values(values: Sequence[object] | None) -> Markup | None:
    if not values:
        return None
    shown: list[Content] = [[element("code", cut(value_text(v), 40)), " "] for v in values]
    return element("span", shown)
