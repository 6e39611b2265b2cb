"""Price by price: how far it moves, between which bounds, on which points, and how far beyond what was ever paid."""

from __future__ import annotations

import numpy as np

from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    NO_CATALOGUE,
    SLACK,
    Subject,
    catalogued,
    found,
    is_text,
    moves,
)
from tariffs.release.tables import Bools, Floats, floats, is_voice, matched, tariff

STEP, BOUNDS, PRICE_POINTS, SUPPORT = "STEP", "BOUNDS", "PRICE_POINTS", "SUPPORT"
COMPETITOR, ELASTICITY = "COMPETITOR", "ELASTICITY"
MOST_ELASTIC, LEAST_ELASTIC = (
    -6.0,
    -0.05,
)  # as in the price rule, and said again: a guard does not ask whom it guards
FALLBACK = "FALLBACK_SEGMENT"


def step(s: Subject) -> Finding:
    """No price moves further in one go than customers are told.

    Floor and ceiling outrank the step, and so does a cell that is full: those may move a price further, but only to where they stand.
    """
    allowed = f"bundles {s.limits.bundle_step:.0%}, voice {s.limits.voice_step:g} points"
    voice, price, current, full = (
        is_voice(s.table),
        floats(s.table, "price"),
        floats(s.table, "current_price"),
        tariff(s.table),
    )
    moved = np.where(
        voice, 100.0 * (current - price) / np.where(voice, full, 1.0), price / current - 1.0
    )
    beyond = ~(
        np.abs(moved) <= np.where(voice, s.limits.voice_step, s.limits.bundle_step) + SLACK
    )  # what is no number is beyond
    excused = _for_good_reason(s, price, current)
    broken = beyond & ~excused
    words = f"prices beyond the step: {int(broken.sum()):,}" + _aside(
        (int((beyond & excused).sum()), "more for good reason")
    )
    return found(STEP, s.table, broken, words, allowed, moves(moved, voice))


def bounds(s: Subject) -> Finding:
    """Every price is between the catalogue's floor and ceiling."""
    allowed = "floor <= price <= ceiling of its product"
    if s.catalogue is None:
        return Finding(BOUNDS, False, NO_CATALOGUE, allowed)
    price = floats(s.table, "price")
    floor, ceiling = (
        catalogued(s.table, s.catalogue, "price_floor"),
        catalogued(s.table, s.catalogue, "price_ceiling"),
    )
    broken = ~(
        (price >= floor - SLACK) & (price <= ceiling + SLACK)
    )  # a product that the catalogue has not is out of bounds too

    def told(row: int) -> str:
        return (
            f"{price[row]:g}, wanted {floor[row]:g} to {ceiling[row]:g}"
            if np.isfinite(floor[row])
            else "its product is not in the catalogue"
        )

    return found(
        BOUNDS, s.table, broken, f"prices out of bounds: {int(broken.sum()):,}", allowed, told
    )


def price_points(s: Subject) -> Finding:
    """Every price that moves is one that can be asked: a multiple of the product's tick; voice: what its discount class says."""
    allowed = "multiples of the product's tick"
    if s.catalogue is None:
        return Finding(PRICE_POINTS, False, NO_CATALOGUE, allowed)
    price, tick, full = (
        floats(s.table, "price"),
        catalogued(s.table, s.catalogue, "price_tick"),
        catalogued(s.table, s.catalogue, "list_price"),
    )
    off = ~(np.abs(price / tick - np.round(price / tick)) * tick <= SLACK)
    other = ~(np.abs(price - full * (1.0 - floats(s.table, "discount_class") / 100.0)) <= SLACK)
    broken = (price != floats(s.table, "current_price")) & (off | (is_voice(s.table) & other))

    def told(row: int) -> str:
        return (
            f"{price[row]:g}, wanted a multiple of {tick[row]:g}"
            if off[row]
            else f"{price[row]:g} is not what its discount class says"
        )

    return found(
        PRICE_POINTS,
        s.table,
        broken,
        f"moves to a price that cannot be asked: {int(broken.sum()):,}",
        allowed,
        told,
    )


def support(s: Subject) -> Finding:
    """No price lies further than a step beyond all that customers ever paid: there, the demand curve is a guess."""
    allowed = f"bundles {s.limits.bundle_beyond:.0%}, voice {s.limits.voice_beyond:g} points beyond what was paid"
    if s.support is None:
        return Finding(SUPPORT, True, "what was paid before is not recorded", allowed)
    row = matched(s.table, s.support)
    lo, hi = (
        np.append(floats(s.support, name), np.nan)[row] for name in ("support_lo", "support_hi")
    )
    price, voice = floats(s.table, "price"), is_voice(s.table)
    points = s.limits.voice_beyond / 100.0 * np.where(voice, tariff(s.table), 0.0)
    far = np.where(voice, points, s.limits.bundle_beyond * np.where(price > hi, hi, lo))
    moved = price != floats(s.table, "current_price")
    beyond = moved & ((price > hi + far + SLACK) | (price < lo - far - SLACK))
    excused = _for_good_reason(s, price, floats(s.table, "current_price"))
    broken = beyond & ~excused
    unseen = int((moved & ~np.isfinite(lo)).sum())
    words = f"prices beyond: {int(broken.sum()):,}" + _aside(
        (int((beyond & excused).sum()), "more for good reason"), (unseen, "never sold")
    )
    return found(
        SUPPORT,
        s.table,
        broken,
        words,
        allowed,
        lambda row: f"{price[row]:g}, and {lo[row]:g} to {hi[row]:g} were paid",
    )


