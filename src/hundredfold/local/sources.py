"""Where a source's rows are on this machine: files of a known kind, or a table already in memory.

Whatever it was, what leaves here is a query whose rows have their columns, `__file` and `__row`.
"""

from __future__ import annotations

import glob
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..contract import literal, quote
from ..errors import SourceError

KINDS = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
PACKED = (".gz", ".zst")

_ISO = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
SETTLED = {
    "BIGINT": "CAST(TRY_CAST(@ AS BIGINT) AS VARCHAR) = @",
    # up to 15 digits a double holds every decimal; beyond that, only what it writes again in the same way
    "DOUBLE": r"""CASE WHEN CAST(TRY_CAST(@ AS DOUBLE) AS VARCHAR) = @ THEN @ NOT IN ('nan', '-nan', 'inf', '-inf')
        ELSE length(ltrim(translate(@, '-.', ''), '0')) <= 15 AND regexp_full_match(@, '-?(0|[1-9]\d*)(\.\d+)?') END""",
    "BOOLEAN": "lower(@) IN ('true', 'false')",
    "DATE": "CAST(TRY_CAST(@ AS DATE) AS VARCHAR) = @",
    "TIMESTAMP": f"regexp_full_match(@, '{_ISO}') AND TRY_CAST(@ AS TIMESTAMP) IS NOT NULL",
    "TIMESTAMP WITH TIME ZONE": rf"regexp_full_match(@, '{_ISO}(Z|[+-]\d\d(:?\d\d)?)') AND TRY_CAST(@ AS TIMESTAMPTZ) IS NOT NULL",
}  # a type, and what is true of a text that becomes it without another meaning


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one kind."""

    paths: tuple[str, ...]
    kind: str

    @property
    def sql_list(self) -> str:
        return "[" + ", ".join(map(pattern, self.paths)) + "]"


def find_files(source: str, place: str, folder: Path) -> Files:
    """The files that a path, a glob or a folder names; SourceError if there are none, or of several kinds."""
    path = Path(place).expanduser()
    full = path if path.is_absolute() else folder / path
    if full.is_dir():
        names = sorted(str(p) for p in full.rglob("*") if p.is_file() and not p.name.startswith((".", "_")) and kind_of_file(p.name))
        if not names:
            raise SourceError(
                f"{source}: there is no Parquet, CSV or JSON-lines file in the folder {full}", hint=_pass(source, "DIR/*.parquet")
            )
    elif full.is_file():  # before it is taken for a pattern: a name may hold [ and *
        names = [str(full)]
    elif glob.has_magic(str(full)):
        names = sorted(name for name in glob.glob(str(full), recursive=True) if Path(name).is_file())  # noqa: PTH207  # Path has no glob of an absolute pattern
        if not names:
            raise SourceError(f"{source}: no file matches {full}", problems=_near(full), hint=_pass(source, "PATH"))
    else:
        raise SourceError(f"{source}: there is no file {full}", problems=_near(full), hint=_pass(source, "PATH"))
    kinds = {name: kind_of_file(name) for name in names}
    unknown = [name for name, kind in kinds.items() if kind is None]
    if unknown:
        raise SourceError(
            f"{source}: the kind of {len(unknown)} file(s) is not known",
            problems=unknown,
            hint="wanted a name that ends with .parquet, .csv, .tsv, .jsonl or .ndjson (or one of the last four with .gz or .zst)",
        )
    if len(set(kinds.values())) > 1:
        raise SourceError(
            f"{source}: its files are of several kinds: {', '.join(sorted(map(str, set(kinds.values()))))}",
            problems=names,
            hint="name one kind, such as DIR/*.parquet",
        )
    return Files(tuple(str(Path(n).resolve()) for n in names), str(kinds[names[0]]))


def as_table(source: str, frame: Any) -> pa.Table:
    """An Arrow table of a frame in memory: pandas, polars, Arrow, or anything that speaks Arrow's C stream.

    SourceError for what is no table, and for columns that would come out as something else.
    """
    table = _converted(source, frame)
    refuse_ours(source, table.column_names)
    _refuse_unkept(source, table.schema)
    return _with_plain_texts(table)


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
    try:
        if not pandas:
            return pa.table(frame)
        _refuse_twice(source, [str(name) for name in frame.columns])
        unnamed = all(name is None for name in frame.index.names)
        return pa.Table.from_pandas(frame, preserve_index=not unnamed).replace_schema_metadata(None)
    except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
        words = "the frame holds values of several types in one column" if pandas else f"{kind} cannot be made a table"
        hint = "give the column one type, as with frame.astype({...})" if pandas else "wanted columns of one length, each of one type"
        raise SourceError(f"{source}: {words}: {error}", hint=hint) from error


def refuse_ours(source: str, names: Sequence[str]) -> None:
    """SourceError for names that a source cannot have: doubled ones, and those that begin as ours do."""
    _refuse_twice(source, names)
    ours = [name for name in names if name.startswith("__")]
    if ours:
        raise SourceError(
            f"{source} has the columns {', '.join(ours)}, and columns that begin with __ are ours",
            hint="drop or rename them (rejects bring __file, __row and __reason with them)",
        )


def _refuse_twice(source: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"{source} has several columns named {', '.join(twice)}", hint="give each column a name of its own")


def _refuse_unkept(source: str, schema: pa.Schema) -> None:
    """Refuse the types that Parquet or SQL would turn into another."""
    unkept = {f.name: f.type for f in schema if _unkept(f.type)}
    if unkept:
        raise SourceError(
            f"{source}: {len(unkept)} column(s) have a type that would become another",
            problems=[f"{name}: {kind}" for name, kind in unkept.items()],
            hint="convert a duration to seconds as float, a period to a date or text, a decimal of more than 38 digits to text",
        )


def _unkept(kind: pa.DataType) -> bool:
    period = getattr(kind, "extension_name", "") == "pandas.period"
    return bool(period or pa.types.is_duration(kind) or pa.types.is_decimal256(kind))


def _with_plain_texts(table: pa.Table) -> pa.Table:
    """The table with dictionaries of plain text: polars' categories are of string_view, which Parquet cannot write."""
    for i, f in enumerate(table.schema):
        if pa.types.is_dictionary(f.type) and pa.types.is_string_view(f.type.value_type):
            chunks = [pa.DictionaryArray.from_arrays(c.indices, c.dictionary.cast(pa.string())) for c in table.column(i).chunks]
            kind = pa.dictionary(f.type.index_type, pa.string())
            table = table.set_column(i, f.name, pa.chunked_array(chunks, kind))
    return table


