"""Step 4. Messages through the user's function. The only step that runs on workers.

A unit that fails is a result: it goes to the ledger, and its neighbours go on. A child that dies
costs the unit it was on: the rest of its slice goes to another child, in this process. One that was
killed from outside is no proof against its unit, which is given a second try. Nor is one that ran
out of memory: units before it may have kept what it lacked, or the other units of its batch take
the room. So the unit is tried again alone, in a fresh child. A worker that vanishes says nothing:
the queue gives its message to another, and from its second return on in two halves.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ..data.checksums import put_sealed
from ..data.manifest import Manifest, UnitList, key_text
from ..data.outcomes import UnitStatus, pack_ledger, unpack_ledger
from ..errors import HomeError, WorkerError
from ..job import Layout, Message
from ..ports.interfaces import Clock, Delivery, Queue, Store
from ..workers.memory import MEMORY_HINT
from ..workers.pool import WorkerPool, WorkerSlot
from ..workers.protocol import ChunkDone, PoolEvent, SliceDone, SliceRejected, WorkerDied
from .coverage import Coverage

HALVING_DELIVERY = 3  # the delivery at which a message that came back is halved: its second return
MAX_WRITES = 4  # outcomes that may be on their way to the store at a time
MIN_SHARED_S = 0.1  # seconds of work that are worth sharing with a slot that has none
STOP_DELAY_S = 0.03  # seconds after which a slot has heard where to stop
LOST_REASON = "its message came back too often: whatever worker had it was lost"
MAX_STARTUP_DEATHS = 2  # so often may a child die before it reaches a unit of a slice
# second tries for want of memory that end like the first, one after the other, before no more are
# given
MAX_FAILED_RETRIES = 50
MAX_WRITE_BYTES = 64 * 2**20  # of outcomes that may be on their way to the store at a time


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model is.

    `failed` counts units that failed or crashed, `lately` the last of them.
    """

    model: str
    done: int
    units: int
    failed: int
    last_failure: str = ""


@dataclass
class InFlight:
    """A message in a slot: what of it is still to do, and until when it is ours."""

    message: Message
    receipt: str
    todo: deque[Message]
    lease_extended: float
    started: float  # when a slot was given what is first in todo
    startup_deaths: int = 0
    narrow: bool = (
        False  # memory ran out: from now on no more of the batch is read than is asked for
    )
    retried_units: set[int] = field(default_factory=set)  # units that have had their second try


