"""What the prices rest on: a control group that stays, data that are recent, and a table that is for now."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from tariffs.release.drift import ALARM
from tariffs.release.guards.subject import SHOWN, Subject, found
from tariffs.release.log import Finding
from tariffs.release.tables import bools, floats, matched, one

CONTROL, STALE, VALIDITY, DRIFT = "CONTROL", "STALE", "VALIDITY", "DRIFT"


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
    return found(
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


def drift(s: Subject) -> Finding:
    """Customers answer as the active table expects them to, segment by segment, since it came into use."""
    allowed = f"CUSUM up to {ALARM:g}, both ways"
    if s.active is None:
        return Finding(DRIFT, True, "no other table is active", allowed)
    if not s.charts:
        return Finding(DRIFT, True, "nothing was sold yet since the active table came into use, or it is not recorded", allowed)
    worst = max(s.charts, key=lambda chart: chart.peak)
    weeks = max(len(chart.score) for chart in s.charts)
    words = f"{weeks:,} week{'s' * (weeks != 1)} since, {len(s.charts)} segments; furthest {worst.name}: {worst.peak:.1f}"
    cases = tuple(f"{c.name}: CUSUM {c.peak:.1f}, volume {c.ratio:+.1%} against what was expected" for c in s.charts if c.alarm)
    return Finding(DRIFT, not cases, words, allowed, cases[:SHOWN], len(cases))
