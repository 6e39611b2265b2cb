"""JSON lines, read with the types that their values have in JSON.

Theory of operation. DuckDB's reader is fast, and exact for fields of one kind. It converts texts
that look like dates or UUIDs, so such columns are declared as texts. Values that it would silently
change are not passed to it: fields of several kinds, integers that a double would round, numbers
beyond a double. A source with such values is read by this module, line by line with Python's
parser, and numbers are kept as written until the type of their column is known. Each field becomes:

    only texts                                  text
    only true and false                         boolean
    only integers                               int64; decimal(38, 0) if one is larger
    only numbers                                double, if it holds every integer among them
    texts beside numbers or booleans            text, each as it is written
    lists, objects                              list, struct, by the same rules inside
    lists or objects beside other values        rejected, with the line
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import SourceError
from .files import check_column_names

CHUNK_LINES = 20_000  # held in memory at a time
# a number that a double may not hold
INEXACT_NUMBER = r"[:\[,]\s*-?[0-9]{16,}|[:\[,]\s*-?[0-9.]+[eE][+-]?[0-9]{3,}"
# a number whose digits a double may not hold
INEXACT_DIGITS = r"[:\[,]\s*-?[0-9.]{17,}|[:\[,]\s*-?[0-9.]+[eE][+-]?[0-9]{3,}"
EXACT_TYPES = {"BIGINT": "BIGINT", "DOUBLE": "DOUBLE", "BOOLEAN": "BOOLEAN"}
RETYPED_TEXTS = ("VARCHAR", "DATE", "TIME", "TIMESTAMP", "UUID")
ARRAY_PROBLEM = "begins with [: it is one JSON array, or lines of arrays"
OBJECT_HINT = "correct or remove that line: wanted one JSON object per line"
ARRAY_HINT = (
    "wanted one JSON object per line: jq -c '.[]' FILE > FILE.jsonl converts an array to such lines"
)
TYPE_HINT = (
    'give the field one type, or declare a contract: with "field: str" every value is its text'
)


class Number(str):
    """A number as it is written."""

    __slots__ = ()

    @property
    def is_whole(self) -> bool:
        return self.lstrip("-").isdigit()


class InvalidLine(ValueError):
    """A line cannot be read; the message is the reason."""


def sql_type(kind: Any) -> str | None:
    """Return the type as which DuckDB reads a field unchanged, from the type that it inferred.

    Return None if there is none.
    """
    name, inner = str(kind), kind.id
    if inner not in ("list", "struct", "map"):
        return EXACT_TYPES.get(name) or ("VARCHAR" if name.startswith(RETYPED_TEXTS) else None)
    parts = [(part, sql_type(child)) for part, child in kind.children]
    if not parts or any(part is None for _, part in parts):
        return None
    if inner == "list":
        return f"{parts[0][1]}[]"
    if inner == "map":
        return f"MAP({parts[0][1]}, {parts[1][1]})"
    fields = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}" {part}' for name, part in parts)
    return f"STRUCT({fields})"


# ---- lines


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, and their numbers."""
    ending = path.lower().rpartition(".")[2]
    packed = {"gz": "gzip", "zst": "zstd"}.get(ending)
    with pa.input_stream(path, compression=packed) as stream:
        rest, number = b"", 0
        while block := stream.read(2**20):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                number += 1
                if text := _decode(path, line, number).strip():
                    yield number, text
        if text := _decode(path, rest, number + 1).strip():
            yield number + 1, text


