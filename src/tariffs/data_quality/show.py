"""Output of the reconciliation: tables of rows, of money at risk and of treatments; or a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from rich.markup import escape

from hundredfold.cli.display import print_indented, stdout
from hundredfold.errors import UsageError
from tariffs.data_quality.reconciliation import MONEY_SQL, SourceBalance
from tariffs.release.show import grid_of, print_grid

ROW_COLUMNS = {
    "came in": "came",
    "untouched": "kept",
    "repaired": "before",
    "rejected": "rejected",
    "copies": "copies",
    "replaced later": "superseded",
    "not accounted for": "missing",
    "goes on": "accepted",
    "of it, as repaired": "after",
    "of it, set aside": "set_aside",
}
AT_RISK = {
    "set aside": "SET_ASIDE",
    "rejected": "REJECT",
    "copies": "DEDUPE",
    "replaced later": "SUPERSEDE",
}
EXPLAINED = (
    "Money is price x units, or minutes at the tariff less the discount. Of accepted rows it is"
    " their own, as repaired; of the others it is the money at risk: their own figures if these are"
    " plausible beside the rest of the unit, otherwise the unit's median. Rows without either are"
    " counted as not priced. The figures of the source are in the file of --out."
)


@dataclass(frozen=True, slots=True)
class Tally:
    """Entries of the ledger: their number, their money at risk, and the rows not priced."""

    entries: int = 0
    at_risk: Decimal = Decimal(0)
    not_priced: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.entries + other.entries,
            self.at_risk + other.at_risk,
            self.not_priced + other.not_priced,
        )


def show(balances: Sequence[SourceBalance], ledger: pa.Table) -> None:
    """Print rows, money and treatments of the sources with any dirt."""
    touched = [b for b in balances if b.came != b.kept or b.set_aside.rows]
    done = tallied(ledger)
    _print_parts(
        "rows",
        {b.source: {words: _rows(b, part) for words, part in ROW_COLUMNS.items()} for b in touched},
    )
    _print_parts("money", {b.source: _money_of(b, done) for b in touched if b.source in MONEY_SQL})
    if touched:
        print_indented("", EXPLAINED)
        stdout.print("\n[bold]Treatment, and the money of those rows[/]")
        _print_done(done)
    for balance in balances:
        if not balance.even:
            stdout.print(
                f"[red]{balance.source}: the sums do not agree[/]"
                + (f": {balance.untold:,} repaired rows have no record" if balance.untold else "")
            )
    untouched = [balance.source for balance in balances if balance not in touched]
    if untouched:
        print_indented("\n" if touched else "", f"Nothing to do in {', '.join(untouched)}.")


def _rows(balance: SourceBalance, part: str) -> int | None:
    found = getattr(balance, part)
    return None if found is None else found.rows


def _money_of(
    balance: SourceBalance, done: Mapping[tuple[str, str, str], Tally]
) -> dict[str, int | None]:
    """Return the money of a source's accepted rows and of the others, by label."""
    risk: dict[str, Tally] = defaultdict(Tally)
    for (policy, _, source), tally in done.items():
        if source == balance.source:
            risk[policy] += tally
    return {
        "goes on, and is counted": round(balance.accepted.money - balance.set_aside.money),
        "of it, as repaired": round(risk["REPAIR"].at_risk),
        **{words: round(risk[policy].at_risk) for words, policy in AT_RISK.items()},
        "not priced (rows)": sum(risk[policy].not_priced for policy in AT_RISK.values()),
    }


def _print_done(done: Mapping[tuple[str, str, str], Tally]) -> None:
    grid = grid_of(
        "policy",
        "source",
        "entries",
        "money",
        "not priced",
        "why",
        right={"entries", "money", "not priced"},
    )
    for (policy, kind, source), tally in done.items():
        money = (
            (f"{round(tally.at_risk):,}", f"{tally.not_priced:,}")
            if source in MONEY_SQL
            else ("-", "-")
        )
        grid.add_row(policy, source, f"{tally.entries:,}", *money, escape(kind))
    print_grid(grid)


def _print_parts(title: str, sources: Mapping[str, Mapping[str, int | None]]) -> None:
    """Print one row for each part, one column for each source."""
    if not sources:
        return
    grid = grid_of(title, *sources, right=set(sources))
    for part in next(iter(sources.values())):
        counts = (parts[part] for parts in sources.values())
        grid.add_row(part, *("-" if count is None else f"{count:,}" for count in counts))
    print_grid(grid)
    stdout.print()


def facts(balance: SourceBalance, ledger: pa.Table) -> dict[str, Any]:
    """Return a balance for a program.

    The money of its parts is from the source's own figures, and may be nonsense; at_risk is
    plausible.
    """
    parts = {**asdict(balance), "kept": asdict(balance.kept)}
    treatments = {
        name: part and {"rows": part["rows"], "money_as_it_came": float(part["money"])}
        for name, part in parts.items()
        if name not in ("source", "untold")
    }
    risk: dict[str, Tally] = defaultdict(Tally)
    for (policy, _, source), tally in tallied(ledger).items():
        if source == balance.source:
            risk[policy] += tally
    at_risk = {
        p: {"entries": t.entries, "money": float(t.at_risk), "not_priced": t.not_priced}
        for p, t in sorted(risk.items())
    }
    return {
        "source": balance.source,
        **treatments,
        "at_risk": at_risk,
        "untold": balance.untold,
        "even": balance.even,
    }


def tallied(ledger: pa.Table) -> dict[tuple[str, str, str], Tally]:
    """Return entries, money at risk and rows not priced, by policy, kind and source."""
    found: dict[tuple[str, str, str], Tally] = defaultdict(Tally)
    for entry in ledger.select(
        ["policy", "kind", "source", "money_before", "money_at_risk"]
    ).to_pylist():
        money, first = (
            entry["money_at_risk"],
            entry["money_before"] is not None,
        )  # a row's further entries have neither
        unpriced = first and money is None and entry["source"] in MONEY_SQL
        found[entry["policy"], entry["kind"], entry["source"]] += Tally(
            1, money or Decimal(0), int(unpriced)
        )
    return dict(sorted(found.items()))


def write(ledger: pa.Table, path: Path) -> None:
    """Write the ledger to a file; UsageError if this is not possible."""
    writers = {".csv": pacsv.write_csv, ".parquet": pq.write_table}
    if path.suffix not in writers:
        raise UsageError(f"--out is {path}, wanted a name that ends with .csv or .parquet")
    try:
        writers[path.suffix](ledger, path)
    except OSError as error:
        raise UsageError(
            f"--out {path} cannot be written: {error}", hint="name a file in an existing folder"
        ) from error
