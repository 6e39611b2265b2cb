"""Step 4. Runs the messages through the user's function. The only step that uses workers.

A unit that fails is a result: its error is recorded, and the other units go on.

A child process that dies costs the unit that it was working on; the rest of its slice goes to
another child of this process. If it was killed from outside, that is no evidence against its unit,
which is tried again. Nor is a lack of memory: earlier units may have kept the memory, or the other
units of the batch need it. So the unit is tried again alone, in a fresh child.

A worker process that vanishes sends nothing: the queue delivers its message to another, and from
the third delivery on in two halves. If a lease is lost while its worker lives, another worker gets
the message; this one ends its current unit, and stores nothing more of the message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ..data.checksums import put_sealed
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitKeys, key_text
from ..data.messages import Message
from ..data.outcomes import UnitStatus, pack_statuses, unpack_statuses
from ..errors import BudgetSpent, HomeError, WorkerError
from ..ports.interfaces import Clock, Delivery, Queue, Store
from ..sql.queries import UNIT_COST
from ..workers.memory import MEMORY_HINT
from ..workers.pool import WorkerPool, WorkerSlot
from ..workers.protocol import ChunkDone, PoolEvent, SliceDone, SliceRejected, WorkerDied
from .budget import Meter
from .bundles import Bundles, Chunk
from .coverage import Coverage

HALVING_DELIVERY = 3  # the delivery at which a returned message is split in halves: the third
MAX_WRITES = 4  # outcomes in the queue to the store
MIN_SHARED_S = 0.1  # of remaining work that is worth sharing with an idle slot
LOST_REASON = "its message was delivered too often: every worker that had it was lost"
MAX_STARTUP_DEATHS = 2  # deaths of a child before it reaches a unit of a slice
# consecutive retries that ran out of memory again, before units are no longer retried
MAX_FAILED_RETRIES = 50
MAX_WRITE_BYTES = 64 * 2**20  # bytes of outcomes in the queue to the store


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a model.

    `failed` counts units that failed or crashed; `last_failure` describes the last of them.
    """

    model: str
    done: int
    units: int
    failed: int
    last_failure: str = ""


@dataclass
class InFlight:
    """A message in a slot: the slices that remain, and its lease."""

    message: Message
    receipt: str
    todo: deque[Message]
    lease_extended: float
    started: float  # when the slot was assigned the first slice of todo
    startup_deaths: int = 0
    # since memory ran out, only the units that are needed are read from the batch
    narrow: bool = False
    retried_units: set[int] = field(default_factory=set)  # units that were tried a second time
    lost: bool = False  # its lease: another worker gets the message