@dataclass
class WorkDispatcher:
    """Where messages become outcomes: the doors, the pool, and what is being done just now."""

    messages: Sequence[Message]
    manifest: Manifest
    units: UnitList
    layout: Layout
    coverage: Coverage
    queue: Queue
    store: Store
    pool: WorkerPool
    report: Callable[[Progress], None]
    visibility: float
    clock: Clock = time.monotonic
    in_flight: dict[WorkerSlot, InFlight] = field(default_factory=dict)
    failed_units: set[int] = field(
        default_factory=set
    )  # units that failed or crashed: one may be done twice, and counts once
    last_failure: str = ""
    next_delivery: Delivery | None = None  # one that was waited for
    stop_when_empty: bool = (
        False  # only what the queue hands out now: what is left of the attempt is for others
    )
    writer: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1)
    )  # the disk is not waited for here
    pending_writes: deque[Future[int] | str] = field(
        default_factory=deque
    )  # outcomes on their way, and receipts to delete after those before
    pending_bytes: int = 0  # bytes of outcomes on their way
    retried_alone: set[int] = field(
        default_factory=set
    )  # units on a second try, since memory ran out in the first
    failed_retries: int = 0  # how many second tries, one after the other, ended like the first

    def run(self) -> None:
        """Until every unit of the messages has an outcome.

        `tell` is called between events, and may raise to stop.
        """
        with self.writer:
            while not all(self.coverage.covers(m.first, m.last) for m in self.messages):
                self._report()
                fed = self._assign()
                self._record_dead_letters()
                if not fed and not self.in_flight and self.next_delivery is None:
                    self._await_writes(0)
                    if not self.stop_when_empty:
                        self._wait_for_message()
                    elif self.pool.is_idle and not self.queue.depth().waiting:
                        break
                for slot, event in self.pool.events(
                    0.05 if self.in_flight or self.stop_when_empty else 0.0
                ):
                    self._handle(slot, event)
                self._await_writes(MAX_WRITES)
                self._keep_leases()
            self.pending_writes.extend(
                {doing.receipt for doing in self.in_flight.values()}
            )  # the outcome is there, only the message is left
            self._await_writes(0)
            while (
                self.stop_when_empty and not self.pool.is_idle
            ):  # their last words would be taken for the next call's
                self._report()
                for _ in self.pool.events(0.05):
                    pass
        self._report()

    def _await_writes(self, most: int) -> None:
        """Delete the messages whose outcomes are in the store; wait until at most so many outcomes,
        and bytes, are on their way there.
        """
        waiting = sum(not isinstance(entry, str) for entry in self.pending_writes)
        while self.pending_writes:
            entry = self.pending_writes[0]
            if isinstance(entry, str):
                self.queue.delete(entry)
            elif entry.done() or waiting > most or self.pending_bytes > MAX_WRITE_BYTES:
                self.pending_bytes -= entry.result()  # raises what the store raised
                waiting -= 1
            else:
                return
            self.pending_writes.popleft()

    def _assign(self) -> bool:
        """Give every idle slot something to do; whether any was given."""
        fed = False
        for slot in self.pool.idle():
            doing = self.in_flight.get(slot)
            if doing is not None and not doing.todo:
                del self.in_flight[slot]
                if all(
                    other.receipt != doing.receipt for other in self.in_flight.values()
                ):  # or another slot has a part of it
                    self.pending_writes.append(doing.receipt)
                doing = None
            if doing is None:
                delivery, self.next_delivery = self.next_delivery or self.queue.receive(), None
                doing = self._accept(delivery) if delivery is not None else self._steal()
                if doing is None:
                    continue
                self.in_flight[slot] = doing
            doing.started = self.clock()
            self.pool.assign(
                slot, doing.todo[0], doing.narrow, self.failed_retries >= MAX_FAILED_RETRIES
            )
            fed = True
        return fed

    def _steal(self) -> InFlight | None:
        """A part of what another slot has before it, when no message is left: so that all slots end
        at about the same time.
        """
        busiest: WorkerSlot | None = None
        longest, cut = MIN_SHARED_S, 0
        for slot, each in self.in_flight.items():
            left, unit = self._remaining(slot, each)
            if left >= longest:
                busiest, longest, cut = slot, left, unit
        if busiest is None:
            return None
        doing = self.in_flight[busiest]
        if len(doing.todo) > 1:
            part = doing.todo.pop()
        else:
            whole = doing.todo[0]
            doing.todo[0], part = whole.part(whole.first, cut), whole.part(cut + 1, whole.last)
            self.pool.stop_after(busiest, cut)
        return InFlight(
            doing.message,
            doing.receipt,
            deque([part]),
            self.clock(),
            self.clock(),
            narrow=doing.narrow,
        )

    def _remaining(self, slot: WorkerSlot, doing: InFlight) -> tuple[float, int]:
        """About how many seconds of work a slot has before it that another could do (as its units
        took so far, or as the one that it is on has taken already, if that is more), and the unit
        after which it should stop to have half of it.
        """
        if (
            not doing.todo or self.pool.context.model(self.manifest.model).batched
        ):  # what takes a slice at once gives none of it away
            return 0.0, 0
        slice_, took = doing.todo[0], self.clock() - doing.started
        if took < MIN_SHARED_S:  # too little to tell
            return 0.0, 0
        others = sum(part.units for part in list(doing.todo)[1:])
        at, since = self.pool.position(slot)
        if (
            not slice_.first <= at <= slice_.last
        ):  # it has not begun, or hands over what it has done
            return (took * others, 0) if others else (0.0, 0)
        each = took / (at - slice_.first + 1)
        cut = max(
            (at + slice_.last) // 2, at + int(STOP_DELAY_S / max(each, since))
        )  # it is beyond what lies nearer before it hears
        units = others or max(slice_.last - cut, 0)
        return (max(each * (slice_.last - at + others), since) if units else 0.0), cut

    def _accept(self, delivery: Delivery) -> InFlight | None:
        """What a delivery asks for and nobody has done; None if that is nothing, or if it was
        halved.
        """
        message = Message.parse(delivery.body)
        missing = [
            message.part(first, last)
            for first, last in self.coverage.missing(message.first, message.last)
        ]
        if not missing:  # another worker finished it first
            self.queue.delete(delivery.receipt)
            return None
        if delivery.receive_count >= HALVING_DELIVERY and message.units > 1:
            self.queue.send([str(half) for part in missing for half in halves(part)])
            self.queue.delete(delivery.receipt)
            return None
        narrow = bool(self.manifest.batches[message.batch].cuts)
        return InFlight(
            message, delivery.receipt, deque(missing), self.clock(), self.clock(), narrow=narrow
        )

    def _wait_for_message(self) -> None:
        """Nothing is in our hands, and not all is done: it is in the hands of others, or lost.

        Wait for it to come back.
        """
        self.next_delivery = self.queue.receive(wait=1.0)
        if self.next_delivery is not None:
            return
        depth = self.queue.depth()
        if not (depth.waiting or depth.in_flight):  # the dead letters are accounted for already
            self.queue.send(
                [
                    str(m.part(first, last))
                    for m in self.messages
                    for first, last in self.coverage.missing(m.first, m.last)
                ]
            )

    def _handle(self, slot: WorkerSlot, event: PoolEvent) -> None:
        doing = self.in_flight.get(slot)
        if (
            doing is None
        ):  # the last words of a slice that all was done for, in the model before this one
            return
        match event:
            case ChunkDone(message, results, accounts):
                self._commit(message, results, accounts)
            case SliceDone(_, last):
                slice_ = doing.todo.popleft()
                if last < slice_.last:
                    doing.todo.appendleft(slice_.part(last + 1, slice_.last))
            case SliceRejected(message):
                doing.todo.popleft()
                doing.todo.extendleft(reversed(halves(message)))
            case WorkerDied():
                self._on_worker_death(doing, event)

    def _on_worker_death(self, doing: InFlight, event: WorkerDied) -> None:
        """A child is gone: account for the unit it was on, and put the rest of its slice back to be
        done.
        """
        slice_ = doing.todo.popleft()
        start = event.done + 1
        if start > slice_.last:  # it had handed over all of it
            return
        if event.memory:
            self._on_memory_death(doing, event, slice_.part(start, slice_.last))
            return
        if (
            event.internal and not event.fresh
        ):  # an earlier unit may have spoiled that process: a fresh one is asked
            doing.todo.appendleft(slice_.part(start, slice_.last))
            return
        if event.error is not None and (
            isinstance(event.error, HomeError) or (event.unit is None and not event.many)
        ):
            # no unit is to blame for a file that a fresh process cannot read either
            raise event.error
        if event.unit is None and not event.many:
            doing.startup_deaths += 1
            if doing.startup_deaths > MAX_STARTUP_DEATHS:
                raise WorkerError(
                    f"a worker died {doing.startup_deaths} times before it reached a unit of "
                    f"batch {slice_.batch}: {event.reason}",
                    hint=f"see its log in {self.pool.logs}; if it ran out of memory, raise "
                    "--memory or lower --workers; then resume the run",
                )
            doing.todo.appendleft(slice_.part(start, slice_.last))
            return
        rest = slice_.part(start, slice_.last)
        suspect = start if event.unit is None else event.unit
        if suspect < start or (event.outside and suspect not in doing.retried_units):
            doing.retried_units.add(suspect)
            doing.todo.appendleft(rest)
            return
        if event.unit is None and rest.units > 1:
            doing.todo.extendleft(reversed(halves(rest)))
            return
        unit = rest.first if event.unit is None else event.unit
        self._record_crash(slice_.part(unit, unit), event.reason)
        ends = (
            (start, min(unit - 1, slice_.last)),
            (unit + 1, slice_.last),
        )  # it may have been beyond what was still wanted of it
        parts = [slice_.part(a, b) for a, b in ends if a <= b]
        doing.todo.extendleft(reversed(parts))

    def _on_memory_death(self, doing: InFlight, event: WorkerDied, rest: Message) -> None:
        """A child ran out of memory.

        That is proof against a unit only where it was alone in a fresh child.
        """
        batch = self.manifest.batches[rest.batch]
        unit = (
            event.unit if event.unit is not None and rest.first <= event.unit <= rest.last else None
        )
        alone = event.fresh and rest.units == 1 and (doing.narrow or batch.first == batch.last)
        doing.narrow = True
        if alone or (unit is not None and self.failed_retries >= MAX_FAILED_RETRIES):
            unit = rest.first if unit is None else unit
            self._count_retry(unit, failed=True)
            said = event.memory == "reported"
            status, error = ("failed", "MemoryError") if said else ("crashed", "WorkerDied")
            reason = (
                event.reason
                if event.memory != "killed" or not alone
                else f"{event.reason}, alone in a fresh worker: {MEMORY_HINT}"
            )
            self._commit(
                rest.part(unit, unit),
                b"",
                accounts_without_result(rest.part(unit, unit), status, error, reason),
            )
            again = [(rest.first, unit - 1), (unit + 1, rest.last)]
        elif unit is not None:
            self.retried_alone.add(unit)
            again = [
                (unit, unit),
                (rest.first, unit - 1),
                (unit + 1, rest.last),
            ]  # first, since the next child is fresh
        elif event.fresh and rest.units > 1:
            again = [(half.first, half.last) for half in halves(rest)]
        else:
            again = [(rest.first, rest.last)]
        doing.todo.extendleft(reversed([rest.part(a, b) for a, b in again if a <= b]))

    def _count_retry(self, unit: int, *, failed: bool) -> None:
        if unit in self.retried_alone:
            self.retried_alone.discard(unit)
            self.failed_retries = self.failed_retries + 1 if failed else 0

    def _record_dead_letters(self) -> None:
        """Messages that came back too often: what they ask for is recorded as crashed."""
        if not self.queue.depth().dead:
            return
        for body in self.queue.dead():
            message = Message.parse(body)
            for first, last in self.coverage.missing(message.first, message.last):
                self._record_crash(message.part(first, last), LOST_REASON)

    def _record_crash(self, message: Message, reason: str) -> None:
        self._commit(message, b"", crashed_accounts(message, reason))

    def _commit(self, message: Message, results: bytes | pa.Buffer, accounts: bytes) -> None:
        """An outcome: its results, and then, as the commit, its accounts.

        Until both are in the store, its message stays in the queue.
        """
        self._await_writes(MAX_WRITES)  # or what is heard at once would pile up here
        self.pending_bytes += len(results) + len(accounts)
        self.pending_writes.append(self.writer.submit(self._write, message, results, accounts))
        self.coverage.add(message.first, message.last)
        bad = unpack_ledger(pa.py_buffer(accounts)).not_ok
        if message.units == 1:
            self._count_retry(message.first, failed=bool(bad))
        if bad:
            self.failed_units.update(account.unit for account in bad)
            last = max(bad, key=lambda account: account.unit)
            self.last_failure = (
                f"{key_text(self.units.key(last.unit))}: {last.error}: "
                f"{last.message.partition(chr(10))[0]}"
            )

    def _write(self, message: Message, results: bytes | pa.Buffer, accounts: bytes) -> int:
        if len(results):
            put_sealed(self.store, self.layout.outcome(message, "results"), results)
        put_sealed(self.store, self.layout.outcome(message, "ledger"), accounts)
        return len(results) + len(accounts)

    def _keep_leases(self) -> None:
        now = self.clock()
        for doing in self.in_flight.values():
            if now - doing.lease_extended > self.visibility / 3:
                self.queue.extend(doing.receipt, self.visibility)
                doing.lease_extended = now

    def _report(self) -> None:
        self.report(
            Progress(
                self.manifest.model,
                int(self.coverage.done.sum()),
                self.manifest.units,
                len(self.failed_units),
                self.last_failure,
            )
        )


def halves(message: Message) -> list[Message]:
    """A slice in two, or itself if it is one unit."""
    if message.units == 1:
        return [message]
    middle = (message.first + message.last) // 2
    return [message.part(message.first, middle), message.part(middle + 1, message.last)]


def crashed_accounts(message: Message, reason: str) -> bytes:
    """The accounts of units that nobody could do."""
    return accounts_without_result(message, "crashed", "WorkerDied", reason)


def accounts_without_result(message: Message, status: str, error: str, reason: str) -> bytes:
    """The accounts of units that have no result, and why."""
    units = np.arange(message.first, message.last + 1, dtype=np.int64)
    zero = np.zeros(len(units), np.int64)
    return pack_ledger(
        message,
        zero.astype(float),
        zero,
        [UnitStatus(int(unit), status, error, reason) for unit in units],
        [],
    )
