"""Price by price: its move, its bounds, its price point, and its distance from prices ever paid."""

from __future__ import annotations

import numpy as np

from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    NO_CATALOGUE,
    SLACK,
    GuardContext,
    catalogued,
    describe_move,
    is_text,
    row_finding,
)
from tariffs.release.tables import Bools, Floats, floats, is_voice, match_rows, tariff

STEP, BOUNDS, PRICE_POINTS, SUPPORT = "STEP", "BOUNDS", "PRICE_POINTS", "SUPPORT"
COMPETITOR, ELASTICITY = "COMPETITOR", "ELASTICITY"
MOST_ELASTIC, LEAST_ELASTIC = (
    -6.0,
    -0.05,
)  # as in the price rule; repeated, since a guard is independent of the code that it guards
FALLBACK = "FALLBACK_SEGMENT"


def step(ctx: GuardContext) -> Finding:
    """No price moves further at once than announced to customers.

    Floor, ceiling and a full cell take precedence over the step: they may move a price further, but
    only to their own limit.
    """
    allowed = f"bundles {ctx.limits.bundle_step:.0%}, voice {ctx.limits.voice_step:g} points"
    voice, price, current, full = (
        is_voice(ctx.table),
        floats(ctx.table, "price"),
        floats(ctx.table, "current_price"),
        tariff(ctx.table),
    )
    moved = np.where(
        voice, 100.0 * (current - price) / np.where(voice, full, 1.0), price / current - 1.0
    )
    beyond = ~(
        np.abs(moved) <= np.where(voice, ctx.limits.voice_step, ctx.limits.bundle_step) + SLACK
    )  # NaN is beyond
    excused = _has_good_reason(ctx, price, current)
    broken = beyond & ~excused
    words = f"prices beyond the step: {int(broken.sum()):,}" + _counts_text(
        (int((beyond & excused).sum()), "more for good reason")
    )
    return row_finding(STEP, ctx.table, broken, words, allowed, describe_move(moved, voice))


def bounds(ctx: GuardContext) -> Finding:
    """Every price is between the catalogue's floor and ceiling."""
    allowed = "floor <= price <= ceiling of its product"
    if ctx.catalogue is None:
        return Finding(BOUNDS, False, NO_CATALOGUE, allowed)
    price = floats(ctx.table, "price")
    floor, ceiling = (
        catalogued(ctx.table, ctx.catalogue, "price_floor"),
        catalogued(ctx.table, ctx.catalogue, "price_ceiling"),
    )
    broken = ~(
        (price >= floor - SLACK) & (price <= ceiling + SLACK)
    )  # a product that is not in the catalogue is out of bounds too

    def describe(row: int) -> str:
        return (
            f"{price[row]:g}, wanted {floor[row]:g} to {ceiling[row]:g}"
            if np.isfinite(floor[row])
            else "its product is not in the catalogue"
        )

    return row_finding(
        BOUNDS, ctx.table, broken, f"prices out of bounds: {int(broken.sum()):,}", allowed, describe
    )


def price_points(ctx: GuardContext) -> Finding:
    """Every price that moves is a multiple of the tick; voice: the price of its discount class."""
    allowed = "multiples of the product's tick"
    if ctx.catalogue is None:
        return Finding(PRICE_POINTS, False, NO_CATALOGUE, allowed)
    price, tick, full = (
        floats(ctx.table, "price"),
        catalogued(ctx.table, ctx.catalogue, "price_tick"),
        catalogued(ctx.table, ctx.catalogue, "list_price"),
    )
    off = ~(np.abs(price / tick - np.round(price / tick)) * tick <= SLACK)
    other = ~(np.abs(price - full * (1.0 - floats(ctx.table, "discount_class") / 100.0)) <= SLACK)
    broken = (price != floats(ctx.table, "current_price")) & (off | (is_voice(ctx.table) & other))

    def describe(row: int) -> str:
        return (
            f"{price[row]:g}, wanted a multiple of {tick[row]:g}"
            if off[row]
            else f"{price[row]:g} is not the price of its discount class"
        )

    return row_finding(
        PRICE_POINTS,
        ctx.table,
        broken,
        f"moves to a price that cannot be asked: {int(broken.sum()):,}",
        allowed,
        describe,
    )


def support(ctx: GuardContext) -> Finding:
    """No price is further than a step beyond all prices ever paid: demand is unknown there."""
    allowed = (
        f"bundles {ctx.limits.bundle_beyond:.0%}, voice {ctx.limits.voice_beyond:g} points"
        " beyond the prices paid"
    )
    if ctx.support is None:
        return Finding(SUPPORT, True, "the prices paid before are not recorded", allowed)
    row = match_rows(ctx.table, ctx.support)
    lo, hi = (
        np.append(floats(ctx.support, name), np.nan)[row] for name in ("support_lo", "support_hi")
    )
    price, voice = floats(ctx.table, "price"), is_voice(ctx.table)
    points = ctx.limits.voice_beyond / 100.0 * np.where(voice, tariff(ctx.table), 0.0)
    far = np.where(voice, points, ctx.limits.bundle_beyond * np.where(price > hi, hi, lo))
    moved = price != floats(ctx.table, "current_price")
    beyond = moved & ((price > hi + far + SLACK) | (price < lo - far - SLACK))
    excused = _has_good_reason(ctx, price, floats(ctx.table, "current_price"))
    broken = beyond & ~excused
    unseen = int((moved & ~np.isfinite(lo)).sum())
    words = f"prices beyond: {int(broken.sum()):,}" + _counts_text(
        (int((beyond & excused).sum()), "more for good reason"), (unseen, "never sold")
    )
    return row_finding(
        SUPPORT,
        ctx.table,
        broken,
        words,
        allowed,
        lambda row: f"{price[row]:g}, and {lo[row]:g} to {hi[row]:g} were paid",
    )


