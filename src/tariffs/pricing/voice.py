"""Voice: from the weeks of a (cell, hour, day type) to its discount class.

A discount d is the price (1 - d) x tariff, so the estimator and the price rule are those of
bundles, with the discount classes 0, 5, ..., 95 as price points.  One limit is specific to voice:
the minutes that a discount adds must fit into the cell, and sales never exceed its capacity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Columns, Floats, Ints, Rows, Units, key_offsets
from tariffs.demand.prior import Prior, fit_pooled_prior
from tariffs.optimise.expected_volume import expected_log_change
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

    capacity                 minutes a week that the cell carries in this hour; volume is the demand
                             for it, which may be higher
    expected_blocked_delta   change of the minutes a week that are demanded beyond the capacity
    """

    discount_class: int
    current_discount: int
    capacity: float
    expected_blocked_delta: float


def fit_voice_prior(rows: Rows) -> Prior:
    """Return the pooled prior, from rows sorted by cell, hour, day type and week."""
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
    """Return the discount of one unit, from its weeks in order."""
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
    """Return the discounts of a batch of units: columns with one value per unit, in order."""
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
    """Return the minutes that a cell can carry in the week; shape (rows,).

    Infinite where blocked calls were counted, since the demand is known then.
    """
    return np.where(rows["counted"], np.inf, rows["capacity"] * week_share(rows))


def capacity_floor(terms: Terms, demand: Demand, room: Floats) -> Floats:
    """Return the lowest price at which the upper end of demand fits into `room` minutes a week.

    mu(p) = volume e^(beta (p / current - 1)) <= `room`, at the end of beta's interval at which p
    sells most: for a cut the steep end, b - z s; for a raise, where the cell is fuller than that
    today, the flat end, b + z s.  At most the tariff, which is always allowed; NaN in `room` means
    no limit on the load.  Shape (units,).
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
    eligible = (hold == "") | (hold == HOLD_NO_VARIATION)
    trials = with_trials(choice, capped, demand, eligible, rows, offsets, UNIT)
    columns = report(
        capped, demand, learnt, trials, hold, room_price(trials.choice, capped, demand)
    )
    price = trials.choice.price
    return columns | {
        "discount_class": _percent(price, terms.reference),
        "current_discount": _percent(terms.current, terms.reference),
        "capacity": capacity,
        "expected_blocked_delta": blocked_delta(
            price,
            capped,
            demand,
            expected_log_change(price, capped.current, columns["centre_price"], demand.sd),
        ),
    }


def room_price(choice: Choice, terms: Terms, demand: Demand) -> Floats:
    """Return the shadow price of the cell's capacity, money per minute.

    It is the cost at which the price that capacity enforced would be the best one: from the
    condition of the optimum, p = kappa - current / beta, at the expected elasticity; 0 where
    capacity does not bind.
    """
    worth = choice.price + terms.current / demand.elasticity - terms.cost
    return np.where(choice.bound == "CAPACITY", np.maximum(worth, 0.0), 0.0)


def _capped(terms: Terms, floor: Floats) -> Terms:
    """Return the terms with a raised floor, named CAPACITY where capacity raised it."""
    names = np.where(floor > terms.floor, "CAPACITY", terms.floor_name).astype(object)
    return replace(terms, floor=floor, floor_name=names)


def _percent(price: Floats, reference: Floats) -> Ints:
    return np.rint(100.0 * (1.0 - price / reference)).astype(np.int64)
