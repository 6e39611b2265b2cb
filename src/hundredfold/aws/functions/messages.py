"""What a body of the queue asks for: a message of ours, S3's word that batches are there, or
nothing that we made.

Anybody who may send to the queue can write anything into it. So nothing of a body is used in a key
before it was looked at, and what it says of units is held against the manifest. No sentence here
quotes a body: it goes to the logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from ...data.manifest import Manifest
from ...job import NAME, Message
from ...runs.names import AWS_RUN_ID

RUN, MODEL = AWS_RUN_ID.pattern, NAME.pattern
BATCH = re.compile(
    rf"processing/(?P<run>{RUN})/(?P<model>{MODEL})/(?P<batch>\d{{6,9}})-\d+\.batch\.parquet"
)
FIRST_ATTEMPT = 1  # S3 tells of what is written once: what is done again is asked for by messages


def notice_key(run: str, model: str, batch: int) -> str:
    """The object by which S3 tells of a batch."""
    return f"processing/{run}/{model}/{batch:06d}-0.batch.parquet"


@dataclass(frozen=True, slots=True)
class S3Event:
    """S3's word that a batch is there: please do all of it."""

    run: str
    model: str
    batch: int
    attempt: int = FIRST_ATTEMPT


@dataclass(frozen=True, slots=True)
class SqsMessage:
    """A message of SQS as Lambda hands it over: who it is, how often it was handed out, and what it
    asks for.
    """

    id: str
    body: str
    receipt: str
    receive_count: int
    asked: tuple[Message | S3Event, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any], bucket: str) -> SqsMessage:
        """ValueError, with the reason, for a body that is not ours."""
        return cls(*_envelope(record), tuple(asked_in(record["body"], bucket)))

    @classmethod
    def closed(cls, record: Mapping[str, Any]) -> SqsMessage:
        """The same, unread."""
        return cls(*_envelope(record))


def _envelope(record: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return (
        record["messageId"],
        record["body"],
        record.get("receiptHandle", ""),
        int(record["attributes"]["ApproximateReceiveCount"]),
    )


def asked_in(body: str, bucket: str) -> Iterator[Message | S3Event]:
    """What a body asks for: nothing, where S3 only tries the queue.

    ValueError, with the reason, for a body that is not ours.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__} in JSON, wanted an object")
    if found.get("Event") == "s3:TestEvent":
        return
    if isinstance(found.get("Records"), list):
        for record in found["Records"]:
            yield _notice(record, bucket)
    else:
        yield _message(found)


def _message(found: Mapping[str, Any]) -> Message:
    missing, extra = (
        [name for name in Message.__slots__ if name not in found],
        len(found.keys() - set(Message.__slots__)),
    )
    if missing or extra:
        raise ValueError(
            f"of a message it lacks {', '.join(missing) or 'nothing'}, and it has {extra} other "
            "fields"
        )
    message = Message(**found)
    if not isinstance(message.run, str) or not re.fullmatch(RUN, message.run):
        raise ValueError("its run is no id of a run")
    if not isinstance(message.model, str) or not re.fullmatch(MODEL, message.model):
        raise ValueError("its model is no name of a model")
    numbers = (message.batch, message.first, message.last, message.attempt)
    if not all(type(n) is int and n >= 0 for n in numbers) or message.last < message.first:
        raise ValueError("its batch, units and attempt are no numbers of a slice")
    return message


def _notice(record: Any, bucket: str) -> S3Event:
    try:
        name, key, told = (
            str(record["eventName"]),
            unquote_plus(record["s3"]["object"]["key"]),
            record["s3"]["bucket"]["name"],
        )
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it has Records, but not as S3 writes them") from None
    if told != bucket:
        raise ValueError("it tells of another bucket")
    batch = BATCH.fullmatch(key)
    if batch is None or not name.startswith("ObjectCreated:"):
        raise ValueError("it tells of no new batch")
    return S3Event(batch["run"], batch["model"], int(batch["batch"]))


def wanted(asked: Message | S3Event, manifest: Manifest) -> Message:
    """The slice that is asked for; ValueError, with the reason, if the manifest has no such slice."""
    if asked.batch >= len(manifest.batches):
        raise ValueError(
            f"{asked.model} has no batch {asked.batch}: it has {len(manifest.batches)}"
        )
    batch = manifest.batches[asked.batch]
    if isinstance(asked, S3Event):
        return Message(asked.run, asked.model, batch.number, batch.first, batch.last, asked.attempt)
    if not batch.first <= asked.first <= asked.last <= batch.last:
        raise ValueError(
            f"batch {batch.number} of {asked.model} does not hold units {asked.first} to "
            f"{asked.last}"
        )
    return asked
