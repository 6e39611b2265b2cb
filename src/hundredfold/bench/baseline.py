"""A baseline: a loop as a user would write it around a model's function, timed on a sample that
grows until its time is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.batch import row_form
from ..data.manifest import Manifest, UnitList, open_batch
from ..data.numpy_columns import UNIT, from_numpy, to_numpy
from ..data.upstream import UpstreamResults
from ..job import Model
from ..sql.sources.files import Files
from ..workers.isolation import format_error
from ..workers.protocol import WorkerContext
from .frames import Cuts, Frame, frame_of, library_of
from .sample import Draw, draw, estimate_total

MAX_TIMED_UNITS = 5_000  # that many units are enough, if they took a second


@dataclass(frozen=True, slots=True)
class Task:
    """`read`: read the files of the sources. Of a model: `filter` and `groupby`, or `call` if all
    rows are one unit.
    """

    kind: str
    model: str = ""
    without: tuple[int, ...] = ()  # units that would end the process


@dataclass(frozen=True, slots=True)
class BaselineTiming:
    """The timing of a task, as far as it is known.

    once: seconds before the first unit. seconds: of all units; None if none was timed.
    """

    library: str = ""
    once: float | None = None
    seconds: float | None = None
    error: float = 0.0  # standard error of `seconds`, as a fraction
    timed: int = 0
    units: int = 0
    failed: int = 0  # of the timed units
    reason: str = ""  # of the first failure
    why: str = ""  # the reason why it was stopped
    spent: float = 0.0  # seconds on the sample


def time_reading(context: WorkerContext, files: Mapping[str, Files]) -> Iterator[BaselineTiming]:
    """Time reading the files of all sources into frames, as without an engine."""
    libraries = {library_of(row_form(model)) for model in context.job.models}
    library = libraries.pop() if len(libraries) == 1 else library_of("")
    read_file = {"pandas": _by_pandas, "polars": _by_polars, "NumPy": _by_arrow}[library]()
    began = time.perf_counter()
    for source in files.values():
        for path in source.paths:
            read_file(path, source.kind)
    yield BaselineTiming(library, once=time.perf_counter() - began)


def _by_pandas() -> Callable[[str, str], Any]:
    import pandas as pd

    def read(path: str, kind: str) -> Any:
        if kind == "csv":
            return pd.read_csv(path, sep="\t" if ".tsv" in path else ",")
        return pd.read_parquet(path) if kind == "parquet" else pd.read_json(path, lines=True)

    return read


def _by_polars() -> Callable[[str, str], Any]:
    import polars as pl

    def read(path: str, kind: str) -> Any:
        if kind == "csv":
            return pl.read_csv(
                path, separator="\t" if ".tsv" in path else ",", infer_schema_length=None
            )
        return pl.read_parquet(path) if kind == "parquet" else pl.read_ndjson(path)

    return read


def _by_arrow() -> Callable[[str, str], Any]:
    from pyarrow import csv, json, parquet

    def read(path: str, kind: str) -> Any:
        if kind == "csv":
            return csv.read_csv(
                path, parse_options=csv.ParseOptions(delimiter="\t" if ".tsv" in path else ",")
            )
        return parquet.read_table(path) if kind == "parquet" else json.read_json(path)

    return read


def time_loop(context: WorkerContext, task: Task, share: float) -> Iterator[BaselineTiming]:
    """Time one kind of loop over a model, on a sample that grows until its time is over, or it is
    enough.
    """
    timing = LoopTiming(context, context.model(task.model), task)
    looped = BaselineTiming(timing.frame.library, once=timing.once(), units=len(timing.drawn.order))
    yield looped
    began, spent, count = time.monotonic(), 0.0, 1
    while count:
        timing.time_next(count, share / 4)
        spent = time.monotonic() - began
        done, left = len(timing.seconds), share - spent
        seconds, error = estimate_total(timing.drawn, np.array(timing.seconds))
        looped = replace(
            looped,
            seconds=seconds + timing.warm,
            error=error,
            timed=done,
            failed=timing.failed,
            reason=timing.reason,
            spent=spent,
        )
        yield looped
        enough = left <= 0 or (done >= MAX_TIMED_UNITS and spent > 1.0)
        count = (
            0
            if enough
            else min(looped.units - done, max(1, min(4 * done, int(0.8 * left * done / spent))))
        )


class LoopTiming:
    """The timing of a loop: a model's rows as a frame, and the units of the sample so far."""

    def __init__(self, context: WorkerContext, model: Model, task: Task) -> None:
        self.model, self.kind, self.form = model, task.kind, row_form(model)
        self.units = UnitList.read(context.layout, model.name, context.store)
        self.alive = np.setdiff1d(np.arange(len(self.units.rows)), np.array(task.without, np.int64))
        self.drawn: Draw = draw(self.units.rows[self.alive])
        self.frame = _frame(context, model, self.form, self.units)
        self.inputs = [
            UpstreamResults(name, model, context.job.model(name), context.layout, context.store)
            for name in model.inputs or ()
        ]
        self.seconds: list[float] = []
        self.warm, self.failed, self.reason = 0.0, 0, ""
        self.kept: list[Any] = []  # as a loop keeps its results

    def once(self) -> float:
        """Return the seconds of the work that a loop does before its first unit."""
        began = time.perf_counter()
        if self.model.order_by:
            self.frame.sort_once(self.model.order_by)
        if self.kind == "filter":
            self.frame.filter_once()
        elif self.kind == "groupby":
            self.frame.groupby_once()
        return time.perf_counter() - began

    def time_next(self, count: int, expensive_s: float) -> None:
        """Time the next `count` units of the sample.

        The first is executed twice, unless that takes too long: work that its function does only
        once, such as compiling and imports, is no cost of every unit.
        """
        first = len(self.seconds)
        units = self.alive[self.drawn.order[first : first + count]]
        took = self._seconds_of(units)
        if first == 0 and took.sum() < expensive_s:
            cold, self.failed = float(took.sum()), 0
            took = self._seconds_of(units)
            self.warm = max(0.0, cold - float(took.sum()))
        self.seconds += took.tolist()

    def _seconds_of(self, units: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the seconds of each unit: select and convert its rows, and call the function."""
        order, rows = self._cuts(units)
        value = self._given(order)
        cuts, calls = np.zeros(len(order)), np.zeros(len(order))
        for i, unit in enumerate(order.tolist()):
            began = time.perf_counter()
            cut = next(rows)
            cuts[i] = time.perf_counter() - began
            calls[i] = self._call(cut, unit, partial(value, i))
        if self.kind == "groupby":  # the first includes the work done once for all groups
            cuts[0] = np.median(cuts[1:]) if len(cuts) > 1 else 0.0
        took = dict(zip(order.tolist(), (cuts + calls).tolist(), strict=True))
        return np.array([took.get(unit, 0.0) for unit in units.tolist()])

    def _cuts(self, units: NDArray[np.int64]) -> Cuts:
        if self.kind == "call":
            return units, iter([self.frame.whole()])
        return self.frame.filtered(units) if self.kind == "filter" else self.frame.grouped(units)

    def _call(self, rows: Any, unit: int, inputs: Callable[[], dict[str, Any]]) -> float:
        began = None
        try:
            values = inputs()  # not timed: a loop would have them already
            began = time.perf_counter()
            self.kept.append(self.model.work(self.frame.in_form(rows, unit), **values))
        except Exception as error:  # noqa: BLE001  # a unit that raises is counted
            self.failed += 1
            self.reason = self.reason or format_error(error)
        return time.perf_counter() - began if began is not None else 0.0

    def _given(self, units: NDArray[np.int64]) -> Callable[[int], dict[str, Any]]:
        """Return a function from a position in `units` to the upstream results of that unit."""
        keys: Any = self.units.keys.take(from_numpy(units)) if self.inputs else None
        if self.model.batched:
            return lambda i: {g.name: g.for_many(keys.slice(i, 1)) for g in self.inputs}
        each = [(g.name, g.for_units(keys)) for g in self.inputs]
        return lambda i: {name: get(i) for name, get in each}


def _frame(context: WorkerContext, model: Model, form: str, units: UnitList) -> Frame:
    """Return all rows of a model's query as a frame."""
    manifest = Manifest.read(context.layout, model.name, context.store)
    tables = []
    for batch in manifest.batches:
        table = open_batch(manifest, units, batch, context.layout, context.store).table
        for i, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
        tables.append(table)
    rows = pa.concat_tables(tables)
    numbers = to_numpy(rows.column(UNIT), False).astype(np.int64)
    rows = rows.drop_columns([UNIT])
    keys = units.keys.take(from_numpy(numbers))
    for i, field in enumerate(keys.schema):
        rows = rows.add_column(i, field, keys.column(i))
    return frame_of(
        form, model.batched, rows.combine_chunks(), numbers, units, frozenset(manifest.nullable)
    )
