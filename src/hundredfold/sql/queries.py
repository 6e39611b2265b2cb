"""SQL of the engine's own, and the packing of units into batches: thought without action."""

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
from ..errors import QueryError
from ..job import Batch, Job, Model

COST_CHUNK_UNITS = 2**18  # units whose costs are summed at a time
UNIT_COST = 20.0  # rows that a unit costs on top of its own: the call, its accounts


def is_file(query: str) -> bool:
    """Whether a declared query is the name of a file."""
    return query.rstrip().endswith(".sql") and "\n" not in query


class FileText(str):
    """The text of a query that was read from a file."""

    file = ""

    @classmethod
    def read(cls, query: str, folder: Path | None) -> str:
        """Return the text that a declaration names, so that `load_query` gives it again without
        reading the file again.
        """
        text = cls(
            load_query(query, folder).rstrip("\n") + "\n"
        )  # a line break tells a text from a file's name
        text.file = query
        return text


def load_query(query: str, folder: Path | None) -> str:
    """The SQL that a declaration names: a .sql file beside the job, or the text itself."""
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
    """Without the semicolon at its end; a last line that is a comment must not swallow what we
    write behind it.
    """
    bare = re.sub(r";\s*(--[^\n]*\s*|/\*((?!\*/).)*\*/\s*|;\s*)*$", "", query.strip(), flags=re.S)
    return bare + "\n" if "--" in bare.rsplit("\n", 1)[-1] else bare


def plain_columns(select: str, schema: pa.Schema) -> str:
    """The query, with texts instead of values of an ENUM: a batch file holds no dictionaries."""
    texts = [
        f"CAST({quote(f.name)} AS VARCHAR) AS {quote(f.name)}"
        for f in schema
        if pa.types.is_dictionary(f.type)
    ]
    return f"SELECT * REPLACE ({', '.join(texts)}) FROM ({select}) AS q" if texts else select


def with_micros(select: str, schema: pa.Schema) -> tuple[str, pa.Schema]:
    """Return the query with whole microseconds instead of intervals, and its columns.

    What has months has no length, and ends the query.
    """
    spans = {f.name: quote(f.name) for f in schema if pa.types.is_interval(f.type)}
    if not spans:
        return select, schema
    words = (
        "an interval of months has no length in microseconds: write CAST(... AS VARCHAR), or the "
        "difference of two times"
    )
    each = ", ".join(
        (
            f"CASE WHEN extract(year FROM {c}) = 0 AND extract(month FROM {c}) = 0 THEN "
            f"epoch_us({c}) WHEN {c} IS NOT NULL THEN CAST(error({literal(f'{name}: {words}')}) "
            f"AS BIGINT) END AS {c}"
        )
        for name, c in spans.items()
    )
    fields = [f.with_type(pa.int64()) if f.name in spans else f for f in schema]
    return f"SELECT * REPLACE ({each}) FROM ({select}) AS q", pa.schema(fields)


def query_of(model: Model, job: Job) -> str:
    """A model's SQL; without one, all rows of the job's only source."""
    return (
        load_query(model.query, job.folder)
        if model.query
        else f"SELECT * FROM {quote(job.sources[0].name)}"
    )


def check_queries(job: Job, tables_of: Callable[[str], set[str]]) -> None:
    """Read every query of a job before any of its data:

    QueryError for a mistake in SQL, or a table that is not there.
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
            f"{what}: its query reads {', '.join(unknown)}, which is no source and no earlier "
            "model",
            hint=f"there are: {', '.join(known)}",
        )


@contextmanager
def naming_query(what: str, name: str) -> Iterator[None]:
    """Let an error of a query that runs name whose it is, as "the query of" a model.

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
    """Raise QueryError where a query gives a column twice; names that differ only in case are one
    to SQL.
    """
    small = [name.lower() for name in names]
    twice = sorted({name for name in names if small.count(name.lower()) > 1})
    if twice:
        raise QueryError(
            f"{what} gives a column more than once: {', '.join(twice)}",
            hint=f"name each column once, such as: SELECT m.*, run.{twice[0]} AS other_name; to "
            'SQL, "Price" and "price" are one name',
        )


def unit_sizes(select: str, unit: Sequence[str]) -> str:
    """The units of a query in the order of their keys, and how many rows each has.

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
    """The rows of a query with the number of their unit instead of its key."""
    rest = "".join(f", q.{quote(name)}" for name in columns)
    if not unit:
        return f"SELECT CAST(0 AS INTEGER) AS __unit{rest} FROM ({select}) AS q"
    same = " AND ".join(f"q.{quote(name)} IS NOT DISTINCT FROM u.{quote(name)}" for name in unit)
    return f"SELECT u.__unit{rest} FROM ({select}) AS q JOIN {units} AS u ON {same}"


def make_batches(rows: NDArray[np.int64], *, parts: int, most_rows: int) -> list[Batch]:
    """Cut the units, in the order of their keys, into about `parts` batches of even cost, none
    above `most_rows` rows but a single unit that is.

    rows: shape (units,). A unit that is as dear as a whole part lies alone, so that one Zipf-skewed
    key does not decide the wall time.
    """
    if len(rows) == 0:
        return []
    total_rows = _running(rows)
    whole = float(total_rows[-1]) + UNIT_COST * len(rows)
    total_cost = total_rows.astype(np.float64)
    for start in range(0, len(total_cost), COST_CHUNK_UNITS):  # without an array more of all units
        part = total_cost[start : start + COST_CHUNK_UNITS]
        part += UNIT_COST * np.arange(start, start + len(part))
    share = max(whole / max(parts, 1), UNIT_COST)
    edges = _edges(total_cost, total_rows, share, most_rows)
    batches = []
    for number, (first, last) in enumerate(pairwise(edges)):
        count = int(total_rows[last] - total_rows[first])
        batches.append(Batch(number, first, last - 1, count, count + UNIT_COST * (last - first)))
    return batches


def split_batches(batches: Sequence[Batch], size: NDArray[np.int64], most: int) -> list[Batch]:
    """Mark where batches above `most` bytes are to be handed out in parts. size: bytes of each
    unit, shape (units,).
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
    """The sums up to each place, from 0 on, shape (units + 1,)."""
    total = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows, out=total[1:])
    return total


def _edges(
    total_cost: NDArray[np.float64], total_rows: NDArray[np.int64], share: float, most_rows: int
) -> list[int]:
    """Where one batch ends and the next begins: before the unit with which it would be too
    expensive or too long.

    Both are sums up to each unit, shape (units + 1,).
    """
    edges = [0]
    while edges[-1] < len(total_rows) - 1:
        start = edges[-1]
        by_cost = int(np.searchsorted(total_cost, total_cost[start] + share, side="right")) - 1
        by_rows = int(np.searchsorted(total_rows, total_rows[start] + most_rows, side="right")) - 1
        edges.append(max(min(by_cost, by_rows), start + 1))
    return edges
