"""Preparation of CSV files for DuckDB, so that it reads only text that every CSV reader understands
in the same way.

Each file is scanned first (`csv_records`). A file whose records are all written as in RFC 4180 is
read in place. Of any other file the valid records are rewritten into a copy that is read instead,
and the malformed lines are kept with their reasons. DuckDB must find as many rows as the scan did.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ...contract import literal, quote
from ...errors import HomeError, SourceError
from ...job import Csv
from .csv_dialect import EXTRA, Dialect, detect_dialect, encoding_hint, read_error
from .csv_records import ENCODING_RULE, MalformedLine, Scan, scan

DEFAULT_MAX_LINE_BYTES = 2_000_000  # of a line that DuckDB reads by default
IMPOSSIBLE_TEXT = "\x1fhundredfold: no text is null\x1f"
DEFAULT_FACTS = {
    "delimiter": ",",
    "quote": '"',
    "encoding": "utf-8",
    "decimal": ".",
    "null": [""],
    "header": True,
    "compression": None,
}
MALFORMED_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "row": pa.int64(),
        "rule": pa.string(),
        "message": pa.string(),
        "line": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A file that is ready to be read: by its own path, or that of a copy."""

    path: str
    read: str
    dialect: Dialect
    scan: Scan

    @property
    def is_copy(self) -> bool:
        return self.read != self.path

    def sql(self, pattern: Callable[[str], str], *, named: bool = True) -> str:
        """Return a query of the file's rows, all values as text, with its path if `named`.

        pattern: writes a path as SQL.
        """
        d = self.dialect
        names = [*d.names, *([EXTRA] if d.trailing else [])]
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
        nulls = ", ".join(literal(text) for text in d.null if d.delimiter not in text) or literal(
            IMPOSSIBLE_TEXT
        )
        sign = literal(d.quote or "")
        options = [
            "auto_detect = false",
            f"header = {str(d.header and not self.is_copy).lower()}",
            f"columns = {{{columns}}}",
            f"delim = {literal(d.delimiter)}, quote = {sign}, escape = {sign}",
            f"nullstr = [{nulls}], allow_quoted_nulls = {str(d.null == ('',)).lower()}",
            r"new_line = '\r\n'"
            if self.scan.newline == b"\r\n" and not self.is_copy
            else r"new_line = '\n'",
            f"compression = {literal('none' if self.is_copy else d.compression or 'none')}",
            *(["parallel = false"] if self.scan.multiline else []),
            *(
                [f"max_line_size = {self.scan.longest + 100}"]
                if self.scan.longest + 100 > DEFAULT_MAX_LINE_BYTES
                else []
            ),
        ]
        # an empty value is null, quoted or not: writers that quote every value write a null as ""
        empty_is_null = "" in d.null and d.null != ("",)
        select = ", ".join(
            f"nullif({quote(n)}, '') AS {quote(n)}" if empty_is_null else quote(n) for n in d.names
        )
        file = f", {literal(self.path)} AS __file" if named else ""
        return (
            f"SELECT {select}{file} FROM read_csv({pattern(self.read)}, hive_partitioning = false,"
            f" {', '.join(options)})"
        )


def prepare_csv(
    source: str,
    paths: Sequence[str],
    csv: Csv,
    columns: Sequence[str],
    copies: Path,
    *,
    rewrite: bool,
    tick: Callable[[], None],
) -> list[CsvFile]:
    """Scan files, and copy those that need it into the folder `copies`; skip files without a line.

    With `rewrite` all are copied.

    Raises:
        SourceError: a file cannot be read, or none has a line.
    """
    found = []
    for number, path in enumerate(paths):
        dialect = detect_dialect(source, path, csv, columns)
        if dialect.names:
            found.append(
                _prepare_file(source, path, dialect, copies / f"{number}.csv", rewrite, tick)
            )
    if not found:
        raise SourceError(
            f"{source} is empty: {paths[0]} has no line",
            hint=f"name another path with --source {source}=PATH",
        )
    return found


def _prepare_file(
    source: str, path: str, dialect: Dialect, copy: Path, rewrite: bool, tick: Callable[[], None]
) -> CsvFile:
    try:
        if dialect.is_plain and not rewrite:
            seen = _scan_file(path, dialect, None, tick)
            if seen.as_is:
                return CsvFile(path, path, dialect, seen)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("wb") as out:
            seen = _scan_file(path, dialect, out, tick)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HomeError(
                f"the disk is full: {copy.parent}",
                hint="free some space, or move the runs with --home",
            ) from error
        raise read_error(source, path, dialect.compression, error) from error
    _reject_other_encoding(source, path, dialect, seen)
    return CsvFile(path, str(copy), dialect, seen)


