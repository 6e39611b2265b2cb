"""What the table is expected to earn: no price under its cost, no loss that nobody wanted, no move that is likelier to lose than to gain.

The expectations are the model's own, so they are added up again from prices and volumes before they are believed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tariffs.optimise.rule import Demand, gain_probability
from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    MAX_CASES_SHOWN,
    SLACK,
    GuardContext,
    catalogued,
    is_text,
    row_finding,
)
from tariffs.release.tables import KEY, Bools, Floats, bools, floats, is_voice

COST, MONEY, GAIN = "COST", "MONEY", "GAIN"
UNIT_BOUNDS = (
    "STEP_UP",
    "STEP_DOWN",
    "FLOOR",
    "CEILING",
)  # a price held back by these moved for its own sake, only less far
JOINT_REASONS = (
    "LADDER_ADJUSTED", "SMOOTHED", "PORTFOLIO_LIMIT", "PORTFOLIO_RESTORED", "DIVERSION_ADJUSTED", "CAPACITY_CAP", "CAPACITY_RAISED", "REG_CAP", "REG_ADJUSTED",
    "FLOOR_RAISED", "CEILING_LOWERED",
)  # fmt: skip
MAX_FORCED_LOSS = 0.5  # of a unit's revenue: beyond it even a full cell or a ladder is no reason
SUM_TOLERANCE = (
    0.05  # of a kind's revenue: how far the stated change may be from price times volume
)
MONEY_TOLERANCE = 0.01
GAIN_TOLERANCE = 0.02  # a probability
MAX_TRIALS_SD = 4.0  # standard deviations of the number of trials that chance may add


def cost(ctx: GuardContext) -> Finding:
    """No price is lowered below what a unit costs, and few lie below it at all; the cost is the catalogue's."""
    allowed = f"no move below cost, {ctx.limits.below_cost:.0%} of a kind's prices there at all"
    price, unit_cost = floats(ctx.table, "price"), floats(ctx.table, "unit_cost")
    other = np.zeros(ctx.table.num_rows, dtype=np.bool_)
    if ctx.catalogue is not None and "unit_cost" in ctx.catalogue.column_names:
        listed = catalogued(ctx.table, ctx.catalogue, "unit_cost")
        other = np.isfinite(listed) & ~(np.abs(unit_cost - listed) <= SLACK + 1e-6 * listed)
    worth = (
        np.nan_to_num(floats(ctx.table, "usage_value"))
        if "usage_value" in ctx.table.column_names
        else np.zeros(ctx.table.num_rows)
    )
    if ctx.catalogue is not None:
        other |= ~(np.abs(worth - _listed_usage_value(ctx)) <= SLACK)
    if (
        "opportunity_cost" in ctx.table.column_names and ctx.table.num_rows
    ):  # less than all that another unit earns is lost by one more
        beyond = ~(
            np.abs(floats(ctx.table, "opportunity_cost"))
            <= np.nanmax(np.append(price, floats(ctx.table, "current_price")))
        )
    else:
        beyond = np.zeros(ctx.table.num_rows, dtype=np.bool_)
    below = ~(price >= unit_cost - worth - SLACK)
    lowered = below & (price < floats(ctx.table, "current_price"))
    voice = is_voice(ctx.table)
    many = [
        kind
        for kind, rows in (("bundles", ~voice), ("voice", voice))
        if below[rows].sum() > ctx.limits.below_cost * max(rows.sum(), 1)
    ]
    broken = (
        other | beyond | lowered | (below & np.where(voice, "voice" in many, "bundles" in many))
    )
    words = f"prices below cost: {int(below.sum()):,}, lowered to there: {int(lowered.sum()):,}; other costs than the catalogue's: {int(other.sum()):,}"
    words += f"; opportunity costs beyond every price: {int(beyond.sum()):,}" * bool(beyond.any())
    return row_finding(
        COST, ctx.table, broken, words, allowed,
        lambda row: f"{price[row]:g}, and a unit costs {unit_cost[row]:g}{', not as in the catalogue' if other[row] else ''}",
    )  # fmt: skip


def _listed_usage_value(ctx: GuardContext) -> Floats:
    """What one more unit sold is worth beyond its price, by the catalogue: nothing where it does not say."""
    if ctx.catalogue is None or "usage_value" not in ctx.catalogue.column_names:
        return np.zeros(ctx.table.num_rows)
    return np.nan_to_num(catalogued(ctx.table, ctx.catalogue, "usage_value"))


