"""Bundles: from the weeks of a (segment, location, product) to its price.

`fit_prior` reads a sample of all units once; with its result, `price_bundle` prices one unit and
`price_bundles` a batch of them, with equal results.  `tariffs.pricing.locations` then adjusts all
prices of a location together.
"""

from __future__ import annotations

import numpy as np

from tariffs.columns import Columns, Ints, Rows, Units, key_offsets
from tariffs.demand.prior import Prior, fit_pooled_prior
from tariffs.optimise.reasons import HOLD_NO_VARIATION, holds
from tariffs.optimise.rule import choose
from tariffs.pricing.estimation import Learnt, demand_at, learn_unit, learn_units, observe
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

UNIT = ("segment", "location", "product")
FACTORS = (
    "product",
    "segment",
    "tier",
)  # the factors of an elasticity's prior mean; the noise depends on the first


def fit_prior(rows: Rows) -> Prior:
    """Return the pooled prior, from rows sorted by segment, location, product and week."""
    offsets = key_offsets(rows, UNIT)
    labels = {name: rows[name][offsets[:-1]] for name in FACTORS}
    seen = observe(rows, offsets)
    return fit_pooled_prior(
        seen.panel,
        labels,
        FACTORS[0],
        labels["segment"],
        seen.days,
        rows["location"][offsets[:-1]],
        rows["reference_price"][offsets[:-1]],
    )


def price_bundle(rows: Rows, prior: Prior) -> Priced:
    """Return the price of one unit, from its weeks in order."""
    offsets = np.array([0, len(rows["week"])], dtype=np.int64)
    labels = {name: rows[name][:1] for name in FACTORS}
    learnt = learn_unit(
        observe(rows, offsets), prior, labels, labels["segment"], rows["min_weeks"][:1]
    )
    return single_row(_decide(rows, offsets, learnt), Priced)


def price_bundles(rows: Units, prior: Prior) -> dict[str, np.ndarray]:
    """Return the prices of a batch of units: columns with one value per unit, in order."""
    starts = rows.offsets[:-1]
    labels = {name: rows[name][starts] for name in FACTORS}
    learnt = learn_units(
        observe(rows, rows.offsets), prior, labels, labels["segment"], rows["min_weeks"][starts]
    )
    return _decide(rows, rows.offsets, learnt)


def _decide(rows: Columns, offsets: Ints, learnt: Learnt) -> dict[str, np.ndarray]:
    last = offsets[1:] - 1
    terms = terms_of(rows, offsets)
    demand = demand_at(learnt, terms.current, terms.reference, rows["active_subs"][last])
    hold = holds(
        learnt.supported,
        learnt.varied,
        control_of(rows, offsets),
        changed_lately(rows, offsets),
        not_sold_lately(rows, offsets),
    )
    eligible = (hold == "") | (
        hold == HOLD_NO_VARIATION
    )  # a trial is most informative where prices never moved
    choice = choose(terms, demand, hold != "")
    trials = with_trials(choice, terms, demand, eligible, rows, offsets, UNIT)
    return report(terms, demand, learnt, trials, hold, np.zeros(len(last)))
