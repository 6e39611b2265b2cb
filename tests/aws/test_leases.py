"""Leases that a worker keeps, and what it does with a message whose lease was lost."""

from __future__ import annotations

from typing import Any

from hundredfold.aws.work.leases import Leases
from hundredfold.aws.work.messages import SqsMessage
from hundredfold.aws.work.sources import TakenMessages
from hundredfold.errors import HomeError
from hundredfold.testing import FaultInjector, ManualClock, MemoryQueue

LEASE_S = 60.0


def leased(*bodies: str) -> tuple[ManualClock, MemoryQueue, Leases, list[str]]:
    """Return a queue whose messages are leased, and the receipts."""
    clock = ManualClock()
    queue = MemoryQueue(visibility=LEASE_S, clock=clock, sleep=clock.advance)
    queue.send(bodies)
    receipts = [delivery.receipt for _ in bodies if (delivery := queue.receive()) is not None]
    leases = Leases(queue, LEASE_S, clock)
    leases.hold(receipts, clock())
    return clock, queue, leases, receipts


def test_renewed_leases_outlast_their_first_end() -> None:
    clock, queue, leases, (kept, released) = leased("kept", "released")
    assert leases.release(released)
    for _ in range(10):
        clock.advance(LEASE_S / 3)
        leases.renew()
    assert leases.is_held(kept)
    delivery = queue.receive()
    assert delivery is not None
    assert delivery.body == "released"
    assert queue.receive() is None


def test_a_lease_is_lost_if_it_cannot_be_renewed_in_time() -> None:
    clock, queue, leases, (receipt,) = leased("one")
    leases.queue = FaultInjector(queue, 1, HomeError("the queue cannot be reached"))
    clock.advance(LEASE_S / 2)
    leases.renew()
    assert leases.is_held(receipt)  # the next renewal may succeed
    clock.advance(LEASE_S / 2)
    assert not leases.is_held(receipt)
    leases.queue = queue
    leases.renew()
    assert not leases.is_held(receipt)


def test_a_lease_is_lost_if_another_worker_got_the_message() -> None:
    clock, queue, leases, (receipt,) = leased("one")
    leases.seconds = 10 * LEASE_S  # the worker is wrong about the queue's lease
    leases.hold([receipt], clock())
    clock.advance(LEASE_S)
    assert queue.receive() is not None
    assert leases.is_held(receipt)
    leases.renew()
    assert not leases.is_held(receipt)


def test_a_lost_message_is_not_deleted() -> None:
    clock, queue, leases, (receipt,) = leased("one")
    taken = TakenMessages(_Deleting(queue), leases, clock=clock)  # type: ignore[arg-type]
    taken.held.add(receipt)
    message = SqsMessage("id", "one", receipt, 1)
    assert taken.is_held(message)
    clock.advance(LEASE_S)
    assert not taken.is_held(message)
    taken.finish(message)
    assert queue.depth().waiting == 1


class _Deleting:
    """A queue that deletes a message whatever its receipt, as SQS may."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.queue = queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)

    def delete(self, receipt: str) -> bool:
        self.queue.purge()
        return bool(receipt)
