"""The rows of a source on this machine: files of a known kind, or a table in memory.

Either way the result is a query whose rows have their columns, `__file` and `__row`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...contract import literal, quote
from ...data.arrow_columns import COLUMN_ERRORS, has_objects, is_opaque, is_valid_name, to_column
from ...errors import ResultError, SourceError
from ...paths import expand_user
from .listing import (
    NAMING_HINT,
    Partition,
    data_files,
    kind_of_file,
    matches,
    may_lead,
    own_partitions,
    partitions,
    reject_table_formats,
    reject_unread_files,
)
from .nesting import MAX_LEVELS, NESTED_TYPES, is_too_deep

_ISO = r"\d{4}-\d\d-\d\d[ T]([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?"
# the years that Python supports
_YEAR_RANGE = "BETWEEN TIMESTAMP '0001-01-01 00:00:00' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
# a type, and the condition under which a text has the same meaning as a value of it
TYPE_CHECKS = {
    "BIGINT": "CAST(TRY_CAST(@ AS BIGINT) AS VARCHAR) = @",
    # a double holds every decimal of up to 15 digits; beyond that, only those that it prints
    # unchanged
    "DOUBLE": (
        "CASE WHEN CAST(TRY_CAST(@ AS DOUBLE) AS VARCHAR) = @"
        " THEN @ NOT IN ('nan', '-nan', 'inf', '-inf')"
        " ELSE length(ltrim(translate(@, '-.', ''), '0')) <= 15"
        r" AND regexp_full_match(@, '-?(0|[1-9]\d*)(\.\d+)?') END"
    ),
    "BOOLEAN": "lower(@) IN ('true', 'false')",
    "DATE": (
        "CAST(TRY_CAST(@ AS DATE) AS VARCHAR) = @ AND TRY_CAST(@ AS DATE) BETWEEN DATE"
        " '0001-01-01' AND DATE '9999-12-31'"
    ),
    "TIMESTAMP": f"regexp_full_match(@, '{_ISO}') AND TRY_CAST(@ AS TIMESTAMP) {_YEAR_RANGE}",
    "TIMESTAMP WITH TIME ZONE": (
        rf"regexp_full_match(@, '{_ISO}(Z|[+-]\d\d(:?\d\d)?)') AND CAST(TRY_CAST(@ AS TIMESTAMPTZ)"
        rf" AS TIMESTAMP) {_YEAR_RANGE}"
    ),
}
INTEGER_TEXT, DATE_TEXT, TIMESTAMP_TEXT = (
    re.compile(r"-?\d+"),
    re.compile(r"\d{4}-\d\d-\d\d"),
    re.compile(r"\d{4}-\d\d-\d\d[ T]"),
)


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one kind, and the partition of each (none if they are in no folders KEY=VALUE).

    `root` is the folder that contains all of them and the folders of their partitions.
    """

    paths: tuple[str, ...]
    kind: str
    partitions: tuple[Partition, ...] = ()
    root: str = ""

    @property
    def sql_list(self) -> str:
        return "[" + ", ".join(map(pattern, self.paths)) + "]"


def find_files(source: str, place: str, folder: Path) -> Files:
    """Return the files that a path, a glob or a folder names.

    Raises:
        SourceError: there are none, they are of several kinds, or they belong to a table of
            Delta Lake, Iceberg or Hudi.
    """
    path = expand_user(place)
    path = path if path.is_absolute() else expand_user(folder / path)
    full = Path(os.path.abspath(path))  # noqa: PTH100  # links are kept: folders name partitions
    try:
        base, names = _list_files(source, full)
        reject_table_formats(source, (f"{base}/{name}" for name in names), _names_in)
        reject_unread_files(source, str(full), names)
    except OSError as error:
        raise SourceError(
            f"{source}: {error.filename} cannot be listed: {error.strerror}",
            hint="name a location that can be read",
        ) from error
    kinds = {name: str(kind_of_file(name)) for name in names}
    if len(set(kinds.values())) > 1:
        raise SourceError(
            f"{source}: its files are of several kinds: {', '.join(sorted(set(kinds.values())))}",
            problems=[f"{base}/{name}" for name in names],
            hint="name one kind, such as DIR/*.parquet",
        )
    unwritable = [
        name
        for name in names
        if not name.isascii() and name != name.encode(errors="replace").decode()
    ]
    if unwritable:
        raise SourceError(
            f"{source}: the names of {len(unwritable)} file(s) are not UTF-8",
            problems=[ascii(name) for name in unwritable],
            hint="rename them",
        )
    above = (base or "/").split("/")[1:]
    names, parted = _without_duplicates(source, base, names, partitions(source, above, names))
    names, parted = _without_empty(base, names, parted, kinds[names[0]])
    return Files(
        tuple(f"{base}/{name}" for name in names),
        kinds[names[0]],
        parted,
        "/" + "/".join(above[: len(above) - own_partitions(above)]),
    )


