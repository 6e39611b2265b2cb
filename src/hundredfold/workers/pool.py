"""The child processes that run the user's function, and the eye on them: the same in a driver, a container and a Lambda.

A child marks the unit it is on in shared memory.  When it dies or outlasts a limit, the one who watches knows which unit
it was, starts another child, and goes on: user code never runs in the process that holds the message, and one bad unit
costs one unit and one process start.
"""

from __future__ import annotations

import contextlib
import errno
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ..errors import HundredfoldError, WorkerError
from ..job import Message
from . import loading, main
from .channel import LOST_CHANNEL, DriverChannel, Garbled
from .isolation import describe_exit, from_outside
from .job_pickle import packed
from .launcher import Launcher, Worker, cannot_start, settings_for
from .loading import Loading, place_of
from .memory import memory_of, size_text
from .protocol import (
    ALL_UNITS,
    NO_STOP,
    NO_UNIT,
    ChunkDone,
    PoolEvent,
    SliceDone,
    SliceRejected,
    WorkerContext,
    WorkerDied,
)

LIMIT_CHECK_S = 0.1  # seconds between looks at limits
STALL_S = 0.5  # a wait that ends so much later than asked for: this process was stopped
ABSENT_S = 1.0  # between two looks at limits: longer than that, and this process may have been stopped outside of a wait
GRACE_S = (
    1.0  # seconds that a child has to end after it closed its pipe, and that a killed server has
)
MAX_STARTS = 3  # so often is a child started that is killed from outside before it is ready
CLOSED_PIPE = "closed or replaced the pipe to its driver"


@dataclass(eq=False)
class WorkerSlot:
    """One place in the pool: a child process, and another when it dies."""

    number: int
    process: Worker | None = None
    pipe: DriverChannel | None = None
    marks: Any = None
    message: Message | None = None
    done: int = -1
    killed: str = ""  # why this pool ended it, or what it said when it died
    blamed: int = NO_UNIT  # the mark that it was ended for
    excused: float = 0.0  # seconds of its unit's time that do not count, and the beginning of the unit that they were given to
    excused_since: int = 0
    memory: str = ""  # as in WorkerDied
    internal: bool = False  # as in WorkerDied
    error: HundredfoldError | None = None  # as in WorkerDied
    ready: bool = False
    loading: Loading | None = None
    starts: int = 0  # since it was last ready
    given: int = 0  # slices, since its process started


