"""The cost of workers, added up in the table while a run with a budget is active.

A worker adds the dollars of its time every few seconds and at its end, so that the sum is at most
that old. Not included is the start of a Lambda environment before its first call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ports.interfaces import Clock, Record
from ...ports.run_facts import BudgetFacts
from ..adapters.dynamodb_ledger import DynamoLedger


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a worker: dollars for a second, and for each group of messages that it gets."""

    per_second: float
    per_call: float = 0.0


# the price of this worker for a run with that budget; raises UsageError if it is not known
PriceOf = Callable[[BudgetFacts], Price]


@dataclass(slots=True)
class WorkerBill:
    """The bill of a worker for a run."""

    run: str
    limit: float
    price: Price
    ledger: DynamoLedger
    clock: Clock
    billed_until: float  # time of `clock`
    due: float = 0.0  # dollars that are not added yet
    total: float = 0.0  # dollars of all workers

    @classmethod
    def of(
        cls, record: Record, ledger: DynamoLedger, price_of: PriceOf, clock: Clock, since: float
    ) -> WorkerBill | None:
        """Return the bill of a worker, from that time on; None for a run without a budget."""
        budget = record.options.get("budget")
        if budget is None:
            return None
        price = price_of(budget)
        bill = cls(record.id, budget["limit"], price, ledger, clock, since, price.per_call)
        bill.add()
        return bill

    def add(self) -> None:
        """Add the seconds since the last time, and learn the sum of all workers."""
        now = self.clock()
        self.due += max(now - self.billed_until, 0.0) * self.price.per_second
        self.billed_until = now
        self.total = self.ledger.add_spent(self.run, self.due)
        self.due = 0.0

    @property
    def is_spent(self) -> bool:
        return self.total >= self.limit
