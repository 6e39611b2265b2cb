"""Limits on the table as a whole: Lagrangian relaxation for their prices, then repair and search.

Each limit gets a price (its dual), and each unit answers independently: the argmax of its worth
less the charges of the limits (Everett 1963).  At any duals, the sum of those scores plus the
limits' own worth is an upper bound on the worth of a table within the limits.  The least such bound
is found by column generation (Dantzig and Wolfe 1960): every answer is a column of a linear
programme with one row per limit, whose duals are asked next, until no answer improves it.

At the best duals some units are indifferent, and their choices exceed a limit or leave slack in it.
Units are moved one by one, those with the smallest loss first (their regret at the duals), until
the limits are met; single moves and pairs of moves then use the slack.  Further gains are only
possible in units whose regret is below the gap to the bound: if they are few, branch and bound
finds the best table and proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.optimise.column_generation import (
    Answer,
    ColumnSearch,
    Limit,
    LimitsNotMet,
    refused_together,
)
from tariffs.optimise.portfolio_search import best_within


@dataclass(frozen=True, slots=True)
class WithinLimits:
    """The chosen point of each unit (units,), and the price of each limit (limits,).

    duals  in money per unit of the limit's amount
    worth  of the chosen points, in money;  bound  no choice within the limits is worth more
    """

    pick: Ints
    duals: Floats
    worth: float
    bound: float

    @property
    def gap(self) -> float:
        """The largest possible gain over this choice within the limits; money."""
        return max(self.bound - self.worth, 0.0)


def solve(
    values: Floats,
    limits: Sequence[Limit],
    answer: Answer,
    start: Floats | None = None,
    offsets: Ints | None = None,
    hold: Ints | None = None,
) -> WithinLimits:
    """Return the points that are worth most within the limits, up to the returned gap.

    values   worth of each point in money, shape (units, points); -inf if it is not possible
    answer   returns the best points for given scores of that shape, (units,), within the chains
    start    estimates of the limits' prices, such as from a sample of the units, (limits,)
    offsets  the chains of `answer` are offsets[c]:offsets[c + 1]; each unit alone if None
    hold     a choice that is tried as it is, (units,), such as today's prices

    Raises LimitsNotMet, naming the limits, if these cannot be met.
    """
    search = ColumnSearch(values, limits, answer)
    search.find_duals(start, hold)
    duals, bound = search.duals, search.bound
    pick, worth, proven = best_within(
        search, np.arange(len(values) + 1) if offsets is None else offsets
    )
    if pick is None:
        raise LimitsNotMet(refused_together(limits, duals))
    bound = worth if proven else max(bound, worth)
    return WithinLimits(pick, duals, worth, bound)


def duals_of(values: Floats, limits: Sequence[Limit], answer: Answer) -> Floats:
    """Return the prices of the limits; LimitsNotMet if these cannot be met."""
    search = ColumnSearch(values, limits, answer)
    search.find_duals(None, None)
    return search.duals
