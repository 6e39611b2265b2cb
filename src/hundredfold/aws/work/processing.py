"""The messages of a worker on AWS, from their bodies to stored outcomes.

Messages come in groups; while a group of one model is processed, the worker may take further ones
of it. The step (pipeline/work.py) and the pool of processes are the same as on one machine. A
shell (`functions/worker.py` in Lambda, `container.py`) decides when to stop.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from ...data.layout import Layout
from ...data.manifest import Manifest
from ...data.messages import Message
from ...errors import HundredfoldError, JobError, NoSuchRun, WorkerError
from ...pipeline.coverage import Coverage
from ...pipeline.work import WorkDispatcher
from ...ports.interfaces import Clock, Record
from ...ports.run_states import State
from ...runs.job_loader import load_job
from ...runs.start import with_limits
from ...workers.protocol import WorkerContext
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.s3_store import S3Store
from ..adapters.sqs_queue import FORBIDDEN_CHARACTERS, SqsQueue
from ..runs import is_other_code
from .billing import PriceOf, WorkerBill
from .deliveries import ModelDeliveries, Requests
from .json_log import log
from .messages import SqsMessage
from .pools import ClosablePool, PoolKeeper
from .slices import (
    load_prepared,
    read_coverage,
    redelivered_last,
    requested_slices,
)
from .sources import MessageSource, SqsRecord

MAX_JOB_ERROR_DELIVERIES = 3  # then an error of the job itself dead-letters the message
JOB_ERROR_DELAY_S = 10  # before the first retry after such an error; it doubles each time
RETURN_DELAY_S = 10  # before a message is delivered again that met other code
MAX_RETURNS = 30  # of a message: a deployment updates all functions within five minutes
# that chunks of a message wait for each other: an outcome is two objects of S3
MAX_BUNDLE_S = 2.0
# three checks in this time that the leases of the messages are held
LEASE_CHECK_PERIOD_S = 3.0
RUN_CHECK_INTERVAL_S = 5.0  # between two checks that the run still needs the work


class WorkStopped(Exception):
    """The worker has to stop, and to send back what is left."""


class RunEnded(Exception):
    """The run has ended or begun another attempt: its result is no longer needed."""


class Shell(Protocol):
    """Decides when a worker stops."""

    sent_back: str  # the line of the log when slices were sent back

    def may_start(self) -> bool:
        """Return whether there is time for further messages."""

    def check(self, pool: ClosablePool) -> None:
        """Raise WorkStopped when it is time; called between events."""

    def leave(
        self, dispatcher: WorkDispatcher, pool: ClosablePool, slices: Sequence[Message]
    ) -> list[Message]:
        """Return the parts of `slices` to send back. No result that arrives later is stored."""


@dataclass
class WorkCounts:
    """What a worker has done, for its metrics and its log."""

    done: int = 0
    failed: int = 0
    dead_lettered: int = 0
    requeued: int = 0


@dataclass
class MessageProcessor:
    """Processes messages with the function of one job.

    Its pool of processes, with the data that they have loaded, lives on from group to group.
    """

    store: S3Store
    ledger: DynamoLedger
    queue: SqsQueue
    source: MessageSource
    ref: str  # module:attribute of the job
    code: str  # fingerprint of the code of this worker; "" if unknown
    pools: PoolKeeper
    shell: Shell
    price_of: PriceOf
    clock: Clock = time.monotonic
    counts: WorkCounts = field(default_factory=WorkCounts)
    bill: WorkerBill | None = None  # of the run that is being worked on, if it has a budget

    def __post_init__(self) -> None:
        self.checked_at = self.billed_until = self.clock()

    def process(self, records: Iterable[SqsRecord]) -> list[str]:
        """Process a group of messages; return the ids of those to be delivered again."""
        runs: defaultdict[str, list[SqsMessage]] = defaultdict(list)
        parsed = [message for record in records if (message := self.parse(record)) is not None]
        # one run as a rule, but an S3 event may name several batches
        for sqs_message in parsed:
            for run in dict.fromkeys(request.run for request in sqs_message.requests):
                runs[run].append(sqs_message)
        again = {
            sqs_message
            for run, sqs_messages in runs.items()
            for sqs_message in self._process_run(run, sqs_messages)
        }
        for sqs_message in parsed:
            if sqs_message not in again:
                self.source.finish(sqs_message)
        log.remove_keys(["run", "model"])
        return [message.id for message in dict.fromkeys(parsed) if message in again]

    def parse(self, record: SqsRecord) -> SqsMessage | None:
        """Return a message; None, after it was dead-lettered, if this package did not write it."""
        try:
            return SqsMessage.parse(record, self.store.bucket)
        except ValueError as error:
            unparsed = SqsMessage.unparsed(record)
            self._dead_letter(unparsed, str(error))
            self.source.finish(unparsed)
            return None

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
        self.bill = WorkerBill.of(record, self.ledger, self.price_of, self.clock, self.billed_until)
        try:
            if self.bill is not None and self.bill.is_spent:
                log.info("dropped: the budget is spent", messages=len(sqs_messages))
                return ()
            return self._process_models(record, sqs_messages)
        finally:
            if self.bill is not None:
                self.bill.add()
                self.billed_until = self.bill.billed_until

    def _process_models(
        self, record: Record, sqs_messages: Sequence[SqsMessage]
    ) -> Sequence[SqsMessage]:
        models: defaultdict[str, Requests] = defaultdict(list)
        for sqs_message in redelivered_last(sqs_messages):
            for message in self.requests_of(sqs_message, record):
                models[message.model].append((sqs_message, message))
        returned: list[SqsMessage] = []
        for number, (model, requests) in enumerate(models.items(), 1):
            log.append_keys(model=model)
            # while others of this group wait, no further messages are taken
            returned += self._process_model(record, requests, last=number == len(models))
        return returned

    def requests_of(self, sqs_message: SqsMessage, record: Record) -> list[Message]:
        """Return the slices that a message requests; none if it was dead-lettered."""
        try:
            return requested_slices(sqs_message, record, self.store)
        except ValueError as error:
            self._dead_letter(sqs_message, str(error))
            return []

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
        self, record: Record, requests: Requests, *, last: bool
    ) -> Sequence[SqsMessage]:
        """Process the messages of a model; return those to be delivered again.

        Further messages are appended to `requests`.
        """
        # the previous messages may have taken all the time
        if not self.shell.may_start():
            self._send_back([m for each, m in requests if self.source.is_held(each)])
            return ()
        given = len(requests)
        try:
            again = self._dispatch(record, requests, last=last)
        except HundredfoldError as error:
            self.pools.stop()
            log.error("the messages cannot be processed now", reason=str(error))
            again = self._to_redeliver([sqs_message for sqs_message, _ in requests], error)
        except BaseException:
            self.pools.stop()
            raise
        for sqs_message, _ in requests[given:]:  # those of the group are finished at its end
            if sqs_message not in again:
                self.source.finish(sqs_message)
        return again

    def _dispatch(self, record: Record, requests: Requests, *, last: bool) -> Sequence[SqsMessage]:
        """Process the messages, as far as time permits; return those left in the queue.

        Messages that were sent back as new ones count as processed.
        """
        messages = [message for _, message in requests]
        layout = Layout(record.id)
        manifest, units = load_prepared(self.store, messages[0], record.attempt)
        coverage = read_coverage(messages, manifest, layout, self.store)
        if all(coverage.covers(message.first, message.last) for message in messages):
            return ()  # another worker has processed it
        further = _FurtherMessages(self, record, manifest, coverage, messages)
        deliveries = ModelDeliveries(
            self.queue, self.source, requests, further.accept if last else None
        )
        job = with_limits(load_job(self.ref), record)
        pool = self.pools.pool_for(WorkerContext(job, layout, self.store), record.attempt)
        dispatcher = WorkDispatcher(
            messages,
            manifest,
            units,
            layout,
            coverage,
            deliveries,
            self.store,
            pool,
            lambda _: self._check(pool, record),
            LEASE_CHECK_PERIOD_S,
            stop_when_empty=True,
            parts_per_message=-(-pool.size // len(messages)),
            bundle_s=MAX_BUNDLE_S,
        )
        try:
            if not self._run(dispatcher, deliveries, pool):
                return ()
        finally:
            self.counts.done += dispatcher.units_stored
            self.counts.failed += len(dispatcher.failed_units)
        return deliveries.unfinished(coverage.covers)

    def _run(
        self, dispatcher: WorkDispatcher, deliveries: ModelDeliveries, pool: ClosablePool
    ) -> bool:
        """Run the dispatcher; return False if the shell or the end of the run stopped it."""
        try:
            dispatcher.run()
        except WorkStopped:
            left = self.shell.leave(dispatcher, pool, deliveries.held_slices())
            self.pools.stop()
            dispatcher.settle()
            self._send_back(left)
            return False
        except RunEnded:
            self.pools.stop()
            dispatcher.settle()  # a run whose budget is spent may be continued
            return False
        return True

    def _check(self, pool: ClosablePool, record: Record) -> None:
        """Check between events whether it is time to stop."""
        self.shell.check(pool)
        if self.bill is not None and self.bill.is_spent and pool.stop_after_current_units():
            log.info("stopped: the budget is spent")
            raise RunEnded
        if self.clock() - self.checked_at > RUN_CHECK_INTERVAL_S:
            self.checked_at = self.clock()
            if self.bill is not None:
                self.bill.add()
            now = self.ledger.read(record.id)
            if now.state is not State.RUNNING or now.attempt != record.attempt:
                log.info("stopped: the run is not running", state=now.state.value)
                raise RunEnded

    def _send_back(self, messages: Sequence[Message]) -> None:
        """Send slices as new messages, whose deliveries are counted from 1."""
        if not messages:
            return
        self.queue.send([str(message) for message in messages])
        units = sum(message.units for message in messages)
        self.counts.requeued += units
        log.info(self.shell.sent_back, messages=len(messages), units=units)

    def _to_redeliver(
        self, sqs_messages: Sequence[SqsMessage], error: HundredfoldError
    ) -> Sequence[SqsMessage]:
        """Return the messages to be delivered again after an error.

        They come back when their leases end. After an error of the job itself they come back
        sooner, and are dead-lettered with the reason after a few deliveries.
        """
        held = [*filter(self.source.is_held, dict.fromkeys(sqs_messages))]
        at_fault = isinstance(error, WorkerError | JobError)
        given_up = [
            each for each in held if at_fault and each.receive_count >= MAX_JOB_ERROR_DELIVERIES
        ]
        again = [each for each in held if each not in given_up]
        for each in again:
            self.source.release(each)
            if at_fault:
                with suppress(HundredfoldError):  # it comes back when its lease ends
                    delay = JOB_ERROR_DELAY_S * 2 ** (each.receive_count - 1)
                    self.queue.extend(each.receipt, delay)
        self._dead_letter_all(given_up, str(error))
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


@dataclass(frozen=True, slots=True)
class _FurtherMessages:
    """Messages that are taken while others of their model are processed."""

    processor: MessageProcessor
    record: Record
    manifest: Manifest
    coverage: Coverage
    messages: list[Message]  # of the dispatcher

    def accept(self, found: SqsRecord) -> Requests:
        """Return the requests of a message; none if it is invalid, or of another run or model."""
        processor = self.processor
        sqs_message = processor.parse(found)
        if sqs_message is None:
            return []
        wanted = (self.record.id, self.manifest.model)
        if any((request.run, request.model) != wanted for request in sqs_message.requests):
            processor.source.put_aside(found)
            return []
        slices = processor.requests_of(sqs_message, self.record)
        if not slices:
            processor.source.finish(sqs_message)
            return []
        done = read_coverage(slices, self.manifest, Layout(self.record.id), processor.store).done
        self.coverage.done |= done
        self.messages[:] = [
            each for each in self.messages if not self.coverage.covers(each.first, each.last)
        ]
        self.messages.extend(slices)
        return [(sqs_message, each) for each in slices]
