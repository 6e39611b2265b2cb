"""`hundredfold.map`: one call for the rows of a frame, with the engine of a run and no home."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow.compute as pc

from .api import open_run, run
from .errors import PublishRefused, UsageError
from .job import Job, Model, Source
from .runs.run import Rows, Run

RUN_ID = "map"
SOURCE = "given"
MODEL = "mapped"


class Mapped(NamedTuple):
    """What `map` returns: two tables of the kind of its input."""

    results: Any  # the rows that the function returned, with the columns of `by`, sorted by them
    failures: Any  # a row for each unit without a result: `by`, status, error, message, traceback


def map(
    rows: Any,
    by: str | Sequence[str],
    work: Callable[..., Any],
    *,
    returns: Any = None,
    order_by: Sequence[str] = (),
    batched: bool = False,
    time_limit: float | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
) -> Mapped:
    """Call a function for each group of rows, in parallel, and return all results.

        results, failures = hundredfold.map(sales, by=["shop", "product"], work=price)

    It is a run of one model whose files are removed at the end: the same forms of rows, workers,
    limits and isolation of units. A unit that fails or ends its process is a row of `failures`, and
    costs no other unit.

    rows      a pandas or Polars frame, an Arrow table, a dict of columns, or a path
    by        the column or columns that identify a unit of work; [] is one unit of all rows
    work      the function; it receives the rows of a unit and returns a dict, a value or a frame
    returns, order_by, batched, time_limit   as in `Model`
    workers, memory   as in `run`

    Returns (results, failures): pandas or Polars frames if `rows` is one, else Arrow tables. Raises
    the error that stopped the run; failed units are no error, even if all have failed.
    """
    model = Model(
        MODEL,
        unit=(by,) if isinstance(by, str) else tuple(by),
        work=work,
        order_by=order_by,
        batched=batched,
        time_limit=time_limit,
        returns=returns,
    )
    job = Job("map", [Source(SOURCE)], [model], max_failed=1.0)
    convert = _converter(rows)
    with TemporaryDirectory(prefix="hundredfold-map-") as home:
        given = {SOURCE: rows}
        try:
            done = run(job, given, home=home, run_id=RUN_ID, workers=workers, memory=memory)
        except PublishRefused:  # every unit failed
            done = open_run(RUN_ID, home=home)
        return Mapped(convert(done.results()), convert(_failed_units(done, model.unit)))


def _failed_units(done: Run, unit: Sequence[str]) -> Rows:
    table = done.units().table
    wanted = [*unit, "status", "error", "message", "traceback", "rows_in", "seconds"]
    return Rows(table.filter(pc.is_valid(table.column("error"))).select(wanted))


def _converter(rows: Any) -> Callable[[Rows], Any]:
    """Return the conversion of results to the kind of the given rows."""
    if rows is None:
        raise UsageError("rows is None, wanted a frame, an Arrow table, a dict or a path")
    library = type(rows).__module__.partition(".")[0]
    return {"pandas": Rows.to_pandas, "polars": Rows.to_polars}.get(library, Rows.to_arrow)