@dataclass
class WorkerPool:
    """`size` children that share a kit. `memory` is what one child may use, in bytes (None: unwatched)."""

    context: WorkerContext
    size: int
    memory: int | None = None
    logs: Path | None = None
    hands: list[WorkerSlot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._launcher = Launcher(
            main.worker_main,
            pickle.dumps((self.context.code, packed(self.context))),
            (NO_UNIT, 0, NO_STOP),
        )
        self._starting: threading.Thread | None = None
        self._failed: WorkerError | None = None
        self._looked = 0.0
        self.replaced: Counter[str] = (
            Counter()
        )  # processes whose place a fresh one took, by the reason

    def start(self) -> None:
        """Begin to start the children, and return at once: their imports run while the driver reads the data."""
        if self.logs is not None:
            with contextlib.suppress(OSError):  # a worker that cannot write there says so
                self.logs.mkdir(parents=True, exist_ok=True)
        self.hands = [WorkerSlot(number) for number in range(self.size)]
        starting = threading.Thread(target=self._launch_all, daemon=True)
        try:
            starting.start()
        except RuntimeError as error:  # can't start new thread
            raise cannot_start(OSError(errno.EAGAIN, str(error))) from error
        self._starting = starting

    def idle(self) -> Sequence[WorkerSlot]:
        """The hands that wait for work."""
        self._ready()
        return [slot for slot in self.hands if slot.message is None]

    @property
    def at_rest(self) -> bool:
        """Whether no slot has anything to do."""
        return len(self.idle()) == len(self.hands)

    def give(
        self, slot: WorkerSlot, message: Message, narrow: bool = False, final: bool = False
    ) -> None:
        """Let a slot do these units; its events follow. `narrow` and `final` are for UnitRunner.do."""
        slot.message, slot.done, slot.killed, slot.memory, slot.blamed = (
            message,
            message.first - 1,
            "",
            "",
            NO_UNIT,
        )
        slot.internal, slot.error = False, None
        slot.given += 1
        slot.marks[2] = NO_STOP
        assert slot.pipe is not None
        with contextlib.suppress(
            OSError
        ):  # it died while it was idle: the next look at events says so
            slot.pipe.send((message, narrow, final))

    def at(self, slot: WorkerSlot) -> tuple[int, float]:
        """The unit that a slot is on, and for how many seconds; NO_UNIT or ALL_UNITS where it is on none, or on several at once."""
        unit, since = slot.marks[0], slot.marks[1]
        return int(unit), (time.monotonic_ns() - since) / 1e9 if unit >= 0 else 0.0

    def stop_after(self, slot: WorkerSlot, unit: int) -> None:
        """Let a slot end its slice with this unit; it may be a little beyond it before it hears."""
        slot.marks[2] = unit

    def events(self, timeout: float) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        """What has happened, after at most `timeout` seconds if nothing has."""
        self._ready()
        watched: dict[Any, WorkerSlot] = {}
        for slot in self.hands:
            watched[slot.pipe] = watched[slot.process] = slot
        seconds = min(timeout, LIMIT_CHECK_S) if any(h.message for h in self.hands) else timeout
        before = time.monotonic()
        ready = wait(list(watched), seconds)
        if (missed := time.monotonic() - before - seconds) > STALL_S:
            self._excuse(missed)
        for slot in dict.fromkeys(watched[thing] for thing in ready):
            yield from self._hear(slot)
        self._check_limits()

    def stop(self) -> None:
        """End all children now, whatever they are at."""
        self._started()
        for slot in self.hands:
            if slot.process is not None:
                slot.process.kill()  # all of them first, then wait for each
        for slot in self.hands:
            self._end(slot)
        self.hands = []
        self._launcher.close()

    def _ready(self) -> None:
        """Wait until all are started; the error if they cannot be."""
        self._started()
        if self._failed is not None:
            raise self._failed

    def _started(self) -> None:
        if self._starting is not None:
            self._starting.join()
            self._starting = None

    def _launch_all(self) -> None:
        try:
            for slot in self.hands:
                self._launch(slot)
        except WorkerError as error:
            self._failed = error  # told to whoever looks for events

    def _launch(self, slot: WorkerSlot) -> None:
        """Start a slot's child; again for a while where the server that forks it was just killed, and the system has not buried it."""
        until = time.monotonic() + GRACE_S
        while True:
            try:
                return self._start_child(slot)
            except (OSError, EOFError, MemoryError, RuntimeError) as error:
                self._end(slot)
                if time.monotonic() > until:
                    raise cannot_start(error) from error
            time.sleep(LIMIT_CHECK_S / 2)

    def _start_child(self, slot: WorkerSlot) -> None:
        slot.ready, slot.starts, slot.given = False, slot.starts + 1, 0
        slot.process, slot.pipe, slot.marks = self._launcher.start(
            settings_for(self._log_of(slot), self.memory)
        )
        slot.loading = Loading(slot.process.pid)

    def _log_of(self, slot: WorkerSlot) -> Path | None:
        return self.logs / f"worker-{slot.number}.log" if self.logs else None

    def _hear(self, slot: WorkerSlot) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        """Everything that a child has said, and then its death if it is dead."""
        assert slot.pipe is not None
        assert slot.process is not None
        ended = not slot.process.is_alive()  # before its messages are read: then these are all
        pipe = slot.pipe
        try:
            for said in pipe.received():
                yield from self._said(slot, said)
                if slot.pipe is not pipe:  # another process is in its place now
                    return
            if not ended:
                return
        except Garbled:
            if not slot.killed:
                self._kill(slot, "wrote into the pipe to its driver", ALL_UNITS)
        except EOFError:
            if not slot.killed and not slot.process.ends_within(
                GRACE_S
            ):  # it would never be heard again
                self._kill(slot, CLOSED_PIPE, ALL_UNITS)
        slot.process.join()
        yield from self._died(slot)

    def _said(
        self, slot: WorkerSlot, said: tuple[Any, ...]
    ) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        message = slot.message
        match said:
            case ("ready",):
                slot.ready, slot.starts = True, 0
            case ("broken", words):
                raise WorkerError(
                    words,
                    hint=UNFOUND if "__main__" in words else UNLOADED,
                )
            case ("refused", words, error):
                slot.killed, slot.blamed, slot.memory = words, slot.marks[0], ""
                slot.internal, slot.error = True, error
            case ("dying", words, memory):
                slot.killed, slot.blamed, slot.memory = (
                    words,
                    slot.marks[0],
                    "said" if memory else "",
                )
            case ("chunk", first, last, results, accounts) if message is not None:
                slot.done = last
                yield slot, ChunkDone(message.part(first, last), results, accounts)
            case ("finished", last, replace) if message is not None:
                slot.message = None
                if replace:
                    self._replace(slot, replace)
                yield slot, SliceDone(message, last)
            case ("split", first) if message is not None:
                slot.message = None
                yield slot, SliceRejected(message.part(first, message.last))

    def _died(self, slot: WorkerSlot) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        assert slot.process is not None
        code = slot.process.exitcode
        if not slot.killed and code == LOST_CHANNEL:
            slot.killed, slot.blamed = CLOSED_PIPE, ALL_UNITS
        message, unit = slot.message, slot.blamed if slot.killed else slot.marks[0]
        reason, outside = slot.killed or describe_exit(code), not slot.killed and from_outside(code)
        if message is None and not slot.ready and not (outside and slot.starts < MAX_STARTS):
            raise WorkerError(
                f"a worker process did not survive its start: {reason}",
                hint=f"its last words are in {self.logs}" if self.logs else None,
            )
        memory, fresh, internal, error = slot.memory, slot.given == 1, slot.internal, slot.error
        if (
            not slot.killed and code == -signal.SIGABRT
        ):  # how many libraries end when an allocation fails
            memory, reason = (
                "aborted",
                f"{reason}, which is also how libraries in C++ and Rust end when memory runs out",
            )
        self.replaced[
            "memory ran out"
            if memory
            else "killed from outside"
            if outside
            else "ended with a unit"
        ] += 1
        self._end(slot)
        slot.message = None
        self._launch(slot)
        if message is not None:
            yield (
                slot,
                WorkerDied(
                    message,
                    unit if unit >= 0 else None,
                    unit == ALL_UNITS,
                    reason,
                    slot.done,
                    outside,
                    memory,
                    fresh,
                    internal,
                    error,
                ),
            )

    def _replace(self, slot: WorkerSlot, why: str) -> None:
        """Let a fresh process take the place of one that waits for work."""
        self.replaced[why] += 1
        self._end(slot)
        self._launch(slot)

    def _check_limits(self) -> None:
        if time.monotonic() - self._looked < LIMIT_CHECK_S:
            return
        if (missed := time.monotonic() - self._looked) > ABSENT_S:
            self._excuse(missed - LIMIT_CHECK_S)
        self._looked = time.monotonic()
        for slot in self.hands:
            if (
                slot.loading is not None
                and not slot.ready
                and slot.loading.is_over(min(missed, ABSENT_S))
            ):
                raise self._never_loaded(slot)
            if slot.message is not None and not slot.killed:
                self._check(slot, slot.message)

    def _never_loaded(self, slot: WorkerSlot) -> WorkerError:
        assert slot.process is not None
        place = place_of(slot.process.pid, self._log_of(slot))
        modules = sorted(
            {str(getattr(model.work, "__module__", "")) for model in self.context.job.models}
            - {"", "__main__"}
        )
        what = (
            f"it is still importing {place}"
            if place
            else f"it imports {', '.join(modules) or 'what its functions need'}"
        )
        return WorkerError(
            f"a worker has not loaded the job in {loading.LOAD_S:g} s: {what}",
            hint="a module must not wait or work while it is imported: do that inside the function, once, under functools.cache",
        )

    def _excuse(self, seconds: float) -> None:
        """This process was stopped, or the machine was suspended: its workers were too, or may have been. Their units' time is longer."""
        self._looked = time.monotonic()
        for slot in self.hands:
            if slot.message is not None:
                since = slot.marks[1]
                before = slot.excused if slot.excused_since == since else 0.0
                slot.excused = before + min(seconds, time.monotonic() - since / 1e9)
                slot.excused_since = since

    def _check(self, slot: WorkerSlot, message: Message) -> None:
        mark, since = slot.marks[0], slot.marks[1]
        if slot.marks[0] != mark:  # between two units, so within the limits
            return
        if (
            self.memory is not None
            and slot.process is not None
            and (used := memory_of(slot.process.pid, self.memory)) > self.memory
        ):
            self._kill(
                slot,
                f"used {size_text(used)} of memory, more than a worker's share of {size_text(self.memory)}",
                mark,
            )
            slot.memory = "killed"
            return
        if mark == NO_UNIT:
            return
        limit = self.context.model(message.model).time_limit
        units = message.units if mark == ALL_UNITS else 1
        excused = slot.excused if slot.excused_since == since else 0.0
        if limit is not None and time.monotonic_ns() - since > (limit * units + excused) * 1e9:
            self._kill(
                slot,
                f"outlasted its time_limit of {limit:g} s"
                + (f" x {units} units" if units > 1 else ""),
                mark,
            )

    def _kill(self, slot: WorkerSlot, reason: str, mark: int | None = None) -> None:
        assert slot.process is not None
        slot.killed, slot.blamed = reason, slot.marks[0] if mark is None else mark
        slot.process.kill()

    def _end(self, slot: WorkerSlot) -> None:
        if slot.process is not None:
            slot.process.kill()
            slot.process.join()
            slot.process.close()
        if slot.pipe is not None:
            slot.pipe.close()
        slot.process = slot.pipe = None


UNFOUND = "put what a script or a notebook defines into a module, which each worker imports"
UNLOADED = "a worker is a fresh process that loads the job again: mend what it says, or raise --memory if it had too little"
