"""Tables of the report, and values as people read them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ..figures import duration
from .html import Content, Markup, element

MAX_TABLE_ROWS = 5_000
MAX_TEXT_CHARACTERS = 300  # of a cell
MAX_NARROW_CHARACTERS = 24  # of a text that is not broken into lines


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a text of its own, such as a duration; columns are sorted by the number."""

    value: float
    text: str


def seconds(value: float | None) -> Quantity | None:
    """Return a duration as a cell."""
    return None if value is None else Quantity(value, duration(value))


def percent(share: float | None) -> Quantity | None:
    """Return a share as a cell, in percent."""
    return None if share is None else Quantity(share, f"{100 * share:.3g} %")


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    note: str = "",
) -> Markup:
    """Return a table with a caption and a note below it; the first column names the rows.

    Cells are values or elements. Columns of numbers are aligned to the right. At most
    MAX_TABLE_ROWS rows are shown, and the note reports those left out.
    """
    whole = list(rows)
    shown = whole[:MAX_TABLE_ROWS]
    if len(whole) > len(shown):
        left_out = f"{len(whole) - len(shown):,} more rows are left out."
        note = f"{note} {left_out}".strip()
    numeric = [_is_numeric(shown, i) for i in range(len(heads))]
    kinds = ["number" if each else None for each in numeric]
    head = element(
        "tr",
        [
            element("th", text, scope="col", class_=kind)
            for text, kind in zip(heads, kinds, strict=True)
        ],
    )
    body = [_row(row, kinds) for row in shown]
    grid = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", body),
        class_="sortable" if len(shown) > 1 else None,
    )
    # a wide table scrolls, also by keyboard
    region = element("div", grid, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return Markup(region + (element("p", note, class_="note") if note else ""))


def _row(row: Sequence[object], kinds: Sequence[str | None]) -> Markup:
    first, *rest = (_cell(value, kind) for value, kind in zip(row, kinds, strict=True))
    return element(
        "tr",
        element("th", first.content, scope="row", class_=first.kind),
        [element("td", c.content, class_=c.kind, data_value=c.order) for c in rest],
    )


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell. order: the number by which it is sorted, where its text does not show it."""

    content: Content
    kind: str | None
    order: float | None


def _cell(value: object, kind: str | None) -> _Cell:
    content = cell(value)
    is_long = isinstance(content, str) and len(content) > MAX_NARROW_CHARACTERS
    if is_long and not isinstance(content, Markup):
        kind = "long"
    return _Cell(content, kind, value.value if isinstance(value, Quantity) else None)


def _is_numeric(rows: Sequence[Sequence[object]], column: int) -> bool:
    values = [row[column] for row in rows if row[column] is not None]
    return bool(values) and all(
        isinstance(value, int | float | Decimal | Quantity) and not isinstance(value, bool)
        for value in values
    )


def cell(value: object) -> Content:
    """Return a value as the content of a cell: an element unchanged, a number with separators."""
    return value if isinstance(value, Markup) else cut(value_text(value))


def value_text(value: object) -> str:
    """Return a value as people read it.

    >>> [value_text(v) for v in (None, 12345, 0.123456, 1234.5, float("nan"), True)]
    ['-', '12,345', '0.1235', '1,234.5', 'nan', 'true']
    """
    if value is None:
        return "-"
    if isinstance(value, Quantity):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float | Decimal):
        return _decimal_text(float(value))
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S") + (
            f".{value:%f}"[:4] if value.microsecond else ""
        )
    return str(value)


def _decimal_text(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        return f"{value:.4g}"
    places = 0 if size >= 1e5 else 1 if size >= 1000 else 2 if size >= 100 else 4
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def cut(text: str, most: int = MAX_TEXT_CHARACTERS) -> str:
    """Return the beginning of a long text, which ends with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def facts(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Return names with their values as a list of definitions; empty values are left out."""
    return element(
        "dl",
        [
            element("div", element("dt", name), element("dd", value))
            for name, value in pairs
            if value
        ],
        class_="facts",
    )


def details(summary: str, *content: Content, open_: bool = False) -> Markup:
    """Return a part that is folded until it is wanted."""
    return element("details", element("summary", summary), *content, open=open_)


def command(text: str) -> Markup:
    """Return a command of the command line."""
    return element("code", text, class_="command")
