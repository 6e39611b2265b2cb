"""Tables in memory as sources: pandas, polars, Arrow and columns of Python values."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...data.arrow_columns import COLUMN_ERRORS, has_objects, to_column
from ...data.arrow_types import is_opaque
from ...errors import ResultError, SourceError
from .files import check_column_names, reject_duplicates
from .nesting import MAX_LEVELS, NESTED_TYPES, is_too_deep

SCALAR_TYPES = frozenset({str, bool, int, float, bytes, dt.date})


def frame_to_table(source: str, frame: Any) -> pa.Table:
    """Return an Arrow table of a frame in memory: pandas, polars, Arrow, or any Arrow C stream.

    Raises:
        SourceError: it is no table, or a column would become another type.
    """
    _reject_deep(source, frame)
    table = _in_microseconds(source, _convert(source, frame))
    check_column_names(source, table.column_names)
    _reject_changed_types(source, table.schema)
    return _with_plain_texts(table)


def _reject_deep(source: str, frame: Any) -> None:
    """Raise SourceError for columns with values nested too deep for Arrow, which would crash."""
    if isinstance(frame, dict):
        columns = [
            (name, _fast_values(values))
            for name, values in frame.items()
            if isinstance(values, NESTED_TYPES) or _is_object(values)
        ]
    elif type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "columns"):
        columns = [
            (name, _fast_values(frame.iloc[:, n]))
            for n, name in enumerate(frame.columns)
            if _is_object(frame.iloc[:, n])
        ]
    else:
        return  # it is an Arrow table already
    deep = [str(name) for name, values in columns if is_too_deep(values)]
    if deep:
        raise SourceError(
            f"{source}: {', '.join(deep)} holds a value that is nested more than {MAX_LEVELS}"
            " levels deep",
            hint="does a list or a dict contain itself? write such values as text",
        )


def _is_object(values: Any) -> bool:
    """Return whether a column is a pandas series or a NumPy array of Python objects."""
    kind = getattr(values, "dtype", None)
    return isinstance(kind, np.dtype) and kind.hasobject


def _fast_values(values: Any) -> Any:
    """Return a column's values in the form that is fastest to iterate."""
    return values.tolist() if _is_object(values) else values


def _convert(source: str, frame: Any) -> pa.Table:
    module, kind = type(frame).__module__.split(".")[0], type(frame).__qualname__
    pandas = module == "pandas" and kind != "Series"
    if (
        isinstance(frame, list | tuple)
        or kind == "Series"
        or not (pandas or isinstance(frame, dict) or hasattr(frame, "__arrow_c_stream__"))
    ):
        raise SourceError(
            f"{source}: {type(frame).__module__}.{kind} is no path and no table",
            hint=(
                "wanted a path or glob, or a pandas, polars or Arrow table; for several files name"
                " their folder, or a glob such as DIR/*.csv"
            ),
        )
    if pandas:
        return _pandas_to_table(source, frame)
    if isinstance(frame, dict):
        return _columns_to_table(source, frame)
    try:
        table = pa.table(frame)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
        hint = (
            "cast the column to a type that Arrow has"
            if module == "polars"
            else "wanted columns of one length, each of one type"
        )
        raise SourceError(
            f"{source}: {kind} cannot be converted to a table: {error}", hint=hint
        ) from error
    if module == "polars" and (opaque := [f.name for f in table.schema if is_opaque(f.type)]):
        raise SourceError(
            f"{source}: {len(opaque)} column(s) hold Python objects, which SQL cannot",
            problems=opaque,
            hint="cast the column, or drop it",
        )
    return table


def _pandas_to_table(source: str, frame: Any) -> pa.Table:
    """Return a pandas frame as a table, with its index if that has a name.

    Columns of objects must have values of one kind, as in results.
    """
    index = frame.index
    named = any(name is not None for name in index.names)
    levels = (
        {
            f"__index_level_{n}__" if name is None else str(name): n
            for n, name in enumerate(index.names)
        }
        if named
        else {}
    )
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    reject_duplicates(source, [*frame.columns, *levels])
    for name, level in levels.items():
        frame = frame.assign(**{name: index.get_level_values(level)})
    objects = [name for name in frame.columns if has_objects(frame[name])]
    made = {
        name: _values_to_column(source, name, frame[name].tolist(), nan_is_null=True)
        for name in objects
    }
    rest = frame.drop(columns=objects)
    columns = {
        name: made[name] if name in made else _typed_column(source, name, rest[[name]])
        for name in frame.columns
    }
    return pa.table(columns)


def _typed_column(source: str, name: str, frame: Any) -> pa.ChunkedArray:
    """Return the only column of a pandas frame, which is not of objects."""
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).column(0)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
        kind = str(frame[name].dtype)
        hint = (
            f"write it as a plain column: frame[{name!r}].sparse.to_dense()"
            if "Sparse" in kind
            else f"convert it: frame.astype({{{name!r}: ...}})"
        )
        raise SourceError(
            f"{source}: the column {name} has the type {kind}, which SQL does not have",
            problems=[str(error)],
            hint=hint,
        ) from error


def _columns_to_table(source: str, columns: Mapping[str, Any]) -> pa.Table:
    """Return a dict of columns as a table."""
    made = {}
    for name, values in columns.items():
        library = type(values).__module__.partition(".")[0]
        masked = library == "numpy" and hasattr(values, "mask")
        if isinstance(values, list | tuple):
            made[name] = _values_to_column(source, str(name), list(values))
        elif library == "numpy" and values.ndim == 1 and (values.dtype.kind in "OV" or masked):
            made[name] = _values_to_column(
                source, str(name), values.tolist() if masked else list(values)
            )
        elif library == "pandas" and hasattr(values, "dtype") and has_objects(values):
            made[name] = _values_to_column(source, str(name), values.tolist(), nan_is_null=True)
        elif library == "polars" and str(getattr(values, "dtype", "")) == "Object":
            made[name] = _values_to_column(source, str(name), values.to_list())
        else:
            made[name] = values
    try:
        return pa.table(made)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise SourceError(
            f"{source}: dict cannot be converted to a table: {error}",
            hint="wanted columns of one length, each of one type",
        ) from error


