"""Any sequence of calls: every kind of queue does what a list of messages and a clock would do.

SQS keeps no order, buries a message only when somebody asks for one, and deletes by a receipt whose
lease has run out: its model says so.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.local.sqlite_queue import SqliteQueue
from hundredfold.ports.interfaces import Delivery, Depth
from hundredfold.testing import MemoryQueue
from support.aws_account import LedClock

VISIBILITY, MAX_RECEIVES = 10.0, 2
SECONDS = st.sampled_from([0, 1, 9, 10, 11])


@dataclass
class Letter:
    body: str
    receive_count: int = 0
    receipt: str = ""
    due: float = 0.0
    buried: bool = False

    def place(self, now: float) -> str:
        if self.due > now:
            return "leased"
        return "dead" if self.buried else "waiting"


class QueueMachine(RuleBasedStateMachine):
    """The model is `letters`, in the order of sending; the kinds below say what it is compared
    with.
    """

    receipts = Bundle("receipts")

    def __init__(self) -> None:
        super().__init__()
        self.clock = LedClock()
        self.queue = self.make(
            visibility=VISIBILITY,
            max_receives=MAX_RECEIVES,
            clock=self.clock,
            sleep=self.clock.advance,
        )
        self.letters: list[Letter] = []
        self.sent = 0

    def make(self, **arguments):
        raise NotImplementedError

    def teardown(self) -> None:
        self.queue.close()

    def at(self, place: str) -> list[Letter]:
        return [letter for letter in self.letters if letter.place(self.clock()) == place]

    def leased(self, receipt: str) -> list[Letter]:
        return [letter for letter in self.at("leased") if letter.receipt == receipt]

    def bury(self) -> None:
        for letter in self.at("waiting"):
            letter.buried = letter.receive_count >= MAX_RECEIVES

    @rule(count=st.integers(0, 3))
    def send(self, count: int) -> None:
        bodies = [f"message {self.sent + i}" for i in range(count)]
        self.sent += count
        self.queue.send(bodies)
        self.letters += map(Letter, bodies)

    @rule(target=receipts)
    def receive(self):
        delivery = self.queue.receive()
        self.bury()
        waiting = self.at("waiting")
        if not waiting:
            assert delivery is None
            return multiple()
        letter = self.handed_out(waiting, delivery)
        letter.receive_count += 1
        letter.receipt, letter.due = delivery.receipt, self.clock() + VISIBILITY
        assert (delivery.body, delivery.receive_count) == (letter.body, letter.receive_count)
        return delivery.receipt

    def handed_out(self, waiting: list[Letter], _: Delivery) -> Letter:
        return waiting[0]

    @rule(receipt=receipts)
    def delete(self, receipt: str) -> None:
        gone = self.deletable(receipt)
        self.check_deleted(self.queue.delete(receipt), gone)
        self.letters = [letter for letter in self.letters if letter not in gone]

    def deletable(self, receipt: str) -> list[Letter]:
        return self.leased(receipt)

    def check_deleted(self, told: bool, gone: list[Letter]) -> None:
        assert told == bool(gone)

    @rule(receipt=receipts, seconds=SECONDS)
    def extend(self, receipt: str, seconds: float) -> None:
        leased = self.leased(receipt)
        assert self.queue.extend(receipt, seconds) == bool(leased)
        for letter in leased:
            letter.due = self.clock() + seconds

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(sure=st.integers(0, 4))
    def purge(self, sure: int) -> None:
        if sure == 0:  # seldom, or no other story grows long
            self.queue.purge()
            self.letters = []

    @invariant()
    def the_queue_holds_what_the_model_holds(self) -> None:
        assert self.queue.depth() == Depth(
            *(len(self.at(place)) for place in ("waiting", "leased", "dead"))
        )
        assert sorted(self.queue.dead()) == sorted(letter.body for letter in self.at("dead"))


class ExactMachine(QueueMachine):
    def at(self, place: str) -> list[Letter]:
        for letter in self.letters:
            letter.buried = letter.receive_count >= MAX_RECEIVES
        return super().at(place)

    @rule()
    def release(self) -> None:
        leased = self.at("leased")
        assert self.queue.release() == len(leased)
        for letter in leased:
            letter.due = self.clock()

    @invariant()
    def the_dead_letters_are_in_order(self) -> None:
        assert list(self.queue.dead()) == [letter.body for letter in self.at("dead")]


class MemoryMachine(ExactMachine):
    def make(self, **arguments):
        return MemoryQueue(**arguments)


class LocalMachine(ExactMachine):
    def make(self, **arguments):
        self.folder = Path(tempfile.mkdtemp())
        return SqliteQueue(self.folder / "queue.sqlite", **arguments)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class SqsMachine(QueueMachine):
    account = None

    def make(self, *, visibility, max_receives, clock, sleep):
        self.stack = ExitStack()
        self.stack.enter_context(self.account.following(clock))
        return SqsQueue(
            *self.account.queues(visibility=visibility, max_receives=max_receives),
            linger=0,
            sleep=sleep,
        )

    def teardown(self) -> None:
        super().teardown()
        self.stack.close()

    def handed_out(self, waiting: list[Letter], delivery: Delivery) -> Letter:
        return next(letter for letter in waiting if letter.body == delivery.body)

    def deletable(self, receipt: str) -> list[Letter]:
        return [
            letter for letter in self.letters if letter.receipt == receipt and not letter.buried
        ]

    def check_deleted(self, told: bool, gone: list[Letter]) -> None:
        assert told or not gone


TestMemory = MemoryMachine.TestCase
TestLocal = LocalMachine.TestCase
TestSqs = SqsMachine.TestCase
TestMemory.settings = TestLocal.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, database=None
)
TestSqs.settings = settings(
    max_examples=5, stateful_step_count=25, deadline=None, database=None
)  # each step asks over HTTP


@pytest.fixture(autouse=True)
def reach_sqs(request):
    if request.cls is TestSqs:
        SqsMachine.account = request.getfixturevalue("account")
