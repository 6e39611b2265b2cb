"""Against the table that charging uses now: how much changes at once, and what is expected of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tariffs.release.guards.subject import SHOWN, SLACK, Subject, against, found, largest, moves
from tariffs.release.log import Finding
from tariffs.release.tables import Floats, floats, is_voice, keys_of, matched, repeated

CHANGE_SIZE, CHANGE_SHARE, UNITS, VOLUME = "CHANGE_SIZE", "CHANGE_SHARE", "UNITS", "VOLUME"


def change_size(s: Subject) -> Finding:
    """No price is too far from what charging asks now."""
    allowed = f"bundles {s.limits.bundle_change:.0%}, voice {s.limits.voice_change:g} points"
    if s.active is None:
        return Finding(CHANGE_SIZE, True, "no other table is active to compare with", allowed)
    there, moved = against(s.table, s.active)
    voice = is_voice(there)
    broken = np.where(voice, np.abs(moved) > s.limits.voice_change + SLACK, np.abs(moved) > s.limits.bundle_change + SLACK)
    words = f"largest: bundles {largest(moved[~voice], '{:+.1%}')}, voice {largest(moved[voice], '{:+.4g} points')}"
    return found(CHANGE_SIZE, there, broken, words, allowed, moves(moved, voice))


def change_share(s: Subject) -> Finding:
    """Not nearly all prices change at once."""
    allowed = f"{s.limits.share_changed:.0%} of the prices"
    if s.active is None:
        return Finding(CHANGE_SHARE, True, "no other table is active to compare with", allowed)
    there, moved = against(s.table, s.active)
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


def volume(s: Subject) -> Finding:
    """No kind and no place is expected to sell far less than under the active table; under today's prices, where there is none."""
    allowed = f"a fall of {s.limits.volume_drop:.0%}, in one location {s.limits.place_drop:.0%}"
    known = s.active is not None and bool(np.isfinite(_expected(s.active)).all())
    old = s.active if known else s.table
    now, before = _expected(s.table), _expected(old, moved=known)
    if not np.isfinite(now).all():
        return Finding(VOLUME, False, "the expected volume is not recorded for every unit", allowed)
    voice, was_voice = is_voice(s.table), is_voice(old)
    fell = {kind: _change(now[a].sum(), before[b].sum()) for kind, a, b in (("bundles", ~voice, ~was_voice), ("voice", voice, was_voice))}
    cases = [f"all {kind}: {change:+.1%}" for kind, change in fell.items() if change < -s.limits.volume_drop - SLACK]
    places = _by_place(s.table, now, old, before)
    cases += [f"{place}: {change:+.1%}" for place, change in places if change < -s.limits.place_drop - SLACK]
    worst = min((change for _, change in places), default=0.0)
    upon = "the active table" if known else "no change"
    words = f"expected against {upon}: bundles {fell['bundles']:+.1%}, voice {fell['voice']:+.1%}, worst location {worst:+.1%}"
    return Finding(VOLUME, not cases, words, allowed, tuple(cases[:SHOWN]), len(cases))


def _expected(table: pa.Table, *, moved: bool = True) -> Floats:
    """Units a week at the table's prices; at the price before, if not `moved` or where the move's effect is not on record."""
    if "expected_volume" not in table.column_names:
        return np.full(table.num_rows, np.nan)
    at_current = floats(table, "expected_volume")
    return at_current + np.nan_to_num(floats(table, "expected_volume_delta")) if moved else at_current


def _change(now: float, before: float) -> float:
    return now / before - 1.0 if before > 0 else 0.0


def _by_place(table: pa.Table, now: Floats, active: pa.Table, before: Floats) -> list[tuple[str, float]]:
    """Each location and kind that both tables have, with the change of its expected volume."""
    sums = []
    for rows, values in ((table, now), (active, before)):
        grouped = rows.select(["kind", "location"]).append_column("volume", pa.array(values)).group_by(["kind", "location"])
        sums.append({(r["kind"], r["location"]): r["volume_sum"] for r in grouped.aggregate([("volume", "sum")]).to_pylist()})
    both = sorted(key for key in sums[0] if key in sums[1])
    return [(f"{kind} in {place}", _change(sums[0][kind, place], sums[1][kind, place])) for kind, place in both]
