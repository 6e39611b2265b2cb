"""The guard of currencies: one per table, and the one that charging uses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    GuardContext,
    in_catalogue,
    is_text,
    row_finding,
    text_equals,
)
from tariffs.release.tables import (
    match_rows,
)

CURRENCY = "CURRENCY"


def currency(ctx: GuardContext) -> Finding:
    """All prices are in one currency: that of the catalogue, and of the active table."""
    allowed = "one currency, that of the catalogue and of the active table"
    named = sorted({str(value) for value in pc.unique(ctx.table["currency"]).to_pylist()})
    usual = _expected_currency(ctx)
    broken = ~is_text(ctx.table, "currency", usual)
    if ctx.catalogue is not None and "currency" in ctx.catalogue.column_names:
        broken |= ~text_equals(
            ctx.table["currency"], in_catalogue(ctx.table, ctx.catalogue, "currency")
        )
    if ctx.active is not None and "currency" in ctx.active.column_names:
        row = match_rows(ctx.table, ctx.active)
        was = ctx.active["currency"].take(pa.array(row, mask=row < 0))
        broken |= (row >= 0) & ~text_equals(ctx.table["currency"], was)
    words = (
        f"prices in {', '.join(named) or 'no currency'};"
        f" in another currency than wanted: {int(broken.sum()):,}"
    )
    shown = ctx.table["currency"]
    return row_finding(
        CURRENCY,
        ctx.table,
        broken,
        words,
        allowed,
        lambda row: f"{shown[row].as_py()}, wanted {usual}",
    )


def _expected_currency(ctx: GuardContext) -> str:
    """Return the currency of the active table, of the catalogue, or of most rows."""
    for table in (ctx.active, ctx.catalogue, ctx.table):
        if (
            table is not None
            and "currency" in table.column_names
            and table.num_rows > table["currency"].null_count
        ):
            return _most_frequent(table)
    return ""


def _most_frequent(table: pa.Table) -> str:
    counts = pc.value_counts(table["currency"].drop_null().combine_chunks())
    return str(counts[int(np.argmax(counts.field("counts").to_numpy()))]["values"].as_py())
