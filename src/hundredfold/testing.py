"""The doors in memory, to test a job or a step without a disk; a clock moved by hand; and doors that fail when told to.

    from hundredfold.testing import FaultInjector, ManualClock, MemoryQueue, MemoryStore

    def test_a_lost_lease_brings_the_message_back():
        clock = ManualClock()
        queue = MemoryQueue(visibility=60, clock=clock, sleep=clock.advance)
        queue.send(["one"])
        assert queue.receive().received == 1
        clock.advance(60)
        assert queue.receive().received == 2

They keep the same promises as the doors to the disk and to the cloud: one suite of tests holds them all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from itertools import count
from secrets import token_hex
from threading import Lock
from typing import Any

import pyarrow as pa

from .ports.interfaces import Clock, Delivery, Depth, Record
from .ports.object_keys import checked_key, checked_prefix, etag_of
from .ports.polling import long_poll
from .ports.run_facts import RunCounts, RunOptions
from .ports.run_records import annotate, no_such_run, run_exists_error, transition
from .ports.run_states import Event


class ManualClock:
    """A clock that stands still until it is moved: `clock=clock, sleep=clock.advance` makes waiting take no time."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class MemoryStore:
    """A Store in a dict.

    >>> store = MemoryStore()
    >>> store.put("runs/1/prices.csv", b"a,b")
    >>> list(store.list("runs/"))
    ['runs/1/prices.csv']
    """

    def __init__(self) -> None:
        self._objects: dict[str, pa.Buffer] = {}
        self._lock = Lock()

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write whole; an object that is there is replaced."""
        content = pa.py_buffer(bytes(data))
        with self._lock:
            self._objects[checked_key(key)] = content

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one of that key; return whether it is written."""
        content = pa.py_buffer(data)
        with self._lock:
            return self._objects.setdefault(checked_key(key), content) is content

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        """Replace an object that still has this entity tag; return whether it is written."""
        with self._lock:
            found = self._objects.get(checked_key(key))
            if found is None or etag_of(found) != etag:
                return False
            self._objects[key] = pa.py_buffer(data)
            return True

    def get(self, key: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none."""
        with self._lock:
            return self._objects[checked_key(key)]

    def get_with_etag(self, key: str) -> tuple[pa.Buffer, str]:
        """Return the object's bytes and its entity tag; KeyError if there is none."""
        found = self.get(key)
        return found, etag_of(found)

    def parts(self, key: str) -> Iterator[pa.Buffer]:
        """The object's bytes, in one part; KeyError if there is none."""
        yield self.get(key)

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix that ends with '/', in order; all of them for the prefix ''."""
        checked_prefix(prefix)
        with self._lock:
            return iter(sorted(key for key in self._objects if key.startswith(prefix)))

    def delete(self, prefix: str) -> None:
        """Remove the object of that key and all below `prefix/`; what is not there is no error."""
        gone = checked_key(prefix.removesuffix("/"))
        with self._lock:
            self._objects = {
                key: data
                for key, data in self._objects.items()
                if key != gone and not key.startswith(f"{gone}/")
            }


@dataclass(slots=True)
class _Letter:
    body: str
    receive_count: int = 0
    receipt: str = ""
    due: float = -math.inf  # when its lease ends, or has ended


class MemoryQueue:
    """A Queue in a dict, with the arguments of SqliteQueue.

    >>> queue = MemoryQueue(max_receives=1)
    >>> queue.send(["one"])
    >>> delivery = queue.receive()
    >>> queue.extend(delivery.receipt, 0)  # give it back
    True
    >>> queue.receive(), queue.dead()
    (None, ['one'])
    """

    def __init__(
        self,
        *,
        visibility: float = 60.0,
        max_receives: int = 5,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._visibility = visibility
        self._max_receives = max_receives
        self._clock = clock
        self._sleep = sleep
        self._letters: dict[
            int, _Letter
        ] = {}  # in the order of sending; a dead letter is one whose last lease has ended
        self._numbers = count(1)
        self._lock = Lock()

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages. Earlier ones are handed out first."""
        with self._lock:
            self._add(bodies)

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout; wait up to `wait` seconds for one."""
        return long_poll(self._look, wait, self._clock, self._sleep)

    def extend(self, receipt: str, seconds: float) -> bool:
        """Lease it `seconds` longer, from now; 0 gives it back at once. False if the lease was lost."""
        with self._lock:
            number = self._held(receipt)
            if number is not None:
                self._letters[number].due = self._clock() + seconds
            return number is not None

    def delete(self, receipt: str) -> bool:
        """It is done. False if the lease was lost in the meantime (it may be handed out again)."""
        with self._lock:
            number = self._held(receipt)
            return number is not None and self._letters.pop(number) is not None

    def release(self) -> int:
        """End every lease at once, for a driver that knows that all who held one are dead; how many."""
        with self._lock:
            now = self._clock()
            leased = [letter for letter in self._letters.values() if letter.due > now]
            for letter in leased:
                letter.due = now
            return len(leased)

    def dead(self) -> Sequence[str]:
        """The bodies of the dead letters."""
        with self._lock:
            return [self._letters[number].body for number in self._dead()]

    def purge(self) -> None:
        """Forget all messages, dead letters included."""
        with self._lock:
            self._letters.clear()

    def depth(self) -> Depth:
        """How many messages are waiting, in flight and dead."""
        with self._lock:
            leased, dead = (
                sum(letter.due > self._clock() for letter in self._letters.values()),
                len(self._dead()),
            )
            return Depth(len(self._letters) - leased - dead, leased, dead)

    def close(self) -> None:
        """Nothing is held open."""

    def _add(self, bodies: Sequence[str]) -> None:
        self._letters.update((next(self._numbers), _Letter(body)) for body in bodies)

    def _look(self) -> Delivery | float:
        with self._lock:
            now, soonest = self._clock(), math.inf
            for letter in self._letters.values():
                if letter.due > now:
                    soonest = min(soonest, letter.due)
                elif letter.receive_count < self._max_receives:
                    letter.receive_count, letter.receipt, letter.due = (
                        letter.receive_count + 1,
                        token_hex(8),
                        now + self._visibility,
                    )
                    return Delivery(letter.body, letter.receipt, letter.receive_count)
            return soonest

    def _held(self, receipt: str) -> int | None:
        now = self._clock()
        return next(
            (
                number
                for number, letter in self._letters.items()
                if letter.receipt == receipt and letter.due > now
            ),
            None,
        )

    def _dead(self) -> list[int]:
        now = self._clock()
        return [
            number
            for number, letter in self._letters.items()
            if letter.receive_count >= self._max_receives and letter.due <= now
        ]


class MemoryLedger:
    """A Ledger in a dict; records are kept as JSON would keep them."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._lock = Lock()

    def create(self, record: Record) -> None:
        """Add a run; StateError if its id is taken."""
        with self._lock:
            if record.id in self._records:
                raise run_exists_error(record.id)
            self._write(record)

    def read(self, run: str) -> Record:
        """The record; NoSuchRun if there is none."""
        with self._lock:
            return _copied(self._one(run))

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Let `event` happen to the run, if its state allows it; the new record. `reason` replaces the last event's."""
        with self._lock:
            return self._write(transition(self._one(run), event, step, reason, self._clock()))

    def note(
        self,
        run: str,
        *,
        step: str | None = None,
        counts: RunCounts | None = None,
        options: RunOptions | None = None,
    ) -> Record:
        """Write facts beside the state: the step it is at, counts and options (merged into those there)."""
        with self._lock:
            return self._write(annotate(self._one(run), step, counts, options, self._clock()))

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """All runs, or those of a job, newest first."""
        with self._lock:
            return [_copied(record) for record in self._newest_first() if job in (None, record.job)]

    def _one(self, run: str) -> Record:
        if run not in self._records:
            raise no_such_run(run, [record.id for record in self._newest_first()])
        return self._records[run]

    def _newest_first(self) -> list[Record]:
        return sorted(
            self._records.values(), key=lambda record: (record.created, record.id), reverse=True
        )

    def _write(self, record: Record) -> Record:
        self._records[record.id] = _copied(record)
        return _copied(record)


def _copied(record: Record) -> Record:
    """The record as it would come back from a file: nobody shares its dicts, and tuples are lists."""
    return replace(
        record,
        options=json.loads(json.dumps(dict(record.options))),
        counts=json.loads(json.dumps(dict(record.counts))),
    )


class InjectedFault(Exception):
    """What a faulty door raises if it is not told to raise another error. No kind of HundredfoldError, so that nothing expects it."""


class FaultInjector:
    """A door whose nth call is not carried out and raises; all others go through. `calls` counts them.

    To stop at every call in turn, start again, and find the same answer:

        for n in itertools.count(1):
            store = MemoryStore()
            faulty = FaultInjector(store, fail_at=n)
            with contextlib.suppress(InjectedFault):
                my_step(faulty)
            if faulty.calls < n:
                break  # the step ran to its end: every call has failed once
            my_step(store)
            assert answer(store) == expected
    """

    def __init__(self, door: Any, fail_at: int, error: BaseException | None = None) -> None:
        self.door = door
        self.fail_at = fail_at
        self.error = error
        self.calls = 0
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # what Python itself asks for, to copy or to show it
        found = getattr(self.door, name)
        if not callable(found):
            return found

        @wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(self._count(), found, *args, **kwargs)

        return call

    def _call(self, number: int, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._fail(number, method)
        return method(*args, **kwargs)

    def _count(self) -> int:
        with self._lock:
            self.calls += 1
            return self.calls

    def _fail(self, number: int, method: Callable[..., Any]) -> None:
        if number == self.fail_at:
            raise self.error or InjectedFault(
                f"call {number}, {method.__name__}, fails as it was told to"
            )


class FaultInjectorAfter(FaultInjector):
    """A door whose nth call is carried out, and raises then: the answer is lost on the way, as with a line that drops."""

    def _call(self, number: int, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = method(*args, **kwargs)
        self._fail(number, method)
        return answer
