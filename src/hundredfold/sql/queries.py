"""The engine's own SQL, and the packing of units into batches. Nothing here runs a query."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import literal, quote
from ..data.messages import Batch
from ..errors import QueryError
from ..job import Job, Model

COST_CHUNK_UNITS = 2**18  # units whose costs are summed at a time
UNIT_COST = 20.0  # the cost of a unit beside its rows, in rows: the call, its status


def is_file(query: str) -> bool:
    """Return whether a declared query is the name of a file."""
    return query.rstrip().endswith(".sql") and "\n" not in query


class FileText(str):
    """The text of a query that was read from a file."""

    file = ""

    @classmethod
    def read(cls, query: str, folder: Path | None) -> str:
        """Return the text of a declared query, which `load_query` returns without reading the file
        again.
        """
        # a line break distinguishes a text from a file name
        text = cls(load_query(query, folder).rstrip("\n") + "\n")
        text.file = query
        return text


def load_query(query: str, folder: Path | None) -> str:
    """Return the SQL of a declared query: of a .sql file in the job's folder, or the text
    itself.
    """
    if is_file(query):
        path = (folder or Path()) / query
        try:
            query = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise QueryError(
                f"the query {path} cannot be read: {error.strerror}",
                hint="paths of queries are relative to the job's file",
            ) from error
    return _without_semicolon(query)


def _without_semicolon(query: str) -> str:
    """Return a query without the semicolon at its end, and with a line break after a comment."""
    bare = re.sub(r";\s*(--[^\n]*\s*|/\*((?!\*/).)*\*/\s*|;\s*)*$", "", query.strip(), flags=re.S)
    return bare + "\n" if "--" in bare.rsplit("\n", 1)[-1] else bare


def plain_columns(select: str, schema: pa.Schema) -> str:
    """Return a query with ENUM values as texts: a batch file has no dictionaries."""
    texts = [
        f"CAST({quote(f.name)} AS VARCHAR) AS {quote(f.name)}"
        for f in schema
        if pa.types.is_dictionary(f.type)
    ]
    return f"SELECT * REPLACE ({', '.join(texts)}) FROM ({select}) AS q" if texts else select


def with_micros(select: str, schema: pa.Schema) -> tuple[str, pa.Schema]:
    """Return the query with intervals as whole microseconds, and its columns.

    An interval with months has no length, and makes the query fail.
    """
    spans = {f.name: quote(f.name) for f in schema if pa.types.is_interval(f.type)}
    if not spans:
        return select, schema
    message = (
        "an interval of months has no length in microseconds: write CAST(... AS VARCHAR), or the "
        "difference of two times"
    )
    each = ", ".join(
        (
            f"CASE WHEN extract(year FROM {c}) = 0 AND extract(month FROM {c}) = 0 THEN "
            f"epoch_us({c}) WHEN {c} IS NOT NULL THEN CAST(error({literal(f'{name}: {message}')}) "
            f"AS BIGINT) END AS {c}"
        )
        for name, c in spans.items()
    )
    fields = [f.with_type(pa.int64()) if f.name in spans else f for f in schema]
    return f"SELECT * REPLACE ({each}) FROM ({select}) AS q", pa.schema(fields)


def query_of(model: Model, job: Job) -> str:
    """Return a model's SQL; by default, all rows of the job's only source."""
    return (
        load_query(model.query, job.folder)
        if model.query
        else f"SELECT * FROM {quote(job.sources[0].name)}"
    )


def check_queries(job: Job, tables_of: Callable[[str], set[str]]) -> None:
    """Check every query of a job before any data is read.

    Raises: QueryError for an error in the SQL, or for an unknown table.
    """
    known = [*(source.name for source in job.sources), "run"]
    for model in job.models:
        _check_query(f"model {model.name}", query_of(model, job), known, tables_of)
        known.append(model.name)
    for output in job.releases:
        _check_query(
            f"publish {output.name}", load_query(output.query, job.folder), known, tables_of
        )
        for title, query in output.summaries.items():
            _check_query(
                f"digest {title!r}", load_query(query, job.folder), [*known, output.name], tables_of
            )


def _check_query(
    what: str, select: str, known: Sequence[str], tables_of: Callable[[str], set[str]]
) -> None:
    try:
        unknown = sorted(tables_of(select) - set(known))
    except QueryError as error:
        raise QueryError(f"{what}: {error.message}", hint=error.hint) from error
    if unknown:
        raise QueryError(
            f"{what}: its query reads {', '.join(unknown)}, which is neither a source nor an "
            "earlier model",
            hint=f"there are: {', '.join(known)}",
        )


@contextmanager
def naming_query(what: str, name: str) -> Iterator[None]:
    """Add the owner of a query, such as "the query of model m", to its errors.

    Raises: QueryError.
    """
    try:
        yield
    except QueryError as error:
        if re.search(
            rf"\b(?:of|model|publish) {re.escape(name)}\b|^{re.escape(name)}\b", error.message
        ):
            raise
        raise QueryError(
            f"{what} {name} failed: {error.message}", problems=error.problems, hint=error.hint
        ) from error


def check_names(what: str, names: Sequence[str]) -> None:
    """Raise QueryError where a query has a column twice; names that differ only in case are the
    same.
    """
    small = [name.lower() for name in names]
    twice = sorted({name for name in names if small.count(name.lower()) > 1})
    if twice:
        raise QueryError(
            f"{what} has a column more than once: {', '.join(twice)}",
            hint=f"name each column once, such as: SELECT m.*, run.{twice[0]} AS other_name; in "
            'SQL, "Price" and "price" are the same name',
        )


def unit_sizes(select: str, unit: Sequence[str]) -> str:
    """Return a query of the units in the order of their keys, with their numbers of rows.

    A null in a key is a value like any other.
    """
    keys = ", ".join(quote(name) for name in unit)
    ordered = ", ".join(f"{quote(name)} ASC NULLS LAST" for name in unit)
    return (
        f"SELECT {keys}, count(*) AS __rows FROM ({select}) AS q GROUP BY {keys} ORDER BY {ordered}"
    )


def rows_with_unit_number(
    select: str, unit: Sequence[str], columns: Sequence[str], units: str
) -> str:
    """Return a query of the rows with the number of their unit instead of its key."""
    rest = "".join(f", q.{quote(name)}" for name in columns)
    if not unit:
        return f"SELECT CAST(0 AS INTEGER) AS __unit{rest} FROM ({select}) AS q"
    same = " AND ".join(f"q.{quote(name)} IS NOT DISTINCT FROM u.{quote(name)}" for name in unit)
    return f"SELECT u.__unit{rest} FROM ({select}) AS q JOIN {units} AS u ON {same}"


def make_batches(
    rows: NDArray[np.int64],
    *,
    parts: int,
    most_rows: int,
    costs: NDArray[np.float64] | None = None,
) -> list[Batch]:
    """Pack units, in the order of their keys, into about `parts` batches of even cost.

    rows: shape (units,). costs: of each unit; by default its rows and UNIT_COST. A batch has at
    most `most_rows` rows, unless it is a single larger unit. A unit as expensive as a whole part is
    a batch of its own, so that one skewed key does not decide the wall time.
    """
    if len(rows) == 0:
        return []
    total_rows = _running(rows)
    total_cost = _cost_by_rows(total_rows) if costs is None else np.append(0.0, np.cumsum(costs))
    share = float(total_cost[-1]) / max(parts, 1)
    if costs is None:
        share = max(share, UNIT_COST)
    edges = _edges(total_cost, total_rows, share, most_rows)
    batches = []
    for number, (first, last) in enumerate(pairwise(edges)):
        count = int(total_rows[last] - total_rows[first])
        cost = float(total_cost[last] - total_cost[first])
        batches.append(Batch(number, first, last - 1, count, cost))
    return batches


def _cost_by_rows(total_rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cumulative costs of units. total_rows: cumulative, of shape (units + 1,)."""
    total_cost = total_rows.astype(np.float64)
    for start in range(0, len(total_cost), COST_CHUNK_UNITS):  # without another array of all units
        part = total_cost[start : start + COST_CHUNK_UNITS]
        part += UNIT_COST * np.arange(start, start + len(part))
    return total_cost


