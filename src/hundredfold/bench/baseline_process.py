"""Baselines, timed in a process of their own, since the user's code may crash it, or never return.

The process runs one task after the other and reports the timings so far after every few units. The
parent ends it when it takes too long, and starts another for the tasks that are left.
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
from .baseline import BaselineTiming, Task, time_loop, time_reading

LAST_UNIT_GRACE_S = 10.0
MAX_PREPARATION_S = 600.0  # for a task to read and sort before its first unit
POLL_INTERVAL_S = 0.1
PROCESS_NAME = "hundredfold-loop"


def time_loops(
    context: WorkerContext,
    tasks: Sequence[Task],
    files: Mapping[str, Files],
    seconds: float,
    memory: int,
    log: Path,
    on_task: Callable[[Task], None],
    *,
    grace: float = LAST_UNIT_GRACE_S,
) -> dict[Task, BaselineTiming]:
    """Return the timing of each task.

    seconds: for the units of all tasks together. on_task: called with each task when it begins.
    grace: seconds that a task's last unit may take beyond twice its time.
    """
    known: dict[Task, BaselineTiming] = {}
    todo = list(tasks)
    while todo:
        child = _BaselineProcess(
            context, todo, files, seconds * len(todo) / len(tasks), memory, log
        )
        try:
            todo = todo[_follow(child, todo, on_task, known, grace) :]
        finally:
            child.end()
    return known


def _follow(
    child: _BaselineProcess,
    todo: Sequence[Task],
    on_task: Callable[[Task], None],
    known: dict[Task, BaselineTiming],
    grace: float,
) -> int:
    """Follow a process until it is done, dead or too late; return how many tasks are over by then.

    The last of them may be over because of its death.
    """
    for at, task in enumerate(todo):
        on_task(task)
        known[task], over, until = BaselineTiming(), False, time.monotonic() + MAX_PREPARATION_S
        while not over:
            received = child.next_timing()
            if received is not None:
                known[task], share, over = received
                if known[task].once is not None and not known[task].timed:  # its units begin now
                    until = time.monotonic() + 2 * share + grace
            elif ended := child.ended() or (
                "a unit did not come back in time" if time.monotonic() > until else ""
            ):
                known[task] = replace(known[task], why=ended)
                return at + 1
    return len(todo)


class _BaselineProcess:
    """The process, and the timings that it reports."""

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
            run_baselines,
            cloudpickle.dumps((context, tuple(todo), dict(files), seconds)),
            (0, 0, 0),
        )
        self.received: deque[tuple[BaselineTiming, float, bool]] = deque()
        try:
            self.process, self.pipe, _ = self.launcher.start(settings_for(log, memory))
        except (OSError, EOFError, MemoryError, RuntimeError) as error:
            self.launcher.close()
            raise start_error(error) from error

    def next_timing(self) -> tuple[BaselineTiming, float, bool] | None:
        """Return a timing of its task, the task's share of the time, and whether it is over.

        Return None if nothing is reported within POLL_INTERVAL_S.
        """
        if not self.received:
            wait([self.pipe.fileno(), self.process.fileno()], POLL_INTERVAL_S)
            try:
                self.received.extend(self.pipe.messages())
            except (EOFError, InvalidFrame):  # it has ended, or is about to
                self.process.wait_end(POLL_INTERVAL_S)
        return self.received.popleft() if self.received else None

    def ended(self) -> str:
        """Return how it ended; "" if it has not."""
        if self.process.is_alive():
            return ""
        ending = (
            describe_exit(self.process.exitcode)
            .replace("ended its process", "ended")
            .replace("killed", "was killed")
        )
        return f"its process {ending}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.launcher.close()


def run_baselines(end: socket.socket, _: Any, packed: bytes, settings: Settings) -> NoReturn:
    """Run the process: all tasks, one after the other."""
    code = 1
    try:
        settings.apply()
        mp.current_process().name = PROCESS_NAME
        pipe = WorkerChannel(end, settings.token)
        if settings.log is not None:
            redirect_output(settings.log)
        if settings.memory is not None:
            limit_memory(settings.memory)
        _run_tasks(pipe, *cloudpickle.loads(packed))
        code = 0
    except BaseException:  # noqa: BLE001  # printed into the log
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(code)


def _run_tasks(
    pipe: WorkerChannel,
    context: WorkerContext,
    todo: Sequence[Task],
    files: Mapping[str, Files],
    seconds: float,
) -> None:
    for done, task in enumerate(todo):
        share, timing = seconds / (len(todo) - done), BaselineTiming()
        try:
            for timing in (
                time_reading(context, files)
                if task.kind == "read"
                else time_loop(context, task, share)
            ):
                pipe.send((timing, share, False))
        except MemoryError:
            timing = replace(timing, why="its rows as one frame do not fit into memory")
        except Exception as error:  # noqa: BLE001
            # libraries and users' objects may raise any error
            timing = replace(timing, why=format_error(error))
        seconds -= min(timing.spent, share)  # time that one task leaves is shared by those after it
        pipe.send((timing, share, True))
