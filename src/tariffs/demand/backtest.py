"""The backtest gate: are a group's units better told apart, or taken as one?  The weeks held out decide.

Shrinking each unit's own weeks towards the prior (EB) is best where the model holds.  Where it does not, on data with two promotions a year, or
with a trend in every unit, the prior mean alone (POOLED) may foretell better.  So stage 1 is learnt again without the last weeks, three times over,
and both elasticities must share out each unit's held-out sales among its held-out weeks.  The likelihood is conditional on the unit's total and on
the week's: neither levels nor the season of weeks unseen need be foretold, and both candidates have theirs at their best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels
from tariffs.demand.panel import Panel, tally
from tariffs.demand.pooling import Layout, learn
from tariffs.demand.season import expect, season_given

EB, POOLED, UNTESTED = "EB", "POOLED", "EB_UNTESTED"
FOLDS = 3
HORIZON_SHARE = 5  # a fold holds out a fifth of the weeks
SHORTEST_HORIZON = 3
FEWEST_UNITS = 20
UNITS_PER_GROUP = 300  # deviances of 300 units tell two candidates apart; more cost time
DOUBT = 2.0  # in standard errors: POOLED must be better by as much, for units share their weeks' luck, and where the model holds EB is best


@dataclass(frozen=True, slots=True)
class Gate:
    """Per group: the choice, how many units decided it, and the held-out conditional deviance per week of both candidates."""

    choice: Labels
    tested: Ints
    eb: Floats
    pooled: Floats


def backtest(panel: Panel, layout: Layout) -> Gate:
    """EB unless the prior mean foretells the held-out weeks better, by more than two standard errors; EB_UNTESTED with fewer than 20 units."""
    groups = int(layout.group.max()) + 1
    thin = _thinned(layout.group)[panel.unit]
    part, left = panel.only(thin)
    parts = layout.of(left, thin)
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
    """Each unit's conditional deviance at `beta` (units,): given its total, and given each season cell's.  Shape (units,)."""
    mu = expect(panel.seasonal(season_given(panel, beta, cell)[cell]), beta)
    share = np.divide(
        panel.quantity, mu, out=np.ones_like(mu), where=(panel.quantity > 0) & (mu > 0)
    )
    return 2.0 * panel.sums(panel.quantity * np.log(share) - (panel.quantity - mu))


def _origins(periods: int) -> list[int]:
    horizon = _horizon(periods)
    return (
        [periods - horizon * ahead for ahead in range(FOLDS, 0, -1)]
        if horizon >= SHORTEST_HORIZON
        else []
    )


def _horizon(periods: int) -> int:
    return periods // HORIZON_SHARE


def _thinned(group: Ints) -> Bools:
    """Every k-th unit of a group, so that at most UNITS_PER_GROUP are left.  Shape (units,)."""
    sizes = np.bincount(group)
    order = np.argsort(group, kind="stable")
    nth = np.empty(len(group), dtype=np.int64)
    nth[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(nth % -(-sizes // UNITS_PER_GROUP)[group] == 0)


def _fold(panel: Panel, layout: Layout, end: int, until: int) -> tuple[Floats, Floats, Floats]:
    """Learn from the periods before `end`, score those up to `until`: both deviances, and weeks beyond the first, per unit."""
    nothing = np.zeros(panel.units)
    before = layout.period < end
    train, known = panel.only(before)
    try:
        learnt = learn(train, layout.of(known, before))
    except ValueError:  # no unit tells its elasticity so early: this fold decides nothing
        return nothing, nothing, nothing
    mean = np.full(panel.units, np.nan)
    mean[known] = layout.design[known] @ learnt.second.delta
    beta = mean.copy()
    beta[known] = learnt.fit.beta
    fit_for = ~np.isnan(mean)
    after = (layout.period >= end) & (layout.period < until) & fit_for[panel.unit] & ~panel.full()
    if not after.any():
        return nothing, nothing, nothing
    test, there = panel.only(after)
    cell = layout.of(there, after).cell(test)
    telling = test.has_price_variation() & (test.sums(test.quantity) > 0)
    scored = (
        held_out(test, beta[there], cell),
        held_out(test, mean[there], cell),
        test.sizes - 1.0,
    )
    return tuple(_spread(np.where(telling, values, 0.0), there, panel.units) for values in scored)  # type: ignore[return-value]


def _spread(values: Floats, at: Ints, units: int) -> Floats:
    whole = np.zeros(units)
    whole[at] = values
    return whole


def _judge(eb: Floats, pooled: Floats, weeks: Floats, group: Ints, groups: int) -> Gate:
    told = weeks > 0
    tested = np.bincount(group[told], minlength=groups)
    gain = np.where(told, eb - pooled, 0.0)  # what POOLED is better by
    total = tally(group, gain, groups)
    error = np.sqrt(
        np.maximum(tally(group, gain * gain, groups) - total * total / np.maximum(tested, 1), 0.0)
    )
    choice = np.where(
        tested < FEWEST_UNITS, UNTESTED, np.where(total > DOUBT * error, POOLED, EB)
    ).astype(object)
    per_week = np.maximum(tally(group, weeks, groups), 1.0)
    return Gate(
        choice,
        tested.astype(np.int64),
        tally(group, eb, groups) / per_week,
        tally(group, pooled, groups) / per_week,
    )
