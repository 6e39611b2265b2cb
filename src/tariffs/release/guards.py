"""What must be true of a price table before charging may use it.  Each guard is one function, with a code and words of its own.

The guards trust nothing that the model said of itself: they look at the prices, at the table that charging uses now, at the catalogue that the
table was priced on, and at the clock.  Shape of every array here: (rows,).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.log import Finding
from tariffs.release.tables import KEY, Bools, Floats, bools, floats, is_voice, keys_of, matched, one, repeated, tariff

SHOWN = 5  # so many cases in words; the rest is a count
SLACK = 1e-6  # a limit that is met exactly is met, also after a division
NO_CATALOGUE = "the catalogue that it was priced on is not there any more"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the guards allow.

    bundle_change   the largest move of a bundle against the active table, as a share of its price there
    voice_change    the largest move of a discount against the active table, in points
    share_changed   the largest share of prices that change at once
    bundle_step, voice_step   the largest move against the price that customers pay now: a share, and points of discount
    data_age        days between the last day of data and now
    units_lost      units that charging has a price for, and the table has none
    """

    bundle_change: float = 0.25
    voice_change: float = 40.0
    share_changed: float = 0.80
    bundle_step: float = 0.15
    voice_step: float = 20.0
    data_age: float = 14.0
    units_lost: float = 0.0