def _scan_file(path: str, dialect: Dialect, out: BinaryIO | None, tick: Callable[[], None]) -> Scan:
    with dialect.open(path) as text:
        return scan(
            text,
            dialect.grammar,
            len(dialect.names),
            dialect.first_line,
            trailing=dialect.trailing,
            nulls=dialect.null,
            out=out,
            tick=tick,
        )


def _reject_other_encoding(source: str, path: str, dialect: Dialect, seen: Scan) -> None:
    """Raise SourceError for a file with several lines that are invalid in its encoding, and none
    valid beyond ASCII.
    """
    bad = [torn for torn in seen.malformed if torn.rule == ENCODING_RULE]
    if len(bad) > 1 and not seen.non_ascii and all(name.isascii() for name in dialect.names):
        raise SourceError(
            f"{source}: {path} is not encoded in {'UTF-8' if dialect.is_utf8 else dialect.encoding}"
            f": {len(bad):,} lines are invalid",
            problems=[
                f"line {line.line}: {line.problem}: {line.text[:60]}"
                for line in (_in_encoding(torn, dialect) for torn in bad[:3])
            ],
            hint=encoding_hint(source),
        )


def malformed_lines(files: Iterable[CsvFile]) -> pa.Table:
    """Return the malformed lines of all files."""
    rows = [(f.path, _in_encoding(torn, f.dialect)) for f in files for torn in f.scan.malformed]
    return pa.table(
        [
            [path for path, _ in rows],
            [torn.line for _, torn in rows],
            [torn.rule for _, torn in rows],
            [f"malformed line {torn.line}: {torn.problem}" for _, torn in rows],
            [torn.text for _, torn in rows],
        ],
        schema=MALFORMED_SCHEMA,
    )


def _in_encoding(torn: MalformedLine, dialect: Dialect) -> MalformedLine:
    """Return a line with its rule in terms of the file's encoding, not of the copy's UTF-8."""
    if torn.rule != ENCODING_RULE or dialect.is_utf8:
        return torn
    rule = f"must be {dialect.encoding}"
    return replace(torn, rule=rule, problem=f"bytes that are not {dialect.encoding}")


def dialect_facts(files: Sequence[CsvFile]) -> list[dict[str, Any]]:
    """Return the detected dialects, for the run's record; files with equal ones share one."""
    groups: dict[str, list[CsvFile]] = {}
    for file in files:
        groups.setdefault(repr(file.dialect.facts), []).append(file)
    facts = []
    for group in groups.values():
        doubtful = next((f for f in group if f.scan.suspicious), None)
        facts.append(
            {
                **group[0].dialect.facts,
                "files": len(group),
                "first": group[0].path,
                "multiline": sum(f.scan.multiline for f in group),
                "doubtful": sum(f.scan.suspicious for f in group),
                "first_doubtful": f"line {doubtful.scan.first_suspicious} of {doubtful.path}"
                if doubtful
                else "",
            }
        )
    return facts


def describe_facts(facts: Mapping[str, Any]) -> list[str]:
    """Return the facts that differ from the defaults, and those that a person should check."""
    odd = [
        f"{key} {_describe_value(facts[key])}"
        for key, plain in DEFAULT_FACTS.items()
        if facts[key] != plain
    ]
    files = f" ({facts['files']:,} files)" if facts["files"] > 1 else ""
    lines = [f"CSV with {', '.join(odd)}{files}"] if odd else []
    if facts["doubtful"]:
        lines.append(
            f"CSV: {facts['doubtful']:,} quoted values extend over lines that could be rows; the"
            f" first begins in {facts['first_doubtful']}"
            " (if a quote is missing there: csv=Csv(multiline=False))"
        )
    return lines


def _describe_value(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(f'"{text}"' for text in value) or "none"
    return {None: "none", False: "none", "\t": "tab"}.get(
        value, f'"{value}"' if len(str(value)) < 2 else str(value)
    )


def text_to_cast(name: str, decimal: str, null: Sequence[str]) -> str:
    """Return SQL of the text that is cast to another type, with "." as its decimal sign.

    It is null for an empty text or a null text, quoted or not.
    """
    text = quote(name)
    if decimal == ",":
        text = (
            f"CASE WHEN regexp_full_match({text}, '[^.,]*,[^.,]*') THEN replace({text}, ',', '.')"
            rf" WHEN regexp_full_match({text}, '\s*[+-]?\d*\.\d*([eE][+-]?\d+)?\s*') THEN {text}"
            r" || ' (the decimal sign is a comma)'"
            f" ELSE {text} END"
        )
    return (
        f"CASE WHEN {quote(name)} IN ({', '.join(map(literal, sorted({*null, ''})))}) THEN NULL"
        f" ELSE {text} END"
    )
