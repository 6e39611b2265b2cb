"""The loops that people have today, timed in a process of their own: the user's code may crash it, or never come back.

A child does one task after the other and says after every few units what it knows by then.  Whoever watches it ends it when
it takes too long, and starts another for the tasks that are left.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle

from ..sql.sources.files import Files
from ..workers.channel import InvalidFrame, WorkerChannel
from ..workers.isolation import describe_exit, format_error, limit_memory, redirect_output
from ..workers.launcher import Launcher, Settings, settings_for, start_error
from ..workers.protocol import WorkerContext
from .loop import Looped, Task, loop, read

GRACE = 10.0
PATIENCE = 600.0  # seconds for a task to read and sort before its first unit
LOOKS = 0.1
NAME = "hundredfold-loop"


def time_loops(
    context: WorkerContext,
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
        child = _Child(context, todo, files, seconds * len(todo) / len(tasks), memory, log)
        try:
            todo = todo[_hear(child, todo, tell, known, grace) :]
        finally:
            child.end()
    return known


def _hear(
    child: _Child,
    todo: Sequence[Task],
    tell: Callable[[Task], None],
    known: dict[Task, Looped],
    grace: float,
) -> int:
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
            elif ended := child.ended() or (
                "a unit did not come back in time" if time.monotonic() > until else ""
            ):
                known[task] = replace(known[task], why=ended)
                return at + 1
    return len(todo)


class _Child:
    """The process, and what it says."""

    def __init__(
        self,
        context: WorkerContext,
        todo: Sequence[Task],
        files: Mapping[str, Files],
        seconds: float,
        memory: int,
        log: Path,
    ) -> None:
        self.launcher = Launcher(
            child, cloudpickle.dumps((context, tuple(todo), dict(files), seconds)), (0, 0, 0)
        )
        self.said: deque[tuple[Looped, float, bool]] = deque()
        try:
            self.process, self.pipe, _ = self.launcher.start(settings_for(log, memory))
        except (OSError, EOFError, MemoryError, RuntimeError) as error:
            self.launcher.close()
            raise start_error(error) from error

    def hears(self) -> tuple[Looped, float, bool] | None:
        """What it says about its task, the task's share of the time, and whether the task is over; None after a while of silence."""
        if not self.said:
            wait([self.pipe.fileno(), self.process.fileno()], LOOKS)
            try:
                self.said.extend(self.pipe.messages())
            except (EOFError, InvalidFrame):  # it has ended, or will be
                self.process.wait_end(LOOKS)
        return self.said.popleft() if self.said else None

    def ended(self) -> str:
        """How, if it has."""
        if self.process.is_alive():
            return ""
        words = (
            describe_exit(self.process.exitcode)
            .replace("ended its process", "ended")
            .replace("killed", "was killed")
        )
        return f"its process {words}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.launcher.close()


def child(end: socket.socket, _: Any, packed: bytes, settings: Settings) -> NoReturn:
    """The life of a child: all tasks, one after the other."""
    code = 1
    try:
        settings.apply()
        mp.current_process().name = NAME
        pipe = WorkerChannel(end, settings.token)
        if settings.log is not None:
            redirect_output(settings.log)
        if settings.memory is not None:
            limit_memory(settings.memory)
        _do_tasks(pipe, *cloudpickle.loads(packed))
        code = 0
    except BaseException:  # noqa: BLE001  # into the log
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(code)


def _do_tasks(
    pipe: WorkerChannel,
    context: WorkerContext,
    todo: Sequence[Task],
    files: Mapping[str, Files],
    seconds: float,
) -> None:
    for done, task in enumerate(todo):
        share, looped = seconds / (len(todo) - done), Looped()
        try:
            for looped in (
                read(context, files) if task.kind == "read" else loop(context, task, share)
            ):
                pipe.send((looped, share, False))
        except MemoryError:
            looped = replace(looped, why="its rows as one frame do not fit into the memory")
        except Exception as error:  # noqa: BLE001  # whatever the libraries and the user's objects raise is told
            looped = replace(looped, why=format_error(error))
        seconds -= min(looped.spent, share)  # what one task leaves is shared by those after it
        pipe.send((looped, share, True))
