"""Tables in HTML, for the output of a cell in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

MAX_CHARACTERS = 100  # of a value


def html_table(heads: Sequence[str], rows: Iterable[Sequence[object]], note: str) -> str:
    """Return a table with a line of text below it; long values are cut."""
    titles = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
        f"<p>{html.escape(note)}</p>"
    )


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS - 1] + "…"
    return f"<td>{html.escape(text)}</td>"
