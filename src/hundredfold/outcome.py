"""What a slice of units left: packed results, and one account for each unit."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .batch import UNIT, from_numpy, numpy_of
from .columns import text_of_type
from .errors import ResultError

ACCOUNT = pa.schema(
    [
        ("unit", pa.int64()),
        ("status", pa.string()),  # ok, failed, dead
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("traceback", pa.string()),
        ("round", pa.int64()),
    ]
)


@dataclass(slots=True)
class Account:
    """One unit that did not end well: why."""

    unit: int
    status: str
    error: str
    message: str
    traceback: str = ""


def account_of(unit: int, error: BaseException) -> Account:
    """A failed unit's account; the traceback begins in the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_HERE)] or list(frames)
    told = words_of(error)
    text = "" if isinstance(error, ResultError) else "".join(traceback.format_list(own)) + f"{type(error).__name__}: {told}\n"
    return Account(unit, "failed", type(error).__name__, told, _writable(text))


def words_of(value: Any, say: Callable[[Any], str] = str) -> str:
    """str or repr of what the user's code made, which may itself raise, as text that can be written."""
    try:
        return _writable(say(value))
    except Exception as error:  # noqa: BLE001  # whatever their own str raises
        return f"({type(value).__name__}, whose {say.__name__} raises {type(error).__name__})"


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_HERE = __file__.rsplit("outcome.py", 1)[0]


def accounts_table(
    units: NDArray[np.int64],
    rows_in: NDArray[np.int64],
    rows_out: NDArray[np.int64],
    seconds: NDArray[np.float64],
    bad: Sequence[Account],
    round_: int,
) -> pa.Table:
    """One row for each unit of a slice, in their order."""
    by_unit = {account.unit: account for account in bad}
    if by_unit:
        rows = [by_unit.get(u) for u in units.tolist()]
        texts = [[None if r is None else getattr(r, name) for r in rows] for name in ("error", "message", "traceback")]
        status = pa.array(["ok" if r is None else r.status for r in rows], pa.string())
        words = [pa.array(text, pa.string()) for text in texts]
    else:
        status = pa.DictionaryArray.from_arrays(from_numpy(np.zeros(len(units), np.int32)), _OK).cast(pa.string())
        words = [pa.nulls(len(units), pa.string())] * 3
    columns = [
        from_numpy(units),
        status,
        from_numpy(rows_in),
        from_numpy(rows_out),
        from_numpy(seconds),
        *words,
        from_numpy(np.full(len(units), round_, np.int64)),
    ]
    return pa.Table.from_arrays(columns, schema=ACCOUNT)


_OK = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"ok")])


def pack_results(tables: Sequence[pa.Table]) -> bytes:
    """Tables of different columns as one object: Arrow streams one after the other."""
    sink = pa.BufferOutputStream()
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())


def unpack_results(data: pa.Buffer) -> list[pa.Table]:
    reader = pa.BufferReader(data)
    tables = []
    while reader.tell() < data.size:
        tables.append(pa.ipc.open_stream(reader).read_all())
    return tables


def pack_accounts(accounts: pa.Table, tables: Sequence[pa.Table]) -> bytes:
    """The unit ledger, with a summary of the result tables in its metadata, so that types are settled without reading them."""
    summary = [
        {
            "units": _units_of(t),
            "rows": t.num_rows,
            "columns": [[f.name, text_of_type(f.type), len(t) - t.column(f.name).null_count] for f in t.schema if f.name != UNIT],
        }
        for t in tables
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, accounts.schema.with_metadata({"results": json.dumps(summary)})) as writer:
        writer.write_table(accounts.replace_schema_metadata({"results": json.dumps(summary)}))
    return bytes(sink.getvalue())


def _units_of(table: pa.Table) -> list[int]:
    """First unit and how many different ones."""
    units = numpy_of(table.column(UNIT), False)
    return [int(units.min()), len(np.unique(units))]


def unpack_accounts(data: pa.Buffer) -> tuple[pa.Table, list[dict[str, Any]]]:
    table = pa.ipc.open_stream(data).read_all()
    return table.replace_schema_metadata(None), json.loads(table.schema.metadata[b"results"])
