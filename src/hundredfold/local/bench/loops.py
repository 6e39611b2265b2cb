"""The loops that people have today, timed in a process of their own: the user's code may crash it, or never come back.

A child does one task after the other and says after every few units what it knows by then.  Whoever watches it ends it when
it takes too long, and starts another for the tasks that are left.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle

from ...crew import Kit
from ...forking import start_method, starting
from ...guarding import die_with, exit_words, limit_memory, speak_to, told
from ..sources import Files
from .loop import Looped, Task, loop, read

GRACE = 10.0
PATIENCE = 600.0  # seconds for a task to read and sort before its first unit
LOOKS = 0.1
NAME = "hundredfold-loop"


def time_loops(
    kit: Kit,
    tasks: Sequence[Task],
    files: Mapping[str, Files],
    seconds: float,
    memory: int,
    log: Path,
    tell: Callable[[Task], None],
    grace: float = GRACE,
) -> dict[Task, Looped]:
    """What came of each task. seconds: for the units of all tasks together; tell: called with each task as it begins; grace: how
    many seconds a task's last unit may take beyond twice its time."""
    known: dict[Task, Looped] = {}
    todo = list(tasks)
    while todo:
        child = _Child(kit, todo, files, seconds * len(todo) / len(tasks), memory, log)
        try:
            todo = todo[_hear(child, todo, tell, known, grace) :]
        finally:
            child.end()
    return known


def _hear(child: _Child, todo: Sequence[Task], tell: Callable[[Task], None], known: dict[Task, Looped], grace: float) -> int:
    """Hear a child until it is done, dead or too late; how many tasks are over by then, the last one maybe by that death."""
    for at, task in enumerate(todo):
        tell(task)
        known[task], over, until = Looped(), False, time.monotonic() + PATIENCE
        while not over:
            said = child.hears()
            if said is not None:
                known[task], share, over = said
                if known[task].once is not None and not known[task].timed:  # now come the units
                    until = time.monotonic() + 2 * share + grace
            elif ended := child.ended() or ("a unit did not come back in time" if time.monotonic() > until else ""):
                known[task] = replace(known[task], why=ended)
                return at + 1
    return len(todo)


class _Child:
    """The process, and what it says."""

    def __init__(self, kit: Kit, todo: Sequence[Task], files: Mapping[str, Files], seconds: float, memory: int, log: Path) -> None:
        context: Any = mp.get_context(start_method())
        self.pipe, theirs = context.Pipe(duplex=False)
        self.lifeline, lifeline = context.Pipe()
        packed = cloudpickle.dumps((kit, tuple(todo), dict(files), seconds))
        with closing(theirs), closing(lifeline), starting():
            arguments = (theirs, lifeline, packed, dict(os.environ), str(log), memory)
            self.process = context.Process(target=child, args=arguments, daemon=True, name=NAME)
            self.process.start()

    def hears(self) -> tuple[Looped, float, bool] | None:
        """What it says about its task, the task's share of the time, and whether the task is over; None after a while of silence."""
        try:
            return self.pipe.recv() if self.pipe.poll(LOOKS) else None
        except (EOFError, OSError):
            self.process.join(GRACE)
            return None

    def ended(self) -> str:
        """How, if it has."""
        words = exit_words(self.process.exitcode).replace("ended its process", "ended").replace("killed", "was killed")
        return "" if self.process.is_alive() else f"its process {words}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.lifeline.close()


def child(pipe: Connection, lifeline: Connection, packed: bytes, environment: dict[str, str], log: str, memory: int) -> None:
    """The life of a child: all tasks, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who watches it
    die_with(lifeline)
    os.environ.clear()
    os.environ.update(environment)
    speak_to(log)
    limit_memory(memory)
    kit, todo, files, seconds = cloudpickle.loads(packed)
    for done, task in enumerate(todo):
        share, looped = seconds / (len(todo) - done), Looped()
        try:
            for looped in read(kit, files) if task.kind == "read" else loop(kit, task, share):
                pipe.send((looped, share, False))
        except MemoryError:
            looped = replace(looped, why="its rows as one frame do not fit into the memory")
        except Exception as error:  # noqa: BLE001  # whatever the libraries and the user's objects raise is told
            looped = replace(looped, why=told(error))
        seconds -= min(looped.spent, share)  # what one task leaves is shared by those after it
        pipe.send((looped, share, True))
