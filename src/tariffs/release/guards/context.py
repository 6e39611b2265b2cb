"""The inputs of the guards, their limits, and findings.  All arrays have the shape (rows,)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.decision_log import Finding
from tariffs.release.drift import Chart
from tariffs.release.tables import KEY, Bools, Floats, floats, is_voice, keys_of, match_rows, tariff

MAX_CASES_SHOWN = 5  # further cases are only counted
SLACK = 1e-6  # a limit that is met exactly is met, also after a division
NO_CATALOGUE = "the catalogue on which it was priced no longer exists"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the guards.

    bundle_change   largest move of a bundle against the active table, a share of its price there
    voice_change    largest move of a discount against the active table, in points
    share_changed   largest share of prices that change at once
    bundle_step, voice_step   largest move against the present price: a share, and points
    bundle_beyond, voice_beyond   largest distance beyond all prices ever paid: a share, and points
    data_age        days between the last day of data and now
    units_lost      number of units with an active price that the table may lack
    volume_drop     largest fall of the expected volume, over all bundles and over all of voice
    location_drop   the same in any one location
    segment_ratio   highest segment's price over the lowest one's, for a product in a location
    voice_cliff     largest jump between the discounts of two neighbouring hours, in points
    cliffs_made     share of neighbouring hours that may jump further than that, and than today
    competitor_over, competitor_under   largest distance above and below the competitors' reference
    control_share   least share of each kind's units in the control group
    validity_days   longest validity
    validity_ahead  largest number of days until the prices begin
    margin_drop, revenue_drop   largest expected fall of a kind's margin, and of its revenue
    location_margin_drop   the same for the margin of one location
    unit_loss       largest expected loss of a unit that moves for itself, a share of its revenue
    below_cost      share of a kind's prices that may be below cost
    gain_least      least P(gain) of a move that only the unit's own elasticity requires
    unsure_moves    share of such moves that may be below it
    trial_share     share of a kind's units whose price may be a trial
    """

    bundle_change: float = 0.25
    voice_change: float = 40.0
    share_changed: float = 0.80
    bundle_step: float = 0.15
    voice_step: float = 20.0
    bundle_beyond: float = 0.15
    voice_beyond: float = 20.0
    data_age: float = 14.0
    units_lost: float = 0.0
    volume_drop: float = 0.20
    location_drop: float = 0.35
    segment_ratio: float = 2.0
    voice_cliff: float = 20.0
    cliffs_made: float = 0.02
    competitor_over: float = 0.10
    competitor_under: float = 0.0
    control_share: float = 0.01
    validity_days: float = 7.0
    validity_ahead: float = 14.0
    margin_drop: float = 0.02
    revenue_drop: float = 0.05
    location_margin_drop: float = 0.10
    unit_loss: float = 0.02
    below_cost: float = 0.01
    gain_least: float = 0.5
    unsure_moves: float = 0.01
    trial_share: float = 0.10


UNITS_OF = {  # of each limit, for people
    "bundle_change": "share of the active price",
    "voice_change": "points of discount",
    "share_changed": "share of all prices",
    "bundle_step": "share of today's price",
    "voice_step": "points of discount",
    "bundle_beyond": "share of the price paid before",
    "voice_beyond": "points of discount",
    "data_age": "days",
    "units_lost": "units",
    "volume_drop": "share of the volume",
    "location_drop": "share of a location's volume",
    "segment_ratio": "times the cheapest segment's price",
    "voice_cliff": "points of discount",
    "cliffs_made": "share of neighbouring hours",
    "competitor_over": "share of competitors' price",
    "competitor_under": "share of competitors' price",
    "control_share": "share of a kind's units",
    "validity_days": "days",
    "validity_ahead": "days",
    "margin_drop": "share of the margin",
    "revenue_drop": "share of the revenue",
    "location_margin_drop": "share of a location's margin",
    "unit_loss": "share of the unit's revenue",
    "below_cost": "share of a kind's prices",
    "gain_least": "probability",
    "unsure_moves": "share of the free moves",
    "trial_share": "share of a kind's units",
}


