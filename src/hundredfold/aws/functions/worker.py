"""A worker on AWS: one call of a Lambda function processes some messages until its deadline.

The step (pipeline/work.py) and the worker pool are the same as on one machine. Two things differ:
the queue has delivered its messages before the function starts, and shortly before the deadline the
worker starts no more work and sends the rest back as new messages.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from aws_lambda_powertools import Logger

from ...data.checksums import put_sealed
from ...data.layout import Layout
from ...data.manifest import Manifest, UnitKeys
from ...data.messages import Message
from ...data.unit_slices import open_units
from ...errors import HundredfoldError, JobError, NoSuchRun, WorkerError
from ...pipeline.coverage import Coverage
from ...pipeline.work import LOST_REASON, WorkDispatcher, crashed_accounts, halves
from ...ports.interfaces import Delivery, Depth, Record
from ...ports.run_states import State
from ...runs.job_loader import load_job
from ...runs.start import with_limits
from ...workers.pool import WorkerPool, WorkerSlot
from ...workers.protocol import NO_UNIT, WorkerContext
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.s3_store import S3Store
from ..adapters.sqs_queue import FORBIDDEN_CHARACTERS, SqsQueue
from ..lambda_platform import cores_of, function_memory_mb
from ..runs import is_other_code
from .billing import CallBill
from .messages import SqsMessage, to_slice

FUNCTION_MEMORY_MB = 300  # memory that the function itself uses
DEADLINE_MARGIN_S = 9.0  # before the deadline: the rest is sent back to the queue
CLOSING_S = (
    3.0  # seconds before that at which workers are requests to end with the unit that they are on
)
EARLIEST_CLOSING_FRACTION = 0.75  # at most the last quarter of a call's time
MAX_UNIT_FRACTION = 0.8  # of a call's time: a unit that takes longer does not fit into any call
MAX_FIRST_UNIT_FRACTION = 0.5  # the same, for a unit that a worker started its call with
MAX_JOB_ERROR_DELIVERIES = 3  # then an error of the job itself dead-letters the message
JOB_ERROR_DELAY_S = 10  # before the first retry after such an error; it doubles each time
RETURN_DELAY_S = 10  # before a message is delivered again that met other code
MAX_RETURNS = 30  # of a message: a deployment updates all functions within five minutes
MIN_PULL_FRACTION = 0.25  # of a call's time, for it to take further messages from the queue
FIRST_WAIT_S, LATER_WAIT_S = 5, 1  # for a message: the first one may not have been sent yet
RUN_CHECK_INTERVAL_S = 5.0  # between two checks that the run still needs the work
MAX_LOG_BYTES = 10 * 2**20  # output of the user's code that is kept
# the timeout of the event source mapping is long enough for a call: leases are not extended
VISIBILITY_TIMEOUT_S = 1e9

log = Logger()


class DeadlineNear(Exception):
    """The deadline is near."""


class RunEnded(Exception):
    """The run has ended or begun another attempt: its result is no longer needed."""


@dataclass(slots=True)
class InvocationMetrics:
    """The counts of one call, for the metrics."""

    done: int = 0
    failed: int = 0
    dead_lettered: int = 0
    requeued: int = 0


@dataclass
class InvocationQueue:
    """The queue of one call: its messages are delivered already; new ones go to the SQS queue."""

    sqs_queue: SqsQueue
    waiting: deque[Delivery]
    done: set[str] = field(default_factory=set)

    def send(self, bodies: Sequence[str]) -> None:
        self.sqs_queue.send(bodies)

    def receive(self, wait: float = 0.0) -> Delivery | None:
        return self.waiting.popleft() if self.waiting else None

    def extend(self, receipt: str, seconds: float) -> bool:
        return True

    def delete(self, receipt: str) -> bool:
        self.done.add(receipt)
        return True

    def dead(self) -> Sequence[str]:
        return ()

    def purge(self) -> None:
        self.waiting.clear()

    def depth(self) -> Depth:
        return Depth(len(self.waiting), 0, 0)


@dataclass
class LambdaWorkerPool(WorkerPool):
    """A worker pool that lives from call to call, and can be requests to close.

    It records the first unit of each slot in this call.
    """

    closing: bool = False
    first_units: dict[WorkerSlot, int] = field(default_factory=dict)

    def begin_call(self) -> None:
        self.closing, self.first_units = False, {}

    def idle(self) -> Sequence[WorkerSlot]:
        return () if self.closing else super().idle()

    def assign(
        self, slot: WorkerSlot, message: Message, narrow: bool = False, final: bool = False
    ) -> None:
        self.first_units.setdefault(slot, message.first)
        super().assign(slot, message, narrow, final)

    def stop_after_current_units(self) -> bool:
        """Start nothing more, stop after the current units; return whether all slots are idle."""
        self.closing = True
        for slot in self.busy():
            self.stop_after(slot, 0)
        return not self.busy()

    def busy(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.message is not None]

    @property
    def is_idle(self) -> bool:
        return not self.busy()

    def has_started_a_unit(self) -> bool:
        """Return whether any slot has started a unit, or a whole slice at once."""
        return any(slot.progress[0] != NO_UNIT for slot in self.busy())

    def units_at_work(self) -> list[int]:
        """Return the units that are being executed."""
        return [unit for unit, _ in map(self.position, self.busy()) if unit >= 0]

    def units_too_long(self, seconds: float) -> list[int]:
        """Return the units that would not fit into another call of `seconds` either."""
        at = [(self.first_units[slot], *self.position(slot)) for slot in self.busy()]
        return [
            unit
            for first, unit, since in at
            if unit >= 0
            and since > (MAX_FIRST_UNIT_FRACTION if first == unit else MAX_UNIT_FRACTION) * seconds
        ]


@dataclass
class Invocation:
    """One call of a worker.

    Its worker processes, with the data that they have loaded, live on until the next call.
    """

    store: S3Store
    ledger: DynamoLedger
    queue: SqsQueue
    ref: str  # module:attribute of the job
    scratch: Path
    remaining: Callable[[], float]  # seconds until the deadline
    code: str = ""  # fingerprint of the code of this function
    counts: InvocationMetrics = field(default_factory=InvocationMetrics)
    work_s: float = field(init=False)  # seconds available for work
    closing: float = field(init=False)  # seconds before their end at which no more work is started
    remaining_at_check: float = field(init=False)  # seconds left at the last check of the run
    billed_until: float = field(init=False)  # seconds left when they were last billed
    bill: CallBill | None = None  # of the run that is being worked on, if it has a budget

    def __post_init__(self) -> None:
        self.remaining_at_check = self.billed_until = self.remaining()
        self.work_s = self.remaining_at_check - DEADLINE_MARGIN_S
        self.closing = min(CLOSING_S, (1 - EARLIEST_CLOSING_FRACTION) * self.work_s)

    def process(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Process the messages of one call; return the ids of those to be delivered again."""
        runs: defaultdict[str, list[SqsMessage]] = defaultdict(list)
        for record in records:
            try:
                sqs_message = SqsMessage.parse(record, self.store.bucket)
            except ValueError as error:
                self._dead_letter(SqsMessage.unparsed(record), str(error))
                continue
            # one run as a rule, but an S3 event may name several batches
            for run in dict.fromkeys(request.run for request in sqs_message.requests):
                runs[run].append(sqs_message)
        returned = [
            sqs_message.id
            for run, sqs_messages in runs.items()
            for sqs_message in self._process_run(run, sqs_messages)
        ]
        log.remove_keys(["run", "model"])
        return list(dict.fromkeys(returned))

    def _process_run(self, run: str, sqs_messages: Sequence[SqsMessage]) -> Sequence[SqsMessage]:
        """Process the messages of one run; return those to be delivered again."""
        log.append_keys(run=run)
        try:
            record = self.ledger.read(run)
        except NoSuchRun:
            return self._dead_letter_all(sqs_messages, "there is no such run")
        if record.state is not State.RUNNING:
            log.info(
                "dropped: the run is not running",
                state=record.state.value,
                messages=len(sqs_messages),
            )
            return ()
        if is_other_code(record, self.code):
            return self._return_to_queue(sqs_messages)
        self.bill = CallBill.of(record, self.ledger, self.remaining, self.billed_until)
        try:
            if self.bill is not None and self.bill.is_spent:
                log.info("dropped: the budget is spent", messages=len(sqs_messages))
                return ()
            return self._process_models(record, sqs_messages)
        finally:
            if self.bill is not None:
                self.bill.add()
                self.billed_until = self.bill.billed_at

    def _process_models(
        self, record: Record, sqs_messages: Sequence[SqsMessage]
    ) -> Sequence[SqsMessage]:
        models: defaultdict[str, list[tuple[SqsMessage, Message]]] = defaultdict(list)
        for sqs_message in redelivered_last(sqs_messages):
            try:
                messages = requested_slices(sqs_message, record, self.store)
            except ValueError as error:
                self._dead_letter(sqs_message, str(error))
                continue
            for message in messages:
                models[message.model].append((sqs_message, message))
        returned: list[SqsMessage] = []
        for model, requests in models.items():
            log.append_keys(model=model)
            returned += self._process_model(record, requests)
        return returned

    def _return_to_queue(self, sqs_messages: Sequence[SqsMessage]) -> Sequence[SqsMessage]:
        """Return messages to the queue while other code is deployed.

        The next step of the run ends it, or a rollback of the deployment restores its code.

        They are dropped after some minutes; the run's next step then sends what is missing.
        """
        again = [each for each in sqs_messages if each.returned < MAX_RETURNS]
        for each in again:
            self.queue.send_later(each.body, each.returned + 1, RETURN_DELAY_S)
        log.info(
            "returned to the queue: other code was deployed during the run",
            messages=len(again),
            dropped=len(sqs_messages) - len(again),
        )
        return ()

    def _process_model(
        self, record: Record, requests: Sequence[tuple[SqsMessage, Message]]
    ) -> Sequence[SqsMessage]:
        # the previous messages may have taken all the time
        if self.remaining() < DEADLINE_MARGIN_S + self.closing:
            self._requeue([message for _, message in requests])
            return ()
        try:
            undone = self._dispatch(record, requests)
        except HundredfoldError as error:
            stop_worker_pool()
            log.error("the messages cannot be processed now", reason=str(error))
            return self._to_redeliver([sqs_message for sqs_message, _ in requests], error)
        except BaseException:
            stop_worker_pool()
            raise
        return [
            sqs_message for number, (sqs_message, _) in enumerate(requests) if str(number) in undone
        ]

    def _dispatch(self, record: Record, requests: Sequence[tuple[SqsMessage, Message]]) -> set[str]:
        """Process the messages, as far as time permits; return the receipts of those left in the
        queue.

        Messages that were sent back as new ones count as processed.
        """
        messages = [message for _, message in requests]
        layout = Layout(record.id)
        manifest, units = load_prepared(self.store, messages[0], attempt_of(record))
        coverage = read_coverage(messages, manifest, layout, self.store)
        if all(coverage.covers(message.first, message.last) for message in messages):
            return set()  # another worker has processed it
        invocation_queue = InvocationQueue(
            self.queue,
            deque(
                Delivery(str(message), str(number), sqs_message.receive_count)
                for number, (sqs_message, message) in enumerate(requests)
            ),
        )
        job = with_limits(load_job(self.ref), record)
        pool = worker_pool_for(
            WorkerContext(job, layout, self.store), attempt_of(record), self.scratch
        )
        dispatcher = WorkDispatcher(
            messages,
            manifest,
            units,
            layout,
            coverage,
            invocation_queue,
            self.store,
            pool,
            lambda _: self._check_time(pool, record),
            VISIBILITY_TIMEOUT_S,
            stop_when_empty=True,
            parts_per_message=-(-pool.size // len(messages)),
        )
        if not self._run_until_deadline(dispatcher, pool):
            return set()
        unfinished = {
            str(number)
            for number, message in enumerate(messages)
            if not coverage.covers(message.first, message.last)
        }
        return unfinished - invocation_queue.done

    def _run_until_deadline(self, dispatcher: WorkDispatcher, pool: LambdaWorkerPool) -> bool:
        """Run the dispatcher; return False if the deadline or the end of the run stopped it."""
        coverage = dispatcher.coverage
        before, time_left = int(coverage.done.sum()), self.remaining() - DEADLINE_MARGIN_S
        try:
            dispatcher.run()
        except DeadlineNear:
            self._stop_at_deadline(
                dispatcher,
                pool,
                gained=int(coverage.done.sum()) > before,
                whole_call=time_left > MAX_FIRST_UNIT_FRACTION * self.work_s,
            )
            return False
        except RunEnded:
            stop_worker_pool()
            return False
        finally:
            self.counts.done += int(coverage.done.sum()) - before
            self.counts.failed += len(dispatcher.failed_units)
        return True

    def _check_time(self, pool: LambdaWorkerPool, record: Record) -> None:
        """Check between events whether it is time to stop."""
        remaining = self.remaining()
        left = remaining - DEADLINE_MARGIN_S
        if left < 0 or (left < self.closing and pool.stop_after_current_units()):
            raise DeadlineNear
        if self.bill is not None and self.bill.is_spent and pool.stop_after_current_units():
            log.info("stopped: the budget is spent")
            raise RunEnded
        if self.remaining_at_check - remaining > RUN_CHECK_INTERVAL_S:
            self.remaining_at_check = remaining
            if self.bill is not None:
                self.bill.add()
            now = self.ledger.read(record.id)
            if now.state is not State.RUNNING or attempt_of(now) != attempt_of(record):
                log.info("stopped: the run is not running", state=now.state.value)
                raise RunEnded

    def _stop_at_deadline(
        self, dispatcher: WorkDispatcher, pool: LambdaWorkerPool, *, gained: bool, whole_call: bool
    ) -> None:
        """Stop at the deadline, and send the rest back as new messages.

        A unit that does not fit into any call is recorded as crashed.
        """
        units_at_work, too_long, started = (
            pool.units_at_work(),
            pool.units_too_long(self.work_s),
            pool.has_started_a_unit(),
        )
        batched = pool.context.model(dispatcher.manifest.model).batched
        stop_worker_pool()  # from now on no child can deliver a result
        for unit in too_long:
            message = next(m for m in dispatcher.messages if m.first <= unit <= m.last).part(
                unit, unit
            )
            reason = (
                f"it took all of the {self.work_s:.0f} s that a worker has; deploy with a longer "
                "--timeout"
            )
            put_sealed(
                self.store,
                dispatcher.layout.outcome(message, "status"),
                crashed_accounts(message, reason),
            )
            dispatcher.coverage.add(unit, unit)
            dispatcher.failed_units.add(unit)
        if whole_call and not (gained or too_long or started):
            raise WorkerError(
                f"in {self.work_s:.0f} s no worker process started a unit; deploy with a longer "
                "--timeout or more --memory"
            )
        left = [
            part
            for message in dispatcher.messages
            for part in missing_parts(message, dispatcher.coverage)
        ]
        if batched and not gained:  # one call for that many units does not fit
            left = [half for part in left for half in halves(part)]
        self._requeue([part for message in left for part in split_around(message, units_at_work)])

    def _requeue(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        self.queue.send([str(message) for message in messages])
        units = sum(message.units for message in messages)
        self.counts.requeued += units
        log.info("sent back before the deadline", messages=len(messages), units=units)

    def _to_redeliver(
        self, sqs_messages: Sequence[SqsMessage], error: HundredfoldError
    ) -> Sequence[SqsMessage]:
        """Return the messages to be delivered again after an error.

        They come back when their leases end. After an error of the job itself they come back
        sooner, and are dead-lettered with the reason after a few deliveries.
        """
        sqs_messages = list(dict.fromkeys(sqs_messages))
        if not isinstance(error, WorkerError | JobError):
            return sqs_messages
        again = [
            sqs_message
            for sqs_message in sqs_messages
            if sqs_message.receive_count < MAX_JOB_ERROR_DELIVERIES
        ]
        for sqs_message in again:
            with suppress(HundredfoldError):  # it comes back when its lease ends
                self.queue.extend(
                    sqs_message.receipt, JOB_ERROR_DELAY_S * 2 ** (sqs_message.receive_count - 1)
                )
        self._dead_letter_all(
            [
                sqs_message
                for sqs_message in sqs_messages
                if sqs_message.receive_count >= MAX_JOB_ERROR_DELIVERIES
            ],
            str(error),
        )
        return again

    def _dead_letter_all(
        self, sqs_messages: Iterable[SqsMessage], reason: str
    ) -> Sequence[SqsMessage]:
        for sqs_message in sqs_messages:
            self._dead_letter(sqs_message, reason)
        return ()

    def _dead_letter(self, sqs_message: SqsMessage, reason: str) -> None:
        """Dead-letter a message that is invalid or cannot be processed, with the reason."""
        log.error(
            "dead-lettered",
            reason=reason,
            message_id=sqs_message.id,
            characters=len(sqs_message.body),
        )
        self.counts.dead_lettered += 1
        self.queue.dead_letter(sqs_message.body, FORBIDDEN_CHARACTERS.sub("?", reason))


def pull(invocation: Invocation, messages: int) -> None:
    """Process messages of the queue, a number at a time, until it is empty or the time is short."""
    wait = FIRST_WAIT_S
    while invocation.remaining() - DEADLINE_MARGIN_S > MIN_PULL_FRACTION * invocation.work_s:
        records = invocation.queue.receive_records(messages, wait)
        if not records:
            return
        again = set(invocation.process(records))
        for record in records:
            if record["messageId"] not in again:
                invocation.queue.delete(record["receiptHandle"])
        wait = LATER_WAIT_S


def redelivered_last(sqs_messages: Iterable[SqsMessage]) -> list[SqsMessage]:
    """Sort redelivered messages last.

    A redelivered message may have killed its worker, and with it the other messages of the call. So
    the others are processed first; several redelivered ones are shuffled, so that none is always
    behind the message that kills the worker.
    """
    return sorted(
        sqs_messages,
        key=lambda sqs_message: (
            sqs_message.receive_count,
            random.random() if sqs_message.receive_count > 1 else 0.0,
        ),
    )


def attempt_of(record: Record) -> int:
    return record.attempt


def load_prepared(store: S3Store, request: Any, attempt: int) -> tuple[Manifest, UnitKeys]:
    """Return the manifest and units of a model; ValueError if it has not been prepared.

    Cached from call to call: an attempt never changes them, and with thousands of batches the
    manifest is larger than the data of a message.
    """
    try:
        return _load_prepared(store, request.run, request.model, attempt)
    except KeyError:
        raise ValueError(f"the run has not prepared the model {request.model}") from None


@lru_cache(maxsize=2)
def _load_prepared(
    store: S3Store, run: str, model: str, _attempt: int
) -> tuple[Manifest, UnitKeys]:
    layout = Layout(run)
    manifest = Manifest.read(layout, model, store)
    return manifest, open_units(manifest, layout, store)


def read_coverage(
    messages: Iterable[Message], manifest: Manifest, layout: Layout, store: S3Store
) -> Coverage:
    """Return which units of the messages' batches have an outcome in their attempt."""
    coverage = Coverage(manifest.units)
    for batch in {f"{message.attempt:03d}-{message.batch:06d}-" for message in messages}:
        for key in store.beginning(f"{layout.outcomes(manifest.model)}/{batch}"):
            found = layout.parse_outcome_key(key)
            if found is not None:
                coverage.add(found.first, found.last)
    return coverage


def requested_slices(sqs_message: SqsMessage, record: Record, store: S3Store) -> list[Message]:
    """Return the slices that a message requests of a run, without those of an earlier attempt.

    Raises:
        ValueError: the run has no such slice.
    """
    attempt = attempt_of(record)
    requests = [
        each for each in sqs_message.requests if each.run == record.id and each.attempt >= attempt
    ]
    if any(each.attempt > attempt for each in requests):
        raise ValueError(
            f"it belongs to an attempt that has not begun: the run is in attempt {attempt}"
        )
    return [to_slice(each, load_prepared(store, each, attempt)[0]) for each in requests]


def missing_parts(message: Message, coverage: Coverage) -> list[Message]:
    """Return the parts of a message that have no outcome yet."""
    return [
        message.part(first, last) for first, last in coverage.missing(message.first, message.last)
    ]


def split_around(message: Message, units: Sequence[int]) -> list[Message]:
    """Split a slice so that each of these units gets a message, and so the next call, to itself."""
    cuts = sorted(
        {
            message.first,
            *(
                cut
                for unit in units
                for cut in (unit, unit + 1)
                if message.first < cut <= message.last
            ),
        }
    )
    return [message.part(first, last - 1) for first, last in pairwise([*cuts, message.last + 1])]


def record_crashed_units(
    sqs_message: SqsMessage, reason: str, store: S3Store, ledger: DynamoLedger
) -> int:
    """Record the units of a message that have no outcome as crashed; return their number.

    Raises:
        ValueError: the message is invalid.
    """
    crashed_units = 0
    for run in dict.fromkeys(request.run for request in sqs_message.requests):
        try:
            record = ledger.read(run)
        except NoSuchRun:
            raise ValueError("there is no such run") from None
        if record.state is not State.RUNNING:
            continue
        for message in requested_slices(sqs_message, record, store):
            layout, manifest = Layout(run), load_prepared(store, message, attempt_of(record))[0]
            for part in missing_parts(message, read_coverage([message], manifest, layout, store)):
                put_sealed(
                    store,
                    layout.outcome(part, "status"),
                    crashed_accounts(part, reason or LOST_REASON),
                )
                crashed_units += part.units
    return crashed_units


# at most one pool: for the attempt of the run that was processed last
_pools: dict[tuple[str, int], LambdaWorkerPool] = {}


def worker_pool_for(context: WorkerContext, attempt: int, scratch: Path) -> LambdaWorkerPool:
    """Return the worker pool of a run: that of the last call, if it was for the same attempt."""
    pool = _pools.get((context.layout.run, attempt))
    if pool is None or any(slot.process is None or slot.message is not None for slot in pool.slots):
        stop_worker_pool()
        memory = function_memory_mb()
        size = cores_of(memory)
        share = max(memory - FUNCTION_MEMORY_MB, memory // 2) * 2**20 // size
        pool = _pools[context.layout.run, attempt] = LambdaWorkerPool(
            context, size, share, scratch / "logs"
        )
        pool.start()
    for log_file in (scratch / "logs").glob("*"):
        if log_file.stat().st_size > MAX_LOG_BYTES:
            os.truncate(log_file, 0)  # the disk space has to last for the function's lifetime
    pool.begin_call()
    return pool


def stop_worker_pool() -> None:
    """Stop the worker processes of the last call."""
    while _pools:
        _pools.popitem()[1].stop()
