"""What the prices rest on: a control group that stays, data that are recent, and a table that is for now."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.decision_log import Finding
from tariffs.release.drift import ALARM
from tariffs.release.guards.context import SHOWN, Subject, found, is_text, text_equals
from tariffs.release.tables import bools, floats, is_voice, matched

CONTROL, STALE, VALIDITY, DRIFT, PRIOR, LIMITS = (
    "CONTROL",
    "STALE",
    "VALIDITY",
    "DRIFT",
    "PRIOR",
    "LIMITS",
)
CLOCK_CHANGE = dt.timedelta(
    hours=2
)  # a week in which clocks change is an hour longer or shorter; Lord Howe, half of one


def control(s: Subject) -> Finding:
    """There is a control group, and it keeps its prices and its members: the others are measured against them."""
    allowed = f"{s.limits.control_share:.0%} of each kind's units; none moves, joins or leaves"
    held, voice = bools(s.table, "control_flag"), is_voice(s.table)
    moved = held & ~(floats(s.table, "price") == floats(s.table, "current_price"))
    changed = np.zeros_like(held)
    if s.active is not None and "control_flag" in s.active.column_names:
        row = matched(s.table, s.active)
        changed = (row >= 0) & (held != bools(s.active, "control_flag")[np.maximum(row, 0)])
    if s.locations is not None:
        row = _row_of_location(s)
        changed |= (row >= 0) & (held != bools(s.locations, "control")[np.maximum(row, 0)])
    words = f"control units: {int(held.sum()):,}, of them moved {int(moved.sum()):,}, joined or left {int(changed.sum()):,}"
    shown = found(
        CONTROL,
        s.table,
        moved | changed,
        words,
        allowed,
        lambda row: "moved" if moved[row] else "joined" if held[row] else "left",
    )
    few = [
        f"{kind}: {int(held[rows].sum()):,} of {int(rows.sum()):,} units are control; {_way_to_control(s, rows)}"
        for kind, rows in (("bundles", ~voice), ("voice", voice))
        if held[rows].sum() < s.limits.control_share * rows.sum()
    ]
    if not few:
        return shown
    cases = (*few, *shown.cases)[:SHOWN]
    return Finding(
        CONTROL,
        False,
        f"{words}; too few to measure against",
        allowed,
        cases,
        shown.count + len(few),
    )


def _way_to_control(s: Subject, rows: npt.NDArray[np.bool_]) -> str:
    """Return what to do where a kind has no control group."""
    places = len(pc.unique(s.table["location"].filter(pa.array(rows))))
    if places > 1:
        return f"mark one of its {places:,} locations as control in `locations`, and run again"
    return "it has one location, too few for a control group; --despite CONTROL goes without, and `measure` cannot compare then"


def stale(s: Subject) -> Finding:
    """The data that the prices were learnt from are recent, and none of them is of a day that is still to come."""
    allowed = f"{s.limits.data_age:g} days"
    oldest, newest = pc.min(s.table["data_cutoff"]).as_py(), pc.max(s.table["data_cutoff"]).as_py()
    if oldest is None or s.table["data_cutoff"].null_count:
        return Finding(STALE, False, "data_cutoff is missing", allowed)
    age = (s.now.date() - oldest).days
    if newest > s.now.date():
        return Finding(
            STALE,
            False,
            f"the data end on {newest}, and that is {(newest - s.now.date()).days:,} days ahead",
            allowed,
        )
    return Finding(
        STALE,
        age <= s.limits.data_age,
        f"the data end on {oldest}, {age:,} day{'s' * (age != 1)} ago",
        allowed,
    )


def validity(s: Subject) -> Finding:
    """The prices of each time zone are valid for one and the same time, from midnight there; it is not over, not far, and not too long."""
    most = s.limits.validity_days
    allowed = f"one time for each zone, from midnight, {most:g} days, beginning within {s.limits.validity_ahead:g}"
    zones = _zones(s)
    if not zones:
        return Finding(VALIDITY, False, "the prices are valid for no time", allowed)
    begin, over = min(start for _, start, _ in zones), max(end for _, _, end in zones)
    names = sorted({zone for zone, _, _ in zones})
    words = f"from {begin:%Y-%m-%d %H:%M} to {over:%Y-%m-%d %H:%M} UTC" + (
        f", in {len(names)} time zones" if len(names) > 1 else ""
    )
    problems = []
    if len(zones) > len(names):
        problems.append("one time zone has several times")
    if any(start >= end for _, start, end in zones):
        problems.append("it ends before it begins")
    if min(end for _, _, end in zones) <= s.now.replace(tzinfo=None):
        problems.append("it is over")
    if any((end - start) > dt.timedelta(days=most) + CLOCK_CHANGE for _, start, end in zones):
        problems.append(f"it is valid for {(over - begin).days:,} days")
    if (begin - s.now.replace(tzinfo=None)) > dt.timedelta(days=s.limits.validity_ahead):
        problems.append(f"it begins in {(begin - s.now.replace(tzinfo=None)).days:,} days")
    if max(start for _, start, _ in zones) - begin > dt.timedelta(days=1) + CLOCK_CHANGE:
        problems.append("the zones begin on different days")
    problems += _not_at_midnight(zones)
    problems += _other_clocks(s)
    problems += _other_zones(s)
    if (
        s.active is not None
        and (before := pc.min(s.active["valid_from"]).as_py()) is not None
        and begin < before
    ):
        problems.append(f"the active table begins later, at {before:%Y-%m-%d %H:%M}")
    return Finding(
        VALIDITY, not problems, f"{words}: {', '.join(problems)}" if problems else words, allowed
    )


def _zones(s: Subject) -> list[tuple[str, dt.datetime, dt.datetime]]:
    """Each time zone with each of its times, UTC; none at all where a row has no time."""
    if s.table["valid_from"].null_count or s.table["valid_to"].null_count:
        return []
    table = s.table.select(["valid_from", "valid_to"])
    zone = (
        s.table["time_zone"]
        if "time_zone" in s.table.column_names
        else pa.array(["UTC"] * s.table.num_rows)
    )
    rows = (
        table.append_column("zone", zone)
        .group_by(["zone", "valid_from", "valid_to"])
        .aggregate([])
        .to_pylist()
    )
    return [(str(r["zone"]), r["valid_from"], r["valid_to"]) for r in rows]


def _not_at_midnight(zones: list[tuple[str, dt.datetime, dt.datetime]]) -> list[str]:
    """Prices change at night, by the clock of those who pay them; a day whose midnight the clock leaves out begins at one."""
    told = set()
    for zone, start, end in zones:
        try:
            here = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            told.add(f"there is no time zone {zone}")
            continue
        for moment in (start, end):
            local = moment.replace(tzinfo=dt.UTC).astimezone(here)
            midnight = (
                dt.datetime.combine(local.date(), dt.time(), here)
                .astimezone(dt.UTC)
                .replace(tzinfo=None)
            )
            if moment != midnight:
                told.add(f"{local:%Y-%m-%d %H:%M} in {zone} is not midnight")
    return sorted(told)[:SHOWN]


def _other_clocks(s: Subject) -> list[str]:
    """Times of which a clock in the row's zone shows another than the row says."""
    told = set()
    for utc, local in (("valid_from", "valid_from_local"), ("valid_to", "valid_to_local")):
        for row in (
            s.table.select(["time_zone", utc, local])
            .group_by(["time_zone", utc, local])
            .aggregate([])
            .to_pylist()
        ):
            try:
                shown = (
                    row[utc]
                    .replace(tzinfo=dt.UTC)
                    .astimezone(ZoneInfo(str(row["time_zone"])))
                    .replace(tzinfo=None)
                )
            except (ZoneInfoNotFoundError, ValueError, OSError):
                continue  # a zone that there is not is told by itself
            if row[local] != shown:
                told.add(
                    f"{local} is {row[local] or 'empty'}, and a clock in {row['time_zone']} shows {shown:%Y-%m-%d %H:%M}"
                )
    return sorted(told)[:SHOWN]