def _list_files(source: str, full: Path) -> tuple[str, list[str]]:
    """Return a folder and the names of the files below it that a location denotes.

    Raises:
        SourceError: there are none.
    """
    if full.is_dir():
        base, names = full, data_files(_walk(full, None), None)
        if not names:
            raise SourceError(
                f"{source}: there is no Parquet, CSV or JSON-lines file in the folder {full}",
                problems=_hidden_files(full),
                hint=_source_option(source, "DIR/*.parquet"),
            )
    elif full.is_file():  # before it is taken for a pattern: a name may contain [ and *
        base, names = full.parent, [full.name]
        if kind_of_file(full.name) is None:
            raise SourceError(
                f"{source}: the kind of 1 file(s) is not known",
                problems=[str(full)],
                hint=NAMING_HINT,
            )
    elif glob.has_magic(str(full)):
        first = next(n for n, part in enumerate(full.parts) if glob.has_magic(part))
        base, wanted = Path(*full.parts[:first]), full.parts[first:]
        found = list(_walk(base, wanted)) if base.is_dir() else []
        names = data_files(found, wanted)
        if not names:
            matching = [f"{base}/{name}" for name in found if matches(name.split("/"), wanted)]
            if matching:
                raise SourceError(
                    f"{source}: the kind of {len(matching)} file(s) is not known",
                    problems=matching,
                    hint=NAMING_HINT,
                )
            raise SourceError(
                f"{source}: no file matches {full}",
                problems=_nearest_entries(full),
                hint=_source_option(source, "PATH"),
            )
    else:
        raise SourceError(
            f"{source}: there is no file {full}",
            problems=_nearest_entries(full),
            hint=_source_option(source, "PATH"),
        )
    return str(base).rstrip("/"), names


