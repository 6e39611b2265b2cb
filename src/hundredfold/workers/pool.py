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

from ..errors import CrewError, HundredfoldError
from ..job import Message
from . import loading, main
from .channel import LOST_CHANNEL, DriverChannel, Garbled
from .isolation import exit_words, from_outside
from .job_pickle import packed
from .launcher import Launcher, Worker, cannot_start, settings_for
from .loading import Loading, place_of
from .memory import memory_of, size_text
from .protocol import FAR, IDLE, MANY, Chunk, Died, Event, Finished, Kit, Split

TICK = 0.1  # seconds between looks at limits
STALL_S = 0.5  # a wait that ends so much later than asked for: this process was stopped
ABSENT_S = 1.0  # between two looks at limits: longer than that, and this process may have been stopped outside of a wait
GRACE = 1.0  # seconds that a child has to end after it closed its pipe, and that a killed server has
STARTS = 3  # so often is a child started that is killed from outside before it is ready
CLOSED_PIPE = "closed or replaced the pipe to its driver"


@dataclass(eq=False)
class Hand:
    """One place in the crew: a child process, and another when it dies."""

    number: int
    process: Worker | None = None
    pipe: DriverChannel | None = None
    marks: Any = None
    message: Message | None = None
    done: int = -1
    killed: str = ""  # why this crew ended it, or what it said when it died
    blamed: int = IDLE  # the mark that it was ended for
    excused: float = 0.0  # seconds of its unit's time that do not count, and the beginning of the unit that they were given to
    excused_since: int = 0
    memory: str = ""  # as in Died
    internal: bool = False  # as in Died
    error: HundredfoldError | None = None  # as in Died
    ready: bool = False
    loading: Loading | None = None
    starts: int = 0  # since it was last ready
    given: int = 0  # slices, since its process started


