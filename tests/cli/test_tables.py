"""Tables on terminals of any width: numbers are not broken, and names stay readable."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hundredfold.cli import display
from hundredfold.cli.display import TableColumn, print_columns

NAMES = st.lists(st.text("abcdefgh_", min_size=1, max_size=60), min_size=1, max_size=4)
NUMBERS = st.integers(0, 10**12).map(lambda number: f"{number:,}")


def at_width(width: int, columns: list[TableColumn]) -> str:
    """Return the output for a terminal of that width."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setenv("COLUMNS", str(width))
        patch.setattr(display, "stdout", Console(highlight=False, soft_wrap=True))
        print_columns(columns)
    return printed.getvalue()


@given(names=NAMES, width=st.integers(16, 120), data=st.data())
def test_no_table_breaks_a_number_or_loses_a_name(
    names: list[str], width: int, data: st.DataObject
) -> None:
    rows = st.lists(NUMBERS, min_size=len(names), max_size=len(names))
    columns = [TableColumn.of_numbers(f"n{i}", data.draw(rows)) for i in range(5)]
    printed = at_width(width, [TableColumn("rows", names), *columns])
    for cell in {cell for column in columns for cell in column.cells}:
        wanted = sum(column.cells.count(cell) for column in columns)
        assert len(re.findall(rf"(?<!\S){re.escape(cell)}(?!\S)", printed)) == wanted
    longest = max(map(len, names))
    widest = max(column.width for column in columns)
    if longest + 2 + widest <= width:
        assert all(name in printed for name in names)
    if width >= 12 + 2 + widest:
        assert max(map(len, printed.splitlines())) <= width


@given(width=st.integers(30, 120), words=st.lists(st.text("xyz", min_size=1, max_size=9)))
def test_text_at_the_end_of_a_row_is_wrapped_between_words(width: int, words: list[str]) -> None:
    text = " ".join(words)
    printed = at_width(width, [TableColumn("why", ["units"]), TableColumn("reason", [text])])
    assert printed.split() == ["why", "reason", "units", *words]
