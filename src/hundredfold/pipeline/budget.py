"""The budget of a run: what was spent of it, and the error that ends a run when it is spent.

Locally it is core time, the seconds of units, measured by their outcomes; on AWS dollars, measured
by the calls of the workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..data.checksums import get_sealed
from ..data.layout import Layout
from ..data.messages import PILOT_ATTEMPT
from ..data.outcomes import unpack_statuses
from ..errors import BudgetSpent
from ..job import Model
from ..ports.interfaces import Store
from ..ports.run_facts import BudgetFacts


@dataclass(slots=True)
class Meter:
    """What a run has spent, and the limit; both in core-seconds, or both in dollars."""

    limit: float
    spent: float = 0.0

    def add(self, amount: float) -> None:
        self.spent += amount

    @property
    def is_spent(self) -> bool:
        return self.spent >= self.limit


def stored_seconds(models: Iterable[Model], layout: Layout, store: Store) -> float:
    """Return the seconds of all units whose outcomes a run has stored, of each of its attempts.

    The units of a plan's pilot are not counted: the run did not execute them.
    """
    total = 0.0
    for model in models:
        for key in store.list(layout.outcomes(model.name) + "/"):
            outcome = layout.parse_outcome_key(key)
            if outcome is not None and outcome.attempt != PILOT_ATTEMPT:
                total += float(unpack_statuses(get_sealed(store, key)).seconds.sum())
    return total


def amount_text(budget: BudgetFacts, amount: float) -> str:
    """Return an amount of a budget as people read it."""
    if budget["unit"] == "dollars":
        return f"{amount:,.6f}".rstrip("0").rstrip(".") + " dollars"
    return f"{amount:,.1f} s of core time"


def budget_spent_error(
    run: str, budget: BudgetFacts, spent: float, model: str, done: int, units: int
) -> BudgetSpent:
    """Return the error that ends a run whose budget is spent."""
    twice = 2 * max(budget["limit"], spent)
    example = f"{twice:.2f}" if budget["unit"] == "dollars" else f"{math.ceil(twice)}s"
    return BudgetSpent(
        f"the budget of {amount_text(budget, budget['limit'])} is spent "
        f"({amount_text(budget, spent)}): {done:,} of {units:,} units of {model} are done, and "
        "kept",
        hint=f"continue with a higher one, of the whole run, such as {example}: hundredfold resume "
        f"{run} --budget AMOUNT",
    )
