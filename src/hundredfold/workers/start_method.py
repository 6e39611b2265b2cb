"""The start method of worker processes: the choice of it, the connection to the fork server, and
the environment of a start.

This module is light to import: a command calls `prestart_forkserver` before anything else.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from multiprocessing import spawn

from ..errors import WorkerError

THREAD_ENV = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "BLIS_NUM_THREADS",
        "POLARS_MAX_THREADS",
        "NUMBA_NUM_THREADS",
    ),
    "1",
)
# With a fixed hash seed, the iteration order of a set is the same in every worker and every run.
# Arrow's own allocator, which its kernels use even if Python has set another pool, would reserve
# 128 MiB and more of a worker's memory limit.
WORKER_ENV = {**THREAD_ENV, "PYTHONHASHSEED": "0", "ARROW_DEFAULT_MEMORY_POOL": "system"}
# imported once for all workers; the user's own modules may not survive a fork
PRELOADED_MODULES = [
    "hundredfold.workers.thread_limits",
    "hundredfold.workers.unit_runner",
    "pyarrow.compute",
]
# a start hides and sets state of the whole process (see launch_environment)
_launch_lock = threading.Lock()
_server_lock = threading.Lock()
_control: socket.socket | None = None  # this process's connection to its fork server
_server = 0  # its process id


def start_method() -> str:
    """Return the start method: HUNDREDFOLD_START, or "forkserver" if available, or "spawn"."""
    # a fork of the driver would copy the locks that its threads hold
    available = [method for method in mp.get_all_start_methods() if method != "fork"]
    wanted = os.environ.get("HUNDREDFOLD_START") or (
        "forkserver" if "forkserver" in available else "spawn"
    )
    if wanted not in available:
        raise WorkerError(f"HUNDREDFOLD_START is {wanted!r}, wanted {' or '.join(available)}")
    return wanted


def prestart_forkserver() -> None:
    """Start the fork server in the background, so that its imports overlap with the caller's."""
    if start_method() == "forkserver":
        with contextlib.suppress(RuntimeError):
            # no thread can be started: the start of the workers meets that again, and reports it
            threading.Thread(target=_start_if_needed, daemon=True).start()


def _start_if_needed() -> None:
    with contextlib.suppress(OSError, WorkerError):
        request_fork(())


def request_fork(descriptors: Sequence[int]) -> None:
    """Request a supervisor from this process's fork server, and pass it the descriptors.

    The server is started if there is none.

    Raises:
        OSError: the server cannot be started, or was killed just now.
    """
    global _control
    with _server_lock:
        if _control is None or _server_ended():
            _close_server()
            _control = _start_server()
        if descriptors:
            try:
                socket.send_fds(_control, [b"+"], descriptors)
            except OSError:
                _close_server()
                raise


def _start_server() -> socket.socket:
    """Start a fork server; return our end of its socket.

    Not by subprocess: its object would warn at the end of this process that a child is still
    running. The server's end is its standard input, so that no other process that is started at
    this moment inherits it.
    """
    global _server
    executable = os.fsdecode(spawn.get_executable() or "")
    path = [entry for entry in sys.path if isinstance(entry, str)]
    command = (
        f"import sys; sys.path[:] = {path!r}; from hundredfold.workers.forkserver import main;"
        f" main({os.getpid()}, {PRELOADED_MODULES!r})"
    )
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    arguments = [executable, *flags, "-c", command]
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        try:
            _server = os.posix_spawn(
                executable,
                arguments,
                {**os.environ, **WORKER_ENV},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                setsigmask=[signal.SIGINT],  # until the server ignores it
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, FileNotFoundError | PermissionError):
                error.filename = error.filename or executable
            raise
    return ours


def _server_ended() -> bool:
    """Return whether the fork server has ended.

    It sends nothing, so its socket is readable only when it is closed.
    """
    assert _control is not None
    try:
        return not _control.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _close_server() -> None:
    global _control, _server
    if _control is not None:
        _control.close()
    if _server:
        with contextlib.suppress(OSError):
            # the caller may have waited for it, or ignores its children
            os.waitpid(_server, os.WNOHANG)
    _control, _server = None, 0


def _forget_server() -> None:
    """Forget the parent's fork server in a forked process.

    A thread that exists only in the parent may hold the lock.
    """
    global _control, _server, _server_lock, _launch_lock
    _server_lock, _launch_lock = threading.Lock(), threading.Lock()
    if _control is not None:
        _control.close()
    _control, _server = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_server)


@contextlib.contextmanager
def launch_environment() -> Iterator[None]:
    """Set the state that a process start requires, and restore it afterwards."""
    with (
        _launch_lock,
        _worker_env() if start_method() == "spawn" else contextlib.nullcontext(),
        _hidden_main(),
    ):
        yield


def block_interrupts() -> None:
    """Block Ctrl-C in every process that this thread starts from now on."""
    with contextlib.suppress(ImportError, AttributeError):  # not on Windows
        from multiprocessing.resource_tracker import ensure_running

        ensure_running()  # first: once started, the tracker unblocks the signal again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _worker_env() -> Iterator[None]:
    """Set the workers' variables in this process, for the time of a start.

    A spawned worker's libraries read them before any of our code runs.
    """
    before = {name: os.environ.get(name) for name in WORKER_ENV}
    os.environ.update(WORKER_ENV)
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
    """Hide the caller's __main__ from the workers, so that a script needs no main guard.

    They do not need it, since its functions are pickled by value.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
