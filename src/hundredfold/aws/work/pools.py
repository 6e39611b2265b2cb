"""The worker pool of an attempt of a run, kept from one group of messages to the next."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.messages import Message
from ...workers.pool import WorkerPool, WorkerSlot
from ...workers.protocol import NO_UNIT, WorkerContext

MAX_LOG_BYTES = 10 * 2**20  # output of the user's code that is kept


@dataclass
class ClosablePool(WorkerPool):
    """A worker pool that can be requested to close: then its slots end with their current units.

    It records the first unit of each slot since `reopen`.
    """

    closing: bool = False
    first_units: dict[WorkerSlot, int] = field(default_factory=dict)

    def reopen(self) -> None:
        """Take work again."""
        self.closing, self.first_units = False, {}

    def idle(self) -> Sequence[WorkerSlot]:
        return () if self.closing else super().idle()

    def assign(
        self, slot: WorkerSlot, message: Message, narrow: bool = False, final: bool = False
    ) -> None:
        self.first_units.setdefault(slot, message.first)
        super().assign(slot, message, narrow, final)

    def stop_after_current_units(self) -> bool:
        """Start nothing more, stop after the current units; return whether all slots are idle."""
        self.closing = True
        for slot in self.busy():
            self.stop_after(slot, 0)
        return not self.busy()

    def busy(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.message is not None]

    @property
    def is_idle(self) -> bool:
        return not self.busy()

    def has_started_a_unit(self) -> bool:
        """Return whether any slot has started a unit, or a whole slice at once."""
        return any(slot.progress[0] != NO_UNIT for slot in self.busy())

    def units_at_work(self) -> list[int]:
        """Return the units that are being executed."""
        return [unit for unit, _ in map(self.position, self.busy()) if unit >= 0]


def worker_host() -> str:
    """Return the name of this environment of Lambda, its log stream; or of this container."""
    stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
    return stream or f"{socket.gethostname()}:{os.getpid()}"


@dataclass
class PoolKeeper:
    """At most one pool: for the attempt of the run that was processed last.

    `size` workers, each with `share` bytes of memory (None: not watched).
    """

    size: int
    share: int | None
    logs: Path
    pool: ClosablePool | None = None
    attempt: tuple[str, int] = ("", 0)

    def pool_for(self, context: WorkerContext, attempt: int) -> ClosablePool:
        """Return the pool of a run: that of the last messages, if they were of this attempt."""
        wanted = (context.layout.run, attempt)
        if self.pool is None or self.attempt != wanted or not self._is_ready(self.pool):
            self.stop()
            self.pool = ClosablePool(context, self.size, self.share, self.logs, host=worker_host())
            self.attempt = wanted
            self.pool.start()
        for log_file in self.logs.glob("*"):
            if log_file.stat().st_size > MAX_LOG_BYTES:
                os.truncate(log_file, 0)  # the disk space has to last for the worker's lifetime
        self.pool.reopen()
        return self.pool

    def stop(self) -> None:
        """Stop the worker processes now, even in the middle of a unit."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.stop()

    @staticmethod
    def _is_ready(pool: ClosablePool) -> bool:
        return not any(slot.process is None or slot.message is not None for slot in pool.slots)
