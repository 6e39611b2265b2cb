"""The columns of a unit's price that bundles and voice have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tariffs.columns import Bools, Columns, Floats, Ints, Labels, PriceEffects
from tariffs.optimise.expected_volume import expected_log_change
from tariffs.optimise.exploration import ExplorationResult, apply_exploration, hash_uniform
from tariffs.optimise.reasons import EXPLORE, reasons
from tariffs.optimise.rule import (
    COVERAGE_90,
    GRID_SLACK,
    Choice,
    Demand,
    Terms,
    effect_columns,
    on_tick,
)
from tariffs.pricing.estimation import Learnt


@dataclass(frozen=True, slots=True)
class Priced(PriceEffects):
    """One unit's price, its reasons and its effects.  Money in the catalogue's currency; per week.

    elasticity, se, credible_lo, credible_hi   at the current price; the interval holds 90 %
    beta, shrink_weight     at the reference price, before any fallback; shrink_weight 1 = all prior
    support_n, set_aside_n  weeks used, and weeks set aside as spikes
    volume                  expected per week at the current price
    centre_price            mean price of the unit's sales, at which its volume is known best
    lowest, highest         limits within which the price was chosen (equal: the unit is held)
    usage_value             worth of one more unit of usage to the operator; lowers its cost
    capacity_price          worth of one more unit of capacity, where the cell is full
    explore_flag, draw      whether the price is a trial, and the elasticity for which it is the
                            best (the estimate, if it is no trial)
    """

    price: float
    current_price: float
    reference_price: float
    unit_cost: float
    reason_code: str
    constraint_bound: str
    elasticity: float
    se: float
    credible_lo: float
    credible_hi: float
    beta: float
    shrink_weight: float
    support_n: int
    set_aside_n: int
    volume: float
    centre_price: float
    lowest: float
    highest: float
    z: float
    usage_value: float
    capacity_price: float
    explore_flag: bool
    draw: float


MAX_WEEKS_UNSOLD = np.timedelta64(28, "D")

P = TypeVar("P", bound=Priced)


def report(
    terms: Terms,
    demand: Demand,
    learnt: Learnt,
    trials: ExplorationResult,
    hold: Labels,
    room_price: Floats,
) -> dict[str, np.ndarray]:
    """Return the columns of `Priced`; shape (units,).

    The limits of a trial are narrowed to the range between it and today's price.
    """
    choice, tried = trials.choice, trials.tried
    stays = (hold != "") & ~tried & (choice.price == terms.current)
    centre = terms.reference * (1.0 + learnt.fit.centre)
    reason_codes = reasons(choice, terms, np.where(tried, "", hold), learnt.fallback)
    return {
        "price": choice.price,
        "current_price": terms.current,
        "reference_price": terms.reference,
        "unit_cost": terms.unit_cost,
        "reason_code": np.where(tried, EXPLORE, reason_codes).astype(object),
        "constraint_bound": choice.bound,
        "elasticity": demand.elasticity,
        "se": demand.sd,
        "credible_lo": demand.elasticity - COVERAGE_90 * demand.sd,
        "credible_hi": demand.elasticity + COVERAGE_90 * demand.sd,
        "beta": learnt.fit.beta,
        "shrink_weight": learnt.fit.shrink,
        "support_n": learnt.weeks,
        "set_aside_n": learnt.set_aside,
        "volume": demand.volume,
        "centre_price": centre,
        "lowest": np.where(
            stays,
            terms.current,
            np.where(tried, np.minimum(choice.price, terms.current), terms.lowest),
        ),
        "highest": np.where(
            stays,
            terms.current,
            np.where(tried, np.maximum(choice.price, terms.current), terms.highest),
        ),
        "z": terms.z,
        **_expected_effects(choice.price, centre, terms, demand),
        "usage_value": 0.0 - terms.added_cost,
        "capacity_price": room_price,
        "explore_flag": tried,
        "draw": trials.draw,
    }


def _expected_effects(
    price: Floats, centre: Floats, terms: Terms, demand: Demand
) -> dict[str, Floats]:
    beyond_mode = expected_log_change(price, terms.current, centre, demand.sd)
    return effect_columns(price, terms, demand, beyond_mode)


def single_row(columns: dict[str, np.ndarray], kind: type[P]) -> P:
    """Return the only unit of columns of shape (1,), as an object of `kind`."""
    return kind(
        **{
            name: values[0].item() if isinstance(values[0], np.generic) else values[0]
            for name, values in columns.items()
        }
    )


def terms_of(rows: Columns, offsets: Ints, tariff: Floats | None = None) -> Terms:
    """Return the limits of each unit, as of its last week.

    `max_step` is a share of the price, or of `tariff` (units,) if given.  No step ends further than
    that beyond all prices ever paid: today's list price may be new, and the demand
    curve is unknown there.

    Raises ValueError if the catalogue or the policy lacks a value.
    """
    last = offsets[1:] - 1

    def column(name: str) -> Floats:
        return np.asarray(rows[name], dtype=np.float64)[last]

    floor, ceiling = column("price_floor"), column("price_ceiling")
    tick = column("price_tick")
    least = on_tick(np.ceil(column("regulated_floor") / tick - GRID_SLACK), tick)
    most = on_tick(np.floor(column("regulated_ceiling") / tick + GRID_SLACK), tick)
    current, paid = column("posted_price"), np.asarray(rows["price"], dtype=np.float64)
    paid_lo, paid_hi = (
        np.minimum.reduceat(paid, offsets[:-1]),
        np.maximum.reduceat(paid, offsets[:-1]),
    )
    step, below, above = (
        column("max_step") * (price if tariff is None else tariff)
        for price in (current, paid_lo, paid_hi)
    )
    terms = Terms(
        current=current,
        reference=column("reference_price"),
        unit_cost=column("unit_cost"),
        tick=tick,
        floor=np.maximum(floor, least),
        ceiling=np.minimum(ceiling, most),
        step=step,
        z=column("z"),
        added_cost=0.0 - column("usage_value"),
        floor_name=np.where(least > floor, "REG_FLOOR", "FLOOR").astype(object),
        ceiling_name=np.where(most < ceiling, "REG_CEILING", "CEILING").astype(object),
        least=paid_lo - below,
        most=paid_hi + above,
    )
    if faults := terms.faults():
        raise ValueError(f"cannot be priced: wanted {', '.join(faults)}")
    return terms


def control_of(rows: Columns, offsets: Ints) -> Bools:
    return np.asarray(rows["control"][offsets[1:] - 1], dtype=np.bool_)


def not_sold_lately(rows: Columns, offsets: Ints) -> Bools:
    """Return whether a unit's last week is over four weeks before the newest: no longer sold."""
    last = offsets[1:] - 1
    return np.asarray(
        rows["week"][last].astype("datetime64[D]")
        < rows["latest_week"][last].astype("datetime64[D]") - MAX_WEEKS_UNSOLD,
        dtype=np.bool_,
    )


