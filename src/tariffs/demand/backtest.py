"""The backtest gate: held-out weeks choose between units' own posteriors and their prior mean.

Shrinking each unit's own weeks towards the prior (EB) is best where the model holds.  Where it does
not, on data with two promotions a year, or with a trend in every unit, the prior mean alone
(POOLED) may predict better.  So stage 1 is fitted again without the last weeks, three times, and
both elasticities must allocate each unit's held-out sales to its held-out weeks.  The likelihood is
conditional on the unit's total and on the week's: neither levels nor the season of later weeks
are predicted, and both candidates use those that fit them best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels
from tariffs.demand.panel import Panel, group_sums
from tariffs.demand.pooling import Layout, learn
from tariffs.demand.season import expected_sales, season_given

EB, POOLED, UNTESTED = "EB", "POOLED", "EB_UNTESTED"
FOLDS = 3
FOLDS_PER_HISTORY = 5  # a fold holds out a fifth of the weeks
MIN_HORIZON_WEEKS = 3
MIN_UNITS = 20
MAX_UNITS_PER_GROUP = 300  # enough to compare two candidates; more cost time
# standard errors by which POOLED must be better: the errors of units are correlated by week, and
# where the model holds EB is best
MIN_POOLED_T = 2.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Per group: the choice, the number of units that decided it, and both candidates' deviances.

    The deviances are conditional ones, per held-out week.
    """

    choice: Labels
    tested: Ints
    eb: Floats
    pooled: Floats


def backtest(panel: Panel, layout: Layout) -> Gate:
    """Return EB, unless the prior mean predicts held-out weeks better by two standard errors.

    With fewer than 20 units the choice is EB_UNTESTED.
    """
    groups = int(layout.group.max()) + 1
    thin = _thinned(layout.group)[panel.unit]
    part, left = panel.select_rows(thin)
    parts = layout.subset(left, thin)
    eb, pooled, weeks = np.zeros(part.units), np.zeros(part.units), np.zeros(part.units)
    for end in _origins(layout.periods):
        for mine, add in zip(
            (eb, pooled, weeks),
            _fold(part, parts, end, end + _horizon(layout.periods)),
            strict=True,
        ):
            mine += add
    return _judge(eb, pooled, weeks, parts.group, groups)


def held_out(panel: Panel, beta: Floats, cell: Ints) -> Floats:
    """Return each unit's deviance at `beta`, given its total and each season cell's; (units,)."""
    mu = expected_sales(panel.with_season(season_given(panel, beta, cell)[cell]), beta)
    share = np.divide(
        panel.quantity, mu, out=np.ones_like(mu), where=(panel.quantity > 0) & (mu > 0)
    )
    return 2.0 * panel.sums(panel.quantity * np.log(share) - (panel.quantity - mu))


def _origins(periods: int) -> list[int]:
    horizon = _horizon(periods)
    return (
        [periods - horizon * ahead for ahead in range(FOLDS, 0, -1)]
        if horizon >= MIN_HORIZON_WEEKS
        else []
    )


def _horizon(periods: int) -> int:
    return periods // FOLDS_PER_HISTORY


def _thinned(group: Ints) -> Bools:
    """Return True for every k-th unit of a group, at most MAX_UNITS_PER_GROUP of it; (units,)."""
    sizes = np.bincount(group)
    order = np.argsort(group, kind="stable")
    nth = np.empty(len(group), dtype=np.int64)
    nth[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(nth % -(-sizes // MAX_UNITS_PER_GROUP)[group] == 0)


def _fold(panel: Panel, layout: Layout, end: int, until: int) -> tuple[Floats, Floats, Floats]:
    """Fit the periods before `end` and score those up to `until`.

    Returns both candidates' deviances, and the number of weeks beyond the first; each (units,).
    """
    nothing = np.zeros(panel.units)
    before = layout.period < end
    train, known = panel.select_rows(before)
    try:
        learnt = learn(train, layout.subset(known, before))
    except ValueError:  # no elasticity is identified so early: the fold decides nothing
        return nothing, nothing, nothing
    mean = np.full(panel.units, np.nan)
    mean[known] = layout.design[known] @ learnt.hyper.delta
    beta = mean.copy()
    beta[known] = learnt.fit.beta
    fit_for = ~np.isnan(mean)
    after = (layout.period >= end) & (layout.period < until) & fit_for[panel.unit] & ~panel.full()
    if not after.any():
        return nothing, nothing, nothing
    test, there = panel.select_rows(after)
    cell = layout.subset(there, after).cell(test)
    informative = test.has_price_variation() & (test.sums(test.quantity) > 0)
    scored = (
        held_out(test, beta[there], cell),
        held_out(test, mean[there], cell),
        test.sizes - 1.0,
    )
    return tuple(
        _spread(np.where(informative, values, 0.0), there, panel.units) for values in scored
    )  # type: ignore[return-value]


def _spread(values: Floats, at: Ints, units: int) -> Floats:
    whole = np.zeros(units)
    whole[at] = values
    return whole


def _judge(eb: Floats, pooled: Floats, weeks: Floats, group: Ints, groups: int) -> Gate:
    known = weeks > 0
    tested = np.bincount(group[known], minlength=groups)
    gain = np.where(known, eb - pooled, 0.0)  # of POOLED
    total = group_sums(group, gain, groups)
    error = np.sqrt(
        np.maximum(
            group_sums(group, gain * gain, groups) - total * total / np.maximum(tested, 1), 0.0
        )
    )
    choice = np.where(
        tested < MIN_UNITS, UNTESTED, np.where(total > MIN_POOLED_T * error, POOLED, EB)
    ).astype(object)
    per_week = np.maximum(group_sums(group, weeks, groups), 1.0)
    return Gate(
        choice,
        tested.astype(np.int64),
        group_sums(group, eb, groups) / per_week,
        group_sums(group, pooled, groups) / per_week,
    )
