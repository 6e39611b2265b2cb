"""The main function of a worker process: it receives messages and does them until its driver is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import traceback
from typing import Any, NoReturn

from ..errors import HundredfoldError
from .channel import WorkerChannel
from .isolation import format_error, limit_memory, redirect_output, unlimit_memory
from .job_pickle import unpacked
from .launcher import Settings
from .loading import answering
from .memory import Exhausted, ran_out_of_memory
from .protocol import NO_UNIT

ENGINE_FAILED = "its worker failed outside of the function, and so did a fresh one"


def worker_main(end: socket.socket, shared: Any, context: bytes, settings: Settings) -> NoReturn:
    """The life of a child: it is sent messages, and does them until its driver is gone. It always ends, also where a thread of the
    user's is left, an atexit function hangs, or memory is wanting to report."""
    try:
        _child(end, shared, context, settings)
    except BaseException:  # noqa: BLE001  # into the log
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(1)


def _child(end: socket.socket, shared: Any, context: bytes, settings: Settings) -> None:
    settings.apply()
    pipe = WorkerChannel(end, settings.token)
    marks = ctypes.cast(shared, ctypes.POINTER(ctypes.c_longlong))  # not the array: see _alone
    if settings.log is not None:
        redirect_output(settings.log)
    if settings.memory is not None:
        limit_memory(settings.memory)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _alone(pipe, marks))
    from .child import UnitRunner

    try:
        with answering(settings.log):
            runner = UnitRunner(unpacked(context), marks, pipe.send, settings.memory)
    except (
        BaseException
    ) as error:  # whatever the user's modules raise on import is told to the driver
        pipe.send(("broken", f"a worker cannot load the job: {format_error(error)}"))
        raise
    pipe.send(("ready",))
    while True:
        try:
            message, narrow, final = pipe.receive()
        except EOFError:
            return
        try:
            runner.do(message, narrow, final)
        except BaseException as error:
            unlimit_memory()
            with contextlib.suppress(OSError):
                pipe.send(_end_of(error, marks))
            raise


def _end_of(error: BaseException, marks: Any) -> tuple[Any, ...]:
    """Return the last message of a process, for the error that ends it. A unit must not end it without its name.

    "refused": the function did not raise it: a file is damaged, say, or a unit has spoiled this process (its `isinstance`, too).
    """
    try:
        raise error
    except Exhausted as exhausted:
        marks[0] = marks[0] if exhausted.unit is None else exhausted.unit
        return "dying", exhausted.words, True
    except HundredfoldError as ours:
        return "refused", f"{ENGINE_FAILED}: {format_error(ours)}", ours
    except Exception:  # noqa: BLE001  # returned to the driver
        if not ran_out_of_memory(error):
            return "refused", f"{ENGINE_FAILED}: {format_error(error)}", None
    except BaseException:  # noqa: BLE001  # as above
        pass
    return "dying", f"ended its process with {format_error(error)}", ran_out_of_memory(error)


def _alone(pipe: WorkerChannel, marks: Any) -> None:
    """In a process that the user's code forked from a worker: it must neither speak nor make marks in the worker's name, and ends
    where it comes back into this package's code (a mark says that no more units are wanted, and there is no pipe for results)."""
    pipe.abandon()
    own = (ctypes.c_longlong * 3)(NO_UNIT, 0, NO_UNIT)
    marks.contents = ctypes.c_longlong.from_buffer(own)
