"""The panel: the weeks of many units, concatenated.

Every sum over a unit's weeks uses `np.add.reduceat`, which adds from left to right whatever rows
come before and after: so a unit's figures are equal to the last bit, alone and in any batch.
(`np.sum` adds pairwise, and differs in the last bit.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Bools, Floats, Ints

SPIKE_RATIO, SPIKE_ALLOWANCE = 5.0, 200.0
MAX_PRICE_SLOPE = 3.0
FULL_TOLERANCE = (
    0.001  # minutes are rounded: the relative distance of a full cell from its capacity
)


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows sorted by unit, then by week.  Every unit has at least one row.

    starts    (units,)  first row of each unit
    unit      (rows,)   the unit each row belongs to, 0, 1, 2, ...
    quantity  (rows,)   y: units sold, or minutes
    x         (rows,)   price / reference price - 1
    exposure  (rows,)   E: active subscribers, times e^gamma once the season is known
    trial     (rows,)   the part of x that is logged exploration: random, and no response to
                        demand; None if nothing is logged
    ceiling   (rows,)   the most that could have been sold, such as the minutes of a full cell;
                        infinite or None without a limit
    slack     (rows,)   the variance of quantities that are expectations
                        (`tariffs.demand.censored`); None if all were observed
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
        """The number of rows of each unit.  Shape (units,)."""
        return np.diff(np.append(self.starts, len(self.unit)))

    def sums(self, values: Floats) -> Floats:
        """Return the sum of the values of each unit: (rows,) -> (units,)."""
        return np.add.reduceat(values, self.starts)

    def with_season(self, gamma: Floats) -> Panel:
        """Return the same rows with the season in their exposure; gamma (rows,)."""
        return replace(self, exposure=self.exposure * np.exp(gamma))

    def with_cells(self, gamma: Floats, cell: Ints) -> Panel:
        """Return `with_season(gamma[cell])`; gamma (cells,), cell (rows,)."""
        return replace(self, exposure=self.exposure * np.exp(gamma)[cell])

    def with_quantity(self, quantity: Floats, slack: Floats | None = None) -> Panel:
        """Return the same rows with other quantities, and the variance of the expected ones."""
        return replace(self, quantity=quantity, slack=slack)

    def full(self) -> Bools:
        """Return True for the censored rows: sales at the ceiling, demand at least that.

        A row that sold more than its ceiling was not limited by it: its sales are its demand.
        Shape (rows,).
        """
        if self.ceiling is None:
            return np.zeros(len(self.unit), dtype=np.bool_)
        return np.asarray(
            (np.abs(self.quantity - self.ceiling) <= FULL_TOLERANCE * self.quantity)
            & (self.quantity > 0)
        )

    def select_rows(self, rows: Bools) -> tuple[Panel, Ints]:
        """Return the rows with `rows` True, and the index of each remaining unit.

        A unit without rows is dropped, and the later ones are renumbered.
        """
        of = self.unit[rows]
        first = np.append(True, of[1:] != of[:-1])[: len(of)]
        starts, unit = np.flatnonzero(first), np.cumsum(first) - 1
        trial, ceiling = (None if c is None else c[rows] for c in (self.trial, self.ceiling))
        return Panel(
            starts, unit, self.quantity[rows], self.x[rows], self.exposure[rows], trial, ceiling
        ), of[starts]

    def of_units(self, units: Bools) -> Panel:
        """Return some units, without trials, ceilings and slack; units (units,)."""
        sizes, rows = self.sizes[units], np.repeat(units, self.sizes)
        unit = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.cumsum(sizes) - sizes
        return Panel(starts, unit, self.quantity[rows], self.x[rows], self.exposure[rows])

    def has_price_variation(self) -> Bools:
        """Return True for the units with at least two prices.  Shape (units,)."""
        return np.maximum.reduceat(self.x, self.starts) > np.minimum.reduceat(self.x, self.starts)


def make_panel(
    offsets: Ints,
    quantity: Floats,
    x: Floats,
    exposure: Floats,
    trial: Floats | None = None,
    ceiling: Floats | None = None,
) -> Panel:
    """Return the panel of units whose rows start at `offsets` (units + 1,)."""
    unit = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return Panel(offsets[:-1], unit, quantity, x, exposure, trial, ceiling)


def group_sums(group: Ints, values: Floats, groups: int) -> Floats:
    """Return the sum of `values` per group, added in the order of the rows.  Shape (groups,)."""
    return np.asarray(np.bincount(group, values, groups), dtype=np.float64)


def plausible(quantity: Floats, x: Floats, offsets: Ints) -> Bools:
    """Return False for outliers, which are set aside.

    An outlier's quantity, after a price response as steep as e^(-3 x), is more than five times the
    mean of the unit's other weeks, plus 200.  No price, season or payday moves a week that far, but
    a load that was counted twice does, and so does a misplaced decimal point.  A unit's only row
    is never set aside, nor are all of its rows.  Shape (rows,).
    """
    starts, sizes = offsets[:-1], np.diff(offsets)
    weeks = np.repeat(sizes, sizes)
    others = (np.repeat(np.add.reduceat(quantity, starts), sizes) - quantity) / np.maximum(
        weeks - 1, 1
    )
    cheaper = np.maximum(np.repeat(np.add.reduceat(x, starts) / sizes, sizes) - x, 0.0)
    unexplained = quantity * np.exp(-MAX_PRICE_SLOPE * cheaper)
    return np.asarray((unexplained <= SPIKE_RATIO * others + SPIKE_ALLOWANCE) | (weeks == 1))


def offsets_of_kept(keep: Bools, offsets: Ints) -> Ints:
    """Return the units' offsets once the rows with `keep` False are removed."""
    before = np.concatenate(([0], np.cumsum(keep)))
    return before[offsets].astype(np.int64)
