"""The queue on AWS: two SQS queues, one for messages and one for dead-lettered messages.

The visibility timeout and the maximum number of deliveries are attributes of the queues. SQS stores
a queue on many servers, and some of its replies are approximate: the methods state which.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from typing import Any

from botocore.exceptions import ClientError

from ...errors import HomeError
from ...ports.interfaces import Delivery, Depth
from .errors import error_code, translate_errors
from .session import client

MAX_ENTRIES = 10  # in one call
MAX_BYTES = 1024 * 1024  # bytes in one call, and so in one message
MAX_POLL_S = 20  # seconds
MAX_LEASE_S = 43_200  # seconds since the message was received
SEND_THREADS = 8  # 3,000 messages take 300 calls of some 20 ms each
MAX_TRIES = 6  # for messages that SQS did not accept
# seconds for which dead-lettered messages are hidden from other readers while they are read
DEAD_LETTER_LEASE_S = 120
PURGE_S = 60.0  # seconds in which SQS may still delete messages that were sent after the purge
# SQS rejects characters that XML 1.0 does not allow
FORBIDDEN_CHARACTERS = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LEASE_LOST = {
    "InvalidParameterValue",
    "MissingParameter",
    "ReceiptHandleIsInvalid",
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
}
PURGE_IN_PROGRESS = {"PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress"}


@dataclass(frozen=True, slots=True)
class SqsQueue:
    """A Queue on SQS. It holds no connection, and can be sent to another process.

    `url`, `dead_url`  of the queue for messages, and of its dead-letter queue
    `linger`           whole seconds to wait for one more dead-lettered message; 0 asks only a part
                       of
                       SQS's servers

    SQS accepts no empty message, none above 1 MiB, and no control characters. It promises no order,
    and may deliver a message twice; `receive` without waiting asks only a part of the servers, and
    may find nothing although there are messages.
    """

    url: str
    dead_url: str
    linger: int = 1
    sleep: Callable[[float], object] = time.sleep

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages.

        Raises:
            ValueError: SQS cannot store one of them; nothing has been sent.
            HomeError: SQS did not accept all of them; it may have accepted some.
        """
        batches = [*group_by_call(map(_checked_body, bodies))]
        with ThreadPoolExecutor(max(1, min(SEND_THREADS, len(batches)))) as pool:
            for _ in pool.map(self._send, batches):
                pass  # reraises the error of a thread

    def dead_letter(self, body: str, reason: str) -> None:
        """Move an invalid message to the dead-letter queue, with the reason in its attribute
        `reason`.
        """
        attributes = {"reason": {"DataType": "String", "StringValue": reason[:1000]}}
        with self._translate_errors("refused to", self.dead_url):
            client("sqs").send_message(
                QueueUrl=self.dead_url, MessageBody=body, MessageAttributes=attributes
            )

    def send_later(self, body: str, times: int, delay: int) -> None:
        """Send a message again, to be delivered after `delay` seconds, and count no delivery.

        `times` says how often it has been returned, in its attribute `returned`.
        """
        attributes = {"returned": {"DataType": "Number", "StringValue": str(times)}}
        with self._translate_errors("written"):
            client("sqs").send_message(
                QueueUrl=self.url,
                MessageBody=body,
                DelaySeconds=delay,
                MessageAttributes=attributes,
            )

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout; wait up to `wait` seconds, rounded up, for
        one.
        """
        left = wait
        while True:
            poll = ceil(min(MAX_POLL_S, max(0.0, left)))
            for message in self._receive(self.url, 1, poll, "ApproximateReceiveCount"):
                return Delivery(
                    message["Body"],
                    message["ReceiptHandle"],
                    int(message["Attributes"]["ApproximateReceiveCount"]),
                )
            left -= poll
            if left <= 0:
                return None

    def receive_records(
        self, limit: int, wait: int, lease: float | None = None
    ) -> list[dict[str, Any]]:
        """Lease up to 10 messages, in the form in which Lambda delivers them; wait up to `wait`
        seconds for one.

        `lease`: the seconds that replace the queue's visibility timeout.
        """
        visibility = {} if lease is None else {"VisibilityTimeout": ceil(lease)}
        with self._translate_errors("read"):
            answer = client("sqs").receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(limit, MAX_ENTRIES),
                WaitTimeSeconds=min(wait, MAX_POLL_S),
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=["returned"],
                **visibility,
            )
        return [
            {
                "messageId": found["MessageId"],
                "body": found["Body"],
                "receiptHandle": found["ReceiptHandle"],
                "attributes": found["Attributes"],
                "messageAttributes": {
                    name: {"stringValue": value.get("StringValue", "")}
                    for name, value in found.get("MessageAttributes", {}).items()
                },
            }
            for found in answer.get("Messages", ())
        ]

    def extend(self, receipt: str, seconds: float) -> bool:
        """Extend a lease to `seconds` from now, rounded up; 0 releases the message at once.

        Returns False if the lease was lost, or would exceed the 12 hours that SQS allows for a
        delivery.
        """
        lease = ceil(min(MAX_LEASE_S, max(0.0, seconds)))
        return self._is_accepted(
            "extended",
            lambda: client("sqs").change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=lease
            ),
        )

    def delete(self, receipt: str) -> bool:
        """Delete a completed message; return False if SQS knows that the lease was lost.

        SQS may return True and still deliver the message again.
        """
        return self._is_accepted(
            "deleted from",
            lambda: client("sqs").delete_message(QueueUrl=self.url, ReceiptHandle=receipt),
        )

    def dead(self) -> Sequence[str]:
        """Return the bodies of the dead-lettered messages, the oldest first.

        Messages that another reader is reading at the moment are missing. A message that has used
        up its deliveries becomes a dead-lettered message at the next receive. The messages are
        leased while they are read, and released at the end, or two minutes later if this process
        dies.
        """
        found: dict[str, dict[str, Any]] = {}
        try:
            while fresh := self._unseen_dead_letters(found):
                found |= fresh
        finally:
            self._release(found.values())
        return [
            message["Body"]
            for message in sorted(
                found.values(), key=lambda message: int(message["Attributes"]["SentTimestamp"])
            )
        ]

    def purge(self) -> None:
        """Delete all messages, including the dead-lettered ones.

        It takes a minute: SQS may also delete messages that are sent before it ends.
        """
        for url in (self.url, self.dead_url):
            self._purge(url)
        self.sleep(PURGE_S)

    def depth(self) -> Depth:
        """Return the approximate numbers of messages that are waiting, in flight and dead-lettered.

        SQS's figures are right a minute after the last change.
        """
        with self._translate_errors("counted"):
            waiting, in_flight = self._approximate_counts(self.url)
            return Depth(waiting, in_flight, sum(self._approximate_counts(self.dead_url)))

    def close(self) -> None:
        """Do nothing: no connection is held open."""

    def _send(self, batch: Sequence[str]) -> None:
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(batch)]
        failed: list[dict[str, Any]] = []
        for number in range(MAX_TRIES):
            if failed:
                self.sleep(0.1 * 2**number)
            with self._translate_errors("written"):
                failed = (
                    client("sqs")
                    .send_message_batch(QueueUrl=self.url, Entries=entries)
                    .get("Failed", [])
                )
            left = {entry["Id"] for entry in failed}
            entries = [entry for entry in entries if entry["Id"] in left]
            if not entries or any(entry["SenderFault"] for entry in failed):
                break
        if failed:
            raise HomeError(
                f"{self.url} did not accept {len(failed)} of {len(batch)} messages",
                problems=[f"{entry['Code']}: {entry.get('Message', '')}" for entry in failed],
                hint="nothing is lost; this sends the missing messages again: hundredfold resume",
            )

    def _receive(
        self, url: str, limit: int, poll: int, attribute: str, **lease: int
    ) -> Sequence[dict[str, Any]]:
        with self._translate_errors("read", url):
            answer = client("sqs").receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=poll,
                MessageSystemAttributeNames=[attribute],
                **lease,
            )
        return tuple(answer.get("Messages", ()))

    def _unseen_dead_letters(self, known: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return some dead-lettered messages that are not in `known`, by id; none at the end."""
        received = self._receive(
            self.dead_url,
            MAX_ENTRIES,
            self.linger,
            "SentTimestamp",
            VisibilityTimeout=DEAD_LETTER_LEASE_S,
        )
        return {
            message["MessageId"]: message
            for message in received
            if message["MessageId"] not in known
        }

    def _release(self, messages: Iterable[dict[str, Any]]) -> None:
        entries = [
            {
                "Id": str(number % MAX_ENTRIES),
                "ReceiptHandle": message["ReceiptHandle"],
                "VisibilityTimeout": 0,
            }
            for number, message in enumerate(messages)
        ]
        with self._translate_errors("given back", self.dead_url):
            for start in range(0, len(entries), MAX_ENTRIES):
                client("sqs").change_message_visibility_batch(
                    QueueUrl=self.dead_url, Entries=entries[start : start + MAX_ENTRIES]
                )

    def _is_accepted(self, participle: str, call: Callable[[], object]) -> bool:
        """Return whether SQS accepted the receipt of a call; False if the receipt is no longer
        valid.
        """
        with self._translate_errors(participle):
            try:
                call()
            except ClientError as error:
                if error_code(error) not in LEASE_LOST:
                    raise
                return False
        return True

    def _purge(self, url: str) -> None:
        for pause in (*[5.0] * int(PURGE_S / 5), None):
            with self._translate_errors("purged", url):
                try:
                    client("sqs").purge_queue(QueueUrl=url)
                    return
                except ClientError as error:
                    # SQS allows one purge a minute, and the previous one may miss messages that
                    # came after it
                    if error_code(error) not in PURGE_IN_PROGRESS or pause is None:
                        raise
            self.sleep(pause)

    def _approximate_counts(self, url: str) -> tuple[int, int]:
        """Return about how many messages can be received, now or after a delay, and how many are
        leased.
        """
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        )
        visible, delayed, leased = map(int, map(self._attributes(url, *names).__getitem__, names))
        return visible + delayed, leased

    def _attributes(self, url: str, *names: str) -> dict[str, str]:
        return dict(
            client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=[*names])["Attributes"]
        )

    def _translate_errors(self, participle: str, url: str = "") -> AbstractContextManager[None]:
        return translate_errors(f"the queue {url or self.url}", participle)


def group_by_call(bodies: Iterable[str]) -> Iterator[list[str]]:
    """Group messages, in order, into as few calls as SQS allows: 10 messages and 1 MiB each."""
    batch: list[str] = []
    size = 0
    for body in bodies:
        more = len(body.encode())
        if batch and (len(batch) == MAX_ENTRIES or size + more > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += more
    if batch:
        yield batch


def _checked_body(body: str) -> str:
    """Return a message that SQS can store.

    Raises:
        ValueError: it is empty, too large, or contains control characters.
    """
    size = len(body.encode())
    if not 0 < size <= MAX_BYTES or FORBIDDEN_CHARACTERS.search(body):
        raise ValueError(
            f"{body[:60]!r} ({size:,} bytes) cannot be an SQS message: expected 1 to {MAX_BYTES:,} "
            "bytes of text, without control characters"
        )
    return body
