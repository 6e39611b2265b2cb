"""The reconciliation of a run: a ledger of every dirty row, and the sums of rows and money.

Validation stores the rows that it rejected, dropped and repaired; here each gets its policy and the
name of its dirt, and the spikes that the estimator sets aside are found again.  Then the sums are
compared with the source itself: rows and money in = kept + repaired + rejected + copies +
superseded, to the last digit.  Those sums use the source's own figures: price x units, or minutes x
(1 - discount) x tariff; text that is no number counts as 0 until it is repaired.  They can be
nonsense (a counter at its limit), so people see the money at risk instead: the plausible spend of
the unit in the row (`tariffs.data_quality.at_risk`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
import pyarrow as pa

from hundredfold import Run
from hundredfold.errors import UsageError
from hundredfold.finished_runs import (
    ValidationResult,
    Warehouse,
    input_select,
    open_warehouse,
    validation_results,
)
from tariffs.columns import Bools, Floats, Ints, key_offsets
from tariffs.data_quality.at_risk import money_at_risk
from tariffs.data_quality.repair_kinds import kind_of
from tariffs.demand.panel import SPIKE_ALLOWANCE, SPIKE_RATIO, plausible

KEYS = {
    "bundle_sales": ("row_id",),
    "voice_usage": ("cell", "hour", "day_type", "week"),
    "cell_load": ("cell", "hour"),
    "locations": ("location",),
    "product_catalog": ("product",),
    "policy": ("kind", "scope"),
}
MONEY_SQL = {
    "bundle_sales": "TRY_CAST({price} AS DOUBLE) * TRY_CAST({units} AS DOUBLE)",
    "voice_usage": "TRY_CAST({minutes} AS DOUBLE) * (1 - TRY_CAST({discount} AS DOUBLE))"
    " * (SELECT max(list_price) FROM product_catalog WHERE family = 'VOICE')",
}
MONEY_COLUMNS = {"bundle_sales": ("price", "units"), "voice_usage": ("minutes", "discount")}
SPIKE_COLUMNS = {  # the unit, and the inputs of `plausible`
    "bundle_sales": (
        ("segment", "location", "product"),
        "s.units",
        "s.price / p.list_price - 1",
        "JOIN product_catalog AS p ON p.product = s.product",
    ),
    "voice_usage": (("cell", "hour", "day_type"), "s.minutes", "-s.discount", ""),
}
WEEKLY_KEYS = {
    "bundle_sales": ("segment", "location", "product")
}  # sources with weekly rows, and the keys of their units
DROPPED = {"copy of another row": "DEDUPE", "superseded by a later row": "SUPERSEDE"}
WAREHOUSE_MEMORY_BYTES = 2**29
_MONEY = pa.decimal128(38, 6)
EXACT_CONTEXT = Context(prec=60)  # exact for sums of _MONEY; the default context keeps 28 digits
LEDGER_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("column", pa.string()),
        ("policy", pa.string()),
        ("kind", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("money_before", _MONEY),
        ("money_after", _MONEY),
        ("money_at_risk", _MONEY),
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source's rows, and their money."""

    rows: int = 0
    money: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class SourceBalance:
    """A source's rows and money.

    came      in the source; None if it no longer exists
    accepted  by the run
    before, after   the repaired rows in the source, and as repaired
    untold    number of rows counted as repaired without a record of the repair
    """

    source: str
    came: Part | None
    accepted: Part
    before: Part
    after: Part
    rejected: Part
    copies: Part
    superseded: Part
    set_aside: Part
    untold: int

    @property
    def kept(self) -> Part:
        """The rows without any change."""
        return Part(
            self.accepted.rows - self.after.rows,
            EXACT_CONTEXT.subtract(self.accepted.money, self.after.money),
        )

    @property
    def missing(self) -> Part | None:
        """The difference of the sums: zero if they agree."""
        if self.came is None:
            return None
        there = (self.kept, self.before, self.rejected, self.copies, self.superseded)
        return Part(
            self.came.rows - sum(p.rows for p in there),
            EXACT_CONTEXT.subtract(self.came.money, _total(p.money for p in there)),
        )

    @property
    def even(self) -> bool:
        return (
            self.missing in (None, Part()) and not self.untold
        )  # None: the source is gone, so nothing can be compared