def _other_zones(s: Subject) -> list[str]:
    """Rows whose time zone is not that of their location."""
    if s.locations is None or "time_zone" not in s.table.column_names:
        return []
    row = _row_of_location(s)
    wanted = pc.fill_null(s.locations["time_zone"].cast(pa.string()), "UTC").take(
        pa.array(row, mask=row < 0)
    )
    wrong = int(((row >= 0) & ~text_equals(s.table["time_zone"], wanted)).sum())
    return [f"prices in another time zone than their location's: {wrong:,}"] if wrong else []


def _row_of_location(s: Subject) -> npt.NDArray[np.int64]:
    assert s.locations is not None
    row = pc.index_in(
        s.table["location"].combine_chunks(), value_set=s.locations["location"].combine_chunks()
    )
    return np.asarray(pc.fill_null(row, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def drift(s: Subject) -> Finding:
    """Customers answer as the active table expects them to, segment by segment, since it came into use."""
    allowed = f"CUSUM up to {ALARM:g}, both ways"
    if s.active is None:
        return Finding(DRIFT, True, "no other table is active", allowed)
    if not s.charts:
        return Finding(
            DRIFT,
            True,
            "nothing was sold yet since the active table came into use, or it is not recorded",
            allowed,
        )
    worst = max(s.charts, key=lambda chart: chart.peak)
    weeks = max(len(chart.score) for chart in s.charts)
    words = f"{weeks:,} week{'s' * (weeks != 1)} since, {len(s.charts)} segments; furthest {worst.name}: {worst.peak:.1f}"
    cases = tuple(
        f"{c.name}: CUSUM {c.peak:.1f}, volume {c.ratio:+.1%} against what was expected"
        for c in s.charts
        if c.alarm
    )
    return Finding(DRIFT, not cases, words, allowed, cases[:SHOWN], len(cases))


def prior(s: Subject) -> Finding:
    """The data tell how far elasticities differ: tau is above its own standard error, or every unit rests on the mean of its kind."""
    allowed = "tau above its standard error"
    if not s.totals:
        return Finding(PRIOR, True, "the release says nothing of its prior", allowed)
    said = [(str(row["line"]), float(row["tau"]), float(row["tau_se"])) for row in s.totals]
    words = "; ".join(f"{line}: tau {tau:.3f}, standard error {se:.3f}" for line, tau, se in said)
    weak = tuple(
        f"{line}: its data do not tell tau; log more trials, or price fewer kinds of unit"
        for line, tau, se in said
        if not tau >= se
    )
    return Finding(PRIOR, not weak, words, allowed, weak, len(weak))


def limits(s: Subject) -> Finding:
    """The policy's limits on the whole table were met: where they cannot be, a kind keeps today's prices, and nobody would notice."""
    allowed = "every limit is met"
    unmet = tuple(
        f"{row['line']}, {row['limits']}: {row['outcome']}"
        for row in s.portfolio
        if str(row["outcome"]).startswith("NOT MET")
    )
    held = is_text(s.table, "constraint_bound", "LIMITS_NOT_MET")
    if not unmet and held.any():
        return found(
            LIMITS,
            s.table,
            held,
            f"units held for limits that are not met: {int(held.sum()):,}",
            allowed,
            lambda _: "held",
        )
    if unmet:
        words = f"limits of the policy cannot be met: {len(unmet)} of {len(s.portfolio)} kinds keep today's prices"
        return Finding(LIMITS, False, words, allowed, unmet, len(unmet))
    kinds = ", ".join(f"{row['line']}: {row['outcome']}" for row in s.portfolio)
    return Finding(LIMITS, True, kinds or "the policy limits no kind as a whole", allowed)
