"""The pool of worker processes that run the user's function, and its supervision: the same on a
workstation, in a container and in a Lambda function.

A worker records the unit it is working on in shared memory. When it dies or exceeds a limit, the
pool knows which unit it was, starts another worker, and continues: user code never runs in the
process that holds the message, and one bad unit costs one unit and one process start.
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

from ..data.messages import Message
from ..errors import HundredfoldError, WorkerError
from . import loading, worker_main
from .channel import LOST_CHANNEL_EXIT_CODE, DriverChannel, InvalidFrame
from .isolation import describe_exit, was_killed_externally
from .job_pickle import pickle_job
from .launcher import Launcher, Worker, settings_for, start_error
from .loading import LoadTimer, location_of
from .memory import memory_bytes_of, size_text
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

LIMIT_CHECK_INTERVAL_S = 0.1  # between two checks of the limits
MIN_STALL_S = 0.5  # a wait that ends this much late: this process was stopped
# after a longer gap between two checks this process may have been stopped outside of a wait
MAX_CHECK_GAP_S = 1.0
# for a worker to exit after it closed its channel, and for a killed fork server to be reaped
EXIT_GRACE_S = 1.0
MAX_STARTS = 3  # of a worker that is killed from outside before it is ready
CLOSED_PIPE = "closed or replaced the pipe to its driver"


@dataclass(eq=False)
class WorkerSlot:
    """One slot of the pool: a worker process, and its replacement when it dies."""

    number: int
    process: Worker | None = None
    channel: DriverChannel | None = None
    progress: Any = None
    message: Message | None = None
    done: int = -1
    death_reason: str = ""  # why this pool ended the process, or what it reported when it died
    blamed_unit: int = NO_UNIT  # the unit that was at work then
    # time of its unit that does not count towards the limit, and the start of that unit
    excused_s: float = 0.0
    excused_since: int = 0
    memory: str = ""  # see WorkerDied
    internal: bool = False  # see WorkerDied
    error: HundredfoldError | None = None  # see WorkerDied
    ready: bool = False
    loading: LoadTimer | None = None
    starts: int = 0  # since it was last ready
    slices_assigned: int = 0  # since its process started


@dataclass
class WorkerPool:
    """`size` workers with one WorkerContext; `memory` is the limit of each in bytes (None: not
    watched). `host` is part of their names where a run has several.
    """

    context: WorkerContext
    size: int
    memory: int | None = None
    logs: Path | None = None
    host: str = ""
    slots: list[WorkerSlot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._launcher = Launcher(
            worker_main.worker_main,
            pickle.dumps((self.context.code, pickle_job(self.context))),
            (NO_UNIT, 0, NO_STOP),
        )
        self._starting: threading.Thread | None = None
        self._failed: WorkerError | None = None
        self._last_check = 0.0
        self.replaced: Counter[str] = Counter()  # replaced processes, by reason

    def start(self) -> None:
        """Begin to start the workers, and return at once: they import while the driver reads the
        data.
        """
        if self.logs is not None:
            # a worker that cannot write its log reports that itself
            with contextlib.suppress(OSError):
                self.logs.mkdir(parents=True, exist_ok=True)
        self.slots = [WorkerSlot(number) for number in range(self.size)]
        starting = threading.Thread(target=self._launch_all, daemon=True)
        try:
            starting.start()
        except RuntimeError as error:  # "can't start new thread"
            raise start_error(OSError(errno.EAGAIN, str(error))) from error
        self._starting = starting

    def idle(self) -> Sequence[WorkerSlot]:
        """Return the slots that wait for work."""
        self._wait_started()
        return [slot for slot in self.slots if slot.message is None]

    @property
    def is_idle(self) -> bool:
        """Return whether every slot waits for work."""
        return len(self.idle()) == len(self.slots)

    def assign(
        self, slot: WorkerSlot, message: Message, narrow: bool = False, final: bool = False
    ) -> None:
        """Assign units to a slot; its events follow. `narrow`, `final`: see UnitRunner.run."""
        slot.message, slot.done = message, message.first - 1
        slot.death_reason, slot.memory, slot.blamed_unit = "", "", NO_UNIT
        slot.internal, slot.error = False, None
        slot.slices_assigned += 1
        slot.progress[2] = NO_STOP
        assert slot.channel is not None
        with contextlib.suppress(OSError):
            # it died while it was idle: the next call of events() reports it
            slot.channel.send((message, narrow, final))

    def position(self, slot: WorkerSlot) -> tuple[int, float]:
        """Return the unit that a slot works on, and for how many seconds it has.

        The unit is NO_UNIT if there is none, and ALL_UNITS if there are several at once.
        """
        unit, since = slot.progress[0], slot.progress[1]
        return int(unit), (time.monotonic_ns() - since) / 1e9 if unit >= 0 else 0.0

    def stop_after(self, slot: WorkerSlot, unit: int) -> None:
        """Let a slot end its slice with this unit, or with its current one if that is later."""
        slot.progress[2] = unit

    def share_after(self, slot: WorkerSlot, unit: int) -> int | None:
        """Let a slot end its slice as `stop_after` does; return the last unit that it executes.

        The worker shows its unit before it reads where to stop, and this reads the worker's unit
        after it said where, so one of the two sees the other: the worker begins no unit after the
        one returned. Return None, and change nothing, if the slot is to stop earlier, or if it is
        between two units.
        """
        before = slot.progress[2]
        if before < unit:
            return None
        self.stop_after(slot, unit)
        at = int(slot.progress[0])
        if at < 0:
            self.stop_after(slot, before)
            return None
        return max(unit, at)

    def events(self, timeout: float) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        """Yield the events that have happened; wait for at most `timeout` seconds if there are
        none.
        """
        self._wait_started()
        watched: dict[Any, WorkerSlot] = {}
        for slot in self.slots:
            watched[slot.channel] = watched[slot.process] = slot
        seconds = (
            min(timeout, LIMIT_CHECK_INTERVAL_S) if any(h.message for h in self.slots) else timeout
        )
        before = time.monotonic()
        ready = wait(list(watched), seconds)
        if (missed := time.monotonic() - before - seconds) > MIN_STALL_S:
            self._excuse(missed)
        for slot in dict.fromkeys(watched[thing] for thing in ready):
            yield from self._receive(slot)
        self._check_limits()

    def stop(self) -> None:
        """End all workers now, even in the middle of a unit."""
        self._join_starting()
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()  # kill all of them first, then wait for each
        for slot in self.slots:
            self._end(slot)
        self.slots = []
        self._launcher.close()

    def _wait_started(self) -> None:
        """Wait until all workers are started; raise the error if they cannot be."""
        self._join_starting()
        if self._failed is not None:
            raise self._failed

    def _join_starting(self) -> None:
        if self._starting is not None:
            self._starting.join()
            self._starting = None

    def _launch_all(self) -> None:
        try:
            for slot in self.slots:
                self._launch(slot)
        except WorkerError as error:
            self._failed = error  # raised by the next call that asks for events

    def _launch(self, slot: WorkerSlot) -> None:
        """Start a slot's worker.

        Retry for a while: a fork server that was just killed may not be reaped yet.
        """
        until = time.monotonic() + EXIT_GRACE_S
        while True:
            try:
                return self._start_child(slot)
            except (OSError, EOFError, MemoryError, RuntimeError) as error:
                self._end(slot)
                if time.monotonic() > until:
                    raise start_error(error) from error
            time.sleep(LIMIT_CHECK_INTERVAL_S / 2)

    def _start_child(self, slot: WorkerSlot) -> None:
        slot.ready, slot.starts, slot.slices_assigned = False, slot.starts + 1, 0
        slot.process, slot.channel, slot.progress = self._launcher.start(
            settings_for(self._log_of(slot), self.memory, self._name_of(slot))
        )
        slot.loading = LoadTimer(slot.process.pid)

    def _name_of(self, slot: WorkerSlot) -> str:
        return f"{self.host}/{slot.number}" if self.host else str(slot.number)

    def _log_of(self, slot: WorkerSlot) -> Path | None:
        return self.logs / f"worker-{slot.number}.log" if self.logs else None

    def _receive(self, slot: WorkerSlot) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        """Yield the events of all messages of a worker, and then its death if it is dead."""
        assert slot.channel is not None
        assert slot.process is not None
        # checked before its messages are read, so that none is missed
        ended = not slot.process.is_alive()
        channel = slot.channel
        try:
            for received in channel.messages():
                yield from self._handle(slot, received)
                if slot.channel is not channel:  # another process has replaced it
                    return
            if not ended:
                return
        except InvalidFrame:
            if not slot.death_reason:
                self._kill(slot, "wrote into the pipe to its driver", ALL_UNITS)
        except EOFError:
            if not slot.death_reason and not slot.process.wait_end(EXIT_GRACE_S):
                # it could never be reached again
                self._kill(slot, CLOSED_PIPE, ALL_UNITS)
        slot.process.join()
        yield from self._on_death(slot)

    def _handle(
        self, slot: WorkerSlot, received: tuple[Any, ...]
    ) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        message = slot.message
        match received:
            case ("ready",):
                slot.ready, slot.starts = True, 0
            case ("broken", text):
                raise WorkerError(text, hint=MAIN_MODULE_HINT if "__main__" in text else LOAD_HINT)
            case ("refused", text, error):
                slot.death_reason, slot.blamed_unit, slot.memory = text, slot.progress[0], ""
                slot.internal, slot.error = True, error
            case ("dying", text, memory):
                slot.death_reason, slot.blamed_unit, slot.memory = (
                    text,
                    slot.progress[0],
                    "reported" if memory else "",
                )
            case ("chunk", first, last, results, ledger) if message is not None:
                slot.done = last
                yield slot, ChunkDone(message.part(first, last), results, ledger)
            case ("finished", last, replace) if message is not None:
                slot.message = None
                if replace:
                    self._replace(slot, replace)
                yield slot, SliceDone(message, last)
            case ("split", first) if message is not None:
                slot.message = None
                yield slot, SliceRejected(message.part(first, message.last))

    def _on_death(self, slot: WorkerSlot) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        assert slot.process is not None
        code = slot.process.exitcode
        if not slot.death_reason and code == LOST_CHANNEL_EXIT_CODE:
            slot.death_reason, slot.blamed_unit = CLOSED_PIPE, ALL_UNITS
        reason = slot.death_reason or describe_exit(code)
        outside = not slot.death_reason and was_killed_externally(code)
        if slot.message is None and not slot.ready and not (outside and slot.starts < MAX_STARTS):
            raise WorkerError(
                f"a worker process did not survive its start: {reason}",
                hint=f"see its log in {self.logs}" if self.logs else None,
            )
        memory = slot.memory
        # the way in which many libraries exit when an allocation fails
        if not slot.death_reason and code == -signal.SIGABRT:
            memory = "aborted"
            reason += ", which is also how libraries in C++ and Rust end when memory runs out"
        cause = "killed from outside" if outside else "ended with a unit"
        self.replaced["memory ran out" if memory else cause] += 1
        event = self._death_event(slot, reason, outside, memory)
        self._end(slot)
        slot.message = None
        self._launch(slot)
        if event is not None:
            yield slot, event

    @staticmethod
    def _death_event(
        slot: WorkerSlot, reason: str, outside: bool, memory: str
    ) -> WorkerDied | None:
        """Return the event of a worker's death; None if it was idle."""
        if slot.message is None:
            return None
        unit = slot.blamed_unit if slot.death_reason else slot.progress[0]
        return WorkerDied(
            slot.message,
            unit if unit >= 0 else None,
            unit == ALL_UNITS,
            reason,
            slot.done,
            outside,
            memory,
            fresh=slot.slices_assigned == 1,
            internal=slot.internal,
            error=slot.error,
        )

    def _replace(self, slot: WorkerSlot, why: str) -> None:
        """Replace the process of a slot that waits for work by a fresh one."""
        self.replaced[why] += 1
        self._end(slot)
        self._launch(slot)

    def _check_limits(self) -> None:
        if time.monotonic() - self._last_check < LIMIT_CHECK_INTERVAL_S:
            return
        if (missed := time.monotonic() - self._last_check) > MAX_CHECK_GAP_S:
            self._excuse(missed - LIMIT_CHECK_INTERVAL_S)
        self._last_check = time.monotonic()
        for slot in self.slots:
            if (
                slot.loading is not None
                and not slot.ready
                and slot.loading.is_over(min(missed, MAX_CHECK_GAP_S))
            ):
                raise self._never_loaded(slot)
            if slot.message is not None and not slot.death_reason:
                self._check(slot, slot.message)

    def _never_loaded(self, slot: WorkerSlot) -> WorkerError:
        assert slot.process is not None
        location = location_of(slot.process.pid, self._log_of(slot))
        modules = sorted(
            {str(getattr(model.work, "__module__", "")) for model in self.context.job.models}
            - {"", "__main__"}
        )
        state = (
            f"it is still importing {location}"
            if location
            else f"it imports {', '.join(modules) or 'the modules that its functions need'}"
        )
        return WorkerError(
            f"a worker has not loaded the job in {loading.MAX_LOAD_S:g} s: {state}",
            hint="a module must not wait or work while it is imported: do that inside the function,"
            " once, under functools.cache",
        )

    def _excuse(self, seconds: float) -> None:
        """Extend the time limit of the units at work, since this process was stopped.

        The whole machine may have been suspended, and the workers with it.
        """
        self._last_check = time.monotonic()
        for slot in self.slots:
            if slot.message is not None:
                since = slot.progress[1]
                before = slot.excused_s if slot.excused_since == since else 0.0
                slot.excused_s = before + min(seconds, time.monotonic() - since / 1e9)
                slot.excused_since = since

    def _check(self, slot: WorkerSlot, message: Message) -> None:
        unit, since = slot.progress[0], slot.progress[1]
        if slot.progress[0] != unit:  # it is between two units, so within the limits
            return
        if (
            self.memory is not None
            and slot.process is not None
            and (used := memory_bytes_of(slot.process.pid, self.memory)) > self.memory
        ):
            self._kill(
                slot,
                f"used {size_text(used)} of memory, more than a worker's share of"
                f" {size_text(self.memory)}",
                unit,
            )
            slot.memory = "killed"
            return
        if unit == NO_UNIT:
            return
        limit = self.context.model(message.model).time_limit
        units = message.units if unit == ALL_UNITS else 1
        excused = slot.excused_s if slot.excused_since == since else 0.0
        if limit is not None and time.monotonic_ns() - since > (limit * units + excused) * 1e9:
            self._kill(
                slot,
                f"exceeded its time_limit of {limit:g} s"
                + (f" x {units} units" if units > 1 else ""),
                unit,
            )

    def _kill(self, slot: WorkerSlot, reason: str, unit: int | None = None) -> None:
        assert slot.process is not None
        slot.death_reason, slot.blamed_unit = reason, slot.progress[0] if unit is None else unit
        slot.process.kill()

    def _end(self, slot: WorkerSlot) -> None:
        if slot.process is not None:
            slot.process.kill()
            slot.process.join()
            slot.process.close()
        if slot.channel is not None:
            slot.channel.close()
        slot.process = slot.channel = None


MAIN_MODULE_HINT = (
    "put what a script or a notebook defines into a module, which each worker imports"
)
LOAD_HINT = (
    "a worker is a fresh process that loads the job again: fix the error above,"
    " or raise --memory if it ran out of memory"
)