def _total(money: Iterable[Decimal]) -> Decimal:
    with localcontext(EXACT_CONTEXT):
        return sum(money, Decimal(0))


def reconcile(run: Run) -> tuple[list[SourceBalance], pa.Table]:
    """Return every source's balance, and the ledger.

    The ledger has one row for each value repaired and each row rejected, dropped or set aside, in
    the columns of LEDGER_SCHEMA, by source, file, row.  money_before and money_after are the
    source's own figures; money_at_risk is plausible money, null if the row cannot be priced, and
    for a row's second and further entries.  Raises UsageError for a run that is not on this
    machine.
    """
    if not hasattr(run.home, "folder"):
        raise UsageError(
            f"run {run.id} is on AWS",
            hint='its rows are available by source: run.repairs("bundle_sales"),'
            ' run.rejects("bundle_sales")',
        )
    verdicts = validation_results(run)
    balances, ledgers = [], []
    with open_warehouse(run, "dirt", memory=WAREHOUSE_MEMORY_BYTES) as warehouse:
        for verdict in verdicts:
            warehouse.create_view(verdict.source, _accepted(verdict, warehouse))
        for verdict in verdicts:
            balance, ledger = _reconcile_source(verdict, run, warehouse)
            balances.append(balance)
            ledgers.append(ledger)
    return balances, pa.concat_tables(ledgers)


def _accepted(verdict: ValidationResult, warehouse: Warehouse) -> str:
    return (
        f"SELECT * FROM {warehouse.read_parquet(verdict.accepted_key)}"
        if verdict.accepted_key
        else verdict.select
    )


def _reconcile_source(
    verdict: ValidationResult, run: Run, warehouse: Warehouse
) -> tuple[SourceBalance, pa.Table]:
    name = verdict.source
    for table, rows in (("rejects", run.rejects(name)), ("repairs", run.repairs(name))):
        warehouse.register(table, rows.to_arrow())
    gone = _dropped_rows(name, warehouse) if len(run.rejects(name)) else []
    mended = _repaired_values(name, warehouse) if len(run.repairs(name)) else []
    mended += _renamed_weeks(name, warehouse, {e["key"] for e in mended})
    spikes = _spikes(name, warehouse) if name in SPIKE_COLUMNS else []
    entries = [*gone, *mended, *spikes]
    [repaired] = warehouse.query(
        "SELECT count(*) AS n FROM (SELECT DISTINCT __file, __row FROM repairs) AS d"
    )["n"].to_pylist()
    for table in ("rejects", "repairs"):
        warehouse.drop(table)
    parts = {
        policy: _part(entries, policy, "money_before")
        for policy in ("REJECT", "DEDUPE", "SUPERSEDE", "REPAIR", "SET_ASIDE")
    }
    balance = SourceBalance(
        name,
        _source_totals(name, run, verdict, warehouse),
        _sums(f'SELECT * FROM "{name}"', name, warehouse),
        parts["REPAIR"],
        _part(entries, "REPAIR", "money_after"),
        parts["REJECT"],
        parts["DEDUPE"],
        parts["SUPERSEDE"],
        parts["SET_ASIDE"],
        verdict.repaired - repaired,
    )
    return balance, pa.Table.from_pylist(entries, LEDGER_SCHEMA)


def _part(entries: Sequence[Mapping[str, Any]], policy: str, money: str) -> Part:
    """Return the rows of one policy; the first entry of a row has its money."""
    ours = [e for e in entries if e["policy"] == policy and e["money_before"] is not None]
    return Part(len(ours), _total(e[money] or Decimal(0) for e in ours))