def money(ctx: GuardContext) -> Finding:
    """No kind, no location and no unit is expected to lose much; and what is expected adds up."""
    limits = ctx.limits
    allowed = (
        f"margin -{limits.margin_drop:.0%}, revenue -{limits.revenue_drop:.0%}, a location -{limits.place_margin_drop:.0%},"
        f" a unit -{limits.unit_loss:.0%} of its revenue unless bound"
    )
    price, current, unit_cost = (
        floats(ctx.table, name) for name in ("price", "current_price", "unit_cost")
    )
    volume, revenue, margin = (
        floats(ctx.table, "expected_volume"),
        floats(ctx.table, "expected_revenue_delta"),
        floats(ctx.table, "expected_margin_delta"),
    )
    more = floats(ctx.table, "expected_volume_delta")
    sold, earned = current * volume, (current - unit_cost) * volume
    voice = is_voice(ctx.table)
    cases, told = [], []
    for kind, rows in (("bundles", ~voice), ("voice", voice)):
        if not rows.any():
            continue
        took, left = sold[rows].sum(), earned[rows].sum()
        revenue_change, margin_change = revenue[rows].sum(), margin[rows].sum()
        told.append(
            f"{kind}: revenue {_share(revenue_change, took)}, margin {_share(margin_change, left)}"
        )
        if not margin_change >= -limits.margin_drop * abs(left) - MONEY_TOLERANCE:
            cases.append(f"all {kind}: margin {_share(margin_change, left)}")
        if not revenue_change >= -limits.revenue_drop * took - MONEY_TOLERANCE:
            cases.append(f"all {kind}: revenue {_share(revenue_change, took)}")
        again = {
            "revenue": (price * (volume + more) - sold)[rows].sum(),
            "margin": ((price - unit_cost) * (volume + more) - earned)[rows].sum(),
        }
        for name, stated in (("revenue", revenue_change), ("margin", margin_change)):
            if not abs(again[name] - stated) <= SUM_TOLERANCE * took + MONEY_TOLERANCE:
                cases.append(
                    f"all {kind}: {name} {_share(stated, took)} is stated, price times volume gives {_share(again[name], took)}"
                )
    cases += _losing_locations(ctx, margin, earned)
    lost = _losing(ctx, margin, sold, price != current)
    cases += [
        f"{key}: margin {margin[row]:+,.2f} of {earned[row]:,.2f}"
        for row, key in _first_keys(ctx.table, lost)
    ]
    losers, of_them = (
        int((margin < -MONEY_TOLERANCE).sum()),
        margin[margin < -MONEY_TOLERANCE].sum(),
    )
    words = f"{'; '.join(told)}; {losers:,} units lose {-of_them:,.0f}" if told else "no prices"
    return Finding(
        MONEY,
        not cases,
        words,
        allowed,
        tuple(cases[:MAX_CASES_SHOWN]),
        len(cases) + max(int(lost.sum()) - MAX_CASES_SHOWN, 0),
    )


def gain(ctx: GuardContext) -> Finding:
    """A price that moves for its own sake is likelier to gain than to lose; every move states how likely."""
    allowed = f"P(gain) of {ctx.limits.gain_least:g} or more, in all but {ctx.limits.unsure_moves:.0%} of the free moves"
    p, moved = (
        floats(ctx.table, "p_gain"),
        floats(ctx.table, "price") != floats(ctx.table, "current_price"),
    )
    free = moved & _moved_for_itself(ctx)
    unstated = moved & ~((p >= 0.0) & (p <= 1.0))
    unsure = free & ~(p >= ctx.limits.gain_least)
    too_many = unsure.sum() > ctx.limits.unsure_moves * max(int(free.sum()), 1)
    follows = _gain_by_elasticity(ctx.table)
    promised = moved & (p > follows + GAIN_TOLERANCE)
    broken = unstated | (unsure & too_many) | promised
    words = (
        f"of {int(free.sum()):,} free moves, likelier to lose than to gain: {int(unsure.sum()):,}; moves that state no P(gain): {int(unstated.sum()):,}"
        + f"; moves that promise more than their elasticity does: {int(promised.sum()):,}"
        * bool(promised.any())
    )
    shown = row_finding(
        GAIN, ctx.table, broken, words, allowed,
        lambda row: f"P(gain) {p[row]:.2g}{f', by its elasticity {follows[row]:.2g}' if promised[row] else ''}",
    )  # fmt: skip
    many = _too_many_trials(ctx)
    return (
        Finding(
            GAIN,
            False,
            f"{words}; trials: {'; '.join(many)}",
            allowed,
            (*many, *shown.cases)[:MAX_CASES_SHOWN],
            shown.count + len(many),
        )
        if many
        else shown
    )