def _values_to_column(
    source: str, name: str, values: list[Any], nan_is_null: bool = False
) -> pa.Array:
    """Return Python values as a column.

    Arrow converts values of one plain type. It would silently convert a mixture to the type of its
    first value.

    Raises:
        SourceError: the values are not of one kind, or no column can hold that kind.
    """
    kinds = set(map(type, values)) - {type(None)}
    if nan_is_null and len(kinds) > 1:
        values = [None if isinstance(v, float) and v != v else v for v in values]
        kinds = set(map(type, values)) - {type(None)}
    try:
        if (
            len(kinds) == 0
            or (len(kinds) == 1 and kinds <= SCALAR_TYPES)
            or kinds <= {int, float}
            or kinds <= {decimal.Decimal, int}
        ):
            return pa.array(
                values,
                pa.uint64() if _is_unsigned(values, kinds) else None,
                from_pandas=nan_is_null,
            )
        return to_column(values)
    except COLUMN_ERRORS as error:
        raise _mixed_column_error(source, name, kinds, error) from error


def _mixed_column_error(source: str, name: str, kinds: set[type], error: Exception) -> SourceError:
    """Return the error for values that no column can hold."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    found = ", ".join(sorted(each.removeprefix("builtins.") for each in names))
    if kinds == {int}:
        description = "whole numbers of more than 64 bits"
        hint = "convert them to floats, texts or Decimals"
    elif len(kinds) == 1 and isinstance(error, ResultError):
        description = "values that one column cannot hold"
        hint = "give the values in it one type"
    elif len(kinds) > 1:
        description = "values of several types in one column"
        hint = "give the column one type, as with frame.astype({...})"
    else:
        description = "values of a type that no column has"
        hint = "convert the values: to float, to text, or each to columns of its own"
    return SourceError(
        f"{source}: {name} holds {description}: {found}", problems=[str(error)[:300]], hint=hint
    )


def _is_unsigned(values: Sequence[Any], kinds: set[type]) -> bool:
    """Return whether integers need the 64th bit, which Arrow does not detect."""
    return kinds == {int} and max(v for v in values if v is not None) >= 2**63


def _reject_changed_types(source: str, schema: pa.Schema) -> None:
    """Raise SourceError for types that Parquet or SQL would convert to another."""
    unkept = {f.name: f.type for f in schema if _would_change(f.type)}
    if unkept:
        raise SourceError(
            f"{source}: {len(unkept)} column(s) have a type that would become another",
            problems=[f"{name}: {kind}" for name, kind in unkept.items()],
            hint="convert a duration to seconds as float, an interval of pandas to its two ends,"
            " a period to a date or text, a decimal of more than 38 digits to text,"
            " a dict without a key to null",
        )


def _in_microseconds(source: str, table: pa.Table) -> pa.Table:
    """Return the table with times of seconds in microseconds, as in Parquet and SQL.

    Raises:
        SourceError: a time is too distant for that.
    """
    for position, field in enumerate(table.schema):
        if pa.types.is_date64(field.type):
            try:
                table = table.set_column(
                    position, field.name, table.column(position).cast(pa.date32())
                )
            except pa.ArrowInvalid as error:
                raise SourceError(
                    f"{source}: {field.name} ({field.type}) has a time of day in a date: {error}",
                    hint="cast it to a timestamp",
                ) from error
        if pa.types.is_timestamp(field.type) and field.type.unit in ("s", "ms"):
            try:
                table = table.set_column(
                    position,
                    field.name,
                    table.column(position).cast(pa.timestamp("us", field.type.tz)),
                )
            except pa.ArrowInvalid as error:
                raise SourceError(
                    f"{source}: {field.name} ({field.type}) has a time that SQL cannot hold:"
                    f" {error}",
                    hint="SQL holds times in microseconds, up to the year 294246;"
                    " set later ones to null",
                ) from error
    return table


def _would_change(kind: pa.DataType) -> bool:
    # periods, and intervals, which would lose one of their ends
    pandas = getattr(kind, "extension_name", "").startswith("pandas.")
    if pa.types.is_dictionary(kind):
        return _would_change(kind.value_type)
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return not kind.num_fields or any(
            _would_change(kind.field(n).type) for n in range(kind.num_fields)
        )
    return bool(
        pandas
        or any(
            is_one(kind)
            for is_one in (
                pa.types.is_duration,
                pa.types.is_interval,
                pa.types.is_union,
                pa.types.is_decimal256,
            )
        )
    )


def _with_plain_texts(table: pa.Table) -> pa.Table:
    """Return the table with dictionaries of plain text.

    polars' categories are of string_view, which Parquet cannot write.
    """
    for i, f in enumerate(table.schema):
        if pa.types.is_dictionary(f.type) and pa.types.is_string_view(f.type.value_type):
            chunks = [
                pa.DictionaryArray.from_arrays(c.indices, c.dictionary.cast(pa.string()))
                for c in table.column(i).chunks
            ]
            kind = pa.dictionary(f.type.index_type, pa.string())
            table = table.set_column(i, f.name, pa.chunked_array(chunks, kind))
    return table
