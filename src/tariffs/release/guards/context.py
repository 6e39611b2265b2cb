"""What the guards look at, what they allow, and how they say what they found.  Shape of every array in the guards: (rows,)."""

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

MAX_CASES_SHOWN = 5  # so many cases in words; the rest is a count
SLACK = 1e-6  # a limit that is met exactly is met, also after a division
NO_CATALOGUE = "the catalogue that it was priced on is not there any more"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the guards allow.

    bundle_change   the largest move of a bundle against the active table, as a share of its price there
    voice_change    the largest move of a discount against the active table, in points
    share_changed   the largest share of prices that change at once
    bundle_step, voice_step   the largest move against the price that customers pay now: a share, and points of discount
    bundle_beyond, voice_beyond   how far a price may lie beyond all that were ever paid: a share, and points of discount
    data_age        days between the last day of data and now
    units_lost      units that charging has a price for, and the table has none
    volume_drop     the largest fall of the expected volume, over all bundles and over all of voice
    place_drop      the same in any one location
    segment_ratio   the dearest segment's price over the cheapest one's, for the same product in the same location
    voice_cliff     the largest jump between the discounts of two neighbouring hours, in points
    cliffs_made     the share of neighbouring hours that may jump further than that, and further than today
    competitor_over, competitor_under   how far a price may be above and below the competitors' reference, as shares of it
    control_share   the least share of each kind's units that the control group must hold
    validity_days   how long prices may be valid
    validity_ahead  days from now until the prices begin
    margin_drop, revenue_drop   the largest expected fall of a kind's margin, and of its revenue
    place_margin_drop   the same for the margin of one location
    unit_loss       the largest expected loss of a unit that moves for its own sake, as a share of its revenue
    below_cost      the share of a kind's prices that may lie below cost
    gain_least      the least P(gain) of a move that nothing but the unit's own elasticity asks for
    unsure_moves    the share of such moves that may fall short of it
    trial_share     the share of a kind's units whose price may be a trial
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
    place_drop: float = 0.35
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
    place_margin_drop: float = 0.10
    unit_loss: float = 0.02
    below_cost: float = 0.01
    gain_least: float = 0.5
    unsure_moves: float = 0.01
    trial_share: float = 0.10


UNITS_OF = {  # of each limit, for people
    "bundle_change": "share of the active price", "voice_change": "points of discount", "share_changed": "share of all prices",
    "bundle_step": "share of today's price", "voice_step": "points of discount", "bundle_beyond": "share of the price paid before",
    "voice_beyond": "points of discount", "data_age": "days", "units_lost": "units", "volume_drop": "share of the volume",
    "place_drop": "share of a location's volume", "segment_ratio": "times the cheapest segment's price", "voice_cliff": "points of discount",
    "cliffs_made": "share of neighbouring hours", "competitor_over": "share of the competitors' price",
    "competitor_under": "share of the competitors' price", "control_share": "share of a kind's units", "validity_days": "days",
    "validity_ahead": "days", "margin_drop": "share of the margin", "revenue_drop": "share of the revenue",
    "place_margin_drop": "share of a location's margin", "unit_loss": "share of the unit's revenue",
    "below_cost": "share of a kind's prices", "gain_least": "probability", "unsure_moves": "share of the free moves",
    "trial_share": "share of a kind's units",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GuardContext:
    """What the guards look at.

    table      the price table that is to be approved
    active     the table that charging uses now; None if there is none
    catalogue  product, list_price, price_tick, price_floor, price_ceiling, and more where it has them; None if it cannot be had
    now        aware, UTC
    support    unit_key, support_lo, support_hi: the lowest and the highest price that was paid; None if nobody knows
    charts     realised against expected volume since the active table came into use, by segment; None if nothing was sold since
    sold       unit_key, posted: every unit that was sold, and the price that was posted last (voice: as a share of the tariff);
               None if the sales that the table was learnt from are gone
    totals     line, tau, tau_se and the changes with their intervals, as the release's summaries have them; empty where it has none
    portfolio  line, limits, outcome: what became of the policy's limits on the whole table, as the release's summaries have them
    locations  location, control, time_zone: those of the run; None if they are gone
    release    table_version and run_id, as the release itself has them; empty where nobody knows
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


def limits_with(said: Mapping[str, float]) -> Limits:
    """The limits, where some have been set to other values than ours."""
    known = {field.name for field in fields(Limits)}
    return Limits(**{name: value for name, value in said.items() if name in known})


def moves_against(table: pa.Table, active: pa.Table) -> tuple[pa.Table, Floats]:
    """The rows that both have, and how far each price is from the active one: a share; voice: points of discount, as charged (down is +)."""
    row = match_rows(table, active)
    there, was = table.filter(pa.array(row >= 0)), active.take(pa.array(row[row >= 0]))
    voice, price, before = is_voice(there), floats(there, "price"), floats(was, "price")
    moved = np.where(
        voice, 100.0 * (before - price) / np.where(voice, tariff(there), 1.0), price / before - 1.0
    )
    return there, np.asarray(np.round(moved, 9), dtype=np.float64)


def row_finding(
    code: str, table: pa.Table, broken: Bools, words: str, limit: str, told: Callable[[int], str]
) -> Finding:
    """The finding of a guard that looks at rows one by one; `told` says what is wrong with a row."""
    rows = np.flatnonzero(broken)
    keys = keys_of(
        table.select([KEY]).take(pa.array(rows[:MAX_CASES_SHOWN])),
        np.ones(min(len(rows), MAX_CASES_SHOWN), dtype=np.bool_),
    )
    cases = tuple(f"{key}: {told(int(row))}" for key, row in zip(keys, rows, strict=False))
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
    """A column of the catalogue for each row's product; NaN where the catalogue has it not."""
    return np.asarray(
        np.append(floats(catalogue, name), np.nan)[_row_of(table, catalogue)], dtype=np.float64
    )


def in_catalogue(table: pa.Table, catalogue: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of words of the catalogue for each row's product; null where the catalogue has it not."""
    row = _row_of(table, catalogue)
    return catalogue[name].take(pa.array(row, mask=row < 0))


def ladders(table: pa.Table, catalogue: pa.Table) -> npt.NDArray[np.int64]:
    """The ladder of each row's product as a number; -1 where it has none."""
    words = catalogue["ladder"].combine_chunks().dictionary_encode()
    numbers = np.asarray(
        pc.fill_null(words.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64
    )
    return np.append(numbers, -1)[_row_of(table, catalogue)]


def text(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    return np.asarray(pc.fill_null(table[name], "").to_numpy(zero_copy_only=False), dtype=object)


def is_text(table: pa.Table, name: str, value: str) -> Bools:
    """Where a column of words has this one; null is none.  Without a Python object for each row."""
    return np.asarray(
        pc.fill_null(pc.equal(table[name], value), False).to_numpy(zero_copy_only=False),
        dtype=np.bool_,
    )


def text_equals(one: Any, other: Any) -> Bools:
    """Where two columns of words are the same; null is the same as nothing."""
    return np.asarray(
        pc.fill_null(pc.equal(one, other), False).to_numpy(zero_copy_only=False), dtype=np.bool_
    )


def category_codes(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """A column of words as numbers, equal where the words are; -1 for null."""
    indices = table[name].combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _row_of(table: pa.Table, catalogue: pa.Table) -> npt.NDArray[np.int64]:
    row = pc.index_in(
        table["product"].combine_chunks(), value_set=catalogue["product"].combine_chunks()
    )
    return np.asarray(pc.fill_null(row, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
