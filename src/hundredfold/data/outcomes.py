"""The outcome of a slice of units: packed results, and the status of each unit."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .._package import FOLDER
from ..errors import ConversionError, ResultError
from .arrow_types import type_to_hex
from .messages import Message
from .nested_cast import count_of_kind
from .numpy_columns import UNIT, from_numpy, repeat_texts, to_numpy, with_nulls

MAX_UNSIZED_BYTES = 2**20  # larger results are measured before they are packed
# of an error's message or traceback; the middle of a longer one is left out
MAX_TEXT_CHARACTERS = 20_000
STATUS_SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("status", pa.string()),  # ok, failed, crashed
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("traceback", pa.string()),
        ("attempt", pa.int64()),
        ("started_at", pa.timestamp("us", tz="UTC")),  # null: not executed, or not known
        ("ran_on", pa.string()),  # the worker process; null with it
    ]
)


@dataclass(slots=True)
class UnitStatus:
    """A unit that is not ok, and the reason."""

    unit: int
    status: str
    error: str
    message: str
    traceback: str = ""


def failed_unit(unit: int, error: BaseException) -> UnitStatus:
    """Return the status of a failed unit; its traceback begins in the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(FOLDER)] or list(frames)
    message = describe(error)
    text = (
        ""
        if isinstance(error, ResultError | ConversionError)
        else "".join(traceback.format_list(own)) + f"{type(error).__name__}: {message}\n"
    )
    name = "ResultError" if isinstance(error, ResultError) else type(error).__name__
    return UnitStatus(unit, "failed", name, message, _writable(text))


def describe(value: Any, convert: Callable[[Any], str] = str) -> str:
    """Return str or repr of a user's object as writable text; both may raise."""
    try:
        return _writable(convert(value))
    except Exception as error:  # noqa: BLE001  # the object's own method may raise any error
        return f"({type(value).__name__}, whose {convert.__name__} raises {type(error).__name__})"


