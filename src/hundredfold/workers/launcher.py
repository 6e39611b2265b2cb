"""Launching of worker processes by the driver, and its handle on each: the same for both start
methods.

`forkserver`: the driver's fork server forks a supervisor, which forks the worker. `spawn`: a fresh
interpreter is the supervisor, which forks the worker; on Windows it is the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import multiprocessing as mp
import os
import pickle
import secrets
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from ..errors import HundredfoldError, WorkerError
from .channel import TOKEN_BYTES, DriverChannel
from .forkserver import SETTINGS_OFFSET_BYTES
from .isolation import LOST_SUPERVISOR_EXIT_CODE
from .start_method import WORKER_ENV, launch_environment, request_fork, start_method
from .supervisor import kill, report, supervise

# for a worker to be forked: the fork server may still be importing
MAX_START_S = 120.0
MAX_END_S = 15.0  # for a worker to end after it was asked to
HINT_BY_ERRNO = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower --workers",
    errno.ENFILE: (
        "too many files are open on this machine: close some programs, or lower --workers"
    ),
    errno.EAGAIN: (
        "raise the limit of processes (ulimit -u, or the container's pids limit),"
        " or lower --workers"
    ),
    errno.ENOMEM: "the machine is out of memory: lower --workers, or free some memory",
    errno.ENOENT: "is the Python that runs this program (sys.executable) still installed?",
    errno.ENOSPC: "free some space on the disk of temporary files, or set another with TMPDIR",
}
DEFAULT_HINT = "lower --workers, or raise the system's limits of processes and open files"

Entry = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that apply in a worker: those of the driver at the moment of its start, since
    the fork server may be older.
    """

    token: bytes
    environment: dict[str, str]
    path: tuple[str, ...]
    argv: tuple[str, ...]
    folder: str | None
    log: str | None
    memory: int | None
    name: str  # of the worker

    def apply(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[:] = self.path
        sys.argv[:] = self.argv
        if self.folder is not None:
            with contextlib.suppress(OSError):  # it was removed meanwhile
                os.chdir(self.folder)


def settings_for(log: Path | None, memory: int | None, name: str = "") -> Settings:
    """Return the settings of a worker that starts now."""
    try:
        folder = str(Path.cwd())
    except OSError:  # it was removed
        folder = None
    path = tuple(
        (folder or entry) if entry == "" else entry for entry in sys.path if isinstance(entry, str)
    )
    return Settings(
        secrets.token_bytes(TOKEN_BYTES),
        {**os.environ, **WORKER_ENV},
        path,
        tuple(map(str, getattr(sys, "argv", [""]))),
        folder,
        str(log) if log else None,
        memory,
        name,
    )


class Worker:
    """A started worker, as seen by its driver."""

    def __init__(self, control: socket.socket, process: Any = None) -> None:
        self.pid = 0
        self._exitcode: int | None = None
        self._is_closed = False
        self._text = b""
        self._failure = ""
        self._control, self._process = control, process
        control.setblocking(False)

    def fileno(self) -> int:
        """Return a descriptor that is readable when the worker has ended."""
        return self._control.fileno()

    @property
    def exitcode(self) -> int | None:
        self._read()
        return self._exitcode

    def is_alive(self) -> bool:
        return self.exitcode is None

    def wait_started(self) -> None:
        """Wait until the worker has begun; OSError if it cannot."""
        until = time.monotonic() + MAX_START_S
        while not self.pid:
            self._read()
            if self._failure:
                raise OSError(self._failure)
            if self._is_closed and not self.pid:
                raise EOFError("the process that starts workers has ended")
            if time.monotonic() > until:
                raise OSError(f"no worker was forked in {MAX_START_S:.0f} s")
            if not self.pid:
                self._wait(1.0)

    def kill(self) -> None:
        """Request the end of the worker, and of every process that it has started."""
        with contextlib.suppress(OSError):
            self._control.send(b"-")
        if self._process is not None and not hasattr(os, "fork"):
            with contextlib.suppress(psutil.Error, OSError):
                kill(psutil.Process(self._process.pid).children(recursive=True))
            self._process.kill()

    def wait_end(self, seconds: float) -> bool:
        """Return whether the worker ends by itself within this time."""
        until = time.monotonic() + seconds
        while self.is_alive() and (left := until - time.monotonic()) > 0:
            self._wait(left)
        return not self.is_alive()

    def join(self, seconds: float = MAX_END_S) -> None:
        """Wait at most `seconds` until the worker and all processes that it started have ended."""
        until = time.monotonic() + seconds
        self._read()
        while not self._is_closed and (left := until - time.monotonic()) > 0:
            self._wait(left)
            self._read()

    def close(self) -> None:
        self._control.close()
        if self._process is not None:
            self._process.join(MAX_END_S)
            with contextlib.suppress(ValueError):  # it is still running
                self._process.close()

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(OSError, ValueError):
            if hasattr(select, "poll"):
                poll = select.poll()
                poll.register(self._control, select.POLLIN)
                poll.poll(1000 * seconds)
            else:
                select.select([self._control], [], [], seconds)

    def _read(self) -> None:
        while not self._is_closed:
            try:
                text = self._control.recv(4096)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                text = b""
            self._text += text
            *lines, self._text = self._text.split(b"\n")
            for line in lines:
                self._parse_line(line.decode(errors="replace"))
            if not text:
                self._is_closed = True
                if self._exitcode is None:
                    self._exitcode = self._own_exitcode()

    def _parse_line(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "pid":
                self.pid = int(rest)
            case "exit":
                self._exitcode = int(rest)
            case _:
                self._failure = rest

    def _own_exitcode(self) -> int:
        if self._process is not None and not hasattr(os, "fork"):
            self._process.join(MAX_END_S)
            if self._process.exitcode is not None:
                return int(self._process.exitcode)
        return LOST_SUPERVISOR_EXIT_CODE


class Launcher:
    """Starts workers that call `entry(socket, progress, job, settings)` with the same job."""

    def __init__(self, entry: Entry, job: bytes, progress: Sequence[int]) -> None:
        self._entry, self._job, self._progress = entry, job, tuple(progress)
        self._method = start_method()
        self._job_file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def start(self, settings: Settings) -> tuple[Worker, DriverChannel, Any]:
        """Return a worker, the channel to it, and the progress array that both share.

        Raises:
            OSError, EOFError, MemoryError: it cannot be started now.
            WorkerError: it can never be started.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            channel_socket, their_channel_socket = socket.socketpair()
            ours.callback(channel_socket.close)
            theirs.callback(their_channel_socket.close)
            control, their_control = socket.socketpair()
            ours.callback(control.close)
            theirs.callback(their_control.close)
            start = self._spawn if self._method == "spawn" else self._fork
            process, progress = start(their_channel_socket, their_control, settings)
            theirs.close()
            worker = Worker(control, process)
            worker.wait_started()
            ours.pop_all()
        return worker, DriverChannel(channel_socket, settings.token), progress

    def close(self) -> None:
        with self._lock:
            if self._job_file is not None:
                self._job_file.close()
            self._job_file = None

    def _fork(
        self, channel_socket: socket.socket, control: socket.socket, settings: Settings
    ) -> tuple[Any, Any]:
        with self._lock:
            if self._job_file is None:
                self._job_file = open_memory_file()
                self._job_file.write(self._job)
                self._job_file.flush()
            job = self._job_file.fileno()
        with open_memory_file() as file:
            file.truncate(SETTINGS_OFFSET_BYTES)
            file.seek(SETTINGS_OFFSET_BYTES)
            file.write(pickle.dumps((run_forked, (self._entry, settings))))
            file.flush()
            progress = map_progress(file.fileno(), len(self._progress))
            progress[:] = self._progress
            request_fork((control.fileno(), channel_socket.fileno(), file.fileno(), job))
        return None, progress

    def _spawn(
        self, channel_socket: socket.socket, control: socket.socket, settings: Settings
    ) -> tuple[Any, Any]:
        if mp.current_process().daemon:
            raise WorkerError(
                "workers cannot be started from a daemonic process (such as those of a"
                " multiprocessing Pool): such a process may have no children",
                hint="run it in a process of its own with `hundredfold run`, or from a"
                " concurrent.futures.ProcessPoolExecutor",
            )
        context = mp.get_context("spawn")
        progress = context.RawArray("q", self._progress)
        arguments = (channel_socket, control, progress, self._job, self._entry, settings)
        with launch_environment():
            process = context.Process(target=run_spawned, args=arguments, daemon=True)
            process.start()
        return process, progress


def start_error(error: BaseException) -> WorkerError:
    """Return the error to report when a worker process cannot be started."""
    code = getattr(error, "errno", None)
    text = f"{type(error).__name__}: {error}"
    if code is None:  # an error of the fork server, which reports it as text
        code = next((each for each in HINT_BY_ERRNO if f"[Errno {each}]" in text), None)
    return WorkerError(
        f"a worker process cannot be started: {text}",
        hint=HINT_BY_ERRNO.get(code or 0, DEFAULT_HINT),
    )


def system_limit_error(error: BaseException) -> HundredfoldError | None:
    """Return the error to report when this process met a limit of the system; None for other
    errors.
    """
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        code = errno.EAGAIN
    if code not in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        return None
    return HundredfoldError(f"a limit of the system was reached: {error}", hint=HINT_BY_ERRNO[code])


def open_memory_file() -> IO[bytes]:
    """Open a file without a name, in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("hundredfold"), "w+b")
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
    return tempfile.TemporaryFile()  # the caller closes it


def map_progress(descriptor: int, count: int) -> Any:
    """Map the integers at the start of a file, which all processes that map it share."""
    return (ctypes.c_longlong * count).from_buffer(mmap.mmap(descriptor, SETTINGS_OFFSET_BYTES))


def run_forked(
    channel_socket: socket.socket, descriptor: int, job: int, entry: Entry, settings: Settings
) -> None:
    """Run a worker that was forked by the fork server."""
    progress = map_progress(descriptor, 3)
    with contextlib.closing(mmap.mmap(job, 0, access=mmap.ACCESS_READ)) as content:
        packed = content[:]
    for each in (descriptor, job):
        os.close(each)
    entry(channel_socket, progress, packed, settings)


def run_spawned(
    channel_socket: socket.socket,
    control: socket.socket,
    progress: Any,
    job: bytes,
    entry: Entry,
    settings: Settings,
) -> None:
    """Run a worker that was spawned as a fresh interpreter."""
    if hasattr(os, "fork"):
        supervise(control, None, lambda: entry(channel_socket, progress, job, settings))
    threading.Thread(target=_exit_with_driver, args=(control,), daemon=True).start()
    report(control, f"pid {os.getpid()}")
    entry(channel_socket, progress, job, settings)


def _exit_with_driver(control: socket.socket) -> None:
    with contextlib.suppress(OSError):
        control.recv(1)
    os._exit(0)
