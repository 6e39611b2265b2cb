"""A worker pool without processes, for runs of the whole driver in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hundredfold.data.messages import Message
from hundredfold.workers.pool import WorkerPool, WorkerSlot
from hundredfold.workers.protocol import NO_STOP, NO_UNIT, PoolEvent
from hundredfold.workers.unit_runner import UnitRunner


@dataclass
class InProcessPool(WorkerPool):
    """A pool without processes: each message is executed when events are requested."""

    def __post_init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.slots = [
            WorkerSlot(number, progress=[NO_UNIT, 0, NO_STOP]) for number in range(self.size)
        ]
        self.unit_runner = UnitRunner(self.context, [NO_UNIT, 0, NO_STOP], self.sent.append)
        self._starting, self._failed = None, None
        self.replaced = Counter()

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def assign(
        self,
        slot: WorkerSlot,
        message: Message,
        narrow: bool = False,  # noqa: ARG002
        final: bool = False,  # noqa: ARG002
    ) -> None:  # nothing is short here
        slot.message, slot.done = message, message.first - 1

    # nothing is waited for
    def events(self, timeout: float) -> Iterator[tuple[WorkerSlot, PoolEvent]]:  # noqa: ARG002
        for slot in self.slots:
            if slot.message is not None:
                self.sent.clear()
                self.unit_runner.run(slot.message)
                for event in list(self.sent):
                    yield from self._handle(slot, event)


def published_bytes(home: Path) -> dict[str, bytes]:
    """Return the results and releases of a home that readers use, by their path in it."""
    found = [*home.glob("runs/r/models/*/results.parquet"), *home.glob("releases/**/*")]
    return {
        str(path.relative_to(home)): path.read_bytes() for path in sorted(found) if path.is_file()
    }