def _writable(text: str) -> str:
    """Return text that can be encoded; of a very long one its beginning and its end."""
    if len(text) > MAX_TEXT_CHARACTERS:
        half = MAX_TEXT_CHARACTERS // 2
        text = (
            f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"
        )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive units of a slice that one worker process executed without a break.

    units: their number. started: the start of the first, in seconds since 1970 (UTC), by the
    clock of that machine. worker: the name of the process. together: one call for all of them.
    """

    units: int
    started: float
    worker: str
    together: bool = False

    def starts(self, seconds: NDArray[np.float64]) -> NDArray[np.datetime64]:
        """Return the start of each unit, from the seconds that each took."""
        before = np.zeros(self.units)
        if not self.together:
            before[1:] = np.cumsum(seconds[:-1])
        return np.round((self.started + before) * 1e6).astype("datetime64[us]")


class Executions:
    """When, where and for how long each unit of a span was executed, and in which attempt.

    seconds, attempts: arrays with a value for each unit; so are `starts` (NaT: not known) and
    `workers`, positions in `names` (-1: not known).
    """

    def __init__(self, units: int) -> None:
        self.seconds = np.zeros(units)
        self.attempts = np.zeros(units, np.int64)
        self.starts = np.full(units, np.datetime64("NaT", "us"))
        self.workers = np.full(units, -1, np.int32)
        self.names: list[bytes] = []

    def take(
        self, own: slice, chosen: NDArray[np.bool_], summary: SliceSummary, attempt: int
    ) -> None:
        """Take the chosen units of an outcome, which are those of the span at `own`."""
        self.seconds[own][chosen] = summary.seconds[chosen]
        self.attempts[own][chosen] = attempt
        starts, workers = self.starts[own], self.workers[own]
        first = 0
        for stretch in summary.stretches:
            part = slice(first, first + stretch.units)
            mask, first = chosen[part], part.stop
            starts[part][mask] = stretch.starts(summary.seconds[part])[mask]
            name = stretch.worker.encode()
            if name not in self.names:
                self.names.append(name)
            workers[part][mask] = self.names.index(name)

    def columns(self) -> dict[str, Any]:
        """Return the columns of a table of statuses."""
        known = ~np.isnat(self.starts)
        # the last name is that of workers that are not known
        workers = repeat_texts([*self.names, b""], self.workers % (len(self.names) + 1))
        moment = STATUS_SCHEMA.field("started_at").type
        return {
            "seconds": from_numpy(self.seconds),
            "attempt": from_numpy(self.attempts),
            "started_at": with_nulls(from_numpy(self.starts.view(np.int64)), ~known, moment),
            "ran_on": with_nulls(workers, self.workers < 0, pa.string()),
        }


def status_table(
    first: int,
    rows_in: NDArray[np.int64],
    rows_out: NDArray[np.int64],
    executions: Executions,
    not_ok: Mapping[int, UnitStatus],
) -> pa.Table:
    """Return one row for each unit from `first` on; `not_ok` are the units among them that are not
    ok.
    """
    count = len(rows_in)
    known = [b"ok", *sorted({each.status.encode() for each in not_ok.values()})]
    codes = np.zeros(count, np.int32)
    texts: dict[str, Any] = {
        name: pa.nulls(count, pa.string()) for name in ("error", "message", "traceback")
    }
    if not_ok:
        for each in not_ok.values():
            codes[each.unit - first] = known.index(each.status.encode())
        for name in texts:
            values: list[str | None] = [None] * count
            for each in not_ok.values():
                values[each.unit - first] = getattr(each, name)
            texts[name] = pa.array(values, pa.string())
    columns = {
        "unit": from_numpy(np.arange(first, first + count)),
        "status": repeat_texts(known, codes),
        "rows_in": from_numpy(rows_in),
        "rows_out": from_numpy(rows_out),
        **texts,
        **executions.columns(),
    }
    return pa.Table.from_arrays(
        [columns[name] for name in STATUS_SCHEMA.names], schema=STATUS_SCHEMA
    )


def pack_results(tables: Sequence[pa.Table]) -> pa.Buffer:
    """Return tables with different columns as one object: consecutive Arrow streams."""
    if sum(table.nbytes for table in tables) < MAX_UNSIZED_BYTES:
        sink = pa.BufferOutputStream()
        _write_streams(tables, sink)
        return sink.getvalue()
    counted = pa.MockOutputStream()  # a growing sink would take up to three times the memory
    _write_streams(tables, counted)
    buffer = pa.allocate_buffer(counted.size())
    _write_streams(tables, pa.FixedSizeBufferWriter(buffer))
    return buffer


def _write_streams(tables: Sequence[pa.Table], sink: pa.NativeFile) -> None:
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


def unpack_results(data: pa.Buffer) -> list[pa.Table]:
    reader = pa.BufferReader(data)
    tables = []
    while reader.tell() < data.size:
        tables.append(pa.ipc.open_stream(reader).read_all())
    return tables


@dataclass(frozen=True, slots=True)
class SliceSummary:
    """The summary of a slice: the time and rows of each unit, the units that are not ok, the
    schemas of the result tables, and the stretches in which the units were executed (none where
    that is not known).
    """

    seconds: NDArray[np.float64]
    rows_out: NDArray[np.int64]
    not_ok: tuple[UnitStatus, ...]
    tables: tuple[dict[str, Any], ...]
    stretches: tuple[Stretch, ...] = ()


_UNITS_SCHEMA = pa.schema([("seconds", pa.float64()), ("rows_out", pa.int64())])
_NOT_OK_SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        *((name, pa.string()) for name in ("status", "error", "message", "traceback")),
    ]
)


def pack_statuses(
    message: Message,
    seconds: NDArray[np.float64],
    rows_out: NDArray[np.int64],
    not_ok: Sequence[UnitStatus],
    tables: Sequence[pa.Table],
    stretches: Sequence[Stretch] = (),
) -> bytes:
    """Return the statuses of a slice's units, with a summary of its result tables in the metadata.

    The summary lets `collect` determine the types without reading the tables. Facts that the
    message and the manifest have of a unit (its number, attempt and rows) are not written again.

    stretches: of all units of the slice, or none where it is not known who executed them.
    """
    assert len(seconds) == len(rows_out) == message.units
    assert sum(stretch.units for stretch in stretches) in (0, message.units)
    tables_found = tuple(_table_summary(table) for table in tables)
    summary = SliceSummary(seconds, rows_out, tuple(not_ok), tables_found, tuple(stretches))
    return _packed_statuses(summary)


def join_statuses(slices: Sequence[bytes]) -> bytes:
    """Return the statuses of slices that follow each other as those of one slice.

    Its results are the results of the slices one after the other.
    """
    found = [unpack_statuses(pa.py_buffer(each)) for each in slices]
    known = all(each.stretches for each in found)
    return _packed_statuses(
        SliceSummary(
            np.concatenate([each.seconds for each in found]),
            np.concatenate([each.rows_out for each in found]),
            tuple(status for each in found for status in each.not_ok),
            tuple(table for each in found for table in each.tables),
            tuple(stretch for each in found for stretch in each.stretches) if known else (),
        )
    )


def _table_summary(table: pa.Table) -> dict[str, Any]:
    """Return the facts about a result table by which `collect` determines the types."""
    return {
        "units": _first_and_count(table),
        "rows": table.num_rows,
        "bytes": table.nbytes,
        "columns": [
            [f.name, type_to_hex(f.type), count_of_kind(table.column(f.name))]
            for f in table.schema
            if f.name != UNIT
        ],
    }


def _packed_statuses(summary: SliceSummary) -> bytes:
    facts = {
        "results": json.dumps(summary.tables),
        "stretches": json.dumps([astuple(stretch) for stretch in summary.stretches]),
    }
    made = pa.Table.from_arrays(
        [from_numpy(summary.seconds), from_numpy(summary.rows_out)],
        schema=_UNITS_SCHEMA.with_metadata(facts),
    )
    streams = [made]
    if summary.not_ok:
        streams.append(
            pa.Table.from_pylist(
                [
                    {name: getattr(status, name) for name in _NOT_OK_SCHEMA.names}
                    for status in summary.not_ok
                ],
                schema=_NOT_OK_SCHEMA,
            )
        )
    return bytes(pack_results(streams))


def _first_and_count(table: pa.Table) -> list[int]:
    """Return the first unit and the number of distinct units."""
    units = to_numpy(table.column(UNIT), False)
    if not (units[1:] >= units[:-1]).all():
        units = np.sort(units)
    return [int(units[0]), int(np.count_nonzero(units[1:] != units[:-1])) + 1]


def unpack_statuses(data: pa.Buffer) -> SliceSummary:
    made, *not_ok = unpack_results(data)
    accounts = tuple(UnitStatus(**row) for row in not_ok[0].to_pylist()) if not_ok else ()
    seconds, rows_out = (to_numpy(made.column(name), False) for name in _UNITS_SCHEMA.names)
    facts = made.schema.metadata
    # outcomes of earlier versions have no stretches
    stretches = tuple(Stretch(*each) for each in json.loads(facts.get(b"stretches", b"[]")))
    return SliceSummary(
        seconds, rows_out, accounts, tuple(json.loads(facts[b"results"])), stretches
    )
