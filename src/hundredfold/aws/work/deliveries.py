"""The queue that the dispatcher of one model sees: the messages that a worker has for it.

Its receipts are numbers: an S3 event about several batches is several deliveries. New messages go
to the SQS queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...data.messages import Message
from ...ports.interfaces import Delivery, Depth
from ..adapters.sqs_queue import SqsQueue
from .messages import SqsMessage
from .sources import MessageSource, SqsRecord

Requests = list[tuple[SqsMessage, Message]]


@dataclass
class ModelDeliveries:
    """A Queue of the slices that messages request of one model.

    `requests`  those messages, each with a slice; further messages are appended
    `accept`    returns the requests of a further message, none if it cannot be processed now;
                None: no further messages are taken
    """

    sqs_queue: SqsQueue
    source: MessageSource
    requests: Requests
    accept: Callable[[SqsRecord], Requests] | None
    waiting: deque[Delivery] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    # requests of a message that are not done, those about other runs and models included
    left: dict[SqsMessage, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._deliver(0)

    def send(self, bodies: Sequence[str]) -> None:
        self.sqs_queue.send(bodies)

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Return the next slice, or that of a further message; never wait."""
        if not self.waiting and self.accept is not None:
            for record in self.source.more():
                known = len(self.requests)
                self.requests += self.accept(record)
                self._deliver(known)
        return self.waiting.popleft() if self.waiting else None

    def extend(self, receipt: str, seconds: float) -> bool:
        """Return whether the lease is held: the source keeps it."""
        return self.source.is_held(self.requests[int(receipt)][0])

    def delete(self, receipt: str) -> bool:
        """Note that a slice is done; its message is, if all of its slices are."""
        number = int(receipt)
        if number not in self.done:
            self.done.add(number)
            sqs_message = self.requests[number][0]
            self.left[sqs_message] -= 1
            if not self.left[sqs_message]:
                self.source.finish(sqs_message)
        return True

    def dead(self) -> Sequence[str]:
        return ()

    def purge(self) -> None:
        self.waiting.clear()

    def depth(self) -> Depth:
        return Depth(len(self.waiting), 0, 0)

    def unfinished(self, covers: Callable[[int, int], bool]) -> list[SqsMessage]:
        """Return the messages of slices that are neither done nor covered by outcomes."""
        return [
            sqs_message
            for number, (sqs_message, message) in enumerate(self.requests)
            if number not in self.done and not covers(message.first, message.last)
        ]

    def held_slices(self) -> list[Message]:
        """Return the slices whose messages still are this worker's."""
        return [message for each, message in self.requests if self.source.is_held(each)]

    def _deliver(self, first: int) -> None:
        """Add the requests from that number on to those that wait."""
        for sqs_message, _ in self.requests[first:]:
            self.left.setdefault(sqs_message, len(sqs_message.requests))
        self.waiting.extend(
            Delivery(str(message), str(number), sqs_message.receive_count)
            for number, (sqs_message, message) in enumerate(self.requests[first:], first)
        )