def _money(source: str, columns: Mapping[str, str] | None = None) -> str:
    """Return SQL of a row's money, of six decimals and so exact in sums."""
    if source not in MONEY_SQL:
        return "CAST(0 AS DECIMAL(38, 6))"
    filled = MONEY_SQL[source].format(**(columns or {name: name for name in MONEY_COLUMNS[source]}))
    return f"coalesce(TRY_CAST({filled} AS DECIMAL(38, 6)), 0)"


def _sums(select: str, source: str, warehouse: Warehouse) -> Part:
    row = warehouse.query(
        f"SELECT count(*) AS n, sum({_money(source)}) AS money FROM ({select}) AS q"
    ).to_pylist()[0]
    return Part(int(row["n"]), row["money"] or Decimal(0))


def _source_totals(
    source: str, run: Run, verdict: ValidationResult, warehouse: Warehouse
) -> Part | None:
    """Return the source's rows and money, with unreadable lines; None if it no longer exists."""
    select = input_select(run, source, warehouse)
    if select is None:
        return None
    there = _sums(select, source, warehouse)
    malformed = sum(finding.rows for finding in verdict.findings if finding.column == "(line)")
    return Part(there.rows + malformed, there.money)


def _key(source: str) -> str:
    return " || '/' || ".join(f"coalesce(CAST({name} AS VARCHAR), '')" for name in KEYS[source])


