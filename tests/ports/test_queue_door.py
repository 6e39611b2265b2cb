"""The Queue's promises, which every kind of queue keeps.

Tests that ask for `exact` hold the kinds of one machine to more: an order, leases that end in the
moment, exact counts. SQS promises none of that, and its emulator answers more exactly than it does.
"""

from __future__ import annotations

import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.errors import HomeError
from hundredfold.local.sqlite_queue import SqliteQueue
from hundredfold.ports.interfaces import Depth
from hundredfold.testing import MemoryQueue

EXACT = {
    "memory": lambda _, __, **settings: MemoryQueue(**settings),
    "local": lambda ask, _, **settings: SqliteQueue(ask("tmp_path") / "queue.sqlite", **settings),
}


def on_sqs(ask, stack, *, visibility, max_receives, clock, sleep):
    stack.enter_context(ask("account").following(clock))
    return SqsQueue(
        *ask("account").queues(visibility=visibility, max_receives=max_receives),
        linger=0,
        sleep=sleep,
    )


KINDS = {**EXACT, "sqs": on_sqs}


@pytest.fixture
def make(request, clock):
    """Make a queue of a kind: leases of 60 seconds, three receives, and a sleep that moves the
    clock.
    """
    with ExitStack() as stack:

        def make(kind, **settings):
            settings = {
                "visibility": 60.0,
                "max_receives": 3,
                "clock": clock,
                "sleep": clock.advance,
                **settings,
            }
            return stack.enter_context(
                closing(KINDS[kind](request.getfixturevalue, stack, **settings))
            )

        yield make


@pytest.fixture(params=KINDS)
def queue(request, make):
    return make(request.param)


@pytest.fixture(params=EXACT)
def exact(request, make):
    return make(request.param)


def use_up(queue, clock):
    """Take all messages, and let them come back, until none does."""
    while queue.receive():
        clock.advance(60)


def test_an_empty_queue_gives_nothing(queue):
    assert queue.receive() is None
    assert queue.depth() == Depth(0, 0, 0)


def test_messages_come_in_the_order_in_which_they_were_sent(exact):
    exact.send(["a", "b"])
    exact.send(["c"])
    assert [exact.receive().body for _ in range(3)] == ["a", "b", "c"]


def test_a_text_comes_out_as_it_went_in(queue):
    texts = [
        "ü€😀",
        '{"a": "\\n"}',
        "x" * 100_000,
        " \t\r\n<a>&amp;]]> ",
        "'; DROP TABLE messages; --",
    ]
    queue.send(texts)
    assert sorted(queue.receive().body for _ in texts) == sorted(texts)


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_any_text_is_a_message(exact, text):
    exact.send([text])
    assert exact.receive().body == text


def test_the_same_text_sent_twice_is_two_messages(queue):
    queue.send(["a", "a"])
    assert queue.depth().waiting == 2


def test_sending_nothing_is_no_error(queue):
    queue.send([])
    assert queue.depth() == Depth(0, 0, 0)


def test_a_message_in_flight_is_not_handed_out(queue, clock):
    queue.send(["a"])
    queue.receive()
    clock.advance(59.9)
    assert queue.receive() is None
    assert queue.depth() == Depth(0, 1, 0)


def test_a_message_that_is_not_deleted_comes_back(queue, clock):
    queue.send(["a"])
    first = queue.receive()
    clock.advance(60)
    assert queue.depth() == Depth(1, 0, 0)
    second = queue.receive()
    assert (first.body, first.receive_count) == ("a", 1)
    assert (second.body, second.receive_count) == ("a", 2)
    assert first.receipt != second.receipt


def test_a_message_that_comes_back_has_its_old_place_in_the_order(exact, clock):
    exact.send(["a", "b"])
    exact.receive()
    clock.advance(60)
    assert exact.receive().body == "a"


def test_a_deleted_message_never_comes_back(queue, clock):
    queue.send(["a"])
    assert queue.delete(queue.receive().receipt)
    clock.advance(1000)
    assert queue.receive() is None
    assert queue.depth() == Depth(0, 0, 0)


def test_a_message_can_be_deleted_once(exact):
    exact.send(["a"])
    receipt = exact.receive().receipt
    assert exact.delete(receipt)
    assert not exact.delete(receipt)


def test_a_receipt_is_good_for_its_own_delivery_only(exact, clock):
    exact.send(["a"])
    late = exact.receive().receipt
    clock.advance(60)
    mine = exact.receive().receipt
    assert not exact.delete(late)
    assert not exact.extend(late, 60)
    assert exact.delete(mine)