def _walk(base: Path, wanted: Sequence[str] | None) -> Iterator[str]:
    """Yield the names of the files below a folder, except below hidden folders and outside the
    pattern.

    Links to folders are followed, unless they lead back to a folder above. A broken link is
    yielded, and reported later.
    """
    todo: list[tuple[str, frozenset[str]]] = [("", frozenset([os.path.realpath(base)]))]
    while todo:
        below, around = todo.pop()
        with os.scandir(base / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if not Path(entry.path).is_dir():
                    if entry.is_symlink() or entry.is_file():
                        yield name
                elif may_lead(name.split("/"), wanted):
                    real = os.path.realpath(entry.path)
                    if real not in around:
                        todo.append((f"{name}/", around | {real}))


def _without_duplicates(
    source: str, base: str, names: Sequence[str], parted: tuple[Partition, ...]
) -> tuple[list[str], tuple[Partition, ...]]:
    """Return each file once, although links may give it several names in its partition.

    Raises:
        SourceError: a link leads to no file.
    """
    folders: dict[str, str] = {}
    kept: dict[tuple[Any, ...], int] = {}
    for number, name in enumerate(names):
        path = f"{base}/{name}"
        if not Path(path).is_file():
            raise SourceError(
                f"{source}: {path} is a link to a file that does not exist",
                hint="restore the file, or remove the link",
            )
        folder, _, last = path.rpartition("/")
        real = folders.get(folder) or folders.setdefault(folder, os.path.realpath(folder))
        own = os.path.realpath(path) if Path(path).is_symlink() else f"{real}/{last}"
        key = (own, *(parted[number].items() if parted else ()))
        if key not in kept or f"{base}/{names[number]}" == own:
            kept[key] = number
    numbers = sorted(kept.values())
    return [names[n] for n in numbers], tuple(parted[n] for n in numbers) if parted else ()


def _without_empty(
    base: str, names: list[str], parted: tuple[Partition, ...], kind: str
) -> tuple[list[str], tuple[Partition, ...]]:
    """Return the files without empty text files, unless all are empty.

    They contain no row. An empty Parquet file is damaged instead.
    """
    sized = [
        n
        for n, name in enumerate(names)
        if kind == "parquet" or Path(f"{base}/{name}").stat().st_size
    ]
    if not sized:
        return names, parted
    return [names[n] for n in sized], tuple(parted[n] for n in sized) if parted else ()


def _names_in(folder: str) -> list[str] | None:
    return os.listdir(folder) if Path(folder).is_dir() else None  # noqa: PTH208  # names, not paths


def _hidden_files(folder: Path) -> list[str]:
    """Return a problem about hidden files, if a folder contains nothing else."""
    hidden = sum(kind_of_file(p.name) is not None for p in folder.rglob("*"))
    return (
        [
            f"{hidden} file(s) in it are hidden: their names, or folders above them, begin with _"
            " or ."
        ]
        if hidden
        else []
    )


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
    _reject_duplicates(source, [*frame.columns, *levels])
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


SCALAR_TYPES = frozenset({str, bool, int, float, bytes, dt.date})


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


def check_column_names(source: str, names: Sequence[str]) -> None:
    """Raise SourceError for column names that are duplicate, empty, or begin with __."""
    _reject_duplicates(source, names)
    bad = [name for name in names if not is_valid_name(name)]
    if bad:
        raise SourceError(
            f"{source} has {len(bad)} column(s) without a name that SQL can use",
            problems=[f"column {names.index(name) + 1} of {len(names)}: {name!r}" for name in bad],
            hint=(
                "give each column a name (pandas: to_csv(..., index=False),"
                " frame.reset_index(names='name'))"
            ),
        )
    ours = [name for name in names if name.startswith("__")]
    if ours:
        raise SourceError(
            f"{source} has the columns {', '.join(ours)}, and names that begin with __ are"
            " reserved",
            hint="drop or rename them (rejects contain __file, __row and __reason)",
        )


def _reject_duplicates(source: str, names: Sequence[str]) -> None:
    counts = Counter(name.lower() for name in names)
    duplicates = sorted({name for name in names if counts[name.lower()] > 1})
    if duplicates:
        raise SourceError(
            f"{source} has several columns named"
            f" {', '.join(name if name.strip() else repr(name) for name in duplicates)}",
            hint='give each column a name of its own; in SQL, "Price" and "price" are one name',
        )


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


def pattern(path: str) -> str:
    """Return a path as SQL; DuckDB takes every path for a pattern."""
    return literal(glob.escape(path))


def candidate_types(value: str | None) -> list[str]:
    """Return the types that a column may have, by one of its values; all types for None."""
    if value is None:
        return list(TYPE_CHECKS)
    fits = {
        "BIGINT": INTEGER_TEXT.fullmatch(value),
        "DOUBLE": _is_float(value),
        "BOOLEAN": value.lower() in ("true", "false"),
        "DATE": DATE_TEXT.fullmatch(value),
        "TIMESTAMP": TIMESTAMP_TEXT.match(value),
        "TIMESTAMP WITH TIME ZONE": TIMESTAMP_TEXT.match(value),
    }
    return [kind for kind in TYPE_CHECKS if fits[kind]]


def _is_float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def type_checks_sql(open_: Mapping[str, Sequence[str]]) -> str:
    """Return SQL that checks each text column against each candidate type: whether all values fit.

    The result is null if the column has no value.
    """
    sums = [
        f"bool_and(coalesce({TYPE_CHECKS[kind].replace('@', quote(name))}, FALSE))"
        f" FILTER (WHERE {quote(name)} IS NOT NULL)"
        for name, kinds in open_.items()
        for kind in kinds
    ]
    return ", ".join(f"{total} AS s{i}" for i, total in enumerate(sums))


def remaining_types(
    open_: Mapping[str, Sequence[str]], answers: Sequence[bool | None]
) -> dict[str, list[str]]:
    """Return the candidate types that no value contradicts."""
    given = iter(answers)
    return {
        name: [kind for kind in kinds if next(given) is not False] for name, kinds in open_.items()
    }


def _nearest_entries(full: Path) -> Sequence[str]:
    """Return the nearest existing folder, and some of its entries."""
    folder = full.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(
        p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith(".")
    )
    return [f"{folder} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"]


def _source_option(source: str, location: str) -> str:
    return f"name the location with --source {source}={location}"
