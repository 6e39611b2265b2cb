"""What the calls of the workers cost, added up in the table while a run with a budget is active.

Each call adds its seconds every few seconds and at its end, so that the sum is at most that old.
The start of a function's environment before the first call is not in it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

from ...ports.interfaces import Record
from ...ports.run_facts import BudgetFacts
from ..adapters.dynamodb_ledger import DynamoLedger
from ..lambda_platform import function_memory_mb

ARM = ("arm64", "aarch64")  # names of the processor


@dataclass(slots=True)
class CallBill:
    """The bill of one call for a run. remaining: seconds until the deadline of the call."""

    run: str
    budget: BudgetFacts
    ledger: DynamoLedger
    remaining: Callable[[], float]
    billed_at: float  # `remaining` when it was last added
    due: float = 0.0  # dollars that are not added yet
    total: float = 0.0

    @classmethod
    def of(
        cls, record: Record, ledger: DynamoLedger, remaining: Callable[[], float], since: float
    ) -> CallBill | None:
        """Return the bill of a call that began with `since` seconds left; None without a budget."""
        budget = record.options.get("budget")
        if budget is None:
            return None
        bill = cls(record.id, budget, ledger, remaining, since, budget["call"])
        bill.add()
        return bill

    def add(self) -> None:
        """Add the seconds since the last time, and learn the sum of all calls."""
        now = self.remaining()
        processor = "arm64" if platform.machine().lower() in ARM else "x86_64"
        gigabytes = function_memory_mb() / 1024
        self.due += max(self.billed_at - now, 0.0) * gigabytes * self.budget["gb_second"][processor]
        self.billed_at = now
        self.total = self.ledger.add_spent(self.run, self.due)
        self.due = 0.0

    @property
    def is_spent(self) -> bool:
        return self.total >= self.budget["limit"]
