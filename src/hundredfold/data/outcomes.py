"""What a slice of units left: packed results, and one account for each unit."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .._package import FOLDER
from ..errors import ConversionError, ResultError
from ..job import Message
from .arrays import UNIT, from_numpy, numpy_of, spelled
from .columns import text_of_type

SMALL = 2**20  # bytes of results that are packed without counting them first
LONGEST_TEXT = 20_000  # characters of an error's message, or of its traceback, that are kept
ACCOUNT = pa.schema(
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
    ]
)


@dataclass(slots=True)
class UnitStatus:
    """One unit that did not end well: why."""

    unit: int
    status: str
    error: str
    message: str
    traceback: str = ""


def failed_unit(unit: int, error: BaseException) -> UnitStatus:
    """A failed unit's account; the traceback begins in the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(FOLDER)] or list(frames)
    told = describe(error)
    text = (
        ""
        if isinstance(error, ResultError | ConversionError)
        else "".join(traceback.format_list(own)) + f"{type(error).__name__}: {told}\n"
    )
    name = "ResultError" if isinstance(error, ResultError) else type(error).__name__
    return UnitStatus(unit, "failed", name, told, _writable(text))


def describe(value: Any, say: Callable[[Any], str] = str) -> str:
    """str or repr of what the user's code made, which may itself raise, as text that can be written."""
    try:
        return _writable(say(value))
    except Exception as error:  # noqa: BLE001  # whatever their own str raises
        return f"({type(value).__name__}, whose {say.__name__} raises {type(error).__name__})"


def _writable(text: str) -> str:
    """Return text that can be encoded; of a very long one its beginning and its end."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = (
            f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"
        )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def accounts_table(
    first: int,
    rows_in: NDArray[np.int64],
    rows_out: NDArray[np.int64],
    seconds: NDArray[np.float64],
    attempts: NDArray[np.int64],
    bad: Mapping[int, UnitStatus],
) -> pa.Table:
    """One row for each unit from `first` on; `bad` are those of them that did not end well."""
    known = [b"ok", *sorted({account.status.encode() for account in bad.values()})]
    status = np.zeros(len(seconds), np.int32)
    words: dict[str, Any] = {
        name: pa.nulls(len(seconds), pa.string()) for name in ("error", "message", "traceback")
    }
    if bad:
        for account in bad.values():
            status[account.unit - first] = known.index(account.status.encode())
        for name in words:
            texts: list[str | None] = [None] * len(seconds)
            for account in bad.values():
                texts[account.unit - first] = getattr(account, name)
            words[name] = pa.array(texts, pa.string())
    columns = {
        "unit": from_numpy(np.arange(first, first + len(seconds))),
        "status": spelled(known, status),
        "rows_in": from_numpy(rows_in),
        "rows_out": from_numpy(rows_out),
        "seconds": from_numpy(seconds),
        **words,
        "attempt": from_numpy(attempts),
    }
    return pa.Table.from_arrays([columns[name] for name in ACCOUNT.names], schema=ACCOUNT)


def pack_results(tables: Sequence[pa.Table]) -> pa.Buffer:
    """Tables of different columns as one object: Arrow streams one after the other."""
    if sum(table.nbytes for table in tables) < SMALL:
        sink = pa.BufferOutputStream()
        _write_streams(tables, sink)
        return sink.getvalue()
    counted = pa.MockOutputStream()  # a sink that grows takes up to three times the memory
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
    """The accounts of one slice: what each unit took and left, those that did not end well, and the shapes of the results."""

    seconds: NDArray[np.float64]
    rows_out: NDArray[np.int64]
    bad: tuple[UnitStatus, ...]
    tables: tuple[dict[str, Any], ...]


_MADE = pa.schema([("seconds", pa.float64()), ("rows_out", pa.int64())])
_BAD = pa.schema(
    [
        ("unit", pa.int64()),
        *((name, pa.string()) for name in ("status", "error", "message", "traceback")),
    ]
)


def pack_accounts(
    message: Message,
    seconds: NDArray[np.float64],
    rows_out: NDArray[np.int64],
    bad: Sequence[UnitStatus],
    tables: Sequence[pa.Table],
) -> bytes:
    """The unit ledger of a slice, with a summary of the result tables in its metadata, so that types are settled without reading them.

    What the message and the manifest know of a unit (its number, attempt and rows) is not written again.
    """
    assert len(seconds) == len(rows_out) == message.units
    summary = [
        {
            "units": _units_of(t),
            "rows": t.num_rows,
            "bytes": t.nbytes,
            "columns": [
                [f.name, text_of_type(f.type), len(t) - t.column(f.name).null_count]
                for f in t.schema
                if f.name != UNIT
            ],
        }
        for t in tables
    ]
    made = pa.Table.from_arrays(
        [from_numpy(seconds), from_numpy(rows_out)],
        schema=_MADE.with_metadata({"results": json.dumps(summary)}),
    )
    streams = [made]
    if bad:
        streams.append(
            pa.Table.from_pylist(
                [{name: getattr(account, name) for name in _BAD.names} for account in bad],
                schema=_BAD,
            )
        )
    return bytes(pack_results(streams))


def _units_of(table: pa.Table) -> list[int]:
    """First unit and how many different ones."""
    units = numpy_of(table.column(UNIT), False)
    if not (units[1:] >= units[:-1]).all():
        units = np.sort(units)
    return [int(units[0]), int(np.count_nonzero(units[1:] != units[:-1])) + 1]


def unpack_accounts(data: pa.Buffer) -> SliceSummary:
    made, *bad = unpack_results(data)
    accounts = tuple(UnitStatus(**row) for row in bad[0].to_pylist()) if bad else ()
    seconds, rows_out = (numpy_of(made.column(name), False) for name in _MADE.names)
    return SliceSummary(
        seconds, rows_out, accounts, tuple(json.loads(made.schema.metadata[b"results"]))
    )
