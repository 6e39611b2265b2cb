"""Prices relative to one another: sizes of a bundle, hours of a cell, segments of a location.

Prices that stay are not judged: what is out of order today, and cannot be corrected in one step, is
no fault of this release.  New or worse disorder is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    NO_CATALOGUE,
    SLACK,
    GuardContext,
    catalogued,
    category_codes,
    is_text,
    ladders,
    row_finding,
)
from tariffs.release.tables import Bools, Floats, floats, is_voice, tariff

LADDER, SMOOTH, FAIRNESS = "LADDER", "SMOOTH", "FAIRNESS"
ROUNDING_SLACK = 1e-9
LADDER_COLUMNS = ("ladder", "rung", "volume_mb", "validity_days")
HOURS = 24

Ints = npt.NDArray[np.int64]


def ladder(ctx: GuardContext) -> Finding:
    """A larger size and a longer validity cost no less, and a megabyte of a larger size no more."""
    allowed = "no pair out of order by a price that moves"
    if ctx.catalogue is None:
        return Finding(LADDER, False, NO_CATALOGUE, allowed)
    if not set(LADDER_COLUMNS) <= set(ctx.catalogue.column_names):
        return Finding(LADDER, True, "sizes and ladders are not in the catalogue", allowed)
    price, current = floats(ctx.table, "price"), floats(ctx.table, "current_price")
    rung, size, days = (
        catalogued(ctx.table, ctx.catalogue, name)
        for name in ("rung", "volume_mb", "validity_days")
    )
    location = _location_codes(ctx)
    sizes = _neighbours((location, ladders(ctx.table, ctx.catalogue)), rung)
    broken = _out_of_order(price, size, *sizes) & (
        (price != current)[sizes[0]] | (price != current)[sizes[1]]
    )
    low, high = _neighbours((location, np.nan_to_num(size, nan=-1.0)), days)
    undercut = (price[high] < price[low] - ROUNDING_SLACK) & ~(
        current[high] < current[low] - ROUNDING_SLACK
    )
    bad = np.zeros(len(price), dtype=np.bool_)
    bad[sizes[1][broken]] = True
    bad[high[undercut]] = True
    left = int(_out_of_order(price, size, *sizes).sum()) - int(broken.sum())
    words = f"put out of order: {int(broken.sum()):,} sizes, {int(undercut.sum()):,} validities"
    return row_finding(
        LADDER,
        ctx.table,
        bad,
        words + (f" (out of order today, and left so: {left:,})" if left else ""),
        allowed,
        lambda row: f"{price[row]:g} for {size[row]:g} MB, {days[row]:g} days",
    )


def smooth(ctx: GuardContext) -> Finding:
    """Discounts do not jump from one hour to the next: a cliff makes everybody call at once."""
    most = ctx.limits.voice_cliff
    allowed = (
        f"jumps of {most:g} points, made beyond that in {ctx.limits.cliffs_made:.0%} of the hours"
    )
    voice = np.flatnonzero(is_voice(ctx.table))
    if not len(voice):
        return Finding(SMOOTH, True, "no voice", allowed)
    hours = ctx.table.take(voice)
    full = tariff(hours)
    discount, before = (
        100.0 * (1.0 - floats(hours, name) / full) for name in ("price", "current_price")
    )
    hour = floats(hours, "hour")
    here, after = _next_hours(
        (category_codes(hours, "cell"), category_codes(hours, "day_type")), hour
    )
    jump, jumped = np.abs(discount[after] - discount[here]), np.abs(before[after] - before[here])
    full_cell = is_text(hours, "constraint_bound", "CAPACITY")
    made = (jump > most + SLACK) & (jump > jumped + SLACK) & ~(full_cell[here] | full_cell[after])
    share = float(made.sum()) / max(len(here), 1)
    words = (
        f"cliffs of more than {most:g} points: {int((jumped > most + SLACK).sum()):,} today,"
        f" {int((jump > most + SLACK).sum()):,} then, {int(made.sum()):,} of them made or made"
        f" steeper ({share:.1%})"
    )
    broken = np.zeros(len(hour), dtype=np.bool_)
    broken[here[made]] = True
    shown = row_finding(
        SMOOTH,
        hours,
        broken,
        words,
        allowed,
        lambda row: _describe_cliff(row, here, after, discount, before, hour),
    )
    passed = share <= ctx.limits.cliffs_made + ROUNDING_SLACK
    return Finding(
        SMOOTH,
        passed,
        words,
        allowed,
        () if passed else shown.examples,
        0 if passed else shown.count,
    )


def fairness(ctx: GuardContext) -> Finding:
    """The same product in the same location does not cost one segment far more than another."""
    allowed = f"highest segment {ctx.limits.segment_ratio:g} times the lowest"
    bundles = np.flatnonzero(~is_voice(ctx.table))
    if not len(bundles):
        return Finding(FAIRNESS, True, "no bundles", allowed)
    table = ctx.table.take(bundles)
    group = _pair_codes((category_codes(table, "location"), category_codes(table, "product")))
    price, current = floats(table, "price"), floats(table, "current_price")
    ratio, today = _spread(group, price), _spread(group, current)
    broken = (
        (ratio > ctx.limits.segment_ratio + SLACK)
        & (ratio >= today - ROUNDING_SLACK)
        & (price >= _extreme(group, price, np.maximum) - ROUNDING_SLACK)
    )
    broken &= (
        _extreme(group, (price != current).astype(np.float64), np.maximum) > 0
    )  # a product without a move is not judged
    words = (
        f"largest ratio {ratio.max():.2f} (today {today.max():.2f});"
        f" products beyond it: {len(np.unique(group[broken])):,}"
    )
    return row_finding(
        FAIRNESS,
        table,
        broken,
        words,
        allowed,
        lambda row: f"{ratio[row]:.2f} times the cheapest segment's price",
    )


def _location_codes(ctx: GuardContext) -> Ints:
    """Return (segment, location) as a number; -1 for voice."""
    return np.where(
        is_voice(ctx.table),
        -1,
        _pair_codes((category_codes(ctx.table, "segment"), category_codes(ctx.table, "location"))),
    )


def _pair_codes(keys: tuple[Ints, Ints]) -> Ints:
    """Return pairs of numbers as one number each."""
    first, second = (np.asarray(key, dtype=np.int64) + 1 for key in keys)
    return np.asarray(first * (int(second.max(initial=0)) + 1) + second, dtype=np.int64)


def _neighbours(group: tuple[Ints, Ints | Floats], at: Floats) -> tuple[Ints, Ints]:
    """Return neighbouring rows of a group, lower and upper by `at`; others are left out."""
    order = np.lexsort((at, group[1], group[0]))
    low, high = order[:-1], order[1:]
    known = (
        (group[0][low] >= 0)
        & (group[1][low] >= 0)
        & np.isfinite(at[low])
        & np.isfinite(at[high])
        & (at[low] < at[high])
    )
    same = known & (group[0][low] == group[0][high]) & (group[1][low] == group[1][high])
    return low[same], high[same]


def _next_hours(group: tuple[Ints, Ints], hour: Floats) -> tuple[Ints, Ints]:
    """Return each hour and the next one, the last with the first, where both exist."""
    order = np.lexsort((hour, group[1], group[0]))
    position = _pair_codes(group)[order] * HOURS + hour[order].astype(np.int64)
    following = position - position % HOURS + (position + 1) % HOURS
    at = np.searchsorted(position, following)
    there = (at < len(position)) & (position[np.minimum(at, len(position) - 1)] == following)
    return order[there], order[at[there]]


def _out_of_order(price: Floats, size: Floats, low: Ints, high: Ints) -> Bools:
    cheaper = price[high] < price[low] - ROUNDING_SLACK
    return np.asarray(
        cheaper | (price[high] / size[high] > price[low] / size[low] + ROUNDING_SLACK),
        dtype=np.bool_,
    )


def _extreme(group: Ints, values: Floats, which: np.ufunc) -> Floats:
    """Return the largest (or smallest) value of each row's group."""
    names, number = np.unique(group, return_inverse=True)
    found = np.full(len(names), -np.inf if which is np.maximum else np.inf)
    which.at(found, number, values)
    return found[number]


def _spread(group: Ints, price: Floats) -> Floats:
    return _extreme(group, price, np.maximum) / _extreme(group, price, np.minimum)


def _describe_cliff(
    row: int, here: Ints, after: Ints, discount: Floats, before: Floats, hour: Floats
) -> str:
    then = int(after[np.flatnonzero(here == row)[0]])
    return (
        f"{discount[row]:.0f} % at {hour[row]:02.0f}, {discount[then]:.0f} % at {hour[then]:02.0f}"
        f" (today {before[row]:.0f} and {before[then]:.0f})"
    )
