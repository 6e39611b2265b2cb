"""What only a queue on SQS has: calls of ten, a long poll, answers that get lost, and tasks that
others do.
"""

from __future__ import annotations

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold.aws.adapters.sqs_queue import DEAD_LEASE, ENTRIES, LARGEST, SqsQueue, batched
from hundredfold.errors import HomeError
from hundredfold.ports.interfaces import Depth
from support.waits import HANG_S


@pytest.fixture
def make(account, clock):
    """Make a queue with leases of 60 seconds, of one receive, and a sleep that moves the clock."""
    with account.following(clock):
        yield lambda **settings: SqsQueue(
            *account.queues(visibility=60, max_receives=1),
            **{"linger": 0, "sleep": clock.advance, **settings},
        )


@pytest.fixture
def queue(make):
    return make()


def taken(queue) -> list[str]:
    """The bodies of all messages."""
    bodies = []
    while delivery := queue.receive():
        queue.delete(delivery.receipt)
        bodies.append(delivery.body)
    return sorted(bodies)


def die(queue, clock, *bodies: str) -> None:
    """Make dead letters of these."""
    queue.send(bodies)
    while queue.receive():
        pass
    clock.advance(60)
    assert queue.receive() is None


def test_it_is_sent_to_another_process(make):
    queue = make(sleep=time.sleep)
    queue.send(["a"])
    assert pickle.loads(pickle.dumps(queue)).receive().body == "a"


