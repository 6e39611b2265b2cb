"""From a unit's columns to its demand, alike for bundles and voice, for one unit and for many.

Both queries have the same columns: `week`, `quantity`, `price` (paid), `explore_eps` (the logged
random part of price / reference price), `active_subs`, and, constant or as of the last week,
`posted_price`, `reference_price`, `unit_cost`, `price_tick`, `price_floor`, `price_ceiling`,
`max_step`, `z`, `min_weeks` and `control`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Bools, Columns, Floats, Ints, Labels
from tariffs.demand.conditional import Fit, UnitFit, fit_censored_unit, fit_censored_units
from tariffs.demand.endogeneity import remove_foresight
from tariffs.demand.panel import Panel, make_panel, offsets_of_kept, plausible
from tariffs.demand.prior import Prior, expected_level
from tariffs.optimise.rule import LEAST_ELASTIC, MOST_ELASTIC, Demand


@dataclass(frozen=True, slots=True)
class Observed:
    """The panel without the weeks set aside, each row's day, and the number set aside (units,)."""

    panel: Panel
    days: Ints
    set_aside: Ints


@dataclass(frozen=True, slots=True)
class Learnt:
    """The estimates of each unit, from its data and the prior; shape (units,).

    fit        the posterior of beta, at the reference price
    usable     the same, or the prior's mean where the unit's own estimate is implausible
    fallback   whether it is the prior's mean
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


def observe(rows: Columns, offsets: Ints, ceiling: Floats | None = None) -> Observed:
    """Return a unit's panel; `ceiling` (rows,) is the largest possible quantity, if limited."""
    quantity = np.asarray(rows["quantity"], dtype=np.float64)
    x = rows["price"] / rows["reference_price"] - 1.0
    keep = plausible(quantity, x, offsets)
    kept = offsets_of_kept(keep, offsets)
    exposure = (np.asarray(rows["active_subs"], dtype=np.float64) * week_share(rows))[keep]
    days = rows["week"][keep].astype("datetime64[D]").astype(np.int64)
    trial, most = (
        np.asarray(rows["explore_eps"], dtype=np.float64)[keep],
        None if ceiling is None else ceiling[keep],
    )
    return Observed(
        make_panel(kept, quantity[keep], x[keep], exposure, trial, most),
        days,
        np.diff(offsets) - np.diff(kept),
    )


def week_share(rows: Columns) -> Floats:
    """Return the observed part of each row's week: 1, or less where daily rows are missing.

    Shape (rows,).  Raises ValueError for a week with several rows of different days, since these
    could be duplicates of the week or single days of it.
    """
    share = np.asarray(rows["week_share"], dtype=np.float64)
    if (twice := share < 0).any():
        raise ValueError(
            f"the week that ends on {rows['week'][twice][0]} has several rows with different days,"
            " and the weeks beside it have one each: duplicates of the week, or days of it;"
            " wanted one row a week, or one row a day"
        )
    return share


def learn_unit(
    seen: Observed, prior: Prior, labels: Mapping[str, Labels], season: Labels, min_weeks: Floats
) -> Learnt:
    """Return the estimates of one unit by the plain estimator; all shapes are (1,)."""
    panel = _adjusted(seen, prior, season)
    mean, noise, dispersion = (
        float(values[0])
        for values in (prior.mean(labels), prior.noise(labels), _dispersion(prior, labels))
    )
    fit = fit_censored_unit(panel, mean, prior.tau2, noise, dispersion)
    return _learnt(panel, _as_arrays(fit), prior, labels, season, min_weeks, seen.set_aside)


def learn_units(
    seen: Observed, prior: Prior, labels: Mapping[str, Labels], season: Labels, min_weeks: Floats
) -> Learnt:
    """Return the estimates of many units; equal to those of `learn_unit`, to the last bit."""
    panel = _adjusted(seen, prior, season)
    fit = fit_censored_units(
        panel, prior.mean(labels), prior.tau2, prior.noise(labels), _dispersion(prior, labels)
    )
    return _learnt(panel, fit, prior, labels, season, min_weeks, seen.set_aside)


def demand_at(learnt: Learnt, current: Floats, reference: Floats, active_subs: Floats) -> Demand:
    """Return the demand at the current price, in an average week, with the latest subscribers."""
    ratio = current / reference
    volume = active_subs * learnt.level * np.exp(learnt.usable * (ratio - 1.0))
    return Demand(learnt.usable * ratio, learnt.usable_sd * ratio, volume)


def _adjusted(seen: Observed, prior: Prior, season: Labels) -> Panel:
    """Return the panel with the season in its exposure, and corrected for foresight in prices."""
    panel = seen.panel.with_season(prior.season(season, seen.days, seen.panel.unit))
    return remove_foresight(panel, prior.first_stage, prior.rho_used)


def _dispersion(prior: Prior, labels: Mapping[str, Labels]) -> Floats:
    return prior.of_group(prior.dispersion, labels)


def _learnt(
    panel: Panel,
    fit: Fit,
    prior: Prior,
    labels: Mapping[str, Labels],
    season: Labels,
    min_weeks: Floats,
    set_aside: Ints,
) -> Learnt:
    sales = panel.sums(panel.quantity)
    fit = prior.averaged(fit, panel, labels, season)
    if prior.rho_variance > 0.0:
        fit = replace(fit, sd=np.sqrt(fit.sd * fit.sd + prior.rho_variance))
    fallback = (fit.beta < MOST_ELASTIC) | (fit.beta > LEAST_ELASTIC)
    mean = np.clip(prior.mean(labels), MOST_ELASTIC, LEAST_ELASTIC)
    return Learnt(
        fit=fit,
        usable=np.where(fallback, mean, fit.beta),
        usable_sd=np.where(fallback, np.sqrt(prior.variance(labels) + prior.rho_variance), fit.sd),
        fallback=fallback,
        supported=(panel.sizes >= min_weeks) & (sales > 0),
        varied=panel.has_price_variation(),
        weeks=panel.sizes,
        set_aside=set_aside,
        level=expected_level(prior, labels, fit.demand, fit.exposed),
    )


def _as_arrays(fit: UnitFit) -> Fit:
    return Fit(
        np.array([fit.beta]),
        np.array([fit.sd]),
        np.array([fit.shrink]),
        np.array([fit.exposed]),
        np.array([fit.demand]),
        np.array([fit.centre]),
    )
