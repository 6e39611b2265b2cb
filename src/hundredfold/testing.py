"""Test doubles of the ports: implementations in memory, a manual clock, and fault injection.

    from hundredfold.testing import FaultInjector, ManualClock, MemoryQueue, MemoryStore

    def test_a_lost_lease_brings_the_message_back():
        clock = ManualClock()
        queue = MemoryQueue(visibility=60, clock=clock, sleep=clock.advance)
        queue.send(["one"])
        assert queue.receive().received == 1
        clock.advance(60)
        assert queue.receive().received == 2

One contract suite tests these and the local and AWS implementations alike.
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
    """A clock that only `advance` moves: with `sleep=clock.advance`, waiting takes no time."""

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
        """Write an object atomically; an existing object is replaced."""
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
        """Return the bytes of an object; KeyError if there is none."""
        with self._lock:
            return self._objects[checked_key(key)]

    def get_with_etag(self, key: str) -> tuple[pa.Buffer, str]:
        """Return the object's bytes and its entity tag; KeyError if there is none."""
        found = self.get(key)
        return found, etag_of(found)

    def parts(self, key: str) -> Iterator[pa.Buffer]:
        """Yield the bytes of an object in one part; KeyError if there is none."""
        yield self.get(key)

    def list(self, prefix: str) -> Iterator[str]:
        """Return the keys below a prefix that ends with '/' in order; all keys for ''."""
        checked_prefix(prefix)
        with self._lock:
            return iter(sorted(key for key in self._objects if key.startswith(prefix)))

    def delete(self, prefix: str) -> None:
        """Remove the object of that key and all below `prefix/`; a missing object is no error."""
        gone = checked_key(prefix.removesuffix("/"))
        with self._lock:
            self._objects = {
                key: data
                for key, data in self._objects.items()
                if key != gone and not key.startswith(f"{gone}/")
            }


@dataclass(slots=True)
class _Message:
    body: str
    receive_count: int = 0
    receipt: str = ""
    due: float = -math.inf  # end of its lease


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
        # in the order of sending; a message is dead when its last lease has ended
        self._messages: dict[int, _Message] = {}
        self._numbers = count(1)
        self._lock = Lock()

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages; earlier ones are delivered first."""
        with self._lock:
            self._add(bodies)

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout; wait up to `wait` seconds for one."""
        return long_poll(self._look, wait, self._clock, self._sleep)

    def extend(self, receipt: str, seconds: float) -> bool:
        """Extend the lease to `seconds` from now; 0 ends it. False if the lease was lost."""
        with self._lock:
            number = self._held(receipt)
            if number is not None:
                self._messages[number].due = self._clock() + seconds
            return number is not None

    def delete(self, receipt: str) -> bool:
        """Delete a finished message. False if its lease was lost: it can be delivered again."""
        with self._lock:
            number = self._held(receipt)
            return number is not None and self._messages.pop(number) is not None

    def release(self) -> int:
        """End all leases, for a driver whose workers are all dead; return their number."""
        with self._lock:
            now = self._clock()
            leased = [message for message in self._messages.values() if message.due > now]
            for message in leased:
                message.due = now
            return len(leased)

    def dead(self) -> Sequence[str]:
        """Return the bodies of the dead messages."""
        with self._lock:
            return [self._messages[number].body for number in self._dead()]

    def purge(self) -> None:
        """Remove all messages, including the dead ones."""
        with self._lock:
            self._messages.clear()

    def depth(self) -> Depth:
        """Return the number of waiting, leased and dead messages."""
        with self._lock:
            leased, dead = (
                sum(message.due > self._clock() for message in self._messages.values()),
                len(self._dead()),
            )
            return Depth(len(self._messages) - leased - dead, leased, dead)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _add(self, bodies: Sequence[str]) -> None:
        self._messages.update((next(self._numbers), _Message(body)) for body in bodies)

    def _look(self) -> Delivery | float:
        with self._lock:
            now, soonest = self._clock(), math.inf
            for message in self._messages.values():
                if message.due > now:
                    soonest = min(soonest, message.due)
                elif message.receive_count < self._max_receives:
                    message.receive_count, message.receipt, message.due = (
                        message.receive_count + 1,
                        token_hex(8),
                        now + self._visibility,
                    )
                    return Delivery(message.body, message.receipt, message.receive_count)
            return soonest

    def _held(self, receipt: str) -> int | None:
        now = self._clock()
        return next(
            (
                number
                for number, message in self._messages.items()
                if message.receipt == receipt and message.due > now
            ),
            None,
        )

    def _dead(self) -> list[int]:
        now = self._clock()
        return [
            number
            for number, message in self._messages.items()
            if message.receive_count >= self._max_receives and message.due <= now
        ]


class MemoryLedger:
    """A Ledger in a dict; records pass through JSON, as in the other ledgers."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._lock = Lock()

    def create(self, record: Record) -> None:
        """Add a run; StateError if its id exists."""
        with self._lock:
            if record.id in self._records:
                raise run_exists_error(record.id)
            self._write(record)

    def read(self, run: str) -> Record:
        """Return the record of a run; NoSuchRun if there is none."""
        with self._lock:
            return _copied(self._one(run))

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Apply an event to a run if its state allows it, and return the new record.

        `reason` replaces that of the last event.
        """
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
        """Write facts besides the state: the step, and counts and options, which are merged."""
        with self._lock:
            return self._write(annotate(self._one(run), step, counts, options, self._clock()))

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """Return all runs, or those of a job, newest first."""
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
    """Return the record as read from a file: with dicts of its own, and lists for tuples."""
    return replace(
        record,
        options=json.loads(json.dumps(dict(record.options))),
        counts=json.loads(json.dumps(dict(record.counts))),
    )


class InjectedFault(Exception):
    """The default error of a FaultInjector; no HundredfoldError, so that no code expects it."""


class FaultInjector:
    """A port whose nth call raises without being executed; all others pass. `calls` counts them.

    A test that fails at each call in turn, starts again, and expects the same result:

        for n in itertools.count(1):
            store = MemoryStore()
            faulty = FaultInjector(store, fail_at=n)
            with contextlib.suppress(InjectedFault):
                my_step(faulty)
            if faulty.calls < n:
                break  # the step is complete: every call has failed once
            my_step(store)
            assert result(store) == expected
    """

    def __init__(self, port: Any, fail_at: int, error: BaseException | None = None) -> None:
        self.port = port
        self.fail_at = fail_at
        self.error = error
        self.calls = 0
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # Python asks for these to copy or to display it
        found = getattr(self.port, name)
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
            raise self.error or InjectedFault(f"injected fault in call {number}, {method.__name__}")


class FaultInjectorAfter(FaultInjector):
    """A port whose nth call is executed and then raises: its result is lost, as on a connection."""

    def _call(self, number: int, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        self._fail(number, method)
        return result