@pytest.mark.parametrize(
    "text", ["", "a\0b", "\x1b[31m", "\ufffe", "x" * (LARGEST + 1), "ü" * (LARGEST // 2 + 1)]
)
def test_what_sqs_cannot_hold_is_refused_before_anything_is_sent(queue, text):
    with pytest.raises(ValueError, match="cannot be a message of SQS"):
        queue.send([*"abcdefghijkl", text])
    assert queue.depth() == Depth(0, 0, 0)


@given(
    sizes=st.lists(
        st.integers(1, LARGEST // 4) | st.just(LARGEST) | st.integers(1, 10), max_size=40
    )
)
def test_messages_go_in_order_in_calls_that_sqs_takes(sizes):
    bodies = [str(number % 10) * size for number, size in enumerate(sizes)]
    calls = [*batched(bodies)]
    assert [body for call in calls for body in call] == bodies
    assert all(0 < len(call) <= ENTRIES and sum(map(len, call)) <= LARGEST for call in calls)
    assert all(
        len(a) == ENTRIES or sum(map(len, a)) + len(b[0]) > LARGEST for a, b in pairwise(calls)
    )


def test_many_messages_and_large_ones_all_arrive(queue, line):
    bodies = [f"{number:04d}" for number in range(95)] + ["ü" * 400_000, "x" * LARGEST]
    queue.send(bodies)
    assert line.asked("SendMessageBatch") == 11
    assert taken(queue) == sorted(bodies)


def test_what_sqs_did_not_take_is_sent_again(queue, line):
    failed = [
        {"Id": "1", "Code": "InternalError", "SenderFault": False},
        {"Id": "2", "Code": "RequestThrottled", "SenderFault": False},
    ]
    successful = {
        "Id": "0",
        "MessageId": "1",
        "MD5OfMessageBody": "0cc175b9c0f1b6a831c399e269772661",
    }
    line.answer(
        "SendMessageBatch", json.dumps({"Successful": [successful], "Failed": failed}).encode()
    )
    queue.send(["a", "b", "c"])
    assert taken(queue) == ["b", "c"]  # "a" was taken in a manner of speaking


@pytest.mark.parametrize(("fault", "calls"), [(False, 6), (True, 1)], ids=["busy", "wrong"])
def test_what_sqs_does_not_take_is_told(queue, line, fault, calls):
    failed = [{"Id": id, "Code": "Odd", "Message": "so it is", "SenderFault": fault} for id in "01"]
    line.answer(
        "SendMessageBatch", json.dumps({"Successful": [], "Failed": failed}).encode(), times=100
    )
    with pytest.raises(HomeError, match="did not take 2 of 2 messages\n  Odd: so it is") as told:
        queue.send(["a", "b"])
    assert line.asked("SendMessageBatch") == calls
    assert "resume" in told.value.hint


def test_a_call_whose_answer_is_lost_is_made_again(queue, line):
    line.lose_answer("SendMessageBatch")
    queue.send(["a"])
    assert taken(queue) == ["a", "a"]  # at least once


def test_waiting_takes_as_long_as_was_asked_by_the_clock_on_the_wall(account):
    queue = SqsQueue(*account.queues(visibility=60, max_receives=3))
    start = time.monotonic()
    assert queue.receive(wait=1) is None
    assert time.monotonic() - start > 0.9


def test_waiting_ends_with_a_message(account):
    queue = SqsQueue(*account.queues(visibility=60, max_receives=3))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.receive, 20)
        time.sleep(0.2)
        queue.send(["late"])
        assert waiting.result(timeout=HANG_S).body == "late"


def test_a_wait_beyond_sqs_s_longest_is_several(queue, line):
    line.answer("ReceiveMessage", b"{}", times=3)
    assert queue.receive(wait=50.5) is None
    assert [json.loads(request.body)["WaitTimeSeconds"] for request in line.seen] == [20, 20, 11]


@pytest.mark.parametrize(("seconds", "lease"), [(0.2, 1), (60, 60), (1e9, 43_200), (-5, 0)])
def test_a_lease_has_whole_seconds_within_sqs_s_limits(queue, line, seconds, lease):
    queue.send(["a"])
    assert queue.extend(queue.receive().receipt, seconds)
    assert json.loads(line.seen[-1].body)["VisibilityTimeout"] == lease


def test_a_lease_beyond_twelve_hours_is_not_extended(queue, line):
    queue.send(["a"])
    reason = (
        "Value 60 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for "
        "the message is beyond the limit"
    )
    line.say("ChangeMessageVisibility", 400, "InvalidParameterValue", reason)
    assert not queue.extend(queue.receive().receipt, 60)


def test_the_dead_letters_come_back_when_their_reader_fails(queue, line, clock):
    die(queue, clock, *map(str, range(12)))
    line.say("ReceiveMessage", 403, "AccessDenied", after=1)
    with pytest.raises(HomeError, match="have not the right ReceiveMessage"):
        queue.dead()
    assert sorted(queue.dead()) == sorted(map(str, range(12)))


def test_the_dead_letters_come_back_when_their_reader_dies(account, queue, clock):
    die(queue, clock, "a")
    account.emulator.client("sqs").receive_message(
        QueueUrl=queue.dead_url, VisibilityTimeout=DEAD_LEASE
    )  # and is never heard of again
    assert queue.dead() == []
    assert queue.depth() == Depth(0, 0, 1)
    clock.advance(DEAD_LEASE)
    assert queue.dead() == ["a"]


def test_the_oldest_dead_letter_comes_first(queue, clock):
    for body in "cab":
        die(queue, clock, body)
    assert queue.dead() == ["c", "a", "b"]


def test_a_message_that_is_refused_is_a_dead_letter_with_its_reason(account, queue):
    queue.refuse("not ours", "it is no message of a run\n" * 100)
    assert queue.dead() == ["not ours"]
    letter = account.emulator.client("sqs").receive_message(
        QueueUrl=queue.dead_url, MessageAttributeNames=["All"]
    )["Messages"][0]
    assert letter["MessageAttributes"]["reason"]["StringValue"].startswith(
        "it is no message of a run"
    )


def test_purging_waits_until_sqs_has_forgotten(queue, line, clock):
    queue.send(["a"])
    line.say("PurgeQueue", 403, "AWS.SimpleQueueService.PurgeQueueInProgress", times=2)
    start = clock()
    queue.purge()
    assert clock() - start == 5 + 5 + 60
    assert queue.depth() == Depth(0, 0, 0)


def test_a_purge_that_never_gets_its_turn_is_told(queue, line):
    line.say(
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
def test_a_queue_that_is_not_there_is_told(account, call):
    queue = SqsQueue(
        f"{account.emulator.url}/123456789012/none",
        f"{account.emulator.url}/123456789012/none-dead",
    )
    with pytest.raises(HomeError, match=r"the queue .*/none.* it is not there") as told:
        call(queue)
    assert "hundredfold deploy" in told.value.hint
