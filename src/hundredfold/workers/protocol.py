"""What a driver and a worker exchange: the worker's context, the events of its work, and marks in shared memory."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ..errors import HundredfoldError
from ..job import Job, Layout, Message, Model
from ..ports.interfaces import Store
from .code_snapshot import Snapshot

NO_UNIT, ALL_UNITS = -1, -2  # what the first mark says when it names no single unit


NO_STOP = 2**62  # what the third says when all units of a slice are wanted


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a child needs to know, sent once."""

    job: Job
    layout: Layout
    store: Store
    code: Snapshot | None = None  # the job's own modules, as they are to be imported

    def model(self, name: str) -> Model:
        return self.job.model(name)


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """Units first..last are done: their results and accounts, as they will lie in the store."""

    message: Message
    results: bytes | pa.Buffer
    accounts: bytes


@dataclass(frozen=True, slots=True)
class SliceDone:
    """The units up to `last` are done: all that were asked for, or as many as were wanted in the end."""

    message: Message
    last: int


@dataclass(frozen=True, slots=True)
class SliceRejected:
    """The function raised on many units at once: they want to be tried in halves."""

    message: Message


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The child died, and why: on `unit`, on `many` units at once, or (neither) before it reached any."""

    message: Message
    unit: int | None
    many: bool
    reason: str
    done: int  # the last unit whose chunk arrived; first - 1 if none did
    outside: bool = False  # it was killed from outside: the unit may be innocent
    memory: str = ""  # it ran out of memory: "said", "killed" for it, or "aborted" as when an allocation fails
    fresh: bool = False  # it had been given nothing before this slice
    internal: bool = False  # it ended itself for an error that the function did not raise; `error`, where that is one of ours
    error: HundredfoldError | None = None


PoolEvent = ChunkDone | SliceDone | SliceRejected | WorkerDied
