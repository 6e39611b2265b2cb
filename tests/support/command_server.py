"""Starts commands by a fork, in processes that have already imported the libraries of all commands.

`command_server.py N` is started by commands.py, and reads requests from the socket N. A request is
the length of a JSON text in four bytes, with four descriptors (standard input, output, error, and a
pipe for the exit code), and the text. It ends when the socket is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

# of the commands, without those that a command executes as its main module
PRELOADED = (
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "duckdb",
    "hundredfold.api",
    "hundredfold.aws.backend",
    "hundredfold.cli.main",
    "hundredfold.local.backend",
    "tariffs.job",
    "tariffs.release.actions",
    "tariffs.release.checks",
    "tariffs.release.kill_switch",
)
LENGTH = struct.Struct("!I")
DESCRIPTORS = 4
Request = dict[str, Any]


def main() -> None:
    sys.path.pop(0)  # the folder of this file
    given = os.environ.copy()
    for name in PRELOADED:
        importlib.import_module(name)
    assert os.environ == given, "a module changes the environment, which a command would not see"
    gc.collect()
    gc.freeze()
    # a library's own thread, such as that of Arrow's memory pool, does not make these forks unsafe
    warnings.filterwarnings(
        "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
    )
    execute(serve(socket.socket(fileno=int(sys.argv[1]))))


def serve(connection: socket.socket) -> Request:
    """Fork a process for each request, and report how it ended; in that process, return the
    request.
    """
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    pipes: dict[int, int] = {}  # for the exit code, by process id
    while True:
        ready, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            report_ended(pipes)
        if connection.fileno() not in ready:
            continue
        head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, DESCRIPTORS)
        if not head:
            os._exit(0)
        text = connection.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            for end in (woken, wake, descriptors.pop(), *pipes.values()):
                os.close(end)
            for target, descriptor in enumerate(descriptors):
                os.dup2(descriptor, target)
                os.close(descriptor)
            request: Request = json.loads(text)
            return request
        pipes[pid] = descriptors.pop()
        for descriptor in descriptors:
            os.close(descriptor)


def report_ended(pipes: dict[int, int]) -> None:
    """Write the exit codes of the processes that have ended, each to its pipe."""
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        pipe = pipes.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nothing waits for it any more
            os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(pipe)


def execute(request: Request) -> None:
    """Be `python -m PROGRAM ARGUMENTS` in a folder, with an environment."""
    own = len(list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [str(Path.cwd()), *map(os.path.abspath, given), *sys.path[own:]]
    sys.modules.pop(request["program"], None)
    importlib.invalidate_caches()
    tempfile.tempdir = None
    sys.argv = [request["program"], *request["arguments"]]
    try:
        runpy.run_module(request["program"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            leave(ended.code or 0)
        raise


def leave(code: int) -> None:
    """End as Python does, but without the removal of a thousand modules, which takes longest."""
    threading._shutdown()  # type: ignore[attr-defined]  # as the processes of multiprocessing do
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
