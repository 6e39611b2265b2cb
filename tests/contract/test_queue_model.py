"""Any sequence of calls: every kind of queue does what a list of messages and a clock would do."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from hundredfold.local.queue import SqliteQueue
from hundredfold.ports import Depth
from hundredfold.testing import HandClock, MemoryQueue

VISIBILITY, MAX_RECEIVES = 10.0, 2
SECONDS = st.sampled_from([0, 1, 9, 10, 11])


@dataclass
class Letter:
    body: str
    received: int = 0
    receipt: str = ""
    due: float = 0.0

    def place(self, now: float) -> str:
        if self.due > now:
            return "leased"
        return "dead" if self.received >= MAX_RECEIVES else "waiting"


class QueueMachine(RuleBasedStateMachine):
    """The model is `letters`, in the order of sending; the kinds below say what it is compared with."""

    receipts = Bundle("receipts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = HandClock()
        self.queue = self.make(visibility=VISIBILITY, max_receives=MAX_RECEIVES, clock=self.clock, sleep=self.clock.advance)
        self.letters: list[Letter] = []
        self.sent = 0

    def make(self, **arguments):
        raise NotImplementedError

    def teardown(self) -> None:
        self.queue.close()
        shutil.rmtree(self.folder)

    def at(self, place: str) -> list[Letter]:
        return [letter for letter in self.letters if letter.place(self.clock()) == place]

    def leased(self, receipt: str) -> list[Letter]:
        return [letter for letter in self.at("leased") if letter.receipt == receipt]

    @rule(count=st.integers(0, 3))
    def send(self, count: int) -> None:
        bodies = [f"message {self.sent + i}" for i in range(count)]
        self.sent += count
        self.queue.send(bodies)
        self.letters += map(Letter, bodies)

    @rule(target=receipts)
    def receive(self):
        delivery = self.queue.receive()
        waiting = self.at("waiting")
        if not waiting:
            assert delivery is None
            return multiple()
        letter = waiting[0]
        letter.received += 1
        letter.receipt, letter.due = delivery.receipt, self.clock() + VISIBILITY
        assert (delivery.body, delivery.received) == (letter.body, letter.received)
        return delivery.receipt

    @rule(receipt=receipts)
    def delete(self, receipt: str) -> None:
        gone = self.leased(receipt)
        assert self.queue.delete(receipt) == bool(gone)
        self.letters = [letter for letter in self.letters if letter not in gone]

    @rule(receipt=receipts, seconds=SECONDS)
    def extend(self, receipt: str, seconds: float) -> None:
        leased = self.leased(receipt)
        assert self.queue.extend(receipt, seconds) == bool(leased)
        for letter in leased:
            letter.due = self.clock() + seconds

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def release(self) -> None:
        leased = self.at("leased")
        assert self.queue.release() == len(leased)
        for letter in leased:
            letter.due = self.clock()

    @rule()
    def redrive(self) -> None:
        dead = self.at("dead")
        assert self.queue.redrive() == len(dead)
        self.letters = [letter for letter in self.letters if letter not in dead] + [Letter(letter.body) for letter in dead]

    @rule(sure=st.integers(0, 4))
    def purge(self, sure: int) -> None:
        if sure == 0:  # seldom, or no other story grows long
            self.queue.purge()
            self.letters = []

    @invariant()
    def the_queue_holds_what_the_model_holds(self) -> None:
        assert self.queue.depth() == Depth(*(len(self.at(place)) for place in ("waiting", "leased", "dead")))
        assert list(self.queue.dead()) == [letter.body for letter in self.at("dead")]


class MemoryMachine(QueueMachine):
    def make(self, **arguments):
        return MemoryQueue(**arguments)


class LocalMachine(QueueMachine):
    def make(self, **arguments):
        return SqliteQueue(self.folder / "queue.sqlite", **arguments)


TestMemory = MemoryMachine.TestCase
TestLocal = LocalMachine.TestCase
TestMemory.settings = TestLocal.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, database=None)