@dataclass
class WorkDispatcher:
    """Turns messages into outcomes: assigns slices to worker slots, and handles what happens
    there.
    """

    messages: Sequence[Message]
    manifest: Manifest
    units: UnitKeys
    layout: Layout
    coverage: Coverage
    queue: Queue
    store: Store
    pool: WorkerPool
    report: Callable[[Progress], None]
    visibility: float
    clock: Clock = time.monotonic
    in_flight: dict[WorkerSlot, InFlight] = field(default_factory=dict)
    # units that failed or crashed, each counted once although it may be done twice
    failed_units: set[int] = field(default_factory=set)
    last_failure: str = ""
    next_delivery: Delivery | None = None  # a delivery that was waited for
    # return when the queue is empty: other processes do the rest
    stop_when_empty: bool = False
    # parts of even cost into which a message is cut, where its slots outnumber the messages
    parts_per_message: int = 1
    # writes to the store in the background
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    # writes in order, and receipts of messages to delete after those before
    pending_writes: deque[Future[int] | str] = field(default_factory=deque)
    pending_bytes: int = 0  # bytes of the pending writes
    # units that are tried again since memory ran out
    retried_alone: set[int] = field(default_factory=set)
    failed_retries: int = 0  # consecutive retries that ran out of memory again
    meter: Meter | None = None  # of the seconds of units, for a run with a budget
    units_stored: int = 0  # by this dispatcher
    # chunks of a message wait for each other for at most this time, and become one outcome
    bundle_s: float = 0.0

    def __post_init__(self) -> None:
        self.bundles = Bundles(self.bundle_s)

    def run(self) -> None:
        """Return when every unit of the messages has an outcome.

        `report` is called between events, and may raise to stop. Raises: BudgetSpent, after every
        slot has ended its current unit.
        """
        with self.writer:
            while not all(self.coverage.covers(m.first, m.last) for m in self.messages):
                self._report()
                if self.meter is not None and self.meter.is_spent:
                    self._wait_for_current_units(self.meter)
                    continue
                fed = self._assign()
                self._record_dead_letters()
                self._write(self.bundles.due(self.clock()))
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
            # their outcomes exist, only the messages are left
            self._write(self.bundles.take())
            self.pending_writes.extend(
                {doing.receipt for doing in self.in_flight.values() if not doing.lost}
            )
            self._await_writes(0)
            # their last events would be taken for those of the next call
            while self.stop_when_empty and not self.pool.is_idle:
                self._report()
                for _ in self.pool.events(0.05):
                    pass
        self._report()

    def settle(self) -> None:
        """Write the rest of a run that was stopped. Raises: the error of the store."""
        for chunk in self.bundles.take():
            self._store(*chunk)
        self._await_writes(0)

    def _wait_for_current_units(self, meter: Meter) -> None:
        """Assign nothing more, and let every slot end its current unit; then raise BudgetSpent."""
        busy = [slot for slot in self.pool.slots if slot.message is not None]
        if not busy:
            self._write(self.bundles.take())
            self._await_writes(0)
            raise BudgetSpent(f"spent {meter.spent} of {meter.limit}")
        for slot in busy:
            self.pool.stop_after(slot, 0)
        for slot, event in self.pool.events(0.05):
            self._handle(slot, event)
        self._await_writes(MAX_WRITES)
        self._keep_leases()

    def _await_writes(self, most: int) -> None:
        """Delete the messages whose outcomes are stored.

        Waits until at most `most` writes, and MAX_WRITE_BYTES, are pending.
        """
        waiting = sum(not isinstance(entry, str) for entry in self.pending_writes)
        while self.pending_writes:
            entry = self.pending_writes[0]
            if isinstance(entry, str):
                self.queue.delete(entry)
            elif entry.done() or waiting > most or self.pending_bytes > MAX_WRITE_BYTES:
                self.pending_bytes -= entry.result()  # raises the error of the store
                waiting -= 1
            else:
                return
            self.pending_writes.popleft()

    def _assign(self) -> bool:
        """Assign a slice to every idle slot; return whether any was assigned."""
        fed = False
        for slot in self.pool.idle():
            doing = self.in_flight.get(slot)
            if doing is not None and (doing.lost or not doing.todo):
                del self.in_flight[slot]
                # no other slot has a part of it
                if not doing.lost and all(
                    other.receipt != doing.receipt for other in self.in_flight.values()
                ):
                    self._finish(doing.message, doing.receipt)
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
        """Take a part of another slot's work when no message is left, so that all slots end
        together.
        """
        if self.parts_per_message > 1:
            # cut for this purpose: it need not be known how long they take
            for each in self.in_flight.values():
                if len(each.todo) > 1:
                    return self._part_of(each, each.todo.pop())
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
            last = self.pool.share_after(busiest, cut)
            if last is None or last >= whole.last:  # it was faster
                return None
            doing.todo[0], part = whole.part(whole.first, last), whole.part(last + 1, whole.last)
        return self._part_of(doing, part)

    def _part_of(self, doing: InFlight, part: Message) -> InFlight:
        """Return a part of a slot's message, for another slot."""
        return InFlight(
            doing.message,
            doing.receipt,
            deque([part]),
            self.clock(),
            self.clock(),
            narrow=doing.narrow,
        )

    def _remaining(self, slot: WorkerSlot, doing: InFlight) -> tuple[float, int]:
        """Estimate the seconds of work before a slot that another could do, and where to cut it.

        The estimate uses the mean time of its units so far, or the time of its current unit if that
        is longer. The second value is the unit after which the slot should stop, to give half away.
        """
        # a function that takes a whole slice cannot share it
        if not doing.todo or doing.lost or self.pool.context.model(self.manifest.model).batched:
            return 0.0, 0
        slice_, took = doing.todo[0], self.clock() - doing.started
        if took < MIN_SHARED_S:  # too early to estimate
            return 0.0, 0
        others = sum(part.units for part in list(doing.todo)[1:])
        at, since = self.pool.position(slot)
        # it has not begun, or is sending its results
        if not slice_.first <= at <= slice_.last:
            return (took * others, 0) if others else (0.0, 0)
        each = took / (at - slice_.first + 1)
        cut = (at + slice_.last) // 2
        units = others or max(slice_.last - cut, 0)
        return (max(each * (slice_.last - at + others), since) if units else 0.0), cut

    def _accept(self, delivery: Delivery) -> InFlight | None:
        """Return the undone units of a delivery as work; None if there are none, or if it was
        split.
        """
        message = Message.parse(delivery.body)
        missing = [
            message.part(first, last)
            for first, last in self.coverage.missing(message.first, message.last)
        ]
        if not missing:  # another worker was faster
            self._finish(message, delivery.receipt)
            return None
        if delivery.receive_count >= HALVING_DELIVERY and message.units > 1:
            self.queue.send([str(half) for part in missing for half in halves(part)])
            self._finish(message, delivery.receipt)
            return None
        narrow = bool(self.manifest.batches[message.batch].cuts)
        todo = deque(part for each in missing for part in self._cut(each))
        return InFlight(message, delivery.receipt, todo, self.clock(), self.clock(), narrow=narrow)

    def _cut(self, message: Message) -> list[Message]:
        """Cut a slice into `parts_per_message` parts of even cost, each of whole units."""
        if self.parts_per_message == 1 or message.units == 1:
            return [message]
        cost = np.cumsum(self.units.sizes(message.first, message.last) + UNIT_COST)
        shares = cost[-1] * np.arange(1, self.parts_per_message) / self.parts_per_message
        firsts = np.unique(np.append(0, np.searchsorted(cost, shares) + 1))
        firsts = firsts[firsts < message.units] + message.first
        lasts = [*(firsts[1:] - 1), message.last]
        return [message.part(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True)]

    def _wait_for_message(self) -> None:
        """Wait for a message of another worker, or for a lost one, to return to the queue."""
        self.next_delivery = self.queue.receive(wait=1.0)
        if self.next_delivery is not None:
            return
        depth = self.queue.depth()
        # units of dead letters have been recorded already
        if not (depth.waiting or depth.in_flight):
            self.queue.send(
                [
                    str(m.part(first, last))
                    for m in self.messages
                    for first, last in self.coverage.missing(m.first, m.last)
                ]
            )

    def _handle(self, slot: WorkerSlot, event: PoolEvent) -> None:
        doing = self.in_flight.get(slot)
        # the last event of a slice of the previous model, all of whose units are done
        if doing is None:
            return
        if doing.lost:  # another worker reports its units
            if not isinstance(event, ChunkDone):
                doing.todo.clear()
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
        """Record the unit of a child that died, and return the rest of its slice to be done."""
        slice_ = doing.todo.popleft()
        start = event.done + 1
        if start > slice_.last:  # it had sent all results
            return
        if event.memory:
            self._on_memory_death(doing, event, slice_.part(start, slice_.last))
            return
        # an earlier unit may have damaged the process: try a fresh one
        if event.internal and not event.fresh:
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
        # the unit may be beyond a cut
        ends = (
            (start, min(unit - 1, slice_.last)),
            (unit + 1, slice_.last),
        )
        parts = [slice_.part(a, b) for a, b in ends if a <= b]
        doing.todo.extendleft(reversed(parts))

    def _on_memory_death(self, doing: InFlight, event: WorkerDied, rest: Message) -> None:
        """Handle a child that ran out of memory.

        A unit is to blame only if it was alone in a fresh child.
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
            reported = event.memory == "reported"
            status, error = ("failed", "MemoryError") if reported else ("crashed", "WorkerDied")
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
            # first, since the next child is fresh
            again = [
                (unit, unit),
                (rest.first, unit - 1),
                (unit + 1, rest.last),
            ]
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
        """Record the units of dead-lettered messages as crashed."""
        if not self.queue.depth().dead:
            return
        for body in self.queue.dead():
            message = Message.parse(body)
            for first, last in self.coverage.missing(message.first, message.last):
                self._record_crash(message.part(first, last), LOST_REASON)

    def _record_crash(self, message: Message, reason: str) -> None:
        self._commit(message, b"", crashed_accounts(message, reason))

    def _commit(self, message: Message, results: bytes | pa.Buffer, accounts: bytes) -> None:
        """Write an outcome, at once or as a part of a larger one.

        Its results are stored first and then, as the commit, its unit statuses. Its message stays
        in the queue until both are stored.
        """
        # otherwise events that arrive together would accumulate here
        self._await_writes(MAX_WRITES)
        now = self.clock()
        self.bundles.add((message, results, accounts), now)
        self._write(self.bundles.due(now))
        self.coverage.add(message.first, message.last)
        self.units_stored += message.units
        statuses = unpack_statuses(pa.py_buffer(accounts))
        if self.meter is not None:
            self.meter.add(float(statuses.seconds.sum()))
        bad = statuses.not_ok
        if message.units == 1:
            self._count_retry(message.first, failed=bool(bad))
        if bad:
            self.failed_units.update(account.unit for account in bad)
            last = max(bad, key=lambda account: account.unit)
            self.last_failure = (
                f"{key_text(self.units.key(last.unit))}: {last.error}: "
                f"{last.message.partition(chr(10))[0]}"
            )

    def _write(self, chunks: Iterable[Chunk]) -> None:
        """Begin to write outcomes."""
        for message, results, accounts in chunks:
            self.pending_bytes += len(results) + len(accounts)
            self.pending_writes.append(self.writer.submit(self._store, message, results, accounts))

    def _finish(self, message: Message, receipt: str) -> None:
        """Delete a message once the outcomes of its units are stored."""
        self._write(self.bundles.take(message.first, message.last))
        self.pending_writes.append(receipt)

    def _store(self, message: Message, results: bytes | pa.Buffer, accounts: bytes) -> int:
        if len(results):
            put_sealed(self.store, self.layout.outcome(message, "results"), results)
        put_sealed(self.store, self.layout.outcome(message, "status"), accounts)
        return len(results) + len(accounts)

    def _keep_leases(self) -> None:
        now = self.clock()
        for slot, doing in self.in_flight.items():
            if not doing.lost and now - doing.lease_extended > self.visibility / 3:
                if not self.queue.extend(doing.receipt, self.visibility):
                    self._abandon(slot, doing)
                doing.lease_extended = now

    def _abandon(self, slot: WorkerSlot, doing: InFlight) -> None:
        """Let a slot end a message whose lease was lost, and store nothing more of it."""
        doing.lost = True
        while len(doing.todo) > 1:
            doing.todo.pop()
        self.pool.stop_after(slot, 0)

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
    """Split a slice in two; a single unit stays as it is."""
    if message.units == 1:
        return [message]
    middle = (message.first + message.last) // 2
    return [message.part(message.first, middle), message.part(middle + 1, message.last)]


def crashed_accounts(message: Message, reason: str) -> bytes:
    """Return the statuses of units that every worker lost."""
    return accounts_without_result(message, "crashed", "WorkerDied", reason)


def accounts_without_result(message: Message, status: str, error: str, reason: str) -> bytes:
    """Return the statuses of units without a result, with the reason."""
    units = np.arange(message.first, message.last + 1, dtype=np.int64)
    zero = np.zeros(len(units), np.int64)
    return pack_statuses(
        message,
        zero.astype(float),
        zero,
        [UnitStatus(int(unit), status, error, reason) for unit in units],
        [],
    )
