"""The check of a release by every guard, with all that the guards compare it with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hundredfold.errors import StateError
from hundredfold.releases import Release, Store
from tariffs.contracts import LIMITS_TITLE, TOTALS_TITLE
from tariffs.release import repository
from tariffs.release.decision_log import (
    DecisionLog,
    Finding,
    Table,
)
from tariffs.release.drift import Chart, charts
from tariffs.release.guards import (
    GuardContext,
    limits_with,
    run_guards,
)
from tariffs.release.panel import panel_of
from tariffs.release.sales import Sales
from tariffs.release.tables import (
    KEY,
    SUPPORT_COLUMNS,
    floats,
    is_voice,
    match_rows,
    missing_columns,
    tariff,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Functions that return the catalogue, sales and locations of a release's run; None if gone."""

    catalogue: Callable[[Release], pa.Table | None]
    sales: Callable[[Release], Sales | None] = lambda _: None
    locations: Callable[[Release], pa.Table | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Checked:
    """A release with the findings of the guards, and the table that they compared it with.

    limits  the results of the policy's limits on the whole table, a row for each kind that has any
    totals  the expected changes of the whole table with intervals, a row for each kind
    """

    version: int
    digest: str
    compared_with: Table | None
    findings: tuple[Finding, ...]
    limits: tuple[Mapping[str, Any], ...] = ()
    totals: tuple[Mapping[str, Any], ...] = ()

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.passed)


def check(
    version: int, decisions: DecisionLog, store: Store, sources: Sources, now: dt.datetime
) -> Checked:
    """Check a release with every guard.

    Raises UsageError for an unknown version, StateError for a damaged release.
    """
    found = repository.load_verified(version, store)
    assert found.release is not None
    base = decisions.active.base if decisions.active else None
    active = base if base != Table(version) else None
    table = repository.read_rows(Table(version), store)
    if missing := missing_columns(table):
        raise StateError(
            f"release {version} is no price table: it lacks {', '.join(missing)}",
            hint="publish every column of tariffs.contracts.PriceRow: correct the query, and run"
            " the job again",
        )
    sales = sources.sales(found.release)
    totals, portfolio = (
        tuple(found.release.summaries.get(title, ())) for title in (TOTALS_TITLE, LIMITS_TITLE)
    )
    subject = GuardContext(
        table,
        _active_rows(active, store) if active else None,
        sources.catalogue(found.release),
        now,
        limits_with(decisions.limits),
        _support(table, sales),
        _drift_charts(decisions, store, sales) if active else None,
        sales.last_posted() if sales else None,
        sources.locations(found.release),
        totals,
        portfolio,
        {"table_version": version, "run_id": found.release.run},
    )
    return Checked(version, found.digest, active, run_guards(subject), portfolio, totals)


def active_from(decisions: DecisionLog, table: pa.Table) -> dt.date:
    """Return the first day of the active prices: the later of the decision and `valid_from`."""
    since, begins = decisions.since(), pc.min(table["valid_from"]).as_py()
    decided = dt.datetime.fromisoformat(since.attribution.at).date() if since else dt.date.min
    return max(decided, begins.date()) if begins else decided


def _active_rows(active: Table, store: Store) -> pa.Table:
    """Return the active table; a rule table with its release's expected volume without moves."""
    rows = repository.read_rows(active, store)
    if not active.derived:
        return rows
    try:
        model = repository.read_rows(Table(active.version), store, (KEY, "expected_volume"))
    except StateError:  # the release may be damaged, which is why the rule table is active
        return rows
    known = model["expected_volume"].take(pa.array(match_rows(rows, model)))
    return rows.set_column(rows.schema.get_field_index("expected_volume"), "expected_volume", known)


def _support(table: pa.Table, sales: Sales | None) -> pa.Table | None:
    """Return the range of prices paid: from the table itself, or from the sales."""
    if set(SUPPORT_COLUMNS) <= set(table.column_names):
        return table.select([KEY, *SUPPORT_COLUMNS])
    if sales is None:
        return None
    paid = sales.support()
    row = match_rows(table, paid)
    full = np.where(is_voice(table), tariff(table), 1.0)
    lo, hi = (np.append(floats(paid, name), np.nan)[row] * full for name in SUPPORT_COLUMNS)
    return pa.table({KEY: table[KEY], "support_lo": lo, "support_hi": hi})


def _drift_charts(
    decisions: DecisionLog, store: Store, sales: Sales | None
) -> tuple[Chart, ...] | None:
    if decisions.active is None or sales is None:
        return None
    rows = repository.read_rows(decisions.active, store)
    sold = sales.after(
        active_from(decisions, rows) + dt.timedelta(days=5)
    )  # the first week that is wholly after it ends one day later
    return charts(rows, panel_of(rows, sold)) if sold.num_rows else None