@dataclass(frozen=True, slots=True)
class GuardContext:
    """The inputs of the guards.

    table      the price table to approve
    active     the table that charging uses now; None if there is none
    catalogue  product, list_price, price_tick, price_floor, price_ceiling, and optional columns;
               None if it is gone
    now        aware, UTC
    support    unit_key, support_lo, support_hi: the range of prices paid; None if unknown
    charts     realised against expected volume since the active table came into use, by segment;
               None without sales
    sold       unit_key, posted: every unit sold, and its last posted price (voice: a share of the
               tariff); None if the sales are gone
    totals     line, tau, tau_se and the changes with intervals, from the summaries, if any
    portfolio  line, limits, outcome: the results of the policy's limits on the whole table
    locations  location, control, time_zone of the run; None if they are gone
    release    table_version and run_id of the release; empty if unknown
    """

    table: pa.Table
    active: pa.Table | None
    catalogue: pa.Table | None
    now: dt.datetime
    limits: Limits = Limits()
    support: pa.Table | None = None
    charts: tuple[Chart, ...] | None = None
    sold: pa.Table | None = None
    locations: pa.Table | None = None
    totals: tuple[Mapping[str, Any], ...] = ()
    portfolio: tuple[Mapping[str, Any], ...] = ()
    release: Mapping[str, Any] = field(default_factory=dict)


Guard = Callable[[GuardContext], Finding]


def limits_with(changed: Mapping[str, float]) -> Limits:
    """Return the limits, with those that were set to other values."""
    known = {field.name for field in fields(Limits)}
    return Limits(**{name: value for name, value in changed.items() if name in known})


def moves_against(table: pa.Table, active: pa.Table) -> tuple[pa.Table, Floats]:
    """Return the rows in both tables, and each price's move: a share; voice: points, down is +."""
    row = match_rows(table, active)
    there, was = table.filter(pa.array(row >= 0)), active.take(pa.array(row[row >= 0]))
    voice, price, before = is_voice(there), floats(there, "price"), floats(was, "price")
    moved = np.where(
        voice, 100.0 * (before - price) / np.where(voice, tariff(there), 1.0), price / before - 1.0
    )
    return there, np.asarray(np.round(moved, 9), dtype=np.float64)


def row_finding(
    code: str,
    table: pa.Table,
    broken: Bools,
    words: str,
    limit: str,
    describe: Callable[[int], str],
) -> Finding:
    """Return the finding of a guard that examines row by row; `describe` words a violation."""
    rows = np.flatnonzero(broken)
    keys = keys_of(
        table.select([KEY]).take(pa.array(rows[:MAX_CASES_SHOWN])),
        np.ones(min(len(rows), MAX_CASES_SHOWN), dtype=np.bool_),
    )
    cases = tuple(f"{key}: {describe(int(row))}" for key, row in zip(keys, rows, strict=False))
    return Finding(code, not len(rows), words, limit, cases, len(rows))


def describe_move(moved: Floats, voice: Bools) -> Callable[[int], str]:
    return lambda row: (
        f"{moved[row]:+.4g} points of discount" if voice[row] else f"{moved[row]:+.1%}"
    )


def largest_move(moved: Floats, form: str) -> str:
    return (
        form.format(float(moved[np.argmax(np.abs(moved))]))
        if len(moved) and np.any(moved)
        else "none"
    )


def catalogued(table: pa.Table, catalogue: pa.Table, name: str) -> Floats:
    """Return a column of the catalogue for each row's product; NaN if it is not there."""
    return np.asarray(
        np.append(floats(catalogue, name), np.nan)[_row_of(table, catalogue)], dtype=np.float64
    )


def in_catalogue(table: pa.Table, catalogue: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a text column of the catalogue for each row's product; null if it is not there."""
    row = _row_of(table, catalogue)
    return catalogue[name].take(pa.array(row, mask=row < 0))


def ladders(table: pa.Table, catalogue: pa.Table) -> npt.NDArray[np.int64]:
    """Return the ladder of each row's product as a number; -1 for none."""
    words = catalogue["ladder"].combine_chunks().dictionary_encode()
    numbers = np.asarray(
        pc.fill_null(words.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64
    )
    return np.append(numbers, -1)[_row_of(table, catalogue)]


def text(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    return np.asarray(pc.fill_null(table[name], "").to_numpy(zero_copy_only=False), dtype=object)


def is_text(table: pa.Table, name: str, value: str) -> Bools:
    """Return where a text column has this value; null never does.  It makes no Python objects."""
    return np.asarray(
        pc.fill_null(pc.equal(table[name], value), False).to_numpy(zero_copy_only=False),
        dtype=np.bool_,
    )


def text_equals(one: Any, other: Any) -> Bools:
    """Return where two text columns are equal; null equals nothing."""
    return np.asarray(
        pc.fill_null(pc.equal(one, other), False).to_numpy(zero_copy_only=False), dtype=np.bool_
    )


def category_codes(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Return a text column as numbers, equal where the texts are; -1 for null."""
    indices = table[name].combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _row_of(table: pa.Table, catalogue: pa.Table) -> npt.NDArray[np.int64]:
    row = pc.index_in(
        table["product"].combine_chunks(), value_set=catalogue["product"].combine_chunks()
    )
    return np.asarray(pc.fill_null(row, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