def competitor(ctx: GuardContext) -> Finding:
    """No price moves above the regulator's limit, or below the cheapest competitor."""
    over, under = ctx.limits.competitor_over, ctx.limits.competitor_under
    allowed = f"{under:.0%} under the cheapest, {over:.0%} over the reference"
    if ctx.catalogue is None or not {"competitor_min", "competitor_reference"} & set(
        ctx.catalogue.column_names
    ):
        return Finding(COMPETITOR, True, "competitors' prices are not recorded", allowed)
    low, high = (
        _competitor_price(ctx, name) for name in ("competitor_min", "competitor_reference")
    )
    price, current = floats(ctx.table, "price"), floats(ctx.table, "current_price")
    dear = (price > high * (1.0 + over) + SLACK) & (
        price > current
    )  # a move back towards the bound is no fault
    cheap = (price < low * (1.0 - under) - SLACK) & (price < current)
    known = int((np.isfinite(low) | np.isfinite(high)).sum())
    words = (
        f"of {known:,} prices with a competitor, too high {int(dear.sum()):,},"
        f" too low {int(cheap.sum()):,}"
    )
    return row_finding(
        COMPETITOR,
        ctx.table,
        dear | cheap,
        words,
        allowed,
        lambda row: (
            f"{price[row]:g}, and competitors ask {high[row]:g}"
            if dear[row]
            else f"{price[row]:g}, and the cheapest asks {low[row]:g}"
        ),
    )


def elasticity(ctx: GuardContext) -> Finding:
    """No price moves on an implausible elasticity: of wrong sign, or of an impossible size."""
    allowed = f"{MOST_ELASTIC:g} to {LEAST_ELASTIC:g} at the list price, or marked {FALLBACK}"
    if ctx.catalogue is None:
        return Finding(ELASTICITY, False, NO_CATALOGUE, allowed)
    current, full = (
        floats(ctx.table, "current_price"),
        catalogued(ctx.table, ctx.catalogue, "list_price"),
    )
    at_list, doubt = floats(ctx.table, "elasticity") * full / current, floats(ctx.table, "se")
    sane = (
        (at_list >= MOST_ELASTIC - SLACK)
        & (at_list <= LEAST_ELASTIC + SLACK)
        & (doubt > 0)
        & np.isfinite(doubt)
    )
    marked = is_text(ctx.table, "reason_code", FALLBACK)
    broken = (floats(ctx.table, "price") != current) & ~sane & ~marked
    words = (
        f"moves on an implausible answer: {int(broken.sum()):,};"
        f" on the segment's instead: {int(marked.sum()):,}"
    )
    return row_finding(
        ELASTICITY,
        ctx.table,
        broken,
        words,
        allowed,
        lambda row: f"{at_list[row]:.3g} at the list price, se {doubt[row]:.3g}",
    )


def _competitor_price(ctx: GuardContext, name: str) -> Floats:
    """Return a competitor column for each row, NaN for none; voice is not compared."""
    assert ctx.catalogue is not None
    if name not in ctx.catalogue.column_names:
        return np.full(ctx.table.num_rows, np.nan)
    return np.where(is_voice(ctx.table), np.nan, catalogued(ctx.table, ctx.catalogue, name))


def _has_good_reason(ctx: GuardContext, price: Floats, current: Floats) -> Bools:
    """Return prices with an excuse: a full cell, or a return to floor or ceiling at most."""
    bound = {
        name: is_text(ctx.table, "constraint_bound", name)
        for name in ("CAPACITY", "REG_FLOOR", "REG_CEILING")
    }
    excused = ((bound["CAPACITY"] | bound["REG_FLOOR"]) & (price > current)) | (
        bound["REG_CEILING"] & (price < current)
    )
    if ctx.catalogue is not None:
        floor, ceiling = (
            catalogued(ctx.table, ctx.catalogue, "price_floor"),
            catalogued(ctx.table, ctx.catalogue, "price_ceiling"),
        )
        excused |= ((current < floor - SLACK) & (price <= floor + SLACK)) | (
            (current > ceiling + SLACK) & (price >= ceiling - SLACK)
        )
    return np.asarray(excused, dtype=np.bool_)


def _counts_text(*counts: tuple[int, str]) -> str:
    text = ", ".join(f"{count:,} {words}" for count, words in counts if count)
    return f" ({text})" if text else ""
