"""What a function may return, as rows and tables: the only place that knows dataclasses, pydantic,
NumPy, pandas and polars results.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..contract import Contract
from ..errors import ResultError
from .arrow_columns import has_objects, to_column
from .arrow_types import is_opaque
from .ordered_collections import COLLECTION_TYPES
from .outcomes import describe

Row = tuple[str, ...]
ROW_COLLECTIONS = (list, tuple, Iterator, *COLLECTION_TYPES)  # types that hold several rows
SCALAR_TYPES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    decimal.Decimal,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    enum.Enum,
    np.generic,
)


def is_table(value: Mapping[Any, Any], contract: Contract | None) -> bool:
    """Return whether a dict holds several rows: its values are all 1-D arrays of one length.

    It does not if the contract declares that a value is a list.
    """
    first = next(iter(value.values()), None)
    if not isinstance(first, np.ndarray) or first.ndim != 1:
        return False
    if contract is not None and any(pa.types.is_nested(c.arrow) for c in contract.columns):
        return False
    return all(
        isinstance(v, np.ndarray) and v.ndim == 1 and len(v) == len(first) for v in value.values()
    )


def is_scalar(value: Any) -> bool:
    """Return whether a result is a single value: a number, a text, a date, ..., but no row or
    table.
    """
    if isinstance(value, SCALAR_TYPES):
        return not isinstance(value, np.void)
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and not value.dtype.names
    return isinstance(value, pa.Scalar) or type(value).__name__ in ("NaTType", "NAType")


def to_row(value: Any) -> tuple[Row, Any]:
    """Return names and values of one result row; ResultError if it is none."""
    if isinstance(value, Mapping):
        return tuple(value), value.values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in dataclasses.fields(value))
        return names, [getattr(value, name) for name in names]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._fields, value
    fields = getattr(type(value), "model_fields", None)
    if fields is not None:
        return tuple(f.alias or n for n, f in fields.items()), [getattr(value, n) for n in fields]
    if isinstance(value, np.void) and value.dtype.names:
        return value.dtype.names, [value[name] for name in value.dtype.names]
    raise _not_a_row_error(value)


def _not_a_row_error(value: Any) -> ResultError:
    """Return the error for a result that is no row: the fault, and a remedy."""
    kind = type(value)
    found = "None" if value is None else f"{kind.__name__} {describe(value)[:80]!r}"
    wanted = (
        "wanted a dict, dataclass, NamedTuple or pydantic row, a list of them, a table, or a"
        " single value"
    )
    if isinstance(value, Awaitable):
        # to avoid Python's warning that it was never awaited
        getattr(value, "close", lambda: None)()
        return ResultError(
            f"returned {found}: the function is asynchronous, and its result was not awaited;"
            f" {wanted}"
        )
    if isinstance(value, np.ndarray):
        return ResultError(
            f"returned an array of shape {value.shape}; {wanted}: {{'value': array}} is a row for"
            " each"
            " element, {'value': array.tolist()} is one"
        )
    if is_scalar(value) or value is None:
        return ResultError(
            f"returned {found} in a list; a list holds rows, each with named columns:"
            " {'value': ...}"
        )
    if isinstance(value, ROW_COLLECTIONS):
        return ResultError(f"returned {found}; {wanted}")
    module = kind.__module__.partition(".")[0]
    if module == "pandas":
        return ResultError(
            f"returned a pandas {kind.__name__}; {wanted}: series.to_dict() is a row,"
            " series.to_frame() a table"
        )
    if module in ("polars", "pyarrow"):
        return ResultError(f"returned a {module} {kind.__name__}; {wanted}")
    return ResultError(
        f"returned a {kind.__module__}.{kind.__qualname__} object; {wanted}."
        " Store an object, such as a fitted model, as bytes:"
        ' return {"model": pickle.dumps(model)}, and read it with pickle.loads(...)'
    )


def to_table(value: Any) -> pa.Table | None:
    """Return an Arrow table of a table that a function returned; None if it is no table."""
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.RecordBatchReader):
        return value.read_all()
    if isinstance(value, dict):
        return pa.table({name: to_column(v) for name, v in value.items()})
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.names:
        return pa.table({name: to_column(value[name]) for name in value.dtype.names})
    module = type(value).__module__.split(".")[0]
    if hasattr(value, "iloc") and hasattr(value, "columns"):  # pandas, and subclasses of its frames
        return pandas_to_table(value)
    if module == "polars" and hasattr(value, "collect") and hasattr(value, "collect_schema"):
        value = value.collect()
    if module == "polars" and hasattr(value, "to_arrow") and hasattr(value, "columns"):
        return _polars_to_table(value)
    return None


def _polars_to_table(frame: Any) -> pa.Table:
    try:
        table = frame.to_arrow()
    except pa.ArrowException as error:
        raise ResultError(
            f"returned a polars frame that Arrow cannot hold: {error}; its types are {frame.dtypes}"
        ) from error
    if opaque := [f.name for f in table.schema if is_opaque(f.type)]:
        raise ResultError(
            f"returned a polars frame with Python objects as {', '.join(opaque)};"
            " cast these columns, or return them as bytes"
        )
    return table


def pandas_to_table(frame: Any) -> pa.Table:
    """Return a pandas frame as an Arrow table, with the columns of its index if these have names.

    As everywhere, a column of objects must have values of one kind, since Arrow infers the type of
    a mixture from the value that comes first.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = list(frame.columns)
    strange = [describe(name, repr) for name in names if not isinstance(name, str)]
    if strange:
        raise ResultError(
            f"returned a frame with the columns {', '.join(strange)}; wanted names"
            " (frame.rename(columns=...))"
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ResultError(f"returned a frame that has a column more than once: {', '.join(twice)}")
    objects = [name for name in names if has_objects(frame[name])]
    table = pa.Table.from_pandas(
        frame.drop(columns=objects), preserve_index=False
    ).replace_schema_metadata(None)
    made = {
        name: to_column(
            [None if isinstance(v, float) and v != v else v for v in frame[name].tolist()]
        )
        for name in objects
    }
    return (
        pa.table({name: made[name] if name in made else table.column(name) for name in names})
        if names
        else table
    )


def series_to_frame(value: Mapping[Any, Any]) -> Any:
    """Return a dict of pandas Series with a named index as a frame; None for any other dict.

    The index determines the unit of each value.
    """
    series = [
        v
        for v in value.values()
        if hasattr(v, "to_frame") and any(getattr(getattr(v, "index", None), "names", ()))
    ]
    if not series or len(series) < len(value):
        return None
    if any(not s.index.equals(series[0].index) for s in series):
        raise ResultError(
            "returned Series with different indexes; wanted one index, with the units' keys"
        )
    return series[0].to_frame().set_axis([next(iter(value))], axis=1).assign(**dict(value))
