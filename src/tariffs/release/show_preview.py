"""The effect of a kill switch or of an activation on prices, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from hundredfold.cli.display import (
    print_indented,
    stdout,
)
from tariffs.release.preview import Moves, Preview
from tariffs.release.show import grid_of, money, print_grid


def show_preview(found: Preview, *, done: bool = False) -> None:
    """Print the effect of another table on prices, and its expectations."""
    print_indented(
        "",
        f"From {found.before} to {found.table}"
        + ("" if done else ": a preview, nothing is changed"),
        "bold",
    )
    _print_moves(found.moves)
    print_indented(
        "",
        f"control units that move: {found.control:,};"
        " changes of volume, revenue and margin are expected ones, a week",
    )
    if found.most and not done:
        stdout.print()
        grid = grid_of(
            "most margin lost and gained",
            "now",
            "then",
            "margin a week",
            right={"now", "then", "margin a week"},
        )
        for key, old, new, margin in found.most:
            grid.add_row(escape(key), money(old), money(new), f"{margin:+,.2f}")
        print_grid(grid)


MOVE_COLUMNS = ("prices", "raised", "lowered", "stay", "largest", "volume", "revenue", "margin")


def _print_moves(moves: Sequence[Moves]) -> None:
    grid = grid_of("", *MOVE_COLUMNS, right=set(MOVE_COLUMNS))
    for m in moves:
        far = f"{m.largest:+.4g} points" if m.kind == "voice" else f"{m.largest:+.1%}"
        changes = (
            _change(a, b)
            for a, b in (
                (m.volume, m.of_volume),
                (m.revenue, m.of_revenue),
                (m.margin, m.of_margin),
            )
        )
        stay = m.prices - m.raised - m.lowered
        grid.add_row(
            m.kind, f"{m.prices:,}", f"{m.raised:,}", f"{m.lowered:,}", f"{stay:,}", far, *changes
        )
    print_grid(grid)


def _change(change: float | None, of: float) -> str:
    return (
        "not known"
        if change is None
        else f"{change:+,.0f} ({change / of:+.1%})"
        if of
        else f"{change:+,.0f}"
    )
