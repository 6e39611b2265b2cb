"""A worker in Lambda: one call of a function processes some messages until its deadline.

Shortly before the deadline the worker starts no more work, and sends the rest back as new messages.
The processing itself is the same in a container (aws/work/processing.py).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.checksums import put_sealed
from ...data.messages import Message
from ...errors import WorkerError
from ...pipeline.work import WorkDispatcher, crashed_accounts, halves
from ...ports.run_facts import BudgetFacts
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.s3_store import S3Store
from ..adapters.session import StackResources
from ..adapters.sqs_queue import SqsQueue
from ..lambda_platform import cores_of, function_memory_mb
from ..work.billing import Price
from ..work.pools import ClosablePool, PoolKeeper
from ..work.processing import MessageProcessor, WorkStopped
from ..work.slices import missing_parts, split_around
from ..work.sources import MessageSource, TakenMessages

FUNCTION_MEMORY_MB = 300  # memory that the function itself uses
DEADLINE_MARGIN_S = 9.0  # before the deadline: the rest is sent back to the queue
# seconds before that at which workers are requested to end with the unit that they are on
CLOSING_S = 3.0
EARLIEST_CLOSING_FRACTION = 0.75  # at most the last quarter of a call's time
MAX_UNIT_FRACTION = 0.8  # of a call's time: a unit that takes longer does not fit into any call
MAX_FIRST_UNIT_FRACTION = 0.5  # the same, for a unit that a worker started its call with
MIN_PULL_FRACTION = 0.25  # of a call's time, for it to take further messages from the queue
FIRST_WAIT_S, LATER_WAIT_S = 5, 1  # for a message: the first one may not have been sent yet
ARM = ("arm64", "aarch64")  # names of the processor


@dataclass
class Deadline:
    """The end of a call. remaining: seconds until Lambda ends it."""

    remaining: Callable[[], float]
    work_s: float = field(init=False)  # seconds available for work
    closing: float = field(init=False)  # seconds before their end at which no more work is started
    left_at_start: float = 0.0  # seconds for work, when the messages at hand were started
    sent_back: str = "sent back before the deadline"

    def __post_init__(self) -> None:
        self.work_s = self.left()
        self.closing = min(CLOSING_S, (1 - EARLIEST_CLOSING_FRACTION) * self.work_s)

    def left(self) -> float:
        """Return the seconds that are left for work."""
        return self.remaining() - DEADLINE_MARGIN_S

    def may_start(self) -> bool:
        self.left_at_start = self.left()
        return self.left_at_start >= self.closing

    def may_pull(self) -> bool:
        return self.left() > MIN_PULL_FRACTION * self.work_s

    def check(self, pool: ClosablePool) -> None:
        left = self.left()
        if left < 0 or (left < self.closing and pool.stop_after_current_units()):
            raise WorkStopped

    def leave(
        self, dispatcher: WorkDispatcher, pool: ClosablePool, slices: Sequence[Message]
    ) -> list[Message]:
        """Return the slices to send back. A unit that does not fit into any call has crashed."""
        gained = dispatcher.units_stored > 0
        whole_call = self.left_at_start > MAX_FIRST_UNIT_FRACTION * self.work_s
        at_work, too_long, started = (
            pool.units_at_work(),
            self._units_too_long(pool),
            pool.has_started_a_unit(),
        )
        batched = pool.context.model(dispatcher.manifest.model).batched
        for unit in too_long:
            self._record_crash(unit, dispatcher, slices)
        if whole_call and not (gained or too_long or started):
            raise WorkerError(
                f"in {self.work_s:.0f} s no worker process started a unit; deploy with a longer "
                "--timeout or more --memory"
            )
        left = [part for each in slices for part in missing_parts(each, dispatcher.coverage)]
        if batched and not gained:  # one call for that many units does not fit
            left = [half for part in left for half in halves(part)]
        return [part for message in left for part in split_around(message, at_work)]

    def _units_too_long(self, pool: ClosablePool) -> list[int]:
        """Return the units at work that would not fit into another call either."""
        at = [(pool.first_units[slot], *pool.position(slot)) for slot in pool.busy()]
        return [
            unit
            for first, unit, since in at
            if unit >= 0
            and since
            > (MAX_FIRST_UNIT_FRACTION if first == unit else MAX_UNIT_FRACTION) * self.work_s
        ]

    def _record_crash(
        self, unit: int, dispatcher: WorkDispatcher, slices: Sequence[Message]
    ) -> None:
        message = next(m for m in slices if m.first <= unit <= m.last).part(unit, unit)
        reason = (
            f"it took all of the {self.work_s:.0f} s that a worker has; deploy with a longer "
            "--timeout"
        )
        put_sealed(
            dispatcher.store,
            dispatcher.layout.outcome(message, "status"),
            crashed_accounts(message, reason),
        )
        dispatcher.coverage.add(unit, unit)
        dispatcher.failed_units.add(unit)


def lambda_price(budget: BudgetFacts) -> Price:
    """Return the price of this function for a run with that budget."""
    processor = "arm64" if platform.machine().lower() in ARM else "x86_64"
    gigabytes = function_memory_mb() / 1024
    return Price(gigabytes * budget["gb_second"][processor], budget["call"])


def processor_of_call(
    resources: StackResources,
    queue: SqsQueue,
    source: MessageSource,
    deadline: Deadline,
    scratch: Path,
) -> MessageProcessor:
    """Return the processor of the messages of one call."""
    _pools.logs = scratch / "logs"
    return MessageProcessor(
        S3Store(resources.bucket),
        DynamoLedger(resources.table),
        queue,
        source,
        resources.job,
        resources.code,
        _pools,
        deadline,
        lambda_price,
    )


def pull(processor: MessageProcessor, source: TakenMessages, messages: int) -> None:
    """Process messages of the queue, a number at a time, until it is empty or the time is short."""
    wait = FIRST_WAIT_S
    while source.may_take() and (records := source.take(messages, wait)):
        processor.process(records)
        wait = LATER_WAIT_S


def stop_worker_pool() -> None:
    """Stop the worker processes of the last call."""
    _pools.stop()


def _function_pools() -> PoolKeeper:
    memory = function_memory_mb()
    size = cores_of(memory)
    share = max(memory - FUNCTION_MEMORY_MB, memory // 2) * 2**20 // size
    return PoolKeeper(size, share, Path())


_pools = _function_pools()  # its processes live from call to call