def split_batches(batches: Sequence[Batch], size: NDArray[np.int64], most: int) -> list[Batch]:
    """Mark where batches above `most` bytes are distributed in parts. size: shape (units,), in
    bytes.
    """
    done = []
    for batch in batches:
        own = size[batch.first : batch.last + 1]
        total = _running(own)
        edges = (
            _edges(total.astype(np.float64), total, float("inf"), most) if total[-1] > most else []
        )
        done.append(replace(batch, cuts=tuple(batch.first + edge for edge in edges[1:-1])))
    return done


def _running(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the cumulative sums from 0 on, of shape (units + 1,)."""
    total = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows, out=total[1:])
    return total


def _edges(
    total_cost: NDArray[np.float64], total_rows: NDArray[np.int64], share: float, most_rows: int
) -> list[int]:
    """Return the first unit of each next batch: with it, a batch would be too expensive or too
    long.

    Both arguments are cumulative sums, of shape (units + 1,).
    """
    edges = [0]
    while edges[-1] < len(total_rows) - 1:
        start = edges[-1]
        by_cost = int(np.searchsorted(total_cost, total_cost[start] + share, side="right")) - 1
        by_rows = int(np.searchsorted(total_rows, total_rows[start] + most_rows, side="right")) - 1
        edges.append(max(min(by_cost, by_rows), start + 1))
    return edges