def _gain_by_elasticity(table: pa.Table) -> Floats:
    """P(gain) again, from the row's own price, cost, elasticity and standard error; of a cell that is not full, at most this."""
    current = floats(table, "current_price")
    cost = (
        floats(table, "unit_cost")
        - floats(table, "usage_value")
        + floats(table, "opportunity_cost")
    )
    sold, blocked = (
        floats(table, "expected_volume"),
        np.nan_to_num(floats(table, "expected_blocked_minutes")),
    )
    capacity = np.where(blocked > 0, sold, np.inf)
    demand = Demand(floats(table, "elasticity"), floats(table, "se"), sold + blocked, capacity)
    return np.asarray(gain_probability(floats(table, "price") / current, cost / current, demand))


def _too_many_trials(ctx: GuardContext) -> list[str]:
    """Kinds with more trials than a draw for each unit gives."""
    trial, voice, share = (
        bools(ctx.table, "explore_flag"),
        is_voice(ctx.table),
        ctx.limits.trial_share,
    )
    return [
        f"{int(trial[rows].sum()):,} of {int(rows.sum()):,} units of {kind}, wanted at most {share:.0%}"
        for kind, rows in (("bundles", ~voice), ("voice", voice))
        if trial[rows].sum() > share * rows.sum() + MAX_TRIALS_SD * np.sqrt(share * rows.sum())
    ]


def _moved_for_itself(ctx: GuardContext) -> Bools:
    """Moves that the unit's own elasticity wanted, and no trial."""
    bound = np.any([is_text(ctx.table, "constraint_bound", name) for name in UNIT_BOUNDS], axis=0)
    unbound = np.asarray(
        ctx.table["constraint_bound"].is_null().to_numpy(zero_copy_only=False), dtype=np.bool_
    )
    others = np.any([is_text(ctx.table, "reason_code", name) for name in JOINT_REASONS], axis=0)
    trial = (
        bools(ctx.table, "explore_flag")
        if "explore_flag" in ctx.table.column_names
        else np.zeros(ctx.table.num_rows, dtype=np.bool_)
    )
    return np.asarray((bound | unbound) & ~others & ~trial)


def _losing(ctx: GuardContext, margin: Floats, sold: Floats, moved: Bools) -> Bools:
    """Units that are expected to lose too much of what they sell; a unit that is held back by others may lose more than a free one."""
    share = np.where(moved & _moved_for_itself(ctx), ctx.limits.unit_loss, MAX_FORCED_LOSS)
    return np.asarray(~(margin >= -share * sold - MONEY_TOLERANCE))


def _losing_locations(ctx: GuardContext, margin: Floats, earned: Floats) -> list[str]:
    rows = (
        ctx.table.select(["kind", "location"])
        .append_column("margin", pa.array(margin))
        .append_column("earned", pa.array(earned))
    )
    sums = (
        rows.group_by(["kind", "location"])
        .aggregate([("margin", "sum"), ("earned", "sum")])
        .to_pylist()
    )
    limit = ctx.limits.place_margin_drop
    bad = [
        r for r in sums if not r["margin_sum"] >= -limit * abs(r["earned_sum"]) - MONEY_TOLERANCE
    ]
    return [
        f"{r['kind']} in {r['location']}: margin {_share(r['margin_sum'], r['earned_sum'])}"
        for r in sorted(bad, key=lambda r: r["margin_sum"])
    ]


def _first_keys(table: pa.Table, rows: Bools) -> list[tuple[int, str]]:
    first = np.flatnonzero(rows)[:MAX_CASES_SHOWN]
    return list(zip(first.tolist(), table[KEY].take(pa.array(first)).to_pylist(), strict=True))


def _share(change: float, of: float) -> str:
    return f"{change / abs(of):+.1%}" if of else f"{change:+,.0f}"
