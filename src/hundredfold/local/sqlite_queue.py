"""The local queue: the semantics of SQS in one SQLite file, for many processes and threads.

A message is waiting, leased or dead. A lease ends by time alone: the next reader moves expired
messages on. Leases use the monotonic clock, which all processes of a machine share, since the wall
clock may be set forward or back. A power cut may lose the last writes (synchronous=NORMAL) but does
not damage the file, and the manifests can fill the queue again.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any
from weakref import WeakSet

from filelock import FileLock

from ..ports.interfaces import Clock, Delivery, Depth
from ..ports.polling import long_poll
from .sqlite_ledger import sqlite_errors

DAMAGED = "delete it: hundredfold resume fills the queue again from the manifests"
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting', received INTEGER NOT NULL DEFAULT 0,
        due REAL, receipt TEXT
    )""",
    # and by id among those without a due time
    "CREATE INDEX IF NOT EXISTS messages_by_state ON messages (state, due)",
)
SELECT_NEXT_DUE = """SELECT
    CASE WHEN EXISTS (SELECT 1 FROM messages WHERE state = 'waiting') THEN 0.0
         ELSE (SELECT min(due) FROM messages WHERE state = 'leased') END"""
EXPIRE_LEASES = """UPDATE messages
    SET state = CASE WHEN received >= ? THEN 'dead' ELSE 'waiting' END, due = NULL, receipt = NULL
    WHERE state = 'leased' AND due <= ?"""
LEASE_ONE = """UPDATE messages
    SET state = 'leased', received = received + 1, due = ?, receipt = id || '.' || ?
    WHERE id = (
        SELECT id FROM messages WHERE state = 'waiting' AND due IS NULL ORDER BY id LIMIT 1
    )
    RETURNING body, receipt, received"""
IS_HELD = "id = ? AND receipt = ? AND state = 'leased' AND due > ?"


class AttendedClock:
    """A monotonic clock that counts only the time in which it is read, for the one holder of all
    leases.

    Between two readings it advances by 0 to `longest` seconds. A process that was stopped (Ctrl-Z,
    SIGSTOP), a suspended machine or a changed clock therefore ends no lease, which its holder could
    not have extended.
    """

    def __init__(self, clock: Clock = time.monotonic, longest: float = 5.0) -> None:
        self._clock, self._longest = clock, longest
        self._last, self._now = clock(), 0.0
        self._lock = Lock()

    def __call__(self) -> float:
        with self._lock:
            read = self._clock()
            self._now += min(max(read - self._last, 0.0), self._longest)
            self._last = read
            return self._now


