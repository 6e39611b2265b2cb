"""How a worker parses the body of a message, including one that this package did not write."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold.aws.work.messages import S3Event, SqsMessage, event_key, parse_body, to_slice
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Batch, Message

BUCKET = "prices"
runs = st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True)
models = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
numbers = st.integers(0, 999_999)
json_ = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Message.__slots__, "Records", "Event", "s3"]), inner)
    ),
    max_leaves=12,
)


def s3_event(key: str, bucket: str = BUCKET, name: str = "ObjectCreated:Put") -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


@given(runs, models, numbers, numbers, numbers, numbers)
def test_our_message_is_parsed_as_it_was_written(
    run: str, model: str, batch: int, first: int, more: int, attempt: int
) -> None:
    message = Message(run, model, batch, first, first + more, attempt)
    assert list(parse_body(str(message), BUCKET)) == [message]


@given(runs, models, numbers, st.sampled_from(["", "/"]))
def test_an_s3_event_is_parsed_in_every_encoding_of_its_key(
    run: str, model: str, batch: int, kept: str
) -> None:
    key = quote_plus(event_key(run, model, batch), safe=kept)
    assert list(parse_body(json.dumps({"Records": [s3_event(key)]}), BUCKET)) == [
        S3Event(run, model, batch)
    ]


def test_the_test_event_of_s3_requests_nothing() -> None:
    assert (
        list(
            parse_body(
                json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}),
                BUCKET,
            )
        )
        == []
    )


@given(json_.map(json.dumps) | st.text())
def test_any_body_is_one_of_ours_or_rejected(body: str) -> None:
    """The parts of a valid body can be used in a key; an error does not quote the body."""
    reason, found = "", []
    try:
        found = list(parse_body(body, BUCKET))
    except ValueError as error:
        reason = str(error)
    assert all(
        isinstance(each, Message | S3Event) and not set(each.run) & set("/.\\") for each in found
    )
    assert len(body) < 12 or body not in reason


MANIFEST = Manifest("fit", ("k",), (), 10, 10, (), (Batch(0, 0, 3, 4, 4.0), Batch(1, 4, 9, 6, 6.0)))


@pytest.mark.parametrize(("batch", "first", "last"), [(0, 0, 3), (0, 2, 2), (1, 4, 9), (1, 9, 9)])
def test_a_slice_of_its_batch_is_accepted(batch: int, first: int, last: int) -> None:
    assert to_slice(Message("r", "fit", batch, first, last), MANIFEST) == Message(
        "r", "fit", batch, first, last
    )


@pytest.mark.parametrize(
    ("batch", "first", "last"), [(0, 0, 4), (0, 4, 5), (1, 3, 9), (1, 9, 10), (2, 0, 0)]
)
def test_a_slice_of_another_batch_is_rejected(batch: int, first: int, last: int) -> None:
    with pytest.raises(ValueError, match="batch"):
        to_slice(Message("r", "fit", batch, first, last), MANIFEST)


def test_an_s3_event_requests_its_whole_batch() -> None:
    assert to_slice(S3Event("r", "fit", 1), MANIFEST) == Message("r", "fit", 1, 4, 9)


def test_a_message_has_its_number_of_deliveries() -> None:
    record: dict[str, Any] = {
        "messageId": "m",
        "receiptHandle": "h",
        "body": str(Message("r", "fit", 0, 0, 0)),
        "attributes": {"ApproximateReceiveCount": "3"},
    }
    assert SqsMessage.parse(record, BUCKET) == SqsMessage(
        "m", record["body"], "h", 3, requests=(Message("r", "fit", 0, 0, 0),)
    )
    record["messageAttributes"] = {"returned": {"stringValue": "7", "dataType": "Number"}}
    assert SqsMessage.parse(record, BUCKET).returned == 7