def pattern(path: str) -> str:
    """A path as SQL, where DuckDB takes every path for a pattern."""
    return literal(glob.escape(path))


def settling(open_: Mapping[str, Sequence[str]]) -> str:
    """For each column of texts and each type that it may have: whether all of its values are of that type (null where it has none)."""
    sums = [
        f"bool_and(coalesce({SETTLED[kind].replace('@', quote(name))}, FALSE)) FILTER (WHERE {quote(name)} IS NOT NULL)"
        for name, kinds in open_.items()
        for kind in kinds
    ]
    return ", ".join(f"{total} AS s{i}" for i, total in enumerate(sums))


def still_open(open_: Mapping[str, Sequence[str]], answers: Sequence[bool | None]) -> dict[str, list[str]]:
    """The types that no value has spoken against."""
    said = iter(answers)
    return {name: [kind for kind in kinds if next(said) is not False] for name, kinds in open_.items()}


def bad_json(paths: Sequence[str]) -> str | None:
    """The file and line of the first line that is no JSON object, in words; None if there is none that can be told."""
    for path in paths:
        for number, line in _lines(path):
            try:
                fine = isinstance(json.loads(line), dict)
            except ValueError:
                fine = False
            if not fine:
                return f"line {number} of {path} is no JSON object: {line[:60]}"
    return None


def _lines(path: str) -> Iterator[tuple[int, str]]:
    if path.endswith(".zst"):
        return
    with (gzip.open if path.lower().endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        yield from ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())


def kind_of_file(name: str) -> str | None:
    """parquet, csv or json, from a file's name; None if it tells none."""
    path = Path(name)
    if path.suffix.lower() in PACKED:
        inner = KINDS.get(Path(path.stem).suffix.lower())
        return inner if inner != "parquet" else None
    return KINDS.get(path.suffix.lower())


def _near(full: Path) -> Sequence[str]:
    """What is there instead: the deepest folder that exists, and some of what it holds."""
    folder = full.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    return [f"{folder} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"]


def _pass(source: str, what: str) -> str:
    return f"name the place with --source {source}={what}"
