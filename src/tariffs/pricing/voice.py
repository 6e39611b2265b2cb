"""Voice: a (cell, hour, day type), from its weeks to its discount class.

A discount d is the price (1 - d) x tariff, so the estimator and the price rule are those of bundles, with the discount
classes 0, 5, ..., 95 as price points.  One limit is voice's own: the minutes that a discount brings must fit into the
cell, and no more than the cell carries is ever sold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Columns, Floats, Ints, Rows, Units, key_offsets
from tariffs.demand.prior import Prior, fit_pooled_prior
from tariffs.optimise.reasons import HOLD_NO_VARIATION, holds
from tariffs.optimise.rule import (
    LEAST_ELASTIC,
    Choice,
    Demand,
    Terms,
    blocked_delta,
    choose,
    on_tick,
)
from tariffs.pricing.estimation import (
    Learnt,
    demand_at,
    learn_unit,
    learn_units,
    observe,
    week_share,
)
from tariffs.pricing.price_row import (
    Priced,
    changed_lately,
    control_of,
    not_sold_lately,
    report,
    single_row,
    terms_of,
    with_trials,
)

UNIT = ("cell", "hour", "day_type")
FACTORS = ("cell_class", "day_part", "day_type")


@dataclass(frozen=True, slots=True)
class VoicePriced(Priced):
    """A `Priced` with its discount class in percent, and today's.

    capacity                 minutes a week that the cell carries in this hour;  volume is what is asked of it, which may be more
    expected_blocked_delta   the change of the minutes a week that are asked for beyond the capacity
    """

    discount_class: int
    current_discount: int
    capacity: float
    expected_blocked_delta: float


def fit_voice_prior(rows: Rows) -> Prior:
    """The pooled prior, from rows sorted by cell, hour, day type and week."""
    offsets = key_offsets(rows, UNIT)
    labels = {name: rows[name][offsets[:-1]] for name in FACTORS}
    seen = observe(rows, offsets, limit_of(rows))
    return fit_pooled_prior(
        seen.panel,
        labels,
        FACTORS[0],
        rows["region"][offsets[:-1]],
        seen.days,
        rows["cell"][offsets[:-1]],
    )


def price_voice(rows: Rows, voice_prior: Prior) -> VoicePriced:
    """One unit's discount from its weeks, sorted by week."""
    offsets = np.array([0, len(rows["week"])], dtype=np.int64)
    labels = {name: rows[name][:1] for name in FACTORS}
    learnt = learn_unit(
        observe(rows, offsets, limit_of(rows)),
        voice_prior,
        labels,
        rows["region"][:1],
        rows["min_weeks"][:1],
    )
    return single_row(_decide(rows, offsets, learnt), VoicePriced)


def price_voices(rows: Units, voice_prior: Prior) -> dict[str, np.ndarray]:
    """The discounts of a batch of units; each column has one value per unit, in the batch's order."""
    starts = rows.offsets[:-1]
    labels = {name: rows[name][starts] for name in FACTORS}
    learnt = learn_units(
        observe(rows, rows.offsets, limit_of(rows)),
        voice_prior,
        labels,
        rows["region"][starts],
        rows["min_weeks"][starts],
    )
    return _decide(rows, rows.offsets, learnt)


def limit_of(rows: Columns) -> Floats:
    """The minutes that a cell can carry in the week; no limit where blocked calls were counted, for then its demand is known.  Shape (rows,)."""
    return np.where(rows["counted"], np.inf, rows["capacity"] * week_share(rows))


def capacity_floor(terms: Terms, demand: Demand, room: Floats) -> Floats:
    """The lowest price at which even the upper end of demand fits into `room` minutes a week; at most the tariff.  Shape (units,).

    mu(p) = volume e^(beta (p / current - 1)) <= room, at the end of the interval of beta at which p sells most: a cut at its steep end,
    b - z s, and a raise, where the cell is fuller than that today, at its flat end, b + z s.
    The tariff itself (no discount) is always allowed, and so is everything where `room` is NaN: the policy sets no limit on the load.
    """
    room = np.where(np.isnan(room), np.inf, room)
    doubt = np.where(demand.volume > room, terms.z, -terms.z) * demand.sd
    slope = np.minimum(demand.elasticity + doubt, LEAST_ELASTIC)
    fits = terms.current * (1.0 + np.log(room / demand.volume) / slope)
    return np.minimum(
        np.maximum(terms.floor, on_tick(np.ceil(fits / terms.tick - 1e-9), terms.tick)),
        terms.ceiling,
    )


def _decide(rows: Columns, offsets: Ints, learnt: Learnt) -> dict[str, np.ndarray]:
    last = offsets[1:] - 1
    terms = terms_of(
        rows, offsets, rows["reference_price"][last]
    )  # points of discount, not of the price
    capacity = np.asarray(rows["capacity"], dtype=np.float64)[last]
    demand = replace(
        demand_at(learnt, terms.current, terms.reference, rows["active_subs"][last]),
        capacity=capacity,
    )
    control, room = (
        control_of(rows, offsets),
        np.asarray(rows["load_limit"], dtype=np.float64)[last] * capacity,
    )
    capped = _capped(terms, np.where(control, terms.floor, capacity_floor(terms, demand, room)))
    hold = holds(
        learnt.supported,
        learnt.varied,
        control,
        changed_lately(rows, offsets),
        not_sold_lately(rows, offsets),
    )
    choice = choose(capped, demand, hold != "")
    may = (hold == "") | (hold == HOLD_NO_VARIATION)
    trials = with_trials(choice, capped, demand, may, rows, offsets, UNIT)
    columns = report(
        capped, demand, learnt, trials, hold, room_price(trials.choice, capped, demand)
    )
    return columns | {
        "discount_class": _percent(trials.choice.price, terms.reference),
        "current_discount": _percent(terms.current, terms.reference),
        "capacity": capacity,
        "expected_blocked_delta": blocked_delta(trials.choice.price, capped, demand),
    }


def room_price(choice: Choice, terms: Terms, demand: Demand) -> Floats:
    """The shadow price of the cell's capacity, money per minute: the cost at which the price that capacity enforced would be the best one.

    From the optimum's condition p = kappa - current / beta, at the expected elasticity; 0 where capacity does not bind.
    """
    worth = choice.price + terms.current / demand.elasticity - terms.cost
    return np.where(choice.bound == "CAPACITY", np.maximum(worth, 0.0), 0.0)


def _capped(terms: Terms, floor: Floats) -> Terms:
    """A floor that capacity raised is told as capacity."""
    names = np.where(floor > terms.floor, "CAPACITY", terms.floor_name).astype(object)
    return replace(terms, floor=floor, floor_name=names)


def _percent(price: Floats, reference: Floats) -> Ints:
    return np.rint(100.0 * (1.0 - price / reference)).astype(np.int64)
