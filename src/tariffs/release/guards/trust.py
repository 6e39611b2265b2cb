"""The foundations of the prices: a stable control group, recent data, a present validity."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.decision_log import Finding
from tariffs.release.drift import CUSUM_ALARM
from tariffs.release.guards.context import (
    MAX_CASES_SHOWN,
    GuardContext,
    is_text,
    row_finding,
    text_equals,
)
from tariffs.release.tables import bools, floats, is_voice, match_rows

CONTROL, STALE, VALIDITY, DRIFT, PRIOR, LIMITS = (
    "CONTROL",
    "STALE",
    "VALIDITY",
    "DRIFT",
    "PRIOR",
    "LIMITS",
)
MAX_CLOCK_CHANGE = dt.timedelta(
    hours=2
)  # a week with a clock change differs by an hour; Lord Howe by half of one


def control(ctx: GuardContext) -> Finding:
    """There is a control group, with constant prices and members, to measure the others against."""
    allowed = f"{ctx.limits.control_share:.0%} of each kind's units; none moves, joins or leaves"
    held, voice = bools(ctx.table, "control_flag"), is_voice(ctx.table)
    moved = held & ~(floats(ctx.table, "price") == floats(ctx.table, "current_price"))
    changed = np.zeros_like(held)
    if ctx.active is not None and "control_flag" in ctx.active.column_names:
        row = match_rows(ctx.table, ctx.active)
        changed = (row >= 0) & (held != bools(ctx.active, "control_flag")[np.maximum(row, 0)])
    if ctx.locations is not None:
        row = _row_of_location(ctx)
        changed |= (row >= 0) & (held != bools(ctx.locations, "control")[np.maximum(row, 0)])
    words = (
        f"control units: {int(held.sum()):,}, of them moved {int(moved.sum()):,},"
        f" joined or left {int(changed.sum()):,}"
    )
    shown = row_finding(
        CONTROL,
        ctx.table,
        moved | changed,
        words,
        allowed,
        lambda row: "moved" if moved[row] else "joined" if held[row] else "left",
    )
    few = [
        f"{kind}: {int(held[rows].sum()):,} of {int(rows.sum()):,} units are control;"
        f" {_control_group_hint(ctx, rows)}"
        for kind, rows in (("bundles", ~voice), ("voice", voice))
        if held[rows].sum() < ctx.limits.control_share * rows.sum()
    ]
    if not few:
        return shown
    cases = (*few, *shown.examples)[:MAX_CASES_SHOWN]
    return Finding(
        CONTROL,
        False,
        f"{words}; too few to measure against",
        allowed,
        cases,
        shown.count + len(few),
    )


def _control_group_hint(ctx: GuardContext, rows: npt.NDArray[np.bool_]) -> str:
    """Return the remedy for a kind without a control group."""
    locations = len(pc.unique(ctx.table["location"].filter(pa.array(rows))))
    if locations > 1:
        return f"mark one of its {locations:,} locations as control in `locations`, and run again"
    return (
        "it has one location, too few for a control group;"
        " --override CONTROL goes without, and `measure` cannot compare then"
    )


def stale(ctx: GuardContext) -> Finding:
    """The data behind the prices are recent, and none is of a day in the future."""
    allowed = f"{ctx.limits.data_age:g} days"
    oldest, newest = (
        pc.min(ctx.table["data_cutoff"]).as_py(),
        pc.max(ctx.table["data_cutoff"]).as_py(),
    )
    if oldest is None or ctx.table["data_cutoff"].null_count:
        return Finding(STALE, False, "data_cutoff is missing", allowed)
    age = (ctx.now.date() - oldest).days
    if newest > ctx.now.date():
        return Finding(
            STALE,
            False,
            f"the data end on {newest}, and that is {(newest - ctx.now.date()).days:,} days ahead",
            allowed,
        )
    return Finding(
        STALE,
        age <= ctx.limits.data_age,
        f"the data end on {oldest}, {age:,} day{'s' * (age != 1)} ago",
        allowed,
    )


def validity(ctx: GuardContext) -> Finding:
    """Each time zone has one validity, from midnight: not over, not far ahead, not too long."""
    most = ctx.limits.validity_days
    allowed = (
        f"one time for each zone, from midnight, {most:g} days,"
        f" beginning within {ctx.limits.validity_ahead:g}"
    )
    zones = _zones(ctx)
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
    if min(end for _, _, end in zones) <= ctx.now.replace(tzinfo=None):
        problems.append("it is over")
    if any((end - start) > dt.timedelta(days=most) + MAX_CLOCK_CHANGE for _, start, end in zones):
        problems.append(f"it is valid for {(over - begin).days:,} days")
    if (begin - ctx.now.replace(tzinfo=None)) > dt.timedelta(days=ctx.limits.validity_ahead):
        problems.append(f"it begins in {(begin - ctx.now.replace(tzinfo=None)).days:,} days")
    if max(start for _, start, _ in zones) - begin > dt.timedelta(days=1) + MAX_CLOCK_CHANGE:
        problems.append("the zones begin on different days")
    problems += _midnight_problems(zones)
    problems += _local_time_problems(ctx)
    problems += _zone_problems(ctx)
    if (
        ctx.active is not None
        and (before := pc.min(ctx.active["valid_from"]).as_py()) is not None
        and begin < before
    ):
        problems.append(f"the active table begins later, at {before:%Y-%m-%d %H:%M}")
    return Finding(
        VALIDITY, not problems, f"{words}: {', '.join(problems)}" if problems else words, allowed
    )


def _zones(ctx: GuardContext) -> list[tuple[str, dt.datetime, dt.datetime]]:
    """Return each time zone with each of its validities, UTC; none if a row has none."""
    if ctx.table["valid_from"].null_count or ctx.table["valid_to"].null_count:
        return []
    table = ctx.table.select(["valid_from", "valid_to"])
    zone = (
        ctx.table["time_zone"]
        if "time_zone" in ctx.table.column_names
        else pa.array(["UTC"] * ctx.table.num_rows)
    )
    rows = (
        table.append_column("zone", zone)
        .group_by(["zone", "valid_from", "valid_to"], use_threads=False)
        .aggregate([])
        .to_pylist()
    )
    return [(str(r["zone"]), r["valid_from"], r["valid_to"]) for r in rows]


def _midnight_problems(zones: list[tuple[str, dt.datetime, dt.datetime]]) -> list[str]:
    """Return validities that do not begin and end at midnight of their zone.

    A day whose midnight the clock skips begins at one.
    """
    problems = set()
    for zone, start, end in zones:
        try:
            here = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            problems.add(f"there is no time zone {zone}")
            continue
        for moment in (start, end):
            local = moment.replace(tzinfo=dt.UTC).astimezone(here)
            midnight = (
                dt.datetime.combine(local.date(), dt.time(), here)
                .astimezone(dt.UTC)
                .replace(tzinfo=None)
            )
            if moment != midnight:
                problems.add(f"{local:%Y-%m-%d %H:%M} in {zone} is not midnight")
    return sorted(problems)[:MAX_CASES_SHOWN]


def _local_time_problems(ctx: GuardContext) -> list[str]:
    """Return local times that a clock in the row's zone does not show."""
    problems = set()
    for utc, local in (("valid_from", "valid_from_local"), ("valid_to", "valid_to_local")):
        for row in (
            ctx.table.select(["time_zone", utc, local])
            .group_by(["time_zone", utc, local], use_threads=False)
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
                continue  # an unknown zone is reported separately
            if row[local] != shown:
                problems.add(
                    f"{local} is {row[local] or 'empty'},"
                    f" and a clock in {row['time_zone']} shows {shown:%Y-%m-%d %H:%M}"
                )
    return sorted(problems)[:MAX_CASES_SHOWN]


def _zone_problems(ctx: GuardContext) -> list[str]:
    """Return the number of rows whose time zone is not that of their location."""
    if ctx.locations is None or "time_zone" not in ctx.table.column_names:
        return []
    row = _row_of_location(ctx)
    wanted = pc.fill_null(ctx.locations["time_zone"].cast(pa.string()), "UTC").take(
        pa.array(row, mask=row < 0)
    )
    wrong = int(((row >= 0) & ~text_equals(ctx.table["time_zone"], wanted)).sum())
    return [f"prices in another time zone than their location's: {wrong:,}"] if wrong else []


def _row_of_location(ctx: GuardContext) -> npt.NDArray[np.int64]:
    assert ctx.locations is not None
    row = pc.index_in(
        ctx.table["location"].combine_chunks(), value_set=ctx.locations["location"].combine_chunks()
    )
    return np.asarray(pc.fill_null(row, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def drift(ctx: GuardContext) -> Finding:
    """Since the active table came into use, demand in every segment is as it expects."""
    allowed = f"CUSUM up to {CUSUM_ALARM:g}, both ways"
    if ctx.active is None:
        return Finding(DRIFT, True, "no other table is active", allowed)
    if not ctx.charts:
        return Finding(
            DRIFT,
            True,
            "nothing was sold yet since the active table came into use, or it is not recorded",
            allowed,
        )
    worst = max(ctx.charts, key=lambda chart: chart.peak)
    weeks = max(len(chart.score) for chart in ctx.charts)
    words = (
        f"{weeks:,} week{'s' * (weeks != 1)} since, {len(ctx.charts)} segments;"
        f" furthest {worst.name}: {worst.peak:.1f}"
    )
    cases = tuple(
        f"{c.name}: CUSUM {c.peak:.1f}, volume {c.ratio:+.1%} against the expectation"
        for c in ctx.charts
        if c.alarm
    )
    return Finding(DRIFT, not cases, words, allowed, cases[:MAX_CASES_SHOWN], len(cases))


def prior(ctx: GuardContext) -> Finding:
    """The data determine the spread of elasticities: tau is above its own standard error."""
    allowed = "tau above its standard error"
    if not ctx.totals:
        return Finding(PRIOR, True, "the release has no facts on its prior", allowed)
    rows = [(str(row["line"]), float(row["tau"]), float(row["tau_se"])) for row in ctx.totals]
    words = "; ".join(f"{line}: tau {tau:.3f}, standard error {se:.3f}" for line, tau, se in rows)
    weak = tuple(
        f"{line}: its data do not determine tau; log more trials, or price fewer kinds of unit"
        for line, tau, se in rows
        if not tau >= se
    )
    return Finding(PRIOR, not weak, words, allowed, weak, len(weak))


def limits(ctx: GuardContext) -> Finding:
    """The policy's limits on the whole table were met: otherwise a kind keeps today's prices."""
    allowed = "every limit is met"
    unmet = tuple(
        f"{row['line']}, {row['limits']}: {row['outcome']}"
        for row in ctx.portfolio
        if str(row["outcome"]).startswith("NOT MET")
    )
    held = is_text(ctx.table, "constraint_bound", "LIMITS_NOT_MET")
    if not unmet and held.any():
        return row_finding(
            LIMITS,
            ctx.table,
            held,
            f"units held for limits that are not met: {int(held.sum()):,}",
            allowed,
            lambda _: "held",
        )
    if unmet:
        words = (
            f"limits of the policy cannot be met: {len(unmet)} of {len(ctx.portfolio)} kinds"
            " keep today's prices"
        )
        return Finding(LIMITS, False, words, allowed, unmet, len(unmet))
    kinds = ", ".join(f"{row['line']}: {row['outcome']}" for row in ctx.portfolio)
    return Finding(LIMITS, True, kinds or "the policy limits no kind as a whole", allowed)
