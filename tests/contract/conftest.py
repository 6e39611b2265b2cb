"""What all doors are tested with: a clock moved by hand, places that cannot be written, and an account of an emulated AWS."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from line import Line

from aws.emulator import DONE, MISSING, Emulator
from hundredfold.testing import HandClock

NOBODY = 65534


class LedClock(HandClock):
    """A clock moved by hand, which others follow."""

    def __init__(self) -> None:
        self.followers: list[Callable[[float], object]] = []
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "now":
            for follow in self.followers:
                follow(value)


@pytest.fixture
def clock() -> LedClock:
    return LedClock()


@dataclass(frozen=True)
class Account:
    """An emulated account of AWS, which boto3 in this process and in its children reaches."""

    emulator: Emulator

    def bucket(self) -> str:
        name = f"bucket-{uuid4().hex[:12]}"
        self.emulator.client("s3").create_bucket(Bucket=name)
        return name

    def queues(self, *, visibility: float, max_receives: int) -> tuple[str, str]:
        """The addresses of a new queue and of its dead-letter queue."""
        sqs, name = self.emulator.client("sqs"), f"queue-{uuid4().hex[:12]}"
        dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": max_receives})
        attributes = {"VisibilityTimeout": str(int(visibility)), "RedrivePolicy": redrive}
        return sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], dead

    def table(self) -> str:
        """A new table for runs, with the indexes that the stack gives it."""
        name = f"table-{uuid4().hex[:12]}"
        self.emulator.client("dynamodb").create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("id", "job", "kind", "created")],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": index,
                    "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}, {"AttributeName": "created", "KeyType": "RANGE"}],
                    "Projection": {"ProjectionType": "ALL"},
                }
                for index, key in (("by_job", "job"), ("by_time", "kind"))
            ],
        )
        return name

    @contextmanager
    def following(self, clock: LedClock) -> Iterator[None]:
        """Let the queues' leases run out by that clock."""

        def follow(now: float | None) -> None:
            self.emulator.set_queue_time(now)

        clock.followers.append(follow)
        follow(clock.now)
        try:
            yield
        finally:
            clock.followers.remove(follow)
            follow(None)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Iterator[Account]:
    """For a module at a time: others may reach an account of their own."""
    with emulator.reached():
        yield Account(emulator)


@pytest.fixture
def line(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The account over a line that fails when it is told to."""
    from hundredfold.aws.place import client

    with Line(account.emulator.url) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        client.cache_clear()
        yield line
    client.cache_clear()


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder whose files can be read, and which takes no new ones (use it inside `as_a_guest`)."""
    if os.name == "nt":
        pytest.skip("a folder's permission bits mean nothing on Windows")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        for place in (folder, *folder.iterdir()):
            place.chmod(0o755)


@contextmanager
def as_a_guest(folder: Path) -> Iterator[None]:
    """Take the rights to write in `folder` and to enter what it holds away, also from root, whom no permission stops."""
    for inside in folder.iterdir():
        inside.chmod(0o444)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was == 0:
            os.seteuid(was)


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def guest():
    return as_a_guest


@pytest.fixture
def small_files():
    return files_at_most
