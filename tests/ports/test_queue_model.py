"""Any sequence of calls: every queue behaves like a list of messages and a clock.

SQS keeps no order, dead-letters a message only at the next receive, and deletes with an expired
receipt: its model does the same.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.local.sqlite_queue import SqliteQueue
from hundredfold.ports.interfaces import Delivery, Depth
from hundredfold.testing import MemoryQueue
from support.aws_account import LinkedClock

VISIBILITY, MAX_RECEIVES = 10.0, 2
SECONDS = st.sampled_from([0, 1, 9, 10, 11])


@dataclass
class ModelMessage:
    body: str
    receive_count: int = 0
    receipt: str = ""
    due: float = 0.0
    dead_lettered: bool = False

    def state(self, now: float) -> str:
        if self.due > now:
            return "leased"
        return "dead" if self.dead_lettered else "waiting"


class QueueMachine(RuleBasedStateMachine):
    """The model is `messages`, in the order of sending; each subclass compares it with one kind of
    queue.
    """

    receipts = Bundle("receipts")

    def __init__(self) -> None:
        super().__init__()
        self.clock = LinkedClock()
        self.queue = self.make(
            visibility=VISIBILITY,
            max_receives=MAX_RECEIVES,
            clock=self.clock,
            sleep=self.clock.advance,
        )
        self.messages: list[ModelMessage] = []
        self.sent = 0

    def make(self, **arguments: Any) -> Any:
        raise NotImplementedError

    def teardown(self) -> None:
        self.queue.close()

    def in_state(self, state: str) -> list[ModelMessage]:
        return [message for message in self.messages if message.state(self.clock()) == state]

    def leased(self, receipt: str) -> list[ModelMessage]:
        return [message for message in self.in_state("leased") if message.receipt == receipt]

    def dead_letter(self) -> None:
        for message in self.in_state("waiting"):
            message.dead_lettered = message.receive_count >= MAX_RECEIVES

    @rule(count=st.integers(0, 3))
    def send(self, count: int) -> None:
        bodies = [f"message {self.sent + i}" for i in range(count)]
        self.sent += count
        self.queue.send(bodies)
        self.messages += map(ModelMessage, bodies)

    @rule(target=receipts)
    def receive(self) -> Any:
        delivery = self.queue.receive()
        self.dead_letter()
        waiting = self.in_state("waiting")
        if not waiting:
            assert delivery is None
            return multiple()
        message = self.delivered(waiting, delivery)
        message.receive_count += 1
        message.receipt, message.due = delivery.receipt, self.clock() + VISIBILITY
        assert (delivery.body, delivery.receive_count) == (message.body, message.receive_count)
        return delivery.receipt

    def delivered(self, waiting: list[ModelMessage], _: Delivery) -> ModelMessage:
        return waiting[0]

    @rule(receipt=receipts)
    def delete(self, receipt: str) -> None:
        deleted = self.may_delete(receipt)
        self.check_deleted(self.queue.delete(receipt), deleted)
        self.messages = [message for message in self.messages if message not in deleted]

    def may_delete(self, receipt: str) -> list[ModelMessage]:
        return self.leased(receipt)

    def check_deleted(self, reported: bool, deleted: list[ModelMessage]) -> None:
        assert reported == bool(deleted)

    @rule(receipt=receipts, seconds=SECONDS)
    def extend(self, receipt: str, seconds: float) -> None:
        leased = self.leased(receipt)
        assert self.queue.extend(receipt, seconds) == bool(leased)
        for message in leased:
            message.due = self.clock() + seconds

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(sure=st.integers(0, 4))
    def purge(self, sure: int) -> None:
        if sure == 0:  # rarely, otherwise no other sequence gets long
            self.queue.purge()
            self.messages = []

    @invariant()
    def the_queue_equals_the_model(self) -> None:
        assert self.queue.depth() == Depth(
            *(len(self.in_state(state)) for state in ("waiting", "leased", "dead"))
        )
        assert sorted(self.queue.dead()) == sorted(
            message.body for message in self.in_state("dead")
        )


class ExactMachine(QueueMachine):
    def in_state(self, state: str) -> list[ModelMessage]:
        for message in self.messages:
            message.dead_lettered = message.receive_count >= MAX_RECEIVES
        return super().in_state(state)

    @rule()
    def release(self) -> None:
        leased = self.in_state("leased")
        assert self.queue.release() == len(leased)
        for message in leased:
            message.due = self.clock()

    @invariant()
    def the_dead_letters_are_in_order(self) -> None:
        assert list(self.queue.dead()) == [message.body for message in self.in_state("dead")]


class MemoryMachine(ExactMachine):
    def make(self, **arguments: Any) -> Any:
        return MemoryQueue(**arguments)


class LocalMachine(ExactMachine):
    def make(self, **arguments: Any) -> Any:
        self.folder = Path(tempfile.mkdtemp())
        return SqliteQueue(self.folder / "queue.sqlite", **arguments)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class SqsMachine(QueueMachine):
    account: Any = None

    def make(self, **arguments: Any) -> Any:
        self.stack = ExitStack()
        self.stack.enter_context(self.account.linked_to(arguments["clock"]))
        url, dead_url = self.account.queues(
            visibility=arguments["visibility"], max_receives=arguments["max_receives"]
        )
        return SqsQueue(url, dead_url, linger=0, sleep=arguments["sleep"])

    def teardown(self) -> None:
        super().teardown()
        self.stack.close()

    def delivered(self, waiting: list[ModelMessage], delivery: Delivery) -> ModelMessage:
        return next(message for message in waiting if message.body == delivery.body)

    def may_delete(self, receipt: str) -> list[ModelMessage]:
        return [
            message
            for message in self.messages
            if message.receipt == receipt and not message.dead_lettered
        ]

    def check_deleted(self, reported: bool, deleted: list[ModelMessage]) -> None:
        assert reported or not deleted


TestMemory = MemoryMachine.TestCase
TestLocal = LocalMachine.TestCase
TestSqs = SqsMachine.TestCase
TestMemory.settings = TestLocal.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, database=None
)
# each step is an HTTP request
TestSqs.settings = settings(max_examples=5, stateful_step_count=25, deadline=None, database=None)


@pytest.fixture(autouse=True)
def reach_sqs(request: pytest.FixtureRequest) -> None:
    if request.cls is TestSqs:
        SqsMachine.account = request.getfixturevalue("account")