UNITS_OF = {  # of each limit, for people
    "bundle_change": "share of the active price", "voice_change": "points of discount", "share_changed": "share of all prices",
    "bundle_step": "share of today's price", "voice_step": "points of discount", "data_age": "days", "units_lost": "units",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """What the guards look at.

    table      the price table that is to be approved
    active     the table that charging uses now; None if there is none
    catalogue  product, list_price, price_tick, price_floor, price_ceiling; None if it cannot be had
    now        aware, UTC
    """

    table: pa.Table
    active: pa.Table | None
    catalogue: pa.Table | None
    now: dt.datetime
    limits: Limits = Limits()


Guard = Callable[[Subject], Finding]


def inspect(subject: Subject) -> tuple[Finding, ...]:
    """What every guard finds, in the order of `GUARDS`."""
    return tuple(guard(subject) for guard in GUARDS)


def limits_of(said: Mapping[str, float]) -> Limits:
    """The limits, where some have been set to other values than ours."""
    known = {field.name for field in fields(Limits)}
    return Limits(**{name: value for name, value in said.items() if name in known})


def change_size(s: Subject) -> Finding:
    """No price is too far from what charging asks now."""
    allowed = f"bundles {s.limits.bundle_change:.0%}, voice {s.limits.voice_change:g} points"
    if s.active is None:
        return Finding(CHANGE_SIZE, True, "no other table is active to compare with", allowed)
    there, moved = _against(s.table, s.active)
    voice = is_voice(there)
    broken = np.where(voice, np.abs(moved) > s.limits.voice_change + SLACK, np.abs(moved) > s.limits.bundle_change + SLACK)
    words = f"largest: bundles {_largest(moved[~voice], '{:+.1%}')}, voice {_largest(moved[voice], '{:+.4g} points')}"
    return _found(CHANGE_SIZE, there, broken, words, allowed, _moves(moved, voice))


def change_share(s: Subject) -> Finding:
    """Not nearly all prices change at once."""
    allowed = f"{s.limits.share_changed:.0%} of the prices"
    if s.active is None:
        return Finding(CHANGE_SHARE, True, "no other table is active to compare with", allowed)
    there, moved = _against(s.table, s.active)
    changed, rows = int(np.count_nonzero(moved)), there.num_rows
    share = changed / rows if rows else 0.0
    passed = share <= s.limits.share_changed + SLACK
    return Finding(CHANGE_SHARE, passed, f"{changed:,} of {rows:,} prices change ({share:.1%})", allowed)


def units(s: Subject) -> Finding:
    """Every unit has one price, and none that charging has a price for is left without."""
    allowed = f"each once, {s.limits.units_lost:g} left out"
    if twice := repeated(s.table):
        return Finding(UNITS, False, f"units with more than one price: {len(twice):,}", allowed, tuple(twice[:SHOWN]), len(twice))
    if s.active is None:
        return Finding(UNITS, bool(s.table.num_rows), f"{s.table.num_rows:,} units", allowed)
    lost = matched(s.active, s.table) < 0
    new = int(np.count_nonzero(matched(s.table, s.active) < 0))
    words = f"{s.table.num_rows:,} units: {new:,} new, {int(lost.sum()):,} of the active table left out"
    passed = bool(s.table.num_rows) and int(lost.sum()) <= s.limits.units_lost
    return Finding(
        UNITS, passed, words, allowed, () if passed else tuple(keys_of(s.active, lost)[:SHOWN]), 0 if passed else int(lost.sum())
    )


def step(s: Subject) -> Finding:
    """No price moves further in one go than customers are told.

    Floor and ceiling, the regulator's too, outrank the step, and so does a cell that is full: those may move a price further, but only
    to where they stand.
    """
    allowed = f"bundles {s.limits.bundle_step:.0%}, voice {s.limits.voice_step:g} points"
    voice, price, current, full = is_voice(s.table), floats(s.table, "price"), floats(s.table, "current_price"), tariff(s.table)
    moved = np.where(voice, 100.0 * (current - price) / np.where(voice, full, 1.0), price / current - 1.0)
    beyond = np.abs(moved) > np.where(voice, s.limits.voice_step, s.limits.bundle_step) + SLACK
    bound = _text(s.table, "constraint_bound")
    excused = (np.isin(bound, ("CAPACITY", "REG_FLOOR")) & (price > current)) | ((bound == "REG_CEILING") & (price < current))
    if s.catalogue is not None:
        floor, ceiling = _catalogued(s.table, s.catalogue, "price_floor"), _catalogued(s.table, s.catalogue, "price_ceiling")
        excused |= ((current < floor - SLACK) & (price <= floor + SLACK)) | ((current > ceiling + SLACK) & (price >= ceiling - SLACK))
    broken = beyond & ~excused
    for_reason = int((beyond & excused).sum())
    words = f"prices beyond the step: {int(broken.sum()):,}" + (f" ({for_reason:,} more for good reason)" if for_reason else "")
    return _found(STEP, s.table, broken, words, allowed, _moves(moved, voice))


def bounds(s: Subject) -> Finding:
    """Every price is between the catalogue's floor and ceiling."""
    allowed = "floor <= price <= ceiling of its product"
    if s.catalogue is None:
        return Finding(BOUNDS, False, NO_CATALOGUE, allowed)
    price = floats(s.table, "price")
    floor, ceiling = _catalogued(s.table, s.catalogue, "price_floor"), _catalogued(s.table, s.catalogue, "price_ceiling")
    broken = ~((price >= floor - SLACK) & (price <= ceiling + SLACK))  # a product that the catalogue has not is out of bounds too

    def told(row: int) -> str:
        return (
            f"{price[row]:g}, wanted {floor[row]:g} to {ceiling[row]:g}"
            if np.isfinite(floor[row])
            else "its product is not in the catalogue"
        )

    return _found(BOUNDS, s.table, broken, f"prices out of bounds: {int(broken.sum()):,}", allowed, told)


def price_points(s: Subject) -> Finding:
    """Every price that moves is one that can be asked: a multiple of the product's tick; voice: what its discount class says."""
    allowed = "multiples of the product's tick"
    if s.catalogue is None:
        return Finding(PRICE_POINTS, False, NO_CATALOGUE, allowed)
    price, tick, full = (
        floats(s.table, "price"),
        _catalogued(s.table, s.catalogue, "price_tick"),
        _catalogued(s.table, s.catalogue, "list_price"),
    )
    off = np.abs(price / tick - np.round(price / tick)) * tick > SLACK
    other = np.abs(price - full * (1.0 - floats(s.table, "discount_class") / 100.0)) > SLACK
    broken = (price != floats(s.table, "current_price")) & (off | ~np.isfinite(tick) | (is_voice(s.table) & other))

    def told(row: int) -> str:
        return f"{price[row]:g}, wanted a multiple of {tick[row]:g}" if off[row] else f"{price[row]:g} is not what its discount class says"

    return _found(PRICE_POINTS, s.table, broken, f"moves to a price that cannot be asked: {int(broken.sum()):,}", allowed, told)


def control(s: Subject) -> Finding:
    """The control group keeps its prices, and its members: the others are measured against them."""
    allowed = "no control unit moves, none joins or leaves"
    held = bools(s.table, "control_flag")
    moved = held & (floats(s.table, "price") != floats(s.table, "current_price"))
    changed = np.zeros_like(held)
    if s.active is not None and "control_flag" in s.active.column_names:
        row = matched(s.table, s.active)
        changed = (row >= 0) & (held != bools(s.active, "control_flag")[np.maximum(row, 0)])
    words = f"control units: {int(held.sum()):,}, of them moved {int(moved.sum()):,}, joined or left {int(changed.sum()):,}"
    return _found(
        CONTROL, s.table, moved | changed, words, allowed, lambda row: "moved" if moved[row] else "joined" if held[row] else "left"
    )


def stale(s: Subject) -> Finding:
    """The data that the prices were learnt from are recent."""
    allowed = f"{s.limits.data_age:g} days"
    oldest = pc.min(s.table["data_cutoff"]).as_py()
    if oldest is None or s.table["data_cutoff"].null_count:
        return Finding(STALE, False, "data_cutoff is missing", allowed)
    age = (s.now.date() - oldest).days
    return Finding(STALE, 0 <= age <= s.limits.data_age, f"the data end on {oldest}, {age:,} day{'s' * (age != 1)} ago", allowed)


def validity(s: Subject) -> Finding:
    """All prices are valid for one and the same time, which is not over, and does not begin before that of the active table."""
    allowed = "one time, in order, not over"
    (alone, start), (also, end) = one(s.table, "valid_from"), one(s.table, "valid_to")
    if not (alone and also) or start.as_py() is None or end.as_py() is None:
        return Finding(VALIDITY, False, "the prices are valid for several times, or for none", allowed)
    begin, over = start.as_py(), end.as_py()
    words = f"from {begin:%Y-%m-%d %H:%M} to {over:%Y-%m-%d %H:%M} UTC"
    problems = []
    if begin >= over:
        problems.append("it ends before it begins")
    if over <= s.now.replace(tzinfo=None):
        problems.append("it is over")
    if s.active is not None and (before := pc.min(s.active["valid_from"]).as_py()) is not None and begin < before:
        problems.append(f"the active table begins later, at {before:%Y-%m-%d %H:%M}")
    return Finding(VALIDITY, not problems, f"{words}: {', '.join(problems)}" if problems else words, allowed)


CHANGE_SIZE, CHANGE_SHARE, UNITS, STEP, BOUNDS = "CHANGE_SIZE", "CHANGE_SHARE", "UNITS", "STEP", "BOUNDS"
PRICE_POINTS, CONTROL, STALE, VALIDITY = "PRICE_POINTS", "CONTROL", "STALE", "VALIDITY"
GUARDS: tuple[Guard, ...] = (change_size, change_share, units, step, bounds, price_points, control, stale, validity)
CODES = (CHANGE_SIZE, CHANGE_SHARE, UNITS, STEP, BOUNDS, PRICE_POINTS, CONTROL, STALE, VALIDITY)
AGAINST_ACTIVE = frozenset(
    {CHANGE_SIZE, CHANGE_SHARE, UNITS, CONTROL, VALIDITY}
)  # these may find other things once another table is active


def _against(table: pa.Table, active: pa.Table) -> tuple[pa.Table, Floats]:
    """The rows that both have, and how far each price is from the active one: a share; voice: points of discount, as charged (down is +)."""
    row = matched(table, active)
    there, was = table.filter(pa.array(row >= 0)), active.take(pa.array(row[row >= 0]))
    voice, price, before = is_voice(there), floats(there, "price"), floats(was, "price")
    moved = np.where(voice, 100.0 * (before - price) / np.where(voice, tariff(there), 1.0), price / before - 1.0)
    return there, np.asarray(np.round(moved, 9), dtype=np.float64)


def _found(code: str, table: pa.Table, broken: Bools, words: str, limit: str, told: Callable[[int], str]) -> Finding:
    rows = np.flatnonzero(broken)
    keys = keys_of(table.select([KEY]).take(pa.array(rows[:SHOWN])), np.ones(min(len(rows), SHOWN), dtype=np.bool_))
    cases = tuple(f"{key}: {told(int(row))}" for key, row in zip(keys, rows, strict=False))
    return Finding(code, not len(rows), words, limit, cases, len(rows))


def _moves(moved: Floats, voice: Bools) -> Callable[[int], str]:
    return lambda row: f"{moved[row]:+.4g} points of discount" if voice[row] else f"{moved[row]:+.1%}"


def _largest(moved: Floats, form: str) -> str:
    return form.format(float(moved[np.argmax(np.abs(moved))])) if len(moved) and np.any(moved) else "none"


def _catalogued(table: pa.Table, catalogue: pa.Table, name: str) -> Floats:
    """A column of the catalogue for each row's product; NaN where the catalogue has it not."""
    row = pc.index_in(table["product"].combine_chunks(), value_set=catalogue["product"].combine_chunks())
    found = np.asarray(pc.fill_null(row, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    values = np.append(floats(catalogue, name), np.nan)
    return np.asarray(values[found], dtype=np.float64)


def _text(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    return np.asarray(pc.fill_null(table[name], "").to_numpy(zero_copy_only=False), dtype=object)
