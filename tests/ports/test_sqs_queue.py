"""Features of the SQS queue alone: calls of ten messages, long polls, lost replies, and concurrent
dead-letter readers.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold.aws.adapters.sqs_queue import (
    DEAD_LETTER_LEASE_S,
    MAX_BYTES,
    MAX_ENTRIES,
    SqsQueue,
    group_by_call,
)
from hundredfold.errors import HomeError
from hundredfold.ports.interfaces import Depth
from support.aws_account import Account, LinkedClock
from support.faulty_connection import FaultyConnection
from support.waits import HANG_S


@pytest.fixture
def make(account: Account, clock: LinkedClock) -> Iterator[Any]:
    """Create a queue with leases of 60 seconds, one receive, and a sleep that moves the clock."""
    with account.linked_to(clock):
        yield lambda **settings: SqsQueue(
            *account.queues(visibility=60, max_receives=1),
            **{"linger": 0, "sleep": clock.advance, **settings},
        )


@pytest.fixture
def queue(make: Callable[..., SqsQueue]) -> Any:
    return make()


def taken(queue: Any) -> list[str]:
    """Return the bodies of all messages."""
    bodies = []
    while delivery := queue.receive():
        queue.delete(delivery.receipt)
        bodies.append(delivery.body)
    return sorted(bodies)


def die(queue: Any, clock: LinkedClock, *bodies: str) -> None:
    """Let these messages be dead-lettered."""
    queue.send(bodies)
    while queue.receive():
        pass
    clock.advance(60)
    assert queue.receive() is None


def test_a_queue_can_be_sent_to_another_process(make: Callable[..., SqsQueue]) -> None:
    queue = make(sleep=time.sleep)
    queue.send(["a"])
    assert pickle.loads(pickle.dumps(queue)).receive().body == "a"


@pytest.mark.parametrize(
    "text", ["", "a\0b", "\x1b[31m", "\ufffe", "x" * (MAX_BYTES + 1), "ü" * (MAX_BYTES // 2 + 1)]
)
def test_invalid_bodies_are_rejected_before_anything_is_sent(queue: Any, text: str) -> None:
    with pytest.raises(ValueError, match="cannot be an SQS message"):
        queue.send([*"abcdefghijkl", text])
    assert queue.depth() == Depth(0, 0, 0)


@given(
    sizes=st.lists(
        st.integers(1, MAX_BYTES // 4) | st.just(MAX_BYTES) | st.integers(1, 10), max_size=40
    )
)
def test_messages_are_grouped_in_order_within_the_limits_of_sqs(sizes: list[int]) -> None:
    bodies = [str(number % 10) * size for number, size in enumerate(sizes)]
    calls = [*group_by_call(bodies)]
    assert [body for call in calls for body in call] == bodies
    assert all(0 < len(call) <= MAX_ENTRIES and sum(map(len, call)) <= MAX_BYTES for call in calls)
    assert all(
        len(a) == MAX_ENTRIES or sum(map(len, a)) + len(b[0]) > MAX_BYTES
        for a, b in pairwise(calls)
    )


def test_many_and_large_messages_all_arrive(queue: Any, connection: FaultyConnection) -> None:
    bodies = [f"{number:04d}" for number in range(95)] + ["ü" * 400_000, "x" * MAX_BYTES]
    queue.send(bodies)
    assert connection.count_requests("SendMessageBatch") == 11
    assert taken(queue) == sorted(bodies)


def test_messages_that_sqs_did_not_accept_are_sent_again(
    queue: Any, connection: FaultyConnection
) -> None:
    failed = [
        {"Id": "1", "Code": "InternalError", "SenderFault": False},
        {"Id": "2", "Code": "RequestThrottled", "SenderFault": False},
    ]
    successful = {
        "Id": "0",
        "MessageId": "1",
        "MD5OfMessageBody": "0cc175b9c0f1b6a831c399e269772661",
    }
    connection.reply(
        "SendMessageBatch", json.dumps({"Successful": [successful], "Failed": failed}).encode()
    )
    queue.send(["a", "b", "c"])
    assert taken(queue) == ["b", "c"]  # "a" was accepted, but reported as failed


@pytest.mark.parametrize(("fault", "calls"), [(False, 6), (True, 1)], ids=["busy", "wrong"])
def test_messages_that_sqs_rejects_are_an_error(
    queue: Any, connection: FaultyConnection, fault: Any, calls: Any
) -> None:
    failed = [{"Id": id, "Code": "Odd", "Message": "so it is", "SenderFault": fault} for id in "01"]
    connection.reply(
        "SendMessageBatch", json.dumps({"Successful": [], "Failed": failed}).encode(), times=100
    )
    with pytest.raises(
        HomeError, match="did not accept 2 of 2 messages\n  Odd: so it is"
    ) as caught:
        queue.send(["a", "b"])
    assert connection.count_requests("SendMessageBatch") == calls
    assert "resume" in str(caught.value.hint)


def test_a_call_whose_reply_is_lost_is_repeated(queue: Any, connection: FaultyConnection) -> None:
    connection.lose_reply("SendMessageBatch")
    queue.send(["a"])
    assert taken(queue) == ["a", "a"]  # at least once


def test_waiting_takes_the_given_wall_clock_time(account: Account) -> None:
    queue = SqsQueue(*account.queues(visibility=60, max_receives=3))
    start = time.monotonic()
    assert queue.receive(wait=1) is None
    assert time.monotonic() - start > 0.9


def test_waiting_ends_with_a_message(account: Account) -> None:
    queue = SqsQueue(*account.queues(visibility=60, max_receives=3))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.receive, 20)
        time.sleep(0.2)
        queue.send(["late"])
        delivery = waiting.result(timeout=HANG_S)
        assert delivery is not None
        assert delivery.body == "late"


def test_a_wait_beyond_the_maximum_of_sqs_is_split(
    queue: Any, connection: FaultyConnection
) -> None:
    connection.reply("ReceiveMessage", b"{}", times=3)
    assert queue.receive(wait=50.5) is None
    assert [json.loads(request.body)["WaitTimeSeconds"] for request in connection.operations] == [
        20,
        20,
        11,
    ]


@pytest.mark.parametrize(("seconds", "lease"), [(0.2, 1), (60, 60), (1e9, 43_200), (-5, 0)])
def test_a_lease_has_whole_seconds_within_the_limits_of_sqs(
    queue: Any, connection: FaultyConnection, seconds: float, lease: float
) -> None:
    queue.send(["a"])
    assert queue.extend(queue.receive().receipt, seconds)
    assert json.loads(connection.operations[-1].body)["VisibilityTimeout"] == lease


def test_a_lease_beyond_twelve_hours_is_not_extended(
    queue: Any, connection: FaultyConnection
) -> None:
    queue.send(["a"])
    reason = (
        "Value 60 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for "
        "the message is beyond the limit"
    )
    connection.fail_with("ChangeMessageVisibility", 400, "InvalidParameterValue", reason)
    assert not queue.extend(queue.receive().receipt, 60)


def test_dead_letters_are_released_when_their_reader_fails(
    queue: Any, connection: FaultyConnection, clock: LinkedClock
) -> None:
    die(queue, clock, *map(str, range(12)))
    connection.fail_with("ReceiveMessage", 403, "AccessDenied", after=1)
    with pytest.raises(HomeError, match="lack the permission ReceiveMessage"):
        queue.dead()
    assert sorted(queue.dead()) == sorted(map(str, range(12)))


def test_dead_letters_are_released_when_their_reader_dies(
    account: Account, queue: Any, clock: LinkedClock
) -> None:
    die(queue, clock, "a")
    # and never continues
    account.emulator.client("sqs").receive_message(
        QueueUrl=queue.dead_url, VisibilityTimeout=DEAD_LETTER_LEASE_S
    )
    assert queue.dead() == []
    assert queue.depth() == Depth(0, 0, 1)
    clock.advance(DEAD_LETTER_LEASE_S)
    assert queue.dead() == ["a"]


def test_dead_letters_are_sorted_by_age(queue: Any, clock: LinkedClock) -> None:
    for body in "cab":
        die(queue, clock, body)
    assert queue.dead() == ["c", "a", "b"]


def test_a_rejected_message_is_dead_lettered_with_its_reason(account: Account, queue: Any) -> None:
    queue.dead_letter("not ours", "it is no message of a run\n" * 100)
    assert queue.dead() == ["not ours"]
    message = account.emulator.client("sqs").receive_message(
        QueueUrl=queue.dead_url, MessageAttributeNames=["All"]
    )["Messages"][0]
    assert message["MessageAttributes"]["reason"]["StringValue"].startswith(
        "it is no message of a run"
    )


def test_purging_waits_until_sqs_has_deleted_everything(
    queue: Any, connection: FaultyConnection, clock: LinkedClock
) -> None:
    queue.send(["a"])
    connection.fail_with("PurgeQueue", 403, "AWS.SimpleQueueService.PurgeQueueInProgress", times=2)
    start = clock()
    queue.purge()
    assert clock() - start == 5 + 5 + 60
    assert queue.depth() == Depth(0, 0, 0)


def test_a_purge_that_is_never_allowed_is_an_error(
    queue: Any, connection: FaultyConnection
) -> None:
    connection.fail_with(
        "PurgeQueue",
        403,
        "AWS.SimpleQueueService.PurgeQueueInProgress",
        "Only one PurgeQueue operation",
        times=1_000,
    )
    with pytest.raises(HomeError, match=r"cannot be purged: .*PurgeQueueInProgress"):
        queue.purge()


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.send(["a"]),
        lambda queue: queue.receive(),
        lambda queue: queue.extend("a", 1),
        lambda queue: queue.delete("a"),
        lambda queue: queue.dead(),
        lambda queue: queue.purge(),
        lambda queue: queue.depth(),
    ],
    ids=["send", "receive", "extend", "delete", "dead", "purge", "depth"],
)
def test_a_missing_queue_is_an_error(account: Account, call: Any) -> None:
    queue = SqsQueue(
        f"{account.emulator.url}/123456789012/none",
        f"{account.emulator.url}/123456789012/none-dead",
    )
    with pytest.raises(HomeError, match=r"the queue .*/none.* not found") as caught:
        call(queue)
    assert "hundredfold deploy" in str(caught.value.hint)
