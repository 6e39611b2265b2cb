"""How a worker process is started, and the driver's hold on it: the same whether it is forked or spawned.

`forkserver`: this process's own fork server forks a supervisor, which forks the worker.
`spawn`: a fresh interpreter is the supervisor, which forks the worker; on Windows it is the worker itself.
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
from .forkserver import SETTINGS_AT
from .isolation import LOST_SUPERVISOR
from .start import ENVIRONMENT, child_environment, request_fork, start_method
from .supervisor import kill, report, supervise

START_S = 120.0  # seconds for a worker to be forked: the fork server may still import what it needs
END_S = 15.0  # seconds for a worker to end that was asked to
HINTS = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower --workers",
    errno.ENFILE: "too many files are open on this machine: close some programs, or lower --workers",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, or the container's pids limit), or lower --workers",
    errno.ENOMEM: "the machine is out of memory: lower --workers, or free some",
    errno.ENOENT: "is the Python that runs this (sys.executable) still installed?",
    errno.ENOSPC: "free some space on the disk of temporary files, or name another with TMPDIR",
}
HINT = "lower --workers, or raise the system's limits of processes and open files"

Entry = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds in a worker: as it is in the driver in the moment of its start, since the fork server may be older."""

    token: bytes
    environment: dict[str, str]
    path: tuple[str, ...]
    argv: tuple[str, ...]
    folder: str | None
    log: str | None
    memory: int | None

    def apply(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[:] = self.path
        sys.argv[:] = self.argv
        if self.folder is not None:
            with contextlib.suppress(OSError):  # it was removed meanwhile
                os.chdir(self.folder)


def settings_for(log: Path | None, memory: int | None) -> Settings:
    """The settings of a worker that starts now."""
    try:
        folder = str(Path.cwd())
    except OSError:  # it was removed
        folder = None
    path = tuple(
        (folder or entry) if entry == "" else entry for entry in sys.path if isinstance(entry, str)
    )
    return Settings(
        secrets.token_bytes(TOKEN_BYTES),
        {**os.environ, **ENVIRONMENT},
        path,
        tuple(map(str, getattr(sys, "argv", [""]))),
        folder,
        str(log) if log else None,
        memory,
    )


class Worker:
    """A started worker, as its driver holds it."""

    def __init__(self, leash: socket.socket, process: Any = None) -> None:
        self.pid = 0
        self._exitcode: int | None = None
        self._gone = False
        self._text = b""
        self._failure = ""
        self._leash, self._process = leash, process
        leash.setblocking(False)

    def fileno(self) -> int:
        """Readable when the worker has ended."""
        return self._leash.fileno()

    @property
    def exitcode(self) -> int | None:
        self._read()
        return self._exitcode

    def is_alive(self) -> bool:
        return self.exitcode is None

    def started(self) -> None:
        """Wait until it has begun; OSError if it cannot."""
        until = time.monotonic() + START_S
        while not self.pid:
            self._read()
            if self._failure:
                raise OSError(self._failure)
            if self._gone and not self.pid:
                raise EOFError("the process that starts workers has ended")
            if time.monotonic() > until:
                raise OSError(f"no worker was forked in {START_S:.0f} s")
            if not self.pid:
                self._wait(1.0)

    def kill(self) -> None:
        """Ask for the end of the worker, and of all that it has started."""
        with contextlib.suppress(OSError):
            self._leash.send(b"-")
        if self._process is not None and not hasattr(os, "fork"):
            with contextlib.suppress(psutil.Error, OSError):
                kill(psutil.Process(self._process.pid).children(recursive=True))
            self._process.kill()

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself before so many seconds have passed."""
        until = time.monotonic() + seconds
        while self.is_alive() and (left := until - time.monotonic()) > 0:
            self._wait(left)
        return not self.is_alive()

    def join(self, seconds: float = END_S) -> None:
        """Wait until it has ended, with all that it has started; not longer than `seconds`."""
        until = time.monotonic() + seconds
        self._read()
        while not self._gone and (left := until - time.monotonic()) > 0:
            self._wait(left)
            self._read()

    def close(self) -> None:
        self._leash.close()
        if self._process is not None:
            self._process.join(END_S)
            with contextlib.suppress(ValueError):  # it is still there
                self._process.close()

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(OSError, ValueError):
            if hasattr(select, "poll"):
                poll = select.poll()
                poll.register(self._leash, select.POLLIN)
                poll.poll(1000 * seconds)
            else:
                select.select([self._leash], [], [], seconds)

    def _read(self) -> None:
        while not self._gone:
            try:
                text = self._leash.recv(4096)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                text = b""
            self._text += text
            *lines, self._text = self._text.split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace"))
            if not text:
                self._gone = True
                if self._exitcode is None:
                    self._exitcode = self._own_exitcode()

    def _take(self, line: str) -> None:
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
            self._process.join(END_S)
            if self._process.exitcode is not None:
                return int(self._process.exitcode)
        return LOST_SUPERVISOR


class Launcher:
    """Starts workers that call `entry(socket, marks, job, settings)`; `job` is the same for all."""

    def __init__(self, entry: Entry, job: bytes, marks: Sequence[int]) -> None:
        self._entry, self._job, self._marks = entry, job, tuple(marks)
        self._method = start_method()
        self._job_file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def start(self, settings: Settings) -> tuple[Worker, DriverChannel, Any]:
        """A worker, the channel to it, and the marks that both see.

        Raises:
            OSError, EOFError, MemoryError: it cannot be started now.
            WorkerError: it can never be started.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            pipe, their_pipe = socket.socketpair()
            ours.callback(pipe.close)
            theirs.callback(their_pipe.close)
            leash, their_leash = socket.socketpair()
            ours.callback(leash.close)
            theirs.callback(their_leash.close)
            start = self._spawn if self._method == "spawn" else self._fork
            process, marks = start(their_pipe, their_leash, settings)
            theirs.close()
            worker = Worker(leash, process)
            worker.started()
            ours.pop_all()
        return worker, DriverChannel(pipe, settings.token), marks

    def close(self) -> None:
        with self._lock:
            if self._job_file is not None:
                self._job_file.close()
            self._job_file = None

    def _fork(
        self, pipe: socket.socket, leash: socket.socket, settings: Settings
    ) -> tuple[Any, Any]:
        with self._lock:
            if self._job_file is None:
                self._job_file = memory_file()
                self._job_file.write(self._job)
                self._job_file.flush()
            job = self._job_file.fileno()
        with memory_file() as file:
            file.truncate(SETTINGS_AT)
            file.seek(SETTINGS_AT)
            file.write(pickle.dumps((forked, (self._entry, settings))))
            file.flush()
            marks = mapped_marks(file.fileno(), len(self._marks))
            marks[:] = self._marks
            request_fork((leash.fileno(), pipe.fileno(), file.fileno(), job))
        return None, marks

    def _spawn(
        self, pipe: socket.socket, leash: socket.socket, settings: Settings
    ) -> tuple[Any, Any]:
        if mp.current_process().daemon:
            raise WorkerError(
                "workers cannot be started from a daemonic process (as those of a multiprocessing"
                " Pool are): such a process may have no children",
                hint="run it as a process of its own with `hundredfold run`, or from a concurrent.futures.ProcessPoolExecutor",
            )
        context = mp.get_context("spawn")
        marks = context.RawArray("q", self._marks)
        arguments = (pipe, leash, marks, self._job, self._entry, settings)
        with child_environment():
            process = context.Process(target=spawned, args=arguments, daemon=True)
            process.start()
        return process, marks


def cannot_start(error: BaseException) -> WorkerError:
    """The error for a person."""
    code = getattr(error, "errno", None)
    words = f"{type(error).__name__}: {error}"
    if code is None:  # the fork server's, as it was written
        code = next((each for each in HINTS if f"[Errno {each}]" in words), None)
    return WorkerError(
        f"a worker process cannot be started: {words}", hint=HINTS.get(code or 0, HINT)
    )


def shortage(error: BaseException) -> HundredfoldError | None:
    """The error for a person where a process met a limit of the system; None where it was something else."""
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        code = errno.EAGAIN
    if code not in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        return None
    return HundredfoldError(f"a limit of the system was met: {error}", hint=HINTS[code])


def memory_file() -> IO[bytes]:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("hundredfold"), "w+b")
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
    return tempfile.TemporaryFile()  # the caller closes it


def mapped_marks(descriptor: int, count: int) -> Any:
    """The first words of a file's first page, shared by all who map it."""
    return (ctypes.c_longlong * count).from_buffer(mmap.mmap(descriptor, SETTINGS_AT))


def forked(
    pipe: socket.socket, descriptor: int, job: int, entry: Entry, settings: Settings
) -> None:
    """What a forked worker does first."""
    marks = mapped_marks(descriptor, 3)
    with contextlib.closing(mmap.mmap(job, 0, access=mmap.ACCESS_READ)) as content:
        packed = content[:]
    for each in (descriptor, job):
        os.close(each)
    entry(pipe, marks, packed, settings)


def spawned(
    pipe: socket.socket,
    leash: socket.socket,
    marks: Any,
    job: bytes,
    entry: Entry,
    settings: Settings,
) -> None:
    """What a fresh interpreter does."""
    if hasattr(os, "fork"):
        supervise(leash, None, lambda: entry(pipe, marks, job, settings))
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    report(leash, f"pid {os.getpid()}")
    entry(pipe, marks, job, settings)


def _end_with(leash: socket.socket) -> None:
    with contextlib.suppress(OSError):
        leash.recv(1)
    os._exit(0)
