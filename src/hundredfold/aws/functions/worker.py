"""A worker on AWS: one call of a function takes some messages, and has until its deadline.

The step is the one of every machine (pipeline/work.py), and so is the pool. What differs is the
queue, which has handed out its messages before the function began, and the end: shortly before the
deadline nothing new is begun, and what is left goes back as new messages.
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
from ...data.manifest import Manifest, UnitList
from ...errors import HundredfoldError, JobError, NoSuchRun, WorkerError
from ...job import Layout, Message
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
from ..adapters.sqs_queue import UNSENDABLE, SqsQueue
from ..runs import is_other
from .messages import SqsMessage, wanted

VCPU = 1769  # MB of memory that come with one whole vCPU
OWN = 300  # MB that the function itself takes
MARGIN = 9.0  # seconds before the deadline at which what is left is given back
CLOSING = (
    3.0  # seconds before that at which workers are asked to end with the unit that they are on
)
EARLIEST = 0.75  # of a call's time: not sooner than that
WHOLE = 0.8  # of a call's time: a unit that took so much of it does not fit into any call
MOST = 0.5  # the same, of one that a worker began with
GIVEN_UP = 3  # the delivery after which what the job itself makes impossible is a dead letter
AGAIN = 10  # seconds after which it is tried again before that, and twice as many after the next
CHECK = 5.0  # seconds between looks whether the run still wants the work
WORDS = 10 * 2**20  # bytes of what the user's code printed that are kept
VISIBILITY = 1e9  # the mapping's own is long enough for a call: leases are not extended

log = Logger()


class DeadlineNear(Exception):
    """The deadline is near."""


class RunEnded(Exception):
    """The run has ended, or begun another attempt: nobody wants this work any more."""


@dataclass(slots=True)
class InvocationMetrics:
    """What came of one call, for the metrics."""

    done: int = 0
    failed: int = 0
    refused: int = 0
    handed_back: int = 0


@dataclass
class InvocationQueue:
    """The queue of one call: its messages are in hand, and new ones go to the queue behind it."""

    behind: SqsQueue
    waiting: deque[Delivery]
    done: set[str] = field(default_factory=set)

    def send(self, bodies: Sequence[str]) -> None:
        self.behind.send(bodies)

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
    """A pool that lives from call to call, and can be told to close.

    It knows with which unit each slot began in this call.
    """

    closing: bool = False
    firsts: dict[WorkerSlot, int] = field(default_factory=dict)

    def open(self) -> None:
        self.closing, self.firsts = False, {}

    def idle(self) -> Sequence[WorkerSlot]:
        return () if self.closing else super().idle()

    def assign(
        self, slot: WorkerSlot, message: Message, narrow: bool = False, final: bool = False
    ) -> None:
        self.firsts.setdefault(slot, message.first)
        super().assign(slot, message, narrow, final)

    def close(self) -> bool:
        """Begin nothing more, and end with the units that are at work; whether all have."""
        self.closing = True
        for slot in self.busy():
            self.stop_after(slot, 0)
        return not self.busy()

    def busy(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.message is not None]

    @property
    def is_idle(self) -> bool:
        return not self.busy()

    def reached(self) -> bool:
        """Whether any slot is at a unit, or at many at once."""
        return any(slot.progress[0] != NO_UNIT for slot in self.busy())

    def at_work(self) -> list[int]:
        """The units that hands are at just now."""
        return [unit for unit, _ in map(self.position, self.busy()) if unit >= 0]

    def too_long(self, seconds: float) -> list[int]:
        """Units at work that would take all of another call's time as well, if a call has so many
        seconds.
        """
        at = [(self.firsts[slot], *self.position(slot)) for slot in self.busy()]
        return [
            unit
            for first, unit, since in at
            if unit >= 0 and since > (MOST if first == unit else WHOLE) * seconds
        ]


@dataclass
class Invocation:
    """One call of a worker.

    Its children live on until the next, and with them what they have loaded.
    """

    store: S3Store
    ledger: DynamoLedger
    queue: SqsQueue
    ref: str  # of the job
    scratch: Path
    remaining: Callable[[], float]  # seconds until the deadline
    code: str = ""  # the fingerprint of what this function holds
    tally: InvocationMetrics = field(default_factory=InvocationMetrics)
    time: float = field(init=False)  # seconds that it has for work
    closing: float = field(init=False)  # seconds before its end at which nothing new is begun
    checked: float = field(init=False)  # seconds that remained when the run was last looked at

    def __post_init__(self) -> None:
        self.checked = self.remaining()
        self.time = self.checked - MARGIN
        self.closing = min(CLOSING, (1 - EARLIEST) * self.time)

    def do(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Do the messages of one call; the ids of those that are to come back."""
        runs: defaultdict[str, list[SqsMessage]] = defaultdict(list)
        for record in records:
            try:
                letter = SqsMessage.of(record, self.store.bucket)
            except ValueError as error:
                self._refuse(SqsMessage.closed(record), str(error))
                continue
            for run in dict.fromkeys(
                asked.run for asked in letter.asked
            ):  # one, but S3 may tell of several batches at once
                runs[run].append(letter)
        back = [letter.id for run, letters in runs.items() for letter in self._do_run(run, letters)]
        log.remove_keys(["run", "model"])
        return list(dict.fromkeys(back))

    def _do_run(self, run: str, letters: Sequence[SqsMessage]) -> Sequence[SqsMessage]:
        """Do what the letters ask of one run; those that are to come back."""
        log.append_keys(run=run)
        try:
            record = self.ledger.read(run)
        except NoSuchRun:
            return self._refuse_all(letters, "there is no such run")
        if record.state is not State.RUNNING:
            log.info(
                "dropped: the run is not running", state=record.state.value, messages=len(letters)
            )
            return ()
        if is_other(record, self.code):
            log.info(
                "dropped: other code was deployed while the run was at work, which ends it",
                messages=len(letters),
            )
            return ()
        models: defaultdict[str, list[tuple[SqsMessage, Message]]] = defaultdict(list)
        for letter in suspects_last(letters):
            try:
                messages = slices(letter, record, self.store)
            except ValueError as error:
                self._refuse(letter, str(error))
                continue
            for message in messages:
                models[message.model].append((letter, message))
        back: list[SqsMessage] = []
        for model, asked in models.items():
            log.append_keys(model=model)
            back += self._do_model(record, asked)
        return back

    def _do_model(
        self, record: Record, asked: Sequence[tuple[SqsMessage, Message]]
    ) -> Sequence[SqsMessage]:
        if self.remaining() < MARGIN + self.closing:  # the messages before these took the time
            self._hand_back([message for _, message in asked])
            return ()
        try:
            undone = self._floor(record, asked)
        except HundredfoldError as error:
            stop_crew()
            log.error("the messages cannot be done now", reason=str(error))
            return self._later([letter for letter, _ in asked], error)
        except BaseException:
            stop_crew()
            raise
        return [letter for number, (letter, _) in enumerate(asked) if str(number) in undone]

    def _floor(self, record: Record, asked: Sequence[tuple[SqsMessage, Message]]) -> set[str]:
        """Do the messages, or as many as there is time for; the receipts of those that are not done
        and not handed back.
        """
        messages = [message for _, message in asked]
        layout = Layout(record.id)
        manifest, units = prepared(self.store, messages[0], attempt_of(record))
        coverage = covered(messages, manifest, layout, self.store)
        if all(coverage.covers(message.first, message.last) for message in messages):
            return set()  # another worker did it first
        job = with_limits(load_job(self.ref), record)
        handed = InvocationQueue(
            self.queue,
            deque(
                Delivery(str(message), str(number), letter.receive_count)
                for number, (letter, message) in enumerate(asked)
            ),
        )
        pool = crew_for(WorkerContext(job, layout, self.store), attempt_of(record), self.scratch)
        dispatcher = WorkDispatcher(
            messages,
            manifest,
            units,
            layout,
            coverage,
            handed,
            self.store,
            pool,
            lambda _: self._look(pool, record),
            VISIBILITY,
            stop_when_empty=True,
        )
        before, time_left = int(coverage.done.sum()), self.remaining() - MARGIN
        try:
            dispatcher.run()
        except DeadlineNear:
            self._end(
                dispatcher,
                pool,
                gained=int(coverage.done.sum()) > before,
                whole_call=time_left > MOST * self.time,
            )
            return set()
        except RunEnded:
            stop_crew()
            return set()
        finally:
            self.tally.done += int(coverage.done.sum()) - before
            self.tally.failed += len(dispatcher.failed_units)
        open_ = {
            str(number)
            for number, message in enumerate(messages)
            if not coverage.covers(message.first, message.last)
        }
        return open_ - handed.done

    def _look(self, pool: LambdaWorkerPool, record: Record) -> None:
        """Between events: is it time to end?"""
        remaining = self.remaining()
        left = remaining - MARGIN
        if left < 0 or (left < self.closing and pool.close()):
            raise DeadlineNear
        if self.checked - remaining > CHECK:
            self.checked = remaining
            now = self.ledger.read(record.id)
            if now.state is not State.RUNNING or attempt_of(now) != attempt_of(record):
                log.info("left: the run is not running", state=now.state.value)
                raise RunEnded

    def _end(
        self, dispatcher: WorkDispatcher, pool: LambdaWorkerPool, *, gained: bool, whole_call: bool
    ) -> None:
        """The deadline is near: a unit that will not fit into any call is recorded as crashed, the
        rest goes back as new messages.
        """
        at_work, whole, reached = pool.at_work(), pool.too_long(self.time), pool.reached()
        many = pool.context.model(dispatcher.manifest.model).batched
        stop_crew()  # whatever a child is at, it is not handed over any more
        for unit in whole:
            message = next(m for m in dispatcher.messages if m.first <= unit <= m.last).part(
                unit, unit
            )
            words = (
                f"it took all of the {self.time:.0f} s that a worker has for it; deploy with a "
                "longer --timeout"
            )
            put_sealed(
                self.store,
                dispatcher.layout.outcome(message, "ledger"),
                crashed_accounts(message, words),
            )
            dispatcher.coverage.add(unit, unit)
            dispatcher.failed_units.add(unit)
        if whole_call and not (gained or whole or reached):
            raise WorkerError(
                f"in {self.time:.0f} s no worker process came as far as a unit; deploy with a "
                "longer --timeout or more --memory"
            )
        left = [
            part for message in dispatcher.messages for part in parts(message, dispatcher.coverage)
        ]
        if many and not gained:  # a call for so many at once does not fit
            left = [half for part in left for half in halves(part)]
        self._hand_back([part for message in left for part in around(message, at_work)])

    def _hand_back(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        self.queue.send([str(message) for message in messages])
        units = sum(message.units for message in messages)
        self.tally.handed_back += units
        log.info("handed back before the deadline", messages=len(messages), units=units)

    def _later(
        self, letters: Sequence[SqsMessage], error: HundredfoldError
    ) -> Sequence[SqsMessage]:
        """What could not be done comes back when its lease ends.

        Where it is the job that makes it impossible, it comes sooner, and not for ever: then it is
        a dead letter, with the reason.
        """
        letters = list(dict.fromkeys(letters))
        if not isinstance(error, WorkerError | JobError):
            return letters
        again = [letter for letter in letters if letter.receive_count < GIVEN_UP]
        for letter in again:
            with suppress(HundredfoldError):  # it comes when its lease ends
                self.queue.extend(letter.receipt, AGAIN * 2 ** (letter.receive_count - 1))
        self._refuse_all(
            [letter for letter in letters if letter.receive_count >= GIVEN_UP], str(error)
        )
        return again

    def _refuse_all(self, letters: Iterable[SqsMessage], reason: str) -> Sequence[SqsMessage]:
        for letter in letters:
            self._refuse(letter, reason)
        return ()

    def _refuse(self, letter: SqsMessage, reason: str) -> None:
        """Put what cannot be done, or is not ours, to the dead letters, with the reason."""
        log.error("refused", reason=reason, message_id=letter.id, characters=len(letter.body))
        self.tally.refused += 1
        self.queue.refuse(letter.body, UNSENDABLE.sub("?", reason))


def suspects_last(letters: Iterable[SqsMessage]) -> list[SqsMessage]:
    """One that came back may have killed its worker, and with it the call's other messages.

    So the others are done first; and where there are several such, they are in another order each
    time, so that none is always behind the guilty one.
    """
    return sorted(
        letters,
        key=lambda letter: (
            letter.receive_count,
            random.random() if letter.receive_count > 1 else 0.0,
        ),
    )


def attempt_of(record: Record) -> int:
    return record.attempt


def prepared(store: S3Store, asked: Any, attempt: int) -> tuple[Manifest, UnitList]:
    """What prepare left for the model that is asked for; ValueError if it has left nothing.

    Kept from call to call: an attempt never changes it, and with thousands of batches it is larger
    than what a message is about.
    """
    try:
        return _prepared(store, asked.run, asked.model, attempt)
    except KeyError:
        raise ValueError(f"the run has prepared no {asked.model}") from None


@lru_cache(maxsize=2)
def _prepared(store: S3Store, run: str, model: str, _attempt: int) -> tuple[Manifest, UnitList]:
    layout = Layout(run)
    return Manifest.read(layout, model, store), UnitList.read(layout, model, store)


def covered(
    messages: Iterable[Message], manifest: Manifest, layout: Layout, store: S3Store
) -> Coverage:
    """Which units of the messages' batches have an outcome in their attempt."""
    coverage = Coverage(manifest.units)
    for batch in {f"{message.attempt:03d}-{message.batch:06d}-" for message in messages}:
        for key in store.beginning(f"{layout.outcomes(manifest.model)}/{batch}"):
            found = layout.parse_outcome_key(key)
            if found is not None:
                coverage.add(found.first, found.last)
    return coverage


def slices(letter: SqsMessage, record: Record, store: S3Store) -> list[Message]:
    """What a letter asks of a run, as slices of its batches; what is of an attempt that is over is
    left out. ValueError, with the reason, if the run has nothing like it.
    """
    attempt = attempt_of(record)
    asked = [each for each in letter.asked if each.run == record.id and each.attempt >= attempt]
    if any(each.attempt > attempt for each in asked):
        raise ValueError(f"it is of an attempt that has not begun: the run is in attempt {attempt}")
    return [wanted(each, prepared(store, each, attempt)[0]) for each in asked]


def parts(message: Message, coverage: Coverage) -> list[Message]:
    """What of a message nobody has done."""
    return [
        message.part(first, last) for first, last in coverage.missing(message.first, message.last)
    ]


def around(message: Message, units: Sequence[int]) -> list[Message]:
    """A slice in parts, so that each of these units is alone: it shall have the next call for
    itself.
    """
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


def bury(letter: SqsMessage, reason: str, store: S3Store, ledger: DynamoLedger) -> int:
    """Record as crashed what of a letter nobody has done; how many units.

    ValueError, with the reason, for what is not ours.
    """
    buried = 0
    for run in dict.fromkeys(asked.run for asked in letter.asked):
        try:
            record = ledger.read(run)
        except NoSuchRun:
            raise ValueError("there is no such run") from None
        if record.state is not State.RUNNING:
            continue
        for message in slices(letter, record, store):
            layout, manifest = Layout(run), prepared(store, message, attempt_of(record))[0]
            for part in parts(message, covered([message], manifest, layout, store)):
                put_sealed(
                    store,
                    layout.outcome(part, "ledger"),
                    crashed_accounts(part, reason or LOST_REASON),
                )
                buried += part.units
    return buried


_crews: dict[
    tuple[str, int], LambdaWorkerPool
] = {}  # at most one: of the attempt of a run that was worked on last


def crew_for(context: WorkerContext, attempt: int, scratch: Path) -> LambdaWorkerPool:
    """The children that work on a run: those of the last call, if it was the same attempt of the
    same run.
    """
    pool = _crews.get((context.layout.run, attempt))
    if pool is None or any(slot.process is None or slot.message is not None for slot in pool.slots):
        stop_crew()
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048"))
        size = max(1, memory // VCPU)
        share = max(memory - OWN, memory // 2) * 2**20 // size
        pool = _crews[context.layout.run, attempt] = LambdaWorkerPool(
            context, size, share, scratch / "logs"
        )
        pool.start()
    for words in (scratch / "logs").glob("*"):
        if words.stat().st_size > WORDS:
            os.truncate(words, 0)  # the room is what the function has for its lifetime
    pool.open()
    return pool


def stop_crew() -> None:
    """End the children of the last call."""
    while _crews:
        _crews.popitem()[1].stop()
