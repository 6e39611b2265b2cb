"""How child processes are started, and what surrounds them while they start.  Light to import: a command calls `warm` first of all."""

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
# a set that a function goes through has one order in every worker and in every run; and Arrow's own allocator, which its kernels
# use whatever pool Python has set, would reserve 128 MiB and more of a worker's limit of memory
ENVIRONMENT = {**THREAD_ENV, "PYTHONHASHSEED": "0", "ARROW_DEFAULT_MEMORY_POOL": "system"}
# imported once for all children; the user's own modules may not survive a fork
PRELOADED = ["hundredfold.workers.thread_limits", "hundredfold.workers.child", "pyarrow.compute"]
_launching = (
    threading.Lock()
)  # what is hidden and pinned while a process starts belongs to the whole of this one
_server_lock = threading.Lock()
_control: socket.socket | None = None  # this process's line to its fork server
_server = 0  # its pid


def start_method() -> str:
    """How children are started: by a server that forks clean ones where there is one, else afresh, or as HUNDREDFOLD_START says."""
    # a fork of the driver would take its threads' locks along
    there = [method for method in mp.get_all_start_methods() if method != "fork"]
    wanted = os.environ.get("HUNDREDFOLD_START") or (
        "forkserver" if "forkserver" in there else "spawn"
    )
    if wanted not in there:
        raise WorkerError(f"HUNDREDFOLD_START is {wanted!r}, wanted {' or '.join(there)}")
    return wanted


def prestart_forkserver() -> None:
    """Let the fork server start now and import what workers need, while the caller still imports what it needs."""
    if start_method() == "forkserver":
        with contextlib.suppress(
            RuntimeError
        ):  # no thread can be started: it is met again, and reported
            threading.Thread(target=_warm, daemon=True).start()


def _warm() -> None:
    with contextlib.suppress(OSError, WorkerError):
        request_fork(())


def request_fork(descriptors: Sequence[int]) -> None:
    """Ask this process's fork server, which is started if there is none, to fork a supervisor that is given the descriptors.

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
    """Start a fork server; our end of its socket.

    Not by subprocess: its object would warn at the end of this process that a child is still there. The server's own end is
    its standard input, so that no other process that is started in this moment inherits it.
    """
    global _server
    executable = os.fsdecode(spawn.get_executable() or "")
    path = [entry for entry in sys.path if isinstance(entry, str)]
    command = f"import sys; sys.path[:] = {path!r}; from hundredfold.workers.forkserver import main; main({os.getpid()}, {PRELOADED!r})"
    arguments = [executable, *subprocess._args_from_interpreter_flags(), "-c", command]  # type: ignore[attr-defined]
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        try:
            _server = os.posix_spawn(
                executable,
                arguments,
                {**os.environ, **ENVIRONMENT},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                setsigmask=[signal.SIGINT],  # until it ignores it
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, FileNotFoundError | PermissionError):
                error.filename = error.filename or executable
            raise
    return ours


def _server_ended() -> bool:
    """Whether the fork server has ended. It says nothing, so its socket is only readable when it is closed."""
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
        with contextlib.suppress(
            OSError
        ):  # the caller may have waited for it, or ignores its children
            os.waitpid(_server, os.WNOHANG)
    _control, _server = None, 0


def _forget_server() -> None:
    """In a forked process: the server is its parent's, and the lock may be held by a thread that is not here."""
    global _control, _server, _server_lock, _launching
    _server_lock, _launching = threading.Lock(), threading.Lock()
    if _control is not None:
        _control.close()
    _control, _server = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_server)


@contextlib.contextmanager
def child_environment() -> Iterator[None]:
    """What holds while a process is started."""
    with (
        _launching,
        _pinned_environment() if start_method() == "spawn" else contextlib.nullcontext(),
        _hidden_main(),
    ):
        yield


def out_of_reach() -> None:
    """What this thread starts from now on, Ctrl-C must not reach."""
    with contextlib.suppress(ImportError, AttributeError):  # Windows has none
        from multiprocessing.resource_tracker import ensure_running

        ensure_running()  # first: when it has started, it lets the signal through again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _pinned_environment() -> Iterator[None]:
    """The pins in this process's own environment: a spawned child reads its libraries' settings before any code of ours."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
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
