"""The body of a queue's message: one of our messages, an S3 event about batches, or invalid.

Anyone who may send to the queue can write anything into it. So every part of a body is validated
before it is used in a key, and its units are checked against the manifest. No error quotes a body,
because errors go to the logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from ...data.manifest import Manifest
from ...data.messages import Message
from ...job import NAME
from ...runs.names import AWS_RUN_ID

RUN, MODEL = AWS_RUN_ID.pattern, NAME.pattern
BATCH = re.compile(
    rf"processing/(?P<run>{RUN})/(?P<model>{MODEL})/(?P<batch>\d{{6,9}})-\d+\.batch\.parquet"
)
# S3 sends events for the first attempt only; later ones are requested by messages
FIRST_ATTEMPT = 1


def event_key(run: str, model: str, batch: int) -> str:
    """Return the key of the object that makes S3 announce a batch."""
    return f"processing/{run}/{model}/{batch:06d}-0.batch.parquet"


@dataclass(frozen=True, slots=True)
class S3Event:
    """An event of S3: the batch exists, and all of it is to be processed."""

    run: str
    model: str
    batch: int
    attempt: int = FIRST_ATTEMPT


@dataclass(frozen=True, slots=True)
class SqsMessage:
    """An SQS message as Lambda delivers it: its id, its number of deliveries, and its requests.

    `returned`: how often workers with other code than its run's have returned it.
    """

    id: str
    body: str
    receipt: str
    receive_count: int
    returned: int = 0
    requests: tuple[Message | S3Event, ...] = ()

    @classmethod
    def parse(cls, record: Mapping[str, Any], bucket: str) -> SqsMessage:
        """Parse a record; ValueError for a body that this package did not write."""
        requests = tuple(parse_body(record["body"], bucket))
        return cls(*_envelope_of(record), requests=requests)

    @classmethod
    def unparsed(cls, record: Mapping[str, Any]) -> SqsMessage:
        """Return a message without parsing its body."""
        return cls(*_envelope_of(record))


def _envelope_of(record: Mapping[str, Any]) -> tuple[str, str, str, int, int]:
    returned = record.get("messageAttributes", {}).get("returned", {}).get("stringValue", "")
    return (
        record["messageId"],
        record["body"],
        record.get("receiptHandle", ""),
        int(record["attributes"]["ApproximateReceiveCount"]),
        int(returned) if returned.isdecimal() else 0,
    )


def parse_body(body: str, bucket: str) -> Iterator[Message | S3Event]:
    """Yield the requests of a body; none for the test event of S3.

    Raises:
        ValueError: this package did not write the body.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__} in JSON, expected an object")
    if found.get("Event") == "s3:TestEvent":
        return
    if isinstance(found.get("Records"), list):
        for record in found["Records"]:
            yield _parse_event(record, bucket)
    else:
        yield _parse_message(found)


def _parse_message(found: Mapping[str, Any]) -> Message:
    missing, extra = (
        [name for name in Message.__slots__ if name not in found],
        len(found.keys() - set(Message.__slots__)),
    )
    if missing or extra:
        raise ValueError(
            f"as a message it lacks {', '.join(missing) or 'nothing'}, and has {extra} other fields"
        )
    message = Message(**found)
    if not isinstance(message.run, str) or not re.fullmatch(RUN, message.run):
        raise ValueError("its run is not a run id")
    if not isinstance(message.model, str) or not re.fullmatch(MODEL, message.model):
        raise ValueError("its model is not a model name")
    numbers = (message.batch, message.first, message.last, message.attempt)
    if not all(type(n) is int and n >= 0 for n in numbers) or message.last < message.first:
        raise ValueError("its batch, units and attempt are not numbers of a slice")
    return message


def _parse_event(record: Any, bucket: str) -> S3Event:
    try:
        name, key, bucket_name = (
            str(record["eventName"]),
            unquote_plus(record["s3"]["object"]["key"]),
            record["s3"]["bucket"]["name"],
        )
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it has Records, but not in the format of S3") from None
    if bucket_name != bucket:
        raise ValueError("it is about another bucket")
    batch = BATCH.fullmatch(key)
    if batch is None or not name.startswith("ObjectCreated:"):
        raise ValueError("it is not about a new batch")
    return S3Event(batch["run"], batch["model"], int(batch["batch"]))


def to_slice(request: Message | S3Event, manifest: Manifest) -> Message:
    """Return the slice that is requested; ValueError if the manifest has no such slice."""
    if request.batch >= len(manifest.batches):
        raise ValueError(
            f"{request.model} has no batch {request.batch}: it has {len(manifest.batches)}"
        )
    batch = manifest.batches[request.batch]
    if isinstance(request, S3Event):
        return Message(
            request.run, request.model, batch.number, batch.first, batch.last, request.attempt
        )
    if not batch.first <= request.first <= request.last <= batch.last:
        raise ValueError(
            f"batch {batch.number} of {request.model} does not hold units {request.first} to "
            f"{request.last}"
        )
    return request
