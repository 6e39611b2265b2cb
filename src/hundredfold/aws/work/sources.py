"""Where a worker's messages come from: delivered to it by Lambda, or taken from the queue by it.

A message that was taken is deleted as soon as its units have outcomes, and its lease is kept until
then. Lambda itself deletes the messages that it delivered, after the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import HundredfoldError
from ...ports.interfaces import Clock
from ..adapters.sqs_queue import MAX_ENTRIES, SqsQueue
from .leases import Leases
from .messages import SqsMessage

SqsRecord = Mapping[str, Any]  # a message in the form in which Lambda delivers it
EMPTY_POLL_INTERVAL_S = 1.0  # between two requests to a queue that was found empty


class MessageSource(Protocol):
    """The messages of a worker."""

    def more(self) -> Sequence[SqsRecord]:
        """Return a further message, without waiting; none if the worker shall take none now."""

    def put_aside(self, record: SqsRecord) -> None:
        """Keep a message for the next group of messages; until then there is no further one."""

    def is_held(self, message: SqsMessage) -> bool:
        """Return whether the lease of a message still is this worker's."""

    def finish(self, message: SqsMessage) -> None:
        """Delete a message that is done, unless its lease was lost; a repetition has no effect."""

    def release(self, message: SqsMessage) -> None:
        """Let the lease of a message end: the queue delivers it again then."""


class DeliveredMessages:
    """The messages of a call that Lambda makes with them: it deletes them, or lets them return."""

    def more(self) -> Sequence[SqsRecord]:
        return ()

    def put_aside(self, record: SqsRecord) -> None:
        raise AssertionError("there is no further message")

    def is_held(self, message: SqsMessage) -> bool:
        return True

    def finish(self, message: SqsMessage) -> None:
        """Do nothing."""

    def release(self, message: SqsMessage) -> None:
        """Do nothing."""


@dataclass
class TakenMessages:
    """Messages that the worker takes from the queue itself.

    `leases`     keeps their leases; None where the queue's visibility timeout is longer than the
                 worker lives
    `may_take`   whether the worker shall take a further message while it processes others
    """

    queue: SqsQueue
    leases: Leases | None = None
    may_take: Callable[[], bool] = lambda: False
    clock: Clock = time.monotonic
    aside: list[SqsRecord] = field(default_factory=list)
    held: set[str] = field(default_factory=set)  # receipts
    next_poll: float = 0.0

    def take(self, count: int, wait: int) -> list[SqsRecord]:
        """Return up to `count` messages; wait up to `wait` seconds for the first."""
        taken, self.aside = self.aside, []
        while len(taken) < count:
            found = self._receive(count - len(taken), 0 if taken else wait)
            taken += found
            if not found:
                break
        return taken

    def more(self) -> Sequence[SqsRecord]:
        if self.aside or self.clock() < self.next_poll or not self.may_take():
            return ()
        found = self._receive(1, 0)
        if not found:
            self.next_poll = self.clock() + EMPTY_POLL_INTERVAL_S
        return found

    def put_aside(self, record: SqsRecord) -> None:
        self.aside.append(record)

    def is_held(self, message: SqsMessage) -> bool:
        return message.receipt in self.held and (
            self.leases is None or self.leases.is_held(message.receipt)
        )

    def finish(self, message: SqsMessage) -> None:
        if self._let_go(message.receipt):
            self.queue.delete(message.receipt)

    def release(self, message: SqsMessage) -> None:
        self._let_go(message.receipt)

    def return_all(self) -> None:
        """Make every message that is still held visible at once."""
        for receipt in list(self.held):
            if self._let_go(receipt):
                with suppress(HundredfoldError):  # it comes back when its lease ends
                    self.queue.extend(receipt, 0)
        self.aside = []

    def _let_go(self, receipt: str) -> bool:
        """Hold a message no longer; return whether its lease was this worker's until now."""
        was_held = receipt in self.held
        self.held.discard(receipt)
        return was_held and (self.leases is None or self.leases.release(receipt))

    def _receive(self, count: int, wait: int) -> list[SqsRecord]:
        since = self.clock()
        seconds = None if self.leases is None else self.leases.seconds
        records = self.queue.receive_records(min(count, MAX_ENTRIES), wait, seconds)
        receipts = [record["receiptHandle"] for record in records]
        self.held.update(receipts)
        if self.leases is not None:
            self.leases.hold(receipts, since)
        return list(records)
