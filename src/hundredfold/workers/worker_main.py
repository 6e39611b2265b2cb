"""The main function of a worker process: receives messages and executes them until its driver is
gone.
"""

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
from .job_pickle import unpickle_context
from .launcher import Settings
from .loading import stack_on_signal
from .memory import ResourcesExhausted, ran_out_of_memory
from .protocol import NO_UNIT

ENGINE_FAILURE = "its worker failed outside of the function, and so did a fresh one"


def worker_main(end: socket.socket, shared: Any, context: bytes, settings: Settings) -> NoReturn:
    """Run a worker process: execute messages until the driver is gone, then exit.

    The process always exits, even if a thread of the user's code is still running, an atexit
    function hangs, or too little memory is left to report an error.
    """
    try:
        _run_worker(end, shared, context, settings)
    except BaseException:  # noqa: BLE001  # printed into the log
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(1)


def _run_worker(end: socket.socket, shared: Any, context: bytes, settings: Settings) -> None:
    settings.apply()
    channel = WorkerChannel(end, settings.token)
    # not the array itself: see _detach_from_driver
    progress = ctypes.cast(shared, ctypes.POINTER(ctypes.c_longlong))
    if settings.log is not None:
        redirect_output(settings.log)
    if settings.memory is not None:
        limit_memory(settings.memory)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _detach_from_driver(channel, progress))
    from .unit_runner import UnitRunner

    try:
        with stack_on_signal(settings.log):
            runner = UnitRunner(
                unpickle_context(context), progress, channel.send, settings.memory, settings.name
            )
    except BaseException as error:
        # any error that the user's modules raise on import is reported to the driver
        channel.send(("broken", f"a worker cannot load the job: {format_error(error)}"))
        raise
    channel.send(("ready",))
    while True:
        try:
            message, narrow, final = channel.receive()
        except EOFError:
            return
        try:
            runner.run(message, narrow, final)
        except BaseException as error:
            unlimit_memory()
            with contextlib.suppress(OSError):
                channel.send(_last_message(error, progress))
            raise


def _last_message(error: BaseException, progress: Any) -> tuple[Any, ...]:
    """Return the last message of a process, for the error that ends it. A unit must not end it
    unnamed.

    "refused": the function did not raise the error. For example, a file is damaged, or a unit has
    corrupted this process (such as its `isinstance`).
    """
    try:
        raise error
    except ResourcesExhausted as exhausted:
        progress[0] = progress[0] if exhausted.unit is None else exhausted.unit
        return "dying", exhausted.reason, True
    except HundredfoldError as ours:
        return "refused", f"{ENGINE_FAILURE}: {format_error(ours)}", ours
    except Exception:  # noqa: BLE001  # returned to the driver
        if not ran_out_of_memory(error):
            return "refused", f"{ENGINE_FAILURE}: {format_error(error)}", None
    except BaseException:  # noqa: BLE001  # as above
        pass
    return "dying", f"ended its process with {format_error(error)}", ran_out_of_memory(error)


def _detach_from_driver(channel: WorkerChannel, progress: Any) -> None:
    """Detach a process that the user's code forked from a worker.

    It must neither send messages nor record progress as the worker. It ends when it returns into
    this package's code, since its own progress array requests no more units and it has no channel.
    """
    channel.close()
    own = (ctypes.c_longlong * 3)(NO_UNIT, 0, NO_UNIT)
    progress.contents = ctypes.c_longlong.from_buffer(own)
