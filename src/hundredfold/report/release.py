"""The release of a run: its files, its summaries, and its difference to the release before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ..errors import HundredfoldError, UsageError
from ..figures import counted
from ..pipeline.releases import Release, read_release
from ..runs.difference import ColumnDifference, Difference, Side, Tolerance, compare_rows
from .charts import Segment, bar, legend
from .html import Markup, element, join
from .run_files import RunFiles
from .tables import command, percent, table

MAX_COMPARED_ROWS = 2_000_000  # of a published table: it is compared in memory
MAX_EXAMPLES = 20
KINDS = (("good", "added"), ("bad", "removed"), ("warn", "changed"), ("calm", "equal"))


def release_section(files: RunFiles) -> Markup | None:
    """Return the release of the run; None if it made none."""
    release = files.run.release
    if release is None:
        return None
    return join(
        [
            _files(files, release),
            [_summary(title, rows) for title, rows in release.summaries.items()],
            _differences(files, release),
        ]
    )


def _files(files: RunFiles, release: Release) -> Markup:
    where = files.run.home.where
    rows = [
        (
            PurePosixPath(key).name,
            release.rows.get(PurePosixPath(key).stem),
            where(key),
            element("code", digest),
        )
        for key, digest in release.files.items()
    ]
    heads = ("file", "rows", "place", "SHA-256")
    return table(f"Files of release {release.version}", heads, rows)


def _summary(title: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a summary that the job declares."""
    if not rows:
        return Markup(element("h3", title) + element("p", "none"))
    names = list(rows[0])
    heads = [name.replace("_", " ") for name in names]
    return Markup(table(title, heads, [[row.get(name) for name in names] for row in rows]))


def _differences(files: RunFiles, release: Release) -> Markup:
    """Return the difference of each published table to that of the parent release."""
    if release.parent is None:
        return element("p", "It is the first release: there is nothing to compare with.")
    title = element("h3", f"Release {release.version} against release {release.parent}")
    try:
        parent = read_release(release.job, release.parent, files.run.home.store)
    except (HundredfoldError, KeyError) as error:
        return join([title, element("p", f"Not compared: {error}")])
    return join([title, [_difference(files, parent, release, name) for name in release.rows]])


def _difference(files: RunFiles, before: Release, now: Release, name: str) -> Markup:
    if name not in before.rows:
        return element("p", f"{name} is new.")
    if max(before.rows[name], now.rows[name]) > MAX_COMPARED_ROWS:
        words = ["hundredfold", "diff", before.run, now.run, "--published", name]
        return element("p", f"{name} has too many rows to compare here: ", command(" ".join(words)))
    try:
        return _shown(name, _compare(files, before, now, name))
    except (HundredfoldError, OSError) as error:
        return element("p", f"{name} is not compared: {error}")


def _compare(files: RunFiles, before: Release, now: Release, name: str) -> Difference:
    sides = [
        Side(f"release {each.version}", files.warehouse.query(files.published(each, name)))
        for each in (before, now)
    ]
    key = [c for c in sides[1].rows.column_names if c in files.unit_columns]
    if not key and sides[1].rows.num_rows > 1:
        raise UsageError("it has no column of the units by which its rows could be identified")
    one, other = sides
    return compare_rows(one, other, key, files.warehouse, Tolerance(), MAX_EXAMPLES)


def _shown(name: str, found: Difference) -> Markup:
    if found.is_empty:
        return element("p", f"{name}: no difference in {counted(found.rows_b, 'row')}.")
    equal = found.rows_b - found.added - found.changed
    values = zip((found.added, found.removed, found.changed, equal), KINDS, strict=True)
    segments = [Segment(value, kind, f"{value:,} {text}") for value, (kind, text) in values]
    drawn = bar(segments, found.rows_b + found.removed)
    counts = (name, drawn, found.rows_a, found.rows_b, found.added, found.removed, found.changed)
    heads = ("table", "rows", "before", "now", "added", "removed", "changed")
    changed = [column for column in found.columns if column.changed]
    return join(
        [
            legend(KINDS),
            table(f"Difference of {name}", heads, [counts]),
            table(f"Changed columns of {name}", _HEADS, map(_column, changed)) if changed else None,
            _examples(name, found),
        ]
    )


_HEADS = ("column", "rows", "largest change", "largest in %", "sum before", "sum now")


def _column(each: ColumnDifference) -> tuple[object, ...]:
    largest = percent(each.relative)
    return each.column, each.changed, each.largest, largest, each.before, each.after


def _examples(name: str, found: Difference) -> Markup | None:
    rows = [
        (each.key, each.difference, column, before, now)
        for each in found.examples
        for column, (before, now) in each.values.items()
    ]
    if not rows:
        return None
    total = found.added + found.removed + found.changed
    left = total - len(found.examples)
    note = f"{left:,} more rows differ and are left out." if left > 0 else ""
    heads = ("key", "difference", "column", "before", "now")
    return table(f"First rows of {name} that differ", heads, rows, note)
