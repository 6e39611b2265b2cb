"""The queue on AWS: two queues of SQS, one for the work and one for its dead letters.

The visibility timeout, and how often a message is handed out before it is a dead letter, are
attributes of the queues. SQS answers for what is on many servers, and says so: what is about right
only, the methods tell.
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
from .errors import code, in_plain_words
from .session import client

ENTRIES = 10  # messages in one call
LARGEST = 1024 * 1024  # bytes in one call, and so in one message
LONGEST_POLL = 20  # seconds
LONGEST_LEASE = 43_200  # seconds, since the message was received
SENDERS = 8  # threads: 3,000 messages are 300 calls of some 20 ms
TRIES = 6  # of what SQS did not take
DEAD_LEASE = 120  # seconds that the dead letters are out of others' sight while they are read
PURGING = 60.0  # seconds in which SQS may still delete what was sent after the purge was asked for
UNSENDABLE = re.compile(
    "[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # what XML 1.0 cannot hold, SQS refuses
LOST = {
    "InvalidParameterValue",
    "MissingParameter",
    "ReceiptHandleIsInvalid",
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
}
PURGED_LATELY = {"PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress"}


@dataclass(frozen=True, slots=True)
class SqsQueue:
    """A Queue on SQS. It holds no connection, and can be sent to another process.

    `url`, `dead_url`  of the queue for the work, and of its dead-letter queue
    `linger`           whole seconds to wait for one more dead letter; 0 asks a part of SQS's
                       servers only

    SQS holds no empty message, none of more than 1 MiB, and no control characters. Its order is
    none; a message may be handed out twice; `receive` without waiting asks a part of the servers
    only, and may find nothing where there is something.
    """

    url: str
    dead_url: str
    linger: int = 1
    sleep: Callable[[float], object] = time.sleep

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages.

        ValueError before anything is sent if SQS cannot hold one; HomeError if it did not take all:
        it may have taken some.
        """
        batches = [*batched(map(_checked, bodies))]
        with ThreadPoolExecutor(max(1, min(SENDERS, len(batches)))) as pool:
            for _ in pool.map(self._send, batches):
                pass  # raises what a thread raised

    def refuse(self, body: str, reason: str) -> None:
        """Put a message that is not ours to the dead letters, with the reason in its attribute
        `reason`.
        """
        said = {"reason": {"DataType": "String", "StringValue": reason[:1000]}}
        with self._told("refused to", self.dead_url):
            client("sqs").send_message(
                QueueUrl=self.dead_url, MessageBody=body, MessageAttributes=said
            )

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout; wait up to `wait` seconds, rounded up, for
        one.
        """
        left = wait
        while True:
            poll = ceil(min(LONGEST_POLL, max(0.0, left)))
            for message in self._received(self.url, 1, poll, "ApproximateReceiveCount"):
                return Delivery(
                    message["Body"],
                    message["ReceiptHandle"],
                    int(message["Attributes"]["ApproximateReceiveCount"]),
                )
            left -= poll
            if left <= 0:
                return None

    def extend(self, receipt: str, seconds: float) -> bool:
        """Lease it `seconds` longer, rounded up, from now; 0 gives it back at once.

        False if the lease was lost, or would last more than the 12 hours that SQS allows for one
        delivery.
        """
        lease = ceil(min(LONGEST_LEASE, max(0.0, seconds)))
        return self._holds(
            "extended",
            lambda: client("sqs").change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=lease
            ),
        )

    def delete(self, receipt: str) -> bool:
        """It is done.

        False if SQS knows that the lease was lost; it may be True and be handed out again.
        """
        return self._holds(
            "deleted from",
            lambda: client("sqs").delete_message(QueueUrl=self.url, ReceiptHandle=receipt),
        )

    def dead(self) -> Sequence[str]:
        """The bodies of the dead letters, the oldest first; those that another reads in this moment
        are not among them.

        A message that ran out of leases is a dead letter once somebody asks for messages again.
        While they are read, the letters are leased; they are given back at the end, and two minutes
        later if this process dies.
        """
        found: dict[str, dict[str, Any]] = {}
        try:
            while fresh := self._letters(found):
                found |= fresh
        finally:
            self._give_back(found.values())
        return [
            letter["Body"]
            for letter in sorted(
                found.values(), key=lambda letter: int(letter["Attributes"]["SentTimestamp"])
            )
        ]

    def purge(self) -> None:
        """Forget all messages, dead letters included.

        It takes a minute: what is sent before its end, SQS may forget too.
        """
        for url in (self.url, self.dead_url):
            self._purge(url)
        self.sleep(PURGING)

    def depth(self) -> Depth:
        """About how many messages are waiting, in flight and dead: SQS's figures settle a minute
        after the last change.
        """
        with self._told("counted"):
            waiting, in_flight = self._counts(self.url)
            return Depth(waiting, in_flight, sum(self._counts(self.dead_url)))

    def close(self) -> None:
        """Nothing is held open."""

    def _send(self, batch: Sequence[str]) -> None:
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(batch)]
        failed: list[dict[str, Any]] = []
        for number in range(TRIES):
            if failed:
                self.sleep(0.1 * 2**number)
            with self._told("written"):
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
                f"{self.url} did not take {len(failed)} of {len(batch)} messages",
                problems=[f"{entry['Code']}: {entry.get('Message', '')}" for entry in failed],
                hint="nothing is lost, and what is missing is sent again by: hundredfold resume",
            )

    def _received(
        self, url: str, most: int, poll: int, attribute: str, **lease: int
    ) -> Sequence[dict[str, Any]]:
        with self._told("read", url):
            answer = client("sqs").receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=most,
                WaitTimeSeconds=poll,
                MessageSystemAttributeNames=[attribute],
                **lease,
            )
        return tuple(answer.get("Messages", ()))

    def _letters(self, known: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Some dead letters that are not known yet, by their ids; none at the end."""
        some = self._received(
            self.dead_url, ENTRIES, self.linger, "SentTimestamp", VisibilityTimeout=DEAD_LEASE
        )
        return {letter["MessageId"]: letter for letter in some if letter["MessageId"] not in known}

    def _give_back(self, letters: Iterable[dict[str, Any]]) -> None:
        entries = [
            {
                "Id": str(number % ENTRIES),
                "ReceiptHandle": letter["ReceiptHandle"],
                "VisibilityTimeout": 0,
            }
            for number, letter in enumerate(letters)
        ]
        with self._told("given back", self.dead_url):
            for start in range(0, len(entries), ENTRIES):
                client("sqs").change_message_visibility_batch(
                    QueueUrl=self.dead_url, Entries=entries[start : start + ENTRIES]
                )

    def _holds(self, done: str, call: Callable[[], object]) -> bool:
        """Whether SQS did what was asked with a receipt, or says that it is no good any more."""
        with self._told(done):
            try:
                call()
            except ClientError as error:
                if code(error) not in LOST:
                    raise
                return False
        return True

    def _purge(self, url: str) -> None:
        for pause in (*[5.0] * int(PURGING / 5), None):
            with self._told("purged", url):
                try:
                    client("sqs").purge_queue(QueueUrl=url)
                    return
                except ClientError as error:
                    # one purge a minute is allowed, and the one before may not forget what came
                    # after it
                    if code(error) not in PURGED_LATELY or pause is None:
                        raise
            self.sleep(pause)

    def _counts(self, url: str) -> tuple[int, int]:
        """About how many messages of a queue can be received, now or after a delay, and how many
        are leased.
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

    def _told(self, done: str, url: str = "") -> AbstractContextManager[None]:
        return in_plain_words(f"the queue {url or self.url}", done)


def batched(bodies: Iterable[str]) -> Iterator[list[str]]:
    """The messages, in order, in as few calls as SQS allows: ten of them, and 1 MiB."""
    batch: list[str] = []
    size = 0
    for body in bodies:
        more = len(body.encode())
        if batch and (len(batch) == ENTRIES or size + more > LARGEST):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += more
    if batch:
        yield batch


def _checked(body: str) -> str:
    """The message, if SQS can hold it; else ValueError."""
    size = len(body.encode())
    if not 0 < size <= LARGEST or UNSENDABLE.search(body):
        raise ValueError(
            f"{body[:60]!r} ({size:,} bytes) cannot be a message of SQS: wanted 1 to {LARGEST:,} "
            "bytes of text, without control characters"
        )
    return body
