"""The units' design: columns of the prior mean, their names, their prior, and the rows' periods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints, Labels, distinct
from tariffs.demand.hyper import EffectsPrior
from tariffs.demand.panel import group_sums
from tariffs.demand.pooling import Layout


@dataclass(frozen=True, slots=True)
class Names:
    """The names behind a layout's numbers.

    columns  of the design, without the intercept
    periods  days since 1970-01-01
    """

    factors: Labels
    columns: Labels
    group_factor: str
    groups: Labels
    season_groups: Labels
    periods: Ints


def lay_out(
    factors: Mapping[str, Labels],
    group_factor: str,
    season_group: Labels,
    days: Ints,
    size: Floats | None = None,
) -> tuple[Layout, Names]:
    """Return the layout, and the names behind its numbers."""
    groups, group = distinct(factors[group_factor])
    seasons, season_of_unit = distinct(season_group)
    periods, when = np.unique(days, return_inverse=True)
    rank = 1 + sum(len(distinct(values)[0]) - 1 for values in factors.values())
    layout = Layout(
        design_of(factors),
        rank,
        group,
        season_of_unit,
        when,
        len(periods),
        effects_prior_of(factors, group_factor, size),
    )
    names = np.array(list(factors), dtype=object)
    columns = _column_names(factors)
    return layout, Names(names, columns, group_factor, groups, seasons, periods)


def _column_names(factors: Mapping[str, Labels]) -> Labels:
    """Return the names of the design's columns, such as 'product=DAY_50', without the intercept."""
    return np.concatenate(
        [_level_names(factor, distinct(values)[0]) for factor, values in factors.items()]
    )


def design_of(factors: Mapping[str, Labels]) -> Floats:
    """Return the intercept and all levels' dummies (units, columns).

    The prior of the effects identifies them.
    """
    blocks = [np.ones((len(next(iter(factors.values()))), 1))]
    for values in factors.values():
        levels, code = distinct(values)
        blocks.append((code[:, None] == np.arange(len(levels))).astype(np.float64))
    return np.hstack(blocks)


def effects_prior_of(
    factors: Mapping[str, Labels], group_factor: str, size: Floats | None
) -> EffectsPrior:
    """Return the prior of the effects: the columns' factors and trend.

    The trend of the group factor's levels is the centred log of their size.
    """
    factor, trend = [np.array([-1])], [np.zeros(1)]
    for f, (name, values) in enumerate(factors.items()):
        levels, code = distinct(values)
        factor.append(np.full(len(levels), f))
        mean = np.zeros(len(levels))
        if size is not None and name == group_factor:
            mean = group_sums(code, np.log(size), len(levels)) / np.bincount(code)
        trend.append(mean - mean.mean())
    return EffectsPrior(np.concatenate(factor).astype(np.int64), np.concatenate(trend))


def _level_names(factor: str, values: Labels) -> Labels:
    return np.array([f"{factor}={value}" for value in values], dtype=object)
