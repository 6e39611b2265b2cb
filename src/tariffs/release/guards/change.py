"""Changes against the active table: how many prices change at once, how far, and their effect."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    MAX_CASES_SHOWN,
    SLACK,
    GuardContext,
    describe_move,
    largest_move,
    moves_against,
    row_finding,
)
from tariffs.release.tables import Floats, duplicate_keys, floats, is_voice, keys_of, match_rows

CHANGE_SIZE, CHANGE_SHARE, UNITS, VOLUME = "CHANGE_SIZE", "CHANGE_SHARE", "UNITS", "VOLUME"


def change_size(ctx: GuardContext) -> Finding:
    """No price is too far from the active one."""
    allowed = f"bundles {ctx.limits.bundle_change:.0%}, voice {ctx.limits.voice_change:g} points"
    if ctx.active is None:
        return Finding(CHANGE_SIZE, True, "no other table is active to compare with", allowed)
    there, moved = moves_against(ctx.table, ctx.active)
    voice = is_voice(there)
    broken = ~(
        np.abs(moved) <= np.where(voice, ctx.limits.voice_change, ctx.limits.bundle_change) + SLACK
    )  # NaN is a violation
    words = (
        f"largest: bundles {largest_move(moved[~voice], '{:+.1%}')},"
        f" voice {largest_move(moved[voice], '{:+.4g} points')}"
    )
    return row_finding(CHANGE_SIZE, there, broken, words, allowed, describe_move(moved, voice))


def change_share(ctx: GuardContext) -> Finding:
    """Only a limited share of prices changes at once."""
    allowed = f"{ctx.limits.share_changed:.0%} of the prices"
    if ctx.active is None:
        return Finding(CHANGE_SHARE, True, "no other table is active to compare with", allowed)
    there, moved = moves_against(ctx.table, ctx.active)
    changed, rows = int(np.count_nonzero(moved)), there.num_rows
    share = changed / rows if rows else 0.0
    passed = share <= ctx.limits.share_changed + SLACK
    return Finding(
        CHANGE_SHARE, passed, f"{changed:,} of {rows:,} prices change ({share:.1%})", allowed
    )


def units(ctx: GuardContext) -> Finding:
    """Every unit has one price, and every unit sold or in the active table has one."""
    allowed = f"each once, {ctx.limits.units_lost:g} left out"
    if twice := duplicate_keys(ctx.table):
        return Finding(
            UNITS,
            False,
            f"units with more than one price: {len(twice):,}",
            allowed,
            tuple(twice[:MAX_CASES_SHOWN]),
            len(twice),
        )
    words, lost = [f"{ctx.table.num_rows:,} units"], []
    if ctx.active is not None:
        gone = match_rows(ctx.active, ctx.table) < 0
        new = int(np.count_nonzero(match_rows(ctx.table, ctx.active) < 0))
        words.append(f"{new:,} new, {int(gone.sum()):,} of the active table left out")
        lost += keys_of(ctx.active, gone)
    if ctx.sold is not None:
        unsold = match_rows(ctx.sold, ctx.table) < 0
        words.append(f"{int(unsold.sum()):,} of the {ctx.sold.num_rows:,} that were sold left out")
        lost += keys_of(ctx.sold, unsold)
    if ctx.active is None:
        missing = _never_priced(ctx)
        words.append(f"{len(missing):,} products or locations without a price")
        lost += missing
    if ctx.active is None and ctx.sold is None:
        missing = _gaps(ctx.table)
        words.append(f"{len(missing):,} gaps between units, and what was sold is not recorded")
        lost += missing
    lost = list(dict.fromkeys(lost))
    passed = bool(ctx.table.num_rows) and len(lost) <= ctx.limits.units_lost
    return Finding(
        UNITS,
        passed,
        ", ".join(words),
        allowed,
        () if passed else tuple(lost[:MAX_CASES_SHOWN]),
        0 if passed else len(lost),
    )


def _never_priced(ctx: GuardContext) -> list[str]:
    """Return products of the catalogue and locations of the run without any price."""
    missing = []
    for what, known in (("product", ctx.catalogue), ("location", ctx.locations)):
        if known is not None:
            priced = set(pc.unique(ctx.table[what]).to_pylist())
            missing += [
                f"{what} {name}" for name in sorted(set(known[what].to_pylist()) - priced - {None})
            ]
    return missing


def _gaps(table: pa.Table) -> list[str]:
    """Return units that their kind suggests: an hour that most cells have, a product that most
    segments and locations have.

    Only for a table without anything to compare with: real markets may have gaps, which
    `units_lost` permits.
    """
    voice = is_voice(table)
    day = _rectangle(table.filter(pa.array(voice)), ("cell",), ("hour", "day_type"))
    return day + _rectangle(table.filter(pa.array(~voice)), ("segment", "location"), ("product",))


def _rectangle(table: pa.Table, rows: tuple[str, ...], columns: tuple[str, ...]) -> list[str]:
    """Return the gaps in the columns that at least half of the rows have."""
    lines, fields = (
        list(zip(*(table[name].to_pylist() for name in names), strict=True))
        for names in (rows, columns)
    )
    there, sides = set(zip(lines, fields, strict=True)), sorted(set(lines), key=str)
    usual = sorted(
        (field for field, n in Counter(field for _, field in there).items() if 2 * n >= len(sides)),
        key=str,
    )
    if len(usual) * len(sides) == len(there):
        return []
    return [
        "/".join(str(part) for part in (*line, *field))
        for line in sides
        for field in usual
        if (line, field) not in there
    ]


def volume(ctx: GuardContext) -> Finding:
    """No kind or location is expected to sell far less than under the active table, or today."""
    allowed = (
        f"a fall of {ctx.limits.volume_drop:.0%}, in one location {ctx.limits.location_drop:.0%}"
    )
    known = ctx.active is not None and bool(np.isfinite(_expected(ctx.active)).all())
    old = ctx.active if known else ctx.table
    now, before = _expected(ctx.table), _expected(old, moved=known)
    if not np.isfinite(now).all():
        return Finding(VOLUME, False, "the expected volume is not recorded for every unit", allowed)
    voice, was_voice = is_voice(ctx.table), is_voice(old)
    fell = {
        kind: _change(now[a].sum(), before[b].sum())
        for kind, a, b in (("bundles", ~voice, ~was_voice), ("voice", voice, was_voice))
    }
    cases = [
        f"all {kind}: {change:+.1%}"
        for kind, change in fell.items()
        if change < -ctx.limits.volume_drop - SLACK
    ]
    changes = _by_location(ctx.table, now, old, before)
    cases += [
        f"{location}: {change:+.1%}"
        for location, change in changes
        if change < -ctx.limits.location_drop - SLACK
    ]
    worst = min((change for _, change in changes), default=0.0)
    base = "the active table" if known else "no change"
    words = (
        f"expected against {base}: bundles {fell['bundles']:+.1%}, voice {fell['voice']:+.1%},"
        f" worst location {worst:+.1%}"
    )
    return Finding(VOLUME, not cases, words, allowed, tuple(cases[:MAX_CASES_SHOWN]), len(cases))


def _expected(table: pa.Table, *, moved: bool = True) -> Floats:
    """Return units a week at the table's prices; at the earlier prices, if not `moved`.

    Where the effect of a move is not in the table, it counts as none.
    """
    if "expected_volume" not in table.column_names:
        return np.full(table.num_rows, np.nan)
    at_current = floats(table, "expected_volume")
    return (
        at_current + np.nan_to_num(floats(table, "expected_volume_delta")) if moved else at_current
    )


def _change(now: float, before: float) -> float:
    return now / before - 1.0 if before > 0 else 0.0


def _by_location(
    table: pa.Table, now: Floats, active: pa.Table, before: Floats
) -> list[tuple[str, float]]:
    """Return the change of expected volume of each location and kind that both tables have."""
    sums = []
    for rows, values in ((table, now), (active, before)):
        grouped = (
            rows.select(["kind", "location"])
            .append_column("volume", pa.array(values))
            .group_by(["kind", "location"], use_threads=False)
        )
        sums.append(
            {
                (r["kind"], r["location"]): r["volume_sum"]
                for r in grouped.aggregate([("volume", "sum")]).to_pylist()
            }
        )
    both = sorted((key for key in sums[0] if key in sums[1]), key=str)
    return [
        (f"{kind} in {location}", _change(sums[0][kind, location], sums[1][kind, location]))
        for kind, location in both
    ]