def competitor(s: Subject) -> Finding:
    """No price that moves is dearer than the regulator lets it be against the competitors', or undercuts the cheapest of them."""
    over, under = s.limits.competitor_over, s.limits.competitor_under
    allowed = f"{under:.0%} under the cheapest, {over:.0%} over the reference"
    if s.catalogue is None or not {"competitor_min", "competitor_reference"} & set(
        s.catalogue.column_names
    ):
        return Finding(COMPETITOR, True, "competitors' prices are not recorded", allowed)
    low, high = (_if_there(s, name) for name in ("competitor_min", "competitor_reference"))
    price, current = floats(s.table, "price"), floats(s.table, "current_price")
    dear = (price > high * (1.0 + over) + SLACK) & (
        price > current
    )  # on the way back to the bound is no fault
    cheap = (price < low * (1.0 - under) - SLACK) & (price < current)
    known = int((np.isfinite(low) | np.isfinite(high)).sum())
    words = f"of {known:,} prices that have one to compare with, too dear {int(dear.sum()):,}, too cheap {int(cheap.sum()):,}"
    return found(
        COMPETITOR, s.table, dear | cheap, words, allowed,
        lambda row: f"{price[row]:g}, and competitors ask {high[row]:g}" if dear[row] else f"{price[row]:g}, and the cheapest asks {low[row]:g}",
    )  # fmt: skip


def elasticity(s: Subject) -> Finding:
    """No price moves on an answer to price that is no demand: wrong sign, or a size that only a fault in the data has."""
    allowed = f"{MOST_ELASTIC:g} to {LEAST_ELASTIC:g} at the list price, or marked {FALLBACK}"
    if s.catalogue is None:
        return Finding(ELASTICITY, False, NO_CATALOGUE, allowed)
    current, full = floats(s.table, "current_price"), catalogued(s.table, s.catalogue, "list_price")
    at_list, doubt = floats(s.table, "elasticity") * full / current, floats(s.table, "se")
    sane = (
        (at_list >= MOST_ELASTIC - SLACK)
        & (at_list <= LEAST_ELASTIC + SLACK)
        & (doubt > 0)
        & np.isfinite(doubt)
    )
    marked = is_text(s.table, "reason_code", FALLBACK)
    broken = (floats(s.table, "price") != current) & ~sane & ~marked
    words = f"moves on an implausible answer: {int(broken.sum()):,}; on the segment's instead: {int(marked.sum()):,}"
    return found(
        ELASTICITY,
        s.table,
        broken,
        words,
        allowed,
        lambda row: f"{at_list[row]:.3g} at the list price, se {doubt[row]:.3g}",
    )


def _if_there(s: Subject, name: str) -> Floats:
    """A column of the catalogue for each row, NaN where it has none; voice counts in minutes at no discount, and is not compared."""
    assert s.catalogue is not None
    if name not in s.catalogue.column_names:
        return np.full(s.table.num_rows, np.nan)
    return np.where(is_voice(s.table), np.nan, catalogued(s.table, s.catalogue, name))


def _for_good_reason(s: Subject, price: Floats, current: Floats) -> Bools:
    """A full cell may raise a price far, and one outside floor and ceiling may come back to them, and no further."""
    bound = {
        name: is_text(s.table, "constraint_bound", name)
        for name in ("CAPACITY", "REG_FLOOR", "REG_CEILING")
    }
    excused = ((bound["CAPACITY"] | bound["REG_FLOOR"]) & (price > current)) | (
        bound["REG_CEILING"] & (price < current)
    )
    if s.catalogue is not None:
        floor, ceiling = (
            catalogued(s.table, s.catalogue, "price_floor"),
            catalogued(s.table, s.catalogue, "price_ceiling"),
        )
        excused |= ((current < floor - SLACK) & (price <= floor + SLACK)) | (
            (current > ceiling + SLACK) & (price >= ceiling - SLACK)
        )
    return np.asarray(excused, dtype=np.bool_)


def _aside(*counts: tuple[int, str]) -> str:
    told = ", ".join(f"{count:,} {words}" for count, words in counts if count)
    return f" ({told})" if told else ""
