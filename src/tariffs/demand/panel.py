"""Demand's raw material: the weeks of many units, end to end.

Every sum over a unit's weeks goes through `np.add.reduceat`, which adds from left to right whatever stands before and after: so a unit's
figures are the same bits alone and in any batch.  (`np.sum` adds pairwise, and differs in the last bit.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Bools, Floats, Ints

SPIKE_RATIO, SPIKE_SLACK = 5.0, 200.0
STEEPEST_ANSWER = 3.0
FULL = 0.001  # minutes are rounded, so that a full cell may be this share off its capacity


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows sorted by unit, then by week.  Every unit has at least one row.

    starts    (units,)  first row of each unit
    unit      (rows,)   the unit each row belongs to, 0, 1, 2, ...
    quantity  (rows,)   y: units sold, or minutes
    x         (rows,)   price / reference price - 1
    exposure  (rows,)   E: active subscribers, times e^gamma once the season is known
    trial     (rows,)   the part of x that is logged exploration: chance, and no answer to demand; None where nothing is logged
    ceiling   (rows,)   the most that could have been sold, such as the minutes of a full cell; infinite or None where nothing limits it
    slack     (rows,)   the variance of quantities that are expectations (`tariffs.demand.censored`); None where all were seen
    """

    starts: Ints
    unit: Ints
    quantity: Floats
    x: Floats
    exposure: Floats
    trial: Floats | None = None
    ceiling: Floats | None = None
    slack: Floats | None = None

    @property
    def units(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> Ints:
        """Rows of each unit.  Shape (units,)."""
        return np.diff(np.append(self.starts, len(self.unit)))

    def sums(self, values: Floats) -> Floats:
        """One value per row in, their sum per unit out: (rows,) -> (units,)."""
        return np.add.reduceat(values, self.starts)

    def seasonal(self, gamma: Floats) -> Panel:
        """The same rows with the season in their exposure; `gamma` has one value per row."""
        return replace(self, exposure=self.exposure * np.exp(gamma))

    def selling(self, quantity: Floats, slack: Floats | None = None) -> Panel:
        """The same rows with other quantities, and the variance of those that are expectations."""
        return replace(self, quantity=quantity, slack=slack)

    def full(self) -> Bools:
        """The rows that sold all there was: their demand is at least that, and unknown beyond.  Shape (rows,).

        A row that sold more than its ceiling was not held by it, and says what its demand was.
        """
        if self.ceiling is None:
            return np.zeros(len(self.unit), dtype=np.bool_)
        return np.asarray(
            (np.abs(self.quantity - self.ceiling) <= FULL * self.quantity) & (self.quantity > 0)
        )

    def only(self, rows: Bools) -> tuple[Panel, Ints]:
        """The rows with `rows` True, and which units they belong to: one left without rows is gone, the others move up."""
        left, unit = np.unique(self.unit[rows], return_inverse=True)
        starts = np.searchsorted(unit, np.arange(len(left)))
        trial, ceiling = (None if c is None else c[rows] for c in (self.trial, self.ceiling))
        return Panel(
            starts, unit, self.quantity[rows], self.x[rows], self.exposure[rows], trial, ceiling
        ), left

    def has_price_variation(self) -> Bools:
        return np.maximum.reduceat(self.x, self.starts) > np.minimum.reduceat(self.x, self.starts)


def make_panel(
    offsets: Ints,
    quantity: Floats,
    x: Floats,
    exposure: Floats,
    trial: Floats | None = None,
    ceiling: Floats | None = None,
) -> Panel:
    unit = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return Panel(offsets[:-1], unit, quantity, x, exposure, trial, ceiling)


def tally(group: Ints, values: Floats, groups: int) -> Floats:
    """The sum of `values` per group, added in the order of the rows.  Shape (groups,)."""
    return np.asarray(np.bincount(group, values, groups), dtype=np.float64)


def plausible(quantity: Floats, x: Floats, offsets: Ints) -> Bools:
    """False for the rows to set aside: what is left of a quantity after an answer to price as steep as e^(-3 x) is more
    than five times the mean of the unit's other weeks, plus 200.

    No price, season or payday moves a week that far; a load that counted twice, or a slipped decimal point, does.  Never
    every row of a unit, and never the only one.  Shape (rows,).
    """
    starts, sizes = offsets[:-1], np.diff(offsets)
    weeks = np.repeat(sizes, sizes)
    others = (np.repeat(np.add.reduceat(quantity, starts), sizes) - quantity) / np.maximum(
        weeks - 1, 1
    )
    cheaper = np.maximum(np.repeat(np.add.reduceat(x, starts) / sizes, sizes) - x, 0.0)
    unexplained = quantity * np.exp(-STEEPEST_ANSWER * cheaper)
    return np.asarray((unexplained <= SPIKE_RATIO * others + SPIKE_SLACK) | (weeks == 1))


def offsets_of_kept(keep: Bools, offsets: Ints) -> Ints:
    """The units' offsets after the rows with `keep` False are gone."""
    before = np.concatenate(([0], np.cumsum(keep)))
    return before[offsets].astype(np.int64)