def test_a_receipt_ends_with_its_lease_though_nobody_took_the_message(exact, clock):
    exact.send(["a"])
    receipt = exact.receive().receipt
    clock.advance(60)
    assert not exact.delete(receipt)
    assert not exact.extend(receipt, 60)
    assert exact.receive().body == "a"


@pytest.mark.parametrize("receipt", ["", "1", "1.", "nonsense", "9999999.0"])
def test_a_receipt_that_nobody_was_given_is_good_for_nothing(queue, receipt):
    queue.send(["a"])
    queue.receive()
    queue.delete(receipt)  # of this, SQS may say that it is done
    assert not queue.extend(receipt, 60)
    assert queue.depth().in_flight == 1


@pytest.mark.parametrize("receipt", ["", "1", "1.", "nonsense", "9999999.0"])
def test_nothing_is_deleted_by_a_receipt_that_nobody_was_given(exact, receipt):
    exact.send(["a"])
    exact.receive()
    assert not exact.delete(receipt)


def test_a_lease_is_extended_from_now_on(queue, clock):
    queue.send(["a"])
    delivery = queue.receive()
    clock.advance(50)
    assert queue.extend(delivery.receipt, 100)
    clock.advance(99)
    assert queue.receive() is None
    clock.advance(1)
    assert queue.receive().receive_count == 2


def test_a_lease_can_be_made_shorter(queue, clock):
    queue.send(["a"])
    queue.extend(queue.receive().receipt, 5)
    clock.advance(5)
    assert queue.receive().body == "a"


def test_extending_by_nothing_gives_the_message_back_at_once(queue):
    queue.send(["a"])
    delivery = queue.receive()
    assert queue.extend(delivery.receipt, 0)
    assert not queue.extend(delivery.receipt, 60)
    assert queue.receive().receive_count == 2


def test_a_receipt_that_was_given_back_is_good_for_nothing(exact):
    exact.send(["a"])
    receipt = exact.receive().receipt
    exact.extend(receipt, 0)
    assert not exact.delete(receipt)


def test_a_lease_that_ran_out_cannot_be_extended(queue, clock):
    queue.send(["a"])
    receipt = queue.receive().receipt
    clock.advance(60)
    assert not queue.extend(receipt, 60)
    assert queue.receive().receive_count == 2
    assert not queue.extend(receipt, 60)


def test_a_message_that_came_back_too_often_is_a_dead_letter(queue, clock):
    queue.send(["bad"])
    use_up(queue, clock)
    queue.send(["good"])
    assert queue.receive().body == "good"
    assert queue.receive() is None
    assert queue.dead() == ["bad"]
    assert queue.depth() == Depth(0, 1, 1)


def test_the_last_delivery_is_in_flight_and_not_yet_dead(queue, clock):
    queue.send(["a"])
    for _ in range(2):
        queue.receive()
        clock.advance(60)
    last = queue.receive()
    assert last.receive_count == 3
    assert queue.dead() == []
    assert queue.delete(last.receipt)
    clock.advance(60)
    assert queue.dead() == []


def test_a_dead_letter_is_counted_though_nobody_has_asked_for_messages(exact, clock):
    exact.send(["a"])
    for _ in range(3):
        exact.receive()
        clock.advance(60)
    assert exact.depth() == Depth(0, 0, 1)


def test_the_last_receipt_of_a_dead_letter_is_good_for_nothing(exact, clock):
    exact.send(["a"])
    for _ in range(3):
        last = exact.receive()
        clock.advance(60)
    assert not exact.delete(last.receipt)
    assert not exact.extend(last.receipt, 60)
    assert exact.dead() == ["a"]


def test_reading_the_dead_letters_changes_nothing(queue, clock):
    queue.send([f"letter {number}" for number in range(25)])
    use_up(queue, clock)
    for _ in range(2):
        assert sorted(queue.dead()) == sorted(f"letter {number}" for number in range(25))
    assert queue.depth() == Depth(0, 0, 25)


def test_purge_forgets_everything(queue, clock):
    queue.send(["dead"])
    use_up(queue, clock)
    queue.send(["in flight", "waiting"])
    queue.receive()
    assert queue.depth() == Depth(1, 1, 1)
    queue.purge()
    assert queue.depth() == Depth(0, 0, 0)
    clock.advance(1000)
    assert queue.receive() is None


def test_an_old_receipt_is_no_good_for_the_messages_after_a_purge(exact):
    exact.send(["a"])
    old = exact.receive().receipt
    exact.purge()
    exact.send(["a"])
    exact.receive()
    assert not exact.delete(old)


