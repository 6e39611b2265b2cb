"""Resources for the tests of adapters: buckets, queues and tables of an emulated account, and a
clock that its queues follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from hundredfold.testing import ManualClock
from support.emulator import Emulator


class LinkedClock(ManualClock):
    """A manual clock, which other clocks follow."""

    def __init__(self) -> None:
        self.followers: list[Callable[[float], object]] = []
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "now":
            for follow in self.followers:
                follow(value)


@dataclass(frozen=True)
class Account:
    """An emulated account of AWS, reached by boto3 in this process and its children."""

    emulator: Emulator

    def bucket(self) -> str:
        name = f"bucket-{uuid4().hex[:12]}"
        self.emulator.client("s3").create_bucket(Bucket=name)
        return name

    def queues(self, *, visibility: float, max_receives: int) -> tuple[str, str]:
        """Return the URLs of a new queue and of its dead-letter queue."""
        sqs, name = self.emulator.client("sqs"), f"queue-{uuid4().hex[:12]}"
        dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": max_receives})
        attributes = {"VisibilityTimeout": str(int(visibility)), "RedrivePolicy": redrive}
        return sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], dead

    def table(self) -> str:
        """Return a new table for runs, with the indexes of the stack."""
        name = f"table-{uuid4().hex[:12]}"
        self.emulator.client("dynamodb").create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": key, "AttributeType": "S"}
                for key in ("id", "job", "kind", "created")
            ],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": index,
                    "KeySchema": [
                        {"AttributeName": key, "KeyType": "HASH"},
                        {"AttributeName": "created", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "ALL"},
                }
                for index, key in (("by_job", "job"), ("by_time", "kind"))
            ],
        )
        return name

    @contextmanager
    def linked_to(self, clock: LinkedClock) -> Iterator[None]:
        """Let the queues' leases expire by that clock."""

        def follow(now: float | None) -> None:
            self.emulator.set_queue_time(now)

        clock.followers.append(follow)
        follow(clock.now)
        try:
            yield
        finally:
            clock.followers.remove(follow)
            follow(None)