def _dropped_rows(source: str, warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return the rows that were rejected or dropped."""
    rows = warehouse.query(
        f"WITH risk AS ({money_at_risk(source)})"
        f" SELECT __file AS file, __row AS row, {_key(source)} AS key, __reason AS kind,"
        f" {_money(source)} AS money_before, *"
        " FROM rejects JOIN risk USING (__file, __row) ORDER BY __file, __row"
    ).to_pylist()
    return [
        _entry(source, DROPPED.get(row["kind"], "REJECT"), row) | _reason_column(row)
        for row in rows
    ]


def _reason_column(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the column of the first reason, and its value; nothing for a reason about the row."""
    column, must, _ = row["kind"].partition(" must ")
    if not must:
        return {}
    return {"column": column, "before": None if row.get(column) is None else str(row[column])}


def _repaired_values(source: str, warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return every repaired value of the accepted rows; a row's money is in its first entry."""
    over = "PARTITION BY __file, __row"
    after = {
        name: f"coalesce(max(CASE WHEN __column = '{name}' THEN __after END) OVER ({over}),"
        f" CAST({name} AS VARCHAR))"
        for name in MONEY_COLUMNS.get(source, ())
    }
    first = f"row_number() OVER ({over} ORDER BY __column) = 1"
    rows = warehouse.query(
        f'SELECT __file AS file, __row AS row, {_key(source)} AS key, __column AS "column",'
        f" __before AS before, __after AS after,"
        f" CASE WHEN {first} THEN {_money(source)} END AS money_before,"
        f" CASE WHEN {first} THEN {_money(source, after)} END AS money_after"
        " FROM repairs AS r WHERE NOT EXISTS (SELECT 1 FROM rejects AS j"
        " WHERE j.__file = r.__file AND j.__row = r.__row) ORDER BY __file, __row, __column"
    ).to_pylist()
    named = [row | {"kind": kind_of(row["column"], row["before"], row["after"])} for row in rows]
    return [
        _entry(source, "REPAIR", row) | {"money_at_risk": _priced(source, row["money_after"])}
        for row in named
    ]


def _priced(source: str, money: Decimal | None) -> Decimal | None:
    """Return the money of an accepted row; None if the source's rows have no money."""
    return money if source in MONEY_SQL else None


def _renamed_weeks(source: str, warehouse: Warehouse, counted: set[str]) -> list[dict[str, Any]]:
    """Return weeks that are named by another day; the queries count them to the week's Sunday.

    A week with rows of several days has daily rows, which are no dirt.  `counted` rows have their
    money in another entry.
    """
    if source not in WEEKLY_KEYS:
        return []
    unit = ", ".join(WEEKLY_KEYS[source])
    over = f"PARTITION BY {unit}, date_trunc('week', week)"
    rows = warehouse.query(
        f"SELECT * FROM (SELECT {_key(source)} AS key, CAST(week AS VARCHAR) AS before,"
        f" CAST(CAST(date_trunc('week', week) + INTERVAL '6' DAY AS DATE) AS VARCHAR) AS after,"
        f" {_money(source)} AS money_before,"
        f" {_money(source)} AS money_after, isodow(week) AS dow, count(*) OVER ({over}) AS days"
        f' FROM "{source}") AS q WHERE dow <> 7 AND days = 1 ORDER BY key'
    ).to_pylist()
    entries = [
        _entry(source, "REPAIR", row)
        | {"column": "week", "kind": "week_by_another_day", "money_at_risk": row["money_after"]}
        for row in rows
    ]
    elsewhere = {"money_before": None, "money_after": None, "money_at_risk": None}
    return [e | elsewhere if e["key"] in counted else e for e in entries]


def _spikes(source: str, warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return the weeks that the estimator sets aside, from units whose largest week may be one."""
    unit, quantity, x, join = SPIKE_COLUMNS[source]
    names, same = ", ".join(unit), " AND ".join(f"c.{name} = s.{name}" for name in unit)
    bare = quantity.removeprefix("s.")
    could = (
        f"SELECT {names} FROM {source} GROUP BY {names} HAVING count(*) > 1"
        f" AND max({bare}) >"
        f" {SPIKE_RATIO} * (sum({bare}) - max({bare})) / (count(*) - 1) + {SPIKE_ALLOWANCE}"
    )
    ordered = ", ".join(f"s.{name}" for name in unit)
    rows = warehouse.query(
        f"SELECT s.*, {quantity} AS __quantity, {x} AS __x FROM {source} AS s"
        f" JOIN ({could}) AS c ON {same} {join} ORDER BY {ordered}, s.week"
    )
    if not rows.num_rows:
        return []
    columns = {
        name: rows[name].to_numpy(zero_copy_only=False) for name in (*unit, "__quantity", "__x")
    }
    quantities, offsets = columns["__quantity"].astype(np.float64), key_offsets(columns, unit)
    keep = plausible(quantities, columns["__x"].astype(np.float64), offsets)
    usual = np.repeat(_median_of_kept(quantities, keep, offsets), np.diff(offsets))
    warehouse.register("spikes", rows.append_column("__usual", pa.array(usual)).filter(~keep))
    at_risk = _money(source, {name: name for name in MONEY_COLUMNS[source]} | {bare: "__usual"})
    found = warehouse.query(
        f"SELECT {_key(source)} AS key, CAST(__quantity AS VARCHAR) AS before,"
        f" {_money(source)} AS money_before, {at_risk} AS money_at_risk"
        " FROM spikes ORDER BY 1"
    )
    warehouse.drop("spikes")
    return [
        _entry(source, "SET_ASIDE", row) | {"column": bare, "kind": "spike"}
        for row in found.to_pylist()
    ]


def _median_of_kept(quantities: Floats, keep: Bools, offsets: Ints) -> Floats:
    """Return the median of a unit's plausible quantities; shape (units,)."""
    parts = zip(np.split(quantities, offsets[1:-1]), np.split(keep, offsets[1:-1]), strict=True)
    return np.array([np.median(values[kept]) if kept.any() else 0.0 for values, kept in parts])


def _entry(source: str, policy: str, row: Mapping[str, Any]) -> dict[str, Any]:
    wanted = (
        "file",
        "row",
        "key",
        "column",
        "kind",
        "before",
        "after",
        "money_before",
        "money_after",
        "money_at_risk",
    )
    return {"source": source, "policy": policy} | {name: row.get(name) for name in wanted}
