"""Where a source's rows are on this machine: files of a known kind, or a table already in memory.

Whatever it was, what leaves here is a query whose rows have their columns, `__file` and `__row`.
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
    NAMED,
    Partition,
    data_files,
    kind_of_file,
    matches,
    may_lead,
    own_partitions,
    partitions,
    refuse_tables,
    refuse_unread,
)
from .nesting import MOST_LEVELS, NESTED, is_too_deep

_ISO = r"\d{4}-\d\d-\d\d[ T]([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?"
_YEARS = "BETWEEN TIMESTAMP '0001-01-01 00:00:00' AND TIMESTAMP '9999-12-31 23:59:59.999999'"  # those that Python has
SETTLED = {
    "BIGINT": "CAST(TRY_CAST(@ AS BIGINT) AS VARCHAR) = @",
    # up to 15 digits a double holds every decimal; beyond that, only what it writes again in the same way
    "DOUBLE": r"""CASE WHEN CAST(TRY_CAST(@ AS DOUBLE) AS VARCHAR) = @ THEN @ NOT IN ('nan', '-nan', 'inf', '-inf')
        ELSE length(ltrim(translate(@, '-.', ''), '0')) <= 15 AND regexp_full_match(@, '-?(0|[1-9]\d*)(\.\d+)?') END""",
    "BOOLEAN": "lower(@) IN ('true', 'false')",
    "DATE": "CAST(TRY_CAST(@ AS DATE) AS VARCHAR) = @ AND TRY_CAST(@ AS DATE) BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'",
    "TIMESTAMP": f"regexp_full_match(@, '{_ISO}') AND TRY_CAST(@ AS TIMESTAMP) {_YEARS}",
    "TIMESTAMP WITH TIME ZONE": rf"regexp_full_match(@, '{_ISO}(Z|[+-]\d\d(:?\d\d)?)') AND CAST(TRY_CAST(@ AS TIMESTAMPTZ) AS TIMESTAMP) {_YEARS}",
}  # a type, and what is true of a text that becomes it without another meaning
WHOLE, DAY, MOMENT = (
    re.compile(r"-?\d+"),
    re.compile(r"\d{4}-\d\d-\d\d"),
    re.compile(r"\d{4}-\d\d-\d\d[ T]"),
)


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one kind, and the partition of each (none where they lie in no folders KEY=VALUE).

    `root` is the folder that holds all of them and the folders of their partitions.
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
        SourceError: there are none, they are of several kinds, or they belong to a table of Delta Lake, Iceberg or Hudi.
    """
    path = expand_user(place)
    full = Path(os.path.abspath(path if path.is_absolute() else expand_user(folder / path)))  # noqa: PTH100  # a link stays a link: its folders name partitions
    try:
        base, names = _listed(source, full)
        refuse_tables(source, (f"{base}/{name}" for name in names), _names_in)
        refuse_unread(source, str(full), names)
    except OSError as error:
        raise SourceError(
            f"{source}: {error.filename} cannot be listed: {error.strerror}",
            hint="name a place that can be read",
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
    names, parted = _each_once(source, base, names, partitions(source, above, names))
    names, parted = _without_empty(base, names, parted, kinds[names[0]])
    return Files(
        tuple(f"{base}/{name}" for name in names),
        kinds[names[0]],
        parted,
        "/" + "/".join(above[: len(above) - own_partitions(above)]),
    )


def _listed(source: str, full: Path) -> tuple[str, list[str]]:
    """Return a folder and the names of the files below it that a place stands for; SourceError if there are none."""
    if full.is_dir():
        base, names = full, data_files(_walk(full, None), None)
        if not names:
            raise SourceError(
                f"{source}: there is no Parquet, CSV or JSON-lines file in the folder {full}",
                problems=_hidden_in(full),
                hint=_pass(source, "DIR/*.parquet"),
            )
    elif full.is_file():  # before it is taken for a pattern: a name may hold [ and *
        base, names = full.parent, [full.name]
        if kind_of_file(full.name) is None:
            raise SourceError(
                f"{source}: the kind of 1 file(s) is not known", problems=[str(full)], hint=NAMED
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
                    hint=NAMED,
                )
            raise SourceError(
                f"{source}: no file matches {full}",
                problems=_near(full),
                hint=_pass(source, "PATH"),
            )
    else:
        raise SourceError(
            f"{source}: there is no file {full}", problems=_near(full), hint=_pass(source, "PATH")
        )
    return str(base).rstrip("/"), names


def _walk(base: Path, wanted: Sequence[str] | None) -> Iterator[str]:
    """Yield the names of the files below a folder, without those below hidden folders or ones that a pattern does not lead into.

    Links to folders are followed, one that leads back to a folder above it is not. A link to nothing is yielded, and missed later.
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


def _each_once(
    source: str, base: str, names: Sequence[str], parted: tuple[Partition, ...]
) -> tuple[list[str], tuple[Partition, ...]]:
    """Return the files, each under one name of those that it has in a partition: a link is another name of a file.

    Raises:
        SourceError: a link leads to no file.
    """
    folders: dict[str, str] = {}
    kept: dict[tuple[Any, ...], int] = {}
    for number, name in enumerate(names):
        path = f"{base}/{name}"
        if not Path(path).is_file():
            raise SourceError(
                f"{source}: {path} is a link to a file that is not there",
                hint="put the file back, or remove the link",
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
    """Return the files without those of text that have no byte, unless all have none: they hold no row. A Parquet file has bytes or is damaged."""
    sized = [
        n
        for n, name in enumerate(names)
        if kind == "parquet" or Path(f"{base}/{name}").stat().st_size
    ]
    if not sized:
        return names, parted
    return [names[n] for n in sized], tuple(parted[n] for n in sized) if parted else ()


def _names_in(folder: str) -> list[str] | None:
    return os.listdir(folder) if Path(folder).is_dir() else None  # noqa: PTH208  # names, and no paths


def _hidden_in(folder: Path) -> list[str]:
    """Return a finding about hidden files, if that is all that a folder holds."""
    hidden = sum(kind_of_file(p.name) is not None for p in folder.rglob("*"))
    return (
        [
            f"{hidden} file(s) there are hidden: their names, or folders above them, begin with _ or ."
        ]
        if hidden
        else []
    )


def as_table(source: str, frame: Any) -> pa.Table:
    """An Arrow table of a frame in memory: pandas, polars, Arrow, or anything that speaks Arrow's C stream.

    SourceError for what is no table, and for columns that would come out as something else.
    """
    _refuse_deep(source, frame)
    table = _in_micros(source, _converted(source, frame))
    refuse_ours(source, table.column_names)
    _refuse_unkept(source, table.schema)
    return _with_plain_texts(table)


def _refuse_deep(source: str, frame: Any) -> None:
    """Raise SourceError for columns whose values are nested too deep for Arrow, which would end this process."""
    if isinstance(frame, dict):
        columns = [
            (name, _listed_values(values))
            for name, values in frame.items()
            if isinstance(values, NESTED) or _is_object(values)
        ]
    elif type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "columns"):
        columns = [
            (name, _listed_values(frame.iloc[:, n]))
            for n, name in enumerate(frame.columns)
            if _is_object(frame.iloc[:, n])
        ]
    else:
        return  # it is Arrow's already
    deep = [str(name) for name, values in columns if is_too_deep(values)]
    if deep:
        raise SourceError(
            f"{source}: {', '.join(deep)} holds a value that is nested more than {MOST_LEVELS} levels deep",
            hint="does a list or a dict contain itself? write such values as text",
        )


def _is_object(values: Any) -> bool:
    """Whether a column is a pandas series or a NumPy array of Python's objects."""
    kind = getattr(values, "dtype", None)
    return isinstance(kind, np.dtype) and kind.hasobject


def _listed_values(values: Any) -> Any:
    """Return a column's values as they are quickest to go through."""
    return values.tolist() if _is_object(values) else values


def _converted(source: str, frame: Any) -> pa.Table:
    module, kind = type(frame).__module__.split(".")[0], type(frame).__qualname__
    pandas = module == "pandas" and kind != "Series"
    if (
        isinstance(frame, list | tuple)
        or kind == "Series"
        or not (pandas or isinstance(frame, dict) or hasattr(frame, "__arrow_c_stream__"))
    ):
        raise SourceError(
            f"{source}: {type(frame).__module__}.{kind} is no path and no table",
            hint="wanted a path or glob, or a pandas, polars or Arrow table; for several files name their folder, or a glob such as DIR/*.csv",
        )
    if pandas:
        return _of_pandas(source, frame)
    if isinstance(frame, dict):
        return _of_columns(source, frame)
    try:
        table = pa.table(frame)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
        hint = (
            "cast the column to a type that Arrow has"
            if module == "polars"
            else "wanted columns of one length, each of one type"
        )
        raise SourceError(f"{source}: {kind} cannot be made a table: {error}", hint=hint) from error
    if module == "polars" and (opaque := [f.name for f in table.schema if is_opaque(f.type)]):
        raise SourceError(
            f"{source}: {len(opaque)} column(s) hold Python objects, which SQL cannot",
            problems=opaque,
            hint="cast the column, or drop it",
        )
    return table


def _of_pandas(source: str, frame: Any) -> pa.Table:
    """A pandas frame, with its index where that has a name. Columns of objects hold values of one sort, as those of results do."""
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
    _refuse_twice(source, [*frame.columns, *levels])
    for name, level in levels.items():
        frame = frame.assign(**{name: index.get_level_values(level)})
    objects = [name for name in frame.columns if has_objects(frame[name])]
    made = {name: _column(source, name, frame[name].tolist(), nan_is_null=True) for name in objects}
    rest = frame.drop(columns=objects)
    columns = {
        name: made[name] if name in made else _typed_column(source, name, rest[[name]])
        for name in frame.columns
    }
    return pa.table(columns)


def _typed_column(source: str, name: str, frame: Any) -> pa.ChunkedArray:
    """The only column of a pandas frame, which has a type of its own."""
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


def _of_columns(source: str, columns: Mapping[str, Any]) -> pa.Table:
    """A dict of columns as a table."""
    made = {}
    for name, values in columns.items():
        library = type(values).__module__.partition(".")[0]
        masked = library == "numpy" and hasattr(values, "mask")
        if isinstance(values, list | tuple):
            made[name] = _column(source, str(name), list(values))
        elif library == "numpy" and values.ndim == 1 and (values.dtype.kind in "OV" or masked):
            made[name] = _column(source, str(name), values.tolist() if masked else list(values))
        elif library == "pandas" and hasattr(values, "dtype") and has_objects(values):
            made[name] = _column(source, str(name), values.tolist(), nan_is_null=True)
        elif library == "polars" and str(getattr(values, "dtype", "")) == "Object":
            made[name] = _column(source, str(name), values.to_list())
        else:
            made[name] = values
    try:
        return pa.table(made)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise SourceError(
            f"{source}: dict cannot be made a table: {error}",
            hint="wanted columns of one length, each of one type",
        ) from error


SCALARS = frozenset({str, bool, int, float, bytes, dt.date})


def _column(source: str, name: str, values: list[Any], nan_is_null: bool = False) -> pa.Array:
    """Python values as a column; SourceError where they are not of one sort, or of one that no column holds.

    Values of one plain type are Arrow's to convert; of a mixture it would make what the first value is, in silence.
    """
    kinds = set(map(type, values)) - {type(None)}
    if nan_is_null and len(kinds) > 1:
        values = [None if isinstance(v, float) and v != v else v for v in values]
        kinds = set(map(type, values)) - {type(None)}
    try:
        if (
            len(kinds) == 0
            or (len(kinds) == 1 and kinds <= SCALARS)
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
        found = ", ".join(
            sorted(
                {
                    f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
                    for kind in kinds
                }
            )
        )
        if kinds == {int}:
            words, hint = (
                "whole numbers of more than 64 bits",
                "make them floats, texts or Decimals",
            )
        elif len(kinds) == 1 and isinstance(error, ResultError):
            words, hint = "values that one column cannot hold", "give the values in it one type"
        elif len(kinds) > 1:
            words, hint = (
                "values of several types in one column",
                "give the column one type, as with frame.astype({...})",
            )
        else:
            words, hint = (
                "values of a type that no column has",
                "convert the values: to float, to text, or each to columns of its own",
            )
        raise SourceError(
            f"{source}: {name} holds {words}: {found}", problems=[str(error)[:300]], hint=hint
        ) from error


def _is_unsigned(values: Sequence[Any], kinds: set[type]) -> bool:
    """Whether whole numbers need the 64th bit: Arrow does not see that by itself."""
    return kinds == {int} and max(v for v in values if v is not None) >= 2**63


def refuse_ours(source: str, names: Sequence[str]) -> None:
    """SourceError for names that a source cannot have: doubled ones, empty ones, and those that begin as ours do."""
    _refuse_twice(source, names)
    bad = [name for name in names if not is_valid_name(name)]
    if bad:
        raise SourceError(
            f"{source} has {len(bad)} column(s) without a name that SQL can use",
            problems=[f"column {names.index(name) + 1} of {len(names)}: {name!r}" for name in bad],
            hint="give each column a name (pandas: to_csv(..., index=False), frame.reset_index(names='name'))",
        )
    ours = [name for name in names if name.startswith("__")]
    if ours:
        raise SourceError(
            f"{source} has the columns {', '.join(ours)}, and columns that begin with __ are ours",
            hint="drop or rename them (rejects bring __file, __row and __reason with them)",
        )


def _refuse_twice(source: str, names: Sequence[str]) -> None:
    counts = Counter(name.lower() for name in names)
    twice = sorted({name for name in names if counts[name.lower()] > 1})
    if twice:
        raise SourceError(
            f"{source} has several columns named {', '.join(name if name.strip() else repr(name) for name in twice)}",
            hint='give each column a name of its own; to SQL, "Price" and "price" are one name',
        )


def _refuse_unkept(source: str, schema: pa.Schema) -> None:
    """Refuse the types that Parquet or SQL would turn into another."""
    unkept = {f.name: f.type for f in schema if _unkept(f.type)}
    if unkept:
        raise SourceError(
            f"{source}: {len(unkept)} column(s) have a type that would become another",
            problems=[f"{name}: {kind}" for name, kind in unkept.items()],
            hint="convert a duration to seconds as float, an interval of pandas to its two ends, a period to a date or text, "
            "a decimal of more than 38 digits to text; a dict without a key to null",
        )


def _in_micros(source: str, table: pa.Table) -> pa.Table:
    """The table with times of seconds in microseconds, as Parquet and SQL have them; SourceError where one is too far off."""
    for position, field in enumerate(table.schema):
        if pa.types.is_date64(field.type):
            try:
                table = table.set_column(
                    position, field.name, table.column(position).cast(pa.date32())
                )
            except pa.ArrowInvalid as error:
                raise SourceError(
                    f"{source}: {field.name} ({field.type}) holds a time of day in a date: {error}",
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
                    f"{source}: {field.name} ({field.type}) holds a time that SQL cannot: {error}",
                    hint="SQL holds times in microseconds, up to the year 294246; set what is beyond to null",
                ) from error
    return table


def _unkept(kind: pa.DataType) -> bool:
    pandas = getattr(kind, "extension_name", "").startswith(
        "pandas."
    )  # periods, and intervals, which lose a side
    if pa.types.is_dictionary(kind):
        return _unkept(kind.value_type)
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return not kind.num_fields or any(
            _unkept(kind.field(n).type) for n in range(kind.num_fields)
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
    """The table with dictionaries of plain text: polars' categories are of string_view, which Parquet cannot write."""
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
    """A path as SQL, where DuckDB takes every path for a pattern."""
    return literal(glob.escape(path))


def possible(value: str | None) -> list[str]:
    """Return the types that a column may have, by one of its values: those of which the value may be. All where there is no value."""
    if value is None:
        return list(SETTLED)
    fits = {
        "BIGINT": WHOLE.fullmatch(value),
        "DOUBLE": _is_float(value),
        "BOOLEAN": value.lower() in ("true", "false"),
        "DATE": DAY.fullmatch(value),
        "TIMESTAMP": MOMENT.match(value),
        "TIMESTAMP WITH TIME ZONE": MOMENT.match(value),
    }
    return [kind for kind in SETTLED if fits[kind]]


def _is_float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def settling(open_: Mapping[str, Sequence[str]]) -> str:
    """For each column of texts and each type that it may have: whether all of its values are of that type (null where it has none)."""
    sums = [
        f"bool_and(coalesce({SETTLED[kind].replace('@', quote(name))}, FALSE)) FILTER (WHERE {quote(name)} IS NOT NULL)"
        for name, kinds in open_.items()
        for kind in kinds
    ]
    return ", ".join(f"{total} AS s{i}" for i, total in enumerate(sums))


def still_open(
    open_: Mapping[str, Sequence[str]], answers: Sequence[bool | None]
) -> dict[str, list[str]]:
    """The types that no value has spoken against."""
    said = iter(answers)
    return {
        name: [kind for kind in kinds if next(said) is not False] for name, kinds in open_.items()
    }


def _near(full: Path) -> Sequence[str]:
    """What is there instead: the deepest folder that exists, and some of what it holds."""
    folder = full.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(
        p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith(".")
    )
    return [f"{folder} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"]


def _pass(source: str, what: str) -> str:
    return f"name the place with --source {source}={what}"