def _decode(path: str, line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidLine(
            f"line {number} of {path} is not UTF-8: {error.reason} at its byte {error.start + 1}"
        ) from None


def parse(path: str, number: int, line: str) -> dict[str, Any]:
    """Return the object of a line, its numbers as they are written.

    Raises:
        InvalidLine: the line is no JSON object, or an object has a field twice.
    """
    try:
        found = json.loads(
            line,
            parse_int=Number,
            parse_float=Number,
            parse_constant=Number,
            object_pairs_hook=lambda pairs: _without_duplicates(path, number, pairs),
        )
    except (json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        if line.startswith("["):
            raise InvalidLine(f"line {number} of {path} {ARRAY_PROBLEM}")
        raise InvalidLine(f"line {number} of {path} is no JSON object: {line[:60]}")
    if "\\u" in line:
        try:
            _json(found).encode()
        except UnicodeEncodeError:
            raise InvalidLine(
                f"line {number} of {path} contains half of a surrogate pair: {line[:60]}"
            ) from None
    return found


def hint_for(bad: str) -> str:
    """Return the remedy for a line that cannot be read."""
    return ARRAY_HINT if ARRAY_PROBLEM in bad else OBJECT_HINT


def _without_duplicates(path: str, number: int, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise InvalidLine(
            f"line {number} of {path} has a field twice:"
            f" {next(name for name in names if names.count(name) > 1)}"
        )
    return found


def first_invalid_line(paths: Sequence[str]) -> str | None:
    """Return the file, number and problem of the first line that cannot be read; None if there is
    none.
    """
    for path in paths:
        try:
            for number, line in lines(path):
                parse(path, number, line)
        except InvalidLine as error:
            return str(error)
        except (OSError, EOFError, pa.ArrowException) as error:
            return f"{path}: {error}"
    return None


# ---- the kinds of values


class FieldKinds:
    """The kinds of values of a field, and those of its elements and of the fields in it."""

    __slots__ = ("by_lowercase", "element", "fields", "names")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.element: FieldKinds | None = None
        self.fields: dict[str, FieldKinds] = {}
        # names of fields, by the same names in lower case
        self.by_lowercase: dict[str, str] = {}

    def add(self, value: Any, path: str) -> None:
        if value is None:
            return
        if isinstance(value, list):
            self.names.add("list")
            self.element = self.element or FieldKinds()
            for each in value:
                self.element.add(each, f"{path}[]")
        elif isinstance(value, dict):
            self.names.add("object")
            for name, each in value.items():
                self._check_name(name, path)
                (self.fields.get(name) or self.fields.setdefault(name, FieldKinds())).add(
                    each, f"{path}.{name}"
                )
        else:
            self.names.add(_scalar(value))
        if len(self.names) > 1 and self.names & {"list", "object"}:
            raise InvalidLine(
                f"{path} holds {' and '.join(sorted(_plural(name) for name in self.names))}"
            )

    def _check_name(self, name: str, path: str) -> None:
        """Reject a field without a name, or whose name differs from another only in case."""
        if name in self.fields:
            return
        if not name:
            raise InvalidLine(f"{path} has an object with a field without a name")
        like = self.by_lowercase.setdefault(name.lower(), name)
        if like != name:
            raise InvalidLine(
                f"{path} has objects with the fields {like} and {name}, which are one name in SQL"
            )

    def arrow(self, path: str) -> pa.DataType:
        """Return the type that holds every value unchanged.

        Raises:
            InvalidLine: no type does.
        """
        names = self.names
        if not names or "text" in names or ("boolean" in names and len(names) > 1):
            return pa.string()
        if names == {"boolean"}:
            return pa.bool_()
        if "list" in names:
            assert self.element is not None
            return pa.list_(self.element.arrow(f"{path}[]"))
        if "object" in names:
            return (
                pa.struct(
                    [(name, kind.arrow(f"{path}.{name}")) for name, kind in self.fields.items()]
                )
                if self.fields
                else pa.string()
            )
        for unheld in ("a number beyond a double", "a whole number of more than 38 digits"):
            if unheld in names:
                raise InvalidLine(f"{path} holds {unheld}")
        if "number" in names:
            if names & {"a whole number beyond 2^53", "a large whole number"}:
                raise InvalidLine(
                    f"{path} has fractions, and a whole number beyond 2^53 that a double would"
                    " round"
                )
            return pa.float64()
        return pa.decimal128(38, 0) if "a large whole number" in names else pa.int64()


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if not isinstance(value, Number):
        return "text"
    if value.is_whole:
        whole = int(value) if len(value) < 50 else 10**49
        if -(2**63) <= whole < 2**63:
            return "whole number" if int(float(whole)) == whole else "a whole number beyond 2^53"
        return (
            "a large whole number"
            if abs(whole) < 10**38
            else "a whole number of more than 38 digits"
        )
    near = float(value)
    if math.isinf(near) and value.lstrip("-")[0].isdigit():
        return "a number beyond a double"
    return "number"


def _plural(name: str) -> str:
    return {"text": "texts", "list": "lists", "object": "objects", "boolean": "booleans"}.get(
        name, "numbers"
    )


def to_arrow_value(value: Any, kind: pa.DataType) -> Any:
    """Return a value of a line as Arrow accepts it for that type."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return to_text(value)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_integer(kind):
        return int(value)
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_list(kind):
        return [to_arrow_value(each, kind.value_type) for each in value]
    if pa.types.is_struct(kind):
        return {field.name: to_arrow_value(value.get(field.name), field.type) for field in kind}
    return value


def to_text(value: Any) -> str:
    """Return a value as text: the content of a text, any other value as it is written in JSON."""
    return str(value) if isinstance(value, str) else _json(value)


def json_with_text_numbers(value: Any, kind: pa.DataType) -> str:
    """Return a value of a list or map type as JSON with every number as text, as it is written.

    Readers would reformat numbers.
    """
    if value is None:
        return "null"
    if pa.types.is_list(kind) and isinstance(value, list):
        return f"[{', '.join(json_with_text_numbers(each, kind.value_type) for each in value)}]"
    if pa.types.is_map(kind) and isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"{_quoted(name)}: {json_with_text_numbers(each, kind.item_type)}"
                for name, each in value.items()
            )
            + "}"
        )
    return (
        _quoted(to_text(value))
        if pa.types.is_string(kind) or isinstance(value, Number)
        else _json(value)
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_quoted(name)}: {_json(each)}" for name, each in value.items()) + "}"
        )
    return json.dumps(value, ensure_ascii=False)


# ---- the whole source


def read_lines(
    source: str, paths: Sequence[str], texts: Mapping[str, pa.DataType], out: Path
) -> list[str]:
    """Write the rows of files as Parquet, with `__file` and `__row`.

    Return the columns that contain JSON of lists and objects.

    texts: the columns that a contract casts, with its types; their values are written as text,
    lists and maps as JSON.
    """
    kinds: dict[str, FieldKinds] = {}
    for path, _, number, row in _rows(source, paths):
        try:
            for name, value in row.items():
                if name not in texts:
                    (kinds.get(name) or kinds.setdefault(name, FieldKinds())).add(value, name)
                elif name not in kinds:
                    kinds[name] = FieldKinds()
        except InvalidLine as error:
            raise SourceError(
                f"{source}: line {number} of {path}: {error}", hint=TYPE_HINT
            ) from error
    try:
        fields = [
            pa.field(name, pa.string() if name in texts else kind.arrow(name))
            for name, kind in kinds.items()
        ]
    except InvalidLine as error:
        raise SourceError(f"{source}: {error}", hint=TYPE_HINT) from error
    check_column_names(source, list(kinds))
    schema = pa.schema([("__file", pa.string()), ("__row", pa.int64()), *fields])
    with pq.ParquetWriter(out, schema, compression="zstd") as file:
        for chunk in _chunks(_rows(source, paths)):
            columns = [[path for path, *_ in chunk], [row for _, row, *_ in chunk]]
            columns += [[_value(row.get(f.name), f, texts) for *_, row in chunk] for f in fields]
            file.write_batch(
                pa.RecordBatch.from_arrays(
                    [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)],
                    schema=schema,
                )
            )
    return [name for name, kind in texts.items() if pa.types.is_nested(kind) and name in kinds]


def _value(value: Any, field: pa.Field, texts: Mapping[str, pa.DataType]) -> Any:
    if value is not None and field.name in texts and pa.types.is_nested(texts[field.name]):
        return json_with_text_numbers(value, texts[field.name])
    return to_arrow_value(value, field.type)


def _rows(source: str, paths: Iterable[str]) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Yield file, number of the row, number of the line, and the row."""
    for path in paths:
        try:
            for row, (number, line) in enumerate(lines(path), 1):
                yield path, row, number, parse(path, number, line)
        except InvalidLine as error:
            raise SourceError(
                f"{source} cannot be read as json: {error}", hint=hint_for(str(error))
            ) from error


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK_LINES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
