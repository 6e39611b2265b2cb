"""The choice of a measurement: which table, since when, and from which sales; see `measure`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hundredfold.errors import StateError, UsageError
from hundredfold.releases import Release, RunHome
from tariffs.release import repository
from tariffs.release.catalogue import catalogue_of
from tariffs.release.decision_log import DecisionLog, Table
from tariffs.release.files import resolve_table
from tariffs.release.guards.context import catalogued
from tariffs.release.measure import WEEKS_BEFORE, Measured, UnitFacts, measure
from tariffs.release.panel import panel_of
from tariffs.release.promise import optimism_of
from tariffs.release.sales import Sales, create_sales_view, sales_location, sales_of
from tariffs.release.tables import Floats, floats, is_voice

DAYS_PER_WEEK = {"WEEKDAY": 5.0, "WEEKEND": 2.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a table.

    read           the origin of the sales;  unsound  the number of their invalid rows
    since, until   the time in use; until None while it is active
    """

    table: Table
    since: dt.date
    until: dt.date | None
    read: str
    unsound: int
    measured: Measured


def outcome(
    word: str,
    home: RunHome,
    *,
    since: dt.date | None,
    until: dt.date | None,
    given: Mapping[str, str],
    catalogue: str | None,
) -> Outcome:
    """Measure a table.

    Raises UsageError if it was never in use and no time is given, StateError without sales.
    """
    decisions = repository.read_log(home.store)
    table = resolve_table(word, decisions, home.store)
    rows = (
        repository.read_rows(table, home.store)
        if table.canary is None
        else _canary_against_rest(table, home.store)
    )
    begins, ends = active_period(decisions, table)
    begins, ends = since or _first_day(rows, begins), until or ends
    if begins is None:
        raise UsageError(
            f"{table} was never in use",
            hint=f"give the first day of its prices: tariffs measure {word} --since DATE",
        )
    release = newest_release(home.store)
    sales = _sales(release, home, given)
    panel = panel_of(rows, sales.after(begins - dt.timedelta(weeks=WEEKS_BEFORE, days=1)))
    facts = UnitFacts(
        _cost(rows, release, home, catalogue),
        _capacity(rows, release, home),
        _region(rows, release, home),
        optimism_of(table, home.store),
    )
    found = measure(rows, panel, begins, ends, facts)
    read = ", ".join(given.values()) if given else f"the run of release {release.version}"
    if not found.after:
        latest = str(panel.weeks.max()) if len(panel.weeks) else "long before"
        raise StateError(
            f"nothing was sold yet in a whole week since {begins}, when {table} came into use:"
            f" the sales of {read} end on {latest}",
            hint="run the job again when there are newer sales; or: tariffs measure --since DATE",
        )
    return Outcome(table, begins, ends, read, sales.unsound(), found)


def _sales(release: Release, home: RunHome, given: Mapping[str, str]) -> Sales:
    """Return the given sales, or those of the release's run; StateError if these are gone."""
    sales = sales_of(release, home, given)
    if sales is None:
        raise StateError(
            f"the sales from which release {release.version} was made no longer exist",
            hint="name them: tariffs measure --sales PATH --usage PATH",
        )
    return sales


def _canary_against_rest(table: Table, store: Any) -> pa.Table:
    """Return a canary's rows with the other locations as control group.

    These keep the prices of the previous table, with which the canary is compared.
    """
    rows = repository.read_rows(table, store)
    inside = pc.and_(
        pc.is_in(rows["location"], value_set=pa.array(table.locations)),
        pc.invert(rows["control_flag"]),
    )
    changes = {
        "control_flag": pc.invert(inside),
        "current_price": pc.if_else(inside, rows["current_price"], rows["price"]),
    }
    for name, values in changes.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows


def active_period(decisions: DecisionLog, table: Table) -> tuple[dt.date | None, dt.date | None]:
    """Return the first and the last day of the latest use of a table; None if there is none."""
    begins = ends = None
    for entry in decisions.entries:
        day = dt.datetime.fromisoformat(entry.attribution.at).date()
        if entry.active == table:
            begins, ends = (begins if begins and ends is None else day), None
        elif begins and ends is None:
            ends = day
    return begins, ends


def newest_release(store: Any) -> Release:
    """Return the newest release that is intact enough to name its run."""
    found = next(
        (s.release for s in reversed(repository.stored_releases(store)) if s.release), None
    )
    if found is None:
        raise UsageError("no price table is published yet", hint="hundredfold run tariffs.job:job")
    return found


def _first_day(rows: pa.Table, decided: dt.date | None) -> dt.date | None:
    """Return the first day of the prices: the later of the decision and their `valid_from`."""
    valid = pc.min(rows["valid_from"]).as_py()
    return max(decided, valid.date()) if decided and valid else decided


def _cost(rows: pa.Table, release: Release, home: RunHome, given: str | None) -> Floats:
    catalogue = catalogue_of(release, home, given)
    if catalogue is None or "unit_cost" not in catalogue.column_names:
        return np.full(rows.num_rows, np.nan)
    return catalogued(rows, catalogue, "unit_cost")


def _capacity(rows: pa.Table, release: Release, home: RunHome) -> Floats:
    """Return the minutes of a voice unit's week; NaN for bundles, and if unknown."""
    cells = _source("cell_load", ("cell", "hour", "capacity_minutes"), release, home)
    if cells is None:
        return np.full(rows.num_rows, np.nan)

    def keys(table: pa.Table) -> pa.Array:
        return pc.binary_join_element_wise(
            table["cell"].cast(pa.string()), table["hour"].cast(pa.int64()).cast(pa.string()), "/"
        ).combine_chunks()

    at = np.asarray(
        pc.fill_null(pc.index_in(keys(rows), value_set=keys(cells)), -1).to_numpy(
            zero_copy_only=False
        ),
        dtype=np.int64,
    )
    days = np.zeros(rows.num_rows)
    for name, count in DAYS_PER_WEEK.items():
        days[
            np.asarray(
                pc.fill_null(pc.equal(rows["day_type"], name), False).to_numpy(zero_copy_only=False)
            )
        ] = count
    found = np.append(floats(cells, "capacity_minutes"), np.nan)[at] * days
    return np.where(is_voice(rows) & (at >= 0), found, np.nan)


def _region(rows: pa.Table, release: Release, home: RunHome) -> list[str] | None:
    """Return the region of each unit's location, '' if unknown."""
    locations = _source("locations", ("location", "region"), release, home)
    if locations is None:
        return None
    at = pc.index_in(
        rows["location"].combine_chunks(),
        value_set=locations["location"].cast(pa.string()).combine_chunks(),
    )
    return list(
        pc.fill_null(
            locations["region"].cast(pa.string()).combine_chunks().take(at), ""
        ).to_pylist()
    )


def _source(
    name: str, columns: tuple[str, ...], release: Release, home: RunHome
) -> pa.Table | None:
    import duckdb

    location = sales_location(name, release, home)
    if location is None:
        return None
    with duckdb.connect() as duck:
        create_sales_view(duck, location)
        return duck.sql(f"SELECT {', '.join(columns)} FROM sales").to_arrow_table()
