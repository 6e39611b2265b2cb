"""The child processes that run the user's function, and the eye on them: the same in a driver, a container and a Lambda.

A child marks the unit it is on in shared memory.  When it dies or outlasts a limit, the one who watches knows which unit
it was, starts another child, and goes on: user code never runs in the process that holds the message, and one bad unit
costs one unit and one process start.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from .errors import CrewError
from .job import Job, Layout, Message, Model
from .ports import Store

PINNED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS")
TICK = 0.1  # seconds between looks at limits
IDLE, MANY = -1, -2  # what a mark says when it names no single unit


@dataclass(frozen=True, slots=True)
class Kit:
    """What a child needs to know, sent once."""

    job: Job
    layout: Layout
    store: Store

    def model(self, name: str) -> Model:
        return self.job.model(name)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Units first..last are done: their results and accounts, as they will lie in the store."""

    message: Message
    results: bytes
    accounts: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """All units that were asked for are done."""

    message: Message


@dataclass(frozen=True, slots=True)
class Split:
    """The function raised on many units at once: they want to be tried in halves."""

    message: Message


@dataclass(frozen=True, slots=True)
class Died:
    """The child died, and why: on `unit`, on `many` units at once, or (neither) before it reached any."""

    message: Message
    unit: int | None
    many: bool
    reason: str
    done: int  # the last unit whose chunk arrived; first - 1 if none did


Event = Chunk | Finished | Split | Died


@dataclass(eq=False)
class Hand:
    """One place in the crew: a child process, and another when it dies."""

    number: int
    process: Any = None
    pipe: Connection | None = None
    lifeline: Connection | None = None
    marks: Any = None
    message: Message | None = None
    done: int = -1
    killed: str = ""
    ready: bool = False


