"""The rows of the sources: accepted, repaired, rejected, dropped; the first rejected rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contract import quote
from ..pipeline.validation_results import Finding, ValidationResult
from .charts import Segment, bar, legend
from .html import Content, Markup, element
from .run_files import RunFiles
from .tables import cell, details, table

MAX_ROWS = 50  # rejected rows of a source
MAX_COLUMNS = 40  # of a rejected row
FILE, NUMBER, REASON, LINE = "__file", "__row", "__reason", "__line"
COUNTS = "__counts"  # whether the row counts against the limit
KINDS = (("good", "accepted"), ("bad", "rejected"), ("calm", "dropped"), ("warn", "repaired"))


def rows_section(files: RunFiles) -> Markup | None:
    """Return the counts of each source, the reasons, and the first rejected rows."""
    sources = files.summary["sources"]
    if not sources:
        return None
    lines = [
        (
            name,
            _bar(each),
            each["rows"],
            each["accepted"],
            each["repaired"],
            each["rejected"],
            each["dropped"],
        )
        for name, each in sources.items()
    ]
    heads = ("source", "rows", "in", "accepted", "repaired", "rejected", "dropped")
    note = (
        "Rows in = accepted + rejected + dropped. Dropped are copies and superseded rows. "
        "Repaired rows are among the accepted and the rejected ones."
    )
    parts = [legend(KINDS), table("Rows of each source", heads, lines, note)]
    for found in files.validation:
        if found.findings or found.dropped:
            parts.append(_source(files, found))
    return Markup("".join(parts))


def _bar(counts: Mapping[str, Any]) -> Markup:
    """Return the bar of a source; repaired rows are a thin line over the others."""
    parts = [
        Segment(counts[name], kind, f"{counts[name]:,} {name}")
        for kind, name in KINDS
        if name != "repaired"
    ]
    repaired = Segment(counts["repaired"], "warn thin", f"{counts['repaired']:,} repaired", 0)
    return bar([*parts, repaired], counts["rows"])


def _source(files: RunFiles, found: ValidationResult) -> Markup:
    """Return the reasons of a source and its first rows that were not accepted."""
    parts: list[Content] = [element("h3", found.source)]
    if found.findings:
        lines = [
            (f"{each.column} {each.message}", each.rows, each.value, _place(each))
            for each in found.findings
        ]
        heads = ("reason", "rows", "first value", "first row")
        parts.append(table(f"Why rows of {found.source} were rejected", heads, lines))
    try:
        select = files.rejects(found)
    except KeyError:
        select = None
    if select is not None:
        parts.append(_first_rows(files, found, select))
    return element("section", parts)


def _place(found: Finding) -> str:
    if not found.file:
        return "-"
    name = found.file.rpartition("/")[2]
    return f"{name}, row {found.row:,}" if found.row else name


def _first_rows(files: RunFiles, found: ValidationResult, select: str) -> Markup:
    """Return the first rows that were rejected, then those that were dropped."""
    schema = files.warehouse.columns(f"SELECT * FROM {select}")
    columns = [name for name in schema.names if not name.startswith("__")]
    shown = columns[:MAX_COLUMNS]
    names = [name for name in (FILE, NUMBER, REASON, LINE) if name in schema.names] + shown
    order = f"{COUNTS} DESC, " if COUNTS in schema.names else ""
    lines = files.query(
        f"SELECT {', '.join(map(quote, names))} FROM {select} ORDER BY {order}{FILE}, {NUMBER} "
        f"LIMIT {MAX_ROWS}"
    )
    total = found.rejected + found.dropped
    notes = [f"{total - len(lines):,} more rows"] if total > len(lines) else []
    notes += [f"{len(columns) - len(shown):,} columns"] if len(shown) < len(columns) else []
    note = f"Left out: {' and '.join(notes)}." if notes else ""
    heads = ["row", "reason", *shown, *(["line"] if LINE in names else [])]
    title = f"First rows of {found.source} that were not accepted"
    return details(
        f"{title} ({len(lines):,} of {total:,})",
        table(
            title, heads, [_line(row, found.findings, shown, LINE in names) for row in lines], note
        ),
        open_=len(lines) <= 10,
    )


def _line(
    row: Mapping[str, Any], findings: Sequence[Finding], shown: Sequence[str], malformed: bool
) -> list[object]:
    reason = row[REASON] or ""
    bad = bad_columns(reason, findings, shown)
    file = str(row[FILE] or "").rpartition("/")[2]
    place = f"{file}:{row[NUMBER]}" if row[NUMBER] else file or "-"
    cells = [_marked(row[name]) if name in bad else row[name] for name in shown]
    return [
        place,
        reason,
        *cells,
        *([_marked(row[LINE]) if row[LINE] else None] if malformed else []),
    ]


def bad_columns(reason: str, findings: Sequence[Finding], columns: Sequence[str]) -> set[str]:
    """Return the columns that the reason of a rejected row names.

    A finding on several columns, such as a key that is not unique, names them all.
    """
    known = set(columns)
    bad: set[str] = set()
    for each in findings:
        if f"{each.column} {each.message}" in reason:
            bad |= {each.column} & known or set(each.column.split(", ")) & known
    return bad


def _marked(value: object) -> Markup:
    """Return a bad value, marked also for those who do not see its colour."""
    text: Content = cell(value) if value not in (None, "") else "null" if value is None else "empty"
    return element("mark", element("span", "bad value: ", class_="hidden"), text)