@dataclass
class Crew:
    """`size` children that share a kit. `memory` is what one child may use, in bytes (None: unwatched)."""

    kit: Kit
    size: int
    memory: int | None = None
    logs: Path | None = None
    hands: list[Hand] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._launcher = Launcher(main.child, pickle.dumps((self.kit.code, packed(self.kit))), (IDLE, 0, FAR))
        self._starting: threading.Thread | None = None
        self._failed: CrewError | None = None
        self._looked = 0.0
        self.replaced: Counter[str] = Counter()  # processes whose place a fresh one took, by the reason

    def start(self) -> None:
        """Begin to start the children, and return at once: their imports run while the driver reads the data."""
        self.hands = [Hand(number) for number in range(self.size)]
        starting = threading.Thread(target=self._launch_all, daemon=True)
        try:
            starting.start()
        except RuntimeError as error:  # can't start new thread
            raise cannot_start(OSError(errno.EAGAIN, str(error))) from error
        self._starting = starting

    def idle(self) -> Sequence[Hand]:
        """The hands that wait for work."""
        self._ready()
        return [hand for hand in self.hands if hand.message is None]

    @property
    def at_rest(self) -> bool:
        """Whether no hand has anything to do."""
        return len(self.idle()) == len(self.hands)

    def give(self, hand: Hand, message: Message, narrow: bool = False, final: bool = False) -> None:
        """Let a hand do these units; its events follow. `narrow` and `final` are for Desk.do."""
        hand.message, hand.done, hand.killed, hand.memory, hand.blamed = message, message.first - 1, "", "", IDLE
        hand.internal, hand.error = False, None
        hand.given += 1
        hand.marks[2] = FAR
        assert hand.pipe is not None
        with contextlib.suppress(OSError):  # it died while it was idle: the next look at events says so
            hand.pipe.send((message, narrow, final))

    def at(self, hand: Hand) -> tuple[int, float]:
        """The unit that a hand is on, and for how many seconds; IDLE or MANY where it is on none, or on several at once."""
        unit, since = hand.marks[0], hand.marks[1]
        return int(unit), (time.monotonic_ns() - since) / 1e9 if unit >= 0 else 0.0

    def stop_after(self, hand: Hand, unit: int) -> None:
        """Let a hand end its slice with this unit; it may be a little beyond it before it hears."""
        hand.marks[2] = unit

    def events(self, timeout: float) -> Iterator[tuple[Hand, Event]]:
        """What has happened, after at most `timeout` seconds if nothing has."""
        self._ready()
        watched: dict[Any, Hand] = {}
        for hand in self.hands:
            watched[hand.pipe] = watched[hand.process] = hand
        seconds = min(timeout, TICK) if any(h.message for h in self.hands) else timeout
        before = time.monotonic()
        ready = wait(list(watched), seconds)
        if (missed := time.monotonic() - before - seconds) > STALL_S:
            self._excuse(missed)
        for hand in dict.fromkeys(watched[thing] for thing in ready):
            yield from self._hear(hand)
        self._check_limits()

    def stop(self) -> None:
        """End all children now, whatever they are at."""
        self._started()
        for hand in self.hands:
            if hand.process is not None:
                hand.process.kill()  # all of them first, then wait for each
        for hand in self.hands:
            self._end(hand)
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
            for hand in self.hands:
                self._launch(hand)
        except CrewError as error:
            self._failed = error  # told to whoever looks for events

    def _launch(self, hand: Hand) -> None:
        """Start a hand's child; again for a while where the server that forks it was just killed, and the system has not buried it."""
        until = time.monotonic() + GRACE
        while True:
            try:
                return self._start_child(hand)
            except (OSError, EOFError, MemoryError, RuntimeError) as error:
                self._end(hand)
                if time.monotonic() > until:
                    raise cannot_start(error) from error
            time.sleep(TICK / 2)

    def _start_child(self, hand: Hand) -> None:
        hand.ready, hand.starts, hand.given = False, hand.starts + 1, 0
        hand.process, hand.pipe, hand.marks = self._launcher.start(settings_for(self._log_of(hand), self.memory))
        hand.loading = Loading(hand.process.pid)

    def _log_of(self, hand: Hand) -> Path | None:
        return self.logs / f"worker-{hand.number}.log" if self.logs else None

    def _hear(self, hand: Hand) -> Iterator[tuple[Hand, Event]]:
        """Everything that a child has said, and then its death if it is dead."""
        assert hand.pipe is not None
        assert hand.process is not None
        ended = not hand.process.is_alive()  # before its messages are read: then these are all
        pipe = hand.pipe
        try:
            for said in pipe.received():
                yield from self._said(hand, said)
                if hand.pipe is not pipe:  # another process is in its place now
                    return
            if not ended:
                return
        except Garbled:
            if not hand.killed:
                self._kill(hand, "wrote into the pipe to its driver", MANY)
        except EOFError:
            if not hand.killed and not hand.process.ends_within(GRACE):  # it would never be heard again
                self._kill(hand, CLOSED_PIPE, MANY)
        hand.process.join()
        yield from self._died(hand)

    def _said(self, hand: Hand, said: tuple[Any, ...]) -> Iterator[tuple[Hand, Event]]:
        message = hand.message
        match said:
            case ("ready",):
                hand.ready, hand.starts = True, 0
            case ("broken", words):
                raise CrewError(
                    words,
                    hint=UNFOUND if "__main__" in words else UNLOADED,
                )
            case ("refused", words, error):
                hand.killed, hand.blamed, hand.memory = words, hand.marks[0], ""
                hand.internal, hand.error = True, error
            case ("dying", words, memory):
                hand.killed, hand.blamed, hand.memory = words, hand.marks[0], "said" if memory else ""
            case ("chunk", first, last, results, accounts) if message is not None:
                hand.done = last
                yield hand, Chunk(message.part(first, last), results, accounts)
            case ("finished", last, replace) if message is not None:
                hand.message = None
                if replace:
                    self._replace(hand, replace)
                yield hand, Finished(message, last)
            case ("split", first) if message is not None:
                hand.message = None
                yield hand, Split(message.part(first, message.last))

    def _died(self, hand: Hand) -> Iterator[tuple[Hand, Event]]:
        assert hand.process is not None
        code = hand.process.exitcode
        if not hand.killed and code == LOST_CHANNEL:
            hand.killed, hand.blamed = CLOSED_PIPE, MANY
        message, unit = hand.message, hand.blamed if hand.killed else hand.marks[0]
        reason, outside = hand.killed or exit_words(code), not hand.killed and from_outside(code)
        if message is None and not hand.ready and not (outside and hand.starts < STARTS):
            raise CrewError(
                f"a worker process did not survive its start: {reason}", hint=f"its last words are in {self.logs}" if self.logs else None
            )
        memory, fresh, internal, error = hand.memory, hand.given == 1, hand.internal, hand.error
        if not hand.killed and code == -signal.SIGABRT:  # how many libraries end when an allocation fails
            memory, reason = "aborted", f"{reason}, which is also how libraries in C++ and Rust end when memory runs out"
        self.replaced["memory ran out" if memory else "killed from outside" if outside else "ended with a unit"] += 1
        self._end(hand)
        hand.message = None
        self._launch(hand)
        if message is not None:
            yield hand, Died(message, unit if unit >= 0 else None, unit == MANY, reason, hand.done, outside, memory, fresh, internal, error)

    def _replace(self, hand: Hand, why: str) -> None:
        """Let a fresh process take the place of one that waits for work."""
        self.replaced[why] += 1
        self._end(hand)
        self._launch(hand)

    def _check_limits(self) -> None:
        if time.monotonic() - self._looked < TICK:
            return
        if (missed := time.monotonic() - self._looked) > ABSENT_S:
            self._excuse(missed - TICK)
        self._looked = time.monotonic()
        for hand in self.hands:
            if hand.loading is not None and not hand.ready and hand.loading.is_over(min(missed, ABSENT_S)):
                raise self._never_loaded(hand)
            if hand.message is not None and not hand.killed:
                self._check(hand, hand.message)

    def _never_loaded(self, hand: Hand) -> CrewError:
        assert hand.process is not None
        place = place_of(hand.process.pid, self._log_of(hand))
        modules = sorted({str(getattr(model.work, "__module__", "")) for model in self.kit.job.models} - {"", "__main__"})
        what = f"it is still importing {place}" if place else f"it imports {', '.join(modules) or 'what its functions need'}"
        return CrewError(
            f"a worker has not loaded the job in {loading.LOAD_S:g} s: {what}",
            hint="a module must not wait or work while it is imported: do that inside the function, once, under functools.cache",
        )

    def _excuse(self, seconds: float) -> None:
        """This process was stopped, or the machine was suspended: its workers were too, or may have been. Their units' time is longer."""
        self._looked = time.monotonic()
        for hand in self.hands:
            if hand.message is not None:
                since = hand.marks[1]
                before = hand.excused if hand.excused_since == since else 0.0
                hand.excused = before + min(seconds, time.monotonic() - since / 1e9)
                hand.excused_since = since

    def _check(self, hand: Hand, message: Message) -> None:
        mark, since = hand.marks[0], hand.marks[1]
        if hand.marks[0] != mark:  # between two units, so within the limits
            return
        if self.memory is not None and hand.process is not None and (used := memory_of(hand.process.pid, self.memory)) > self.memory:
            self._kill(hand, f"used {size_text(used)} of memory, more than a worker's share of {size_text(self.memory)}", mark)
            hand.memory = "killed"
            return
        if mark == IDLE:
            return
        limit = self.kit.model(message.model).time_limit
        units = message.units if mark == MANY else 1
        excused = hand.excused if hand.excused_since == since else 0.0
        if limit is not None and time.monotonic_ns() - since > (limit * units + excused) * 1e9:
            self._kill(hand, f"outlasted its time_limit of {limit:g} s" + (f" x {units} units" if units > 1 else ""), mark)

    def _kill(self, hand: Hand, reason: str, mark: int | None = None) -> None:
        assert hand.process is not None
        hand.killed, hand.blamed = reason, hand.marks[0] if mark is None else mark
        hand.process.kill()

    def _end(self, hand: Hand) -> None:
        if hand.process is not None:
            hand.process.kill()
            hand.process.join()
            hand.process.close()
        if hand.pipe is not None:
            hand.pipe.close()
        hand.process = hand.pipe = None


UNFOUND = "put what a script or a notebook defines into a module, which each worker imports"
UNLOADED = "a worker is a fresh process that loads the job again: mend what it says, or raise --memory if it had too little"