@dataclass
class Crew:
    """`size` children that share a kit. `memory` is what one child may use, in bytes (None: unwatched)."""

    kit: Kit
    size: int
    memory: int | None = None
    logs: Path | None = None
    hands: list[Hand] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context = mp.get_context("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
        self._kit = cloudpickle.dumps(self.kit)
        self._starting: threading.Thread | None = None

    def start(self) -> None:
        """Begin to start the children, and return at once: their imports run while the driver reads the data."""
        self.hands = [Hand(number) for number in range(self.size)]
        with contextlib.suppress(ValueError, AttributeError):
            self._context.set_forkserver_preload(["hundredfold.desk"])
        self._starting = threading.Thread(target=lambda: [self._launch(hand) for hand in self.hands], daemon=True)
        self._starting.start()

    def idle(self) -> Sequence[Hand]:
        """The hands that wait for work."""
        self._started()
        return [hand for hand in self.hands if hand.message is None]

    def give(self, hand: Hand, message: Message) -> None:
        """Let a hand do these units; its events follow."""
        hand.message, hand.done, hand.killed = message, message.first - 1, ""
        assert hand.pipe is not None
        with contextlib.suppress(OSError):  # it died while it was idle: the next look at events says so
            hand.pipe.send(message)

    def events(self, timeout: float) -> Iterator[tuple[Hand, Event]]:
        """What has happened, after at most `timeout` seconds if nothing has."""
        self._started()
        watched: dict[Any, Hand] = {}
        for hand in self.hands:
            watched[hand.pipe] = watched[hand.process.sentinel] = hand
        ready = wait(list(watched), min(timeout, TICK) if any(h.message for h in self.hands) else timeout)
        for hand in dict.fromkeys(watched[thing] for thing in ready):
            yield from self._hear(hand)
        self._check_limits()

    def stop(self) -> None:
        """End all children now, whatever they are at."""
        self._started()
        for hand in self.hands:
            self._end(hand)
        self.hands = []

    def _started(self) -> None:
        if self._starting is not None:
            self._starting.join()
            self._starting = None

    def _launch(self, hand: Hand) -> None:
        ours, theirs = self._context.Pipe()
        hold, lifeline = self._context.Pipe()
        hand.marks = self._context.RawArray("q", [IDLE, 0])
        arguments = (theirs, lifeline, hand.marks, self._kit, str(self.logs / f"worker-{hand.number}.log") if self.logs else None, self.memory)
        hand.process = self._context.Process(target=child, args=arguments, daemon=True)
        with _pinned_environment(), _hidden_main():
            hand.process.start()
        theirs.close()
        lifeline.close()
        hand.pipe, hand.lifeline, hand.ready = ours, hold, False

    def _hear(self, hand: Hand) -> Iterator[tuple[Hand, Event]]:
        """Everything that a child has said, and then its death if it is dead."""
        try:
            while hand.pipe is not None and hand.pipe.poll():
                yield from self._said(hand, hand.pipe.recv())
        except (EOFError, OSError):
            pass
        else:
            if hand.process.is_alive():
                return
        hand.process.join()
        yield from self._died(hand)

    def _said(self, hand: Hand, said: tuple[Any, ...]) -> Iterator[tuple[Hand, Event]]:
        message = hand.message
        match said:
            case ("ready",):
                hand.ready = True
            case ("broken", words):
                raise CrewError(words, hint="mend the import; a worker is a fresh process in which the job is loaded again")
            case ("chunk", first, last, results, accounts) if message is not None:
                hand.done = last
                yield hand, Chunk(message.part(first, last), results, accounts)
            case ("finished",) if message is not None:
                hand.message = None
                yield hand, Finished(message)
            case ("split", first) if message is not None:
                hand.message = None
                yield hand, Split(message.part(first, message.last))

    def _died(self, hand: Hand) -> Iterator[tuple[Hand, Event]]:
        message, unit = hand.message, hand.marks[0]
        reason = hand.killed or self._words(hand)
        if message is None and not hand.ready:
            raise CrewError(f"a worker process did not survive its start: {reason}", hint=f"its last words are in {self.logs}" if self.logs else None)
        self._end(hand)
        hand.message = None
        self._launch(hand)
        if message is not None:
            yield hand, Died(message, unit if unit >= 0 else None, unit == MANY, reason, hand.done)

    def _words(self, hand: Hand) -> str:
        code = hand.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}" + (" (the system's out-of-memory killer does that)" if -code == signal.SIGKILL else "") if sys.platform != "win32" else f"exit code {code}"
        return f"ended its process with exit code {code}"

    def _check_limits(self) -> None:
        now = time.monotonic_ns()
        for hand in self.hands:
            if hand.message is None or hand.killed or hand.marks[0] == IDLE:
                continue
            limit = self.kit.model(hand.message.model).time_limit
            units = hand.message.units if hand.marks[0] == MANY else 1
            if limit is not None and now - hand.marks[1] > limit * units * 1e9:
                self._kill(hand, f"outlasted its time_limit of {limit:g} s" + (f" x {units} units" if units > 1 else ""))
            elif self.memory is not None and (used := _memory_of(hand.process.pid)) > self.memory:
                self._kill(hand, f"used {used / 2**20:,.0f} MiB of memory, more than a worker's share of {self.memory / 2**20:,.0f} MiB")

    def _kill(self, hand: Hand, reason: str) -> None:
        hand.killed = reason
        hand.process.kill()

    def _end(self, hand: Hand) -> None:
        if hand.process is not None:
            hand.process.kill()
            hand.process.join()
            hand.process.close()
        for end in (hand.pipe, hand.lifeline):
            if end is not None:
                end.close()
        hand.process = hand.pipe = hand.lifeline = None


def child(pipe: Connection, lifeline: Connection, marks: Any, kit: bytes, log: str | None, memory: int | None) -> None:
    """The life of a child: it is sent messages, and does them until its driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    if log is not None:
        _speak_to(log)
    if memory is not None:
        _limit_memory(memory)
    from .desk import Desk

    try:
        desk = Desk(cloudpickle.loads(kit), marks, pipe.send)
    except BaseException as error:  # noqa: BLE001  # whatever the user's modules raise on import is told to the driver
        pipe.send(("broken", f"a worker cannot load the job: {type(error).__name__}: {error}"))
        return
    pipe.send(("ready",))
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        desk.do(message)


def _die_with(lifeline: Connection) -> None:
    """End this process when the driver's end of the pipe is closed, however the driver ended."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(0)


def _speak_to(log: str) -> None:
    """What the user's code prints, and the stack of a crash, go to a file and not into the driver's display."""
    import faulthandler

    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1, "utf-8", "backslashreplace", closefd=False), os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    faulthandler.enable()


def _limit_memory(memory: int) -> None:
    """Where the system can, let an allocation beyond the share fail at once, as a MemoryError of that unit."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _memory_of(pid: int) -> int:
    """What a process holds for itself, in bytes; 0 if it is gone. Mapped batch files, which the system can drop, do not count."""
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


@contextlib.contextmanager
def _pinned_environment() -> Iterator[None]:
    """One thread for each child's BLAS and OpenMP: unpinned, N children start N threads each and fight over the cores."""
    before = {name: os.environ.get(name) for name in PINNED}
    os.environ.update(dict.fromkeys(PINNED, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Children need nothing of the caller's __main__ (its functions travel by value): so a script needs no main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
