"""The data that a driver and a worker exchange: the worker's context, the events of its work, and
its progress in shared memory.

The progress is three integers: the unit at work, the time at which it began (monotonic, in ns), and
the last unit of the slice that is still wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ..data.layout import Layout
from ..data.messages import Message
from ..errors import HundredfoldError
from ..job import Job, Model
from ..ports.interfaces import Store
from .code_snapshot import Snapshot

NO_UNIT, ALL_UNITS = -1, -2  # values of the first integer that name no single unit


NO_STOP = 2**62  # value of the third integer when all units of the slice are wanted


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The data that a worker needs, sent to it once."""

    job: Job
    layout: Layout
    store: Store
    code: Snapshot | None = None  # the job's own modules, as they are to be imported

    def model(self, name: str) -> Model:
        return self.job.model(name)


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """Units first..last are done: their results and statuses, as they are stored."""

    message: Message
    results: bytes | pa.Buffer
    ledger: bytes


@dataclass(frozen=True, slots=True)
class SliceDone:
    """The units up to `last` are done: all of the message, or as many as were still wanted."""

    message: Message
    last: int


@dataclass(frozen=True, slots=True)
class SliceRejected:
    """The function raised on several units at once: they are to be tried in halves."""

    message: Message


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker died: on `unit`, on `many` units at once, or (neither) before it reached any."""

    message: Message
    unit: int | None
    many: bool
    reason: str
    done: int  # the last unit whose chunk arrived; first - 1 if none did
    outside: bool = False  # it was killed from outside: the unit may be innocent
    # if it ran out of memory: "reported" by it, "killed" for it, or "aborted" (as when an
    # allocation fails)
    memory: str = ""
    fresh: bool = False  # it had executed no other slice before
    # it ended itself for an error that the function did not raise; `error`, if that is one of ours
    internal: bool = False
    error: HundredfoldError | None = None


PoolEvent = ChunkDone | SliceDone | SliceRejected | WorkerDied
