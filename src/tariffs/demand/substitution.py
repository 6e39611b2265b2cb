"""What products of one ladder take from one another: chi, pooled over all units.

    log mu_ut = log n_ut + gamma_(s(u),t) + alpha_u + beta_g(u) x_ut + chi w_ut,      w = the sum of x over the neighbouring rungs

chi > 0: a neighbour that gets dearer sends its customers here.  It is fitted along with the season and the products' elasticities
(PPML with unit effects, as the prior is), and its standard error lets all weeks of a cluster move together.

Prices of one place that follow the same demand look like substitution, or hide it: `tariffs.demand.endogeneity` says whether they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints
from tariffs.demand.endogeneity import FEWEST_CLUSTERS, clustered_error, two_sided
from tariffs.demand.panel import Panel
from tariffs.demand.season import fit_season

CONFIDENCE_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Substitution:
    """chi, its standard error by clusters, p of the test that it is nothing; the weeks and the clusters that tell it."""

    chi: float
    se: float
    p: float
    weeks: int
    clusters: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.chi - CONFIDENCE_95 * self.se, self.chi + CONFIDENCE_95 * self.se


def neighbours(unit: Ints, period: Ints, x: Floats, beside: Ints) -> tuple[Floats, Bools]:
    """The sum of x over each row's neighbours in the same period, and whether all of them, and at least one, have a row there.  Shape (rows,).

    unit, period (rows,), sorted by unit and period;  beside (units, k): which units are each unit's neighbours, -1 for none.
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
    """chi of `pull` (rows,), with group (units,), cell (rows,) and cluster (units,) 0, 1, 2, ... as in `examine`.

    Raises ValueError where it cannot be told: fewer than eight clusters, or neighbours whose prices never moved apart from the rest.
    """
    clusters = len(np.unique(cluster))
    if clusters < FEWEST_CLUSTERS:
        raise ValueError(
            f"{clusters} clusters have neighbouring products, wanted at least {FEWEST_CLUSTERS}"
        )
    if not np.any(
        np.maximum.reduceat(pull, panel.starts) > np.minimum.reduceat(pull, panel.starts)
    ):
        raise ValueError("the prices of neighbouring products never moved")
    season = fit_season(panel, group, cell, periods, pull)
    settled = panel.seasonal(season.gamma[cell] + season.rho * pull)
    se = clustered_error(
        settled, season, group, cell, pull, 0.0, np.unique(cluster, return_inverse=True)[1]
    )
    return Substitution(
        season.rho, se, two_sided(season.rho / se, clusters - 1), len(pull), clusters
    )