class SqliteQueue:
    """A Queue in a file on a local disk (WAL does not work over a network).

    `visibility`    seconds of a lease
    `max_receives`  deliveries after which a message whose lease ends becomes a dead letter
    `patience`      seconds to wait for a lock before a HomeError
    """

    def __init__(
        self,
        path: Path,
        *,
        visibility: float = 60.0,
        max_receives: int = 5,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        patience: float = 30.0,
    ) -> None:
        self.path = Path(path)
        self._visibility = visibility
        self._max_receives = max_receives
        self._clock = clock
        self._sleep = sleep
        self._patience = patience
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None
        with _gate:
            _queues.add(self)

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages, all or none of them. Earlier ones are delivered first."""
        with self._writing() as db:
            db.executemany("INSERT INTO messages (body) VALUES (?)", ((body,) for body in bodies))

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout, and wait up to `wait` seconds for one."""
        return long_poll(self._look, wait, self._clock, self._sleep)

    def extend(self, receipt: str, seconds: float) -> bool:
        """Extend a lease to `seconds` from now; 0 returns the message to the queue at once.

        Returns False if the lease was lost.
        """
        now = self._clock()
        return (
            self._change(
                f"UPDATE messages SET due = ? WHERE {IS_HELD}", now + seconds, *_held(receipt, now)
            )
            == 1
        )

    def delete(self, receipt: str) -> bool:
        """Delete a message that is done.

        Returns False if its lease was lost in the meantime; it may be delivered again.
        """
        return (
            self._change(f"DELETE FROM messages WHERE {IS_HELD}", *_held(receipt, self._clock()))
            == 1
        )

    def release(self) -> int:
        """End every lease, for a driver that knows that all holders are dead; return their
        number.
        """
        now = self._clock()
        return self._change(
            "UPDATE messages SET due = ? WHERE state = 'leased' AND due > ?", now, now
        )

    def dead(self) -> Sequence[str]:
        """Return the bodies of the dead letters."""
        self._settle()
        with self._reading() as db:
            return [
                body
                for (body,) in db.execute(
                    "SELECT body FROM messages WHERE state = 'dead' ORDER BY id"
                )
            ]

    def purge(self) -> None:
        """Delete all messages, dead letters included."""
        self._change("DELETE FROM messages")

    def depth(self) -> Depth:
        """Return the number of messages that are waiting, in flight and dead."""
        self._settle()
        with self._reading() as db:
            found = dict(
                db.execute("SELECT state, count(*) FROM messages GROUP BY state").fetchall()
            )
        return Depth(found.get("waiting", 0), found.get("leased", 0), found.get("dead", 0))

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            self._let_go()

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that receives the queue opens its own connection."""
        again = partial(
            SqliteQueue,
            visibility=self._visibility,
            max_receives=self._max_receives,
            clock=self._clock,
            sleep=self._sleep,
            patience=self._patience,
        )
        return again, (self.path,)

    def _look(self) -> Delivery | float:
        soonest = self._soonest()
        if soonest > self._clock():
            return soonest
        with self._writing() as db:
            # read the clock after the wait for the lock, which may have been long
            now = self._clock()
            db.execute(EXPIRE_LEASES, (self._max_receives, now))
            taken = db.execute(LEASE_ONE, (now + self._visibility, token_hex(8))).fetchall()
        # None: another reader was faster, or it is a dead letter now
        return Delivery(*taken[0]) if taken else self._soonest()

    def _soonest(self) -> float:
        """Return when a message can be leased, as far as is known, without a write."""
        with self._reading() as db:
            (moment,) = db.execute(SELECT_NEXT_DUE).fetchone()
        return math.inf if moment is None else float(moment)

    def _settle(self) -> None:
        """Move on the messages of expired leases; write only if there are any."""
        now = self._clock()
        with self._reading() as db:
            (first,) = db.execute("SELECT min(due) FROM messages WHERE state = 'leased'").fetchone()
        if first is not None and first <= now:
            self._change(EXPIRE_LEASES, self._max_receives, now)

    def _change(self, statement: str, *values: object) -> int:
        with self._writing() as db:
            return db.execute(statement, values).rowcount

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db, db:
            db.execute("BEGIN IMMEDIATE")
            yield db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, sqlite_errors(self.path, DAMAGED):
            if self._db is None:
                self._db = _open(self.path, self._patience)
            yield self._db

    def _let_go(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None


def _held(receipt: str, now: float) -> tuple[object, ...]:
    return receipt.partition(".")[0], receipt, now


def _open(path: Path, patience: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite does not wait when two processes switch a new file to WAL
    with FileLock(f"{path}.lock").acquire(patience, 0.005):
        # the queue's lock protects it
        db = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
        return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    for statement in SCHEMA:
        db.execute(statement)  # no write if it exists
    if db.execute("PRAGMA user_version").fetchone() != (boot := _boot(),):
        with db:
            db.execute("BEGIN IMMEDIATE")
            # no other process was first
            if db.execute("PRAGMA user_version").fetchone() != (boot,):
                db.execute("UPDATE messages SET due = ? WHERE state = 'leased'", (-math.inf,))
                db.execute(f"PRAGMA user_version = {boot}")


def _boot() -> int:
    """Return a number of this boot, which no lease survives: the monotonic clock starts again.

    It is 0 where it is unknown.
    """
    try:
        return int(Path("/proc/sys/kernel/random/boot_id").read_text()[:7], 16)
    except (OSError, ValueError):
        return 0


# SQLite keeps its locks in tables of the process, and a fork copies the tables but not the locks: a
# child would write without a lock. So all queues are idle and closed during a fork, and each side
# opens them again when it needs them.
_queues: WeakSet[SqliteQueue] = WeakSet()
_idle: list[SqliteQueue] = []
_gate = Lock()


def _before_fork() -> None:
    _gate.acquire()
    _idle.extend(_queues)
    for queue in _idle:
        queue._lock.acquire()
        queue._let_go()


def _after_fork() -> None:
    while _idle:
        _idle.pop()._lock.release()
    _gate.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
