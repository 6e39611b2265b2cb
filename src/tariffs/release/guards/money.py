"""The expected earnings: no price below cost, no large loss, no move that is likelier to lose.

The model's expectations are computed again from prices and volumes.
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
    "LADDER_ADJUSTED",
    "SMOOTHED",
    "PORTFOLIO_LIMIT",
    "PORTFOLIO_RESTORED",
    "DIVERSION_ADJUSTED",
    "CAPACITY_CAP",
    "CAPACITY_RAISED",
    "REG_CAP",
    "REG_ADJUSTED",
    "FLOOR_RAISED",
    "CEILING_LOWERED",
)
MAX_FORCED_LOSS = 0.5  # of a unit's revenue: a larger loss has no excuse, not even a full cell
SUM_TOLERANCE = (
    0.05  # of a kind's revenue: largest difference of the stated change from price times volume
)
MONEY_TOLERANCE = 0.01
GAIN_TOLERANCE = 0.02  # a probability
MAX_TRIALS_SD = 4.0  # standard deviations by which chance may raise the number of trials


def cost(ctx: GuardContext) -> Finding:
    """No price is lowered below the catalogue's unit cost, and few are below it at all."""
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
    beyond = _loses_more_than_any_price(ctx)
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
    words = (
        f"prices below cost: {int(below.sum()):,}, lowered to there: {int(lowered.sum()):,};"
        f" other costs than the catalogue's: {int(other.sum()):,}"
    )
    words += f"; opportunity costs beyond every price: {int(beyond.sum()):,}" * bool(beyond.any())
    return row_finding(
        COST,
        ctx.table,
        broken,
        words,
        allowed,
        lambda row: (
            f"{price[row]:g}, and a unit costs {unit_cost[row]:g}"
            f"{', not as in the catalogue' if other[row] else ''}"
        ),
    )


def _loses_more_than_any_price(ctx: GuardContext) -> Bools:
    """Return the rows whose opportunity cost cannot be: one more unit sold loses at most what
    another one earns.
    """
    if "opportunity_cost" not in ctx.table.column_names or not ctx.table.num_rows:
        return np.zeros(ctx.table.num_rows, dtype=np.bool_)
    prices = np.append(floats(ctx.table, "price"), floats(ctx.table, "current_price"))
    return ~(np.abs(floats(ctx.table, "opportunity_cost")) <= np.nanmax(prices))


def _listed_usage_value(ctx: GuardContext) -> Floats:
    """Return the worth of one more unit sold beyond its price, by the catalogue; 0 by default."""
    if ctx.catalogue is None or "usage_value" not in ctx.catalogue.column_names:
        return np.zeros(ctx.table.num_rows)
    return np.nan_to_num(catalogued(ctx.table, ctx.catalogue, "usage_value"))


def money(ctx: GuardContext) -> Finding:
    """No kind, location or unit is expected to lose much, and the expectations add up."""
    limits = ctx.limits
    allowed = (
        f"margin -{limits.margin_drop:.0%}, revenue -{limits.revenue_drop:.0%},"
        f" a location -{limits.location_margin_drop:.0%},"
        f" a unit -{limits.unit_loss:.0%} of its revenue unless bound"
    )
    price, current, volume, margin = (
        floats(ctx.table, name)
        for name in ("price", "current_price", "expected_volume", "expected_margin_delta")
    )
    earned = (current - floats(ctx.table, "unit_cost")) * volume
    voice = is_voice(ctx.table)
    cases, changes = [], []
    for kind, rows in (("bundles", ~voice), ("voice", voice)):
        if rows.any():
            change, problems = _kind_money(ctx, kind, rows)
            changes.append(change)
            cases += problems
    cases += _losing_locations(ctx, margin, earned)
    lost = _losing(ctx, margin, current * volume, price != current)
    cases += [
        f"{key}: margin {margin[row]:+,.2f} of {earned[row]:,.2f}"
        for row, key in _first_keys(ctx.table, lost)
    ]
    losses = margin[margin < -MONEY_TOLERANCE]
    words = f"{'; '.join(changes)}; {len(losses):,} units lose {-losses.sum():,.0f}"
    return Finding(
        MONEY,
        not cases,
        words if changes else "no prices",
        allowed,
        tuple(cases[:MAX_CASES_SHOWN]),
        len(cases) + max(int(lost.sum()) - MAX_CASES_SHOWN, 0),
    )