def test_release_ends_every_lease_and_keeps_the_counts(exact):
    exact.send(["a", "b", "c"])
    receipts = [exact.receive().receipt for _ in range(2)]
    assert exact.release() == 2
    assert exact.depth() == Depth(3, 0, 0)
    assert not any(exact.delete(receipt) for receipt in receipts)
    assert [exact.receive().receive_count for _ in range(3)] == [2, 2, 1]


def test_waiting_in_vain_takes_as_long_as_was_asked(exact, clock):
    start = clock()
    assert exact.receive(wait=20) is None
    assert clock() - start == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize("kind", EXACT)
def test_waiting_burns_no_core(make, clock, kind):
    naps = []
    queue = make(kind, sleep=lambda seconds: (naps.append(seconds), clock.advance(seconds)))
    queue.receive(wait=20)
    assert naps[0] == pytest.approx(0.005)
    assert max(naps) <= 0.2
    assert len(naps) < 120


def test_a_message_that_is_there_is_not_waited_for(queue, clock):
    start = clock()
    queue.send(["a"])
    queue.receive(wait=20)
    assert clock() == start


@pytest.mark.parametrize("kind", EXACT)
def test_waiting_ends_with_a_message_that_is_sent_meanwhile(make, clock, kind):
    queue = make(kind, sleep=lambda seconds: (clock.advance(seconds), queue.send(["late"])))
    start = clock()
    assert queue.receive(wait=20).body == "late"
    assert clock() - start < 0.01


def test_waiting_ends_in_the_moment_in_which_a_lease_ends(exact, clock):
    exact.send(["a"])
    exact.receive()
    start = clock()
    assert exact.receive(wait=100).receive_count == 2
    assert clock() - start == pytest.approx(60, abs=0.005)


def test_many_threads_get_each_message_once(queue):
    bodies = [str(i) for i in range(200)]
    queue.send(bodies)

    def take(_: int) -> list[str]:
        taken = []
        while delivery := queue.receive():
            assert queue.delete(delivery.receipt)
            taken.append(delivery.body)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [body for bodies in pool.map(take, range(8)) for body in bodies]
    assert sorted(taken) == sorted(bodies)


def test_a_second_queue_on_the_file_sees_the_same_messages(tmp_path, clock):
    with (
        closing(SqliteQueue(tmp_path / "q", clock=clock)) as one,
        closing(SqliteQueue(tmp_path / "q", clock=clock)) as two,
    ):
        one.send(["a", "b"])
        assert two.receive().body == "a"
        assert one.receive().body == "b"


def test_a_file_queue_outlives_its_process(tmp_path, clock):
    with closing(SqliteQueue(tmp_path / "deep" / "q", clock=clock)) as queue:
        queue.send(["a"])
        queue.receive()
    assert queue.depth() == Depth(0, 1, 0)  # the next call opens it again
    queue.close()
    queue.close()


def test_a_file_queue_is_sent_to_another_process_with_its_settings(tmp_path, clock):
    with closing(SqliteQueue(tmp_path / "q", visibility=7, max_receives=1, clock=clock)) as queue:
        queue.send(["a"])
        with closing(pickle.loads(pickle.dumps(queue))) as copy:
            copy.receive()
        clock.advance(6.9)
        assert queue.depth() == Depth(0, 1, 0)
        clock.advance(0.1)
        with closing(pickle.loads(pickle.dumps(queue))) as copy:
            assert copy.dead() == ["a"]


def test_looking_into_an_empty_file_queue_takes_no_write_lock(tmp_path, clock):
    with closing(
        SqliteQueue(tmp_path / "q", clock=clock, sleep=clock.advance, patience=0)
    ) as queue:
        queue.send(["in flight"])
        queue.receive()
        with closing(sqlite3.connect(tmp_path / "q", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert queue.receive(wait=5) is None
            assert queue.depth() == Depth(0, 1, 0)
            with pytest.raises(HomeError, match="locked by another process"):
                queue.send(["b"])


def test_a_file_that_is_no_queue_is_told_with_what_to_do(tmp_path):
    (tmp_path / "q").write_text("these are not the bytes of a database" * 100)
    queue = SqliteQueue(tmp_path / "q")
    with pytest.raises(HomeError, match="is damaged") as told:
        queue.receive()
    assert "hundredfold resume" in told.value.hint


def test_a_file_queue_that_cannot_grow_keeps_what_it_had(tmp_path, small_files):
    with closing(SqliteQueue(tmp_path / "q")) as queue:
        queue.send(["a"])
        with small_files(200_000), pytest.raises(HomeError):
            queue.send(["x" * 1000] * 1000)
        assert queue.depth() == Depth(1, 0, 0)