def changed_lately(rows: Columns, offsets: Ints) -> Bools:
    """Return whether the posted price changed less than `min_days` before the next week.

    A unit's first week is no change.
    """
    last, wanted = offsets[1:] - 1, rows["min_days"][offsets[1:] - 1]
    if not np.any(wanted > 0):
        return np.zeros(len(last), dtype=np.bool_)
    days = rows["week"].astype("datetime64[D]").astype(np.int64)
    changed = np.append(False, rows["posted_price"][1:] != rows["posted_price"][:-1])
    changed[offsets[:-1]] = False
    latest = np.maximum.reduceat(np.where(changed, days, np.iinfo(np.int64).min // 2), offsets[:-1])
    return np.asarray(days[last] + 7 - latest < wanted, dtype=np.bool_)


def with_trials(
    choice: Choice,
    terms: Terms,
    demand: Demand,
    eligible: Bools,
    rows: Columns,
    offsets: Ints,
    key: Sequence[str],
) -> ExplorationResult:
    """Return the choices, with trials at the policy's share of the eligible units."""
    last = offsets[1:] - 1
    share = rows["explore_share"][last]
    chance = np.ones((len(last), 2))
    if np.any(share > 0):
        chance = hash_uniform(
            [rows[name][last] for name in key],
            rows["week"][last].astype("datetime64[D]").astype(np.int64),
        )
    return apply_exploration(
        choice,
        terms,
        demand,
        eligible & (chance[:, 0] < share),
        chance[:, 1],
        rows["explore_loss"][last],
    )
