"""The account of a run's dirt as people see it: tables of rows, of money, and of what was done; or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from rich.table import Table as Grid

from hundredfold.cli.display import print_hanging, result
from hundredfold.errors import UsageError
from tariffs.data_quality.reconciliation import MONEY, Balance, Part

PARTS = {
    "came in": "came", "untouched": "kept", "repaired": "before", "rejected": "rejected", "copies": "copies", "replaced later": "superseded",
    "not accounted for": "missing", "goes on": "accepted", "of it, as repaired": "after", "of it, set aside": "set_aside",
}  # fmt: skip
MONEY_PARTS = {"goes on": "accepted", "of it, untouched": "kept", "of it, as repaired": "after", "of it, set aside": "set_aside", "not accounted for": "missing"}  # fmt: skip


def show(balances: Sequence[Balance], ledger: pa.Table) -> None:
    """Rows, money, and what was done, of the sources in which there was something to do."""
    touched = [b for b in balances if b.came != b.kept or b.set_aside.rows]
    _print_parts("rows", touched, lambda part: part.rows)
    _print_parts("money", [balance for balance in touched if balance.source in MONEY], lambda part: round(part.money), MONEY_PARTS)
    print_hanging(
        "",
        "Money is what goes on. The figures of a row as it came can be nonsense (a counter that ran full, a price in pesewas):"
        " they stand below, under before.",
    )
    result.print("\n[bold]What was done, and money before and after it[/]")
    done = _grid("policy", "kind", "source", "entries", "before", "after")
    for key, (count, before, after) in tallied(ledger).items():
        done.add_row(*key, f"{count:,}", f"{round(before):,}", f"{round(after):,}")
    result.print(done)
    for balance in balances:
        if not balance.even:
            result.print(
                f"[red]{balance.source} does not come out even[/]"
                + (f": {balance.untold:,} repaired rows are told nowhere" if balance.untold else "")
            )
    untouched = [balance.source for balance in balances if balance not in touched]
    if untouched:
        result.print(f"\nNothing to do in {', '.join(untouched)}.")


def _print_parts(title: str, balances: Sequence[Balance], told: Callable[[Part], int], parts_shown: Mapping[str, str] = PARTS) -> None:
    """One row for each part, one column for each source."""
    grid = _grid(title, *(balance.source for balance in balances))
    for words, name in parts_shown.items():
        parts = [getattr(balance, name) for balance in balances]
        grid.add_row(words, *("-" if part is None else f"{told(part):,}" for part in parts))
    result.print(grid, "")


def facts(balance: Balance) -> dict[str, Any]:
    """A balance for a program."""
    parts = {**asdict(balance), "kept": asdict(balance.kept)}
    told = {
        name: part and {"rows": part["rows"], "money": float(part["money"])}
        for name, part in parts.items()
        if name not in ("source", "untold")
    }
    return {"source": balance.source, **told, "untold": balance.untold, "even": balance.even}


def tallied(ledger: pa.Table) -> dict[tuple[str, str, str], tuple[int, Decimal, Decimal]]:
    """Entries and money by policy, kind and source."""
    found: dict[tuple[str, str, str], tuple[int, Decimal, Decimal]] = {}
    for entry in ledger.select(["policy", "kind", "source", "money_before", "money_after"]).to_pylist():
        key = (entry["policy"], entry["kind"], entry["source"])
        count, before, after = found.get(key, (0, Decimal(0), Decimal(0)))
        found[key] = (count + 1, before + (entry["money_before"] or 0), after + (entry["money_after"] or 0))
    return dict(sorted(found.items()))


def write(ledger: pa.Table, path: Path) -> None:
    """The ledger as a file; UsageError for one that cannot be written."""
    writers = {".csv": pacsv.write_csv, ".parquet": pq.write_table}
    if path.suffix not in writers:
        raise UsageError(f"--out is {path}, wanted a name that ends with .csv or .parquet")
    try:
        writers[path.suffix](ledger, path)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error}", hint="name a file in a folder that is there") from error


def _grid(first: str, *columns: str) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column(first, no_wrap=True)
    for name in columns:
        if name == "kind":
            grid.add_column(name, min_width=20, overflow="fold")
        else:
            grid.add_column(name, justify="left" if name == "source" else "right", no_wrap=True)
    return grid
