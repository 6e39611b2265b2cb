"""From a unit's columns to its demand: what bundles and voice do alike, for one unit and for many.

Both queries name their columns alike: `week`, `quantity`, `price` (paid), `active_subs`, and, constant or read in the
last week, `posted_price`, `reference_price`, `unit_cost`, `price_tick`, `price_floor`, `price_ceiling`, `max_step`,
`z`, `min_weeks` and `control`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tariffs.demand.conditional import Fit, UnitFit, fit_unit, fit_units
from tariffs.demand.panel import Panel, make_panel, offsets_of_kept, plausible
from tariffs.demand.prior import Prior, expected_level
from tariffs.optimise.rule import LEAST_ELASTIC, MOST_ELASTIC, Demand
from tariffs.rows import Bools, Columns, Floats, Ints, Labels


@dataclass(frozen=True, slots=True)
class Observed:
    """The panel without the weeks set aside, the day of each of its rows, and how many were set aside (units,)."""

    panel: Panel
    days: Ints
    set_aside: Ints


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the data and the prior say of each unit; shape (units,).

    fit        the posterior of beta, at the reference price
    usable     the same, but the prior's where the unit's own is implausible
    fallback   whether it was
    supported  enough weeks, and at least one sale;  varied  at least two prices
    """

    fit: Fit
    usable: Floats
    usable_sd: Floats
    fallback: Bools
    supported: Bools
    varied: Bools
    weeks: Ints
    set_aside: Ints
    level: Floats


def observe(rows: Columns, offsets: Ints) -> Observed:
    quantity = np.asarray(rows["quantity"], dtype=np.float64)
    x = rows["price"] / rows["reference_price"] - 1.0
    keep = plausible(quantity, x, offsets)
    kept = offsets_of_kept(keep, offsets)
    exposure = np.asarray(rows["active_subs"], dtype=np.float64)[keep]
    days = rows["week"][keep].astype("datetime64[D]").astype(np.int64)
    return Observed(make_panel(kept, quantity[keep], x[keep], exposure), days, np.diff(offsets) - np.diff(kept))


def learn_unit(seen: Observed, prior: Prior, labels: Mapping[str, Labels], season: Labels, min_weeks: Floats) -> Learnt:
    """One unit, by the plain estimator; `labels`, `season` and `min_weeks` have shape (1,), and so has all that is learnt."""
    panel = seen.panel.seasonal(prior.season(season, seen.days, seen.panel.unit))
    mean, noise = float(prior.mean(labels)[0]), float(prior.noise(labels)[0])
    fit = fit_unit(panel.quantity, panel.x, panel.exposure, mean, prior.tau2, noise)
    return _judge(panel, _as_arrays(fit), prior, labels, min_weeks, seen.set_aside)


def learn_units(seen: Observed, prior: Prior, labels: Mapping[str, Labels], season: Labels, min_weeks: Floats) -> Learnt:
    """Many units at once; the same figures as `learn_unit`, to the last bit."""
    panel = seen.panel.seasonal(prior.season(season, seen.days, seen.panel.unit))
    fit = fit_units(panel, prior.mean(labels), prior.tau2, prior.noise(labels))
    return _judge(panel, fit, prior, labels, min_weeks, seen.set_aside)


def demand_at(learnt: Learnt, current: Floats, reference: Floats, active_subs: Floats) -> Demand:
    """At the current price, in an average week of the season, with the subscribers of the last week."""
    ratio = current / reference
    volume = active_subs * learnt.level * np.exp(learnt.usable * (ratio - 1.0))
    return Demand(learnt.usable * ratio, learnt.usable_sd * ratio, volume)


def _judge(panel: Panel, fit: Fit, prior: Prior, labels: Mapping[str, Labels], min_weeks: Floats, set_aside: Ints) -> Learnt:
    sales = panel.sums(panel.quantity)
    fallback = (fit.beta < MOST_ELASTIC) | (fit.beta > LEAST_ELASTIC)
    mean = np.clip(prior.mean(labels), MOST_ELASTIC, LEAST_ELASTIC)
    return Learnt(
        fit=fit,
        usable=np.where(fallback, mean, fit.beta),
        usable_sd=np.where(fallback, np.sqrt(prior.tau2), fit.sd),
        fallback=fallback,
        supported=(panel.sizes >= min_weeks) & (sales > 0),
        varied=panel.has_price_variation(),
        weeks=panel.sizes,
        set_aside=set_aside,
        level=expected_level(prior, labels, sales, fit.exposed),
    )


def _as_arrays(fit: UnitFit) -> Fit:
    return Fit(np.array([fit.beta]), np.array([fit.sd]), np.array([fit.shrink]), np.array([fit.exposed]))
