"""Substitution between products of one ladder: chi, pooled over all units.

    log mu_ut = log n_ut + gamma_(s(u),t) + alpha_u + beta_g(u) x_ut + chi w_ut,

with w the sum of x over the neighbouring rungs.  chi > 0: when a neighbour's price rises, its
customers buy this product instead.  chi is estimated with the season and the products' elasticities
(PPML with unit effects, like the prior), and its standard error is clustered.

Prices of one location that follow the same demand look like substitution, or hide it:
`tariffs.demand.endogeneity` tests whether they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints
from tariffs.demand.endogeneity import MIN_CLUSTERS, clustered_error, two_sided
from tariffs.demand.panel import Panel
from tariffs.demand.season import fit_season

CONFIDENCE_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Substitution:
    """chi, its clustered standard error, p of chi = 0, and the numbers of weeks and clusters."""

    chi: float
    se: float
    p: float
    weeks: int
    clusters: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval."""
        return self.chi - CONFIDENCE_95 * self.se, self.chi + CONFIDENCE_95 * self.se


def neighbours(unit: Ints, period: Ints, x: Floats, beside: Ints) -> tuple[Floats, Bools]:
    """Return the sum of x over each row's neighbours, and whether all of them have a row.

    The neighbours' rows are those of the same period; a row without neighbours is False.

    unit, period (rows,), sorted by unit and period
    beside       (units, k), the neighbours of each unit, -1 for none
    """
    periods = int(period.max()) + 1
    key = unit * periods + period
    pull, found = np.zeros(len(x)), np.any(beside >= 0, axis=1, keepdims=True)[unit, 0]
    for other in beside.T:
        wanted = np.where(other[unit] >= 0, other[unit] * periods + period, key)
        at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        there = key[at] == wanted
        pull += np.where(there & (other[unit] >= 0), x[at], 0.0)
        found &= there
    return pull, found


def fit_substitution(
    panel: Panel, pull: Floats, group: Ints, cell: Ints, periods: int, cluster: Ints
) -> Substitution:
    """Return chi of `pull` (rows,); group (units,), cell (rows,), cluster (units,) 0, 1, 2, ...

    Raises:
        ValueError: chi is not identified: fewer than eight clusters, or no unit whose neighbours'
            prices ever changed
    """
    clusters = len(np.unique(cluster))
    if clusters < MIN_CLUSTERS:
        raise ValueError(
            f"{clusters} clusters have neighbouring products, wanted at least {MIN_CLUSTERS}"
        )
    if not np.any(
        np.maximum.reduceat(pull, panel.starts) > np.minimum.reduceat(pull, panel.starts)
    ):
        raise ValueError("the prices of neighbouring products never moved")
    season = fit_season(panel, group, cell, periods, pull)
    settled = panel.with_season(season.gamma[cell] + season.rho * pull)
    se = clustered_error(
        settled, season, group, cell, pull, 0.0, np.unique(cluster, return_inverse=True)[1]
    )
    return Substitution(
        season.rho, se, two_sided(season.rho / se, clusters - 1), len(pull), clusters
    )
