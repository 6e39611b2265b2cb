"""The promises of the Queue port, held by every implementation.

Tests that request `exact` hold the local implementations to more: an order, leases that end at the
exact time, exact counts. SQS promises none of these, and its emulator is more exact than it is.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.errors import HomeError
from hundredfold.local.sqlite_queue import SqliteQueue
from hundredfold.ports.interfaces import Depth
from hundredfold.testing import MemoryQueue
from support.aws_account import LinkedClock

EXACT: dict[str, Callable[..., Any]] = {
    "memory": lambda _, __, **settings: MemoryQueue(**settings),
    "local": lambda ask, _, **settings: SqliteQueue(ask("tmp_path") / "queue.sqlite", **settings),
}


def on_sqs(
    ask: Callable[[str], Any],
    stack: ExitStack,
    *,
    visibility: float,
    max_receives: int,
    clock: LinkedClock,
    sleep: Callable[[float], object],
) -> Any:
    stack.enter_context(ask("account").linked_to(clock))
    url, dead_url = ask("account").queues(visibility=visibility, max_receives=max_receives)
    return SqsQueue(url, dead_url, linger=0, sleep=sleep)


KINDS: dict[str, Callable[..., Any]] = {**EXACT, "sqs": on_sqs}


@pytest.fixture
def make(request: pytest.FixtureRequest, clock: LinkedClock) -> Iterator[Any]:
    """Create a queue of each kind: leases of 60 seconds, three receives, and a sleep that moves the
    clock.
    """
    with ExitStack() as stack:

        def make(kind: str, **settings: Any) -> Any:
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
def queue(request: pytest.FixtureRequest, make: Any) -> Any:
    return make(request.param)


@pytest.fixture(params=EXACT)
def exact(request: pytest.FixtureRequest, make: Callable[..., Any]) -> Any:
    return make(request.param)


def use_up(queue: Any, clock: LinkedClock) -> None:
    """Receive all messages and let their leases end, until none is delivered any more."""
    while queue.receive():
        clock.advance(60)


def test_an_empty_queue_returns_nothing(queue: Any) -> None:
    assert queue.receive() is None
    assert queue.depth() == Depth(0, 0, 0)


def test_messages_are_received_in_the_order_of_sending(exact: Any) -> None:
    exact.send(["a", "b"])
    exact.send(["c"])
    assert [exact.receive().body for _ in range(3)] == ["a", "b", "c"]


def test_a_text_is_received_as_it_was_sent(queue: Any) -> None:
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
def test_any_text_is_a_message(exact: Any, text: str) -> None:
    exact.send([text])
    assert exact.receive().body == text


def test_the_same_text_sent_twice_is_two_messages(queue: Any) -> None:
    queue.send(["a", "a"])
    assert queue.depth().waiting == 2


def test_sending_no_messages_is_allowed(queue: Any) -> None:
    queue.send([])
    assert queue.depth() == Depth(0, 0, 0)


def test_a_message_in_flight_is_not_delivered(queue: Any, clock: LinkedClock) -> None:
    queue.send(["a"])
    queue.receive()
    clock.advance(59.9)
    assert queue.receive() is None
    assert queue.depth() == Depth(0, 1, 0)


def test_a_message_that_is_not_deleted_is_delivered_again(queue: Any, clock: LinkedClock) -> None:
    queue.send(["a"])
    first = queue.receive()
    clock.advance(60)
    assert queue.depth() == Depth(1, 0, 0)
    second = queue.receive()
    assert (first.body, first.receive_count) == ("a", 1)
    assert (second.body, second.receive_count) == ("a", 2)
    assert first.receipt != second.receipt


def test_a_redelivered_message_keeps_its_position(exact: Any, clock: LinkedClock) -> None:
    exact.send(["a", "b"])
    exact.receive()
    clock.advance(60)
    assert exact.receive().body == "a"


def test_a_deleted_message_is_never_delivered_again(queue: Any, clock: LinkedClock) -> None:
    queue.send(["a"])
    assert queue.delete(queue.receive().receipt)
    clock.advance(1000)
    assert queue.receive() is None
    assert queue.depth() == Depth(0, 0, 0)


def test_a_message_can_be_deleted_only_once(exact: Any) -> None:
    exact.send(["a"])
    receipt = exact.receive().receipt
    assert exact.delete(receipt)
    assert not exact.delete(receipt)


def test_a_receipt_is_valid_for_its_own_delivery_only(exact: Any, clock: LinkedClock) -> None:
    exact.send(["a"])
    late = exact.receive().receipt
    clock.advance(60)
    mine = exact.receive().receipt
    assert not exact.delete(late)
    assert not exact.extend(late, 60)
    assert exact.delete(mine)


def test_a_receipt_expires_with_its_lease(exact: Any, clock: LinkedClock) -> None:
    exact.send(["a"])
    receipt = exact.receive().receipt
    clock.advance(60)
    assert not exact.delete(receipt)
    assert not exact.extend(receipt, 60)
    assert exact.receive().body == "a"


@pytest.mark.parametrize("receipt", ["", "1", "1.", "nonsense", "9999999.0"])
def test_an_unknown_receipt_is_invalid(queue: Any, receipt: str) -> None:
    queue.send(["a"])
    queue.receive()
    queue.delete(receipt)  # SQS may return True here
    assert not queue.extend(receipt, 60)
    assert queue.depth().in_flight == 1


@pytest.mark.parametrize("receipt", ["", "1", "1.", "nonsense", "9999999.0"])
def test_an_unknown_receipt_deletes_nothing(exact: Any, receipt: str) -> None:
    exact.send(["a"])
    exact.receive()
    assert not exact.delete(receipt)


def test_a_lease_is_extended_from_now_on(queue: Any, clock: LinkedClock) -> None:
    queue.send(["a"])
    delivery = queue.receive()
    clock.advance(50)
    assert queue.extend(delivery.receipt, 100)
    clock.advance(99)
    assert queue.receive() is None
    clock.advance(1)
    assert queue.receive().receive_count == 2


def test_a_lease_can_be_made_shorter(queue: Any, clock: LinkedClock) -> None:
    queue.send(["a"])
    queue.extend(queue.receive().receipt, 5)
    clock.advance(5)
    assert queue.receive().body == "a"


def test_extending_by_zero_releases_the_message_at_once(queue: Any) -> None:
    queue.send(["a"])
    delivery = queue.receive()
    assert queue.extend(delivery.receipt, 0)
    assert not queue.extend(delivery.receipt, 60)
    assert queue.receive().receive_count == 2


def test_the_receipt_of_a_released_message_is_invalid(exact: Any) -> None:
    exact.send(["a"])
    receipt = exact.receive().receipt
    exact.extend(receipt, 0)
    assert not exact.delete(receipt)


def test_an_expired_lease_cannot_be_extended(queue: Any, clock: LinkedClock) -> None:
    queue.send(["a"])
    receipt = queue.receive().receipt
    clock.advance(60)
    assert not queue.extend(receipt, 60)
    assert queue.receive().receive_count == 2
    assert not queue.extend(receipt, 60)


def test_a_message_is_dead_lettered_after_too_many_deliveries(
    queue: Any, clock: LinkedClock
) -> None:
    queue.send(["bad"])
    use_up(queue, clock)
    queue.send(["good"])
    assert queue.receive().body == "good"
    assert queue.receive() is None
    assert queue.dead() == ["bad"]
    assert queue.depth() == Depth(0, 1, 1)


def test_the_last_delivery_is_in_flight_and_not_dead_lettered(
    queue: Any, clock: LinkedClock
) -> None:
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


def test_a_dead_letter_is_counted_before_the_next_receive(exact: Any, clock: LinkedClock) -> None:
    exact.send(["a"])
    for _ in range(3):
        exact.receive()
        clock.advance(60)
    assert exact.depth() == Depth(0, 0, 1)


def test_the_last_receipt_of_a_dead_letter_is_invalid(exact: Any, clock: LinkedClock) -> None:
    exact.send(["a"])
    for _ in range(3):
        last = exact.receive()
        clock.advance(60)
    assert not exact.delete(last.receipt)
    assert not exact.extend(last.receipt, 60)
    assert exact.dead() == ["a"]


def test_reading_the_dead_letters_changes_nothing(queue: Any, clock: LinkedClock) -> None:
    queue.send([f"letter {number}" for number in range(25)])
    use_up(queue, clock)
    for _ in range(2):
        assert sorted(queue.dead()) == sorted(f"letter {number}" for number in range(25))
    assert queue.depth() == Depth(0, 0, 25)


def test_purge_deletes_everything(queue: Any, clock: LinkedClock) -> None:
    queue.send(["dead"])
    use_up(queue, clock)
    queue.send(["in flight", "waiting"])
    queue.receive()
    assert queue.depth() == Depth(1, 1, 1)
    queue.purge()
    assert queue.depth() == Depth(0, 0, 0)
    clock.advance(1000)
    assert queue.receive() is None


def test_a_receipt_is_invalid_after_a_purge(exact: Any) -> None:
    exact.send(["a"])
    old = exact.receive().receipt
    exact.purge()
    exact.send(["a"])
    exact.receive()
    assert not exact.delete(old)


def test_release_ends_every_lease_and_keeps_the_counts(exact: Any) -> None:
    exact.send(["a", "b", "c"])
    receipts = [exact.receive().receipt for _ in range(2)]
    assert exact.release() == 2
    assert exact.depth() == Depth(3, 0, 0)
    assert not any(exact.delete(receipt) for receipt in receipts)
    assert [exact.receive().receive_count for _ in range(3)] == [2, 2, 1]


def test_waiting_without_a_message_takes_the_given_time(exact: Any, clock: LinkedClock) -> None:
    start = clock()
    assert exact.receive(wait=20) is None
    assert clock() - start == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize("kind", EXACT)
def test_waiting_uses_no_cpu_time(make: Callable[..., Any], clock: LinkedClock, kind: str) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        clock.advance(seconds)

    queue = make(kind, sleep=sleep)
    queue.receive(wait=20)
    assert naps[0] == pytest.approx(0.005)
    assert max(naps) <= 0.2
    assert len(naps) < 120


def test_an_available_message_is_received_without_waiting(queue: Any, clock: LinkedClock) -> None:
    start = clock()
    queue.send(["a"])
    queue.receive(wait=20)
    assert clock() == start


@pytest.mark.parametrize("kind", EXACT)
def test_waiting_ends_when_a_message_is_sent(
    make: Callable[..., Any], clock: LinkedClock, kind: str
) -> None:
    def sleep(seconds: float) -> None:
        clock.advance(seconds)
        waiting.send(["late"])

    waiting: Any = make(kind, sleep=sleep)
    start = clock()
    assert waiting.receive(wait=20).body == "late"
    assert clock() - start < 0.01


def test_waiting_ends_when_a_lease_ends(exact: Any, clock: LinkedClock) -> None:
    exact.send(["a"])
    exact.receive()
    start = clock()
    assert exact.receive(wait=100).receive_count == 2
    assert clock() - start == pytest.approx(60, abs=0.005)


def test_many_threads_receive_each_message_once(queue: Any) -> None:
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


def test_a_second_queue_on_the_file_sees_the_same_messages(
    tmp_path: Path, clock: LinkedClock
) -> None:
    with (
        closing(SqliteQueue(tmp_path / "q", clock=clock)) as one,
        closing(SqliteQueue(tmp_path / "q", clock=clock)) as two,
    ):
        one.send(["a", "b"])
        received = [queue.receive() for queue in (two, one)]
        assert [delivery and delivery.body for delivery in received] == ["a", "b"]


def test_a_file_queue_survives_its_process(tmp_path: Path, clock: LinkedClock) -> None:
    with closing(SqliteQueue(tmp_path / "deep" / "q", clock=clock)) as queue:
        queue.send(["a"])
        queue.receive()
    assert queue.depth() == Depth(0, 1, 0)  # the next call opens it again
    queue.close()
    queue.close()


def test_a_file_queue_is_sent_to_another_process_with_its_settings(
    tmp_path: Path, clock: LinkedClock
) -> None:
    with closing(SqliteQueue(tmp_path / "q", visibility=7, max_receives=1, clock=clock)) as queue:
        queue.send(["a"])
        with closing(pickle.loads(pickle.dumps(queue))) as copy:
            copy.receive()
        clock.advance(6.9)
        assert queue.depth() == Depth(0, 1, 0)
        clock.advance(0.1)
        with closing(pickle.loads(pickle.dumps(queue))) as copy:
            assert copy.dead() == ["a"]


def test_reading_an_empty_file_queue_takes_no_write_lock(
    tmp_path: Path, clock: LinkedClock
) -> None:
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


def test_a_file_that_is_not_a_queue_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("these are not the bytes of a database" * 100)
    queue = SqliteQueue(tmp_path / "q")
    with pytest.raises(HomeError, match="is damaged") as caught:
        queue.receive()
    assert "hundredfold resume" in str(caught.value.hint)


def test_a_file_queue_that_cannot_grow_keeps_its_messages(
    tmp_path: Path, small_files: Callable[[int], AbstractContextManager[None]]
) -> None:
    with closing(SqliteQueue(tmp_path / "q")) as queue:
        queue.send(["a"])
        with small_files(200_000), pytest.raises(HomeError):
            queue.send(["x" * 1000] * 1000)
        assert queue.depth() == Depth(1, 0, 0)