def _kind_money(ctx: GuardContext, kind: str, rows: Bools) -> tuple[str, list[str]]:
    """Return a kind's expected changes of revenue and margin, and the violations of its sums."""
    price, current, unit_cost, volume, more, revenue, margin = (
        floats(ctx.table, name)[rows]
        for name in (
            "price",
            "current_price",
            "unit_cost",
            "expected_volume",
            "expected_volume_delta",
            "expected_revenue_delta",
            "expected_margin_delta",
        )
    )
    sold, earned = current * volume, (current - unit_cost) * volume
    took, left = sold.sum(), earned.sum()
    stated = {"revenue": revenue.sum(), "margin": margin.sum()}
    changes = [_share(stated["revenue"], took), _share(stated["margin"], left)]
    words = f"{kind}: revenue {changes[0]}, margin {changes[1]}"
    cases = []
    if not stated["margin"] >= -ctx.limits.margin_drop * abs(left) - MONEY_TOLERANCE:
        cases.append(f"all {kind}: margin {_share(stated['margin'], left)}")
    if not stated["revenue"] >= -ctx.limits.revenue_drop * took - MONEY_TOLERANCE:
        cases.append(f"all {kind}: revenue {_share(stated['revenue'], took)}")
    again = {
        "revenue": (price * (volume + more) - sold).sum(),
        "margin": ((price - unit_cost) * (volume + more) - earned).sum(),
    }
    for name, change in stated.items():
        if not abs(again[name] - change) <= SUM_TOLERANCE * took + MONEY_TOLERANCE:
            cases.append(
                f"all {kind}: {name} {_share(change, took)} is stated,"
                f" price times volume gives {_share(again[name], took)}"
            )
    return words, cases


def gain(ctx: GuardContext) -> Finding:
    """A price that moves for its own sake is likelier to gain than to lose, and states P(gain)."""
    allowed = (
        f"P(gain) of {ctx.limits.gain_least:g} or more,"
        f" in all but {ctx.limits.unsure_moves:.0%} of the free moves"
    )
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
        f"of {int(free.sum()):,} free moves, likelier to lose than to gain: {int(unsure.sum()):,};"
        f" moves that state no P(gain): {int(unstated.sum()):,}"
        + f"; moves that promise more than their elasticity does: {int(promised.sum()):,}"
        * bool(promised.any())
    )
    shown = row_finding(
        GAIN,
        ctx.table,
        broken,
        words,
        allowed,
        lambda row: (
            f"P(gain) {p[row]:.2g}"
            f"{f', by its elasticity {follows[row]:.2g}' if promised[row] else ''}"
        ),
    )
    many = _too_many_trials(ctx)
    return (
        Finding(
            GAIN,
            False,
            f"{words}; trials: {'; '.join(many)}",
            allowed,
            (*many, *shown.examples)[:MAX_CASES_SHOWN],
            shown.count + len(many),
        )
        if many
        else shown
    )


def _gain_by_elasticity(table: pa.Table) -> Floats:
    """Return P(gain) computed from the row's price, cost, elasticity and standard error.

    For a cell that is not full, it is an upper bound.
    """
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
    """Return the kinds with more trials than a draw for each unit gives."""
    trial, voice, share = (
        bools(ctx.table, "explore_flag"),
        is_voice(ctx.table),
        ctx.limits.trial_share,
    )
    return [
        f"{int(trial[rows].sum()):,} of {int(rows.sum()):,} units of {kind},"
        f" wanted at most {share:.0%}"
        for kind, rows in (("bundles", ~voice), ("voice", voice))
        if trial[rows].sum() > share * rows.sum() + MAX_TRIALS_SD * np.sqrt(share * rows.sum())
    ]


def _moved_for_itself(ctx: GuardContext) -> Bools:
    """Return moves for the unit's own elasticity, without trials."""
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
    """Return units with too large an expected loss; units bound by others may lose more."""
    share = np.where(moved & _moved_for_itself(ctx), ctx.limits.unit_loss, MAX_FORCED_LOSS)
    return np.asarray(~(margin >= -share * sold - MONEY_TOLERANCE))


def _losing_locations(ctx: GuardContext, margin: Floats, earned: Floats) -> list[str]:
    rows = (
        ctx.table.select(["kind", "location"])
        .append_column("margin", pa.array(margin))
        .append_column("earned", pa.array(earned))
    )
    sums = (
        rows.group_by(["kind", "location"], use_threads=False)
        .aggregate([("margin", "sum"), ("earned", "sum")])
        .to_pylist()
    )
    limit = ctx.limits.location_margin_drop
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
